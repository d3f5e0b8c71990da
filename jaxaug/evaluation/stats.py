"""Paired comparisons over runs: differences, intervals, Holm, the verdict.

Holm, A simple sequentially rejective multiple test procedure, 1979.
Nadeau and Bengio, Inference for the generalization error, 2003 (folds).
"""
import bisect
import math

import numpy as np

from jaxaug.core import errors

MIN_RUNS = 3  # Fewer paired runs than this get no verdict.
_TEST = ('baseline', 'difference', 'error', 'low', 'high', 'p', 'p_corrected')
_DETAILS = ('wilcoxon', 'bootstrap', 'smallest_effect', 'runs_needed')


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


def _differences(arm, baseline) -> np.ndarray:
  """Returns float64 [n]; those that differ by rounding only are made equal."""
  arm, baseline = _values(arm), _values(baseline)
  if arm.size != baseline.size:
    raise errors.InputError(
        f'stats: {arm.size} runs of the arm and {baseline.size} of the '
        'baseline; expected the same runs of both.')
  each = arm - baseline
  # Below this, differences are rounding: 0.3 - 0.2 is not 0.2 - 0.1.
  rounding = 1e-12 * max(np.abs(arm).max(), np.abs(baseline).max())
  if np.ptp(each) <= rounding:
    each[:] = each.mean() if abs(each.mean()) > rounding else 0
  return each


def _flip(n: int, ratio: float) -> float:
  """The p of n differences that are one and the same number.

  Under `ratio`, n is that of independent runs with an error as large.
  """
  return min(1., 2. ** (1 - n / (1 + n * ratio)))


def paired(arm, baseline, alpha: float = 0.05, ratio: float = 0.) -> dict:
  """Student's paired t-test of `arm` minus `baseline`, run by run.

  Where every difference is the same number, the t-test knows no spread and
  would call any such number certain, which happens by chance on small test
  sets. Then p is that of flipping signs, 2 ** (1 - n), and 1 for zeros.

  Args:
    arm: one number a run, in the order of the runs.
    baseline: the same runs of what it is compared with.
    alpha: the interval covers 1 - alpha.
    ratio: test images for one training image where the numbers are those of
      folds, whose training images overlap: the corrected resampled t-test,
      with the error std * sqrt(1 / n + ratio). 0 for runs on one split.

  Returns:
    difference (mean), error (its standard error), low and high (its
    interval), p (two-sided), n (runs); error, low, high and p are None for a
    single run.

  Raises:
    InputError: the lengths differ, or a value is missing or not finite.
  """
  from scipy import special

  each = _differences(arm, baseline)
  difference, n = float(each.mean()), each.size
  out = {'difference': difference, 'n': n}
  if n == 1:
    return out | dict.fromkeys(('error', 'low', 'high', 'p'))
  if not np.ptp(each):
    return out | {'error': 0., 'low': difference, 'high': difference,
                  'p': _flip(n, ratio) if difference else 1.}
  error = float(each.std(ddof=1)) * math.sqrt(1 / n + ratio)
  half = error * special.stdtrit(n - 1, 1 - alpha / 2)
  return out | {
      'error': error, 'low': float(difference - half),
      'high': float(difference + half),
      'p': float(2 * special.stdtr(n - 1, -abs(difference) / error))}


def wilcoxon(differences) -> float | None:
  """Returns the exact two-sided p of Wilcoxon's signed-rank test.

  Zeros are left out, equal sizes share their mean rank, and the distribution
  over all signs is exact with these too. None where all are zero, or one is
  all there is; n runs never give less than 2 ** (1 - n).
  """
  from scipy import stats

  each = _values(differences)
  # Equal but for rounding is equal.
  each = np.round(each / (np.abs(each).max() or 1), 9)
  if each.size == 1 or not each.any():
    return None
  each = each[each != 0]
  ranks = np.rint(2 * stats.rankdata(np.abs(each))).astype(int)
  chance = np.ones(1)  # Of each sum of the ranks with a plus.
  for rank in ranks:
    chance = (np.pad(chance, (0, rank)) + np.pad(chance, (rank, 0))) / 2
  plus = ranks[each > 0].sum()
  return min(1., float(
      2 * chance[:min(plus, ranks.sum() - plus) + 1].sum()))


def bootstrap(differences, alpha: float = 0.05) -> list | None:
  """Returns [low, high]: the seeded BCa bootstrap interval of the mean.

  A second opinion that supposes no normal distribution, and too narrow for
  few runs: of normal ones, 95 % is 74 % of 3, 84 % of 5, 89 % of 10. Where all
  differences are the same, it is that number twice. None under MIN_RUNS.
  """
  from scipy import stats

  each = _values(differences)
  if each.size < MIN_RUNS:
    return None
  if not np.ptp(each):
    return [float(each[0])] * 2
  interval = stats.bootstrap(
      (each,), np.mean, confidence_level=1 - alpha, method='BCa',
      rng=np.random.default_rng(0)).confidence_interval
  return [float(interval.low), float(interval.high)]


