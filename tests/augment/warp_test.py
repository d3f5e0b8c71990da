"""Resampling against scipy, and rectangles against counting."""
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxaug.augment import warp

# What each padding is called by scipy.
MODES = {'constant': 'grid-constant', 'edge': 'nearest', 'reflect': 'mirror'}


@pytest.mark.parametrize('nearest', [True, False])
@pytest.mark.parametrize('padding', warp.PADDINGS)
def test_resample_equals_scipy(padding, nearest):
  rng = np.random.default_rng(0)
  images = rng.uniform(-1, 1, (6, 13, 18, 2)).astype(np.float32)
  matrix = (np.eye(2)[..., None] + rng.uniform(-0.6, 0.6, (2, 2, 6))).astype(
      np.float32)
  dy, dx = rng.uniform(-5, 5, (2, 6)).astype(np.float32)
  got = jax.jit(lambda *args: warp.resample(
      *args, padding, -0.5, nearest=nearest))(images, dy, dx, matrix)
  centre = np.array([6.0, 8.5])
  for i, image in enumerate(images):
    pull = matrix[..., i].astype(float)
    offset = centre - pull @ (centre + (dy[i], dx[i]))
    expected = np.stack([ndimage.affine_transform(
        image[..., c].astype(float), pull, offset, order=1 - nearest,
        mode=MODES[padding], cval=-0.5) for c in range(2)], -1)
    gap = np.abs(np.asarray(got[i]) - expected)
    # One pixel or its neighbour, where they are as near.
    assert gap.max() < 1e-4 or nearest and (gap > 0).mean() < 0.01


@pytest.mark.parametrize('padding', warp.PADDINGS)
def test_nothing_to_do_is_done_exactly(padding):
  images = np.random.default_rng(0).normal(size=(3, 8, 11, 3)).astype('f')
  zero, one = jnp.zeros(3), jnp.ones(3)
  for nearest in (True, False):
    got = warp.resample(images, zero, zero, ((one, zero), (zero, one)), padding,
                        0.0, nearest)
    np.testing.assert_array_equal(got, images)
  np.testing.assert_array_equal(
      warp.affine(images, zero, zero, zero, one, zero, padding, 0.0), images)


def test_whole_numbers_are_alike_and_reach_both_ends():
  uniform = jnp.arange(700) / 700
  for low, high in ((-3, 3), (0, 6), (2, 8)):
    values, counts = np.unique(warp.integer(uniform, low, high),
                               return_counts=True)
    np.testing.assert_array_equal(values, np.arange(low, high + 1))
    assert abs(counts - 100).max() <= 1


def test_boxes_of_any_size_and_place():
  height, width = 6, 9
  places = np.linspace(0, 0.999, 40)
  cases = np.array([*itertools.product(places, range(height + 1))])
  u, size = cases[:, 0].astype('f'), cases[:, 1].astype(int)
  images = jnp.zeros((len(u), height, width, 3))
  got = np.asarray(jax.jit(lambda *a: warp.box(images, *a[:2], a[2:]))(
      u, u[::-1].copy(), size, size[::-1].copy()))
  assert got.shape == (len(u), height, width, 1) and got.dtype == bool
  rows, columns = got.any((2, 3)), got.any((1, 3))
  np.testing.assert_array_equal(
      got[..., 0], rows[:, :, None] & columns[:, None])
  for i, (draw, side) in enumerate(zip(u, size, strict=True)):
    start = int(draw * (height + 1 - side % 2)) - side // 2
    expected = [start <= at < start + side for at in range(height)]
    # A box of no columns has no rows either.
    assert rows[i].tolist() == expected or not size[::-1][i]
  # One size for all is the same as that size for each.
  np.testing.assert_array_equal(
      warp.box(images, u, u, (3, 4)),
      warp.box(images, u, u, jnp.full((2, len(u)), jnp.array([[3], [4]]))))
