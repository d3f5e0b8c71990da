"""Who may import whom: imports go strictly downward, heavy ones stay put."""
import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'jaxaug'
# From the bottom up. Members of one rank never import each other.
RANKS = (
    ('errors',),
    ('types', 'registry', 'warp', 'nn'),
    ('images', 'artefacts', 'confusion', 'probabilities',
     'policy'),
    ('layers', 'losses', 'augment', 'splits', 'stats', 'audit', 'mesh',
     'checkpoint', 'logs', 'signals', 'figures', 'cost', 'resampling',
     'moments', 'neighbours', 'sides', 'ada', 'penalties'),
    ('players',),
    ('adversarial', 'supervised', 'residual', 'collapse', 'weights'),
    ('pyramid',),
    ('generators', 'classifiers', 'datasets', 'selectors', 'extractors',
     'metrics', 'image_metrics'),
    ('mixing', 'loop', 'measure'),
    ('stages',),
    ('schema',),
    ('units',),
    ('study', 'prepare', 'export'),
    ('sources',),
    ('evaluate',),
)
RANK = {name: i for i, names in enumerate(RANKS) for name in names}
# The order inside a room; what is not here is at its bottom.
WITHIN = {'jaxaug.nn.cpu.convolution': 1}
TOP = len(RANKS)  # launch, configs, tests, benchmarks.
# What may import each of the heavy libraries, as module or folder.
HEAVY = {
    'orbax': ('checkpoint',),
    'tensorflow': ('datasets', 'prepare'),
    'tensorflow_datasets': ('datasets', 'prepare'),
    # absl: TFDS logs through it, and orbax too.
    'absl': ('datasets', 'checkpoint'),
    'ml_collections': (),
    'torch': (),
    'pytest': (),
}
FILES = sorted(PACKAGE.rglob('*.py'))


def _module(path: pathlib.Path) -> str:
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {_module(path) for path in FILES}


def _imports(path: pathlib.Path):
  """Yields (module, whether at the top of the file) of all imports."""
  tree = ast.parse(path.read_text())
  for node in ast.walk(tree):
    top = node in tree.body
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield alias.name, top
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: relative import'
      for alias in node.names:
        whole = f'{node.module}.{alias.name}'
        yield whole if whole in MODULES else node.module, top


def _unit(module: str) -> str:
  """The part of the layout that a module of the package belongs to."""
  return module.split('.')[1]


def _place(module: str) -> tuple[int, int]:
  return RANK[_unit(module)], WITHIN.get(module, 0)


ids = [_module(path) for path in FILES]


def test_every_module_has_a_rank():
  units = {_unit(m) for m in MODULES if '.' in m}
  assert units <= RANK.keys(), f'not in the layout: {units - RANK.keys()}'
  assert len(FILES) > 25


@pytest.mark.parametrize('path', FILES, ids=ids)
def test_imports_go_strictly_downward(path):
  me = _module(path)
  if me == 'jaxaug':
    assert not list(_imports(path))
    return
  for module, _ in _imports(path):
    if module.split('.')[0] != 'jaxaug':
      continue
    assert module in MODULES, f'{me} imports {module}, which is no file'
    assert module != 'jaxaug' and _place(module) < _place(me), (
        f'{me} must not import {module}')


@pytest.mark.parametrize('path', FILES, ids=ids)
def test_library_imports_neither_configs_nor_tests_nor_launch(path):
  roots = {module.split('.')[0] for module, _ in _imports(path)}
  assert not roots & {'configs', 'tests', 'launch', 'conftest', 'benchmarks'}


@pytest.mark.parametrize('path', FILES, ids=ids)
def test_heavy_libraries_only_where_allowed_and_when_used(path):
  for module, top in _imports(path):
    root = module.split('.')[0]
    if root not in HEAVY:
      continue
    unit = _unit(_module(path))
    assert unit in HEAVY[root], f'{unit} must not import {module}'
    assert not top, f'{unit} must import {module} where it is used'


def test_blocks_come_by_name():
  # Only the command that prepares TFDS sets is about one block.
  users = {_module(path) for path in FILES for module, _ in _imports(path)
           if RANK.get(module.split('.')[1] if '.' in module else '') == (
               RANK['generators'])}
  assert users <= {'jaxaug.prepare'}


@pytest.mark.parametrize('where', ['configs', 'benchmarks', 'launch.py'])
def test_nothing_imports_tests_and_a_config_is_data(where):
  found = ROOT / where
  files = sorted(found.glob('*.py')) if found.is_dir() else [found]
  for path in files:
    if not path.exists():
      pytest.skip(f'no {where}')
    for module, _ in _imports(path):
      assert module.split('.')[0] != 'tests'
      if where == 'configs':
        assert module.split('.')[0] not in ('jaxaug', 'jax', 'launch')


_LOAD = """
import importlib, pathlib, sys
for path in sorted(pathlib.Path('jaxaug').rglob('*.py')):
  if 'datasets/data' not in path.as_posix():
    name = '.'.join(path.with_suffix('').parts).removesuffix('.__init__')
    importlib.import_module(name)
print(*(m for m in ('tensorflow', 'tensorflow_datasets', 'orbax', 'torch',
                    'ml_collections', 'matplotlib', 'tensorboard', 'clu',
                    'scipy') if m in sys.modules))
"""


def test_the_whole_library_loads_none_of_the_heavy_ones():
  out = subprocess.run([sys.executable, '-c', _LOAD], cwd=ROOT, text=True,
                       capture_output=True, timeout=120)
  assert out.returncode == 0, out.stderr
  assert out.stdout.split() == []


@pytest.mark.parametrize('path', FILES, ids=ids)
def test_no_inheritance_and_no_drawer_for_everything(path):
  bases = {'NamedTuple', 'Module', 'Exception', 'BaseException'}
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ClassDef):
      names = {ast.unparse(base).split('.')[-1] for base in node.bases}
      assert names and names <= bases, f'{node.name}({", ".join(names)})'
  assert path.stem not in ('utils', 'util', 'helpers', 'common', 'misc')


@pytest.mark.parametrize('path', FILES, ids=ids)
def test_every_file_says_what_it_is_and_every_public_function_too(path):
  tree = ast.parse(path.read_text())
  if path.name == '__init__.py' and not tree.body:
    return
  first = (ast.get_docstring(tree) or '').split('\n')[0]
  assert first and len(first) <= 80, 'a first line that stands alone'
  for node in tree.body:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and (
        node.name[0] != '_' and 'data/' not in path.as_posix()):
      assert ast.get_docstring(node), f'{node.name} has no docstring'
