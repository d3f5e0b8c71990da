"""Pairs the arms of one study over launches with other seeds.

  python -m benchmarks.over_seeds WORKDIR... [--json=FILE]

Every launch has generators, pools, splits and classifiers of its own, so that a
difference that stays is the arm's. An arm's number of a launch is the mean over
its runs. Generated arms are compared with the baseline and, in a second table,
with the plain arm that has the best mean of all, chosen after the fact: that
can only be to their disadvantage.
"""
import argparse
import pathlib
import sys

import rich.console
import rich.table

from jaxaug.core import errors, exit_status, files
from jaxaug.evaluation import stats


def read(workdirs) -> list[dict]:
  """Returns results.json of each launch; InputError unless they pair up."""
  out = [files.read_json(pathlib.Path(w) / 'results.json') for w in workdirs]
  seen = {}
  for workdir, results in zip(workdirs, out, strict=True):
    config = {k: v for k, v in results['config'].items() if k != 'seed'}
    seed = results['config']['seed']
    if config != {k: v for k, v in out[0]['config'].items() if k != 'seed'}:
      raise errors.InputError(f'{workdir}: is of another study than '
                              f'{workdirs[0]}; expected other seeds alone.')
    if seed in seen:
      raise errors.InputError(f'{workdir}: has the seed {seed}, as '
                              f'{seen[seed]} has; expected one of its own.')
    seen[seed] = workdir
  return out


def values(launches: list[dict], classifier: str, metric: str) -> dict:
  """Returns arm -> its mean of each launch, of arms that all have."""
  entries = [results['classifiers'][classifier]['arms'] for results in launches]
  return {arm: [entry[arm]['metrics'][metric]['mean'] for entry in entries]
          for arm in entries[0] if all(arm in entry for entry in entries)}


def compare(launches: list[dict], classifier: str, metric: str) -> dict:
  """Returns 'baseline' and 'best plain' -> what stats.compare says."""
  entry = launches[0]['classifiers'][classifier]
  low = entry['arms'][entry['baseline']]['metrics'][metric]['lower_is_better']
  runs = values(launches, classifier, metric)
  alpha = launches[0]['alpha']
  out = {entry['baseline']: stats.compare(runs, entry['baseline'], alpha, low)}
  plain = [arm for arm in runs if not entry['arms'][arm]['generated']]
  best = (min if low else max)(plain, key=lambda arm: sum(runs[arm]))
  if best != entry['baseline']:
    some = {arm: each for arm, each in runs.items()
            if arm == best or entry['arms'][arm]['generated']}
    out[best] = stats.compare(some, best, alpha, low)
  return out


def _table(title: str, rows: dict, alone: dict) -> rich.table.Table:
  table = rich.table.Table(title=title)
  for name in ('arm', 'mean ± std (n)', 'difference', 'p', 'verdict',
               'alone'):
    table.add_column(name, justify='left' if name == 'arm' else 'right')
  for arm, row in rows.items():
    difference = '' if row['difference'] is None else (
        f'{100 * row["difference"]:+.2f} [{100 * row["low"]:+.2f}, '
        f'{100 * row["high"]:+.2f}]')
    table.add_row(
        arm, f'{100 * row["mean"]:.2f} ± {100 * row["std"]:.2f} ({row["n"]})',
        difference, '' if row['p_corrected'] is None else
        f'{row["p_corrected"]:.3f}', row['verdict'],
        ', '.join(f'{100 * value:.1f}' for value in alone[arm]))
  return table


def main(argv=None) -> int:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('workdirs', nargs='+', metavar='WORKDIR')
  parser.add_argument('--json', help='where to write the numbers too')
  flags = parser.parse_args(argv)
  launches, out = read(flags.workdirs), {}
  console = rich.console.Console(width=120)
  config = launches[0]['config']
  metrics = dict.fromkeys([config['metric'], *(
      ['minority_accuracy'] if config['minority'] else []), 'error'])
  for classifier in launches[0]['classifiers']:
    for metric in metrics:
      alone = values(launches, classifier, metric)
      for against, rows in compare(launches, classifier, metric).items():
        out[f'{classifier}, {metric}, against {against}'] = rows
        console.print(_table(f'{classifier}: {metric}, % of {len(launches)} '
                             f'launches, against {against}', rows, alone))
  if flags.json:
    files.write_json(flags.json, {'workdirs': flags.workdirs, 'tables': out})
  return 0


if __name__ == '__main__':
  sys.exit(exit_status.of('over_seeds', main))
