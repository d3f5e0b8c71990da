"""What a config is made of: its sections, their keys and the types of these."""
import inspect
import types
import typing

from jaxaug.core import errors, registry
from jaxaug.data import splits
from jaxaug.study import arms
from jaxaug.training import classifier

_Pixels = int | tuple | None
_Text = str | None
# Section -> its keys and their types; the defaults are in configs/common.py.
KEYS = {
    'config': {
        'name': str, 'seed': int, 'runs': int, 'metric': str,
        'minority': tuple, 'baseline': str, 'alpha': float, 'budget': str,
        'log_every': int, 'save_every': int, 'sample_every': int,
        'eval_every': int, 'runs_at_once': str, 'steps_per_call': int,
        'data': dict, 'audit': dict, 'evaluation': dict, 'curve': dict,
        'collapse': dict, 'augmentations': dict, 'selectors': dict,
        'generators': dict, 'pools': dict, 'classifiers': dict, 'judge': dict,
        'arms': tuple, 'published': tuple},
    'config.data': {
        'source': str, 'path': _Text, 'name': _Text, 'resize': _Pixels,
        'crop': _Pixels, 'per_class': int | None, 'fraction': float | None,
        'classes': tuple | None, 'imbalance': tuple | None,
        'val_fraction': float, 'test_fraction': float | None,
        'folds': int | None, 'fold': int | None, 'memory': float,
        'allow_overlap': bool,
        'allow_contradictions': bool, 'alpha': _Text, 'depth': _Text,
        'ignore': tuple | None, 'file_column': _Text, 'label_column': _Text,
        'split_column': _Text, 'range': tuple | None,
        'data_dir': _Text, 'cache_dir': _Text, 'train_split': _Text,
        'test_split': _Text, 'validation_split': _Text, 'image_key': _Text,
        'label_key': _Text, 'train_images': _Text, 'train_labels': _Text,
        'test_images': _Text, 'test_labels': _Text, 'val_images': _Text,
        'val_labels': _Text, 'names_key': _Text, 'train_index': _Text,
        'test_index': _Text},
    'config.audit': {'max_leaks': float, 'allow_leaks': bool},
    'config.evaluation': {'extractor': str, 'weights': str, 'batch_size': int,
                          'metrics': tuple},
    'config.curve': {'metric': str, 'every': int, 'images': int},
    'config.collapse': {'obedience': float, 'diversity': float},
}
_LOOP = {'model': str, 'steps': int, 'batch_size': int}
# What a selector has beside its part's arguments, where nothing is said.
SELECTOR = {'classes': (), 'extractor': '', 'weights': ''}
# Section of blocks -> the keys of a block that are not its part's.
BLOCKS = {
    'selectors': {'selector': str} | {
        key: type(value) for key, value in SELECTOR.items()},
    'generators': _LOOP | {'representatives': str},
    'classifiers': _LOOP | {'epochs': float},
    'judge': _LOOP | {'epochs': float, 'augment': str},
    'pools': {'generator': str, 'source': str, 'split': str, 'trained_on': str,
              'per_class': int, 'batch_size': int, 'selectors': tuple,
              'draw': dict},
}
# Section of blocks -> the kind of a block's part, and the key that names it.
PARTS = {'pools': ('datasets', 'source'),
         'selectors': ('selectors', 'selector'),
         'generators': ('generators', 'model'),
         'classifiers': ('classifiers', 'model'),
         'judge': ('classifiers', 'model')}
# What may be left out where a file writes a section or block anew.
_OPTIONAL = {'config.data': set(KEYS['config.data']) - {'source'}}
DEFAULTS = {'epochs': 0.0, 'augment': '', 'representatives': '',
            'selectors': (), 'draw': {}, 'source': '', 'split': '',
            'trained_on': ''} | SELECTOR
_WORDS = {str: 'text', int: 'a whole number', float: 'a number',
          bool: 'True or False', tuple: 'a tuple', dict: 'a dict',
          types.NoneType: 'None'}


def members(kind) -> tuple:
  """Returns the types that a union is of, or the one type there is."""
  union = typing.get_origin(kind) in (typing.Union, types.UnionType)
  return typing.get_args(kind) if union else (kind,)


def _fits(value, kind) -> bool:
  kinds = [typing.get_origin(k) or k for k in members(kind)]
  if not set(kinds) <= set(_WORDS):
    return True  # No annotation, or one that says too much.
  if isinstance(value, bool):
    return bool in kinds
  wider = [(int, float) if k is float else (list, tuple) if k is tuple else k
           for k in kinds]
  return any(isinstance(value, k) for k in wider)


