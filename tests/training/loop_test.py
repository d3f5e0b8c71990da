"""The loop: the same bits after any interruption, hooks, signals, bad logs."""
import functools
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.core import errors, interrupts
from jaxaug.training import checkpoint, loop, metrics_log

STEPS = 23
SAVE, LOG, LOOK = 5, 4, 3
ROOT = pathlib.Path(__file__).parents[2]


@functools.partial(jax.jit, donate_argnums=0)
def _step(state, x, bad_at=-1):
  """A recurrence in which every bit of the past matters."""
  w = jnp.sin(3 * state['w'] + x) * 1.7
  count = state['count'] + 1
  loss = jnp.where(count == bad_at, jnp.nan, (w**2).mean())
  return {'w': w, 'count': count}, {'loss': loss, 'top': w.max()}


def _batches(i):
  return jnp.float32(np.random.default_rng(i).normal(size=8))


def _start():
  return {'w': jnp.linspace(0, 1, 8), 'count': jnp.int32(0)}


def _best():
  """A hook that keeps the best so far and writes what it sees."""
  def run(step, state, memory, writer):
    value = jnp.abs(state['w']).max()
    writer.scalars(step, {'seen': value})
    better = value > memory['value']
    return {'value': jnp.where(better, value, memory['value']),
            'step': jnp.where(better, step, memory['step'])}
  return loop.Hook(LOOK, run)


def _run(folder, *, step=_step, batches=_batches, steps=STEPS, hooks=None,
         save_every=SAVE):
  *end, seconds = loop.run(
      step, batches, _start(), {'value': jnp.float32(-1), 'step': jnp.int32(0)},
      steps=steps, folder=folder, title='test', log_every=LOG,
      save_every=save_every, hooks=(_best(),) if hooks is None else hooks)
  assert 0 < seconds < 60
  return end


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The end and the records of a run that nothing disturbed."""
  folder = tmp_path_factory.mktemp('whole')
  end = _run(folder)
  return jax.device_get(end), (folder / 'metrics.jsonl').read_bytes()


def _same(end, folder, whole):
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(end), whole[0])
  assert (folder / 'metrics.jsonl').read_bytes() == whole[1]


def test_what_is_written_and_when(whole):
  state, memory = whole[0]
  assert int(state['count']) == STEPS
  w, losses, seen = _start()['w'], [], []
  for i in range(STEPS):
    state, out = _step({'w': w, 'count': jnp.int32(i)}, _batches(i))
    w = state['w']
    losses.append({k: float(v) for k, v in out.items()})
    seen.append(float(np.abs(w).max()))
  records = [json.loads(line) for line in whole[1].splitlines()]
  means = [r for r in records if 'loss' in r]
  assert [r['step'] for r in means] == [4, 8, 12, 16, 20, 23]
  for r, first in zip(means, (0, 4, 8, 12, 16, 20), strict=True):
    for k in 'loss', 'top':  # The mean since the last record.
      want = np.mean([x[k] for x in losses[first:r['step']]])
      np.testing.assert_allclose(r[k], want, rtol=1e-12)
  looks = [r for r in records if 'seen' in r]
  assert [r['step'] for r in looks] == [3, 6, 9, 12, 15, 18, 21, 23]
  assert [r['seen'] for r in looks] == [seen[r['step'] - 1] for r in looks]
  best = max(looks, key=lambda r: r['seen'])
  assert (float(memory['value']), int(memory['step'])) == (
      np.float32(best['seen']), best['step'])


@pytest.mark.parametrize('stops', [(1,), (5,), (7, 8), (14, 16, 22), (0, 22)],
                         ids=str)
def test_a_crash_at_any_step_changes_no_bit(tmp_path, whole, stops):
  for stop in stops:
    def batches(i, stop=stop):
      if i == stop:
        raise KeyboardInterrupt
      return _batches(i)
    with pytest.raises(KeyboardInterrupt):
      _run(tmp_path, batches=batches)
  _same(_run(tmp_path), tmp_path, whole)


def _ask_after(monkeypatch, *steps):
  """A signal that arrives while each of `steps` runs."""
  asked, calls = set(steps), itertools.count(1)
  def answer():
    return signal.SIGTERM if next(calls) in asked else None
  monkeypatch.setattr(interrupts, 'asked', answer)


@pytest.mark.parametrize('stop', [1, 4, 10, 13, 22])
def test_a_signal_saves_the_step_it_came_in(tmp_path, whole, monkeypatch, stop,
                                            capsys):
  with monkeypatch.context() as m:
    _ask_after(m, stop)
    with pytest.raises(interrupts.Interrupted) as e:
      _run(tmp_path)
  assert e.value.signum == signal.SIGTERM
  taken = []
  def batches(i):
    taken.append(i)
    return _batches(i)
  _same(_run(tmp_path, batches=batches), tmp_path, whole)
  assert taken == list(range(stop, STEPS))  # No step is done twice.
  assert f'continues after step {stop} of {STEPS}' in capsys.readouterr().out


def test_a_signal_in_the_last_step_leaves_nothing_to_do(tmp_path, whole,
                                                        monkeypatch):
  with monkeypatch.context() as m:
    _ask_after(m, STEPS)
    with pytest.raises(interrupts.Interrupted):
      _run(tmp_path)
  def never(*_):
    raise AssertionError('ran a step')
  _same(_run(tmp_path, batches=never), tmp_path, whole)


def test_more_steps_go_on_from_a_shorter_run(tmp_path):
  with_end = _run(tmp_path / 'a', steps=10, save_every=1)
  end = _run(tmp_path / 'b', steps=10, save_every=4)
  jax.tree.map(np.testing.assert_array_equal, with_end[0], end[0])


def test_hooks_are_due_at_the_end_once(tmp_path):
  calls = []
  def hook(every):
    return loop.Hook(every, lambda step, state, memory, writer: calls.append(
        (every, step)) or memory)
  _run(tmp_path, steps=6, hooks=(hook(3), hook(4), hook(0), hook(9)))
  assert calls == [(3, 3), (4, 4), (3, 6), (4, 6), (0, 6), (9, 6)]
  assert [s for s in range(1, 8) if loop.due(s, 3, 7)] == [3, 6, 7]


@pytest.mark.parametrize('stop', [3, 8, 15, STEPS])
@pytest.mark.parametrize('killed', [None, 2, 7, 'end'], ids=str)
def test_a_hook_may_end_the_run(tmp_path, stop, killed):
  """At a look, between two records, as is all that is due at the end."""
  calls = []
  def hook(step, state, memory, writer):
    calls.append(step)
    return memory | {'stop': jnp.int32(step if step >= stop else 0)}
  def end(step, state, memory, writer):
    if killed == 'end':
      raise KeyboardInterrupt
    return memory | {'ends': memory['ends'] + step}
  def run(batches=_batches):
    memory = {'stop': jnp.int32(0), 'ends': jnp.int32(0)}
    return loop.run(_step, batches, _start(), memory, steps=STEPS,
                    folder=tmp_path, title='test', log_every=LOG,
                    save_every=SAVE, hooks=(loop.Hook(1, hook),
                                            loop.Hook(100, end)))[:2]
  def batches(i):
    if i == killed:
      raise KeyboardInterrupt
    return _batches(i)
  if killed == 'end' or killed and killed < stop:
    with pytest.raises(KeyboardInterrupt):
      run(batches)
  killed = None
  for _ in range(2):  # The second time there is nothing left to do.
    state, memory = run()
    assert int(state['count']) == int(memory['ends']) == max(calls) == stop
    assert [r['step'] for r in metrics_log.read(tmp_path)] == sorted(
        {*range(LOG, stop, LOG), stop})


@pytest.mark.parametrize('bad', [1, 7, 8, 12, 17, STEPS])
def test_a_bad_log_names_its_step_and_keeps_the_last_checkpoint(tmp_path, bad):
  step = functools.partial(_step, bad_at=bad)
  with pytest.raises(errors.InputError,
                     match=rf'^test: step {bad}: loss is nan; ') as e:
    _run(tmp_path, step=step)
  assert '\n' not in str(e.value)
  assert ('checkpoint stays in' in str(e.value)) == (bad > SAVE)
  keep = checkpoint.open(tmp_path / 'checkpoints')
  saved = keep.restore({'state': _start(), 'hook_state': {
      'value': jnp.float32(0), 'step': jnp.int32(0)}})
  last = (bad - 1) // SAVE * SAVE
  assert (saved[0] if saved else 0) == last
  # Resumed with its pending logs, it names the same step.
  with pytest.raises(errors.InputError, match=f'^test: step {bad}: loss is n'):
    _run(tmp_path, step=step)
  assert all(r['step'] < bad for r in metrics_log.read(tmp_path) if 'loss' in r)


_CHILD = """
import os, signal, sys, time
sys.path.insert(0, '.')
from tests.training import loop_test as t
from jaxaug.core import interrupts
how, at, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
def batches(i):
  if i == at and how != 'none':
    os.kill(os.getpid(), getattr(signal, how))
  return t._batches(i)
