"""An arm's images: exact counts, seeded, paired, and each refusal."""
import math
import re
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from jaxaug.core import errors
from jaxaug.data import mixing

NAMES = ('a', 'b', 'c')


def _labels(counts, seed=0):
  """Shuffled labels with so many of each class."""
  labels = np.repeat(np.arange(len(counts)), counts)
  return np.random.default_rng(seed).permutation(labels)


def _compose(counts, pool_counts=None, **how):
  names = tuple(f'c{k}' for k in range(len(counts)))
  pool = None if pool_counts is None else _labels(pool_counts, seed=1)
  made = mixing.compose(_labels(counts), pool, class_names=names,
                        **{'seed': (0, 0), **how})
  def per_class(labels, positions):
    assert len(np.unique(positions)) == len(positions)
    return np.bincount(labels[positions], minlength=len(counts))
  return made, per_class(_labels(counts), made.real), (
      per_class(pool, made.synthetic) if pool is not None else None)


def _cases(number, seed):
  """Random class counts, some of them zero, and a share."""
  rng = np.random.default_rng(seed)
  for i in range(number):
    counts = rng.integers(0, rng.choice([4, 30, 300]), rng.integers(1, 13))
    counts[0] += not counts.sum()
    share = rng.choice([rng.random(), rng.integers(0, 21) / 20,
                        1 / rng.integers(1, 9)])
    yield i, counts, float(share)


def test_replace_keeps_every_class_count_for_any_share():
  for i, counts, share in _cases(300, 0):
    made, real, synthetic = _compose(counts, counts, replace=share,
                                     seed=(i, 0))
    np.testing.assert_array_equal(real + synthetic, counts)
    exact = counts * share
    assert (np.abs(synthetic - exact) < 1 + 1e-9).all()
    # The whole is the nearest number there is, not a sum of roundings.
    assert abs(synthetic.sum() - exact.sum()) <= 0.5 + 1e-6
    assert len(made.real) + len(made.synthetic) == counts.sum()


def test_add_follows_the_class_counts():
  for i, counts, share in _cases(200, 1):
    ratio = 3 * share
    _, real, synthetic = _compose(counts, counts * 3 + 1, add=ratio,
                                  seed=(i,))
    np.testing.assert_array_equal(real, counts)
    assert (np.abs(synthetic - counts * ratio) < 1 + 1e-9).all()
    assert abs(synthetic.sum() - counts.sum() * ratio) <= 0.5 + 1e-6


def test_the_largest_remainders_are_rounded_up():
  # 0.5, 2.4 and 3.6 are 6.5, so 7: the two largest remainders gain one.
  _, _, synthetic = _compose([5, 24, 36], [50] * 3, add=0.1)
  np.testing.assert_array_equal(synthetic, [1, 2, 4])
  assert _compose([100] * 3, [100] * 3, replace=0.29)[2].tolist() == [29] * 3


@pytest.mark.parametrize('how, real, synthetic', [
    ({'replace': 0.0}, [5, 2, 9], [0, 0, 0]),
    ({'replace': 1.0}, [0, 0, 0], [5, 2, 9]),
    ({'replace': 1}, [0, 0, 0], [5, 2, 9]),
    ({'add': 2.0}, [5, 2, 9], [10, 4, 18]),
    ({'add_per_class': 7}, [5, 2, 9], [7, 7, 7]),
    ({'add_per_class': {'c1': 3, 'c2': 1}}, [5, 2, 9], [0, 3, 1]),
    ({'fill': 'max'}, [5, 2, 9], [4, 7, 0]),
    ({'fill': 6}, [5, 2, 9], [1, 4, 0]),
    ({'pool_only': True}, [0, 0, 0], [5, 2, 9]),
    ({'pool_only': False, 'add': 1.0}, [5, 2, 9], [5, 2, 9]),
])
def test_what_each_choice_means(how, real, synthetic):
  made, got_real, got_synthetic = _compose([5, 2, 9], [20, 20, 20], **how)
  assert (got_real.tolist(), got_synthetic.tolist()) == (real, synthetic)
  assert made.real.dtype == made.synthetic.dtype == np.int64