def check_type(where: str, value, kind):
  """Raises InputError unless a value is of a type: str, int | None, ...

  A whole number is a number too, and a list as good as a tuple.
  """
  if not _fits(value, kind):
    words = [_WORDS[typing.get_origin(k) or k] for k in members(kind)]
    raise errors.InputError(f'{where}: {errors.shown(value)}; expected '
                            f'{" or ".join(words)}.')


def check_key(where: str, key: str, known):
  """Raises InputError unless the section `where` may have a key."""
  if key not in known:
    raise errors.InputError(
        f'{where}.{key}: unknown key; expected one of {", ".join(known)}.'
        f'{errors.nearest(key, known)}')


def of_source(source: str) -> dict[str, inspect.Parameter]:
  """Returns the keys of config.data that are a source's own, by name.

  Raises:
    InputError: there is no such source.
  """
  load = registry.find('datasets', source, 'config.data.source').load
  shared = {*KEYS['config.data'], *registry.arguments(splits.make)}
  return {name: p for name, p in registry.parameters(load).items()
          if name not in shared}


def _check_keys(where: str, given: dict, kinds: dict, optional=()):
  """Raises InputError for a key that is unknown, missing or of a wrong type."""
  for key, value in given.items():
    check_key(where, key, kinds)
    check_type(f'{where}.{key}', value, kinds[key])
  needed = [key for key in kinds if key not in optional]
  for key in needed:
    if key not in given:
      raise errors.InputError(
          f'{where}: lacks {key!r}; expected all of {", ".join(needed)}.')


def blocks(config: dict):
  """Yields (path, section, block) of every block and of the judge."""
  for section in BLOCKS:
    if section == 'judge':
      yield 'config.judge', section, config['judge']
    else:
      for name, block in config[section].items():
        yield f'config.{section}.{name}', section, block


def parts_of(section: str, block: dict) -> list:
  """Returns the same of a block; of a name that there is not, none."""
  kind, key = PARTS.get(section, ('', ''))
  known = kind and block.get(key) in registry.names(kind)
  return parts(kind, block[key]) if known else []


def parts(kind: str, name: str, where: str = '') -> list:
  """Returns the functions whose arguments a block has beside its own keys.

  Raises:
    InputError: there is no such part; `where` is the key that names it.
  """
  found = registry.find(kind, name, where)
  if kind == 'datasets':
    return [found.load]
  build = found.build
  return [build, classifier.make] if kind == 'classifiers' else [build]


def block_of(config: dict, steps) -> dict:
  """Returns the keys of the block at a place in a config, with their types.

  Args:
    config: a whole one.
    steps: such as ['generators', 'cgan'].
  """
  for where, section, block in blocks(config):
    if where == '.'.join(['config', *map(str, steps)]):
      return {name: p.annotation for part in parts_of(section, block)
              for name, p in registry.parameters(part).items()
              } | BLOCKS[section]
  return {}


def check_arguments(function, given: dict, where: str):
  """Raises InputError for an argument of a wrong type; unknown ones pass."""
  for name, parameter in registry.parameters(function).items():
    if name in given and given[name] != parameter.default:
      check_type(f'{where}.{name}', given[name], parameter.annotation)


def check(config: dict):
  """Raises InputError for a key that no section has, or a value's type.

  What a block says to its part is not looked at, nor what the values are.
  """
  for where, kinds in KEYS.items():
    section = config if where == 'config' else config[where[len('config.'):]]
    optional = _OPTIONAL.get(where, set())
    if where == 'config.data' and isinstance(section.get('source'), str):
      own = of_source(section['source'])
      kinds = kinds | {name: p.annotation for name, p in own.items()}
      optional = optional | own.keys()
    _check_keys(where, section, kinds, optional)
  for name, block in config['augmentations'].items():
    check_type(f'config.augmentations.{name}', block, dict)
  for where, section, block in blocks(config):
    check_type(where, block, dict)
    kinds = BLOCKS[section]
    _check_keys(where, {k: v for k, v in block.items() if k in kinds}, kinds,
                DEFAULTS)
    for part in parts_of(section, block):
      check_arguments(part, block, where)
  for i, arm in enumerate(config['arms']):
    check_type(f'config.arms[{i}]', arm, dict)
    _check_keys(f'config.arms[{i}]', arm, arms.Arm.__annotations__,
                arms.Arm._field_defaults)
