"""Every mistake is one line and exit code 2, and costs the workdir nothing."""
import contextlib
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import launch
from jaxaug.classifiers import resnet
from jaxaug.commands import run as command
from jaxaug.core import files, registry
from jaxaug.study import run
from jaxaug.training import classifier

ROOT = pathlib.Path(__file__).parents[2]
QUICK = 'configs/quickstart.py'
# A set that is made in no time, of 3 classes with 20 images each.
FAKE = ('--config.data.source=fake', '--config.data.per_class=20',
        *(f'--config.{block}.batch_size=16'
          for block in ('generators.cgan', 'classifiers.cnn', 'judge')))


pytestmark = pytest.mark.usefixtures('at_the_root')


@pytest.fixture
def workdir(tmp_path) -> pathlib.Path:
  """A workdir of the study `quickstart` with work in it."""
  root = tmp_path / 'w'
  with files.lock(root, 'quickstart'):
    pass  # It writes study.json.
  for name in ('data/0123456789ab', 'generate/cgan-0123456789ab.partial',
               'classify/cnn.real.0-0123456789ab'):
    (root / name).mkdir(parents=True)
    (root / name / 'manifest.json').write_text('{}')
  for name in ('config.json', 'results.json', 'report.html'):
    (root / name).write_text('precious')
  return root


def snapshot(root) -> dict:
  return {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in
          sorted(root.rglob('*')) if f.is_file() and f.name != '.lock'}


def refused(capsys, workdir, *args, config=QUICK) -> str:
  """Launches, expects the refusal, and returns its one line."""
  before = snapshot(workdir)
  status = launch.main([f'--config={config}', f'--workdir={workdir}', *args])
  err = capsys.readouterr().err
  assert status == 2, err
  assert err.startswith('launch.py: ') and err.count('\n') == 1, err
  after = snapshot(workdir)
  assert {f: after.get(f) for f in before} == before
  return err


def has(line, *parts):
  for part in parts:
    assert part in line, line


# ------------------------------------------------------------ the command line
def test_help_is_quick_and_imports_nothing_heavy():
  program = ('import sys, launch\n'
             'try: launch.main(["--help"])\n'
             'except SystemExit as e: assert e.code == 0\n'
             'assert not {"jax", "numpy", "tensorflow", "ml_collections",'
             '            "flax"} & set(sys.modules)\n')
  begun = time.monotonic()
  done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, text=True,
                        capture_output=True)
  assert time.monotonic() - begun < 2
  assert done.returncode == 0, done.stderr
  has(done.stdout, '--config', '--workdir', '--stage', '--dry_run', 'smoke')


def test_the_stages_of_the_help_are_those_of_a_study():
  assert command.STAGES == run.STAGES


@pytest.mark.parametrize('override, parts', [
    ('data.per_clas=5', ('config.data.per_clas:', "mean 'per_class'?")),
    ('dta.per_class=5', ('config.dta.per_class:', "mean 'data'?")),
    ('runz=5', ('config.runz:', "mean 'runs'?")),
    ('collapse.obediense=0', ('config.collapse', "mean 'obedience'?")),
    ('generators.cgan.stepz=5', ('config.generators.cgan', "mean 'steps'?")),
    ('generators.gan.steps=5', ('config.generators', "mean 'cgan'?")),
    ('arms[9].name=x', ("'[9]'", 'config.arms', '[0], [1]')),
    ('arms[4].replase=0.1', ('config.arms[4]', "mean 'replace'?")),
    ('runs.deep=1', ("'deep'", 'config.runs', 'it is a value')),
    ('runs', ('--config.runs', '=VALUE')),
])
def test_wrong_keys(capsys, workdir, override, parts):
  has(refused(capsys, workdir, f'--config.{override}'), *parts)