with interrupts.listening():
  try:
    t._run(folder, batches=batches)
  except interrupts.Interrupted as e:
    interrupts.settle()
    print('stopped by', e)
    sys.exit(128 + e.signum)
"""


def _child(how, at, folder):
  return subprocess.run(
      [sys.executable, '-c', _CHILD, how, str(at), str(folder)], cwd=ROOT,
      env=os.environ | {'PYTHONPATH': str(ROOT)}, capture_output=True,
      text=True, timeout=120)


@pytest.mark.parametrize('how, code', [('SIGTERM', 143), ('SIGINT', 130)])
def test_a_real_signal_saves_and_the_next_launch_continues(tmp_path, whole,
                                                           how, code):
  out = _child(how, 12, tmp_path)
  assert (out.returncode, out.stdout.splitlines()[-1]) == (
      code, f'stopped by {how}'), out.stderr
  assert [p.name for p in (tmp_path / 'checkpoints').iterdir()
          if p.name == '13']
  _same(_run(tmp_path), tmp_path, whole)


def test_a_kill_in_flight_loses_the_steps_since_the_last_checkpoint(tmp_path,
                                                                    whole):
  assert _child('SIGKILL', 18, tmp_path).returncode == -signal.SIGKILL
  assert _child('SIGKILL', 21, tmp_path).returncode == -signal.SIGKILL
  _same(_run(tmp_path), tmp_path, whole)
