"""Winograd's convolutions against the plain ones in float64."""
import jax
import numpy as np
import pytest
from jax import lax

from jaxaug import winograd


@pytest.mark.parametrize('kernel, tile, tolerance', [
    ((3, 3), (2, 2), 2e-6), ((3, 3), (4, 4), 1e-5), ((5, 5), (4, 4), 1e-4),
    ((1, 7), (1, 3), 1e-4), ((7, 1), (3, 1), 1e-4), ((1, 3), (1, 4), 1e-5),
    ((3, 1), (4, 1), 1e-5), ((1, 1), (1, 1), 1e-6)])
@pytest.mark.parametrize('height, width, pad', [
    (17, 17, 'same'), (9, 14, 'same'), (8, 11, 'valid')])
def test_it_is_the_plain_convolution(kernel, tile, tolerance, height, width,
                                     pad):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, height, width, 5))
  k = rng.normal(size=(*kernel, 5, 6))
  pads = tuple((n // 2,) * 2 if pad == 'same' else (0, 0) for n in kernel)
  with jax.enable_x64(True):
    want = np.asarray(lax.conv_general_dilated(
        x, k, (1, 1), pads, dimension_numbers=('NHWC', 'HWIO', 'NHWC')))
  def ours(x, k):
    return winograd.conv(x, winograd.transform(k, tile), pads)
  got = np.asarray(jax.jit(ours)(np.float32(x), np.float32(k)))
  assert got.shape == want.shape and got.dtype == np.float32
  assert np.abs(got - want).max() < tolerance * np.abs(want).max()


def test_it_takes_fewer_products():
  """4 x 4 results of 3 x 3 taps: 36 products for 144."""
  taps = winograd.transform(np.zeros((3, 3, 1, 1), np.float32), (4, 4)).taps
  assert np.shape(taps) == (6, 6, 1, 1)


def test_a_tile_without_enough_points_is_refused():
  with pytest.raises(ValueError, match='no 9 outputs of 7 taps'):
    winograd.transform(np.zeros((1, 7, 1, 1), np.float32), (1, 9))


@pytest.mark.parametrize('turned', [False, True])
@pytest.mark.parametrize('kernel, tile', [
    ((3, 3), (2, 2)), ((2, 2), (2, 2)), ((3, 2), (4, 3)), ((1, 3), (1, 2))])
def test_its_gradients_are_the_plain_ones(kernel, tile, turned):
  rng = np.random.default_rng(1)
  x, k = rng.normal(size=(2, 9, 8, 5)), rng.normal(size=(*kernel, 5, 6))
  with jax.enable_x64(True):
    y, pull = jax.vjp(lambda x, k: lax.conv_general_dilated(
        x, k, (1, 1), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')),
                      x, k)
    dy = rng.normal(size=y.shape)
    of_x, of_k = map(np.asarray, pull(dy))
  x, k, dy = map(np.float32, (x, k, dy))
  taps = winograd.transform(k.swapaxes(2, 3) if turned else k, tile, turned)
  grad = winograd.kernel_grad(x, dy, kernel, tile, turned)
  for got, want in ((winograd.conv(x, taps), y),
                    (winograd.input_grad(dy, taps, (9, 8)), of_x),
                    (grad.swapaxes(2, 3) if turned else grad, of_k)):
    assert got.shape == want.shape
    assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()
