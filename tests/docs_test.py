"""The pages say what is there."""
import importlib
import importlib.util
import pathlib
import re

import pytest

from jaxaug.core import registry

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]


def make_config():
  spec = importlib.util.spec_from_file_location(
      'make_config', ROOT / 'docs' / 'make_config.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_the_page_of_all_keys_is_fresh_and_says_something_of_each():
  page, maker = (ROOT / 'docs' / 'config.md').read_text(), make_config()
  # A new block is one file: the page has it when it is next written.
  new = {(kind, name) for kind in maker.KINDS for name in registry.names(kind)
         if not re.search(rf'^## {maker.KINDS[kind][0]}\n(?:(?!## ).*\n)*'
                          rf'### {re.escape(name)}$', page, re.M)}
  assert page == maker.page(new), 'run: python docs/make_config.py'
  rows = re.findall(r'^\| `([^`]+)` \|.*\| (.*) \|$', page, re.M)
  assert len(rows) > 200 and all(line.strip() for _, line in rows), [
      key for key, line in rows if not line.strip()]


@pytest.mark.parametrize('page', PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files(page):
  for target in re.findall(r'\]\(([^)#\s]+)', page.read_text()):
    assert '://' in target or (page.parent / target).exists(), target


def test_the_readme_is_two_screens_and_its_map_is_of_rooms_that_are_there():
  text = (ROOT / 'README.md').read_text()
  assert text.count('\n') <= 95
  rooms = re.findall(r'^\| `(\w+)/` \|', text, re.M)
  there = {f.parent.name for f in (ROOT / 'jaxaug').glob('*/__init__.py')}
  assert set(rooms) == there and len(rooms) == 10


@pytest.mark.parametrize('page', PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_imports_on_a_page_exist(page):
  text = page.read_text().replace('mlp_gan', 'cgan')  # A reader makes it.
  for name in re.findall(r'`((?:jaxaug|tests|configs|docs)/[\w/]+(?:\.py)?/?)`',
                         text):
    assert (ROOT / name).exists() or name == 'configs/cgan.py', name
  for module, names in re.findall(r'^from (jaxaug[\w.]*) import (.*)', text,
                                  re.M):
    for name in names.split(', '):
      found = importlib.import_module(module)
      assert hasattr(found, name) or importlib.import_module(
          f'{module}.{name}'), name
