"""The benchmarks load, and that of training steps has every network."""
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


def test_every_generator_is_timed():
  pytest.importorskip('torch')
  from benchmarks import train_step
  timed = set()
  for (title, shape), make in train_step.cases().items():
    if make.func is train_step.classifier:
      continue
    name, (spec, size, settings) = title.partition(',')[0], make.args[-3:]
    assert shape.startswith(f'{size}x')
    registry.find('generators', name).build(spec, **settings)
    timed.add(name)
  assert timed == set(registry.names('generators'))


def test_every_classifier_is_timed():
  pytest.importorskip('torch')
  from benchmarks import train_step
  timed = set()
  for (_, shape), make in train_step.cases().items():
    if make.func is not train_step.classifier:
      continue
    name, spec, size, given = make.args
    assert shape.startswith(f'{size}x')
    network = registry.find('classifiers', name).build(spec, **given)
    classifier.make(spec, network, **make.keywords)  # Takes what it is given.
    assert name in train_step.CLASSIFIERS
    timed.add(name)
  assert timed == set(registry.names('classifiers'))
