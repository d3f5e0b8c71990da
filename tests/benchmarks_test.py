"""The benchmarks load, and that of training steps has every classifier."""
import importlib
import pathlib

import pytest

from jaxaug import registry, supervised

ROOT = pathlib.Path(__file__).parents[1]
NAMES = sorted(f.stem for f in (ROOT / 'benchmarks').glob('*.py'))


@pytest.mark.parametrize('name', NAMES)
def test_benchmark_loads(name):
  pytest.importorskip('torch')
  module = importlib.import_module(f'benchmarks.{name}')
  assert module.__doc__


def test_every_classifier_is_timed():
  pytest.importorskip('torch')
  from benchmarks import train_step
  timed = set()
  for (_, shape), make in train_step.cases().items():
    size = next(x for x in make.args if isinstance(x, int))
    assert shape.startswith(f'{size}x')
    if make.func is not train_step.classifier:
      continue
    name, spec, _, given = make.args
    network = registry.find('classifiers', name).build(spec, **given)
    supervised.make(spec, network, **make.keywords)  # Takes what it is given.
    assert name in train_step.CLASSIFIERS
    timed.add(name)
  assert timed == set(registry.names('classifiers'))
