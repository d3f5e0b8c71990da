"""The one loop: step, log, evaluate, checkpoint, resume."""
import math
import pathlib
import time
import typing

import jax
import jax.numpy as jnp
import numpy as np

from jaxaug.core import console, errors, interrupts
from jaxaug.training import checkpoint, metrics_log


class Hook(typing.NamedTuple):
  """What happens every so many steps, and after the last one.

  run(step, state, kept, writer) -> kept. `kept`, the loop's `hook_state`, is a
  pytree of arrays that is checkpointed beside the state, such as the best
  weights so far. One with a 'stop' other than 0 makes this step the last one,
  also when the run is resumed.
  """
  every: int
  run: typing.Callable


def due(step: int, every: int, total: int) -> bool:
  """Whether something done every `every` steps is done after `step` of them.

  Steps are counted one way: `step` have been done, 1..total.
  """
  return step == total or (every > 0 and step % every == 0)


def whole_calls(most: int, *every: int) -> int:
  """Returns how many steps one call may take, so that what is due falls after.

  Args:
    most: at most so many.
    *every: what is done every so many steps.
  """
  whole = math.gcd(*every) or most
  return next(n for n in range(min(most, whole), 0, -1) if whole % n == 0)


def repeat(step):
  """Returns `step(state, count, batches) -> (state, logs)`, many in one.

  Batches and logs have a leading axis of steps. Only the first `count` are
  taken, so that one program serves a run of any length.
  """
  def several(state, count, batches):
    def one(state, given):
      i, batch = given
      def leave(state, batch):
        logs = jax.eval_shape(step, state, batch)[1]
        return state, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), logs)
      return jax.lax.cond(i < count, step, leave, state, batch)
    length = len(jax.tree.leaves(batches)[0])
    return jax.lax.scan(one, state, (jnp.arange(length), batches))
  return several


def _ended(hook_state) -> bool:
  return isinstance(hook_state, dict) and bool(hook_state.get('stop', 0))


def _records(out, axis: bool) -> list[dict[str, float]]:
  """Returns the logs of one call as numbers, a step each.

  A log of several runs gets a name for each: `train_loss/0`.

  Args:
    out: name -> a number, or one for each run.
    axis: whether they have a leading axis of steps.
  """
  out = {name: np.asarray(values) if axis else np.asarray(values)[None]
         for name, values in jax.device_get(out).items()}
  records = [{} for _ in next(iter(out.values()))]
  for name, values in out.items():
    for record, value in zip(records, values, strict=True):
      if value.ndim:
        record |= {f'{name}/{i}': float(v) for i, v in enumerate(value)}
      else:
        record[name] = float(value)
  return records


def _check(pending, step: int, axis: bool, title: str,
           folder) -> list[dict[str, float]]:
  """Returns the pending logs as numbers, or names the first bad step.

  What was checked before is there as numbers already.
  """
  values = []
  for out in pending:
    done = isinstance(next(iter(out.values())), float)
    values += [out] if done else _records(out, axis)
  first = step - len(values) + 1
  for i, record in enumerate(values):
    for name, value in record.items():
      if not math.isfinite(value):
        log, several, run = name.partition('/')
        name = f'{log} of run {run}' if several else name
        raise errors.InputError(
            f'{title}: step {first + i}: {name} is {value}; stopped. Expected '
            f'a finite number: lower the learning rate. {_kept(folder)}',
            errors.Failure(f'{name} is {value}', first + i))
  return values


def check_finite(title: str, tree, step: int):
  """Refuses what a training ends in where it is not all finite.

  No loss tells of the last step's update.

  Raises:
    InputError: with a Failure.
  """
  if not all(np.isfinite(x).all() for x in jax.tree.leaves(tree)):
    raise errors.InputError(
        f'{title}: after step {step}: the weights, or what they predict, are '
        'not finite. Expected a training that does not diverge: lower the '
        'learning rate.', errors.Failure('the weights are not finite', step))


