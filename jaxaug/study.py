"""A config becomes its stages, in order; what is done is skipped."""
import collections
import contextlib
import functools
import pathlib
import tempfile
import time
import typing

import numpy as np

from jaxaug import (
  artefacts,
  augment,
  errors,
  mesh,
  mixing,
  registry,
  signals,
  splits,
  types,
)
from jaxaug.stages import classify, data, evaluate, generate, pool, report

STAGES = ('data', 'generate', 'pool', 'classify', 'evaluate', 'report')
# Keys of a block that the loop takes; all others go to its model.
_LOOP = ('model', 'steps', 'batch_size')
# Keys of a pool's block that do not go to its selector.
_POOL = ('generator', 'per_class', 'selector')
_ARM = ('name', 'pool', 'augment', 'baseline')
_MIX = ('replace', 'add', 'add_per_class', 'fill', 'pool_only')
# A change of what a stage computes belongs into its hash.
_VERSIONS = {'generate': 1, 'pool': 2, 'classify': 2, 'evaluate': 2}
_JUDGE = 'judge'


class Unit(typing.NamedTuple):
  """One folder of a stage: `work()` fills it and returns its manifest."""
  stage: str
  name: str
  folder: artefacts.Folder
  steps: int
  work: typing.Callable[[], dict]


class Study(typing.NamedTuple):
  """All that is known of a study once its data is read."""
  config: dict
  workdir: pathlib.Path
  data: artefacts.Folder
  manifest: dict
  splits: splits.Splits
  spec: types.ImageSpec
  models: dict
  pool_sizes: dict
  units: tuple[Unit, ...]


def _arguments(block: dict, *more: str) -> dict:
  """The part of a block that goes to its model."""
  return {k: v for k, v in block.items() if k not in (*_LOOP, *more)}


def _named(value, known, where: str, what: str):
  if value not in known:
    raise errors.InputError(
        f'{where}: there is no {what} {value!r}; expected one of '
        f'{", ".join(known) or "none: the study has none"}.'
        f'{errors.nearest(value, known)}')


def _folder_name(name: str, where: str):
  if '/' in name or name.startswith('.'):
    raise errors.InputError(
        f'{where}: {name!r}; expected a name without "/" that can be a folder.')


def _check_arms(config: dict):
  """Refuses arms that name what the study does not have."""
  names = [arm.get('name') for arm in config['arms'] if isinstance(arm, dict)]
  for i, arm in enumerate(config['arms']):
    where = f'config.arms[{i}]'
    if not isinstance(arm, dict):
      raise errors.InputError(f'{where}: {arm!r}; expected what common.arm '
                              'returns.')
    for key in arm:
      if key not in (*_ARM, *_MIX):
        raise errors.InputError(
            f'{where}.{key}: unknown key; expected one of '
            f'{", ".join((*_ARM, *_MIX))}.{errors.nearest(key, _ARM + _MIX)}')
    if not arm.get('name') or names.count(arm['name']) > 1:
      raise errors.InputError(
          f'{where}.name: {arm.get("name")!r}; expected a name of its own.')
    _folder_name(arm['name'], f'{where}.name')
    if arm.get('pool'):
      _named(arm['pool'], config['pools'], f'{where}.pool', 'pool')
    if arm.get('augment'):
      _named(arm['augment'], config['augmentations'], f'{where}.augment',
             'augmentation')
    if arm.get('baseline'):
      _named(arm['baseline'], [n for n in names if n != arm['name']],
             f'{where}.baseline', 'other arm')
  if not names:
    raise errors.InputError('config.arms: empty; expected at least one arm.')
  _named(config['baseline'], names, 'config.baseline', 'arm')