@pytest.mark.parametrize('override, nearest', [
    ('generators.cgan.model=cgam', 'cgan'),
    ('classifiers.cnn.model=resnit', 'resnet'),
    ('judge.model=cnm', 'cnn'),
    ('data.source=foldr', 'folder'),
    ('data.source=fashion_mnist_smal', 'fashion_mnist_small'),
    ('pools.cgan.selectors=novelti', 'novelty'),
    ('pools.cgan.generator=cgen', 'cgan'),
    ('metric=eror', 'error'),
    ('baseline=reel', 'real'),
    ('arms[1].augment=standart', 'standard'),
    ('arms[2].pool=cgam', 'cgan'),
])
def test_wrong_names(capsys, workdir, override, nearest):
  key, _, value = override.partition('=')
  has(refused(capsys, workdir, f'--config.{override}'),
      f'config.{key}: ', repr(value), f"Did you mean '{nearest}'?")


@pytest.mark.parametrize('override', [
    'runs=two', 'runs=1.5', 'data.per_class=few', 'arms[4].replace=half',
    'generators.cgan.steps=1.5', 'classifiers.cnn.learning_rate=fast',
    'collapse.diversity=half', 'data.val_fraction=x',
    'data.allow_overlap=maybe', 'seed='])
def test_wrong_types(capsys, workdir, override):
  key, _, value = override.partition('=')
  shown = value if value == '1.5' else repr(value)
  has(refused(capsys, workdir, f'--config.{override}'),
      f'config.{key}: {shown}; expected ')


@pytest.mark.parametrize('override, expected', [
    ('runs=0', 'at least 1'),
    ('runs=-1', 'at least 1'),
    ('alpha=0.0', 'more than 0'),
    ('eval_every=0', 'at least 1'),
    ('generators.cgan.steps=0', 'at least 1'),
    ('collapse.obedience=1.0', 'from 0 to below 1'),
    ('collapse.diversity=-0.1', 'from 0 to below 1'),
    ('classifiers.cnn.batch_size=0', 'at least 1'),
    ('pools.cgan.per_class=-1', 'at least 0'),
    ('arms[1].name=real', 'a name of its own'),
    ('arms[1].name=a/b', 'without "/"'),
    ('data.fraction=0.5', 'not both'),
    ('data.val_fraction=1.0', '[0, 1)'),
    ('data.per_class=501', 'which has 500; expected a whole number in 1..500'),
    ('data.imbalance=(50,)', '1 counts for 10 classes'),
    ('data.classes=(0,)', 'at least 2'),
    ('arms[4].replace=1.5', 'from 0 to 1'),
    ('arms[4].replace=-0.5', 'from 0 to 1'),
    ('arms[2].add=-1.0', '0 or more'),
    ('generators.cgan.batch_size=401', 'at most 400'),
    ('classifiers.cnn.batch_size=401', '1 to 400'),
    ('judge.batch_size=9999', 'the number of training images'),
    ('generators.cgan.g_norm=instance', 'none, batch'),
    ('generators.cgan.d_steps=0', 'at least 1'),
    ('classifiers.cnn.optimizer=adan', "mean 'adam'?"),
    ('classifiers.cnn.learning_rate=0.0', 'expected'),
])
def test_wrong_values(capsys, workdir, override, expected):
  has(refused(capsys, workdir, f'--config.{override}'),
      f'config.{override.partition("=")[0].partition("[")[0]}', expected)


