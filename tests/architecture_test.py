"""Who may import whom: imports go strictly downward, heavy ones stay put."""
import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

from jaxaug.core import registry

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'jaxaug'
# The rooms, from the bottom up; those of one rank never import each other.
RANKS = (
    ('core',),
    ('nn', 'augment', 'data'),
    ('training', 'classifiers'),
    ('generators', 'evaluation'),
    ('study',),
    ('commands',),
    ('__main__',),
)
RANK = {room: i for i, rooms in enumerate(RANKS) for room in rooms}
# Folders whose files are blocks: found by name, and alone.
BLOCKS = {f'jaxaug.{folder}' for folder in registry.FOLDERS.values()}
# The rooms or modules that may import each of the heavy libraries.
HEAVY = {
    'orbax': ('jaxaug.training.checkpoint',),
    'tensorflow': ('jaxaug.data.datasets',),
    'tensorflow_datasets': ('jaxaug.data.datasets',),
    # absl: TFDS logs through it, and orbax too.
    'absl': ('jaxaug.data.datasets', 'jaxaug.training.checkpoint',
             'jaxaug.study.config_file'),
    'ml_collections': ('jaxaug.study.config_file',),
    'sklearn': ('jaxaug.data.selectors',),
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


def _room(module: str) -> str:
  return module.split('.')[1]


def _block(module: str) -> str | None:
  """The folder of blocks that a module is one of, or None."""
  folder = module.rpartition('.')[0]
  return folder if folder in BLOCKS else None


IMPORTS = {_module(path): [m for m, _ in _imports(path)
                           if m.split('.')[0] == 'jaxaug'] for path in FILES}
ids = [*IMPORTS]


def test_the_top_is_the_rooms_and_every_room_has_a_rank():
  top = {p.name for p in PACKAGE.iterdir() if p.name != '__pycache__'}
  assert {p.removesuffix('.py') for p in top} == RANK.keys() | {'__init__'}
  assert len(top) <= 12 and len(FILES) > 100


@pytest.mark.parametrize('me', ids)
def test_imports_go_strictly_downward(me):
  for module in IMPORTS[me]:
    assert module in IMPORTS, f'{me} imports {module}, which is no file'
    assert module != 'jaxaug' and me.count('.'), f'{me} imports {module}'
    inside = _room(module) == _room(me) and _block(me) != _block(module)
    inside |= _room(module) == _room(me) and not _block(me)
    assert inside or RANK[_room(module)] < RANK[_room(me)], (
        f'{me} must not import {module}')


def test_no_circle_inside_a_room():
  graphlib.TopologicalSorter(IMPORTS).prepare()


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
    me = _module(path)
    assert me.startswith(tuple(f'{place}.' for place in HEAVY[root])) or (
        me in HEAVY[root]), f'{me} must not import {module}'
    assert not top, f'{me} must import {module} where it is used'


def test_blocks_come_by_name():
  # Only the command that prepares TFDS sets is about one block.
  users = {me for me, modules in IMPORTS.items() if any(
      _block(m) and m != 'jaxaug.generators.gan' for m in modules)}
  assert users <= {'jaxaug.commands.prepare'}


@pytest.mark.parametrize('where', ['configs', 'benchmarks', 'launch.py'])
def test_nothing_imports_tests_and_a_config_is_data(where):
  found = ROOT / where
  files = sorted(found.glob('*.py')) if found.is_dir() else [found]
  for path in files:
    if not path.exists():
      pytest.skip(f'no {where}')
    for module, _ in _imports(path):
      assert module.split('.')[0] != 'tests' or (
          where == 'benchmarks' and 'torch_twins' in module)
      if where == 'configs':
        assert module.split('.')[0] not in ('jaxaug', 'jax', 'launch')


_LOAD = """
import importlib, pathlib, sys
for path in sorted(pathlib.Path('jaxaug').rglob('*.py')):
  if 'datasets/embedded' not in path.as_posix():
    name = '.'.join(path.with_suffix('').parts).removesuffix('.__init__')
    importlib.import_module(name)
print(*(m for m in ('tensorflow', 'tensorflow_datasets', 'orbax', 'torch',
                    'ml_collections', 'matplotlib', 'tensorboard', 'clu',
                    'scipy', 'sklearn') if m in sys.modules))
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
      # Numpy wants an object of what looks like an array.
      assert names and names <= bases or node.name in (
          'Files', 'Records', 'Joined'), (
          f'{node.name}({", ".join(names)})')
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
        node.name[0] != '_' and 'embedded/' not in path.as_posix()):
      assert ast.get_docstring(node), f'{node.name} has no docstring'
