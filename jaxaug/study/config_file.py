"""Reads a config file, and overrides of a command line, into a plain dict."""
import ast
import contextlib
import importlib.util
import inspect
import os
import pathlib
import re
import sys
import traceback

from jaxaug.augment import standard
from jaxaug.core import errors, interrupts, registry
from jaxaug.study import arms, schema, sections
from jaxaug.study import overrides as overriding


def load(spec: str, overrides=()) -> dict:
  """Returns the config of FILE[:VARIANT], plain, complete and checked.

  Args:
    spec: a file with `get_config`, and what that is called with.
    overrides: such as '--config.data.per_class=20'.

  Raises:
    InputError: something in the file or in an override is wrong; says in which
      line of the file, where it is the file.
  """
  path, _, variant = spec.partition(':')
  changes = overriding.parse(overrides)
  config = _call(path, variant or None)
  given = {change.path: change.text for change in changes}
  with _located(path, given, every=False):
    sections.check(config)
    _complete(config, given)
  config = overriding.apply(overriding.plain(config), changes)
  sections.check(config)
  _complete(config, {})  # What an override has written anew.
  _as_numbers(config)
  with _located(path, given, every=True):
    _of_minority(config)
    schema.check(config)
  return config


# ------------------------------------------------------------------- the file
def _call(path: str, variant: str | None) -> dict:
  """Returns what `get_config(variant)` of the file returns, plain."""
  if not pathlib.Path(path).is_file():
    folder = pathlib.Path(path).parent
    if folder == pathlib.Path() or not folder.is_dir():
      folder = pathlib.Path('configs')
    known = sorted(str(p) for p in folder.glob('*.py')
                   if p.stem not in ('common', 'recipes', '__init__'))
    raise errors.InputError(
        f'--config: there is no file {path!r}; expected one such as '
        f'{", ".join(known) or "configs/quickstart.py"}.'
        f'{errors.nearest(path, known)}')
  _see_configs(path)
  try:
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_file_location('study_config', path))
    module.__spec__.loader.exec_module(module)
    if not hasattr(module, 'get_config'):
      raise errors.InputError('it has no get_config(variant); expected a study '
                              'such as configs/quickstart.py')
    config = module.get_config(variant)
    value = config.to_dict() if hasattr(config, 'to_dict') else None
    if not isinstance(value, dict):
      raise errors.InputError(f'get_config returned {errors.shown(config)}; '
                              'expected what common.base() returns, edited.')
    return overriding.plain(value)
  except interrupts.Interrupted:
    raise
  except BaseException as e:  # No file of settings ends a program.
    raise errors.InputError(_told(e, path)) from e


def _see_configs(path: str):
  """Lets a config import `configs`: the folder of it or of one above it."""
  for folder in pathlib.Path(path).resolve().parents:
    if (folder / 'configs' / 'common.py').is_file():
      if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
      return


def _told(e: Exception, path: str) -> str:
  """Returns file, line and the whole message of an error in a config."""
  words = ' '.join(str(e).replace('\\n', ' ').split())
  if isinstance(e, ModuleNotFoundError) and e.name == 'configs':
    words += ('; expected configs/common.py in this folder or one above it: '
              'copy configs/ there')
  if not words or not isinstance(e, (ValueError, errors.InputError)):
    # A config raises those by itself; with others the kind says a part of it.
    words = f'{type(e).__name__}: {words}'.removesuffix(': ')
  here = os.path.abspath(path)  # As tracebacks have it.
  if isinstance(e, SyntaxError) and os.path.abspath(e.filename or '') == here:
    return f'{path}, line {e.lineno}: {words}'
  frames = [frame for frame in traceback.extract_tb(e.__traceback__)
            if os.path.abspath(frame.filename) == here]
  if not frames:
    return f'{path}: {words}'
  return f'{path}, line {frames[-1].lineno}: {words} ({frames[-1].line})'


