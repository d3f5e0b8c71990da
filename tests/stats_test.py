"""Paired statistics against scipy, hand numbers and simulated studies."""
import numpy as np
import pytest
from scipy import stats as reference

from jaxaug import errors, stats

NONE = {'low': None, 'high': None, 'p': None}


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
      'difference': 0, 'low': 0, 'high': 0, 'p': 1, 'n': 3}
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


def _studies(draws, runs, arms, effect, seed):
  """Share of simulated studies with any verdict, and of arm 0 'helps'.

  Errors of one run share its luck, and all differences share the baseline.
  """
  rng = np.random.default_rng(seed)
  decided = helped = 0
  for _ in range(draws):
    luck = rng.normal(.2, .03, runs)
    table = luck + rng.normal(0, .01, (arms + 1, runs))
    table[1] -= effect
    got = stats.compare(dict(enumerate(table)), 0)
    verdicts = [got[arm]['verdict'] for arm in range(1, arms + 1)]
    decided += any(v in ('helps', 'hurts') for v in verdicts)
    helped += verdicts[0] == 'helps'
  return decided / draws, helped / draws


@pytest.mark.parametrize('runs', [3, 5, 10])
def test_family_wise_error(runs):
  # Shared baseline makes Holm conservative: under .05, but not by far. Three
  # standard errors of 1,500 draws are .017.
  decided, _ = _studies(1500, runs, 6, 0., seed=runs)
  assert .015 < decided < .06


def test_power_of_one_arm_agrees_with_theory():
  # A difference of one standard deviation, 10 runs: non-central t.
  spread, runs = .01 * 2 ** .5, 10
  _, helped = _studies(3000, runs, 1, spread, seed=1)
  limit = reference.t.ppf(.975, runs - 1)
  power = reference.nct.sf(limit, runs - 1, runs ** .5)
  assert helped == pytest.approx(power, abs=.03)


def test_discrete_errors_stay_under_alpha():
  # Twenty test images and three runs: equal differences are common by luck.
  rng = np.random.default_rng(0)
  false = 0
  for _ in range(3000):
    table = rng.binomial(20, .1, (2, 3)) / 20
    false += stats.compare({'a': table[0], 'b': table[1]},
                           'a')['b']['verdict'] != 'no evidence'
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
