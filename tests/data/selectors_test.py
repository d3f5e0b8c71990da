"""What each selector drops, beside formulas, brute force and planted faults."""
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats
from scipy.spatial import distance

from jaxaug.core import errors, registry, types
from jaxaug.data import images as image_arrays
from jaxaug.data import mixing, pixels
from jaxaug.data.selectors import density, herding, k_center, kmedoids
from jaxaug.evaluation import features as extracting
from jaxaug.training import classifier, mesh
from tests import quick

REPRESENTATIVES = ('gaussian_mixture', 'herding', 'k_center', 'kmeans',
                   'kmedoids', 'random')


def build(name, known, **options):
  return registry.build('selectors', name, options, 'config.x', known)


def as_images(x):
  """Numbers of 0 to 255 as images of one row: uint8 [N, 1, D, 1]."""
  return np.asarray(x, np.uint8).reshape(len(x), 1, -1, 1)


def flat(images):
  return np.float64(images.reshape(len(images), -1))


def known_of(images, labels, classes, features=flat, **more):
  train = types.Split(images, np.asarray(labels, np.int32),
                      np.arange(len(labels)))
  return types.Known(train, tuple(f'class {k}' for k in range(classes)),
                     features, **{'fit': None, **more})


def nothing(classes=3, features=flat):
  """For selectors that do not look at the training split."""
  return known_of(as_images(np.zeros((2 * classes, 4))),
                  np.arange(2 * classes) % classes, classes, features)


def kept(select, images, labels):
  dropped = select(images, np.asarray(labels))
  return np.flatnonzero(~np.any([*dropped.values()], 0))


def blobs(n, classes=3, clusters=5, d=30, seed=0):
  """Images of clusters that are far from each other, n a cluster."""
  rng = np.random.default_rng(seed)
  centres = rng.integers(40, 215, (classes, clusters, 1, d))
  x = centres + rng.normal(0, 6, (classes, clusters, n, d))
  of = np.broadcast_to(np.arange(clusters)[:, None], (classes, clusters, n))
  order = rng.permutation(classes * clusters * n)
  return (as_images(x.reshape(-1, d).clip(0, 255))[order],
          np.repeat(np.arange(classes), clusters * n)[order],
          of.ravel()[order])


# ------------------------------------------------------------ representatives
@pytest.mark.parametrize('name', REPRESENTATIVES)
def test_so_many_of_each_class_are_kept(name):
  images, labels, _ = blobs(4)
  there = labels != 1  # A class without an image wants none.
  for count in (1, 3, 20):
    select = build(name, nothing(), count=count)
    rows = kept(select, images[there], labels[there])
    np.testing.assert_array_equal(np.bincount(labels[there][rows]),
                                  [count, 0, count])


@pytest.mark.parametrize('name', REPRESENTATIVES)
def test_a_class_with_fewer_is_refused_by_name(name):
  select = build(name, nothing(), count=5)
  with pytest.raises(errors.InputError, match=(
      r"^count: 5 representatives of class 'class 2', which has 4 images; "
      'expected ')):
    select(as_images(np.arange(10)), np.array([0] * 6 + [2] * 4))


@pytest.mark.parametrize('name', REPRESENTATIVES)
def test_equal_images_have_representatives_too(name):
  images = as_images(np.full((7, 12), 9))
  assert len(kept(build(name, nothing(), count=3), images, [1] * 7)) == 3


@pytest.mark.parametrize('name', ['gaussian_mixture', 'kmeans', 'kmedoids',
                                  'k_center'])
