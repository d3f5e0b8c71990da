"""Copies are found however they were changed; look-alikes are left alone."""
import functools
import io
import itertools
import tarfile

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from jaxaug.core import errors
from jaxaug.data.datasets import fashion_mnist_small
from jaxaug.evaluation import copies

EACH, CLEAN = 20, 500

# The first rule alone, where a test is about that.
_by_pixels = functools.partial(copies.compare, moved=False)


def _jpeg(pixels):
  out = []
  for image in pixels:
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, 'JPEG', quality=75)
    out.append(np.asarray(Image.open(file)).reshape(image.shape))
  return np.stack(out)


def _moved(pixels, down, right):
  """Shifts the content; what comes into sight repeats the border."""
  h, w = pixels.shape[1:3]
  padded = np.pad(pixels, ((0, 0), (2, 2), (2, 2), (0, 0)), 'edge')
  return padded[:, 2 - down:2 - down + h, 2 - right:2 - right + w]


def _grey(change):
  return lambda pixels: np.clip(
      np.rint(change(pixels.astype(float))), 0, 255).astype(np.uint8)


CHANGES = {
    'plain': lambda x: x, 'flipped': lambda x: x[:, :, ::-1],
    'up': lambda x: _moved(x, -1, 0), 'down': lambda x: _moved(x, 1, 0),
    'left': lambda x: _moved(x, 0, -1), 'right': lambda x: _moved(x, 0, 1),
    'jpeg': _jpeg, 'brighter': _grey(lambda x: x + 20),
    'darker': _grey(lambda x: x - 20), 'flatter': _grey(lambda x: .8 * x),
    'steeper': _grey(lambda x: 1.2 * x)}


def _cropped(pixels):
  """80 to 95 % of the sides, anywhere, at the size of before."""
  rng, out = np.random.default_rng(1), []
  for image in pixels:
    h, w = image.shape[:2]
    share = rng.uniform(.8, .95)
    top, left = rng.uniform(0, h - h * share), rng.uniform(0, w - w * share)
    out.append(np.asarray(_pil(image).resize((w, h), 3, (
        left, top, left + w * share, top + h * share))).reshape(image.shape))
  return np.stack(out)


def _turned(pixels):
  """By 3 to 10 degrees, either way, on black."""
  rng = np.random.default_rng(2)
  return np.stack([np.asarray(_pil(image).rotate(
      rng.uniform(3, 10) * rng.choice([-1, 1]), 2)).reshape(image.shape)
                   for image in pixels])


def _other_hue(pixels):
  rng, out = np.random.default_rng(3), []
  for image in pixels:
    hsv = np.array(_pil(image).convert('HSV'))
    hsv[..., 0] += np.uint8(rng.integers(26, 230))
    out.append(np.asarray(Image.fromarray(hsv, 'HSV').convert('RGB')))
  return np.stack(out)


def _made_grey(pixels):
  return np.stack([np.asarray(_pil(image).convert('L').convert('RGB'))
                   for image in pixels])


def _pil(image):
  return Image.fromarray(image.squeeze())


MOVES = {'cropped': _cropped, 'turned': _turned, 'cropped and mirrored':
         lambda x: _cropped(x[:, :, ::-1])}
RECOLOURED = {'another hue': _other_hue, 'grey': _made_grey}


def _check_moved(known, clean, changes, most=5):
  """Of each kind 20 copies are planted among 500 clean images."""
  pool = np.concatenate([clean, *(
      change(known[i * 20:i * 20 + 20])
      for i, change in enumerate(changes.values()))])
  report = copies.compare(copies.Side(pool), copies.Side(known))
  assert (report.near | report.exact)[:len(clean)].sum() < most
  assert report.yardstick_found.mean() < .01
  for i, name in enumerate(changes):
    rows = slice(len(clean) + i * 20, len(clean) + (i + 1) * 20)
    assert report.near[rows].sum() >= 16, (name, report.near[rows].sum())
    right = report.index[rows] == np.arange(i * 20, i * 20 + 20)
    assert right[report.near[rows]].all(), name


def test_moved_copies_are_found_among_fashion_mnist():
  train = fashion_mnist_small.load().train.images
  order = np.random.default_rng(0).permutation(len(train))
  _check_moved(train[order[:1000]], train[order[1000:1500]], MOVES)


