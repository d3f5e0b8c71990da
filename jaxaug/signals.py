"""Ctrl-C and SIGTERM end a run at its next step, with everything saved."""
import contextlib
import signal


class Interrupted(BaseException):
  """The user or the system asked the program to stop; `signum` says how.

  No Exception, so that nothing mistakes it for a failure of its own.
  """

  def __init__(self, signum: int):
    super().__init__(signal.Signals(signum).name)
    self.signum = signum


_asked: list[int] = []
_polite: list[bool] = []


def _handle(signum, frame):
  """Notes the wish, and raises unless it is the first inside `polite`."""
  del frame
  _asked.append(signum)
  if not _polite or len(_asked) > 1:
    raise Interrupted(signum)


def install():
  """Turns SIGINT and SIGTERM into `Interrupted`."""
  for signum in (signal.SIGINT, signal.SIGTERM):
    signal.signal(signum, _handle)


@contextlib.contextmanager
def polite():
  """Inside, a first signal only makes `asked` true: for code that looks it up,
  or that must not be cut short."""
  _polite.append(True)
  try:
    yield
  finally:
    _polite.pop()


def asked() -> int | None:
  """The first signal that came, or None."""
  return _asked[0] if _asked else None


def check():
  """Raises Interrupted if a signal came; one may have been lost on its way."""
  if _asked:
    raise Interrupted(_asked[0])