def test_a_pool_without_a_use_is_refused():
  with pytest.raises(errors.InputError, match='arm.pool: given, but not how'):
    _compose([5, 2, 9], [20, 20, 20])


def test_real_only_needs_no_pool():
  made, real, _ = _compose([5, 2, 9])
  assert real.tolist() == [5, 2, 9] and len(made.synthetic) == 0
  np.testing.assert_array_equal(made.real, np.arange(16))


def test_the_choice_is_seeded_and_nested_between_arms():
  def compose(share, seed=(3, 1)):
    return _compose([40, 40], [90, 90], replace=share, seed=seed)[0]
  def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
  assert same(compose(0.5), compose(0.5))
  for seed in (3, 2), (4, 1):
    for a, b in zip(compose(0.5), compose(0.5, seed=seed), strict=True):
      assert not np.array_equal(a, b)
  # Arms that take more of a pool take what the others take, and more.
  less, more = compose(0.25), compose(0.75)
  assert set(less.synthetic) < set(more.synthetic)
  assert set(more.real) < set(less.real)


@pytest.mark.parametrize('how, line', [
    ({'replace': 1.2}, r'^arm\.replace: 1\.2; expected a number from 0 to 1'),
    ({'replace': -0.1}, r'^arm\.replace: -0\.1'),
    ({'replace': math.nan}, r'^arm\.replace: nan'),
    ({'add': -1.0}, r'^arm\.add: -1\.0; expected a number of 0 or more'),
    ({'replace': 0.5, 'add': 1.0}, '^arm: replace and add exclude each other'),
    ({'pool_only': True, 'fill': 'max'}, '^arm: fill and pool_only exclude'),
    ({'oversample': 'max', 'add': 1.0}, '^arm: add and oversample exclude'),
    ({'add': 4.0}, "^arm: class 'c0' needs 20 synthetic images and the pool "
                   'holds 3; expected a pool of that many'),
    ({'add_per_class': {'c9': 1}}, r"^arm\.add_per_class: 'c9'; expected one"),
    ({'add_per_class': {'c2': 4}}, "^arm: class 'c2' needs 4 .*holds 3"),
])
def test_refusals(how, line):
  with pytest.raises(errors.InputError, match=line) as e:
    _compose([5, 2, 9], [3, 3, 3], **how)
  assert '\n' not in str(e.value)


@pytest.mark.parametrize('how', [
    {'add': math.nan}, {'add': math.inf}, {'add_per_class': -1},
    {'add_per_class': {'c1': -1}}, {'add_per_class': 1.5},
    {'fill': -1}, {'fill': 'maximum'}, {'oversample': 0},
    {'oversample': 2.5}, {'oversample': 'most'}], ids=str)
def test_values_that_are_no_count_are_refused(how):
  with pytest.raises(errors.InputError, match=f'^arm.{next(iter(how))}'):
    _compose([5, 2, 9], [30, 30, 30], **how)


@pytest.mark.parametrize('how', [
    {'replace': 0.5}, {'add': 1.0}, {'add_per_class': 3}, {'fill': 'max'},
    {'pool_only': True}], ids=str)
def test_every_choice_but_none_needs_a_pool(how):
  with pytest.raises(errors.InputError,
                     match=rf'^config\.arms\[2\]\.pool: missing; {[*how][0]}'):
    _compose([5, 2, 9], where='config.arms[2]', **how)


def _plan(real, synthetic, batch_size, seed=(0, 0), pool_start=10_000):
  # Odd positions, so that a position is never taken for its rank.
  made = mixing.Composition(np.arange(real) * 2 + 1,
                            np.arange(synthetic) * 3)
  return mixing.plan(made, pool_start=pool_start, batch_size=batch_size,
                     seed=seed)


def _batches(plan, steps):
  return [mixing.batch(plan, i) for i in range(steps)]


