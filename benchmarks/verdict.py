"""How often verdicts are wrong, and how often they find what is there.

  python -m benchmarks.verdict [--quick]

Simulated studies of six arms and their baseline, whose run k shares its luck.
Without any effect, the share with any helps or hurts must be at most 6 %
(alpha is 5 %). With one arm better by a standard deviation of the paired
difference, the share where it helps must be within 3 points of the power of
the non-central t at alpha for a single arm, and no more than that below the one
at alpha / 6, which Holm raises, among six.
"""
import argparse
import math

import numpy as np
import rich.console
import rich.table
from scipy import stats as reference

from jaxaug.evaluation import stats

ALPHA, ARMS, LIMIT = 0.05, 6, 0.06
LUCK, NOISE = 0.03, 0.01  # Of a run in all arms, and of one arm.


def study(rng, arms: int, runs: int, folds: int = 1) -> np.ndarray:
  """Draws the errors of a study without effect: [arms + 1, folds * runs].

  An arm's folds differ by more than its runs, and share a part that no fold
  shows, as their training images overlap: its share is that which the
  corrected t-test supposes, 1 / (folds - 1) of the variance over folds.
  """
  shape = arms + 1, folds, runs
  out = .2 + rng.normal(0, LUCK, shape[1:]) + rng.normal(0, NOISE, shape)
  if folds > 1:
    spread = NOISE * math.sqrt(1 + 1 / runs)
    out += rng.normal(0, LUCK, (folds, 1))
    out += rng.normal(0, NOISE, (arms + 1, folds, 1))
    out += rng.normal(0, spread / math.sqrt(folds - 1), (arms + 1, 1, 1))
  return out.reshape(arms + 1, -1)


def measure(studies: int, arms: int, runs: int, folds: int = 1,
            effect: float = 0., seed: int = 0) -> tuple[float, float]:
  """Returns the shares with any helps or hurts, and where arm 1 helps."""
  rng = np.random.default_rng(seed)
  decided = helped = 0
  for _ in range(studies):
    table = study(rng, arms, runs, folds)
    table[1] -= effect
    rows = stats.compare(dict(enumerate(table)), 0, ALPHA, folds=folds,
                         details=False)
    verdicts = [rows[arm]['verdict'] for arm in range(1, arms + 1)]
    decided += any(v in ('helps', 'hurts') for v in verdicts)
    helped += verdicts[0] == 'helps'
  return decided / studies, helped / studies


def power(sigmas: float, n: int, alpha: float) -> float:
  """The two-sided power of a paired t-test, from scipy's non-central t."""
  limit = reference.t.isf(alpha / 2, n - 1)
  away = reference.nct(n - 1, sigmas * math.sqrt(n))
  return away.sf(limit) + away.cdf(-limit)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--quick', action='store_true',
                      help='few studies: a look, not a measurement')
  quick = parser.parse_args().quick
  studies = 200 if quick else 2000
  table = rich.table.Table(title=f'{studies} simulated studies a row')
  for name in ('study', 'arms', 'effect', 'verdict', 'measured', 'target',
               'met'):
    table.add_column(name, justify='right', no_wrap=True)

  def row(design, arms, effect, verdict, share, target, met):
    error = math.sqrt(share * (1 - share) / studies)
    table.add_row(design, str(arms), effect, verdict,
                  f'{share:.1%} ± {error:.1%}', target,
                  '?' if quick else 'yes' if met else 'NO')

  for runs, folds in ((3, 1), (5, 1), (10, 1), (3, 5)):
    share, _ = measure(studies, ARMS, runs, folds, seed=runs)
    row(f'{folds} folds, {runs} runs' if folds > 1 else f'{runs} runs', ARMS,
        '0', 'any', share, f'<= {LIMIT:.0%}', share <= LIMIT)
  for arms in (1, ARMS):
    # Both sides of a difference are as noisy.
    _, share = measure(studies, arms, 10, effect=NOISE * math.sqrt(2))
    want = power(1, 10, ALPHA / arms)
    off = share - want if arms > 1 else abs(share - want)
    row('10 runs', arms, '1 sigma', 'helps', share,
        f'{want:.1%} - 3%' if arms > 1 else f'{want:.1%} ± 3%',
        off >= -.03 if arms > 1 else off <= .03)
  rich.console.Console().print(table)


if __name__ == '__main__':
  main()