def mcnemar(arm_wrong, baseline_wrong) -> dict:
  """Exact McNemar test of one run of an arm with the baseline's.

  It speaks of these two trained networks on other test images, where the
  t-test over runs speaks of training again and the same test images.

  Args:
    arm_wrong: bool [N], whether the arm is wrong on each test image.
    baseline_wrong: bool [N], the same images.

  Returns:
    gained (images that only the arm has right), lost (only the baseline has)
    and p (two-sided binomial; 1 where neither has any).

  Raises:
    InputError: the shapes differ, or are not [N].
  """
  from scipy import stats

  arm, baseline = (np.asarray(x, bool) for x in (arm_wrong, baseline_wrong))
  if arm.ndim != 1 or arm.shape != baseline.shape:
    raise errors.InputError(
        f'stats: right and wrong of shapes {arm.shape} and {baseline.shape}; '
        'expected the same test images in both.')
  gained, lost = int((~arm & baseline).sum()), int((arm & ~baseline).sum())
  p = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.
  return {'gained': gained, 'lost': lost, 'p': float(p)}


def _power(errors_away: float, n: int, alpha: float) -> float:
  """Chance of p below alpha, `errors_away` true standard errors from zero."""
  from scipy import special

  limit = special.stdtrit(n - 1, 1 - alpha / 2)
  # Not a number where it is 0 but for rounding.
  below, above = np.nan_to_num(
      special.nctdtr(n - 1, errors_away, [-limit, limit]))
  return float(below + 1 - above)


def smallest_effect(std: float | None, n: int, alpha: float = 0.05,
                    power: float = .8, ratio: float = 0.) -> float | None:
  """Returns the smallest true difference that n paired runs find so often.

  Args:
    std: standard deviation of the paired differences, taken for the true one.
    n: paired runs, or folds.
    alpha: level of one test; that divided by the number of arms is Holm's
      worst case.
    power: how often it is found.
    ratio: as in `paired`; the error that it gives is taken for the true one.

  Returns:
    A difference, 0 where any is found; None for fewer than MIN_RUNS, or where
    all differences are equal and too few for that to be more than chance.
  """
  from scipy import optimize

  if n < MIN_RUNS:
    return None
  if not std:
    return 0. if _flip(n, ratio) < alpha else None
  if alpha >= power:
    return 0.
  high = 1.
  while _power(high, n, alpha) < power:
    high *= 2
  away = optimize.brentq(lambda x: _power(x, n, alpha) - power, 0, high)
  return float(away * std * math.sqrt(1 / n + ratio))


def runs_needed(difference: float, std: float | None, alpha: float = 0.05,
                power: float = .8, most: int = 1000) -> int | None:
  """Returns how many paired runs, in all, find a true difference so often.

  At least MIN_RUNS; None if more than `most`, if the difference is 0, or if
  its spread is not known. The other arguments are those of `smallest_effect`.
  """
  if not difference or std is None:
    return None
  def found(n):
    if not std:
      return _flip(n, 0) < alpha
    return _power(abs(difference) / std * math.sqrt(n), n, alpha) >= power
  n = bisect.bisect_left(range(most + 1), True, MIN_RUNS, key=found)
  return n if n <= most else None


def holm(p_values, planned: int = 0) -> list:
  """Returns Holm-corrected p-values in the same order; None stays None.

  planned: tests of the family, if more than have a p-value; one that lacks it
    counts as if nothing had been found.
  """
  # statsmodels' multipletests agrees (tested) but calls gc.collect() each
  # time, 0.1 s in a process that holds JAX: too slow to simulate studies.
  known = [i for i, p in enumerate(p_values) if p is not None]
  known.sort(key=lambda i: p_values[i])
  corrected, highest = list(p_values), 0.
  planned = max(planned, len(known))
  for rank, i in enumerate(known):
    highest = max(highest, (planned - rank) * p_values[i])
    corrected[i] = min(1., float(highest))
  return corrected


def verdict(difference: float, low, high, p_corrected, n: int,
            alpha: float = 0.05, lower_is_better: bool = True) -> str:
  """Returns 'helps', 'hurts', 'no evidence' or 'too few runs'.

  Helps and hurts need both the corrected p below alpha and the interval
  (low, high; uncorrected) on one side of zero. study/report/ and docs/guide.md
  say so in words; `python -m benchmarks.verdict` measures false findings.
  """
  if n < MIN_RUNS:
    return 'too few runs'
  if p_corrected >= alpha or low <= 0 <= high:
    return 'no evidence'
  return 'helps' if (difference < 0) == lower_is_better else 'hurts'


