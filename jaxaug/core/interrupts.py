"""Ctrl-C and SIGTERM end a run at its next step, with everything saved."""
import contextlib
import os
import signal
import sys


class Interrupted(BaseException):
  """The user or the system asked the program to stop; `signum` says how.

  No Exception, so that nothing mistakes it for a failure of its own.
  """

  def __init__(self, signum: int):
    super().__init__(signal.Signals(signum).name)
    self.signum = signum


_asked: list[int] = []
_deferred: list[bool] = []
_AGAIN = 0.3  # Seconds.


def _handle(signum, frame):
  """Notes the wish, and raises unless it is the first inside `deferred`."""
  del frame
  if signum != signal.SIGALRM:
    _asked.append(signum)
  elif not _asked or isinstance(sys.exception(), Interrupted):
    return  # It is on its way.
  if _deferred and len(_asked) == 1:
    return
  # What is raised amid a finalizer is lost: again a moment later.
  signal.setitimer(signal.ITIMER_REAL, _AGAIN)
  raise Interrupted(_asked[-1])


def settle():
  """To be called where `Interrupted` has arrived: it does not come again."""
  signal.setitimer(signal.ITIMER_REAL, 0)


def install():
  """Turns SIGINT and SIGTERM into `Interrupted`."""
  for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
    signal.signal(signum, _handle)
  say = sys.unraisablehook

  def quiet(lost):
    if not isinstance(lost.exc_value, Interrupted):  # Which comes again.
      say(lost)
  sys.unraisablehook = quiet


@contextlib.contextmanager
def deferred():
  """Inside, a first signal only makes `asked` true: for code that looks it up,
  or that must not be cut short."""
  _deferred.append(True)
  try:
    yield
  finally:
    _deferred.pop()


def asked() -> int | None:
  """The first signal that came, or None."""
  return _asked[0] if _asked else None


def check():
  """Raises Interrupted if a signal came; one may have been lost on its way."""
  if _asked:
    raise Interrupted(_asked[0])


def leave(status: int):
  """Ends the process; after a signal at once.

  A thread of XLA's may still compile then, and would crash in a Python that
  takes itself down.
  """
  if status <= 128:
    sys.exit(status)
  try:
    sys.stdout.flush()
    sys.stderr.flush()
  finally:  # Also where nobody reads it any more.
    os._exit(status)
