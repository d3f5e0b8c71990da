"""Ctrl-C and SIGTERM end a run at its next step, with everything saved."""
import contextlib
import signal


class Interrupted(Exception):
  """The user or the system asked the program to stop; `signum` says how."""

  def __init__(self, signum: int):
    super().__init__(signal.Signals(signum).name)
    self.signum = signum


_asked: list[int] = []
_polite: list[bool] = []


def _handle(signum, frame):
  """Notes the wish where a loop looks out for it; else, or twice, raises."""
  del frame
  if _polite and not _asked:
    _asked.append(signum)
  else:
    raise Interrupted(signum)


def install():
  """Turns SIGINT and SIGTERM into `Interrupted`."""
  for signum in (signal.SIGINT, signal.SIGTERM):
    signal.signal(signum, _handle)


@contextlib.contextmanager
def polite():
  """Inside, a first signal only makes `asked` true."""
  _polite.append(True)
  try:
    yield
  finally:
    _polite.pop()


def asked() -> int | None:
  """The signal that came inside `polite`, or None."""
  return _asked[0] if _asked else None