@pytest.mark.parametrize('override, parts', [
    ('data.folds=-3', ('config.data.folds: -3', 'at least')),
    ('data.imbalance=-5', ('config.data.imbalance',)),
    ('classifiers.cnn.accumulate=0', ('accumulate: 0', 'at least 1')),
    ('classifiers.cnn.accumulate=x', ("accumulate: 'x'", 'a whole number')),
    ('data={}', ('config.data: lacks ',)),
    ('generators.cgan={}', ('config.generators.cgan: lacks ',)),
    ('arms[0]=x', ("config.arms[0]: 'x'", 'a dict')),
    ('arms[]=1', ('--config.arms[]: is no key',)),
    ('arms[-1].add=1', ('--config.arms[-1].add: is no key',)),
    ('=3', ('--config.: is no key',)),
    ('.runs=3', ('--config..runs: is no key',)),
    ('data.per_class=2**64', ("config.data.per_class: '2**64'",)),
    (f'data.per_class={2**64}', (f'config.data.per_class: {2**64}',)),
    ('data.per_class=1000000000', ('config.data.per_class', '1..500')),
    ('pools.cgan.per_class=1000000000', (
        'config.pools.cgan.per_class', 'MB of memory')),
    ('arms[2].add=1e300', ('config.arms[2].add: 1e+300', 'fewer than')),
    ('data.resize=100000', ('cannot write', 'MB free')),
    ('name=two\nlines', ("config.name: 'two\\nlines'",)),
    ('arms[1].name=two\nlines', ("config.arms[1].name: 'two\\nlines'",)),
    ('evaluation.metrics[0]=kit', ("'kit'", "mean 'kid'")),
    ('generators.cgan.g_widths[2]=x', ('config.generators.cgan.g_widths',)),
    ('arms[2].logit_adjustment=1e300', (
        'config.arms[2].logit_adjustment: 1e+300', 'beyond float32')),
    # Hours later, in the old days.
    ("evaluation.metrics=('is',)", (
        'config.evaluation.extractor: scattering', 'knows no classes')),
])
def test_what_used_to_end_in_a_traceback(capsys, workdir, override, parts):
  has(refused(capsys, workdir, f'--config.{override}'), *parts)


def test_indices_and_words_of_tuples(tmp_path, capsys):
  status = launch.main([
      f'--config={QUICK}', f'--workdir={tmp_path}', '--stage=data', *FAKE,
      '--config.evaluation.metrics[0]=kid', '--config.arms[1].replace=0.5',
      '--config.arms[1].pool=cgan', '--config.generators.cgan.g_widths[2]=24',
      '--config.generators.cgan.d_widths=8,16', '--config.curve.every=0'])
  assert status == 0, capsys.readouterr().err
  config = files.read_json(tmp_path / 'config.json')
  assert config['evaluation']['metrics'][0] == 'kid'
  assert config['generators']['cgan']['g_widths'][2] == 24
  assert config['generators']['cgan']['d_widths'] == [8, 16]
  assert config['arms'][1]['replace'] == 0.5


def test_a_block_that_an_override_writes_anew_has_its_defaults(tmp_path):
  fields = "{'generator': 'cgan', 'per_class': 400, 'batch_size': 20}"
  assert not launch.main([
      f'--config={QUICK}', f'--workdir={tmp_path}', '--stage=data',
      f'--config.pools.cgan={fields}', '--config.arms[2].add=None',
      '--config.arms[2].fill=440'])
  config = files.read_json(tmp_path / 'config.json')
  assert config['pools']['cgan']['selectors'] == []
  assert config['arms'][2]['fill'] == 440


def test_a_pool_too_small_names_the_class(capsys, workdir):
  has(refused(capsys, workdir, '--config.pools.cgan.per_class=20'),
      "config.arms[2]: class 'T-shirt/top' needs 40 synthetic images and the "
      'pool holds 20', 'config.pools.NAME.per_class')


def test_none_empties_an_optional_key(tmp_path, capsys):
  assert not launch.main([f'--config={QUICK}', f'--workdir={tmp_path}',
                          '--stage=data', '--config.data.per_class=None'])
  assert '4000 train, 1000 validation' in capsys.readouterr().out
  has(refused(capsys, tmp_path, '--config.data.val_fraction=None'),
      'config.data.val_fraction: None; expected a number.')


def test_missing_config_file(capsys, workdir):
  has(refused(capsys, workdir, config='configs/quikstart.py'),
      '--config', "'configs/quikstart.py'", "mean 'configs/quickstart.py'?")


def test_unknown_variant(capsys, workdir):
  has(refused(capsys, workdir, config=f'{QUICK}:smoky'), 'smoky', 'smoke')


OWN = """
from configs import common
def get_config(arg=None):
  config = common.base()
  config.name = 'own'
  config.classifiers.c = common.classifier('cnn', steps=1)
  config.arms = (common.arm('real'),)
  {edit}
  return common.finish(config, arg)
"""


