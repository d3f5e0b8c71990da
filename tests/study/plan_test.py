"""Every key of a config redoes exactly the tasks that read it."""
import numpy as np
import pytest

from configs import common
from jaxaug.augment import standard
from jaxaug.core import errors, files, registry
from jaxaug.study import arms, plan, results, schema
from jaxaug.study.stages import classify
from jaxaug.training import classifier, fit
from tests import conftest

GENERATED = {'generate', 'pool', 'audit', 'quality', 'classify', 'results'}
DRAWN = GENERATED - {'generate'}
JUDGED = {'judge', 'audit', 'results'}
RUNS = {'classify', 'results'}
ALL = {'data', 'judge'} | GENERATED
# Key, or its beginning -> the stages of which some task is redone.
READERS = {
    'name': {'results'}, 'seed': ALL, 'runs': RUNS, 'metric': {'results'},
    'minority': {'results'}, 'baseline': {'results'}, 'alpha': {'results'},
    'budget': RUNS, 'log_every': GENERATED | JUDGED, 'save_every': {'results'},
    'sample_every': {'results'}, 'eval_every': JUDGED | RUNS,
    'runs_at_once': {'results'}, 'steps_per_call': {'results'},
    'published': {'results'}, 'audit': {'results'},
    'data': ALL, 'data.allow_overlap': {'data', 'results'},
    'data.allow_contradictions': {'data', 'results'},
    'data.memory': {'data', 'results'},
    'evaluation.extractor': GENERATED, 'evaluation.weights': None,
    'evaluation.batch_size': {'results'},
    'evaluation.metrics': {'quality', 'results'},
    'curve': GENERATED, 'collapse': GENERATED,
    'augmentations': JUDGED | RUNS, 'generators': GENERATED, 'pools': DRAWN,
    'selectors': DRAWN,
    'classifiers': RUNS, 'judge': JUDGED, 'arms': RUNS,
    # Names of things, and what they are compared with.
    'arms.name': RUNS, 'arms.baseline': {'results'},
}
# Other values of keys where any will not do; None: none is tried, as said.
OTHERS = {
    'metric': 'mse', 'minority': ('class_1',), 'baseline': 'add',
    'budget': 'epochs', 'runs_at_once': 'yes', 'alpha': 0.1,
    'published': (common.published('cnn', 'real', 0.1, source='a paper',
                                   difference='its data'),),
    'data.source': None,  # Another source has other classes: all is new.
    'data.classes': 'class_0,class_1', 'data.imbalance': ('exponential', 2),
    'data.resize': 12, 'data.crop': 6, 'data.per_class': 12,
    'data.fraction': None,  # Excludes per_class.
    'data.alpha': None,  # Of files.
    'data.test_fraction': None,
    'data.folds': None, 'data.fold': None,  # See arms_test.
    'evaluation.extractor': 'scattering', 'evaluation.metrics': ('fid', 'kid'),
    'evaluation.weights': None,  # By the digest of the file: extractors_test.
    'curve.metric': 'kid', 'weights': None, 'model': None, 'generator': None,
    'pool': None, 'augment': 'other', 'selectors.selector': None,
    'selectors.classes': ('class_0',), 'selectors.extractor': 'scattering',
    'selectors.weights': None, 'arms.classes': None, 'representatives': None,
    'pools.selectors': ('near', 'quota'), 'pools.draw': {'truncation': 0.5},
    'mix': 'mixup', 'partner': None, 'oversample': 40, 'arms.name': 'renamed',
    'per_class': 120, 'loss': 'non_saturating', 'optimizer': 'sgd',
    'schedule': 'constant', 'noise': 'uniform', 'balance': 'behind',
    'statistics': 'batch', 'diff_augment': 'color', 'ada': 'b',
    'conditioning': 'projection', 'g_norm': 'batch', 'dtype': 'bfloat16',
    'padding': 'edge', 'consistency': None, 'consistency_on_fakes': None,
    'label_smoothing': None, 'momentum': None, 'epochs': None,
    'milestones': (0.25,), 'pool_size': None,
}


