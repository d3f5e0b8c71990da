"""The benchmarks load, and what they time is there."""
import importlib
import pathlib

import pytest

from benchmarks import over_seeds
from jaxaug.core import errors, files, registry
from jaxaug.training import classifier

ROOT = pathlib.Path(__file__).parents[1]
NAMES = sorted(f.stem for f in (ROOT / 'benchmarks').glob('*.py'))


@pytest.mark.parametrize('name', NAMES)
def test_benchmark_loads(name):
  pytest.importorskip('torch')
  module = importlib.import_module(f'benchmarks.{name}')
  assert module.__doc__


def test_what_is_timed_is_there_and_takes_what_it_is_given():
  """A block without a twin in PyTorch is not timed; none is asked for one."""
  pytest.importorskip('torch')
  from benchmarks import train_step
  for (title, shape), make in train_step.cases().items():
    name = title.partition(',')[0]
    if make.func is train_step.classifier:
      _, spec, size, given = make.args
      network = registry.find('classifiers', name).build(spec, **given)
      classifier.make(spec, network, **make.keywords)
      assert type(network).__name__ in train_step.CLASSIFIERS
    else:
      spec, size, settings = make.args[-3:]
      registry.find('generators', name).build(spec, **settings)
    assert shape.startswith(f'{size}x')


# Launch -> accuracies of a balanced test split, percent.
_REAL, _WEIGHTS, _MADE = (80, 81, 82), (85, 84, 86), (82, 82.5, 84)


def _launches(tmp_path, spoil=lambda results: None):
  """Three finished studies of three arms, of which a launch may be spoiled."""
  out = []
  for seed, numbers in enumerate(zip(_REAL, _WEIGHTS, _MADE, strict=True)):
    arms = {name: {'generated': name == 'made', 'metrics': {
        'balanced_accuracy': {'mean': x / 100, 'lower_is_better': False},
        'error': {'mean': 1 - x / 100, 'lower_is_better': True}}}
            for name, x in zip(('real', 'weights', 'made'), numbers,
                               strict=True)}
    results = {'alpha': 0.05, 'classifiers': {
        'cnn': {'baseline': 'real', 'arms': arms}}, 'config': {
            'seed': seed, 'metric': 'balanced_accuracy', 'minority': [],
            'arms': [{'name': name} for name in arms]}}
    if seed == 1:
      spoil(results)
    (tmp_path / str(seed)).mkdir()
    files.write_json(tmp_path / str(seed) / 'results.json', results)
    out.append(str(tmp_path / str(seed)))
  return out


def test_arms_are_paired_over_launches(tmp_path, capsys):
  workdirs = _launches(tmp_path)
  assert over_seeds.main([*workdirs, f'--json={tmp_path / "out.json"}']) == 0
  assert 'over' not in capsys.readouterr().err
  tables = files.read_json(tmp_path / 'out.json')['tables']
  # The error is what is left to 1, and told once.
  assert list(tables) == ['cnn, balanced_accuracy, against real',
                          'cnn, balanced_accuracy, against weights']
  real, best = tables.values()
  # By hand: 2, 1.5, 2 points; mean 1.8333, std 0.28868, t(2) at 0.975 4.30265.
  assert real['made']['difference'] == pytest.approx(0.018333, abs=1e-6)
  half = 4.30265 * 0.0028868 / 3**0.5
  assert real['made']['low'] == pytest.approx(0.018333 - half, abs=1e-6)
  assert real['made']['n'] == 3
  # Holm over two arms: the larger p (of weights) as it is, the other twice.
  assert real['made']['p_corrected'] == pytest.approx(2 * real['made']['p'])
  assert set(best) == {'weights', 'made'}
  assert best['made']['difference'] == pytest.approx(-0.021667, abs=1e-6)
  assert [best[arm]['verdict'] for arm in best] == ['baseline', '']


@pytest.mark.parametrize('spoil, line', [
    (lambda r: r['classifiers']['cnn']['arms'].pop('made'),
     "1: has no numbers of cnn for the arm 'made'; expected a study without"),
    (lambda r: r['classifiers']['cnn']['arms']['made']['metrics'][
        'balanced_accuracy'].update(mean=None),
     "seed 1: balanced_accuracy of the arm 'made' is not a number"),
    (lambda r: r['config'].update(seed=0), '1: has the seed 0, as '),
    (lambda r: r['config'].update(metric='error'), 'is of another study than'),
], ids=['arm', 'number', 'seed', 'study'])
def test_launches_that_do_not_pair_up_are_one_line(tmp_path, spoil, line):
  with pytest.raises(errors.InputError) as e:
    over_seeds.main(_launches(tmp_path, spoil))
  assert line in str(e.value) and '\n' not in str(e.value)


def test_one_launch_says_nothing(tmp_path):
  with pytest.raises(errors.InputError, match='is one launch; expected '):
    over_seeds.main(_launches(tmp_path)[:1])