@pytest.mark.parametrize('normalize', [False, True])
def test_every_cluster_has_a_representative(name, normalize):
  images, labels, cluster = blobs(6)
  select = build(name, nothing(), normalize=normalize)
  rows = kept(select, images, labels)
  for k in range(3):
    assert sorted(cluster[rows[labels[rows] == k]]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize('name', REPRESENTATIVES)
def test_features_that_somebody_keeps_stay_as_they_are(name):
  images, labels, _ = blobs(4)
  x = flat(images)
  more = {} if name in ('herding', 'random') else {'normalize': True}
  build(name, nothing(features=lambda images: x), **more)(images, labels)
  np.testing.assert_array_equal(x, flat(images))


def test_kmeans_takes_the_nearest_to_each_mean():
  images, labels, cluster = blobs(9)
  rows = kept(build('kmeans', nothing()), images, labels)
  x = flat(images)
  for k, c in itertools.product(range(3), range(5)):
    mine = np.flatnonzero((labels == k) & (cluster == c))
    want = mine[((x[mine] - x[mine].mean(0))**2).sum(1).argmin()]
    assert want in rows


def test_centres_of_kmeans_share_no_image():
  # Centres are near 0 and 100; but for one image, all are where it is.
  x = np.array([[0, 0], [100, 0], [100, 0], [100, 0], [100, 0]])
  assert set(kept(build('kmeans', nothing(), count=3), as_images(x),
                  [0] * 5)) > {0}


def test_kmedoids_is_what_no_swap_improves_and_mostly_the_best():
  rng, best = np.random.default_rng(0), []
  for i in range(60):
    n, count = int(rng.integers(4, 13)), int(rng.integers(1, 4))
    x = rng.normal(size=(n, 2))
    apart = distance.cdist(x, x)
    def loss(rows, apart=apart):
      return apart[list(rows)].min(0).sum()
    found = kmedoids.medoids(apart, count)
    assert len(set(found)) == count
    for a, b in itertools.product(range(count), range(n)):
      swapped = [*found[:a], b, *found[a + 1:]]
      assert loss(swapped) >= loss(found) - 1e-9, i
    least = min(map(loss, itertools.combinations(range(n), count)))
    best.append(loss(found) / max(least, 1e-12))
  assert np.mean(np.array(best) < 1 + 1e-9) > .85 and max(best) < 1.1


def test_mixture_with_fewer_images_than_features():
  """Beside EM's own result on two clusters that do not overlap."""
  images, labels, cluster = blobs(4, 1, 2, 300)
  rows = kept(build('gaussian_mixture', nothing(1), count=2, dimensions=3),
              images, labels)
  x = flat(images) - flat(images).mean(0)
  u, s, _ = np.linalg.svd(x, full_matrices=False)
  z = u[:, :3] * s[:3]
  z /= z[:, 0].std()
  for c in (0, 1):
    mine = np.flatnonzero(cluster == c)
    normal = stats.multivariate_normal(
        z[mine].mean(0), np.diag(z[mine].var(0) + 1e-4))
    assert mine[normal.logpdf(z[mine]).argmax()] in rows


def test_a_mixture_prefers_images_that_no_other_part_claims():
  # Parts at 0 and 1, that wide: of the images between them, half is each's.
  rng = np.random.default_rng(0)
  x = np.concatenate([rng.normal(80, 12, 60), rng.normal(140, 12, 60)])
  rows = kept(build('gaussian_mixture', nothing(1), count=2),
              as_images(x[:, None]), [0] * 120)
  low, high = sorted(x[rows])
  assert abs(low - 80) < 6 and abs(high - 140) < 6


def test_herding_goes_by_the_formula():
  """w_0 = mean; x_t = argmax <w, x>, w += mean - x_t; by hand."""
  x = np.array([[4, 0], [0, 4], [2, 3], [2, 1]])
  # mean = [2, 2]; <w, x> = 8, 8, 10, 6: row 2. w = [2, 1]: 8, 4, -, 5: row 0.
  # w = [0, 3]: -, 12, -, 3: row 1.
  assert herding.herd(x, 4) == [2, 0, 1, 3]
  rng = np.random.default_rng(0)
  x = rng.normal(size=(400, 20)) + 1
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  gaps = [np.linalg.norm(x[herding.herd(x, t)].mean(0) - x.mean(0)) * t
          for t in (5, 20, 80)]
  assert max(gaps) < 1.5 * gaps[0]  # O(1 / t): of random ones it would be 4.
  random = np.mean([np.linalg.norm(
      x[rng.permutation(400)[:20]].mean(0) - x.mean(0)) for _ in range(50)])
  assert 4 * gaps[1] / 20 < random


def test_k_center_starts_in_the_middle_and_goes_far():
  x = np.array([[0.], [10], [52], [60], [100]])
  assert k_center.farthest(x, 4, 2) == [2, 0, 4, 1]
  images = as_images(x)
  rows = kept(build('k_center', nothing(1), count=3), images, [0] * 5)
  np.testing.assert_array_equal(rows, [0, 2, 4])  # The mean is 44.4: row 2.


def test_k_center_is_no_worse_than_twice_the_best():
  rng = np.random.default_rng(0)
  for _ in range(30):
    x = rng.normal(size=(10, 2))
    apart = distance.cdist(x, x)
    def radius(rows, apart=apart):
      return apart[list(rows)].min(0).max()
    found = radius(k_center.farthest(x, 3, int(rng.integers(10))))
    best = min(map(radius, itertools.combinations(range(10), 3)))
    assert found <= 2 * best + 1e-9


def test_k_center_keeps_a_share_of_each_class():
  images, labels, cluster = blobs(6, clusters=4)
  some = (labels > 0) | (np.cumsum(labels == 0) <= 10)
  select = build('k_center', nothing(), share=.25)
  dropped = select(images[some], labels[some])
  assert [*dropped] == ['like others that are kept']
  rows = np.flatnonzero(~dropped['like others that are kept'])
  np.testing.assert_array_equal(np.bincount(labels[some][rows]), [3, 6, 6])
  for k in (1, 2):
    mine = rows[labels[some][rows] == k]
    assert set(cluster[some][mine]) == {0, 1, 2, 3}
  everything = build('k_center', nothing(), share=1.0)
  assert len(kept(everything, images, labels)) == len(images)
  # 0.1 * 30 is a bit more than 3.
  tenth = build('k_center', nothing(1), share=.1)
  assert len(kept(tenth, as_images(np.arange(30)), [0] * 30)) == 3


def test_random_ones_go_by_the_seed_alone():
  images, labels, _ = blobs(20, 2, 1)
  chosen = [tuple(kept(build('random', nothing(2)._replace(seed=seed), count=5),
                       images, labels)) for seed in (*range(40), 0)]
  assert chosen[0] == chosen[-1] and len(set(chosen)) == 40
  often = np.bincount(np.concatenate(chosen), minlength=40)
  assert often.min() >= 2 and often.max() <= 24  # 10 on average.


def test_quota_keeps_the_first():
  labels = [0, 2, 2, 0, 2, 0, 0, 2]
  images = as_images(np.arange(8))
  for per_class, want in ((2, [0, 1, 2, 3]), (1, [0, 1]), (9, [*range(8)])):
    select = build('quota', nothing(), per_class=per_class)
    np.testing.assert_array_equal(kept(select, images, labels), want)
  rarest = build('quota', nothing())
  np.testing.assert_array_equal(kept(rarest, images[:6], labels[:6]),
                                [*range(6)])
  np.testing.assert_array_equal(kept(rarest, images[:5], labels[:5]),
                                [0, 1, 2, 3])


# ------------------------------------------------------------------ the pool's
def noise_images(n, shape=(28, 28, 1), seed=0):
  return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def test_not_copies_drops_what_is_nearer_than_it_says():
  real = noise_images(40).clip(20, 235)
  labels = np.arange(40) % 10
  select = build('not_copies', known_of(real, labels, 10), min_distance=.02)
  near, far = real + np.uint8(5), real + np.uint8(6)  # 0.0196 and 0.0235.
  other = labels[::-1]  # The class does not matter.
  reason = 'copy of a training image'
  assert select(near, other)[reason].all() and select(real, other)[reason].all()
  assert not select(far, other)[reason].any()
  mixed = np.concatenate([far[:3], near[:2]])
  assert select(mixed, labels[:5])[reason].tolist() == [False] * 3 + [True] * 2


@pytest.mark.parametrize('min_distance', [0.0, 1e-3])
def test_not_copies_finds_exact_ones_at_any_distance(min_distance):
  real = noise_images(200, (32, 32, 3))
  known = known_of(real, np.arange(200) % 10, 10)
  select = build('novel', known, min_distance=min_distance)  # Its old name.
  assert len(kept(select, real, known.train.labels)) == 0
  assert len(kept(select, real ^ 1, known.train.labels)) == 200 * (
      min_distance < .002)


def judged(logits, labels=(0, 1, 2), **options):
  """What agreement says of three images, by logits [runs, 3, 3]."""
  def fit(images, labels, run):
    assert images is known.train.images and labels is known.train.labels
    fitted.append(run)
    return lambda images: np.float32(logits[run])
  fitted = []
  known = known_of(as_images(np.zeros((8, 4))), [0, 0, 0, 0, 1, 1, 2, 2], 3,
                   fit=fit)
  select = build('agreement', known, classifiers=len(logits), **options)
  for _ in range(2):  # Trained once.
    out = select(as_images(np.ones((3, 4))), np.array(labels))
  assert fitted == [*range(len(logits))]
  return {reason: which.tolist() for reason, which in out.items()}


def test_agreement_votes():
  right, wrong = 3 * np.eye(3), 3 * np.roll(np.eye(3), 1, 1)
  mixed = np.stack([right[[0, 1, 2]], np.stack([right[0], right[1], wrong[2]]),
                    np.stack([right[0], wrong[1], wrong[2]])])
  # Votes for the label: 3, 2 and 1 of 3.
  for vote, want in (('any', [0, 0, 0]), ('majority', [0, 0, 1]),
                     ('all', [0, 1, 1])):
    dropped = judged(mixed, vote=vote, confidence=0.0, balance=False)
    assert dropped['label doubted'] == [bool(x) for x in want]
    assert not any(dropped['label unsure'])
  assert [*judged(mixed, vote='none')] == ['label unsure']
  # Half is no majority.
  assert judged(mixed[[0, 2]], vote='majority')['label doubted'] == [
      False, True, True]


def test_agreement_is_sure_of_a_mean_probability():
  logits = np.log([[[.7, .2, .1], [.3, .3, .4], [.3, .3, .4]],
                   [[.1, .2, .7], [.3, .4, .3], [.1, .1, .8]]])
  # Of their labels: .4, .35 and .6 on average.
  for least, want in ((.3, [0, 0, 0]), (.36, [0, 1, 0]), (.5, [1, 1, 0])):
    dropped = judged(logits, confidence=least, balance=False)
    assert dropped['label unsure'] == [bool(x) for x in want]


def test_agreement_does_not_doubt_rare_classes_for_being_rare():
  # Shares are 1/2, 1/4 and 1/4: undone, these are 1/4, 3/8 and 3/8.
  logits = np.log(np.full((1, 3, 3), [.4, .3, .3]))
  assert judged(logits, balance=False)['label doubted'] == [False, True, True]
  assert judged(logits)['label doubted'][:2] == [True, False]
  for least, want in ((.24, [0, 0, 0]), (.26, [1, 0, 0]), (.38, [1, 1, 1])):
    assert judged(logits, vote='none', confidence=least) == {
        'label unsure': [bool(x) for x in want]}


def test_density_judges_each_image_by_the_others():
  """Beside fitting anew without each, at the shrinkage of all."""
  rng = np.random.default_rng(0)
  groups = [rng.normal(size=(n, 6)) @ rng.normal(size=(6, 6)) +
            3 * rng.normal(size=6) for n in (4, 9, 2)]
  def moment(x):
    return x.T @ x / len(x)
  for shared in (0, .3, 1):
    _, held_out = density.learn(groups, shared)
    apart = [x - x.mean(0) for x in groups]
    every = density._shrink(np.concatenate(apart))
    least = 1e-6 * np.trace(every.moment) / 6 + 1e-12
    for k, i in ((k, i) for k, x in enumerate(groups) for i in range(len(x))):
      mine = density._shrink(apart[k])
      left = [np.delete(x, i, 0) if j == k else x
              for j, x in enumerate(groups)]
      around = [x - x.mean(0) for x in left]
      ridge = shared * every.ridge + (1 - shared) * mine.ridge + least
      covariance = ridge * np.eye(6) + (
          shared * every.kept * moment(np.concatenate(around))
          + (1 - shared) * mine.kept * moment(around[k]))
      normal = stats.multivariate_normal(left[k].mean(0), covariance)
      np.testing.assert_allclose(
          held_out[k][i] - 3 * np.log(2 * np.pi), normal.logpdf(groups[k][i]),
          rtol=1e-8)


def test_the_shrinkage_is_that_of_ledoit_and_wolf():
  from sklearn import covariance
  x = np.random.default_rng(0).normal(size=(9, 20))
  x -= x.mean(0)
  moment, kept_, ridge, n = density._shrink(x)
  assert n == 9
  np.testing.assert_allclose(
      kept_ * moment + ridge * np.eye(20),
      covariance.LedoitWolf(assume_centered=True).fit(x).covariance_)


def test_density_drops_its_share_of_the_training_images_and_all_noise():
  images, labels, _ = blobs(40, 2, 1)
  known = known_of(images, labels, 2)
  select = build('density', known, drop=.1)
  dropped = select(images, labels)['unlikely in its class']
  assert dropped.sum() == 8  # Of 40 a class; not by a model that knows them.
  far = as_images(noise_images(20, (30,)))
  assert select(far, np.arange(20) % 2)['unlikely in its class'].all()
  assert select(images, 1 - labels)['unlikely in its class'].all()
  assert not build('density', known, drop=0.0)(images, labels)[
      'unlikely in its class'].any()


@pytest.mark.parametrize('drop, gone', [(.09, 0), (.1, 1), (.18, 1), (.19, 2)])
def test_density_drops_the_last_of_ten_from_one_in_eleven_on(drop, gone):
  images, labels, _ = blobs(10, 1, 1)
  select = build('density', known_of(images, labels, 1), drop=drop)
  assert select(images, labels)['unlikely in its class'].sum() == gone


def test_new_images_are_as_likely_as_training_images():
  """Ten in a class of 40 features: judged by themselves, they would not be."""
  images, labels, _ = blobs(60, 30, 1, 40)
  first = np.concatenate([np.flatnonzero(labels == k)[:10] for k in range(30)])
  rest = np.setdiff1d(np.arange(len(images)), first)
  known = known_of(images[first], labels[first], 30)
  select = build('density', known, drop=.2)
  dropped = select(images[rest], labels[rest])['unlikely in its class']
  assert .15 < dropped.mean() < .25


@pytest.mark.parametrize('name', ['density', 'novelty'])
def test_one_image_of_a_class_tells_nothing(name):
  images = as_images(np.arange(5)[:, None].repeat(8, 1))
  with pytest.raises(errors.InputError, match=(
      rf"config\.x\.{name}: class 'class 1' has 1 training images; expected ")):
    build(name, known_of(images, [0, 0, 1, 2, 2], 3))


@pytest.mark.parametrize('name', ['density', 'novelty'])
def test_training_images_that_are_all_the_same(name):
  images = noise_images(1).repeat(12, 0)
  known = known_of(images, np.arange(12) % 3, 3)
  select = build(name, known)
  # Other images are far away, and the same ones are copies.
  assert len(kept(select, noise_images(6, seed=1), np.arange(6) % 3)) == 0
  assert len(kept(select, images, known.train.labels)) == (
      12 if name == 'density' else 0)


def test_rejection_accepts_by_the_formula():
  """F = d - M - log(1 - exp(d - M - eps)) - gamma, by hand in each class."""
  rng, n = np.random.default_rng(0), 20_000
  labels = np.arange(n) % 2
  scores = rng.normal(size=n) + 5 * labels
  known = nothing(2)._replace(score=lambda images, of: np.float32(scores))
  images = np.zeros((n, 1, 1, 1), np.uint8)
  for percentile in (50., 80.):
    rejected = build('rejection', known, percentile=percentile)(
        images, labels)['rejected by the discriminator']
    for k in (0, 1):
      d = np.float64(np.float32(scores[labels == k]))
      f = d - d.max() - np.log(1 - np.exp(d - d.max() - 1e-6))
      accept = 1 / (1 + np.exp(np.percentile(f, percentile) - f))
      kept_ = ~rejected[labels == k]
      # Quarters of the images, of which each is another draw.
      for rows in np.array_split(np.argsort(d), 4):
        error = 4 * np.sqrt(accept[rows].mean() / len(rows))
        assert abs(kept_[rows].mean() - accept[rows].mean()) < error
  other = build('rejection', known._replace(seed=1))(images, labels)
  assert (other['rejected by the discriminator'] != rejected).any()


def test_rejection_wants_a_discriminator_and_its_numbers():
  with pytest.raises(errors.InputError, match=(
      r'^config\.x\.rejection: this pool has no discriminator .*; expected ')):
    build('rejection', nothing())
  known = nothing()._replace(score=lambda images, labels: np.full(6, np.nan))
  with pytest.raises(errors.InputError, match='6 of 6 scores .*not finite'):
    build('rejection', known)(noise_images(6), np.arange(6) % 3)
  known = known._replace(score=lambda images, labels: np.full(6, 3.))
  build('rejection', known)(noise_images(6), np.arange(6) % 3)  # All alike.


def shifted(images, down, right):
  """Moves images; the border is repeated."""
  wide = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), 'edge')
  h, w = images.shape[1:3]
  return wide[:, 2 - down:2 - down + h, 2 - right:2 - right + w]


