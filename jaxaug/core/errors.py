"""The one exception that a user is meant to read: a single clear line."""
import contextlib
import difflib
import errno
import math
import re
import typing


class Failure(typing.NamedTuple):
  """Why a piece of a study's work cannot be done; the others can.

  why: without what to do about it. step: in which that was, or None. again:
  whether another attempt may end otherwise.
  """
  why: str
  step: int | None = None
  again: bool = False


class InputError(Exception):
  """Something that the user gave is wrong; `launch.py` prints it and exits 2.

  The message is one line: what was wrong, what was expected, and where.
  failure: a Failure where a study goes on without this, or None. full: whether
  a disk is.
  """

  def __init__(self, message: str, failure: Failure | None = None,
               full: bool = False):
    self.failure, self.full = failure, full
    # Whatever a user gave stands in it: not on many lines, nor at any length,
    # nor what a terminal cannot show, such as the bytes of a file's name.
    line = ' '.join(str(message).splitlines())
    line = ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    if len(line) > 2500:  # Its ends say what and what was expected.
      line = f'{line[:1500]} ... {line[-900:]}'
    super().__init__(re.sub(
        r'\S{400,}', lambda word: f'{word[0][:200]}...{word[0][-50:]}', line))


@contextlib.contextmanager
def net():
  """Within it, what the machine refuses is an InputError too.

  For a whole command: files that cannot be read or written, and memory.
  """
  try:
    yield
  except OSError as e:  # A disk may fail anywhere.
    what = e.strerror or str(e) or type(e).__name__
    if e.filename is None:
      what = {errno.EPIPE: 'standard output: nobody reads it any more',
              errno.ENOSPC: 'standard output: no space is left for it',
              errno.ENOENT: 'the folder that this was started in is gone',
              }.get(e.errno, what)
      raise InputError(f'{what}. Once that is put right, the same command '
                       'continues.') from e
    raise InputError(f'{e.filename}: {what}.') from e
  except MemoryError as e:
    raise InputError(
        f'the memory is used up ({e}); expected less at once: smaller batches, '
        'sizes or counts.', Failure('the memory is used up', again=True)) from e
  except RuntimeError as e:  # So do jax's own come.
    if not re.search('RESOURCE_EXHAUSTED|Out of memory', str(e)):
      raise
    raise InputError(
        f'the memory of the device is used up ({str(e).splitlines()[0]}); '
        'expected less at once: smaller batches, sizes or networks.',
        Failure('the memory of the device is used up', again=True)) from e


@contextlib.contextmanager
def renamed(old: str, new: str):
  """Within it, keys of one part of a config are called after another."""
  try:
    yield
  except InputError as e:
    raise InputError(str(e).replace(old, new), e.failure, e.full) from e


def shown(value) -> str:
  """Returns a value as messages show it: not at any length."""
  text = repr(value)
  return text if len(text) <= 200 else f'{text[:150]}... ({len(text)} long)'


def nearest(name: str, known) -> str:
  """Returns ' Did you mean X?' for the nearest of `known`, or ''."""
  close = difflib.get_close_matches(str(name), [str(k) for k in known], 1, 0.5)
  return f' Did you mean {close[0]!r}?' if close else ''


def one_of(name: str, value, known):
  """Raises InputError unless `value` is one of `known`."""
  if value not in known:
    raise InputError(f'{name}: {value!r}; expected one of '
                     f'{", ".join(map(str, known))}.{nearest(value, known)}')


def once(name: str, values, same=None):
  """Raises InputError if a value stands twice; `same`: what they stand for."""
  same = values if same is None else same
  if len(set(same)) < len(same):
    raise InputError(f'{name}: {tuple(values)}; expected each once.')


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
  """Raises InputError unless `value` is a whole number of `least` or more.

  Nothing here is counted beyond what 32 bits hold.
  """
  if isinstance(value, bool) or not isinstance(value, int) or not (
      least <= value < 2**31):
    most = ', below 2**31' if isinstance(value, int) and value > least else ''
    raise InputError(f'{name}: {value!r}; expected a whole number of at least '
                     f'{least}{most}.')


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