def check(config: dict):
  """Refuses at the door what can be refused before the data is read."""
  errors.count('config.runs', config['runs'])
  for key in ('log_every', 'save_every', 'sample_every', 'eval_every'):
    errors.count(f'config.{key}', config[key])
  if not 0 < config['alpha'] < 1:
    raise errors.InputError(
        f'config.alpha: {config["alpha"]}; expected more than 0, below 1.')
  data.arguments(**config['data'])
  for name, block in config['augmentations'].items():
    where = f'config.augmentations.{name}'
    registry.check(augment.standard, block, where)
    augment.standard(**block, where=where)
  registry.find('metrics', config['metric'], 'config.metric')
  for section in ('generators', 'pools', 'classifiers'):
    for name in config[section]:
      _folder_name(name, f'config.{section}')
  judge = config['judge']
  if judge.get('augment'):
    _named(judge['augment'], config['augmentations'], 'config.judge.augment',
           'augmentation')
  for kind, where, block in (
      *(('generators', f'config.generators.{name}', block)
        for name, block in config['generators'].items()),
      *(('classifiers', f'config.classifiers.{name}', block)
        for name, block in config['classifiers'].items()),
      ('classifiers', 'config.judge', judge)):
    registry.find(kind, block['model'], f'{where}.model')
    for key in ('steps', 'batch_size'):
      errors.count(f'{where}.{key}', block[key])
  if not config['classifiers']:
    raise errors.InputError('config.classifiers: empty; expected at least one.')
  for name, block in config['pools'].items():
    where = f'config.pools.{name}'
    _named(block['generator'], config['generators'], f'{where}.generator',
           'generator')
    selector = registry.find('selectors', block['selector'],
                             f'{where}.selector')
    registry.check(selector.build, _arguments(block, *_POOL), where, also=_POOL)
    errors.count(f'{where}.per_class', block['per_class'], least=0)
    errors.count(f'{where}.batch_size', block['batch_size'])
  _check_arms(config)


def _describe(arm: dict) -> str:
  """An arm in words."""
  how = next((k for k in _MIX if arm.get(k) not in (None, False)), None)
  pool_name = arm.get('pool')
  words = {
      None: 'real images',
      'replace': f'{arm.get("replace", 0):.0%} of the real images replaced by '
                 f'{pool_name} images',
      'add': f'real images and {arm.get("add", 0):.0%} as many {pool_name} '
             'images',
      'add_per_class': f'real images and {arm.get("add_per_class")} '
                       f'{pool_name} images a class',
      'fill': f'real images, classes filled to {arm.get("fill")} with '
              f'{pool_name} images',
      'pool_only': f'{pool_name} images alone, as many as there are real',
  }[how]
  return words + (f', {arm["augment"]} augmentation' if arm.get('augment')
                  else '')


def _seed(config: dict, *purpose) -> int:
  """A seed of its own for everything that has a name."""
  return int(artefacts.digest([config['seed'], *purpose])[:7], 16)


def open_study(config: dict, workdir: pathlib.Path, devices,
               scratch=None) -> Study:
  """Reads the data (made first where it is not) and lists every unit.

  Args:
    config: plain, as `check` accepts it.
    workdir: of the study.
    devices: mesh.
    scratch: where to put the data of a dry run.
  """
  key = data.key(seed=config['seed'], **config['data'])
  folder = artefacts.folder(workdir / 'data', key)
  if not artefacts.is_done(folder.final):
    folder = artefacts.folder((scratch or workdir) / 'data', key)
    data.run(folder, seed=config['seed'], **config['data'])
  made = data.read(folder)
  manifest = artefacts.manifest(folder.final)
  spec = types.ImageSpec(*manifest['shape'], len(made.class_names))
  study = Study(config, workdir, folder, manifest, made, spec, {
      name: generate.build(spec, f'config.generators.{name}', block['model'],
                           _arguments(block))
      for name, block in config['generators'].items()},
                _pool_sizes(config, made), ())
  generators = _generators(study, devices)
  pools = _pools(study, generators)
  return study._replace(units=(
      *generators.values(), *pools.values(),
      *_classifiers(study, pools, devices), *_judge(study, devices)))


# Images a class that a pool has at least, so that its obedience says something.
_LEAST = 100


def _pool_sizes(config: dict, made: splits.Splits) -> dict[str, int]:
  """Images a class of each pool: as its block says, or as its arms need."""
  needed = collections.Counter()
  for i, arm in enumerate(config['arms']):
    _, draw = mixing.class_counts(
        np.asarray(made.train.labels), class_names=made.class_names,
        where=f'config.arms[{i}]', **{k: arm[k] for k in _MIX if k in arm})
    name = arm.get('pool', '')
    needed[name] = max(needed[name], int(draw.max()))
  return {name: block['per_class'] or max(_LEAST, needed[name])
          for name, block in config['pools'].items()}


