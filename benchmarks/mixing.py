"""What naming and fetching a mixed batch costs, as a share of a training step.

  python -m benchmarks.mixing [--quick]

The cnn at batch 64, half of each batch from a pool: `mixing.batch` on the
host, `mesh.shard`, and the gather from the bank on the device, in turn with
the step that eats the batch. Medians of many rounds; the target is a total
under 2 %.
"""
import argparse
import statistics
import time

import jax
import numpy as np
import rich.console
import rich.table

from jaxaug.classifiers import cnn
from jaxaug.core import memory, types
from jaxaug.data import mixing, pixels
from jaxaug.training import bank as banks
from jaxaug.training import classifier, mesh

BATCH = 64
PER_CLASS = 500  # Real images; the pool has as many.
STEPS = 25       # In a round; 100 rounds are 16 epochs of each side.
PARTS = ('mixing.batch', 'mesh.shard', 'gather')


def _plan(spec) -> tuple[banks.Bank, mixing.Plan]:
  """Returns a bank of real images and a pool, and half of each batch a side."""
  labels = np.repeat(np.arange(spec.num_classes, dtype=np.int32), PER_CLASS)
  composition = mixing.compose(
      labels, labels, replace=0.5, seed=(0,),
      class_names=tuple(map(str, range(spec.num_classes))))
  images = np.random.default_rng(0).integers(
      0, 256, (2 * len(labels), *spec[:3]), np.uint8)
  plan = mixing.plan(composition, pool_start=len(labels), batch_size=BATCH,
                     seed=(0, 1))
  return banks.Bank(images, np.tile(labels, 2)), plan


def measure(spec: types.ImageSpec, rounds: int) -> dict[str, float]:
  """Returns {part: milliseconds a step}, the step itself last."""
  devices = mesh.make(jax.devices()[:1])
  bank, plan = _plan(spec)
  bank = mesh.replicate(devices, bank)
  model = classifier.make(spec, cnn.build(spec))
  state = jax.jit(model.init)(jax.random.key(0), 1000)
  key = jax.random.key(1)
  def update(state, images, labels):
    return model.step(state, classifier.plain(
        pixels.to_float(images), labels, spec.num_classes), key)
  step = jax.jit(update, donate_argnums=0)
  def fetch(bank, index):
    return bank.images[index], bank.labels[index]
  gather = jax.jit(fetch)

  def training(fetched):
    nonlocal state
    for images, labels in fetched:
      state, _ = step(state, images, labels)
    return state

  taken = {name: [] for name in (*PARTS, 'step')}
  for i in range(rounds + 1):
    do = {
        'mixing.batch': lambda _, i=i: [
            mixing.batch(plan, i * STEPS + k) for k in range(STEPS)],
        'mesh.shard': lambda batches: [
            mesh.shard(devices, batch) for batch in batches],
        'gather': lambda indices: [gather(bank, index) for index in indices],
        'step': training}
    out = None
    for name, part in do.items():
      begun = time.perf_counter()
      out = jax.block_until_ready(part(out))
      taken[name].append(1e3 * (time.perf_counter() - begun) / STEPS)
  # The first round compiles.
  return {name: statistics.median(ms[1:]) for name, ms in taken.items()}


def main():
  memory.keep()  # As launch.py does.
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--quick', action='store_true',
                      help='few repetitions: a look, not a measurement')
  args = parser.parse_args()
  table = rich.table.Table(title=f'{jax.devices()[0].device_kind}, batch '
                                 f'{BATCH}, half of it from the pool')
  for name in ('ms a step', *PARTS, 'cnn step', 'share'):
    table.add_column(name, justify='right')
  for spec in (types.ImageSpec(28, 28, 1, 10), types.ImageSpec(32, 32, 3, 10)):
    ms = measure(spec, 10 if args.quick else 100)
    step = ms.pop('step')
    table.add_row('x'.join(map(str, spec[:3])),
                  *(f'{x:.3f}' for x in ms.values()), f'{step:.1f}',
                  f'{sum(ms.values()) / step:.2%}')
  rich.console.Console().print(table)


if __name__ == '__main__':
  main()
