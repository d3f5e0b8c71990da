"""Arms, budgets, folds, several runs at once and the gate, by whole studies."""
import json
import math
import pathlib
import re
import shutil
import typing

import jax
import numpy as np
import pytest

import launch
from jaxaug.core import files
from jaxaug.study import budget, run, schema
from jaxaug.study.stages import judge
from jaxaug.training import fit, loop, metrics_log
from tests import conftest

CONFIG = """
from configs import common

def get_config(arg=None):
  config = common.base()
  config.name = 'arms'
  config.data.source = 'fake'
  config.runs, config.log_every, config.save_every = 2, 4, 4
  config.budget = 'epochs'
  config.sample_every, config.eval_every = 8, 4
  config.evaluation.extractor, config.evaluation.metrics = 'pixels', ('prdc',)
  config.data.per_class = 15
  config.data.imbalance = ('exponential', 3)
  config.augmentations.standard = dict(flip=0.5, shift=1)
  config.augmentations.rand = dict(rand_ops=1)
  config.generators.cgan = common.generator(
      'cgan', steps=4, batch_size=8, z_dim=4, g_widths=(8, 8), d_widths=(8, 8))
  config.pools.cgan = common.pool('cgan', per_class=12, batch_size=24)
  config.judge.steps, config.judge.batch_size = 4, 8
  config.judge.widths, config.judge.hidden = (4, 4), 8
  config.classifiers.cnn = common.classifier(
      'cnn', steps=8, batch_size=8, widths=(4, 4), hidden=8)
  config.arms = (
      common.arm('real'), common.arm('standard', augment='standard'),
      common.arm('rand', augment='rand'),
      common.arm('mixup', mix='mixup', mix_alpha=0.2),
      common.arm('cutmix_synthetic', pool='cgan', mix='cutmix',
                 partner='synthetic'),
      common.arm('oversample', oversample='max'),
      common.arm('weights', class_weights=1.0),
      common.arm('balanced_softmax', logit_adjustment=1.0),
      common.arm('fill', pool='cgan', fill='max'),
      common.arm('add', pool='cgan', add=1.0, baseline='standard'))
  return config
"""

pytestmark = pytest.mark.usefixtures('at_the_root', 'compiled_quickly')


class Study(typing.NamedTuple):
  """A finished study of all arms, runs one after the other."""
  config: pathlib.Path
  workdir: pathlib.Path
  programs: dict  # By the block that they are of.
  compiled: int  # How many that was.

  def copy(self, folder, *without) -> pathlib.Path:
    """Copies what its classifiers are made from, some of it left out."""
    return shutil.copytree(self.workdir, folder, ignore=shutil.ignore_patterns(
        'classify', 'results*', 'report.html', *without))

  def again(self, folder, *overrides, config=None, without=()) -> pathlib.Path:
    """Trains its classifiers anew, in a copy."""
    launched(config or self.config, self.copy(folder, *without), *overrides)
    return folder


@pytest.fixture(scope='module')
def config(tmp_path_factory):
  path = tmp_path_factory.mktemp('config') / 'arms.py'
  path.write_text(CONFIG)
  return path


@pytest.fixture(scope='module')
def few_arms(config):
  """The same study of real images, of standard augmentation, of added ones."""
  path = config.with_name('few_arms.py')
  path.write_text(CONFIG.replace(
      '  return config',
      '  config.arms = config.arms[:2] + config.arms[-1:]\n  return config'))
  return path


def launched(config, workdir, *overrides) -> dict:
  status = launch.main([f'--config={config}', f'--workdir={workdir}',
                        *(f'--config.{o}' for o in overrides)])
  assert status == 0
  return json.loads((workdir / 'results.json').read_text())


@pytest.fixture(scope='module')
def study(config, tmp_path_factory, compiled_quickly):
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(pathlib.Path(__file__).parents[2])
    fit._programs.cache_clear()
    out = tmp_path_factory.mktemp('study')
    launched(config, out)
    compiled = fit._programs.cache_info().currsize
    return Study(config, out, programs(out, fit.Axes()), compiled)


@pytest.fixture
def workdir(study):
  return study.workdir


def rows(workdir) -> dict:
  return json.loads((workdir / 'results.json').read_text())[
      'classifiers']['cnn']['arms']


def networks(workdir):
  given = files.read_json(workdir / 'config.json')
  with run.plan(given, workdir) as opened:
    yield judge.network(opened)
    for name, block in given['classifiers'].items():
      yield fit.network(
          opened.spec, f'config.classifiers.{name}', block['model'],
          schema.arguments(block, schema.CLASSIFIER))


def programs(workdir, axes) -> dict:
  """What trained them, where it is in the cache."""
  return {net.where: fit._programs(net, axes) for net in networks(workdir)}