def _generators(study: Study, devices) -> dict[str, Unit]:
  units = {}
  for name, block in study.config['generators'].items():
    seed = _seed(study.config, 'generator', name)
    key = artefacts.digest([
        _VERSIONS['generate'], study.spec, study.manifest['digests']['train'],
        block, seed, study.config['log_every']])
    folder = artefacts.folder(study.workdir / 'generate', f'{name}-{key}')
    def work(name=name, block=block, seed=seed, folder=folder):
      return generate.run(
          folder, name=name, spec=study.spec, train=study.splits.train,
          train_digest=study.manifest['digests']['train'],
          model=study.models[name], steps=block['steps'],
          batch_size=block['batch_size'], seed=seed, devices=devices,
          log_every=study.config['log_every'],
          save_every=study.config['save_every'],
          sample_every=study.config['sample_every'])
    if block['batch_size'] > len(study.splits.train.labels):
      raise errors.InputError(
          f'config.generators.{name}.batch_size: {block["batch_size"]}; '
          f'expected at most {len(study.splits.train.labels)}, the number of '
          'training images.')
    units[name] = Unit('generate', name, folder, block['steps'], work)
  return units


def _pools(study: Study, generators) -> dict[str, Unit]:
  units = {}
  for name, block in study.config['pools'].items():
    source = generators[block['generator']]
    seed = _seed(study.config, 'pool', name)
    size = study.pool_sizes[name]
    key = artefacts.digest([
        _VERSIONS['pool'], source.folder.final.name, block, size, seed,
        study.splits.class_names, study.manifest['digests']['test']])
    folder = artefacts.folder(study.workdir / 'pools', f'{name}-{key}')
    select = registry.build('selectors', block['selector'],
                            _arguments(block, *_POOL), f'config.pools.{name}',
                            study.splits.train, key='selector')
    def work(name=name, block=block, seed=seed, folder=folder, source=source,
             select=select, size=size):
      model = study.models[block['generator']]
      return pool.run(
          folder, name=name, spec=study.spec, model=model,
          variables=generate.read(source.folder, model),
          generator=block['generator'],
          generator_key=source.folder.final.name, data=study.splits, seed=seed,
          selector=block['selector'], per_class=size,
          batch_size=block['batch_size'], select=select)
    units[name] = Unit('pool', name, folder, 0, work)
  return units


def _pool_labels(study: Study, name: str):
  """A pool's labels, known before it is drawn."""
  if not name:
    return None
  return np.repeat(np.arange(study.spec.num_classes), study.pool_sizes[name])


def _pool_starts(study: Study) -> dict[str, int]:
  """Where each pool will lie in the bank: behind the real images, in order."""
  starts, start = {'': 0}, len(study.splits.train.labels)
  for name, size in study.pool_sizes.items():
    starts[name] = start
    start += size * study.spec.num_classes
  return starts


def _bank(parts, devices) -> classify.Bank:
  """Lays images end to end on the device."""
  return classify.Bank(*mesh.replicate(devices, (
      np.concatenate([part.images for part in parts]),
      np.concatenate([part.labels for part in parts]))))


def _arm_bank(study: Study, pools: dict[str, Unit], devices):
  """Returns the bank of all arms: real training images, then every pool."""
  parts = [study.splits.train]
  for name, unit in pools.items():
    evaluate.overlap(study.manifest['digests']['train'],
                     artefacts.manifest(unit.folder.final), name)
    parts.append(pool.read(unit.folder))
  return _bank(parts, devices)


def _classifiers(study: Study, pools: dict[str, Unit], devices):
  """Yields every run of every arm of every classifier."""
  config, starts = study.config, _pool_starts(study)
  # Made once, when the first run that is not done asks for it.
  bank = functools.cache(lambda: _arm_bank(study, pools, devices))
  for name, block in config['classifiers'].items():
    where = f'config.classifiers.{name}'
    classify.build(study.spec, where, block['model'], _arguments(block),
                   block['steps'])
    for i, arm in enumerate(config['arms']):
      drawn = pools[arm['pool']].folder.final.name if arm.get('pool') else ''
      for run in range(config['runs']):
        seed = (_seed(config, 'batches'), run)
        mixed = mixing.compose(
            np.asarray(study.splits.train.labels),
            _pool_labels(study, arm.get('pool', '')),
            class_names=study.splits.class_names, seed=seed,
            where=f'config.arms[{i}]',
            **{k: arm[k] for k in _MIX if k in arm})
        with registry.within(where):
          plan = mixing.plan(mixed, pool_start=starts[arm.get('pool', '')],
                             batch_size=block['batch_size'], seed=seed)
        yield _classifier(study, f'{name}.{arm["name"]}.{run}', where, block,
                          arm, run, plan, bank, drawn, devices)


