"""What every command is, seen from the shell: one line and an exit status."""
import argparse
import os
import re
import signal
import sys

from jaxaug.core import errors, interrupts


def parser(prog: str, description: str, **more) -> argparse.ArgumentParser:
  """Returns a parser whose errors are InputErrors, with the nearest flag."""
  out = argparse.ArgumentParser(prog=prog, description=description,
                                allow_abbrev=False, **more)

  def refuse(message):
    near = ''
    if found := re.match(r'unrecognized arguments: (-[^ =]+)', message):
      near = errors.nearest(found[1], out._option_string_actions)
    raise errors.InputError(f'{message}; see --help.{near}')
  out.error = refuse
  return out


def of(prog: str, act, last_words: str = '') -> int:
  """Returns the exit status of `act()`, or what that returns if not None.

  0; 2 for a mistake, told in one line; 128 + signal for a stop.

  Args:
    prog: what its lines begin with.
    act: does the work.
    last_words: what is said after a stop.
  """
  sys.stdout = sys.stdout or open(os.devnull, 'w')  # Where they are closed.
  sys.stderr = sys.stderr or open(os.devnull, 'w')
  for stream in sys.stdout, sys.stderr:
    # A name of a file may be what no terminal can show.
    getattr(stream, 'reconfigure', lambda **how: None)(
        errors='backslashreplace')
  with interrupts.listening(last_words):
    try:
      try:
        with errors.net():
          return act() or 0
      except errors.InputError as e:
        print(f'{prog}: {e}', file=sys.stderr)
        return 2
    except (Exception, interrupts.Interrupted, KeyboardInterrupt) as e:
      with interrupts.deferred(fragile=True):
        return _stopped(e)


def _stopped(e: BaseException) -> int:
  interrupts.settle()
  if isinstance(e, Exception) and not interrupts.raised():
    raise e
  signum = getattr(e, 'signum', None) or interrupts.raised() or signal.SIGINT
  print(interrupts.stopped(signum), end='', file=sys.stderr)
  return 128 + signum
