"""How long the audit of a pool takes, by its size and that of the real images.

  python -m benchmarks.audit [--pool 10000] [--real 50000] [--side 32] [--quick]

Random images: what they show makes no difference to the time. Both rules, on
all cores; the first alone in the second row, as the data checks use it.
"""
import argparse
import resource
import time

import numpy as np
import rich.console
import rich.table

from jaxaug.evaluation import copies


def main():
  """Prints one table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--pool', type=int, default=10_000)
  parser.add_argument('--real', type=int, default=50_000)
  parser.add_argument('--side', type=int, default=32)
  parser.add_argument('--quick', action='store_true')
  args = parser.parse_args()
  if args.quick:
    args.pool, args.real, args.side = 20, 100, 16
  rng = np.random.default_rng(0)
  pool, real = (rng.integers(0, 256, (count, args.side, args.side, 3), np.uint8)
                for count in (args.pool, args.real))
  table = rich.table.Table('rules', 'seconds', 'microseconds a pair', 'GiB')
  for name, moved in (('both', True), ('the first', False)):
    begun = time.perf_counter()
    copies.compare(copies.Side(pool), copies.Side(real), moved=moved)
    took = time.perf_counter() - begun
    table.add_row(name, f'{took:.0f}',
                  f'{1e6 * took / len(pool) / len(real):.2f}', '{:.2f}'.format(
                      resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                      / 2**20))
  rich.console.Console().print(table)


if __name__ == '__main__':
  main()
