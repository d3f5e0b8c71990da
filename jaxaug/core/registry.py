"""Finds a building block by its file name: `generators/cgan.py` is 'cgan'."""
import contextlib
import importlib
import inspect
import pathlib

from jaxaug.core import errors

_ROOT = pathlib.Path(__file__).parents[1]
# kind -> the folder whose files are its blocks.
FOLDERS = {
    'datasets': 'data.datasets',
    'selectors': 'data.selectors',
    'generators': 'generators',
    'classifiers': 'classifiers',
    'extractors': 'evaluation.extractors',
    'image_metrics': 'evaluation.image_metrics',
    'metrics': 'evaluation.metrics',
}
# What a block was called before, and is still found by.
_RENAMED = {('selectors', 'novel'): 'not_copies'}


def names(kind: str) -> list[str]:
  """Returns the blocks of one kind: the files of its folder."""
  folder = _ROOT / FOLDERS[kind].replace('.', '/')
  return sorted(f.stem for f in folder.glob('*.py') if f.stem[0] != '_')


def find(kind: str, name: str, where: str = ''):
  """Imports a block.

  Args:
    kind: a key of FOLDERS, such as 'generators'.
    name: a file of it, without its ending.
    where: the config key that holds the name, for the error.

  Raises:
    InputError: there is no such file; lists the names and the nearest.
  """
  if not isinstance(name, str):
    raise errors.InputError(f'{where or kind}: {name!r}; expected a name.')
  name = _RENAMED.get((kind, name), name)
  if name not in (known := names(kind)):
    raise errors.InputError(
        f'{where or kind}: there is no {kind[:-1]} {name!r}; expected one of '
        f'{", ".join(known)}.{errors.nearest(name, known)}')
  return importlib.import_module(f'jaxaug.{FOLDERS[kind]}.{name}')


def rules(function) -> tuple:
  """Returns the functions that take what `function` does not take itself.

  Those of a last `**rule: other`, where `other` is one or a tuple of them.
  """
  for p in inspect.signature(function).parameters.values():
    if p.kind is p.VAR_KEYWORD and p.annotation is not p.empty:
      rule = p.annotation
      return rule if isinstance(rule, tuple) else (rule,)
  return ()


def parameters(function) -> dict[str, inspect.Parameter]:
  """Returns the keyword-only parameters of a function and of its `rules`.

  A block's signature is its schema: configs are checked against it.
  """
  out = {}
  for rule in rules(function):
    out |= parameters(rule)
  return out | {p.name: p for p in inspect.signature(
      function).parameters.values() if p.kind is p.KEYWORD_ONLY}


def arguments(function) -> dict:
  """Returns the names of `parameters` with their defaults."""
  return {name: p.default for name, p in parameters(function).items()}


@contextlib.contextmanager
def within(where: str):
  """Puts the config path `where` before an InputError that names a key."""
  try:
    yield
  except errors.InputError as e:
    raise errors.InputError(f'{where}.{e}') from e


def check(function, given, where: str, also=()):
  """Raises InputError for a key of `given` that `function` does not take.

  `also` are keys that something else would take, for the hint.
  """
  known = arguments(function)
  for key in given:
    if key not in known:
      every = list(dict.fromkeys([*also, *known]))
      raise errors.InputError(
          f'{where}.{key}: unknown key; expected one of {", ".join(every)}.'
          f'{errors.nearest(key, every)}')
  missing = [k for k, v in known.items()
             if v is inspect.Parameter.empty and k not in given]
  if missing:
    raise errors.InputError(f'{where}.{missing[0]}: missing, and it has no '
                            'default.')


def build(kind: str, name: str, given: dict, where: str, *args,
          key: str = 'model'):
  """Returns `build(*args, **given)` of a block.

  Raises:
    InputError: an unknown name or key, or what `build` itself refuses; each
      with its full config path, `where` being that of the block and `key` the
      one in it that holds the name.
  """
  block = find(kind, name, f'{where}.{key}')
  check(block.build, given, where)
  with within(where):
    return block.build(*args, **given)
