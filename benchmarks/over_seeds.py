"""Pairs the arms of one study over launches with other seeds.

  python -m benchmarks.over_seeds WORKDIR... [--json=FILE]

Every launch has trainings of generators and classifiers, pools and splits of
its own; an arm's number of a launch is the mean over its runs. Launches share
the test images and most training images, which the t-test over launches does
not know: it speaks of training all of it again on these data.

Generated arms are compared with the baseline and, in a second table, with the
plain arm that has the best mean of all. That one is chosen by these numbers, so
that arms may look worse beside it than they are: the table says 'better' or
nothing. p is after Holm, table by table.
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
  if len(workdirs) < 2:
    raise errors.InputError(f'{workdirs[0]}: is one launch; expected several.')
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
    # Without it the others would be corrected for fewer comparisons.
    for name, entry in results['classifiers'].items():
      for arm in config['arms']:
        if arm['name'] not in entry['arms']:
          raise errors.InputError(
              f'{workdir}: has no numbers of {name} for the arm '
              f'{arm["name"]!r}; expected a study without missing runs.')
  return out


def values(launches: list[dict], classifier: str, metric: str) -> dict:
  """Returns arm -> its mean of each launch; InputError where there is none."""
  out = {}
  for results in launches:
    for arm, entry in results['classifiers'][classifier]['arms'].items():
      mean = entry['metrics'][metric]['mean']
      if mean is None:
        raise errors.InputError(
            f'seed {results["config"]["seed"]}: {metric} of the arm {arm!r} is '
            'not a number; expected one.')
      out.setdefault(arm, []).append(mean)
  return out


def compare(launches: list[dict], classifier: str, metric: str) -> dict:
  """Returns the baseline and the best plain arm -> what stats.compare says.

  Beside the best plain arm a verdict is 'better' or ''.
  """
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
    out[best] = {
        arm: row if arm == best else row | {
            'verdict': 'better' if row['verdict'] == 'helps' else ''}
        for arm, row in stats.compare(some, best, alpha, low).items()}
  return out


def metrics(launches: list[dict]) -> list[str]:
  """Returns the study's metric, and what else is worth a table."""
  config, entry = launches[0]['config'], launches[0]['classifiers']
  out = [config['metric'], *['minority_accuracy'] * bool(config['minority']),
         'error']
  if config['metric'] == 'balanced_accuracy' and all(
      abs(arm['metrics']['error']['mean'] + arm['metrics'][
          'balanced_accuracy']['mean'] - 1) < 1e-9
      for each in entry.values() for arm in each['arms'].values()):
    out.remove('error')  # All classes have as many test images: it is the rest.
  return list(dict.fromkeys(out))


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
  for classifier in launches[0]['classifiers']:
    for metric in metrics(launches):
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
