"""One training step, ours and PyTorch's: what `train_step` compares.

Both sides start from the same weights, see the same images and do the same
work.
"""
import statistics
import time
import typing

import jax
import numpy as np
import torch

from tests.torch_twins import layout

TOLERANCE = 1e-4


def twin(module, params):
  """Returns `module` with the weights of flax, in channels_last."""
  return layout.load(module, params).to(memory_format=torch.channels_last)


def compare(what, ours, theirs, tolerance=TOLERANCE):
  """Raises AssertionError where the two sides disagree."""
  theirs = theirs.detach().numpy()
  worst = (np.abs(np.asarray(ours) - theirs).max()
           / max(1, np.abs(theirs).max()))
  assert worst <= tolerance, f'{what}: {worst:.1e} away from PyTorch'


class Pair(typing.NamedTuple):
  """One training step, twice: each call of a side is one update."""
  parameters: int
  compile: float               # Seconds, ours; tracing included.
  ours: typing.Callable        # () -> logs
  theirs: typing.Callable      # () -> logs


def compiled(step, state, *args):
  """Returns (seconds of compilation, call() that keeps the state)."""
  begun = time.perf_counter()
  program = jax.jit(step, donate_argnums=0).lower(state, *args).compile()
  seconds = time.perf_counter() - begun
  args = jax.device_put(args)

  def call():
    nonlocal state
    state, logs = program(state, *args)
    return jax.block_until_ready(logs)
  return seconds, call


def batch(spec, size):
  """Returns uint8 images and int32 labels."""
  rng = np.random.default_rng(0)
  return (rng.integers(0, 256, (size, *spec[:3]), np.uint8),
          rng.integers(0, spec.num_classes, size, np.int32))


def measure(pair: Pair, seconds: float, clock) -> tuple[float, float]:
  """Returns the median milliseconds of a step, ours and PyTorch's."""
  times = {side: [] for side in (pair.ours, pair.theirs)}
  end = clock() + seconds
  while clock() < end or len(times[pair.theirs]) < 6:
    for side, taken in times.items():
      side()  # Not timed: the other side's threads may still spin.
      for _ in range(3):
        begun = clock()
        side()
        taken.append(1e3 * (clock() - begun))
  return tuple(statistics.median(taken) for taken in times.values())