def config() -> dict:
  """A study with one of everything, every argument written out."""
  made = common.base()
  made.name, made.runs = 'plan', 2
  made.data.source, made.data.per_class = 'fake', 15
  made.data.imbalance = ('exponential', 3)
  made.evaluation.extractor, made.evaluation.metrics = 'pixels', ('fid',)
  made.augmentations.standard = dict(flip=0.5, shift=1)
  made.augmentations.other = dict(flip=0.25)
  made.generators.cgan = common.generator('cgan', steps=4, batch_size=8,
                                          g_widths=(8, 8), d_widths=(8, 8))
  made.selectors.near = common.selector('k_center', share=0.9)
  made.pools.cgan = common.pool('cgan', selectors=('near',))
  made.classifiers.cnn = common.classifier('cnn', steps=4, batch_size=8,
                                           widths=(4, 8), optimizer='adam')
  made.judge.augment, made.judge.batch_size = 'standard', 8
  made.judge.steps = 4
  made.arms = (common.arm('real'), common.arm('add', pool='cgan', add=1.0),
               common.arm('standard', augment='standard'),
               common.arm('again', oversample='max'))
  out = made.to_dict()
  for block, *builds in (
      (out['generators']['cgan'], registry.find('generators', 'cgan').build),
      (out['selectors']['near'], registry.find('selectors', 'k_center').build),
      *((block, registry.find('classifiers', 'cnn').build, classifier.make)
        for block in (out['classifiers']['cnn'], out['judge'])),
      *((block, standard.make) for block in out['augmentations'].values())):
    for build in builds:
      for key, default in registry.arguments(build).items():
        block.setdefault(key, default)
  out['arms'] = tuple(arms.Arm(**arm)._asdict() for arm in out['arms'])
  return out


def leaves(node, path=()):
  """Yields the path of every value of the config."""
  if isinstance(node, dict) and node:
    for key, value in node.items():
      yield from leaves(value, (*path, key))
  elif path and path[-1] == 'arms':
    for i, arm in enumerate(node):
      yield from leaves(arm, (*path, i))
  else:
    yield path


def words(path) -> str:
  """A path without the names that a study gives, such as 'arms.mix'."""
  named = path[0] in ('augmentations', 'selectors', 'generators', 'pools',
                      'classifiers', 'arms')
  return '.'.join([path[0], *path[2:]] if named else path)


def other(path, value):
  """Returns another value for a key; None for none to try."""
  name = words(path)
  if path[0] == 'arms':
    if value in (None, False) or value == 'real':
      return None  # One choice of images excludes others; all stand on 'real'.
    if path[-1] == 'baseline':
      return 'standard' if path[1] != 2 else 'add'
  for key in (name, path[-1]):
    if key in OTHERS:
      return OTHERS[key]
  if isinstance(value, bool):
    return not value
  if isinstance(value, int):
    return value + 1
  if isinstance(value, float):
    return value / 2 or 0.25
  if isinstance(value, tuple) and value:
    return tuple(2 * x for x in value)
  if path[0] == 'name':
    return 'another'
  return None  # A placeholder that this source or block does not take.


def readers(path) -> set[str]:
  """Returns what READERS says of the longest beginning that it has."""
  name = words(path)
  while name not in READERS:
    assert '.' in name, f'{".".join(map(str, path))}: who reads it?'
    name = name.rpartition('.')[0]
  return READERS[name]


def changed(config, path, value) -> dict:
  """Returns a copy with one other value."""
  def walk(node, path):
    if not path:
      return value
    first, *rest = path
    if isinstance(node, tuple):
      return (*node[:first], walk(node[first], rest), *node[first + 1:])
    return node | {first: walk(node[first], rest)}
  return walk(config, path)


def folders(config, workdir) -> dict[str, set]:
  """Returns stage -> the folders of its tasks, and of the results."""
  schema.check(config)
  study = plan.open_study(config, workdir)
  out = {'results': {results.folder(study).final.name}}
  for task in study.all_tasks():
    out.setdefault(task.stage, set()).add(task.key)
  return out


CONFIG = config()
PATHS = list(leaves(CONFIG))


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return tmp_path_factory.mktemp('plan')


@pytest.fixture(scope='module')
def before(workdir):
  return folders(CONFIG, workdir)


def value_at(path):
  node = CONFIG
  for part in path:
    node = node[part]
  return node


TRIED = [(path, other(path, value_at(path))) for path in PATHS]
TRIED = [(path, value) for path, value in TRIED if value is not None]