def test_counts_are_exact_in_every_batch():
  rng = np.random.default_rng(0)
  for _ in range(60):
    real, synthetic = (int(n) for n in rng.integers(0, 200, 2))
    total = real + synthetic
    if not total:
      continue
    size = int(rng.integers(1, min(total, 64) + 1))
    plan, share, before = _plan(real, synthetic, size), Fraction(
        synthetic, total), 0
    for step in [*range(25), 10**6]:
      if step == 10**6:
        before = mixing.synthetic_before(plan, step)
      batch = mixing.batch(plan, step)
      assert batch.shape == (size,) and batch.dtype == np.int32
      count = int((batch >= 10_000).sum())
      assert (batch[size - count:] >= 10_000).all()  # Real ones first.
      assert math.floor(size * share) <= count <= math.ceil(size * share)
      before += count
      # Cumulatively within half an image of the exact share.
      assert abs(before - (step + 1) * size * share) <= Fraction(1, 2)
      assert before == mixing.synthetic_before(plan, step + 1)


@pytest.mark.parametrize('real, synthetic, size', [
    (50, 0, 8), (0, 30, 7), (48, 24, 9), (37, 11, 10), (5, 95, 16)])
def test_each_side_runs_through_whole_epochs(real, synthetic, size):
  plan = _plan(real, synthetic, size)
  stream = np.concatenate(_batches(plan, 200))
  for members, mine in ((plan.real, stream[stream < 10_000]),
                        (plan.synthetic, stream[stream >= 10_000])):
    count = len(members)
    epochs = [mine[i:i + count] for i in range(0, len(mine), count or 1)]
    for epoch in epochs[:-1]:
      np.testing.assert_array_equal(np.sort(epoch), members)
    if epochs:
      assert len(set(map(bytes, epochs[:-1]))) > 1  # Shuffled each time.
      assert len(set(epochs[-1].tolist())) == len(epochs[-1])


