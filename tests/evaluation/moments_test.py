"""Moments and the Fréchet distance beside numpy, scipy and pytorch-fid."""
import time

import numpy as np
import pytest

from jaxaug.core import errors, types
from jaxaug.evaluation import moments

scipy_linalg = pytest.importorskip('scipy.linalg')


def features(n, d, seed=0, shift=0.):
  """float32 [n, d], skewed and correlated as those of a network."""
  rng = np.random.default_rng(seed)
  mix = np.random.default_rng(7).normal(size=(d, d)) / d**.5
  scale = np.arange(1, d + 1)**-.5
  return np.float32(np.maximum(rng.normal(size=(n, d)) * scale @ mix + shift,
                               0))


def by_svd(x, y):
  """The distance from the images themselves: nothing is squared or rooted."""
  x, y = np.float64(x), np.float64(y)
  apart = x.mean(0) - y.mean(0)
  x, y = ((z - z.mean(0)) / (len(z) - 1)**.5 for z in (x, y))
  both = np.linalg.svd(x @ y.T, compute_uv=False).sum()
  return apart @ apart + (x**2).sum() + (y**2).sum() - 2 * both


@pytest.mark.parametrize('offset', [0, 1e6])
@pytest.mark.parametrize('ends', [(), (1,), (2, 3, 50), tuple(range(1, 120))])
def test_any_split_and_order_is_that_of_numpy(ends, offset):
  x = features(120, 9).astype(np.float64) + offset
  sums = None
  for part in np.split(x, ends):
    sums = moments.update(sums, part)
  got = moments.compute(sums)
  # Far from 0, numpy's own covariance is exact to the rounding of the input.
  want = np.cov(x - offset, rowvar=False)
  tight = {'rtol': 1e-9, 'atol': 1e-9 if offset else 1e-12}
  np.testing.assert_allclose(got.covariance, want, **tight)
  np.testing.assert_allclose(got.mean, x.mean(0), rtol=1e-12)
  turned = moments.of(x[::-1])
  np.testing.assert_allclose(turned.covariance, got.covariance, **tight)
  assert got.covariance.dtype == got.mean.dtype == np.float64
  np.testing.assert_array_equal(got.covariance, got.covariance.T)


def test_parts_of_any_size_merge():
  x = features(9000, 5)  # More than one block.
  a, b = moments.update(None, x[:8999]), moments.update(None, x[8999:])
  for joined in (moments.merge(a, b), moments.merge(b, a)):
    assert joined.count == 9000
    np.testing.assert_allclose(moments.compute(joined).covariance,
                               np.cov(np.float64(x), rowvar=False), rtol=1e-9,
                               atol=1e-15)
    np.testing.assert_allclose(joined.mean, np.float64(x).mean(0), rtol=1e-12)


@pytest.mark.parametrize('value', [0., .1, -1e9 / 3])
def test_constant_features_have_no_scatter_at_all(value):
  sums = None
  for n in (1, 3, 7, 5000):
    sums = moments.update(sums, np.full((n, 4), value))
  assert not sums.scatter.any() and (sums.mean == value).all()
  same = moments.compute(sums)
  assert moments.frechet(same, same) == 0
  other = same._replace(mean=same.mean + 3)
  np.testing.assert_allclose(moments.frechet(same, other), 36, rtol=1e-6)


@pytest.mark.parametrize('given, said', [
    (np.zeros((1, 3)), 'one image'), (np.zeros(3), r'shape \[3\]'),
    (np.zeros((0, 3)), r'\[0, 3\]'), (np.array([[1, np.nan]] * 3), 'NaN'),
    (np.array([[1, -np.inf]] * 3), 'infinite')])
def test_unfit_features(given, said):
  with pytest.raises(errors.InputError, match=said) as e:
    moments.of(given)
  assert '\n' not in str(e.value)


def test_refused_in_one_line():
  with pytest.raises(errors.InputError, match='no image'):
    moments.compute(None)
  with pytest.raises(errors.InputError, match='5 an image after 3'):
    moments.update(moments.update(None, np.ones((2, 3))), np.ones((2, 5)))
  a, b = moments.of(features(9, 3)), moments.of(features(9, 4))
  with pytest.raises(errors.InputError, match='3 features beside 4'):
    moments.frechet(a, b)
  for key in a._fields:
    bad = a._replace(**{key: getattr(a, key) * np.nan})
    with pytest.raises(errors.InputError, match='NaN'):
      moments.frechet(a, bad)


def test_closed_forms():
  rng = np.random.default_rng(0)
  d = 40
  eye, mean = np.eye(d), rng.normal(size=d)
  def distance(*args):
    return moments.frechet(*(types.Moments(*a) for a in args))
  np.testing.assert_allclose(distance((0 * mean, eye), (mean, eye)),
                             mean @ mean, rtol=1e-12)
  np.testing.assert_allclose(distance((mean, 4 * eye), (mean, 25 * eye)),
                             d * (5 - 2)**2, rtol=1e-12)
  # Covariances with the same axes: the standard deviations are compared.
  axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
  a, b = rng.uniform(.1, 3, (2, d))
  got = distance((mean, axes * a**2 @ axes.T), (0 * mean, axes * b**2 @ axes.T))
  np.testing.assert_allclose(got, mean @ mean + ((a - b)**2).sum(), rtol=1e-12)
  # Two lines at an angle: sqrt(tr(A B)) is |cos|.
  u, v = axes[0], .6 * axes[0] + .8 * axes[1]
  got = distance((mean, np.outer(u, u)), (mean, np.outer(v, v)))
  np.testing.assert_allclose(got, 2 - 2 * .6, rtol=1e-7)


