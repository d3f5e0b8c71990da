"""What training from the disk costs beside training from memory.

  python -m benchmarks.streaming [--gib 20] [--rounds 3] [--quick]

A classifier learns from a set of that size, of 64x64 pixels in colour, made of
some images over and over, and from one of half a gibibyte that lies on the
device, in turn, each in a process of its own. Images a second once all is
compiled, their ratio, and the most memory that a process took.
"""
import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import rich.console
import rich.table

SIZE, BATCH, CLASSES = (64, 64, 3), 64, 10
HELD = .5        # GiB, in memory.
NETWORKS = {'cnn': {}, 'resnet': {'depth': 20}}


def _images(gib: float) -> int:
  return int(gib * 2**30) // int(np.prod(SIZE))


def _some(count: int = 4096) -> np.ndarray:
  return np.random.default_rng(0).integers(0, 256, (count, *SIZE), np.uint8)


def child(file: str, network: str, count: int, steps: int) -> dict:
  """Trains from a file, or from memory for ''; returns what it took."""
  from jaxaug.core import files, memory, types
  from jaxaug.data import mixing, records
  from jaxaug.training import bank as banks
  from jaxaug.training import fit, mesh
  memory.keep()
  labels = np.arange(count, dtype=np.int32) % CLASSES
  images = (records.Records(file, SIZE, np.arange(count)) if file else
            np.resize(_some(), (count, *SIZE)))
  devices = mesh.make()
  net = fit.network(types.ImageSpec(*SIZE, CLASSES), network, network,
                    NETWORKS[network])
  bank = banks.make(devices, (images, labels))
  few = types.Split(_some(8), labels[:8], np.arange(8))
  plan = mixing.plan(mixing.everything(count), pool_start=0, batch_size=BATCH,
                     seed=(0, 0))
  with tempfile.TemporaryDirectory() as scratch:
    for name, much in (('warm', 4), ('timed', steps)):
      begun = time.perf_counter()
      fit.train([fit.Job(files.folder(scratch, name), 0, plan, {})], title=name,
                net=net, treatment=fit.plain(CLASSES, fit.pairs({'flip': .5})),
                bank=bank, validation=types.Split(*(x[:0] for x in few)),
                test=few, steps=much, seed=0, devices=devices,
                eval_every=much, log_every=much, save_every=much)
      took = time.perf_counter() - begun
  return {'rate': steps * BATCH / took, 'memory':
          resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def _run(*given) -> dict:
  out = subprocess.run(
      [sys.executable, '-m', 'benchmarks.streaming', '--child',
       json.dumps(given)], check=True, capture_output=True, text=True).stdout
  return json.loads(out.splitlines()[-1])


def main():
  """Prints one table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--gib', type=float, default=20.)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--steps', type=int, default=300)
  parser.add_argument('--quick', action='store_true')
  parser.add_argument('--folder', help='where to put the set')
  parser.add_argument('--child', help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.child:
    print(json.dumps(child(*json.loads(args.child))))
    return
  if args.quick:
    args.gib, args.rounds, args.steps = .1, 1, 10
  from jaxaug.data import records
  console, count = rich.console.Console(), _images(args.gib)
  table = rich.table.Table(
      'network', 'images a second, in memory', f'from disk, {args.gib:g} GiB',
      'ratio', 'GiB taken, in memory', 'from disk')
  with tempfile.TemporaryDirectory(dir=args.folder) as folder:
    file = str(pathlib.Path(folder, 'set.array_record'))
    some, begun = _some(), time.perf_counter()
    records.write(file, (some[:count - i] for i in range(0, count, len(some))),
                  SIZE, 0)
    console.print(f'{count:,} images written in '
                  f'{time.perf_counter() - begun:.0f} s')
    for network in NETWORKS:
      held, disk = [], []
      for _ in range(args.rounds):
        held.append(_run('', network, _images(min(HELD, args.gib)), args.steps))
        disk.append(_run(file, network, count, args.steps))
      rates = [[x['rate'] for x in each] for each in (held, disk)]
      ratios = [b / a for a, b in zip(*rates, strict=True)]
      table.add_row(
          network, *(f'{statistics.median(x):.0f}' for x in rates),
          f'{statistics.median(ratios):.3f} ({min(ratios):.3f} to '
          f'{max(ratios):.3f})', *(f'{max(x["memory"] for x in each):.2f}'
                                   for each in (held, disk)))
  console.print(table)


if __name__ == '__main__':
  main()
