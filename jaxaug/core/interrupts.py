"""Ctrl-C, SIGTERM and a closed terminal end a run at its next step, saved."""
import contextlib
import os
import signal
import socket
import sys
import threading
import time


class Interrupted(BaseException):
  """The user or the system asked the program to stop; `signum` says how.

  No Exception, so that nothing mistakes it for a failure of its own.
  """

  def __init__(self, signum: int):
    super().__init__(signal.Signals(signum).name)
    self.signum = signum


_asked: list[int] = []
_raised: list[int] = []
_deferred: list[bool] = []
_last_words: list[str] = []
# Seconds until: a lost signal comes again; a first one that Python did not get
# to is answered; a second one ends the process from outside of Python.
_AGAIN, _SOON, _GRACE = 0.3, 1.0, 3.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _handle(signum, frame):
  """Notes the wish, and raises unless it is the first inside `deferred`."""
  del frame
  if signum != signal.SIGALRM:
    _asked.append(signum)
  elif not _asked or isinstance(sys.exception(), Interrupted):
    return  # It is on its way.
  if _deferred and len(_asked) == 1:
    return
  if any(_deferred):  # Whatever is raised here comes out as something else.
    _end(_asked[-1])
  # What is raised amid a finalizer is lost: again a moment later.
  signal.setitimer(signal.ITIMER_REAL, _AGAIN)
  _raised.append(_asked[-1])
  raise Interrupted(_asked[-1])


def settle():
  """To be called where `Interrupted` has arrived: it does not come again."""
  signal.setitimer(signal.ITIMER_REAL, 0)


@contextlib.contextmanager
def listening(last_words: str = ''):
  """Within it, SIGINT, SIGTERM and SIGHUP are `Interrupted`; SIGINT also where
  it was ignored, as by a shell for what it runs in the background.

  Python sees no signal while a long call of C is under way, such as XLA's
  compiler. So a thread hears them too: it says that a first one waits, and
  ends the process soon after a second. For the main thread.

  Args:
    last_words: what such an end says after the signal's number.
  """
  ours, theirs = socket.socketpair()
  theirs.setblocking(False)
  # First, for it fails on another thread.
  woken = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
  before = {signum: signal.getsignal(signum)
            for signum in (*_SIGNALS, signal.SIGALRM)}
  kept = [*map(list, (_asked, _raised, _last_words))]
  say = sys.unraisablehook
  def quiet(lost):
    if not isinstance(lost.exc_value, Interrupted):  # Which comes again.
      say(lost)
  sys.unraisablehook = quiet
  _asked[:], _raised[:], _last_words[:] = (), (), (last_words,)
  watcher = threading.Thread(target=_watch, args=(ours,), daemon=True)
  watcher.start()
  for signum in before:
    if signum != signal.SIGHUP or before[signum] != signal.SIG_IGN:  # nohup
      signal.signal(signum, _handle)
  try:
    yield
  finally:
    settle()
    for signum, handler in before.items():
      signal.signal(signum, handler)
    signal.set_wakeup_fd(woken)
    theirs.close()
    watcher.join()
    ours.close()
    sys.unraisablehook = say
    _asked[:], _raised[:], _last_words[:] = kept


# A child would write the signals that it gets to its parent's thread.
os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


def stopped(signum: int) -> str:
  """What is said where a signal ended the program."""
  return f'\nstopped by signal {signum}{"".join(_last_words)}\n'


def _tell(text: str):
  with contextlib.suppress(OSError):  # There may be no reader any more.
    os.write(2, text.encode(errors='backslashreplace'))


def _end(signum: int):
  """Ends the process from wherever it is."""
  _tell(stopped(signum))
  os._exit(128 + signum)


def _watch(heard: socket.socket):
  """Reads the numbers of signals until the other end is closed."""
  signum, count, until = 0, 0, None
  while True:
    heard.settimeout(until and max(until - time.monotonic(), .001))
    try:
      got = heard.recv(1)
    except TimeoutError:
      if count > 1:
        _end(signum)
      _tell(f'\nsignal {signum}: stops after the step under way; a second one '
            'stops at once\n')
      until = None
      continue
    if not got:
      return
    if got[0] in _SIGNALS:
      signum = got[0]
      count += 1
      if count <= 2:  # More of them do not make it later.
        until = time.monotonic() + (_SOON if count == 1 else _GRACE)


@contextlib.contextmanager
def deferred(fragile: bool = False):
  """Inside, a first signal only makes `asked` true: for code that looks it up,
  or that must not be cut short.

  fragile: a second one ends the process; as amid the import of an extension,
    which makes another error of what is raised in it.
  """
  _deferred.append(fragile)
  try:
    yield
  finally:
    _deferred.pop()


def asked() -> int | None:
  """The first signal that came, or None."""
  return _asked[0] if _asked else None


def raised() -> int | None:
  """The signal that `Interrupted` was last raised for, or None.

  What arrives may be another error, of code that turned it into one.
  """
  return _raised[-1] if _raised else None


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