@pytest.mark.slow  # As the next, and the embedded ones before.
def test_moved_and_recoloured_copies_are_found_among_cifar10(shared_data):
  with np.load(shared_data / 'cifar10_lossless_part.npz') as file:
    _check_moved(file['x_train'][:1000], file['x_test'][:500],
                 MOVES | RECOLOURED)


@pytest.mark.slow
@pytest.mark.parametrize('side', [64, 128])
def test_moved_and_recoloured_copies_are_found_among_photographs(
    shared_data, tmp_path, side):
  with tarfile.open(shared_data / 'tiny_imagenet_22.tar.xz') as tar:
    names = sorted(name for name in tar.getnames() if name.startswith('train/')
                   and name.endswith('.JPEG'))
    chosen = np.random.default_rng(0).permutation(len(names))[:1000]
    tar.extractall(tmp_path, [names[i] for i in chosen], filter='data')
  pixels = np.stack([np.asarray(Image.open(tmp_path / names[i]).convert(
      'RGB').resize((side, side), 3)) for i in chosen])
  _check_moved(pixels[:500], pixels[500:], MOVES | RECOLOURED)


def _smooth(rng, *shape, blur=2.):
  """Random images that look like photos more than like noise."""
  noise = ndimage.gaussian_filter(rng.normal(size=shape), (0, blur, blur, 0))
  return np.clip(128 + 60 * noise / noise.std(), 0, 255).astype(np.uint8)


def _check_planted(train, test, seed):
  """Plants changed test images among clean ones that nobody knows."""
  rng = np.random.default_rng(seed)
  order = rng.permutation(len(train))
  clean, known = train[order[:CLEAN]], train[order[-CLEAN:]]
  chosen = rng.choice(len(test), EACH, replace=False)
  pool = np.concatenate(
      [clean] + [change(test[chosen]) for change in CHANGES.values()])
  report = _by_pixels(*map(copies.Side, (pool, test, known)))
  found, same = report.exact | report.near, slice(CLEAN, CLEAN + EACH)
  assert not report.exact[:CLEAN].any() and report.exact[same].all()
  assert found[:CLEAN].mean() < .01
  assert report.yardstick_found.mean() < .01
  assert (report.index[same] == chosen).all()
  for i, name in enumerate(CHANGES):
    rows = slice(CLEAN + i * EACH, CLEAN + (i + 1) * EACH)
    assert found[rows].mean() >= .9, name
    assert (report.index[rows] == chosen).mean() >= .9, name
  # Clean images are as far from the test split as other real ones are.
  assert abs(np.median(report.distance[:CLEAN])
             - np.median(report.yardstick)) < .05


@pytest.mark.parametrize('seed', [
    0, pytest.param(1, marks=pytest.mark.slow)])
def test_changed_test_images_are_found_among_fashion_mnist(seed):
  data = fashion_mnist_small.load()
  _check_planted(data.train.images, data.test.images, seed)


@pytest.mark.slow
def test_changed_test_images_are_found_among_cifar10(shared_data):
  with np.load(shared_data / 'cifar10_lossless_part.npz') as file:
    _check_planted(file['x_train'], file['x_test'], 0)


def test_changed_train_images_are_found_and_the_rest_is_not():
  train = fashion_mnist_small.load().train.images
  order = np.random.default_rng(0).permutation(len(train))
  clean, known = train[order[:500]], train[order[500:2000]]
  pool = np.concatenate(
      [clean] + [change(known[:EACH]) for change in CHANGES.values()])
  report = _by_pixels(copies.Side(pool), copies.Side(known))
  found = report.exact | report.near
  assert found[:500].mean() < .01 and report.yardstick_found.mean() < .01
  shares = found[500:].reshape(-1, EACH).mean(1)
  assert (shares >= .9).all(), dict(zip(CHANGES, shares, strict=True))