# More of them are in tests/study/config_file_test.py.
@pytest.mark.parametrize('edit, parts', [
    ('config.classifiers.c = common.classifier("cn", steps=1)',
     ('own.py, line 8: config.classifiers.c.model', "mean 'cnn'?")),
    ('config.classifiers = {}', ('config.classifiers', 'at least one')),
    ('config.arms = ()', ('config.arms', 'at least one arm')),
    ('config.run.x = 3', ('own.py, line 8: ', 'run')),
    ('config runs', ('own.py, line 8: ',)),
    ('import sys; sys.exit("enough")', ('own.py, line 8: SystemExit: enough',)),
    ('print(1 / 0)', ('own.py, line 8: ZeroDivisionError: ',)),
    ('raise KeyboardInterrupt', ('own.py, line 8: KeyboardInterrupt',)),
    ('config.data.x = config', ('own.py: RecursionError',)),
    ('return type("C", (), {"to_dict": lambda self: 3})()', (
        'own.py: get_config returned', 'expected what common.base()')),
    ('config.curve.evry = 1',
     ('own.py, line 8: config.curve.evry: ', "mean 'every'?")),
])
def test_mistakes_in_a_config_file(capsys, tmp_path, edit, parts):
  (tmp_path / 'w').mkdir()
  (tmp_path / 'own.py').write_text(OWN.format(edit=edit))
  has(refused(capsys, tmp_path / 'w', config=tmp_path / 'own.py'), *parts)


@pytest.mark.parametrize('change, parts', [
    ({'classifier': 'b'}, ('.classifier: ', "classifier 'b'", 'one of c')),
    ({'arm': 'reel'}, ('.arm: ', "arm 'reel'", "mean 'real'?")),
    ({'metric': 'eror'}, ('.metric: ', "mean 'error'?")),
    ({'metric': 'minority_accuracy'}, ('.metric: ', 'one of ')),
    ({'value': 'few'}, (".value: 'few'", 'from 0 to 1')),
    ({'value': 6.82}, ('.value: 6.82', 'from 0 to 1')),
    ({'value': -.1, 'metric': 'cross_entropy'}, ('.value: -0.1', '0 or more')),
    ({'n': 0}, ('.n: 0', 'at least 1')),
    ({'source': ' '}, (".source: ' '", 'some words')),
    ({'difference': ''}, (".difference: ''", 'some words')),
    ({'more': 1}, (': ', 'common.published')),
], ids=str)
def test_published_figures_are_refused(capsys, tmp_path, change, parts):
  (tmp_path / 'w').mkdir()
  (tmp_path / 'own.py').write_text(OWN.format(edit=(
      'config.published = (common.published("c", "real", 0.1, source="A", '
      f'difference="B") | {change},)')))
  line = refused(capsys, tmp_path / 'w', config=tmp_path / 'own.py')
  has(line, 'config.published[0]' + parts[0], *parts[1:])


