"""Paired statistics against scipy, hand numbers and simulated studies."""
import numpy as np
import pytest
from scipy import stats as reference

from jaxaug.core import errors
from jaxaug.evaluation import stats

NONE = dict.fromkeys(('error', 'low', 'high', 'p'))


def test_summary():
  assert stats.summary([1., 2., 3., 4.]) == {
      'mean': 2.5, 'std': pytest.approx((5 / 3) ** .5), 'n': 4}
  assert stats.summary([.25]) == {'mean': .25, 'std': None, 'n': 1}


@pytest.mark.parametrize('n', [2, 3, 5, 10, 40])
@pytest.mark.parametrize('alpha', [.05, .01, .2])
def test_paired_agrees_with_scipy(n, alpha):
  rng = np.random.default_rng(n)
  for shift in (0, .01, .3):
    baseline = rng.normal(.2, .02, n)
    arm = baseline + rng.normal(shift, .01, n)
    got = stats.paired(arm, baseline, alpha)
    want = reference.ttest_rel(arm, baseline)
    interval = want.confidence_interval(1 - alpha)
    np.testing.assert_allclose(got['p'], want.pvalue, rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose([got['low'], got['high']], interval, rtol=1e-9)
    assert got['difference'] == pytest.approx((arm - baseline).mean())
    assert got['n'] == n
    assert got['error'] == pytest.approx(
        got['difference'] / want.statistic)


def test_paired_by_hand():
  # Differences 1, 2, 3: mean 2, error 1/sqrt(3), t = 2 sqrt(3); with two
  # degrees of freedom p = 1 - t / sqrt(t^2 + 2), and 4.302653 at 95 %.
  got = stats.paired([2, 4, 6], [1, 2, 3])
  t = 2 * 3 ** .5
  assert got['p'] == pytest.approx(1 - t / (t * t + 2) ** .5)
  assert got['low'] == pytest.approx(2 - 4.302653 / 3 ** .5, abs=1e-6)
  assert got['high'] == pytest.approx(2 + 4.302653 / 3 ** .5, abs=1e-6)


def test_paired_without_spread():
  assert stats.paired([.1, .2, .3], [.1, .2, .3]) == {
      'difference': 0, 'error': 0, 'low': 0, 'high': 0, 'p': 1, 'n': 3}
  # The same difference up to rounding: the exact sign-flip p, no t of 1e15.
  got = stats.paired([.2, .3, .4, .5], [.1, .2, .3, .4])
  assert got['p'] == 1 / 8
  assert got['low'] == got['high'] == pytest.approx(.1)
  assert stats.paired([.3, .3 + 1e-17], [.1 + .2, .3])['p'] == 1


def test_paired_single_run():
  assert stats.paired([.5], [.25]) == {'difference': .25, 'n': 1} | NONE


@pytest.mark.parametrize('arm, baseline, message', [
    ([.1, float('nan')], [.1, .2], 'run 1 has the value nan'),
    ([.1, .2], [float('inf'), .2], 'run 0 has the value inf'),
    ([.1, .2], [.1], '2 runs of the arm and 1'),
    ([], [], 'one number a run'),
    ([[.1]], [[.1]], 'one number a run'),
])
def test_bad_runs(arm, baseline, message):
  with pytest.raises(errors.InputError, match=message) as caught:
    stats.paired(arm, baseline)
  assert '\n' not in str(caught.value)


def test_holm():
  # Sorted .01 .02 .04 times 3 2 1, never falling, at most 1.
  assert stats.holm([.04, .01, None, .02]) == pytest.approx(
      [.04, .03, None, .04])
  assert stats.holm([.9, .8]) == [1, 1]
  assert stats.holm([None, None]) == [None, None]
  assert stats.holm([]) == []


def test_holm_agrees_with_statsmodels():
  multitest = pytest.importorskip('statsmodels.stats.multitest')
  rng = np.random.default_rng(0)
  for size in (1, 2, 5, 12):
    p = np.append(rng.beta(.3, 3, size), [.04, .04])  # Ties too.
    np.testing.assert_allclose(
        stats.holm(p), multitest.multipletests(p, method='holm')[1])


@pytest.mark.parametrize('given, want', [
    ((-.1, -.2, -.05, .01, 5), 'helps'),
    ((.1, .05, .2, .01, 5), 'hurts'),
    ((-.1, -.2, -.05, .06, 5), 'no evidence'),   # Only before the correction.
    ((-.1, -.2, .01, .01, 5), 'no evidence'),    # The interval holds zero.
    ((-.1, -.2, -.05, .05, 5), 'no evidence'),   # p must be below alpha.
    ((0., 0., 0., 1., 5), 'no evidence'),
    ((-.1, -.2, -.05, .001, 2), 'too few runs'),
    ((-.1, None, None, None, 1), 'too few runs'),
])
def test_verdict(given, want):
  assert stats.verdict(*given) == want


def test_verdict_of_an_accuracy():
  assert stats.verdict(.1, .05, .2, .01, 5, lower_is_better=False) == 'helps'
  assert stats.verdict(-.1, -.2, -.05, .01, 5,
                       lower_is_better=False) == 'hurts'


def test_compare():
  runs = {'real': [.20, .21, .22, .20], 'pool': [.15, .17, .165, .152],
          'worse': [.30, .31, .33, .30], 'same': [.21, .20, .22, .20]}
  got = stats.compare(runs, 'real')
  assert list(got) == list(runs)
  assert {arm: row['verdict'] for arm, row in got.items()} == {
      'real': 'baseline', 'pool': 'helps', 'worse': 'hurts',
      'same': 'no evidence'}
  assert got['real']['difference'] is None and got['real']['n'] == 4
  raw = {arm: reference.ttest_rel(runs[arm], runs['real']).pvalue
         for arm in ('pool', 'worse', 'same')}
  first, second = sorted(raw, key=raw.get)[:2]
  assert got[first]['p_corrected'] == pytest.approx(3 * raw[first])
  assert got[second]['p_corrected'] == pytest.approx(2 * raw[second])
  flipped = stats.compare(runs, 'real', lower_is_better=False)
  assert flipped['pool']['verdict'] == 'hurts'


def test_compare_few_runs_and_one_arm():
  got = stats.compare({'a': [.2, .3], 'b': [.1, .1]}, 'a')
  assert got['b']['verdict'] == 'too few runs' and got['b']['p'] is not None
  got = stats.compare({'a': [.2], 'b': [.1]}, 'a')['b']
  assert got['verdict'] == 'too few runs' and got['p_corrected'] is None
  assert stats.compare({'a': [.2]}, 'a')['a']['verdict'] == 'baseline'
  with pytest.raises(errors.InputError, match="mean 'real'"):
    stats.compare({'real': [.2]}, 'reel')


def _studies(draws, runs, arms, effect, seed, folds=1, shared=0.):
  """Share of simulated studies with any verdict, and of arm 0 'helps'.

  Errors of one run share its luck, and all differences share the baseline.
  With folds, each has its own level, common to all arms; `shared` is the
  standard deviation of what an arm's folds have in common.
  """
  rng = np.random.default_rng(seed)
  decided = helped = 0
  for _ in range(draws):
    luck = rng.normal(.2, .03, (folds, runs)) + rng.normal(0, .05, (folds, 1))
    table = luck + rng.normal(0, .01, (arms + 1, folds, runs))
    table += rng.normal(0, shared, (arms + 1, 1, 1))
    table[1] -= effect
    got = stats.compare(dict(enumerate(table.reshape(arms + 1, -1))), 0,
                        folds=folds, details=False)
    verdicts = [got[arm]['verdict'] for arm in range(1, arms + 1)]
    decided += any(v in ('helps', 'hurts') for v in verdicts)
    helped += verdicts[0] == 'helps'
  return decided / draws, helped / draws


@pytest.mark.parametrize('runs', [3, 5, 10])
def test_family_wise_error(runs):
  # Shared baseline makes Holm conservative: under .05, but not by far. Three
  # standard errors of 2,000 draws are .015.
  decided, _ = _studies(2000, runs, 6, 0., seed=runs)
  assert .02 < decided < .06


def test_family_wise_error_of_cross_validation():
  # What folds share is as large as the correction supposes: 1 / (folds - 1)
  # of the variance of a fold's mean over three runs.
  shared = (.01**2 / 3 / 4)**.5
  decided, _ = _studies(2000, 3, 6, 0., seed=0, folds=5, shared=shared)
  assert .02 < decided < .06


def test_power_of_one_arm_agrees_with_theory():
  # A difference of one standard deviation, 10 runs: non-central t.
  spread, runs = .01 * 2 ** .5, 10
  _, helped = _studies(3000, runs, 1, spread, seed=1)
  assert helped == pytest.approx(_power(1, runs, .05), abs=.03)
  # Among six arms, at least that of Bonferroni.
  _, helped = _studies(1500, runs, 6, spread, seed=2)
  assert _power(1, runs, .05 / 6) - .03 < helped < .7


def _power(sigmas, n, alpha):
  limit = reference.t.isf(alpha / 2, n - 1)
  away = reference.nct(n - 1, sigmas * n ** .5)
  return away.sf(limit) + away.cdf(-limit)


def test_discrete_errors_stay_under_alpha():
  # Twenty test images and three runs: equal differences are common by luck.
  rng = np.random.default_rng(0)
  false = 0
  for _ in range(3000):
    table = rng.binomial(20, .1, (2, 3)) / 20
    false += stats.compare({'a': table[0], 'b': table[1]},
                           'a', details=False)['b']['verdict'] != 'no evidence'
  assert false / 3000 < .05


def test_an_arm_may_have_a_baseline_of_its_own():
  runs = {'real': [.30, .31, .29, .32], 'plain': [.20, .21, .19, .23],
          'both': [.20, .22, .19, .22]}
  alone = stats.compare(runs, 'real')
  out = stats.compare(runs, 'real', against={'both': 'plain'})
  # Against real it shines by its augmentation; against its like it does not.
  assert alone['both']['verdict'] == 'helps'
  assert out['both']['verdict'] == 'no evidence'
  assert out['both']['baseline'] == 'plain' and out['plain'][
      'baseline'] == 'real' and out['real']['baseline'] is None
  assert out['plain']['p'] == alone['plain']['p']
  assert out['both']['p'] == stats.paired(runs['both'], runs['plain'])['p']
  with pytest.raises(errors.InputError, match="'plane' is no arm"):
    stats.compare(runs, 'real', against={'both': 'plane'})


def test_corrected_resampled_t_by_hand():
  # Five folds: differences of mean 3, variance 2.5; error^2 2.5 (1/5 + 1/4).
  got = stats.paired([2, 3, 4, 5, 6], [1, 1, 1, 1, 1], ratio=1 / 4)
  error = (2.5 * .45) ** .5
  assert got['error'] == pytest.approx(error)
  assert got['p'] == pytest.approx(2 * reference.t.sf(3 / error, 4))
  assert got['high'] == pytest.approx(3 + 2.7764451 * error, abs=1e-6)
  assert got['p'] > 2 * stats.paired([2, 3, 4, 5, 6], [1] * 5)['p']
  # Ten equal folds are 90 / 19 independent runs, and never a verdict.
  assert stats.paired([2] * 10, [1] * 10, ratio=1 / 9)['p'] == pytest.approx(
      2 ** (1 - 90 / 19))
  assert stats.paired([2] * 2, [1] * 2, ratio=1)['p'] == 1


def test_folds_are_averaged_before_the_test():
  # Fold by fold, two runs each.
  runs = {'real': [.2, .4, .1, .3, .5, .5], 'pool': [.1, .3, .1, .1, .2, .4]}
  got = stats.compare(runs, 'real', folds=3)
  assert got['real']['mean'] == pytest.approx(1 / 3)
  assert got['real']['std'] == pytest.approx(np.std([.3, .2, .5], ddof=1))
  assert got['real']['n'] == got['pool']['n'] == 3
  want = stats.paired([.2, .1, .3], [.3, .2, .5], ratio=1 / 2)
  for key, value in want.items():
    assert got['pool'][key] == pytest.approx(value)
  for key in ('wilcoxon', 'bootstrap', 'runs_needed'):
    assert got['pool'][key] is None
  assert got['pool']['smallest_effect'] == pytest.approx(
      stats.smallest_effect(.1 / 3**.5, 3, ratio=1 / 2))
  # Two folds are too few, however many runs.
  runs = {'real': [.5, .6] * 4, 'pool': [.1, .2] * 4}
  assert stats.compare(runs, 'real', folds=2)['pool'][
      'verdict'] == 'too few runs'
  with pytest.raises(errors.InputError, match='8 values for 3 folds'):
    stats.compare(runs, 'real', folds=3)
  with pytest.raises(errors.InputError, match='stats: folds: 0'):
    stats.compare(runs, 'real', folds=0)


def test_details_and_their_keys():
  rng = np.random.default_rng(0)
  runs = {arm: .2 + rng.normal(0, .01, 8) for arm in 'abc'}
  got = stats.compare(runs, 'a')
  plain = stats.compare(runs, 'a', details=False)
  extra = ('wilcoxon', 'bootstrap', 'smallest_effect', 'runs_needed')
  for arm, row in got.items():
    assert row == plain[arm] | {k: row[k] for k in extra}
    assert not set(extra) & set(plain[arm])
  assert all(got['a'][k] is None for k in (*extra, 'error', 'p'))
  each = runs['b'] - runs['a']
  assert got['b']['wilcoxon'] == stats.wilcoxon(each)
  assert got['b']['bootstrap'] == stats.bootstrap(each)
  # Two arms: Holm's worst case is half of alpha.
  assert got['b']['smallest_effect'] == pytest.approx(
      stats.smallest_effect(each.std(ddof=1), 8, .025))
  assert got['b']['runs_needed'] == stats.runs_needed(
      each.mean(), each.std(ddof=1), .025)
  single = stats.compare({'a': [.2], 'b': [.1]}, 'a')['b']
  assert all(single[k] is None for k in (*extra, 'error'))


@pytest.mark.parametrize('n', [2, 3, 6, 10, 25, 40])
def test_wilcoxon_agrees_with_scipy(n):
  each = np.random.default_rng(n).normal(.3, 1, n)
  assert stats.wilcoxon(each) == pytest.approx(
      reference.wilcoxon(each, method='exact').pvalue)


def test_wilcoxon_with_ties_and_zeros_is_exact():
  rng = np.random.default_rng(0)
  for _ in range(10):
    each = rng.integers(-2, 4, 8) / 20
    each[0] = .05
    want = reference.wilcoxon(
        each, method=reference.PermutationMethod(n_resamples=2**9))
    assert stats.wilcoxon(each) == pytest.approx(want.pvalue)
  # All of one sign, and equal but for rounding.
  assert stats.wilcoxon([.1 + .2 - .3 + .1, .1, .3 - .2]) == .25
  assert stats.wilcoxon([0., 0., 0.]) is None
  assert stats.wilcoxon([.1]) is None


def test_bootstrap_agrees_with_the_t_interval_of_many():
  each = np.random.default_rng(0).normal(.1, 1, 400)
  want = stats.paired(each, np.zeros(400))
  got = stats.bootstrap(each)
  assert got == pytest.approx([want['low'], want['high']], abs=.01)
  assert got == stats.bootstrap(each)  # Seeded.
  assert got[0] > stats.bootstrap(each, .01)[0]
  assert stats.bootstrap([.5, .5, .5]) == [.5, .5]
  assert stats.bootstrap([.5, .4]) is None


def test_bootstrap_coverage():
  # Near 95 % for 30 runs, and known to fall short for few.
  rng = np.random.default_rng(0)
  inside = 0
  for _ in range(500):
    low, high = stats.bootstrap(rng.normal(0, 1, 30))
    inside += low < 0 < high
  assert .89 < inside / 500 < .97


def test_mcnemar_agrees_with_statsmodels():
  tables = pytest.importorskip('statsmodels.stats.contingency_tables')
  rng = np.random.default_rng(0)
  for shift in (0, .05, .2):
    arm, baseline = rng.random(200) < .3 - shift, rng.random(200) < .3
    got = stats.mcnemar(arm, baseline)
    counts = [[(~arm & ~baseline).sum(), got['gained']],
              [got['lost'], (arm & baseline).sum()]]
    assert np.sum(counts) == 200
    want = tables.mcnemar(counts, exact=True)
    assert got['p'] == pytest.approx(want.pvalue)


def test_mcnemar_by_hand():
  # Three gained, none lost: 2 / 2^3.
  baseline = np.array([1, 1, 1, 1, 0, 0], bool)
  arm = np.array([0, 0, 0, 1, 0, 0], bool)
  assert stats.mcnemar(arm, baseline) == {'gained': 3, 'lost': 0, 'p': .25}
  assert stats.mcnemar(baseline, arm) == {'gained': 0, 'lost': 3, 'p': .25}
  assert stats.mcnemar(arm, arm) == {'gained': 0, 'lost': 0, 'p': 1}
  with pytest.raises(errors.InputError, match='the same test images'):
    stats.mcnemar(arm, baseline[:5])


@pytest.mark.parametrize('alpha, given', [
    (.05, {'alpha': .05}),
    # Its lower tail is not a number here; it is below 1e-9.
    (.05 / 6, {'alpha': .05 / 12, 'alternative': 'larger'}),
])
def test_power_agrees_with_statsmodels(alpha, given):
  solver = pytest.importorskip('statsmodels.stats.power').TTestPower()
  for n in (3, 5, 10, 30, 300):
    got = stats.smallest_effect(.02, n, alpha)
    assert solver.power(got / .02, n, **given) == pytest.approx(.8, abs=1e-6)
  for sigmas in (.2, .5, 1, 2, 4):
    want = solver.solve_power(sigmas, power=.8, **given)
    assert stats.runs_needed(-.02 * sigmas, .02, alpha) == max(
        3, np.ceil(want))


def test_smallest_effect_and_runs_needed_agree():
  for n in (4, 7, 20, 100):
    effect = stats.smallest_effect(.02, n, power=.9)
    assert stats.runs_needed(effect * 1.0001, .02, power=.9) == n
    assert stats.runs_needed(effect * .9999, .02, power=.9) == n + 1
  assert stats.runs_needed(0, .02) is None
  assert stats.runs_needed(.02, None) is None
  assert stats.runs_needed(.001, .02) is None
  assert stats.runs_needed(.001, .02, most=4000) == 3142
  assert stats.runs_needed(9., .02) == 3
  assert stats.smallest_effect(.02, 2) is None
  # The ratio counts as in the test.
  assert stats.smallest_effect(.02, 5, ratio=1 / 4) == pytest.approx(
      stats.smallest_effect(.02, 5) * (1 + 5 / 4) ** .5)
  # Without spread the sign flip decides: 2^-5 is the first below 5 %.
  assert stats.runs_needed(.1, 0.) == 6 and stats.runs_needed(.1, 0., .01) == 8
  assert stats.smallest_effect(0., 6) == 0
  assert stats.smallest_effect(0., 5) is None
  assert stats.smallest_effect(.02, 5, alpha=.9) == 0


def test_smallest_effect_is_found_as_often_as_it_says():
  effect = stats.smallest_effect(.01 * 2 ** .5, 5)
  _, helped = _studies(1500, 5, 1, effect, seed=3)
  assert helped == pytest.approx(.8, abs=.03)


def test_mixed_by_hand():
  # Means 1 and 3 of three and two runs: mean 2, error 1, one degree of
  # freedom: p = 1 - 2 / pi * arctan(2), and 12.7062 at 95 %.
  got = stats.mixed({'cnn': [0, 1, 2], 'resnet': [2, 4]})
  assert got['difference'] == 2 and got['error'] == pytest.approx(1)
  assert got['p'] == pytest.approx(1 - 2 / np.pi * np.arctan(2))
  assert got['high'] == pytest.approx(2 + 12.7062047)
  # The runs explain (1 / 3 + 2 / 2) / 2 of the variance 2.
  assert got['heterogeneity'] == pytest.approx(2 / 3)
  assert got['classifiers'] == 2
  with_folds = stats.mixed({'cnn': [0, 1, 2], 'resnet': [2, 4]}, ratio=1 / 2)
  assert with_folds['heterogeneity'] == pytest.approx(
      1 - (1 * 5 / 6 + 2 * 1) / 2 / 2)


def test_mixed_agrees_with_statsmodels():
  # Hartung and Knapp's interval, given the same variance of every mean.
  analysis = pytest.importorskip('statsmodels.stats.meta_analysis')
  rng = np.random.default_rng(0)
  for spread in (0, .5, 3):
    each = rng.normal(rng.normal(.5, spread, (5, 1)), 1, (5, 6))
    got = stats.mixed(dict(enumerate(each)), .1)
    variance = np.full(5, each.var(1, ddof=1).mean() / 6)
    want = analysis.combine_effects(each.mean(1), variance)
    assert got['difference'] == pytest.approx(want.mean_effect_re)
    assert [got['low'], got['high']] == pytest.approx(
        want.conf_int(.1, use_t=True)[3])
    assert got['heterogeneity'] == pytest.approx(max(0, want.i2))


def test_mixed_keeps_its_level():
  # Weights from the variances of three runs find 11 to 13 % here.
  rng = np.random.default_rng(0)
  for spread in (0, 1.):
    each = rng.normal(rng.normal(0, spread, (2000, 5, 1)), 1, (2000, 5, 3))
    found = np.mean([stats.mixed(dict(enumerate(x)))['p'] < .05 for x in each])
    assert .035 < found < .065


def test_mixed_of_little():
  one = stats.mixed({'cnn': [1, 2, 3]})
  assert one == NONE | {'difference': 2, 'classifiers': 1,
                        'heterogeneity': None}
  flat = stats.mixed({'a': [1, 1], 'b': [1, 1], 'c': [1, 1]})
  assert flat['p'] == .25 and flat['heterogeneity'] == 0
  apart = stats.mixed({'a': [1, 1], 'b': [3, 3]})
  assert apart['heterogeneity'] == 1
  assert apart['error'] == pytest.approx(1)
  assert stats.mixed({'a': [0, 0], 'b': [0, 0]})['p'] == 1
  single = stats.mixed({'a': [1], 'b': [3, 4]})
  assert single['heterogeneity'] is None and single['p'] is not None
