"""The page on writing a generator: its code runs as it stands there."""
import pathlib
import re
import sys

import pytest

import jaxaug.generators
from jaxaug.core import registry
from tests import zoo_test
from tests.study import smoke_test

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / 'docs' / 'write_a_generator.md').read_text()
FILES = dict(re.findall(
    r'Save this as\s`([^`]+)`:\n\n```python\n(.*?)```', PAGE, re.DOTALL))
NAME = 'mlp_gan'


@pytest.fixture
def written(tmp_path, monkeypatch):
  """The page's files, as if they lay where it says; returns the folder."""
  for file, text in FILES.items():
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
  monkeypatch.setattr(jaxaug.generators, '__path__', [
      *jaxaug.generators.__path__, str(tmp_path / 'jaxaug' / 'generators')])
  known = registry.names
  monkeypatch.setattr(registry, 'names', lambda kind: sorted(
      known(kind) + [NAME] * (kind == 'generators')))
  yield tmp_path
  sys.modules.pop(f'jaxaug.generators.{NAME}', None)


def test_the_page_has_both_files_and_the_first_is_short():
  assert [*FILES] == [f'jaxaug/generators/{NAME}.py', f'configs/{NAME}.py']
  assert 40 < len(FILES[f'jaxaug/generators/{NAME}.py'].splitlines()) <= 62


def test_the_example_keeps_the_contract(written):
  zoo_test.test_block_is_documented_and_takes_its_options_by_name(
      'generators', NAME)
  zoo_test.test_generator(NAME, zoo_test.WIDE, 'float32', written)


@pytest.mark.slow
@pytest.mark.usefixtures('at_the_root', 'compiled_quickly')
def test_the_example_goes_through_a_study(written):
  results = smoke_test.study(written / 'run',
                             f'{written}/configs/{NAME}.py:smoke',
                             *smoke_test.LIGHT, alone=False)
  assert results['generators']['mlp']['model'] == NAME
  assert {*results['classifiers']['cnn']['arms']} == {'real', 'add_100'}


def test_every_name_on_the_page_exists():
  words = set(re.findall(r'`?((?:jaxaug|configs|tests)/[\w/]+\.py)', PAGE))
  assert words > {*FILES}
  for word in words - {*FILES}:
    assert (ROOT / word).exists(), word
