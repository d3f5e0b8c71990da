"""Changes of a config by the command line: --config.data.per_class=20."""
import ast
import inspect
import json
import re
import types
import typing

from jaxaug.core import errors
from jaxaug.study import arms, sections

_PATH = re.compile(r'config((?:\.[^.\[\]=\s]+|\[\d{1,9}\])+)')
_BOOLS = {'true': True, 't': True, '1': True,
          'false': False, 'f': False, '0': False}


class Override(typing.NamedTuple):
  """One change.

  path: as the user wrote it, 'config.arms[4].replace'.
  steps: what that goes through, ('arms', 4, 'replace').
  text: the new value.
  """
  path: str
  steps: tuple
  text: str


def parse(words) -> list[Override]:
  """Reads words such as '--config.arms[4].replace=0.3'; last ones win."""
  out = []
  for word in words:
    path, equals, text = word.removeprefix('--').partition('=')
    match = _PATH.fullmatch(path)
    if not equals:
      raise errors.InputError(f'{word}: expected {word}=VALUE.')
    if not match:
      raise errors.InputError(
          f'--{errors.shown(path)[1:-1]}: is no key; expected such as '
          '--config.data.per_class=20 or --config.arms[4].replace=0.3.')
    steps = re.findall(r'\[(\d+)\]|\.([^.\[\]]+)', match[1])
    out.append(Override(path, tuple(
        int(index) if index else name for index, name in steps), text))
  return out


def apply(config: dict, given: list[Override]) -> dict:
  """Returns a config with the changes made.

  Args:
    config: plain and complete, with lists for tuples; changed in place.
    given: of `parse`.

  Raises:
    InputError: a key that the config has not, or a value of a wrong type.
  """
  for change in given:
    node, walked = config, 'config'
    for i, step in enumerate(change.steps):
      known = _known(node, change.steps[:i])
      shown = f'[{step}]' if isinstance(step, int) else step
      if step not in known:
        words = [f'[{k}]' if isinstance(k, int) else k for k in known]
        raise errors.InputError(
            f'{change.path}: there is no key {shown!r} in {walked}; expected '
            f'one of {", ".join(words) or "none: it is a value"}.'
            f'{errors.nearest(shown, words)}')
      if i < len(change.steps) - 1:
        node = node[step] if isinstance(node, list) else node.get(step)
        walked += shown if isinstance(step, int) else f'.{step}'
    old = node[step] if isinstance(node, list) else node.get(step)
    node[step] = _value(change.text, _kinds(config, change.steps, old))
    if isinstance(old, (dict, list)) or isinstance(node[step], (dict, list)):
      sections.check(config)  # The next one may walk through it.
  return config


def _known(node, steps: tuple) -> list:
  """Returns the steps that one can take from a place in a config."""
  if isinstance(node, list):
    return [*range(len(node))]
  if not isinstance(node, dict):
    return []
  kinds = sections.KEYS.get('.'.join(['config', *map(str, steps)]), {})
  if steps[:1] == ('arms',) and len(steps) == 2:
    kinds = arms.Arm.__annotations__
  return list(dict.fromkeys([*node, *kinds]))


def _kinds(config: dict, steps: tuple, old) -> list[type]:
  """Returns the types that a key may have: as declared, or else as it is."""
  *section, key = steps
  kind, where = None, '.'.join(['config', *map(str, section)])
  if where in sections.KEYS:
    kind = sections.KEYS[where].get(key)
    if kind is None and where == 'config.data':
      parameter = sections.of_source(config['data']['source']).get(key)
      kind = parameter and parameter.annotation
  elif section[:1] == ['arms'] and len(section) == 2:
    kind = arms.Arm.__annotations__.get(key)
  elif block := sections.block_of(config, section):
    kind = block.get(key)
  if kind in (None, inspect.Parameter.empty, typing.Any):
    kind = type(old)
  return [typing.get_origin(k) or k for k in sections.members(kind)]


def _value(text: str, kinds: list[type]):
  """Returns a text as a value of one of some types, or as what it looks like.
  """
  if types.NoneType in kinds and text == 'None':
    return None
  if kinds[0] is str:
    return text
  if bool in kinds and text.lower() in _BOOLS:
    return _BOOLS[text.lower()]
  if int in kinds and re.fullmatch(r'[+-]?0\d{1,20}', text):
    return int(text)  # No literal of Python's.
  try:
    value = ast.literal_eval(text.strip())
    if json.loads(json.dumps(value)) != plain(value):
      value = text  # Keys that are no texts.
  except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
    value = text  # Also of complex numbers, bytes and sets.
  if float in kinds and int not in kinds and type(value) is int:
    try:
      return float(value)
    except OverflowError:
      return value
  if {tuple, list} & set(kinds):
    if isinstance(value, str) and not re.match(r'\s*[\[({\'"]', value):
      value = value.removesuffix(',').split(',')
    if type(value) not in kinds and not isinstance(value, (tuple, list, dict)):
      value = [value]
  return plain(value)


def plain(value):
  """ConfigDict, tuples and the like -> what JSON has."""
  if hasattr(value, 'to_dict'):
    value = value.to_dict()
  if isinstance(value, dict):
    return {k: plain(v) for k, v in value.items()}
  if isinstance(value, (tuple, list)):
    return [plain(v) for v in value]
  return value