@contextlib.contextmanager
def _located(path: str, given: dict, every: bool):
  """Puts file and line before an error about a key that the file sets.

  Args:
    path: of the file.
    given: keys of the overrides, which are not the file's.
    every: whether only a statement with every word of the key counts, as
      where the file need not be at fault.
  """
  try:
    yield
  except errors.InputError as e:
    key = re.match(r'config[\w.\[\]]*', str(e))
    if key is None or any(key[0].startswith(other) or other.startswith(key[0])
                          for other in given):
      raise
    line = _line(path, key[0], every)
    if line is None and every:
      raise
    # As where a block's model is given without its key.
    if line is None and '.' in key[0]:
      line = _line(path, key[0].rpartition('.')[0], every)
    place = '' if line is None else f', line {line}'
    raise errors.InputError(f'{path}{place}: {e}') from e


def _line(path: str, key: str, every: bool) -> int | None:
  """Returns the line of a file that sets `key`, as far as one can tell.

  It is the last statement that mentions the key's last word and the most of
  the others.
  """
  words = re.findall(r'[A-Za-z_]\w*', key)
  best, line = 0, None
  for node in ast.walk(ast.parse(pathlib.Path(path).read_text())):
    if isinstance(node, (ast.Assign, ast.AugAssign, ast.Expr, ast.Return)):
      said = _mentions(node, words)
      score = len(set(said) & set(words))
      if words[-1] in said and score >= best and (
          score >= len(words) - 1 or not every):
        best, line = score, said[words[-1]]
  return line


def _mentions(statement: ast.stmt, words: list[str]) -> dict[str, int]:
  """Returns every word that may be a key in a statement, with its line."""
  said = {}
  for node in ast.walk(statement):
    if isinstance(node, ast.Attribute):
      chain = ast.unparse(node).split('.')
      # `config.name` is another key than config.data.name.
      if chain[0] != words[0] or chain == words[:len(chain)]:
        said[node.attr] = node.end_lineno
    elif isinstance(node, ast.keyword) and node.arg:
      said[node.arg] = node.lineno
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
      said[node.value] = node.lineno
  return said


def _as_numbers(config: dict):
  """Turns whole numbers into the floats that they stand for."""
  for where, kinds in sections.KEYS.items():
    section = config if where == 'config' else config[where[len('config.'):]]
    for key in kinds.keys() & section.keys():
      if sections.members(kinds[key])[0] is float and section[key] is not None:
        section[key] = float(section[key])


def _of_minority(config: dict):
  """Writes out the classes of arms and selectors that are 'minority'."""
  for where, block in (
      *((f'config.selectors.{name}', block)
        for name, block in config['selectors'].items()),
      *((f'config.arms[{i}]', arm) for i, arm in enumerate(config['arms']))):
    if list(block.get('classes') or ()) == ['minority']:
      if not config['minority']:
        raise errors.InputError(
            f'config.minority: empty; expected names of classes, for '
            f"{where}.classes is 'minority'.")
      block['classes'] = list(config['minority'])


# ------------------------------------------------------------------ the blocks
def _complete(config: dict, given: dict):
  """Gives every block its part's arguments, with the part's defaults.

  So that each can be named in an override; a block whose part is overridden
  drops what its new part does not take.
  """
  for where, section, block in sections.blocks(config):
    kind, key = sections.PARTS.get(section, ('', ''))
    takes = {}
    # A pool that is drawn has no source.
    name = kind and given.get(f'{where}.{key}', block.get(key))
    if name:
      for part in sections.parts(kind, name, f'{where}.{key}'):
        sections.check_arguments(part, block, where)
        takes |= registry.arguments(part)
    own = sections.BLOCKS[section]
    for extra in set(block) - {*takes, *own}:
      if not kind or f'{where}.{key}' not in given:
        sections.check_key(where, extra, list(dict.fromkeys([*own, *takes])))
      del block[extra]
    takes |= {k: v for k, v in sections.DEFAULTS.items() if k in own}
    for argument, default in takes.items():
      if argument not in block and default is not inspect.Parameter.empty:
        block[argument] = default
  takes = registry.arguments(standard.make)
  for block in config['augmentations'].values():
    for argument in takes:
      block.setdefault(argument, takes[argument])
  for arm in config['arms']:
    arms.complete(arm)
  source = given.get('config.data.source', config['data']['source'])
  for argument, p in sections.of_source(source).items():
    if p.default is not inspect.Parameter.empty:
      config['data'].setdefault(argument, p.default)