def test_novelty_finds_copies_by_pixels_alone(train, validation):
  """Features that say nothing: all at one place but for a hair."""
  def hash_of(images):
    return 1 + 1e-3 * flat(images)[:, ::97] % .01
  known = types.Known(train, tuple('0123456789'), hash_of, None)
  reason = 'near copy of a training image'
  def found(images, **options):
    return build('novelty', known, **options)(images, train.labels[
        :len(images)])[reason].mean()
  some = train.images[::4]
  assert found(some) == 1 and found(shifted(some, 0, -1)) > .85
  assert found(shifted(some, 0, -1), reach=0) < .5
  rng = np.random.default_rng(0)
  noisy = (some + rng.normal(0, 4, some.shape)).clip(0, 255).astype(np.uint8)
  assert found(noisy) == 1
  assert found(validation.images[:200]) < .1


def test_novelty_finds_copies_by_features_alone(train, validation):
  def blurred(images):  # Blind to what a permutation of pixel pairs does.
    return flat(images).reshape(len(images), -1, 8).mean(2)
  known = types.Known(train, tuple('0123456789'), blurred, None)
  swapped = train.images.reshape(200, 98, 8)[:, :, ::-1].reshape(
      train.images.shape)
  dropped = build('novelty', known)(swapped, train.labels)
  assert dropped['near copy of a training image'].all()