def test_the_two_sides_are_shuffled_apart():
  plan = _plan(40, 40, 20)
  stream = np.concatenate(_batches(plan, 4))
  real, synthetic = stream[stream < 10_000] // 2, stream[stream >= 10_000]
  assert not np.array_equal(real, (synthetic - 10_000) // 3)


def test_the_order_of_a_batch_depends_on_seed_run_and_step_alone():
  plan = _plan(70, 30, 12, seed=(5, 2))
  forward = _batches(plan, 40)
  mixing._epoch.cache_clear()
  for i in np.random.default_rng(0).permutation(40):
    again = mixing.batch(_plan(70, 30, 12, seed=(5, 2)), int(i))
    np.testing.assert_array_equal(again, forward[i])
  for seed in ((5, 3), (6, 2)):
    assert not np.array_equal(mixing.batch(_plan(70, 30, 12, seed=seed), 0),
                              forward[0])


def test_arms_of_a_run_share_their_stream_of_real_images():
  def reals(plan):
    stream = np.concatenate(_batches(plan, 60))
    return stream[stream < 10_000]
  alone, mixed = reals(_plan(64, 0, 16)), reals(_plan(64, 32, 16))
  assert len(mixed) < len(alone)
  np.testing.assert_array_equal(mixed, alone[:len(mixed)])


def test_order_is_unbiased():
  # The first place of an epoch is any image alike: chi-square over 20.
  first = [mixing.batch(_plan(20, 0, 1, seed=(s, 0)), 0)[0] for s in range(800)]
  counts = np.bincount((np.array(first) - 1) // 2, minlength=20)
  assert ((counts - 40)**2 / 40).sum() < 43.8  # p = 0.001 at 19 degrees.


@pytest.mark.parametrize('size', [0, -1, 101])
def test_batch_must_fit_the_training_set(size):
  with pytest.raises(errors.InputError,
                     match=rf'^batch_size: {size}; expected 1 to 100, the'):
    _plan(70, 30, size)
  assert len(mixing.batch(_plan(70, 30, 100), 3)) == 100


def test_pool_positions_lie_behind_the_real_ones_in_the_bank():
  plan = _plan(3, 4, 7, pool_start=500)
  assert set(mixing.batch(plan, 0)) == {1, 3, 5, 500, 503, 506, 509}


# ---- oversampling ----

@pytest.mark.parametrize('target, expected', [
    ('max', [9, 9, 9, 0]), (6, [6, 6, 9, 0]), (3, [5, 3, 9, 0]),
    (31, [31, 31, 31, 0])])
def test_oversampling_repeats_each_image_floor_or_ceil_times(target, expected):
  counts = [5, 2, 9, 0]
  labels, names = _labels(counts), ('a', 'b', 'c', 'd')
  made = mixing.compose(labels, None, class_names=names, seed=(0, 0),
                        oversample=target)
  assert len(made.synthetic) == 0 and made.real.dtype == np.int64
  np.testing.assert_array_equal(made.real, np.sort(made.real))
  np.testing.assert_array_equal(
      np.bincount(labels[made.real], minlength=4), expected)
  times = np.bincount(made.real, minlength=16)
  for k, (count, total) in enumerate(zip(counts, expected, strict=True)):
    if count:
      floor, more = divmod(total, count)
      assert sorted(times[labels == k]) == [floor] * (count - more) + (
          [floor + 1] * more)


def test_the_remainder_of_oversampling_is_drawn_by_the_seed():
  labels = _labels([10, 14])
  def extra(seed):
    made = mixing.compose(labels, None, class_names=('a', 'b'), seed=seed,
                          oversample='max')
    return tuple(np.flatnonzero(np.bincount(made.real) == 2))
  assert extra((3, 1)) == extra((3, 1)) != extra((3, 2))
  # Each image alike: 4 of 10, over 500 seeds.
  drawn = np.concatenate([extra((0, i)) for i in range(500)])
  counts = np.bincount(drawn, minlength=24)[labels == 0]
  assert counts.sum() == 2000 and stats.chisquare(counts).pvalue > 1e-4


def test_oversampled_batches_follow_the_repeats():
  labels = _labels([30, 7])
  made = mixing.compose(labels, None, class_names=('a', 'b'), seed=(0, 0),
                        oversample='max')
  plan = mixing.plan(made, pool_start=37, batch_size=12, seed=(0, 0))
  stream = np.concatenate(_batches(plan, 50))  # Ten epochs of 60.
  for epoch in stream.reshape(10, 60):
    np.testing.assert_array_equal(np.sort(epoch), made.real)
  assert np.bincount(labels[stream]).tolist() == [300, 300]


def test_oversampling_takes_no_pool_but_for_partners():
  with pytest.raises(errors.InputError, match='arm.pool: given, but not how'):
    _compose([5, 2, 9], [20, 20, 20], oversample='max')
  labels, pool = _labels([5, 2, 9]), _labels([4, 4, 4])
  made = mixing.compose(labels, pool, class_names=NAMES, seed=(0, 0),
                        oversample='max', partner=True)
  assert (len(made.real), len(made.synthetic)) == (27, 0)


# ---- partners ----

def _partnered(counts, pool_counts, size=16, seed=(0, 0), **how):
  """A plan with a pool for partners behind the real images, and all labels."""
  labels, pool = _labels(counts), _labels(pool_counts, seed=1)
  made = mixing.compose(
      labels, pool, class_names=tuple(f'c{k}' for k in range(len(counts))),
      seed=seed, partner=True, **how)
  bank = np.concatenate([labels, pool])
  at = np.arange(len(labels), len(bank))
  return mixing.plan(made, pool_start=len(labels), batch_size=size, seed=seed,
                     partners=(bank, at)), bank


def test_a_pool_for_partners_alone_stands_in_no_batch():
  plan, _ = _partnered([40, 9, 23], [30, 50, 8])
  alone = mixing.plan(mixing.everything(72), pool_start=0, batch_size=16,
                      seed=(0, 0))
  assert len(plan.synthetic) == 0 and alone.partners is None
  for ours, theirs in zip(_batches(plan, 30), _batches(alone, 30),
                          strict=True):
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize('how', [{}, {'add': 0.5}, {'replace': 0.5}], ids=str)
def test_partners_are_of_the_pool_and_of_the_same_class(how):
  plan, bank = _partnered([40, 9, 23], [30, 50, 25], **how)
  for step in range(60):
    partners = mixing.partners(plan, step)
    assert partners.shape == (16,) and partners.dtype == np.int32
    assert partners.min() >= 72 and partners.max() < len(bank)
    np.testing.assert_array_equal(bank[partners],
                                  bank[mixing.batch(plan, step)])


def test_partners_and_shuffles_are_pure_functions_of_seed_and_step():
  plan, _ = _partnered([40, 9, 23], [30, 50, 8], seed=(5, 2))
  forward = [(mixing.partners(plan, i), mixing.shuffled(plan, i))
             for i in range(20)]
  mixing._epoch.cache_clear()
  again, _ = _partnered([40, 9, 23], [30, 50, 8], seed=(5, 2))
  other, _ = _partnered([40, 9, 23], [30, 50, 8], seed=(5, 3))
  for i in np.random.default_rng(0).permutation(20):
    for draw, before in zip((mixing.partners, mixing.shuffled), forward[i],
                            strict=True):
      np.testing.assert_array_equal(draw(again, int(i)), before)
      assert not np.array_equal(draw(other, int(i)), before)
  assert len({part.tobytes() for pair in forward for part in pair}) == 40


def test_partners_are_drawn_uniformly():
  plan, bank = _partnered([40, 20, 4], [30, 50, 8], size=64)
  drawn = np.concatenate([mixing.partners(plan, i) for i in range(400)])
  counts = np.bincount(drawn, minlength=len(bank))[64:]
  for k, total in enumerate((16000, 8000, 1600)):
    mine = counts[bank[64:] == k]
    assert mine.sum() == total and stats.chisquare(mine).pvalue > 1e-4


def test_shuffled_is_the_batch_in_an_order_without_bias():
  plan = _plan(6, 0, 6)
  places = np.zeros((6, 6))
  for i in range(1200):
    batch, other = mixing.batch(plan, i), mixing.shuffled(plan, i)
    assert other.dtype == np.int32
    np.testing.assert_array_equal(np.sort(other), np.sort(batch))
    for row, position in enumerate(batch):
      places[row, np.flatnonzero(other == position)[0]] += 1
  # Rows and columns of a permutation sum to 1: 25 degrees, times 6 / 5.
  assert stats.chi2.sf(((places - 200)**2 / 200).sum() * 5 / 6, 25) > 1e-4


def test_a_class_without_a_partner_is_refused():
  with pytest.raises(errors.InputError, match='^[^\n]+$') as e:
    _partnered([5, 2, 9], [4, 0, 4], size=4)
  assert str(e.value) == ("arm.partner: class 'c1' has no image in the pool; "
                          'expected at least one to mix with.')
  _partnered([5, 0, 9], [4, 0, 4], size=4)  # None is needed.
  with pytest.raises(errors.InputError, match='arm.partner: class 1 has no'):
    mixing.plan(mixing.everything(4), pool_start=4, batch_size=2, seed=(0,),
                partners=(np.array([0, 1, 0, 2, 0, 2]), np.array([4, 5])))


def test_partners_need_a_pool():
  with pytest.raises(errors.InputError,
                     match=r'^config\.arms\[2\]\.pool: missing; partner'):
    _compose([5, 2, 9], where='config.arms[2]', partner=True)


# ---- losses for unequal classes ----

@pytest.mark.parametrize('power', [0.0, 0.5, 1.0, 2])
def test_class_weights(power):
  counts = np.array([100, 25, 4, 0])
  weights = mixing.class_weights(counts, power)
  assert weights.dtype == np.float32 and weights.shape == (4,)
  assert (weights * counts).sum() / 129 == pytest.approx(1, rel=1e-6)
  np.testing.assert_allclose(weights[1:3] / weights[0],
                             [4**power, 25**power], rtol=1e-6)
  assert weights[3] == 0
  if power == 1:  # Every class that there is weighs the same.
    np.testing.assert_allclose(weights[:3] * counts[:3], 43, rtol=1e-6)


def test_equal_classes_weigh_one():
  np.testing.assert_allclose(mixing.class_weights([7] * 5, 1.0), 1, rtol=1e-6)


@pytest.mark.parametrize('tau', [0.0, 0.5, 1.0])
def test_log_prior(tau):
  prior = mixing.log_prior(np.array([60, 30, 10, 0]), tau)
  assert prior.dtype == np.float32
  np.testing.assert_allclose(prior[:3], tau * np.log([0.6, 0.3, 0.1]),
                             rtol=1e-6, atol=1e-7)
  assert prior[3] == np.float32(-1e4 * tau)
  if tau == 1:  # Equal logits then predict the shares, exactly 0 included.
    odds = np.exp(prior)
    np.testing.assert_allclose(odds, [0.6, 0.3, 0.1, 0], rtol=1e-6)


@pytest.mark.parametrize('function, key', [
    (mixing.class_weights, 'class_weights'),
    (mixing.log_prior, 'logit_adjustment')])
@pytest.mark.parametrize('value', [-0.5, math.nan, True, '1'])
def test_powers_that_are_none_are_refused(function, key, value):
  with pytest.raises(errors.InputError, match=rf'^config\.arms\[1\]\.{key}: '):
    function([3, 4], value, where='config.arms[1]')


# ------------------------------------------------------------- some classes
@pytest.mark.parametrize('how, keep, draw', [
    ({'fill': 'max'}, [9, 2, 5, 4], [0, 7, 0, 5]),
    ({'fill': 4}, [9, 2, 5, 4], [0, 2, 0, 0]),
    ({'add': 2.0}, [9, 2, 5, 4], [0, 4, 0, 8]),
    ({'add_per_class': 3}, [9, 2, 5, 4], [0, 3, 0, 3]),
    ({'oversample': 'max'}, [9, 9, 5, 9], [0, 0, 0, 0]),
    ({'replace': 0.5}, [9, 1, 5, 2], [0, 1, 0, 2]),
    ({'pool_only': True}, [9, 0, 5, 0], [0, 2, 0, 4])], ids=str)
def test_a_choice_may_be_of_some_classes(how, keep, draw):
  """Of 'b' and 'd', the others staying as they are."""
  names = ('a', 'b', 'c', 'd')
  got = mixing.class_counts(_labels([9, 2, 5, 4]), class_names=names,
                            classes=('b', 'd'), **how)
  assert [x.tolist() for x in got] == [keep, draw]
  # A pool that has these alone is enough, and others do not say so.
  pool = np.array([0, 20, 0, 20])
  if any(draw):
    mixing.check(_labels([9, 2, 5, 4]), pool, class_names=names,
                 classes=('b', 'd'), **how)


def test_an_arm_that_changes_nothing_is_one_line():
  with pytest.raises(errors.InputError, match=(
      r'^arm\.oversample: 2; expected to repeat images, and no class')):
    mixing.check(_labels([5, 2, 9]), None, class_names=NAMES, oversample=2)


def test_classes_that_cannot_be_are_one_line():
  def refused(**how):
    with pytest.raises(errors.InputError) as e:
      mixing.check(_labels([9, 2, 5]), np.array([0, 20, 0]), class_names=NAMES,
                   where='arms[1]', **how)
    assert '\n' not in str(e.value)
    return str(e.value)
  assert refused(fill='max', classes=('bb',)).startswith(
      "arms[1].classes: 'bb'; expected one of a, b, c.")
  assert refused(add_per_class={'c': 3}, classes=('b',)).startswith(
      "arms[1].add_per_class: 'c'; expected one of b.")
  for how in dict(fill='max', classes=('a',)), dict(add_per_class={}), dict(
      fill=2):
    assert re.match(r'arms\[1\]\.(fill|add_per_class): .*; expected to add '
                    'images, and no class that it is about wants any', refused(
                        **how))
  assert refused(classes=('b',)).startswith(
      "arms[1].classes: ('b',); expected (), for the arm takes")
  assert refused(fill='max') == (
      "arms[1]: needs 4 synthetic images of class 'c', which its pool has none "
      'of, for it is of other classes; expected arms[1].classes to '
      "name some of 'b'.")