def test_overrides_reach_the_config(tmp_path, capsys):
  status = launch.main([
      f'--config={QUICK}', f'--workdir={tmp_path}', '--stage=data', *FAKE,
      '--config.runs=3', '--config.arms[4].replace=0.25',
      '--config.generators.cgan.steps=7', '--config.judge.steps=9',
      '--config.generators.cgan.g_widths=(8,8)', '--config.data.classes=0,2',
      '--config.classifiers.cnn.model=resnet',
      '--config.classifiers.cnn.weight_decay=0.5'])
  assert status == 0, capsys.readouterr().err
  config = json.loads((tmp_path / 'config.json').read_text())
  assert config['runs'] == 3 and config['data']['per_class'] == 20
  assert config['arms'][4]['replace'] == 0.25
  assert config['generators']['cgan']['steps'] == 7
  assert config['generators']['cgan']['g_widths'] == [8, 8]
  assert config['judge']['steps'] == 9 and config['judge']['model'] == 'cnn'
  # A new model drops what only the old one took, and brings its own defaults.
  block = config['classifiers']['cnn']
  taken = registry.arguments(resnet.build) | registry.arguments(classifier.make)
  assert set(block) == {'model', 'steps', 'epochs', 'batch_size', *taken}
  assert block['weight_decay'] == 0.5 and block['optimizer'] == 'adam'
  assert len(list((tmp_path / 'data').glob('*/manifest.json'))) == 1
  assert {f.name for f in tmp_path.iterdir()} == {
      'data', 'config.json', 'study.json', '.lock'}


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path, capsys,
                                                    monkeypatch):
  monkeypatch.setenv('COLUMNS', '100')
  before = {f.name for f in ROOT.iterdir()}
  status = launch.main([f'--config={QUICK}', f'--workdir={tmp_path / "w"}',
                        '--dry_run', *FAKE, '--config.generators.cgan.steps=77',
                        '--config.classifiers.cnn.steps=33'])
  out = capsys.readouterr().out
  assert status == 0 and not (tmp_path / 'w').exists()
  assert {f.name for f in ROOT.iterdir()} == before
  rows = [line.split('│')[1:-1] for line in out.splitlines() if '│' in line]
  rows = [tuple(cell.strip() for cell in row) for row in rows]
  assert ('data', 'fake', '', 'to do') in rows
  assert ('generate', 'cgan', '77', 'to do') in rows
  assert ('pool', 'cgan', '', 'to do') in rows
  for arm in ('real', 'standard', 'add_100', 'standard_add_100', 'replace_50'):
    assert ('classify', f'cnn.{arm} x 5 runs', '33', 'to do') in rows
  assert ('report', 'report.html', '', 'to do') in rows


def test_dry_run_finds_mistakes_too(capsys, workdir):
  has(refused(capsys, workdir, '--dry_run', '--config.arms[4].replace=2.0'),
      'config.arms[4].replace')


# ------------------------------------------------------------------- the data
def folders(root, names=('ant', 'bee'), count=8):
  rng = np.random.default_rng(0)
  for name in names:
    (root / name).mkdir(parents=True)
    for i in range(count):
      pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
      Image.fromarray(pixels).save(root / name / f'{i}.png')
  return root


def _empty(root):
  shutil.rmtree(root)
  root.mkdir()


def _gone(root):
  shutil.rmtree(root)


def _class_without_images(root):
  shutil.rmtree(root / 'bee')
  (root / 'bee').mkdir()


def _class_with_few(root):
  for i in range(6):
    (root / 'bee' / f'{i}.png').unlink()


def _corrupt(root):
  (root / 'bee' / '3.png').write_bytes(b'no image at all')


def _truncated(root):
  file = root / 'bee' / '3.png'
  file.write_bytes(file.read_bytes()[:90])


def _bit16(root):
  Image.fromarray(np.full((8, 8), 999, np.uint16)).save(root / 'bee' / '3.png')


def _other_size(root):
  Image.new('RGB', (9, 8)).save(root / 'bee' / '3.png')


def _twins(root):
  for name in ('ant', 'bee'):
    for i in range(1, 8):
      shutil.copy(root / name / '0.png', root / name / f'{i}.png')


def _mode(mode, ending='png'):
  def spoil(root):
    Image.new(mode, (8, 8)).save(root / 'bee' / f'3.{ending}')
  spoil.__name__ = mode
  return spoil