def test_one_compilation_serves_all_arms_and_runs(study):
  """Also where their lengths differ."""
  assert set(study.programs) == {'config.judge', 'config.classifiers.cnn'}
  assert study.compiled == 2
  for made in study.programs.values():
    assert made.step._cache_size() == 1
  assert len({row['steps'] for row in rows(study.workdir).values()}) > 2


def test_what_each_arm_learns_from(workdir):
  found = rows(workdir)
  counts = files.read_json(workdir / 'results.json')['data']['counts'][
      'train']
  total, most = sum(counts), max(counts)
  assert len(set(counts)) > 1
  filled = most * len(counts)
  want = {'oversample': (filled, 0), 'fill': (total, filled - total),
          'add': (total, total)}
  for arm, row in found.items():
    assert (row['real'], row['synthetic']) == want.get(arm, (total, 0)), arm
    assert row['generated'] == (arm in ('fill', 'add', 'cutmix_synthetic'))
  assert found['add']['baseline'] == 'standard'
  page = (workdir / 'report.html').read_text()
  for words in ('CutMix with cgan images of the same class', 'class weights',
                'balanced softmax', 'classes repeated up to max'):
    assert words in page


def alike(one, other, arms):
  """Runs are the same but for rounding."""
  for name in arms:
    for i in range(2):
      a, b = (next((d / 'classify').glob(f'cnn.{name}.{i}-*'))
              for d in (one, other))
      assert a.name == b.name
      with np.load(a / 'predictions.npz') as x, (
          np.load(b / 'predictions.npz')) as y:
        np.testing.assert_allclose(x['logits'], y['logits'], atol=1e-4)
      for x, y in zip(metrics_log.read(a), metrics_log.read(b), strict=True):
        assert x == pytest.approx(y, abs=1e-4)
    assert rows(one)[name]['chosen_steps'] == rows(other)[name]['chosen_steps']
  assert not list((other / 'classify').glob('together*'))


def test_runs_at_once_are_runs_one_by_one(study, tmp_path):
  """By one compilation, also where lengths are no multiples of the stride.

  And the judge, alone, is what it is by single steps.
  """
  before = fit._programs.cache_info().currsize
  other = study.again(tmp_path / 'w', 'runs_at_once=yes', 'steps_per_call=4',
                      without=['judge'])
  # The judge's and the classifier's to train with, the judge's to predict with.
  assert fit._programs.cache_info().currsize <= before + 3
  for axes, where in ((fit.Axes(2, 4), 'config.classifiers.cnn'),
                      (fit.Axes(None, 4), 'config.judge')):
    assert programs(other, axes)[where].step._cache_size() == 1
  assert any(row['steps'] % 4 for row in rows(other).values())
  alike(study.workdir, other, rows(other))
  names = [sorted(f.name for f in (d / 'classify').iterdir())
           for d in (study.workdir, other)]
  assert names[0] == names[1]
  one, four = (np.load(next((d / 'judge').iterdir()) / 'predictions.npz')
               for d in (study.workdir, other))
  np.testing.assert_allclose(one['logits'], four['logits'], atol=1e-4)


def test_runs_at_once_resume_to_the_same_bits(study, few_arms, tmp_path,
                                              monkeypatch):
  whole = study.again(tmp_path / 'whole', 'runs_at_once=yes', config=few_arms)
  alike(study.workdir, whole, rows(whole))
  finish, calls = fit._finish, []
  def die(*given, **more):  # Amid what the runs of an arm leave behind.
    calls.append(1)
    if len(calls) == 2:
      raise KeyboardInterrupt
    return finish(*given, **more)
  monkeypatch.setattr(fit, '_finish', die)
  copied = study.copy(tmp_path / 'w')
  assert launch.main([f'--config={few_arms}', f'--workdir={copied}',
                      '--config.runs_at_once=yes']) == 130
  monkeypatch.setattr(fit, '_finish', finish)
  launched(few_arms, copied, 'runs_at_once=yes')
  assert rows(copied)['real']['values'] == rows(whole)['real']['values']
  for a in (whole / 'classify').glob('cnn.real.*'):
    b = copied / 'classify' / a.name
    with np.load(a / 'variables.npz') as x, np.load(b / 'variables.npz') as y:
      for name in x.files:
        np.testing.assert_array_equal(x[name], y[name])


def test_budgets(study, few_arms, tmp_path):
  found = rows(study.again(tmp_path / 'w', 'budget=compute', 'log_every=99',
                           'save_every=99', 'eval_every=99'))
  given = files.read_json(tmp_path / 'w' / 'config.json')
  with run.plan(given, tmp_path / 'w') as opened:
    net = list(networks(tmp_path / 'w'))[1]
    generator = budget.generator_flops(
        opened.models['cgan'], opened.spec, 8, 4)
  more = math.ceil(generator / budget.classifier_flops(net, 8))
  assert more > 0
  for arm, row in found.items():
    assert row['steps'] == 8 + more * (arm not in ('cutmix_synthetic', 'fill',
                                                   'add')), arm
  # Run by run the same start and data: what differs is the arm, even where
  # arms are of one length.
  assert len({json.dumps(row['curves']) for row in found.values()}) == len(
      found)
  launched(few_arms, tmp_path / 'w', 'budget=steps')
  assert {row['steps'] for row in rows(tmp_path / 'w').values()} == {8}