def own_runs(path) -> set[str] | None:
  """Returns the arms that a key is about; None for one that is about more."""
  if path[0] == 'arms':
    return {CONFIG['arms'][path[1]]['name']}
  if path[0] == 'augmentations' and path[1] == 'standard':
    return {arm['name'] for arm in CONFIG['arms'] if arm['augment'] == path[1]}
  return set() if path[0] == 'augmentations' else None


@pytest.mark.parametrize('path, value', TRIED, ids=[
    '.'.join(map(str, path)) for path, _ in TRIED])
def test_a_key_redoes_what_reads_it(before, workdir, path, value):
  assert value != value_at(path)
  after = folders(changed(CONFIG, path, value), workdir)
  redone = {stage for stage in before if before[stage] != after[stage]}
  arms_redone = {key.split('.')[1] for key in before['classify'] -
                 after['classify']}
  about = own_runs(path)
  if about is None:
    assert redone == readers(path)
    return
  without = path[-1] == 'baseline'
  assert arms_redone == (set() if without else about), path
  judged = path[:2] == ('augmentations', 'standard')
  assert redone == {'results'} | ({'classify'} if arms_redone else set()) | (
      JUDGED if judged else set())


def replaced(study, **fields):
  """Returns a study and its fold with a part changed, nothing done anew."""
  fold = study.folds[0]
  if 'digest' in fields:
    report = fold.splits.report
    report = report | {'digests': report['digests'] | {
        fields.pop('digest'): 'another'}}
    fold = fold._replace(splits=fold.splits._replace(report=report))
  if 'sizes' in fields:
    fold = fold._replace(pool_sizes=fields.pop('sizes'))
  return study._replace(**fields), fold


SPLITS = {'generate': {'train', 'validation'}, 'pool': {'train'},
          'judge': {'train', 'validation', 'test', 'unused'},
          'audit': {'train', 'validation', 'test'},
          'quality': {'train', 'test'},
          'classify': {'train', 'validation', 'test'}}
PURPOSES = {'generate': {'generator'}, 'pool': {'pool', 'selector'},
            'audit': set(),
            'judge': {'judge', 'classifier'}, 'quality': {'fit'},
            'classify': {'classifier', 'batches'}}


@pytest.fixture(scope='module')
def opened(workdir):
  given = changed(CONFIG, ('evaluation', 'metrics'), ('fid', 'cas'))
  return plan.open_study(given, workdir)


@pytest.mark.parametrize('stage', SPLITS)
def test_each_part_moves_a_stage_though_nothing_before_it_moves(
    opened, stage, monkeypatch):
  """Versions, contents of splits, seeds, the spec, what the pool must hold."""
  module, made = plan.STAGES[stage], opened.tasks[0]
  def keys(study, fold):
    return [task.key for task in module.tasks(study, fold, made)]
  now = keys(opened, opened.folds[0])
  assert now == [task.key for task in made[stage].values()]
  def moves(**fields):
    after = keys(*replaced(opened, **fields))
    moved = [a != b for a, b in zip(now, after, strict=True)]
    assert all(moved) or not any(moved)
    return all(moved)
  for split in ('train', 'validation', 'test', 'unused'):
    assert moves(digest=split) == (split in SPLITS[stage]), split
  assert moves(sizes={'cgan': np.array([111, 100, 100])}) == (stage == 'pool')
  spec = opened.spec._replace(channels=3)
  assert moves(spec=spec) == (stage in ('generate', 'judge', 'classify'))
  seed = type(opened).seed
  for purpose in ('generator', 'pool', 'judge', 'classifier', 'batches', 'fit',
                  'selector'):
    with monkeypatch.context() as patch:
      patch.setattr(type(opened), 'seed', lambda self, *of, purpose=purpose: (
          seed(self, *of) + (of[0] == purpose)))
      assert moves() == (purpose in PURPOSES[stage]), purpose
  with monkeypatch.context() as patch:
    patch.setattr(module, 'VERSION', 99)
    assert moves()


