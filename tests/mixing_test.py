"""An arm's images: exact counts, seeded, paired, and each refusal."""
import math
from fractions import Fraction

import numpy as np
import pytest

from jaxaug import errors, mixing

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
    ({'add': 4.0}, "^arm: class 'c0' needs 20 synthetic images and the pool "
                   'holds 3; expected .*at least 20'),
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
    {'fill': -1}, {'fill': 'maximum'}], ids=str)
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
