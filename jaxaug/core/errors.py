"""The one exception that a user is meant to read: a single clear line."""
import difflib
import math


class InputError(Exception):
  """Something that the user gave is wrong; `launch.py` prints it and exits 2.

  The message is one line: what was wrong, what was expected, and where.
  """


def nearest(name: str, known) -> str:
  """Returns ' Did you mean X?' for the nearest of `known`, or ''."""
  close = difflib.get_close_matches(str(name), [str(k) for k in known], 1, 0.5)
  return f' Did you mean {close[0]!r}?' if close else ''


def one_of(name: str, value, known):
  """Raises InputError unless `value` is one of `known`."""
  if value not in known:
    raise InputError(f'{name}: {value!r}; expected one of '
                     f'{", ".join(map(str, known))}.{nearest(value, known)}')


def between(name: str, value, low, high, *, below: bool = False):
  """Raises InputError unless `value` is a number from `low` to `high`.

  Infinity is not a number of an open range. `below`: `high` itself is refused.
  """
  if (isinstance(value, bool) or not isinstance(value, (int, float))
      or not math.isfinite(value) or not low <= value <= high
      or below and value == high):
    to = f'of {low} or more' if math.isinf(high) else (
        f'from {low} to {"below " if below else ""}{high}')
    raise InputError(f'{name}: {value!r}; expected a number {to}.')


def positive(name: str, value):
  """Raises InputError unless `value` is a finite number above 0."""
  if (isinstance(value, bool) or not isinstance(value, (int, float))
      or not 0 < value < math.inf):
    raise InputError(f'{name}: {value!r}; expected a number above 0.')


def count(name: str, value, least: int = 1):
  """Raises InputError unless `value` is a whole number of `least` or more."""
  if isinstance(value, bool) or not isinstance(value, int) or value < least:
    raise InputError(
        f'{name}: {value!r}; expected a whole number of at least {least}.')


def counts(name: str, values, length: int | None = None):
  """Raises InputError unless `values` are whole numbers of at least 1.

  There must be `length` of them, or one or more.
  """
  if not isinstance(values, (tuple, list)) or len(values) != (
      length or max(len(values), 1)):
    raise InputError(f'{name}: {values!r}; expected {length or "some"} whole '
                     'numbers.')
  for value in values:
    count(name, value)