def test_each_task_of_before_moves_what_reads_it(opened):
  made = opened.tasks[0]
  reads = {'pool': {'generate'}, 'audit': {'pool', 'judge'},
           'quality': {'pool'}, 'classify': {'pool'}}
  for stage, module in plan.STAGES.items():
    now = [task.key for task in made[stage].values()]
    for other in plan.STAGES:
      moved = {name: task._replace(folder=files.folder('/x', 'moved'))
               for name, task in made[other].items()}
      after = [task.key for task in module.tasks(
          opened, opened.folds[0], made | {other: moved})]
      assert (now != after) == (other in reads.get(stage, ())), (stage, other)
    needs = {need.stage for task in made[stage].values() for need in task.needs}
    assert needs >= reads.get(stage, set()), stage
  place = results.folder(opened)
  for i, tasks in enumerate(filter(None, made.values())):
    task = next(iter(tasks.values()))._replace(
        folder=files.folder('/x', f'moved-{i}'))
    other = opened._replace(tasks=(made | {task.stage: {task.name: task}},))
    assert results.folder(other) != place


class Recording(dict):
  """A part of a config that notes the path of every value that is read."""

  def __init__(self, values, seen, path=()):
    super().__init__({
        key: Recording(value, seen, (*path, key)) if isinstance(value, dict)
        else value for key, value in values.items()})
    self.seen, self.path = seen, path

  def __getitem__(self, key):
    value = super().__getitem__(key)
    if not isinstance(value, dict):
      self.seen.add((*self.path, key))
    return value

  def get(self, key, default=None):
    return self[key] if key in self else default

  def __iter__(self):  # So that ** reads by the above.
    return super().__iter__()


@pytest.mark.usefixtures('compiled_quickly')
def test_work_reads_no_key_but_those_that_redo_it(tmp_path):
  seen = set()
  given = changed(changed(CONFIG, ('runs',), 1), ('curve', 'every'), 2)
  study = plan.open_study(Recording(given, seen), tmp_path)
  for stage, tasks in study.tasks[0].items():
    for task in tasks.values():
      if not task.done:
        seen.clear()
        task.work()
        # The extractor, whose identity is in keys, weights by their digest.
        seen -= {('evaluation', 'weights'), ('evaluation', 'batch_size')}
        assert all(stage in readers(path) for path in seen), (stage, seen)
    assert seen or stage in ('data', 'audit', 'quality')


def test_nearly_every_key_is_tried():
  assert len(TRIED) > 0.6 * len(PATHS) > 60
  for path in PATHS:
    assert readers(path) or path[-1] == 'weights'


def test_an_arm_redoes_its_own_runs_only(before, workdir):
  after = folders(changed(CONFIG, ('arms', 2, 'augment'), 'other'), workdir)
  new = {key.rpartition('-')[0] for key in after['classify'] - before[
      'classify']}
  assert new == {'cnn.standard.0', 'cnn.standard.1'}


def test_a_changed_judge_redoes_the_classifiers_that_a_metric_trains(workdir):
  """CAS trains the judge's network for the judge's steps."""
  given = changed(CONFIG, ('evaluation', 'metrics'), ('fid', 'cas'))
  before = folders(given, workdir)
  for key, value in (('steps', 7), ('batch_size', 9), ('hidden', 5)):
    after = folders(changed(given, ('judge', key), value), workdir)
    assert before['quality'] != after['quality'], key
  after = folders(changed(given, ('judge', 'augment'), 'other'), workdir)
  assert before['quality'] == after['quality']  # CAS augments nothing.
  assert before['judge'] != after['judge']


def test_a_changed_file_of_weights_redoes_what_starts_from_it(workdir,
                                                              tmp_path):
  """Also the classifiers that CAS trains; the file's content is not read."""
  file = tmp_path / 'w.npz'
  given = changed(CONFIG, ('evaluation', 'metrics'), ('fid', 'cas'))
  found = []
  for content in (b'one', b'another'):
    file.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(fit, 'build', lambda net: None)
      block = given['judge'] | {'model': 'resnet', 'depth': 20,
                                'weights': str(file)}
      for key in ('widths', 'hidden', 'dropout', 'kernel'):
        block.pop(key, None)
      study = plan.open_study(given | {'judge': block}, workdir)
    found.append({stage: set(tasks) and {t.key for t in tasks.values()}
                  for stage, tasks in study.tasks[0].items()})
  redone = {stage for stage in found[0] if found[0][stage] != found[1][stage]}
  assert redone == {'judge', 'audit', 'quality'}