@pytest.mark.parametrize('spoil, parts', [
    (_gone, ('config.data.path', 'there is no folder')),
    (_empty, ('config.data.path', 'has no class folders')),
    (_class_without_images, ('bee', 'holds no image')),
    (_class_with_few, ('config.data.per_class', "'bee'", 'expected')),
    (_corrupt, ('bee/3.png', 'damaged, or none of PNG')),
    (_truncated, ('bee/3.png', 'cannot be decoded')),
    (_bit16, ('bee/3.png', '16 bits', "config.data.depth='scale'")),
    (_mode('RGBA'), ('bee/3.png', 'transparent', "config.data.alpha='white'")),
    (_mode('LA'), ('bee/3.png', 'transparent', "config.data.alpha='white'")),
    (_other_size, ('8x8', '8x9', 'config.data.resize')),
    (_twins, ('config.data.allow_overlap', 'pixel for pixel')),
], ids=lambda x: getattr(x, '__name__', ''))
def test_bad_image_folders(capsys, tmp_path, workdir, spoil, parts):
  root = folders(tmp_path / 'images')
  spoil(root)
  has(refused(capsys, workdir, '--config.data.source=folder',
              f'--config.data.path={root}', '--config.data.per_class=5'),
      *parts)


def _arrays() -> dict:
  rng = np.random.default_rng(0)
  return {'x_train': rng.integers(0, 256, (40, 8, 8, 3), np.uint8),
          'y_train': np.arange(40) % 2, 'class_names': np.array(['ant', 'bee'])}


def _change(key, value):
  def spoil(arrays):
    arrays[key] = value(arrays[key]) if callable(value) else value
  return spoil


def _set(index, value, kind=None):
  def change(array):
    array = array.astype(kind or array.dtype)
    array[index] = value
    return array
  return change


@pytest.mark.parametrize('spoil, parts', [
    (_change('y_train', _set(3, 2)), (
        'y_train: labels go from 0 to 2', '0..1')),
    (_change('y_train', _set(3, -1)), ('y_train: labels go from -1', '0..1')),
    (_change('y_train', _set(3, 0.5, float)), ('y_train', 'whole numbers')),
    (_change('x_train', _set((3, 2, 1, 0), np.nan, np.float32)),
     ('x_train', 'NaN')),
    (_change('x_train', _set((3, 2, 1, 0), np.inf, np.float32)),
     ('x_train', 'inf')),
    (_change('x_train', _set((3, 2, 1, 0), -1, np.int32)), ('from -1',)),
    (_change('x_train', lambda x: x[:39]), ('40 rows', '39')),
    (_change('x_train', lambda x: x[..., :2]), ('C 1 or 3',)),
    (lambda arrays: arrays.pop('x_train'), ('x_train', 'it holds')),
], ids=lambda x: '')
def test_bad_npz_files(capsys, tmp_path, workdir, spoil, parts):
  arrays = _arrays()
  spoil(arrays)
  np.savez(tmp_path / 'x.npz', **arrays)
  line = refused(capsys, workdir, '--config.data.source=npz',
                 f'--config.data.path={tmp_path / "x.npz"}',
                 '--config.data.per_class=10')
  has(line, 'x.npz', *parts)


def test_damaged_npz_and_missing_path(capsys, tmp_path, workdir):
  file = tmp_path / 'x.npz'
  args = '--config.data.source=npz', f'--config.data.path={file}'
  has(refused(capsys, workdir, *args), 'there is no file')
  np.savez(file, **_arrays())
  file.write_bytes(file.read_bytes()[:1000])
  has(refused(capsys, workdir, *args), 'damaged')
  has(refused(capsys, workdir, '--config.data.source=npz'),
      'config.data.path', 'missing')


def test_key_of_another_source(capsys, workdir):
  has(refused(capsys, workdir, '--config.data.name=cifar10'),
      'config.data.name', "'fashion_mnist_small'")


# ---------------------------------------------------------------- the workdir
def test_workdir_of_another_study(capsys, workdir):
  has(refused(capsys, workdir, config=f'{QUICK}:smoke'), str(workdir),
      "'quickstart'", "'quickstart_smoke'", '--workdir')


def test_workdir_of_another_version(capsys, workdir):
  (workdir / 'study.json').write_text('{"study": "quickstart"}')
  has(refused(capsys, workdir), str(workdir), 'another version of jaxaug',
      'another --workdir')


def test_workdir_that_is_no_workdir(capsys, tmp_path):
  (tmp_path / 'thesis.tex').write_text('years of work')
  has(refused(capsys, tmp_path), str(tmp_path), 'not empty')
  assert os.listdir(tmp_path) == ['thesis.tex']


