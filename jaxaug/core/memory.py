"""The memory of the process."""
import ctypes
import sys

# glibc's mallopt (malloc.h): option -> value.
_KEEP = {
    -8: 1,          # M_ARENA_MAX: one heap for all threads; others are small.
    -4: 0,          # M_MMAP_MAX: large blocks come from the heap too,
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: which is not given back.
}


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