def test_novelty_knows_what_is_far_from_its_class(train, validation):
  known = types.Known(train, tuple('0123456789'), flat, None)
  select, reason = build('novelty', known), 'far from its class'
  noise = noise_images(50)
  assert select(noise, np.arange(50) % 10)[reason].all()
  real = select(validation.images, validation.labels)[reason].mean()
  wrong = select(validation.images, (validation.labels + 1) % 10)[reason].mean()
  assert real < .15 and wrong > 2 * real
  # By hand, of one class.
  x, mine = (flat(s.images[s.labels == 3]) for s in (validation, train))
  apart = distance.cdist(mine, mine) + np.diag(np.full(len(mine), np.inf))
  limit = np.quantile(apart.min(1), .98)
  want = distance.cdist(x, mine).min(1) > limit
  np.testing.assert_array_equal(select(
      validation.images, validation.labels)[reason][validation.labels == 3],
      want)


def test_novelty_compares_large_images_in_cells():
  rng = np.random.default_rng(0)
  large = ndimage.zoom(rng.random((12, 9, 10, 3)), (1, 9, 7, 1), order=1)
  large = np.uint8(255 * large.clip(0, 1))  # 81 x 70.
  known = known_of(large, np.arange(12) % 2, 2, lambda images: np.ones(
      (len(images), 3)) * np.arange(len(images))[:, None])
  reason = 'near copy of a training image'
  moved = shifted(large, 1, 2)
  assert build('novelty', known)(moved, known.train.labels)[reason].all()


