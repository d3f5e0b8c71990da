"""The benchmarks load, and what they time is there."""
import importlib
import pathlib

import pytest

from jaxaug.core import registry
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
