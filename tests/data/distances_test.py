"""Distances in tiles, beside scipy's."""
import numpy as np
import pytest
from scipy.spatial import distance

from jaxaug.data import distances


@pytest.mark.parametrize('block', [2**24, 64])
@pytest.mark.parametrize('k', [1, 3])
def test_nearest_is_scipys_whatever_the_tiles(monkeypatch, block, k):
  monkeypatch.setattr(distances, '_BLOCK', block)
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(23, 5)) + 3, rng.normal(size=(31, 5)) + 3
  want = distance.cdist(x, y)
  index, apart = distances.nearest(x, y, k)
  np.testing.assert_array_equal(index, want.argsort(1)[:, :k])
  np.testing.assert_allclose(apart, np.sort(want, 1)[:, :k], rtol=1e-12)
  own = rng.permutation(31)[:23]
  want[np.arange(23), own] = np.inf
  index, apart = distances.nearest(x, y, k, own)
  np.testing.assert_array_equal(index, want.argsort(1)[:, :k])
  np.testing.assert_allclose(apart, np.sort(want, 1)[:, :k], rtol=1e-12)


def test_of_those_as_far_away_the_first_comes_first():
  index, _ = distances.nearest(np.zeros((1, 2)), np.ones((4, 2)), 4)
  assert index.tolist() == [[0, 1, 2, 3]]


def test_equal_pixels_are_at_zero_and_others_exact():
  x = np.random.default_rng(0).integers(0, 256, (50, 3072), np.uint8)
  index, apart = distances.nearest(x, x[::-1])
  np.testing.assert_array_equal(index[:, 0], np.arange(50)[::-1])
  assert not apart.any()
  y = x.copy()
  y[:, 7] ^= 1
  assert (distances.nearest(x, y)[1] == 1).all()