@pytest.mark.filterwarnings('ignore:The `disp` argument')
@pytest.mark.parametrize('n, m, d, theirs, ours', [
    (500, 400, 64, 1e-9, 1e-11), (400, 300, 200, 1e-9, 1e-11),
    (100, 100, 256, 1e-4, 1e-10), (500, 60, 256, 1e-4, 1e-10),
    (60, 500, 256, 1e-4, 1e-10), (2, 2, 8, 1e-4, 1e-8)])
def test_distance_is_that_of_pytorch_fid_and_of_the_images(
    n, m, d, theirs, ours, torchvision):
  fid_score = pytest.importorskip('pytorch_fid.fid_score')
  x, y = features(n, d), features(m, d, 1, .1)
  a, b = moments.of(x), moments.of(y)
  got = moments.frechet(a, b)
  np.testing.assert_allclose(got, by_svd(x, y), rtol=ours)
  if min(n, m) > 2:
    want = fid_score.calculate_frechet_distance(*a, *b)
    np.testing.assert_allclose(got, want, rtol=theirs)
  np.testing.assert_allclose(moments.frechet(b, a), got, rtol=1e-10)


@pytest.mark.parametrize('n', [30, 100, 5000])
def test_the_same_moments_have_no_distance(n):
  a = moments.of(features(n, 128))
  size = np.trace(a.covariance)
  assert 0 <= moments.frechet(a, a) < 1e-9 * size
  near = a._replace(mean=a.mean + 1e-12)
  assert 0 <= moments.frechet(a, near) < 1e-9 * size


def test_files_go_both_ways(tmp_path, torchvision):
  fid_score = pytest.importorskip('pytorch_fid.fid_score')
  want = moments.of(features(50, 6))
  path = tmp_path / 'ours.npz'
  moments.save(path, want, n=50, extractor='inception')
  mu, sigma = fid_score.compute_statistics_of_path(str(path), None, 1, 6, 'cpu')
  np.testing.assert_array_equal(mu, want.mean)
  np.testing.assert_array_equal(sigma, want.covariance)
  got, extra = moments.load(path)
  np.testing.assert_array_equal(got.covariance, want.covariance)
  assert extra['n'] == 50 and str(extra['extractor']) == 'inception'
  np.savez_compressed(tmp_path / 'theirs.npz', mu=np.float32(want.mean),
                      sigma=np.float32(want.covariance))
  got, extra = moments.load(tmp_path / 'theirs.npz')
  assert got.covariance.dtype == np.float64 and not extra
  np.testing.assert_allclose(got.mean, want.mean, rtol=1e-6)


@pytest.mark.parametrize('arrays, said', [
    ({'mu': np.zeros(3)}, 'holds mu; expected'), ({}, 'holds nothing'),
    ({'mu': np.zeros(3), 'sigma': np.zeros((3, 2))}, r'\[3, 2\]; expected'),
    ({'mu': np.zeros((3, 1)), 'sigma': np.eye(3)}, r'\[3, 1\] and'),
    ({'mu': np.zeros(0), 'sigma': np.zeros((0, 0))}, r'\[0\] and'),
    ({'mu': np.full(3, np.nan), 'sigma': np.eye(3)}, 'not finite'),
    ({'mu': np.zeros(3), 'sigma': np.full((3, 3), np.inf)}, 'not finite'),
    ({'mu': np.zeros(2, complex), 'sigma': np.eye(2)}, 'not finite numbers'),
    ({'mu': np.zeros(2), 'sigma': np.array([[1, .5], [.4, 1]])}, 'symmetric'),
    ({'mu': np.zeros(2), 'sigma': -np.eye(2)}, 'below 0')])
def test_files_that_hold_no_moments(arrays, said, tmp_path):
  path = tmp_path / 'x.npz'
  np.savez(path, **arrays)
  with pytest.raises(errors.InputError, match=said) as e:
    moments.load(path, 'real')
  assert str(e.value).startswith(f'real: {path}: ')
  assert '\n' not in str(e.value)


def test_files_that_are_none(tmp_path):
  (tmp_path / 'x.npz').write_bytes(b'PK not really')
  for name in ('x.npz', 'absent.npz'):
    with pytest.raises(errors.InputError, match=f'real: .*{name}: '):
      moments.load(tmp_path / name, 'real')


@pytest.mark.slow
def test_ten_times_as_fast_as_the_square_root_and_as_exact():
  a, b = (moments.of(features(5000, 2048, seed, .05 * seed))
          for seed in (0, 1))
  def timed(function):
    start = time.perf_counter()
    return function(), time.perf_counter() - start
  got, ours = min((timed(lambda: moments.frechet(a, b)) for _ in range(3)),
                  key=lambda x: x[1])
  root, theirs = timed(lambda: scipy_linalg.sqrtm(a.covariance @ b.covariance))
  apart = a.mean - b.mean
  want = (apart @ apart + np.trace(a.covariance) + np.trace(b.covariance)
          - 2 * np.trace(root).real)
  np.testing.assert_allclose(got, want, rtol=1e-6)
  assert 10 * ours < theirs