def _classifier(study, name, where, block, arm, run, plan, bank, drawn,
                devices) -> Unit:
  """One run as a unit; `drawn` names the pool's folder."""
  config = study.config
  augmentation = dict(config['augmentations'][arm['augment']]
                      if arm.get('augment') else {})
  seed = _seed(config, 'classifier')
  key = artefacts.digest([
      _VERSIONS['classify'], study.spec,
      [study.manifest['digests'][part] for part in
       ('train', 'validation', 'test')],
      block, {k: arm[k] for k in _MIX if k in arm}, augmentation, drawn, seed,
      run, plan.seed, config['eval_every'], config['log_every']])
  folder = artefacts.folder(study.workdir / 'classify', f'{name}-{key}')
  def work():
    return classify.run(
        folder, title=f'classify {name}', where=where, spec=study.spec,
        model=block['model'], arguments=_arguments(block, 'augment'),
        augmentation=augmentation, bank=bank(), plan=plan,
        validation=study.splits.validation, test=study.splits.test,
        steps=block['steps'], seed=seed, run=run, devices=devices,
        eval_every=config['eval_every'], log_every=config['log_every'],
        save_every=config['save_every'],
        identity={'arm': arm['name'], 'seeds': [config['seed'], run]})
  return Unit('classify', name, folder, block['steps'], work)


def _judge(study: Study, devices):
  """Yields the judge: a classifier of all the real images there are.

  Only where there is a pool to judge. Images that the low-data subset left
  out serve here and nowhere else.
  """
  if not study.config['pools']:
    return
  block = study.config['judge']
  parts = [study.splits.train, study.splits.unused]
  mixed = mixing.everything(sum(len(part.labels) for part in parts))
  with registry.within('config.judge'):
    plan = mixing.plan(mixed, pool_start=0, batch_size=block['batch_size'],
                       seed=(_seed(study.config, _JUDGE),))
  def bank():
    return _bank(parts, devices)
  classify.build(study.spec, 'config.judge', block['model'],
                 _arguments(block, 'augment'), block['steps'])
  arm = {'name': _JUDGE, 'augment': block.get('augment', '')}
  yield _classifier(study, _JUDGE, 'config.judge', block, arm, 0, plan, bank,
                    study.manifest['digests']['unused'], devices)


def _obedience(study: Study, unit: Unit, judge: Unit) -> dict:
  block = study.config['judge']
  drawn = pool.read(unit.folder)
  logits = classify.predict(
      judge.folder, where='config.judge', spec=study.spec,
      model=block['model'], arguments=_arguments(block, 'augment'),
      steps=block['steps'], split=drawn)
  verdict = artefacts.manifest(judge.folder.final)
  return evaluate.obedience(drawn, logits, study.spec.num_classes) | {
      'judge_test_error': verdict['test_error'],
      'judge_trained_on': verdict['real']}


def _results(study: Study, command: str, devices) -> dict:
  """Returns results.json: every number, and where it comes from."""
  config, of = study.config, collections.defaultdict(dict)
  for unit in study.units:
    of[unit.stage][unit.name] = unit
  judge = of['classify'].get(_JUDGE)
  pools = {}
  for name, unit in of['pool'].items():
    keep = ('generator', 'per_class', 'selector', 'drawn', 'copies_of_train',
            'copies_of_test')
    manifest = artefacts.manifest(unit.folder.final)
    pools[name] = {k: manifest[k] for k in keep} | {
        'obedience': _obedience(study, unit, judge)}
  generators = {}
  for name, unit in of['generate'].items():
    drawn = [p['obedience'] for p in pools.values() if p['generator'] == name]
    generators[name] = evaluate.generator(
        unit.folder, config['generators'][name]['model']) | {
            'obedience': drawn[0] if drawn else None}
  classifiers = {}
  for name in config['classifiers']:
    classifiers[name] = evaluate.classifier(
        {arm['name']: [of['classify'][f'{name}.{arm["name"]}.{run}'].folder
                       for run in range(config['runs'])]
         for arm in config['arms']},
        {arm['name']: _describe(arm) for arm in config['arms']},
        metric=config['metric'], baseline=config['baseline'],
        against={arm['name']: arm['baseline'] for arm in config['arms']
                 if arm.get('baseline')},
        alpha=config['alpha'], classes=study.spec.num_classes)
  seconds = collections.Counter(data=study.manifest['seconds'])
  commits = {study.manifest['commit']}
  for unit in study.units:
    manifest = artefacts.manifest(unit.folder.final)
    seconds[unit.stage] += manifest['seconds']
    commits.add(manifest['commit'])
  return {
      'study': config['name'], 'command': command,
      'created': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()),
      'config': config, 'stamp': artefacts.stamp() | {
          'commits_of_artefacts': sorted(map(str, commits))},
      'devices': mesh.describe(devices), 'seeds': [
          [config['seed'], run] for run in range(config['runs'])],
      'alpha': config['alpha'], 'data': study.manifest,
      'generators': generators, 'pools': pools, 'classifiers': classifiers,
      'stages': dict(seconds)}


