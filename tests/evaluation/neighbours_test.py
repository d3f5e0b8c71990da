"""Distances in tiles beside those of scikit-learn and plain loops."""
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from jaxaug.core import errors
from jaxaug.evaluation import neighbours

sk = pytest.importorskip('sklearn.metrics')
# Points of a side, points of the other, features.
SIZES = {'one tile': (40, 70, 5), 'two by one': (300, 90, 17),
         'many': (700, 530, 3), 'whole tiles': (512, 256, 33),
         'a tile and a point': (257, 513, 8)}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
  """Tiles of 256, so that few points have many of them."""
  monkeypatch.setattr(neighbours, '_SIDE', 256)


def points(name, shift=0.):
  n, m, d = SIZES[name]
  rng = np.random.default_rng(0)
  return (np.float32(rng.normal(size=(n, d)) + shift),
          np.float32(rng.normal(size=(m, d)) * 1.1 + shift))


def distances(a, b=None):
  """float64 [N, M]; of points to themselves, infinite on the diagonal."""
  out = sk.pairwise_distances(np.float64(a), None if b is None
                              else np.float64(b))
  if b is None:
    np.fill_diagonal(out, np.inf)
  return out


@pytest.mark.parametrize('k', [1, 5, 12])  # 12: more than a tile's chunks.
@pytest.mark.parametrize('name', SIZES)
def test_kth_neighbour(name, k):
  for x in points(name):
    want = np.sort(distances(x), 1)[:, k - 1]
    np.testing.assert_allclose(neighbours.kth(x, k), want, rtol=1e-12)


@pytest.mark.parametrize('shift, tight', [(0, 1e-12), (1e3, 1e-9)])
@pytest.mark.parametrize('name', SIZES)
def test_nearest_and_mean(name, shift, tight):
  a, b = points(name, shift)
  index, distance = neighbours.nearest(a, b)
  # Shifted back, which is exact, so that scikit-learn cancels nothing.
  a, b = np.float64(a) - shift, np.float64(b) - shift
  want = distances(a, b)
  np.testing.assert_array_equal(index, want.argmin(1))
  np.testing.assert_allclose(distance, want.min(1), rtol=tight)
  index, distance = neighbours.nearest(a, a, np.arange(len(a)))
  want = distances(a)
  np.testing.assert_array_equal(index, want.argmin(1))
  np.testing.assert_allclose(distance, want.min(1), rtol=tight)
  np.testing.assert_allclose(neighbours.mean_distance(a),
                             want[np.isfinite(want)].mean(), rtol=1e-12)


@pytest.mark.parametrize('strict', [True, False])
@pytest.mark.parametrize('name', SIZES)
def test_inside(name, strict):
  a, b = points(name)
  radii = neighbours.kth(a, 4), neighbours.kth(b, 4)
  got = neighbours.inside(a, b, *radii, strict)
  apart = distances(a, b)
  in_a, in_b = apart < radii[0][:, None], apart < radii[1]
  for mine, want in zip(got, ((in_b.sum(1), in_a.sum(1)),
                              (in_a.sum(0), in_b.sum(0))), strict=True):
    np.testing.assert_array_equal(mine, want)
  assert in_a.any() and in_b.any()


def test_order_changes_nothing():
  a, b = points('many')
  rng = np.random.default_rng(1)
  i, j = rng.permutation(len(a)), rng.permutation(len(b))
  radii = neighbours.kth(a, 3), neighbours.kth(b, 3)
  np.testing.assert_allclose(neighbours.kth(a[i], 3), radii[0][i], rtol=1e-9)
  np.testing.assert_array_equal(j[neighbours.nearest(a[i], b[j])[0]],
                                neighbours.nearest(a, b)[0][i])
  first = neighbours.inside(a, b, *radii, True)
  turned = neighbours.inside(a[i], b[j], radii[0][i], radii[1][j], True)
  for x, y, order in zip(first, turned, (i, j), strict=True):
    np.testing.assert_array_equal(np.stack(x)[:, order], np.stack(y))


@pytest.mark.parametrize('shift', [0, 100])
def test_equal_points_are_at_distance_0(shift):
  a = points('many', shift)[0]
  twins = np.concatenate((a, a[:100], a[:50]))
  assert not neighbours.kth(twins, 1)[:100].any()
  assert not neighbours.kth(twins, 2)[:50].any()
  assert neighbours.kth(twins, 3).all()
  index, distance = neighbours.nearest(a[:100], twins)
  np.testing.assert_array_equal(index, np.arange(100))  # The first of equals.
  assert not distance.any()


def test_surfaces_are_told_from_the_inside():
  # Points on a grid: many are as far away as the radius reaches.
  a = np.stack(np.meshgrid(*[np.arange(20) / 3] * 2), -1).reshape(-1, 2)
  radii = neighbours.kth(a, 1)
  np.testing.assert_allclose(radii, 1 / 3, rtol=1e-12)
  out, on = (neighbours.inside(a, a, radii, radii, strict)[0].around
             for strict in (True, False))
  assert (out == 1).all()  # The point itself only.
  x, y = (a * 3).round().T
  np.testing.assert_array_equal(
      on, 5 - sum((z == end).astype(int) for z in (x, y) for end in (0, 19)))
  # A ball without a radius holds what is at its centre, on the surface.
  nothing = 0 * radii
  for strict, count in ((True, 0), (False, 1)):
    got = neighbours.inside(a, a, nothing, nothing, strict)[0]
    assert (got.around == count).all() and (got.within == count).all()


def test_features_all_the_same():
  a = np.full((300, 7), .1, np.float32)
  assert not neighbours.kth(a, 2).any()
  assert neighbours.mean_distance(a) == 0
  index, distance = neighbours.nearest(a, a)
  assert not index.any() and not distance.any()
  with pytest.raises(errors.InputError, match='x: half of the 300 real') as e:
    neighbours.copies('x', a, a, .01)
  assert '\n' not in str(e.value)


def test_copies_are_those_of_a_plain_loop():
  a, b = points('two by one')
  own, other = distances(a).min(1), distances(b, a).min(1)
  limit = np.quantile(own, .2)
  got = neighbours.copies('x', a, b, .2)
  assert 0 < got[0] == np.mean([d <= limit for d in other]) < 1
  np.testing.assert_allclose(got[1], np.median(other) / np.median(own),
                             rtol=1e-12)
  assert neighbours.copies('x', a, a, .01) == (1, 0)


_LARGE = """
import resource, sys
import numpy as np
from jaxaug.evaluation import neighbours
x = np.random.default_rng(0).normal(size=(50_000, 64)).astype(np.float32)
if sys.argv[1] == 'kth':
  assert (neighbours.kth(x, 5) > 0).all()
else:
  y = x[::-1] + np.float32(.01)
  radii = np.full(len(x), .1)
  a, b = neighbours.inside(x, y, radii, radii, True)
  assert a.around.sum() == b.within.sum() >= len(x)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize('what', ['kth', 'inside'])
def test_memory_of_50_000_by_50_000(what):
  out = subprocess.run([sys.executable, '-c', _LARGE, what],
                       cwd=pathlib.Path(__file__).parents[2], text=True,
                       capture_output=True, timeout=600)
  assert out.returncode == 0, out.stderr
  assert int(out.stdout) < 1000  # Megabytes, the interpreter with them.