def mixed(differences: dict, alpha: float = 0.05, ratio: float = 0.) -> dict:
  """Combines an arm's differences over classifiers, each drawn at random.

  It speaks of other classifiers like these, on these splits with this pool,
  so its error is that of classifiers, not runs: for two of them the interval
  is 12.7 standard errors to either side. It is the random-effects interval of
  Hartung and Knapp with C - 1 degrees of freedom, all classifiers at the same
  weight. (Weights from variances over a handful of runs break the level: 13 %
  false findings at 5 %, for five classifiers of three runs.)

  Args:
    differences: classifier -> its paired differences, one a run.
    alpha: the interval covers 1 - alpha.
    ratio: as in `paired`.

  Returns:
    difference, error, low, high, p as `paired` has them over the classifiers'
    means, classifiers (C), heterogeneity (I2: the share of the means' variance
    that runs do not explain; None for one classifier, or one run of any).
  """
  each = [_values(values) for values in differences.values()]
  out = paired([x.mean() for x in each], np.zeros(len(each)), alpha)
  out['classifiers'] = out.pop('n')
  out['heterogeneity'] = None
  if out['error'] is not None and min(x.size for x in each) > 1:
    within = np.mean([x.var(ddof=1) * (1 / x.size + ratio) for x in each])
    between = len(each) * out['error'] ** 2
    out['heterogeneity'] = float(
        max(0, 1 - within / between)) if between else 0.
  return out


def test_share(folds: int) -> float:
  """Test images for one training image of `folds`; 0 for one split."""
  return 1 / (folds - 1) if folds > 1 else 0.


def _folded(values, folds: int) -> np.ndarray:
  """Averages the runs of each fold, [folds]; one split's values stay."""
  values = _values(values)
  if values.size % folds:
    raise errors.InputError(
        f'stats: {values.size} values for {folds} folds; expected as many '
        'runs in every fold.')
  return values if folds == 1 else values.reshape(folds, -1).mean(1)


def _details(each: np.ndarray, alpha: float, tests: int,
             ratio: float) -> dict:
  """Returns what `compare` gives beside the verdict."""
  std, level = summary(each)['std'], alpha / tests
  out = dict.fromkeys(_DETAILS) | {
      'smallest_effect': smallest_effect(std, each.size, level, ratio=ratio)}
  if ratio:
    # Wilcoxon and the bootstrap know no correction for folds, and how their
    # spread would fall with more of them is not known.
    return out
  return out | {
      'wilcoxon': wilcoxon(each), 'bootstrap': bootstrap(each, alpha),
      'runs_needed': runs_needed(float(each.mean()), std, level)}


def compare(runs: dict, baseline: str, alpha: float = 0.05,
            lower_is_better: bool = True, against: dict | None = None,
            folds: int = 1, details: bool = True, missing=()) -> dict:
  """Compares every arm with the baseline, corrected over the arms.

  Under cross-validation the runs of a fold share its test images, so they
  are averaged first; then mean, std and n are over the folds, and the test is
  the corrected one, at folds - 1 training parts for each tested one.

  Args:
    runs: arm -> one number a run (errors, say), the same runs in all arms.
    baseline: the arm that the others are compared with.
    alpha: level of the tests; intervals cover 1 - alpha.
    lower_is_better: False for accuracies and the like.
    against: arm -> the arm that it is compared with in place of the baseline,
      so that the two differ in one thing.
    folds: parts of a cross-validation; the numbers stand fold by fold, as
      many runs in each. 1 for runs on one split.
    details: False leaves out what the verdict does not need (see Returns).
    missing: arms that have no numbers. They count among the tests that p is
      corrected for; what is compared with one has the verdict 'not compared'.

  Returns:
    arm -> mean, std, n, baseline, difference, error, low, high, p,
    p_corrected and verdict, and with `details`: wilcoxon (p, uncorrected),
    bootstrap ([low, high]), smallest_effect (true difference that as many
    runs find in 80 % of studies) and runs_needed (runs to find the measured
    difference as often, were it the true one), both with the measured spread
    at alpha divided by the number of arms, Holm's worst case. None where not
    defined; under cross-validation that is all of these but smallest_effect.
    The baseline's own comparison is None and its verdict 'baseline'.

  Raises:
    InputError: the baseline is not an arm, or the runs do not pair up.
  """
  errors.count('stats: folds', folds)
  runs = {arm: _folded(values, folds) for arm, values in runs.items()}
  ratio = test_share(folds)
  against = {arm: (against or {}).get(arm, baseline)
             for arm in runs if arm != baseline}
  for other in (baseline, *against.values()):
    if other not in runs and other not in missing:
      raise errors.InputError(
          f'stats: the baseline {other!r} is no arm; expected one of '
          f'{", ".join(runs)}.{errors.nearest(other, runs)}')
  planned = len({*runs, *missing} - {baseline})
  tests = {arm: paired(runs[arm], runs[other], alpha, ratio)
           for arm, other in against.items() if other in runs}
  corrected = dict(zip(tests, holm([t['p'] for t in tests.values()],
                                   planned),
                       strict=True))
  none = dict.fromkeys(_TEST + _DETAILS if details else _TEST)
  out = {arm: summary(values) | none | {'verdict': 'baseline'}
         for arm, values in runs.items()}
  for arm, other in against.items():
    row = out[arm]
    row |= {'baseline': other, 'verdict': 'not compared'}
    if arm not in tests:
      continue
    row |= tests[arm] | {'p_corrected': corrected[arm]}
    row['verdict'] = verdict(
        row['difference'], row['low'], row['high'], row['p_corrected'],
        row['n'], alpha, lower_is_better)
    if details:
      row |= _details(_differences(runs[arm], runs[other]), alpha, planned,
                      ratio)
  return out