def _reference(a, b, own=False):
  """The distances of all pairs, by the definition: float64 [N, M]."""
  h, w = a.shape[1:3]
  r = min(2, min(h, w) // 4)
  out = np.full((len(a), len(b)), 2.)
  for i, j in itertools.product(range(len(a)), range(len(b))):
    if own and i == j:
      continue
    y = b[j, r:h - r, r:w - r].astype(float)
    for image in (a[i], a[i, :, ::-1]):
      for s, t in itertools.product(range(2 * r + 1), repeat=2):
        x = image[s:s + h - 2 * r, t:t + w - 2 * r].astype(float)
        like = (np.cov(x.ravel(), y.ravel(), bias=True) + 16)
        like = like[0, 1] / np.sqrt(like[0, 0] * like[1, 1])
        out[i, j] = min(out[i, j], np.sqrt(max(2 - 2 * like, 0)))
  return out


@pytest.mark.parametrize('n, shape', [
    (5, (8, 12, 3)), (9, (9, 7, 1)), (3, (3, 5, 1)), (2, (8, 8, 1))])
def test_distance_is_that_of_the_definition(n, shape):
  rng = np.random.default_rng(0)
  pool, real = _smooth(rng, 7, *shape), _smooth(rng, n, *shape)
  pool[0], pool[1] = real[1], real[0, :, ::-1]
  pool[2] = _grey(lambda x: 30 + .7 * x)(real[n - 1])
  report = copies.compare(copies.Side(pool), copies.Side(real))
  between, among = _reference(pool, real), _reference(real, real, own=True)
  spacing = np.clip(np.sort(among, 1)[:, min(2, n - 2)], .2, .8)
  index = between.argmin(1)
  np.testing.assert_array_equal(report.index, index)
  expected = between.min(1) / spacing[index]
  expected[0] = 0
  np.testing.assert_allclose(report.distance, expected, atol=5e-3)
  np.testing.assert_allclose(
      report.yardstick, among.min(1) / spacing[among.argmin(1)], atol=5e-3)
  assert report.exact.tolist() == [True] + [False] * 6
  assert report.near[1:3].all() and report.index[:3].tolist() == [1, 0, n - 1]


def test_large_images_may_be_mirrored_and_shifted_by_single_pixels():
  rng = np.random.default_rng(0)
  real = _smooth(rng, 30, 200, 130, 3)
  pool = np.concatenate([_moved(real[:5, :, ::-1], 1, -1), _jpeg(real[5:10]),
                         _smooth(rng, 5, 200, 130, 3)])
  report = copies.compare(copies.Side(pool), copies.Side(real))
  assert report.near.tolist() == [True] * 10 + [False] * 5
  assert report.index[:10].tolist() == list(range(10))


def test_blank_images_are_alike_and_like_nothing_else():
  rng = np.random.default_rng(0)
  real = _smooth(rng, 40, 12, 12, 1)
  real[7] = 200
  pool = np.stack([np.full((12, 12, 1), v, np.uint8) for v in (0, 200, 255)]
                  + [rng.integers(99, 102, (12, 12, 1)).astype(np.uint8)])
  report = copies.compare(copies.Side(pool), copies.Side(real))
  assert report.exact.tolist() == [False, True, False, False]
  assert report.near.tolist() == [True, False, True, True]
  assert (report.index == 7).all()
  without = copies.compare(copies.Side(pool),
                           copies.Side(np.delete(real, 7, 0)))
  assert not (without.exact | without.near).any()


def test_duplicates_among_the_real_images_do_not_hide_copies():
  test = fashion_mnist_small.load().test.images
  real = np.repeat(test[:400], 4, 0)
  pool = np.concatenate([_jpeg(test[:100]), test[1000:1500]])
  report = _by_pixels(copies.Side(pool), copies.Side(real))
  assert report.yardstick_found.all()
  assert report.near[:100].mean() >= .8
  assert report.near[100:].mean() < .01


def test_threshold_is_three_deviations_below_a_log_normal_median():
  rng = np.random.default_rng(0)
  clean = np.exp(rng.normal(0, .3, 100_000))
  assert copies.threshold(clean) == pytest.approx(np.exp(-.9), rel=.02)
  # 1 duplicate in 50 moves a plain quantile to 0, but not this.
  clean[::50] = 0
  assert copies.threshold(clean) == pytest.approx(np.exp(-.9), rel=.1)
  assert copies.threshold(np.full(9, 1.)) == .45  # However far apart.
  assert copies.threshold(np.zeros(9)) == .25     # However alike.


def test_features_propose_what_the_cells_cannot_tell_apart():
  rng = np.random.default_rng(0)
  # A fine texture that leaves every cell's mean where it was.
  sign = rng.choice([-60., 60.], (300, 7, 7, 1)).repeat(4, 1).repeat(4, 2)
  chequer = np.indices((28, 28)).sum(0)[..., None] % 2 * 2 - 1
  inside = np.pad(sign, ((0, 0), (2, 2), (2, 2), (0, 0)))
  real = (128 + inside * np.pad(chequer, ((2, 2), (2, 2), (0, 0)))).astype(
      np.uint8)
  pool = _grey(lambda x: x + 9)(real[:50])
  code = sign[:, ::4, ::4].reshape(300, -1)
  plain = _by_pixels(copies.Side(pool), copies.Side(real))
  helped = _by_pixels(copies.Side(pool, code[:50]), copies.Side(real, code))
  assert not (plain.near & ~plain.moved).all()
  assert (helped.near & ~helped.moved).all()
  np.testing.assert_array_equal(helped.index, np.arange(50))


def test_result_depends_on_no_order():
  data = fashion_mnist_small.load()
  pool, real = data.train.images[:120], data.test.images[:300]
  pool[:5] = real[:5, :, ::-1]
  a = _by_pixels(copies.Side(pool), copies.Side(real))
  b = _by_pixels(copies.Side(pool), copies.Side(real))
  for x, y in zip(a, b, strict=True):
    np.testing.assert_array_equal(x, y)
  c = _by_pixels(copies.Side(pool[::-1]), copies.Side(real[::-1]))
  np.testing.assert_array_equal(c.near[::-1], a.near)
  np.testing.assert_array_equal(299 - c.index[::-1], a.index)
  np.testing.assert_allclose(c.distance[::-1], a.distance, atol=1e-3)


@pytest.mark.parametrize('pool, real, words', [
    (np.zeros((2, 8, 8, 1), np.uint8), np.zeros((2, 8, 9, 1), np.uint8),
     'pool images are uint8 [2, 8, 8, 1]'),
    (np.zeros((2, 8, 8, 1)), np.zeros((2, 8, 8, 1), np.uint8), 'float64'),
    (np.zeros((0, 8, 8, 1), np.uint8), np.zeros((2, 8, 8, 1), np.uint8),
     '[0, 8, 8, 1]'),
    (np.zeros((2, 8, 8, 1), np.uint8), np.zeros((1, 8, 8, 1), np.uint8),
     'real images')])
def test_images_that_do_not_fit_are_refused(pool, real, words):
  with pytest.raises(errors.InputError) as info:
    copies.compare(copies.Side(pool), copies.Side(real))
  assert words in str(info.value) and '\n' not in str(info.value)


def test_features_that_do_not_fit_are_refused():
  pixels = np.zeros((3, 8, 8, 1), np.uint8)
  for features in (None, np.zeros((2, 4)), np.zeros((3, 5))):
    with pytest.raises(errors.InputError, match='features'):
      copies.compare(copies.Side(pixels, features),
                    copies.Side(pixels, np.zeros((3, 4))))


def test_features_see_what_pixels_do_not():
  """Quarter turns, by features that do not know up from right."""
  data = fashion_mnist_small.load()
  train, clean = data.train.images[:800], data.train.images[800:1000]
  turned = np.rot90(train[:20], axes=(1, 2))
  def side(pixels):
    return copies.Side(pixels, np.sort(pixels.reshape(len(pixels), -1) / 255.))
  pool, real = side(np.concatenate([clean, turned])), side(train)
  found = _by_pixels(pool, real)
  assert found.alike[200:].all() and found.alike[:200].mean() < .05
  assert (found.near | found.exact)[200:].mean() < .2
  # The distances are scikit-learn's; an image does not count for itself.
  neighbors = pytest.importorskip('sklearn.neighbors')
  # Its brute force rounds a distance of 0 to 1e-6; a tree does not.
  search = neighbors.NearestNeighbors(n_neighbors=2, algorithm='kd_tree').fit(
      real.features)
  np.testing.assert_allclose(copies.feature_distances(pool, real),
                             search.kneighbors(pool.features)[0][:, 0],
                             atol=1e-6)
  np.testing.assert_allclose(
      copies.feature_distances(real, real, np.arange(800)),
      search.kneighbors(real.features)[0][:, 1], atol=1e-6)