# ------------------------------------------------ planted faults of a real pool
GOOD, WRONG, COPY, NOISE = range(4)


def plant(images, labels, per_class, size, seed=0):
  """Real images that the training split has not, and faults among them.

  Of `size` images, 20 % have a wrong label, 10 % are training images (a third
  each: exact, with noise of 4 grey levels, moved by a pixel), 5 % noise (a
  third each: uniform, blurred, patches of an image in another order).

  Returns:
    (train, pool images, labels, kind: one of the four above).
  """
  rng, classes = np.random.default_rng(seed), labels.max() + 1
  order = rng.permutation(len(images))
  first = np.concatenate([order[labels[order] == k][:per_class]
                          for k in range(classes)])
  rest = np.setdiff1d(order, first)
  rng.shuffle(rest)
  train = types.Split(images[first], labels[first].astype(np.int32),
                      np.arange(len(first)))
  wrong, copies, noise = size // 5, size // 10, size // 20
  good = size - wrong - copies - noise
  x, y = images[rest[:good + wrong]], labels[rest[:good + wrong]].copy()
  y[good:] = (y[good:] + rng.integers(1, classes, wrong)) % classes
  of = rng.integers(0, len(first), copies)
  copied = train.images[of].astype(float)
  copied[1::3] += rng.normal(0, 4, copied[1::3].shape)
  for i in range(2, copies, 3):
    copied[i] = shifted(copied[i:i + 1], *[(0, 1), (1, 0), (-1, 0), (0, -1)][
        rng.integers(4)])[0]
  faults = rng.uniform(0, 255, (noise, *images.shape[1:]))
  for i in range(1, noise, 3):
    soft = ndimage.gaussian_filter(faults[i], (2, 2, 0))
    faults[i] = (soft - soft.min()) / np.ptp(soft) * 255
  faults[2::3] = [_patches(images[i], rng)
                  for i in rng.choice(rest, len(faults[2::3]))]
  new = np.concatenate([copied, faults]).round().clip(0, 255).astype(np.uint8)
  kind = np.repeat([GOOD, WRONG, COPY, NOISE], [good, wrong, copies, noise])
  mixed = rng.permutation(size)
  return (train, np.concatenate([x, new])[mixed], np.concatenate([
      y, train.labels[of], rng.integers(0, classes, noise)])[mixed].astype(
          np.int32), kind[mixed])