def test_folds(few_arms, tmp_path):
  found = launched(few_arms, tmp_path, 'data.folds=3', 'data.imbalance=None',
                   'data.per_class=None')
  opened = json.loads((tmp_path / 'config.json').read_text())
  digests = [fold['test'] for fold in found['data']['folds']]
  assert len(set(digests)) == 3
  assert set(found['pools']) == {f'cgan, fold {i}' for i in range(3)}
  for row in found['classifiers']['cnn']['arms'].values():
    assert row['n'] == 3 and len(row['values']) == 3 * opened['runs']
    assert row['mean'] == pytest.approx(np.mean(row['values']))
  # Every training image of the source is tested once.
  seen = [np.load(f / 'test_index.npy') for f in (tmp_path / 'data').iterdir()]
  assert len(np.unique(np.concatenate(seen))) == sum(map(len, seen))
  assert 'fold' in (tmp_path / 'report.html').read_text()


def test_a_leak_stops_the_study(few_arms, tmp_path, capsys):
  args = [f'--config={few_arms}', f'--workdir={tmp_path}']
  assert launch.main([*args, '--stage=judge']) == 0
  data, = (tmp_path / 'data').iterdir()
  pool, = (tmp_path / 'pool').iterdir()
  arrays = files.load_npz(pool / 'pool.npz')
  arrays['images'][:3] = np.load(data / 'test_images.npy')[:3]
  files.save_npz(pool / 'pool.npz', **arrays)
  conftest.reseal(pool)
  capsys.readouterr()
  for _ in range(2):  # Whether the audit is new or was there.
    assert launch.main(args) == 2
    line = capsys.readouterr().err
    assert line.count('\n') == 1 and 'config.audit.allow_leaks=True' in line
    assert "pool 'cgan', 3 are exact" in line
    assert not list((tmp_path / 'classify').glob('cnn*'))
  assert launch.main([*args, '--config.audit.allow_leaks=True']) == 0
  found = json.loads((tmp_path / 'results.json').read_text())
  assert found['pools']['cgan']['audit']['test']['exact'] == 3
  assert '3 exact' in (tmp_path / 'report.html').read_text()


@pytest.mark.parametrize('override, line', [
    ('arms[3].mix=mixdown', r"arms\[3\]\.mix: 'mixdown'; .*mean 'mixup'"),
    ('arms[3].partner=synthetic', r'arms\[3\]\.partner: .*needs a pool'),
    ('arms[3].mix_alpha=0.0', r'arms\[3\]\.mix_alpha: 0.0'),
    ('arms[6].class_weights=-1.0', r'arms\[6\]\.class_weights: -1'),
    ('budget=time', "budget: 'time'; .*compute"),
    ('metric=minority_accuracy', 'metric: .*config.minority'),
    ('classifiers.cnn.epochs=2.0', 'classifiers.cnn: steps 8 and epochs 2.0'),
    ('classifiers.cnn.accumulate=3', 'cnn.accumulate: 3; .*divisor'),
    ('audit.max_leaks=2.0', 'audit.max_leaks: 2.0'),
    ('runs_at_once=all', "runs_at_once: 'all'"),
])
def test_refusals(config, tmp_path, capsys, override, line):
  status = launch.main([f'--config={config}', f'--workdir={tmp_path}',
                        f'--config.{override}'])
  err = capsys.readouterr().err
  assert status == 2 and err.count('\n') == 1
  assert re.search(line, err), err


def test_several_steps_a_call_are_those_of_single_calls(tmp_path):
  def step(state, x):
    return state + x, {'loss': state}
  ends = []
  for stride in (1, 3):
    several = jax.jit(loop.repeat(step))
    def batches(i, stride=stride):
      x = np.arange(i, i + stride, dtype=np.float32)
      return (11 - i, x) if stride > 1 else x[0]
    one = jax.jit(step) if stride == 1 else (
        lambda state, batch, several=several: several(state, *batch))
    state, _, _ = loop.run(  # The last call has two steps to take.
        one, batches, np.float32(0), {}, steps=11, folder=tmp_path /
        str(stride), title='', log_every=6, save_every=6, steps_per_call=stride)
    ends.append((float(state), (tmp_path / str(stride) /
                                'metrics.jsonl').read_text()))
  assert ends[0] == ends[1]
  assert loop.whole_calls(10, 50, 500, 50) == loop.whole_calls(10, 0) == 10
  assert loop.whole_calls(10, 6, 4) == 2 and loop.whole_calls(1, 8, 4) == 1