def _grids(study: Study, most: int = 8) -> dict:
  """Returns pool -> (real, fake), each uint8 [K, M, H, W, C]."""
  def rows(split):
    per = [np.flatnonzero(split.labels == k) for k in
           range(study.spec.num_classes)]
    count = min(most, *map(len, per))
    return np.stack([split.images[p[:count]] for p in per])
  return {unit.name: (rows(study.splits.train), rows(pool.read(unit.folder)))
          for unit in study.units if unit.stage == 'pool'}


def _work(study: Study, last: str):
  """Does every unit up to the stage `last` that is not done."""
  stages = STAGES[:STAGES.index(last) + 1]
  for unit in study.units:
    signals.check()
    if unit.stage in stages and not artefacts.is_done(unit.folder.final):
      unit.work()


def evaluation(study: Study) -> artefacts.Folder:
  """Where the results of exactly these units stand."""
  key = artefacts.digest([
      _VERSIONS['evaluate'], study.config, study.data.final.name,
      [unit.folder.final.name for unit in study.units]])
  return artefacts.folder(study.workdir / 'evaluate', key)


def _conclude(study: Study, command: str, devices, stage: str) -> dict:
  """Writes results.json and report.html where their inputs have changed."""
  folder = evaluation(study)
  if not artefacts.is_done(folder.final):
    evaluate.write(folder, _results(study, command, devices))
  results = artefacts.read_json(folder.final / 'results.json')
  page = folder.final / 'report.html'
  if stage == 'report' and not page.exists():
    report.write(results, _grids(study), page)
  # What the user looks for stands at the top, of the latest launch.
  for file in ('results.json', 'report.html'):
    if (folder.final / file).exists():
      artefacts.copy(folder.final / file, study.workdir / file)
    else:  # That of an earlier launch would mislead.
      (study.workdir / file).unlink(missing_ok=True)
  return results


def _devices(config: dict):
  """Returns the mesh that every batch of the study can be split over."""
  blocks = (*config['generators'].values(), *config['classifiers'].values(),
            config['judge'])
  return mesh.make(batch_sizes=[block['batch_size'] for block in blocks])


@contextlib.contextmanager
def plan(config: dict, workdir: pathlib.Path):
  """Yields the study of a launch, nothing done; new data in a scratch."""
  check(config)
  with tempfile.TemporaryDirectory() as scratch:
    yield open_study(config, workdir, _devices(config), pathlib.Path(scratch))


def run(config: dict, workdir, *, stage: str = 'all', command: str = ''):
  """Runs a study up to `stage` and returns its results, or None before them.

  Args:
    config: plain dict; see configs/common.py.
    workdir: made if absent; holds every artefact.
    stage: one of STAGES, or 'all'; earlier stages that are not done come first.
    command: the line that launched it, for the report.

  Raises:
    InputError: something in the config, the data or the workdir is wrong.
    signals.Interrupted: asked to stop; all is saved.
  """
  last = 'report' if stage == 'all' else stage
  check(config)
  workdir = pathlib.Path(workdir)
  with artefacts.lock(workdir, config['name']):
    devices = _devices(config)
    study = open_study(config, workdir, devices)
    artefacts.write_json(workdir / 'config.json', config)
    _work(study, last)
    if last in ('evaluate', 'report'):
      return _conclude(study, command, devices, last)
  return None