# ------------------------------------------------------- models of one image
ONE_IMAGE = {
    'representatives': {'represent'},
    'selectors.kept.count': {'represent', 'generate', 'pool'},
    'selectors.kept.starts': {'represent', 'generate', 'pool'},
    'selectors.kept.classes': {'represent', 'generate', 'pool'},
    'generators.singan.width': {'generate', 'pool'},
    'pools.singan.draw': {'pool'}, 'log_every': {'generate', 'pool'}}


def one_image(**more) -> dict:
  """A study of a model of one image each, of 12x12 pixels."""
  made = changed(CONFIG, ('data', 'resize'), 12)
  built = registry.find('generators', 'singan').build
  kept = common.selector('kmeans', classes=('class_0', 'class_2'), count=2,
                         starts=3, normalize=False).to_dict()
  singan = registry.arguments(built) | common.generator(
      'singan', steps=6, representatives='kept', min_size=12, width=4).to_dict()
  only = {'replace': None, 'pool': 'singan', 'fill': 'max', 'add': None,
          'classes': ('class_0', 'class_2')}
  return made | {
      'selectors': {'kept': kept}, 'generators': {'singan': singan},
      'pools': {'singan': common.pool('singan').to_dict()},
      'arms': (made['arms'][0], made['arms'][1] | only)} | more


@pytest.mark.parametrize('key', [key for key in ONE_IMAGE if '.' in key])
def test_models_of_one_image_are_redone_by_what_they_read(tmp_path_factory,
                                                          key):
  workdir = tmp_path_factory.getbasetemp() / 'one_image'
  path = tuple(key.split('.'))
  values = {'count': 1, 'starts': 4, 'classes': ('class_0', 'class_1'),
            'width': 5, 'draw': {'start': 1}}
  given = one_image()
  other = changed(given, path, values[path[-1]])
  if path[-1] == 'classes':
    other = changed(other, ('arms', 1, 'classes'), values['classes'])
  before, after = (folders(each, workdir) for each in (given, other))
  redone = {stage for stage in before if before[stage] != after[stage]}
  assert redone & {'represent', 'generate', 'pool'} == ONE_IMAGE[key]


def test_each_representative_is_a_task(workdir):
  study = plan.open_study(one_image(), workdir)
  made, = study.tasks
  assert list(made['represent']) == ['kept']
  assert list(made['generate']) == [f'singan.{i}' for i in range(4)]
  assert len({task.key for task in made['generate'].values()}) == 4
  assert study.folds[0].pool_sizes['singan'].tolist() == [100, 0, 100]
  needs = {task.name for task in made['pool']['singan'].needs}
  assert needs == {'kept', *made['generate']}


