"""Signals: at the next step, at once, amid C, and where a shell hid them."""
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from jaxaug.core import exit_status, interrupts

ROOT = pathlib.Path(__file__).parents[2]
# Python sees no signal within the one call, as within XLA's compiler.
_IN_C = """
import hashlib, sys
from jaxaug.core import interrupts
with interrupts.listening('; last words'):
  try:
    with interrupts.deferred():
      print('begun', flush=True)
      hashlib.pbkdf2_hmac('sha256', b'word', b'salt', int(sys.argv[1]))
      print('step', flush=True)
      interrupts.check()
  except interrupts.Interrupted as e:
    interrupts.settle()
    print('stopped', flush=True)
    sys.exit(128 + e.signum)
"""


@pytest.fixture
def fresh(monkeypatch):
  monkeypatch.setattr(interrupts, '_asked', [])
  monkeypatch.setattr(interrupts, '_raised', [])


def test_a_second_signal_does_not_wait(fresh):
  with interrupts.deferred():
    assert interrupts.asked() is None
    interrupts._handle(signal.SIGINT, None)
    assert interrupts.asked() == signal.SIGINT
    with pytest.raises(interrupts.Interrupted, match='SIGTERM'):
      interrupts._handle(signal.SIGTERM, None)
    interrupts.settle()
  interrupts._asked.clear()
  with pytest.raises(interrupts.Interrupted, match='SIGINT'):  # Nobody looks.
    interrupts._handle(signal.SIGINT, None)
  interrupts.settle()


class _Finalized:

  def __del__(self):
    signal.raise_signal(signal.SIGTERM)


def test_a_signal_that_is_lost_comes_again_and_once(fresh, monkeypatch):
  """Python only prints what a finalizer raises; here not even that."""
  printed = []
  monkeypatch.setattr(sys, 'unraisablehook', printed.append)
  with interrupts.listening():
    with pytest.raises(interrupts.Interrupted, match='SIGTERM'):
      _Finalized()
      assert interrupts.asked() == signal.SIGTERM and not printed
      time.sleep(60)
    try:
      interrupts.check()
    except interrupts.Interrupted:
      time.sleep(3 * interrupts._AGAIN)  # It is on its way.
      interrupts.settle()
    time.sleep(2 * interrupts._AGAIN)


def test_nothing_of_it_stays(fresh):
  signals = signal.SIGINT, signal.SIGTERM, signal.SIGALRM
  before = [*map(signal.getsignal, signals)], threading.active_count()
  hook = sys.unraisablehook
  with pytest.raises(interrupts.Interrupted), interrupts.listening():
    assert threading.active_count() == before[1] + 1
    signal.raise_signal(signal.SIGTERM)
  assert ([*map(signal.getsignal, signals)],
          threading.active_count()) == before
  assert signal.set_wakeup_fd(-1) == -1 and sys.unraisablehook is hook
  assert interrupts.asked() is None


def _launched(rounds, **how):
  child = subprocess.Popen(
      [sys.executable, '-c', _IN_C, str(rounds)], cwd=ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      env=os.environ | {'PYTHONPATH': str(ROOT)}, **how)
  assert child.stdout.readline() == 'begun\n'
  return child


def test_a_first_signal_amid_c_is_answered_and_waits():
  with _launched(12_000_000) as child:  # Some seconds.
    child.send_signal(signal.SIGTERM)
    assert [child.stderr.readline() for _ in range(2)] == [
        '\n', 'signal 15: stops after the step under way; a second one stops '
        'at once\n']
    out, err = child.communicate(timeout=120)
  assert (child.returncode, out, err) == (143, 'step\nstopped\n', '')


def test_a_second_signal_ends_c_too():
  with _launched(2_000_000_000) as child:  # A quarter of an hour and more.
    child.send_signal(signal.SIGTERM)
    time.sleep(.2)
    child.send_signal(signal.SIGINT)
    begun = time.monotonic()
    out, err = child.communicate(timeout=120)
  assert time.monotonic() - begun < 20
  assert (child.returncode, out) == (130, '')
  assert err.endswith('\nstopped by signal 2; last words\n')


_IN_IMPORT = """
import os, signal, sys
from jaxaug.core import exit_status, interrupts
def act():
  with interrupts.deferred(fragile=sys.argv[1] == 'fragile'):
    try:
      for signum in (signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), signum)
        for _ in range(1000): pass
      print('goes on')
    except BaseException as e:
      raise ImportError('numpy: failed') from None
sys.exit(exit_status.of('prog', act, '; last words'))
"""


@pytest.mark.parametrize('kind', ['fragile', 'other'])
def test_what_turns_it_into_another_error(kind):
  """A second signal amid the import of numpy, which makes an ImportError."""
  done = subprocess.run([sys.executable, '-c', _IN_IMPORT, kind], cwd=ROOT,
                        env=os.environ | {'PYTHONPATH': str(ROOT)}, text=True,
                        capture_output=True, timeout=60)
  assert (done.returncode, done.stdout, done.stderr) == (
      130, '', '\nstopped by signal 2; last words\n')


def test_an_error_that_no_signal_made_is_told(capsys):
  def act():
    raise ImportError('numpy: failed')
  with pytest.raises(ImportError):
    exit_status.of('prog', act)


def test_more_signals_do_not_make_the_end_later():
  with _launched(2_000_000_000) as child:
    begun = time.monotonic()
    while child.poll() is None and time.monotonic() - begun < 20:
      child.send_signal(signal.SIGINT)
      time.sleep(.5)
    assert child.wait(1) == 130


def test_an_end_that_nobody_reads_of():
  """As where the same Ctrl-C has ended `| tee log`."""
  with _launched(2_000_000_000) as child:
    child.stderr.close()
    for _ in range(2):
      child.send_signal(signal.SIGTERM)
      time.sleep(.2)
    assert child.wait(20) == 143


def test_another_thread_is_told_and_nothing_stays(fresh):
  hook, found = sys.unraisablehook, []
  def listen():
    try:
      with interrupts.listening():
        pass
    except ValueError as e:
      found.append(str(e))
  thread = threading.Thread(target=listen)
  thread.start()
  thread.join()
  assert 'main thread' in found[0] and sys.unraisablehook is hook


def test_one_inside_another(fresh):
  with pytest.raises(interrupts.Interrupted), interrupts.listening('outer'):
    with interrupts.deferred():
      signal.raise_signal(signal.SIGTERM)
      with interrupts.listening('inner'):
        assert interrupts.asked() is None
        assert interrupts.stopped(15) == '\nstopped by signal 15inner\n'
      assert interrupts.asked() == signal.SIGTERM
      assert interrupts.stopped(15) == '\nstopped by signal 15outer\n'
    interrupts.check()


def test_a_forked_child_has_its_own_signals(fresh):
  with interrupts.listening():
    pid = os.fork()
    if not pid:
      os._exit(0 if signal.set_wakeup_fd(-1) == -1 else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_what_a_shell_has_ignore_is_heard():
  """As of a job in the background: `nohup jaxaug run ... &`."""
  with _launched(1_000_000, preexec_fn=lambda: signal.signal(
      signal.SIGINT, signal.SIG_IGN)) as child:
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=120)
  assert child.returncode == 130 and out.endswith('stopped\n')
