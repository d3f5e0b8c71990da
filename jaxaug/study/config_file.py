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
from jaxaug.core import errors, registry
from jaxaug.study import arms, schema, sections
from jaxaug.training import classifier

# Section of blocks -> the kind of a block's part, and the key that names it.
_PARTS = {'generators': ('generators', 'model'),
          'pools': ('selectors', 'selector'),
          'classifiers': ('classifiers', 'model'),
          'judge': ('classifiers', 'model')}


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
  config = _call(path, variant or None)
  given = dict(o.removeprefix('--').partition('=')[::2] for o in overrides)
  with _located(path, given, every=False):
    sections.check(config)
    _complete(config, given)
  config = _plain(_override(config, overrides))
  sections.check(config)
  with _located(path, given, every=True):
    schema.check(config)
  return config


# ------------------------------------------------------------------- the file
def _call(path: str, variant: str | None) -> dict:
  """Returns what `get_config(variant)` of the file returns, as a dict."""
  if not pathlib.Path(path).is_file():
    folder = pathlib.Path(path).parent
    folder = folder if folder.is_dir() else pathlib.Path('configs')
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
  except Exception as e:
    raise errors.InputError(_told(e, path)) from e
  if not hasattr(config, 'to_dict'):
    raise errors.InputError(f'{path}: get_config returned {config!r}; expected '
                            'what common.base() returns, edited.')
  return config.to_dict()


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


# ------------------------------------------------------------------ the blocks
def _complete(config: dict, given: dict):
  """Gives every block its part's arguments, with the part's defaults.

  So that each can be named in an override; a block whose part is overridden
  drops what its new part does not take.
  """
  for where, section, block in sections.blocks(config):
    kind, key = _PARTS[section]
    name = given.get(f'{where}.{key}', block[key])
    build = registry.find(kind, name, f'{where}.{key}').build
    parts = [build, classifier.make] if kind == 'classifiers' else [build]
    takes = {}
    for part in parts:
      sections.check_arguments(part, block, where)
      takes |= registry.arguments(part)
    own = sections.BLOCKS[section]
    for extra in set(block) - {*takes, *own}:
      if f'{where}.{key}' not in given:
        sections.check_key(where, extra, [*own, *takes])
      del block[extra]
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


# --------------------------------------------------------------- the overrides
def _typed(config: dict):
  """Returns the ConfigDict that ml_collections' parsers know the types of."""
  from ml_collections import config_dict
  for where, kinds in sections.KEYS.items():
    section = config if where == 'config' else config[where[len('config.'):]]
    for key in kinds.keys() & section.keys():
      first, *others = sections.members(kinds[key])
      if section[key] is None:
        several = len(others) > 1 or first is tuple
        section[key] = config_dict.placeholder(object if several else first)
      elif first is float:
        section[key] = float(section[key])
  return config_dict.ConfigDict(config)


def _children(node):
  if hasattr(node, 'keys'):
    return [str(k) for k in node.keys()]
  return [f'[{i}]' for i in range(len(node))] if isinstance(
      node, (tuple, list)) else []


def _check_path(config, override: str):
  """Raises InputError unless `--config.a.b[0].c=value` names a key."""
  path, equals, _ = override.removeprefix('--').partition('=')
  if not equals:
    raise errors.InputError(f'{override}: expected {override}=VALUE.')
  node, walked = config, 'config'
  for part in re.findall(r'\[\d+\]|[^.\[\]]+', path)[1:]:
    known = _children(node)
    if part not in known:
      raise errors.InputError(
          f'{path}: there is no key {part!r} in {walked}; expected one of '
          f'{", ".join(known) or "none: it is a value"}.'
          f'{errors.nearest(part, known)}')
    index = int(part[1:-1]) if part[0] == '[' else part
    node = node[index]
    walked += part if part[0] == '[' else f'.{part}'


def _override(config: dict, overrides):
  """Applies `--config.key=value` by ml_collections' own parsers."""
  from absl import flags
  from ml_collections import config_flags
  config = _typed(config)
  for override in overrides:
    _check_path(config, override)
    m = re.fullmatch(r'--config\.data\.(\w+)=None', override)
    if m and type(None) in sections.members(sections.KEYS['config.data'][m[1]]):
      config.data[m[1]] = None  # Which the parsers cannot read.
      continue
    values, argv = flags.FlagValues(), ['jaxaug', override]
    config_flags.DEFINE_config_dict('config', config, lock_config=True,
                                    flag_values=values, sys_argv=argv)
    try:
      values(argv)
    except (flags.Error, TypeError, ValueError, SyntaxError) as e:
      key, _, value = override.removeprefix('--').partition('=')
      reason = str(e).split(': ')[-1].strip().replace('\n', ' ')
      raise errors.InputError(
          f'{key}: {value!r} is of the wrong type ({reason}); expected one '
          'like the default in configs/common.py or its file.') from e
  return config


def _plain(value):
  """ConfigDict, tuples and placeholders -> what JSON has."""
  if hasattr(value, 'to_dict'):
    value = value.to_dict()
  if isinstance(value, dict):
    return {k: _plain(v) for k, v in value.items()}
  if isinstance(value, (tuple, list)):
    return [_plain(v) for v in value]
  return value