@pytest.mark.parametrize('path, value, line', [
    (('selectors', 'kept', 'count'), 9, r"^config\.selectors\.kept\.count: 9 "
     r"representatives of each class, and 'class_2' has \d training images; "
     r'expected \d at most\.$'),
    (('selectors', 'kept', 'classes'), ('class_9',), r'^config\.selectors\.kept'
     r"\.classes: 'class_9' is no class; expected some of class_0, "),
    (('generators', 'singan', 'representatives'), '', r'^config\.generators\.'
     r"singan\.representatives: ''; expected the images that singan learns from"
     r', one each: a name of config\.selectors \(kept\)\.$'),
    (('generators', 'singan', 'representatives'), 'quota', r'^config\.'
     r"generators\.singan\.representatives: 'quota' picks no fixed count of "),
    (('generators', 'singan', 'representatives'), 'kmeans', r'^config\.'
     r'generators\.singan\.representatives\.count: 5 representatives of '),
    (('selectors', 'kept', 'count'), 0, r'^config\.selectors\.kept\.count: 0;'),
    (('selectors', 'kept'), common.selector('k_center', share=0.5).to_dict(),
     r"^config\.selectors\.kept: 'k_center' picks no fixed count .* no share"),
    (('selectors', 'kept', 'classes'), ('class_0', 0), r'^config\.selectors\.'
     r"kept\.classes: \('class_0', 0\); expected each once\.$"),
    (('selectors', 'kept', 'weights'), 'x.npz', r'^config\.selectors\.kept\.'
     r"weights: 'x\.npz'; expected '', or config\.selectors\.kept\.extractor"),
    (('selectors', 'kept'), common.selector(
        'kmeans', count=2, extractor='vgg19', classes=('class_0', 'class_2'),
     ).to_dict(), r'^config\.selectors\.kept\.weights: '),
    (('pools', 'singan', 'draw'), {'start': 9}, r'^config\.pools\.singan\.'
     r'draw\.start: 9; expected 0 to '),
    (('pools', 'singan', 'draw'), {'start': 'x'}, r'^config\.pools\.singan\.'
     r"draw\.start: 'x'; expected a whole number"),
    (('generators', 'singan', 'min_size'), 13, r'^config\.generators\.singan\.'
     r'min_size: 13; an image of 12x12 is smaller than the coarsest scale'),
    (('pools', 'singan', 'draw'), {'stat': 1}, r'^config\.pools\.singan\.draw\.'
     r"stat: unknown key; expected one of start\. Did you mean 'start'"),
    (('pools', 'singan', 'selectors'), ('novelti',), r'^config\.pools\.singan\.'
     r"selectors: there is no selector 'novelti'"),
    (('arms', 1, 'classes'), (), r'^config\.arms\[1\]: needs \d+ synthetic '
     r"images of class 'class_1', which its pool has none of"),
    (('arms', 1, 'classes'), ('class',), r'^config\.arms\[1\]\.classes: '
     r"'class'; expected one of class_0, "),
], ids=lambda x: '.'.join(map(str, x)) if isinstance(x, tuple) else '')
def test_what_cannot_be_of_one_image_is_one_line(workdir, path, value, line):
  with pytest.raises(errors.InputError, match=line) as e:
    folders(changed(one_image(), path, value), workdir)
  assert '\n' not in str(e.value)


def test_a_model_of_all_images_wants_no_representatives(workdir):
  given = changed(CONFIG, ('generators', 'cgan', 'representatives'), 'kmeans')
  with pytest.raises(errors.InputError, match=(
      r"^config\.generators\.cgan\.representatives: 'kmeans'; expected '', for "
      'cgan learns from all of them')):
    folders(given, workdir)


@pytest.mark.parametrize('selector', ['novelty', 'not_copies'])
def test_what_looks_at_all_pixels_is_refused_before_a_training(tmp_path,
                                                               selector):
  given = config()
  given['data']['memory'] = 1e-6
  plan.open_study(given, tmp_path)
  for pool in given['pools'].values():
    pool['selectors'] = (selector,)
  with pytest.raises(errors.InputError, match='config.data.memory: .* for what '
                     'looks at all .* images of a split'):
    plan.open_study(given, tmp_path)
  given['data']['memory'] = 5e-6  # All splits are more, and train is less.
  plan.open_study(given, tmp_path)


@pytest.fixture
def drawn(tmp_path):
  """A study whose pool is drawn, and that pool's task."""
  study = plan.open_study(changed(CONFIG, ('runs',), 1), tmp_path)
  made, = study.tasks
  for task in (*made['generate'].values(), *made['pool'].values()):
    task.work()
  return study, made['pool']['cgan']


def test_labels_of_a_pool_are_read(drawn):
  """A pool in another order of its classes gives the counts that arms ask."""
  study, task = drawn
  arrays = files.load_npz(task.folder.final / 'pool.npz')
  order = np.random.default_rng(0).permutation(len(arrays['labels']))
  arrays = {name: array[order] for name, array in arrays.items()}
  files.save_npz(task.folder.final / 'pool.npz', **arrays)
  conftest.reseal(task.folder.final)
  fold, want = study.folds[0], np.bincount(study.folds[0].labels)
  bank = classify._bank(fold.data, (task,), study.machine.devices)
  made = classify._plan(fold, 1, study.arms[1], bank, 8, (1, 0))
  for positions in (made.real, made.synthetic):
    np.testing.assert_array_equal(np.bincount(bank.labels[positions]), want)


def test_a_generator_that_saw_other_images_is_refused(drawn):
  _, task = drawn
  conftest.reseal(task.folder.final, train_digest='another')
  with pytest.raises(errors.InputError, match='other training images'):
    task.read()
