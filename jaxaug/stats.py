"""Paired comparisons over runs: differences, intervals, Holm, the verdict.

Holm, A simple sequentially rejective multiple test procedure, 1979.
"""
import math

import numpy as np

from jaxaug import errors

MIN_RUNS = 3  # Fewer paired runs than this get no verdict.


def _values(values) -> np.ndarray:
  """Returns finite float64 [n], n at least 1."""
  values = np.asarray(values, np.float64)
  if values.ndim != 1 or not values.size:
    raise errors.InputError(
        'stats: expected a list with one number a run, got shape '
        f'{values.shape}.')
  if not np.isfinite(values).all():
    raise errors.InputError(
        f'stats: run {int(np.argmin(np.isfinite(values)))} has the value '
        f'{values[~np.isfinite(values)][0]}; expected finite numbers.')
  return values


def summary(values) -> dict:
  """Returns mean, std (ddof=1; None for one value) and n of one number a run.

  Raises:
    InputError: no value, or one that is not finite.
  """
  values = _values(values)
  std = float(values.std(ddof=1)) if values.size > 1 else None
  return {'mean': float(values.mean()), 'std': std, 'n': values.size}


def paired(arm, baseline, alpha: float = 0.05) -> dict:
  """Student's paired t-test of `arm` minus `baseline`, run by run.

  Where every difference is the same number, the t-test knows no spread and
  would call any such number certain, which happens by chance on small test
  sets. Then p is that of flipping signs, 2 ** (1 - n), and 1 for zeros.

  Args:
    arm: one number a run, in the order of the runs.
    baseline: the same runs of what it is compared with.
    alpha: the interval covers 1 - alpha.

  Returns:
    difference (mean), low and high (its interval), p (two-sided), n (runs);
    low, high and p are None for a single run.

  Raises:
    InputError: the lengths differ, or a value is missing or not finite.
  """
  from scipy import special

  arm, baseline = _values(arm), _values(baseline)
  if arm.size != baseline.size:
    raise errors.InputError(
        f'stats: {arm.size} runs of the arm and {baseline.size} of the '
        'baseline; expected the same runs of both.')
  each, n = arm - baseline, arm.size
  difference = float(each.mean())
  if n == 1:
    return {'difference': difference, 'low': None, 'high': None, 'p': None,
            'n': n}
  # Below this, differences are rounding: 0.3 - 0.2 is not 0.2 - 0.1.
  rounding = 1e-12 * max(np.abs(arm).max(), np.abs(baseline).max())
  if np.ptp(each) <= rounding:
    zero = abs(difference) <= rounding
    difference = 0. if zero else difference
    return {'difference': difference, 'low': difference, 'high': difference,
            'p': 1. if zero else 2. ** (1 - n), 'n': n}
  error = each.std(ddof=1) / math.sqrt(n)
  half = error * special.stdtrit(n - 1, 1 - alpha / 2)
  return {'difference': difference, 'low': float(difference - half),
          'high': float(difference + half), 'n': n,
          'p': float(2 * special.stdtr(n - 1, -abs(difference) / error))}


def holm(p_values) -> list:
  """Returns Holm-corrected p-values in the same order; None stays None."""
  # statsmodels' multipletests agrees (tested) but calls gc.collect() each
  # time, 0.1 s in a process that holds JAX: too slow to simulate studies.
  known = [i for i, p in enumerate(p_values) if p is not None]
  known.sort(key=lambda i: p_values[i])
  corrected, highest = list(p_values), 0.
  for rank, i in enumerate(known):
    highest = max(highest, (len(known) - rank) * p_values[i])
    corrected[i] = min(1., float(highest))
  return corrected


def verdict(difference: float, low, high, p_corrected, n: int,
            alpha: float = 0.05, lower_is_better: bool = True) -> str:
  """Returns 'helps', 'hurts', 'no evidence' or 'too few runs'.

  Helps and hurts need both the corrected p below alpha and the interval
  (low, high; uncorrected) on one side of zero.
  """
  if n < MIN_RUNS:
    return 'too few runs'
  if p_corrected >= alpha or low <= 0 <= high:
    return 'no evidence'
  return 'helps' if (difference < 0) == lower_is_better else 'hurts'


def compare(runs: dict, baseline: str, alpha: float = 0.05,
            lower_is_better: bool = True, against: dict | None = None) -> dict:
  """Compares every arm with the baseline, corrected over the arms.

  Args:
    runs: arm -> one number a run (errors, say), the same runs in all arms.
    baseline: the arm that the others are compared with.
    alpha: level of the tests; intervals cover 1 - alpha.
    lower_is_better: False for accuracies and the like.
    against: arm -> the arm that it is compared with in place of the baseline,
      so that the two differ in one thing.

  Returns:
    arm -> mean, std, n, baseline, difference, low, high, p, p_corrected and
    verdict; the baseline's own comparison is None and its verdict 'baseline'.

  Raises:
    InputError: the baseline is not an arm, or the runs do not pair up.
  """
  against = {arm: (against or {}).get(arm, baseline)
             for arm in runs if arm != baseline}
  for other in (baseline, *against.values()):
    if other not in runs:
      raise errors.InputError(
          f'stats: the baseline {other!r} is no arm; expected one of '
          f'{", ".join(runs)}.{errors.nearest(other, runs)}')
  tests = {arm: paired(runs[arm], runs[other], alpha)
           for arm, other in against.items()}
  corrected = dict(zip(tests, holm([t['p'] for t in tests.values()]),
                       strict=True))
  out = {}
  for arm, values in runs.items():
    out[arm] = summary(values) | dict.fromkeys(
        ('baseline', 'difference', 'low', 'high', 'p', 'p_corrected'))
    out[arm]['verdict'] = 'baseline'
    if arm in tests:
      out[arm] |= tests[arm] | {'baseline': against[arm],
                                'p_corrected': corrected[arm]}
      out[arm]['verdict'] = verdict(
          **{k: out[arm][k] for k in ('difference', 'low', 'high',
                                      'p_corrected', 'n')},
          alpha=alpha, lower_is_better=lower_is_better)
  return out