@pytest.mark.parametrize('place', ['file', 'file/below', '/proc/nothing'])
def test_workdir_that_cannot_be_written(capsys, tmp_path, place):
  (tmp_path / 'file').write_text('a file')
  assert launch.main([f'--config={QUICK}',
                      f'--workdir={tmp_path / place}']) == 2
  err = capsys.readouterr().err
  assert err.count('\n') == 1 and place in err
  assert (tmp_path / 'file').read_text() == 'a file'


def test_workdir_without_permission(capsys, workdir):
  if os.geteuid() == 0:
    pytest.skip('root may write anywhere')
  workdir.chmod(0o555)
  try:
    has(refused(capsys, workdir), str(workdir), 'no permission')
  finally:
    workdir.chmod(0o755)


@pytest.mark.parametrize('damage', ['{', '[]', '{}', '', None])
def test_damaged_stage_folder(capsys, tmp_path, damage):
  args = [f'--config={QUICK}', f'--workdir={tmp_path}', '--stage=data', *FAKE]
  assert launch.main(args) == 0
  folder, = (tmp_path / 'data').iterdir()
  capsys.readouterr()
  if damage is None:
    (folder / 'train_images.npy').write_bytes(b'\x93NUMPY')
  else:
    (folder / 'manifest.json').write_text(damage)
  name = 'train_images.npy' if damage is None else 'manifest.json'
  has(refused(capsys, tmp_path, '--stage=data', *FAKE),
      f'{folder / name}: is missing or damaged; delete the folder {folder}')
  shutil.rmtree(folder)
  assert launch.main(args) == 0


def test_lost_files_of_the_study_itself(capsys, tmp_path):
  args = [f'--config={QUICK}', f'--workdir={tmp_path}', '--stage=data', *FAKE]
  assert launch.main(args) == 0
  before = files.read_json(tmp_path / 'study.json')
  for text in ('{', '[]', '{}'):
    (tmp_path / 'study.json').write_text(text)
    assert launch.main(args) == 0
    assert files.read_json(tmp_path / 'study.json') == before
  (tmp_path / 'study.json').unlink()
  (tmp_path / 'config.json').write_text('{"name": "another"}')
  has(refused(capsys, tmp_path, *FAKE), "belongs to the study 'another'")
  (tmp_path / 'config.json').unlink()
  assert launch.main(args) == 0  # Its tasks are known all the same.
  assert files.read_json(tmp_path / 'study.json') == before
  (other := tmp_path / 'other' / 'a' / 'b').mkdir(parents=True)
  (other / 'manifest.json').write_text('{}')
  has(refused(capsys, tmp_path / 'other', *FAKE), 'holds no study')


@contextlib.contextmanager
def tiny_disk(place, size):
  place.mkdir()
  done = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs',
                         str(place)], capture_output=True, text=True)
  if done.returncode:
    pytest.skip(f'no small disk to fill: {done.stderr.strip()}')
  try:
    yield
  finally:
    subprocess.run(['umount', str(place)], check=True)


def test_full_disk(capsys, tmp_path):
  if not shutil.which('mount'):
    pytest.skip('no mount')
  with tiny_disk(place := tmp_path / 'disk', '1m'):
    (place / '.kept').write_text('kept')
    has(refused(capsys, place, '--stage=data'), str(place), 'cannot write',
        'the disk is full', 'MB free of ', 'the same command continues')
    assert not (place / 'data').exists()
    # With room again, the same command goes on.
    subprocess.run(['mount', '-o', 'remount,size=50m', str(place)], check=True)
    assert launch.main([f'--config={QUICK}', f'--workdir={place}',
                        '--stage=data']) == 0


def test_files_that_may_not_grow(capsys, tmp_path):
  """The same without root: the limit of `ulimit -f`."""
  (tmp_path / '.kept').write_text('kept')
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
  try:
    line = refused(capsys, tmp_path, '--stage=data')
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  has(line, str(tmp_path), 'cannot write', 'the same command continues')
  assert launch.main([f'--config={QUICK}', f'--workdir={tmp_path}',
                      '--stage=data']) == 0


