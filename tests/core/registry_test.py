"""Blocks are found by file name; a wrong name or key is one clear line."""
import inspect
import pathlib

import pytest

import jaxaug
from jaxaug.core import errors, registry, types
from jaxaug.generators import cgan
from jaxaug.generators.gan import gan
from jaxaug.training import classifier

SPEC = types.ImageSpec(8, 8, 1, 3)


@pytest.mark.parametrize('kind', registry.FOLDERS)
def test_names_are_the_files_and_all_can_be_imported(kind):
  folder = pathlib.Path(jaxaug.__file__).parent / registry.FOLDERS[
      kind].replace('.', '/')
  names = registry.names(kind)
  assert names == sorted(f.stem for f in folder.glob('[a-z]*.py'))
  for name in names:
    assert registry.find(kind, name).__name__ == (
        f'jaxaug.{registry.FOLDERS[kind]}.{name}')


@pytest.mark.parametrize('kind, name, where, line', [
    ('generators', 'cgam', 'config.generators.a.model',
     r"^config\.generators\.a\.model: there is no generator 'cgam'; expected "
     r"one of .*\bcgan\b.*\. Did you mean 'cgan'\?$"),
    ('datasets', 'folders', '', "^datasets: there is no dataset 'folders'; "
     r".*Did you mean 'folder'\?$"),
    ('metrics', 'zzz', '', r"no metric 'zzz'; expected one of [^?]*$"),
    ('classifiers', '__init__', '', "no classifier '__init__'"),
    ('classifiers', '../types', '', "no classifier '../types'"),
    ('classifiers', '', '', "no classifier ''"),
])
def test_unknown_name_lists_the_names_and_the_nearest(kind, name, where, line):
  with pytest.raises(errors.InputError, match=line) as e:
    registry.find(kind, name, where)
  assert '\n' not in str(e.value)


def test_arguments_are_keyword_only_and_follow_the_rule():
  def inner(*, lr: float = 1., steps: int):
    del lr, steps
  def outer(spec, first=3, *, width: int = 2, lr: float = 5., **rule: inner):
    del spec, first, width, lr, rule
  assert registry.arguments(outer) == {
      'lr': 5., 'steps': inspect.Parameter.empty, 'width': 2}
  assert registry.arguments(lambda x: x) == {}


def test_arguments_follow_every_rule_of_a_tuple_in_its_order():
  def first(*, lr: float = 1., steps: int = 2):
    del lr, steps
  def second(*, width: int = 3):
    del width
  def outer(*, depth: int = 4, lr: float = 5., **parts: (first, second)):
    del depth, lr, parts
  assert [*registry.arguments(outer).items()] == [
      ('lr', 5.), ('steps', 2), ('width', 3), ('depth', 4)]


def test_arguments_of_a_generator_are_its_own_and_the_rules():
  known = registry.arguments(cgan.build)
  assert known['g_widths'] == (128, 128, 128)
  own = registry.arguments(gan.make)
  # Of the rule's, the block gives z_dim a default of its own.
  assert {**own, 'z_dim': known['z_dim']}.items() <= known.items()
  assert 'spec' not in known and 'rule' not in known
  assert 'schedule' in registry.arguments(classifier.make)


def test_check_names_the_path_the_nearest_key_and_what_is_missing():
  def block(spec, *, width: int = 2, steps: int):
    del spec, width, steps
  registry.check(block, {'steps': 1}, 'config.x')
  with pytest.raises(errors.InputError) as e:
    registry.check(block, {'steps': 1, 'widht': 2}, 'config.x')
  assert str(e.value) == ('config.x.widht: unknown key; expected one of width, '
                          "steps. Did you mean 'width'?")
  with pytest.raises(errors.InputError, match=r'^config\.x\.steps: missing'):
    registry.check(block, {'width': 2}, 'config.x')
  with pytest.raises(errors.InputError, match="Did you mean 'depth'"):
    registry.check(block, {'steps': 1, 'deph': 2}, 'config.x', also=('depth',))
  with pytest.raises(errors.InputError, match=r'^config\.x\.spec: unknown'):
    registry.check(block, {'steps': 1, 'spec': 2}, 'config.x')


def test_build_passes_arguments_and_puts_the_path_before_a_refusal():
  where = 'config.classifiers.net'
  net = registry.build('classifiers', 'resnet', {'depth': 14}, where, SPEC)
  assert (net.spec, net.blocks) == (SPEC, 2)
  for given, line in (
      ({'depth': 15}, rf'^{where}\.depth: 15; expected 6 n \+ 2'),
      ({'dept': 14}, rf'^{where}\.dept: unknown key; .*mean \'depth\''),
      ({'dtype': 'float16'}, rf"^{where}\.dtype: 'float16'; expected one of")):
    with pytest.raises(errors.InputError, match=line):
      registry.build('classifiers', 'resnet', given, where, SPEC)
  with pytest.raises(errors.InputError,
                     match=rf"^{where}\.model: there is no classifier 'resn'"):
    registry.build('classifiers', 'resn', {}, where, SPEC)


def test_within_keeps_the_cause_and_leaves_other_errors_alone():
  with pytest.raises(errors.InputError, match='^config.a.b: 1') as e:
    with registry.within('config.a'):
      raise errors.InputError('b: 1')
  assert str(e.value.__cause__) == 'b: 1'
  with pytest.raises(ZeroDivisionError):
    with registry.within('config.a'):
      1 / 0  # noqa: B018