def _kept(folder) -> str:
  kept = folder / 'checkpoints'
  return (f'The last good checkpoint stays in {kept}.' if kept.exists() else
          'No checkpoint was due before it.')


def _record(records, step: int, writer, show):
  """Writes the means of the logs since the last record."""
  values = {}  # A phase of a training may have logs that another has not.
  for record in records:
    for name, value in record.items():
      values.setdefault(name, []).append(value)
  means = {name: sum(each) / len(each) for name, each in values.items()}
  writer.scalars(step, means)
  show(step, '  '.join(f'{k} {v:.3g}' for k, v in means.items()))


# All of it is deferred: half a checkpoint read or closed is worth nothing.
@interrupts.deferred()
def run(step, batches, state, hook_state, *, steps: int, folder, title: str,
        log_every: int = 50, save_every: int = 1000,
        hooks: tuple[Hook, ...] = (), steps_per_call: int = 1):
  """Runs `state, logs = step(state, batches(i))` for i in 0..steps - 1.

  Resumes from the newest checkpoint in `folder` to the same bits. A signal
  stops after the current step, with everything saved.

  Args:
    step: jitted, donates its state; `logs` are scalars, or one number for each
      of several runs.
    batches: a pure function of the step.
    state, hook_state: pytrees of arrays, as they are at step 0.
    steps: the total, earlier launches included.
    folder: where metrics.jsonl, tensorboard/ and checkpoints/ stand.
    title: names the run on the terminal.
    log_every: steps between records; each is the mean since the last.
    save_every: steps between checkpoints.
    hooks: see Hook.
    steps_per_call: steps that one call of `step` takes; of several, logs have
      an axis, and all that is done every so many steps is a multiple of it. The
      last call may have fewer to take, see `repeat`.

  Returns:
    (state, hook_state, seconds): as they are after the last step taken, and how
    long it took, launches that a checkpoint continues included.

  Raises:
    InputError: a log that is not finite; names the step.
    interrupts.Interrupted: the user asked to stop.
  """
  folder = pathlib.Path(folder)
  keep = checkpoint.open(folder / 'checkpoints')
  start, pending, extra, begun = 0, [], None, time.monotonic()
  if found := keep.restore({'state': state, 'hook_state': hook_state}):
    start, tree, extra = found
    pending = extra['pending']
    begun -= extra['seconds']
    state, hook_state = tree['state'], tree['hook_state']
    console.say(f'{title}: continues after step {start} of {steps}')
  metrics_log.truncate(folder, start, extra and extra['log'])
  writer, ended = metrics_log.writer(folder), _ended(hook_state)
  axis = steps_per_call > 1
  try:
    with console.progress(title, steps, start) as show:
      for i in range(start, start if ended else steps, steps_per_call):
        state, out = step(state, batches(i))
        done = min(i + steps_per_call, steps)
        if axis:
          out = {name: values[:done - i] for name, values in out.items()}
        pending.append(out)
        stop = interrupts.asked()
        save = stop or (done < steps and due(done, save_every, steps))
        if save or due(done, log_every, steps):
          pending = _check(pending, done, axis, title, folder)
        if due(done, log_every, steps):
          _record(pending, done, writer, show)
          pending = []
        for hook in hooks:
          if due(done, hook.every, done if ended else steps):
            hook_state = hook.run(done, state, hook_state, writer)
            ended = _ended(hook_state)
        if ended and pending:
          pending = _check(pending, done, axis, title, folder)
          _record(pending, done, writer, show)
          pending = []
        if save:
          keep.save(done, {'state': state, 'hook_state': hook_state},
                    {'pending': list(pending), 'log': writer.flush(),
                     'seconds': time.monotonic() - begun})
        if stop:
          keep.wait()
          raise interrupts.Interrupted(stop)
        if ended:
          break
  finally:
    writer.close()
    keep.close()
  return state, hook_state, time.monotonic() - begun