def test_another_launch_is_at_work(capsys, workdir):
  with files.lock(workdir, 'quickstart'):
    has(refused(capsys, workdir), str(workdir), f'process {os.getpid()}',
        '--workdir')


def test_a_tfds_set_that_is_not_prepared(capsys, tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'tfds'))
  monkeypatch.setenv('JAXAUG_CACHE', str(tmp_path / 'cache'))
  (tmp_path / 'w').mkdir()
  has(refused(capsys, tmp_path / 'w', config='configs/fmnist_cgan.py'),
      "'fashion_mnist'", 'python -m jaxaug prepare fashion_mnist')


@pytest.mark.parametrize('how', ['>&-', '2>&- >&-', '| true', '> /dev/full'])
def test_a_standard_output_that_is_none(tmp_path, how):
  done = subprocess.run(
      f'{sys.executable} launch.py --config={QUICK} --stage=data '
      f'--workdir={tmp_path / "w"} {how}', shell=True, cwd=ROOT, text=True,
      capture_output=True)
  assert 'Traceback' not in done.stderr
  assert (done.returncode, done.stderr.count('\n')) == (
      (2, 1) if 'full' in how else (0, '|' in how))
  if done.stderr:
    assert 'launch.py: standard output: ' in done.stderr


def test_a_folder_that_is_gone(tmp_path):
  done = subprocess.run(
      f'mkdir {tmp_path}/d && cd {tmp_path}/d && rmdir {tmp_path}/d && '
      f'{sys.executable} {ROOT}/launch.py --config={ROOT}/{QUICK}',
      shell=True, text=True, capture_output=True)
  assert (done.returncode, done.stderr.count('\n')) == (2, 1), done.stderr
  assert 'the folder that this was started in is gone' in done.stderr


def test_a_signal_amid_the_imports_waits_for_their_end():
  """An extension whose import is cut short fails in odd ways."""
  program = ('import builtins, os, signal, sys, launch\n'
             'original = builtins.__import__\n'
             'def slow(name, *args, **kw):\n'
             '  if name == "jax":\n'
             '    builtins.__import__ = original\n'
             '    os.kill(os.getpid(), signal.SIGTERM)\n'
             '  return original(name, *args, **kw)\n'
             'builtins.__import__ = slow\n'
             'sys.exit(launch.main(["--config=configs/quickstart.py"]))\n')
  env = {name: value for name, value in os.environ.items()
         if name != 'JAXAUG_CONVOLUTIONS'}  # The line would name it.
  done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, text=True,
                        capture_output=True, env=env)
  assert done.returncode == 143
  assert done.stderr.splitlines()[-1] == (
      'python launch.py --config=configs/quickstart.py')
  assert 'Traceback' not in done.stderr


def test_a_signal_while_the_generator_compiles(tmp_path):
  """A thread of XLA's is at work then, and must not outlive its Python."""
  with subprocess.Popen(
      [sys.executable, 'launch.py', '--config=configs/quickstart.py:smoke',
       f'--workdir={tmp_path / "w"}'], cwd=ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      env=os.environ | {'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'cold'),
                        'JAXAUG_CONVOLUTIONS': 'products'}) as launched:
    while not launched.stdout.readline().startswith('data: '):
      assert launched.poll() is None
    time.sleep(3)
    launched.send_signal(signal.SIGTERM)
    _, stderr = launched.communicate(timeout=60)
  assert launched.returncode == 143
  # Where the compiler keeps Python waiting.
  waits = ('\nsignal 15: stops after the step under way; a second one stops at '
           'once\n')
  assert stderr.removeprefix(waits) == (
      '\nstopped by signal 15; this continues:\nJAXAUG_CONVOLUTIONS=products '
      'python launch.py --config=configs/quickstart.py:smoke '
      f'--workdir={tmp_path / "w"}\n')
