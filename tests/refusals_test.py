"""What no block takes, whatever its arguments mean: one line that names it.

A new file in the folder of a kind is tested here without a change: which values
cannot be follows from an argument's name, its annotation and its default.
"""
import inspect
import math
import re
import types as builtin_types
import typing

import numpy as np
import pytest

from jaxaug.core import errors, registry, types

SPEC = types.ImageSpec(32, 32, 3, 10)
TRAIN = types.Split(np.zeros((20, 32, 32, 3), np.uint8),
                    np.arange(20, dtype=np.int32) % 10, np.arange(20))
# No selector computes anything before it is given images.
KNOWN = types.Known(TRAIN, tuple('abcdefghij'), features=None, fit=None,
                    score=len)
# kind -> what its blocks are built from.
FIRST = {'generators': (SPEC,), 'classifiers': (SPEC,), 'selectors': (KNOWN,),
         'extractors': ()}
BLOCKS = [(kind, name) for kind in FIRST for name in registry.names(kind)]
# Numbers from 0 to below 1: shares dropped, and shares kept of an average.
BELOW_ONE = ('dropout', 'b1', 'b2', 'lecam_decay', 'momentum_limit',
             'norm_decay')
UP_TO_ONE = ('reduction', 'top_k', 'top_k_gamma', 'ema_decay',
             'momentum_growth', 'decay', 'jitter', 'share', 'confidence',
             'drop', 'shared', 'copies', 'outliers', 'min_distance')
# From -1 to 1: grey levels, and means of signs.
SIGNED = ('diff_augment_fill', 'ada_target')
ABOVE_ZERO = ('lr', 'g_lr', 'd_lr', 'autoencoder_lr', 'width', 'reduction')
# Whole numbers that may be 0, though their default is more.
FROM_ZERO = ('halvings', 'ema_start', 'lecam_start', 'side', 'pool', 'classes',
             'reach')


def _arguments(function) -> dict:
  """Returns name -> (annotation, default) of all keyword-only arguments."""
  found = {}
  for p in inspect.signature(function).parameters.values():
    if p.kind is p.VAR_KEYWORD:
      rules = p.annotation if isinstance(p.annotation, tuple) else (
          p.annotation,)
      for rule in rules:
        found = _arguments(rule) | found
    elif p.kind is p.KEYWORD_ONLY:
      of = p.annotation
      if isinstance(of, builtin_types.UnionType):  # `int | None`.
        of = typing.get_args(of)[0]
      found[p.name] = of, p.default
  return found


def _numbers(name):
  """Yields what is no value of a float."""
  yield from ('1', math.nan, math.inf, -1.5 if name in SIGNED else -1.0)
  if name in BELOW_ONE:
    yield 1.0
  if name in BELOW_ONE + UP_TO_ONE + SIGNED:
    yield 1.5
  if name in ABOVE_ZERO:
    yield 0.0


def _cannot_be(name, of, default):
  """Yields values that an argument never takes."""
  if of is bool:
    yield from ('yes', 2)
  elif of is int:
    yield from (1.5, '1', -1)
    if default != 0 and name not in FROM_ZERO:
      yield 0
  elif of is float:
    yield from _numbers(name)
  elif of is str:
    yield 'float16' if name == 'dtype' else 'no such thing'
  elif typing.get_origin(of) is tuple:
    yield from ((), (0,), (8, -1 if name in FROM_ZERO else 0), (1.5, 8), 8)
    if ... not in typing.get_args(of):
      yield (8, *(8 for _ in typing.get_args(of)))
  else:
    raise AssertionError(f'{name}: {of} is no type of a config')


def _answer(kind, name, given) -> str:
  """What a block says to arguments: the line, or what is wrong with it."""
  try:
    registry.build(kind, name, given, 'config.x', *FIRST[kind])
  except errors.InputError as e:
    return str(e)
  except Exception as e:  # Whatever a value runs into.
    return f'{type(e).__name__}, which no user should read'
  return 'taken'


@pytest.mark.parametrize('kind, name', BLOCKS)
def test_what_cannot_be_is_one_line_that_names_the_argument(kind, name):
  known, wrong = _arguments(registry.find(kind, name).build), {}
  nothing_fetched = {'download': False} if 'download' in known else {}
  for argument, (of, default) in known.items():
    for value in _cannot_be(argument, of, default):
      line = _answer(kind, name, nothing_fetched | {argument: value})
      if '\n' in line or not re.match(
          rf'config\.x\.{argument}: .*(; expected |no such)', line):
        wrong[f'{argument}={value!r}'] = line
  assert not wrong


@pytest.mark.parametrize('kind, name', BLOCKS)
def test_unknown_arguments_are_one_line(kind, name):
  with pytest.raises(errors.InputError,
                     match=r'^config\.x\.no_such: unknown key; expected') as e:
    registry.build(kind, name, {'no_such': 1}, 'config.x', *FIRST[kind])
  assert '\n' not in str(e.value)


def test_the_names_above_are_of_arguments_that_there_are():
  known = set().union(*(_arguments(registry.find(*block).build)
                        for block in BLOCKS))
  assert {*BELOW_ONE, *UP_TO_ONE, *SIGNED, *ABOVE_ZERO, *FROM_ZERO} <= known
