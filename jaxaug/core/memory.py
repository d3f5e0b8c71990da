"""The memory of the process, and of the machine."""
import ctypes
import pathlib
import re
import sys

from jaxaug.core import errors

# glibc's mallopt (malloc.h): option -> value.
_KEEP = {
    -8: 1,          # M_ARENA_MAX: one heap for all threads; others are small.
    -4: 0,          # M_MMAP_MAX: large blocks come from the heap too,
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: which is not given back.
}


def check(where: str, size: int, what: str):
  """Raises InputError where `size` bytes for `what` are more than are free."""
  free = _free()
  if free is not None and size > free:
    raise errors.InputError(
        f'{where}: {what} would take {size // 2**20:,} MB of memory; '
        f'expected at most the {free // 2**20:,} MB that are free here.')


def _free() -> int | None:
  """Bytes that can be had, as Linux and its control group say, or None."""
  try:
    text = pathlib.Path('/proc/meminfo').read_text()
    free = int(re.search(r'MemAvailable: *(\d+) kB', text)[1]) * 1024
  except (OSError, TypeError):
    return None
  try:
    most, used = (int(pathlib.Path(f'/sys/fs/cgroup/memory.{name}').read_text())
                  for name in ('max', 'current'))
    cached = re.search(r'inactive_file (\d+)', pathlib.Path(
        '/sys/fs/cgroup/memory.stat').read_text())
    return min(free, max(most - used + int(cached[1]), 0))
  except (OSError, ValueError, TypeError):  # None, or without a limit.
    return free


def keep():
  """Lets the process keep the memory that one step frees for the next.

  On CPU a step takes one large block. glibc returns it to the system, which
  clears it page by page the next time: a quarter of the time of a step. To be
  called before jax starts its threads; without glibc it does nothing.
  """
  if sys.platform == 'linux':
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    for option, value in _KEEP.items() if mallopt else ():
      mallopt(option, value)
