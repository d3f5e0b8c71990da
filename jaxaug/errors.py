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


def between(name: str, value, low, high, *, whole: bool = False):
  """Raises InputError unless `value` is a number from `low` to `high`.

  A range may be open to infinity, but infinity is not a number of it.
  """
  kinds = int if whole else (int, float)
  if (isinstance(value, bool) or not isinstance(value, kinds)
      or not math.isfinite(value) or not low <= value <= high):
    what = 'a whole number' if whole else 'a number'
    to = f'from {low} to {high}' if math.isfinite(high) else f'of {low} or more'
    raise InputError(f'{name}: {value!r}; expected {what} {to}.')