def _patches(image, rng):
  side = image.shape[0] // 4
  cut = image.reshape(4, side, 4, side, -1).swapaxes(1, 2).reshape(
      16, side, side, -1)[rng.permutation(16)]
  return cut.reshape(4, 4, side, side, -1).swapaxes(1, 2).reshape(image.shape)


def scattering():
  network = registry.find('extractors', 'scattering').build()
  extractor = extracting.extractor(network, mesh.make(), 100)
  return lambda images: extracting.of_array(extractor, images,
                                            ('features',)).features


def cnn(spec, steps=300):
  """The classifier of configs/quickstart.py, and its training: Known.fit."""
  rule = classifier.of_block(spec, 'config.x', 'cnn', {
      'optimizer': 'adam', 'learning_rate': 1e-3, 'weight_decay': 1e-4})
  classes = spec.num_classes

  @jax.jit
  def step(state, images, labels, key):
    return rule.step(state, classifier.plain(
        pixels.to_float(images), labels, classes), key)[0]
  predict = quick.jit(rule.predict)

  def fit(images, labels, run):
    state = rule.init(jax.random.key(run), steps)
    plan = mixing.plan(mixing.everything(len(labels)), pool_start=0,
                       batch_size=48, seed=(0, run))
    for i in range(steps):
      rows = mixing.batch(plan, i)
      state = step(state, images[rows], labels[rows], jax.random.key(run))
    variables = classifier.variables(state.net)
    return lambda new: np.concatenate([
        np.asarray(predict(variables, pixels.to_float(jnp.asarray(part))))
        for part in image_arrays.blocks(new, 500)])
  return fit


def shares(images, labels, per_class, size, **options):
  """Says for each selector which share of each kind is dropped."""
  train, x, y, kind = plant(images, labels, per_class, size)
  features = scattering()
  of_x, of_train = features(x), features(train.images)
  classes = int(labels.max()) + 1
  known = types.Known(
      train, tuple(map(str, range(classes))),
      lambda images: of_train if images is train.images else of_x,
      cnn(types.ImageSpec(*images.shape[1:], classes)))
  out = {}
  for name in ('agreement', 'novelty', 'density'):
    dropped = build(name, known, **options.get(name, {}))(x, y)
    every = np.any([*dropped.values()], 0)
    out[name] = {k: every[kind == k].mean() for k in range(4)}
    print(name, {k: round(float(v), 3) for k, v in out[name].items()})
  return out


def check(found):
  for name, kind in (('agreement', WRONG), ('novelty', COPY),
                     ('density', NOISE)):
    assert found[name][kind] >= .9, (name, found)
    assert found[name][GOOD] <= .2, (name, found)


def every_garment(garments):
  return (np.concatenate([garments.train.images, garments.test.images]),
          np.concatenate([garments.train.labels, garments.test.labels]))


@pytest.mark.slow
def test_planted_faults_are_found(garments):
  rows = np.arange(0, 7000, 4)  # Of equal classes.
  images, labels = (x[rows] for x in every_garment(garments))
  check(shares(images, labels, 100, 600, agreement={'classifiers': 2}))


@pytest.mark.slow
@pytest.mark.parametrize('per_class', [50, 100])
def test_planted_faults_are_found_among_many_garments(garments, per_class):
  check(shares(*every_garment(garments), per_class, 4000))


@pytest.mark.slow
@pytest.mark.parametrize('per_class', [50, 100])
def test_planted_faults_of_small_photos(shared_data, per_class):
  """The CNN is right of 2 in 5 of these: what it doubts is no fault."""
  path = shared_data / 'cifar10_lossless_part.npz'
  if not path.exists():
    pytest.skip(f'no {path}')
  with np.load(path) as file:
    images, labels = file['x_train'], file['y_train'].astype(np.int32)
  found = shares(images, labels, per_class, 4000)
  assert found['novelty'][COPY] >= .9 and found['novelty'][GOOD] <= .2
  assert found['density'][NOISE] >= .7 and found['density'][GOOD] <= .2
  assert found['agreement'][WRONG] >= .85
  assert found['agreement'][GOOD] < .7
