"""Modules and poolings against those of flax."""
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.nn import layers
from tests import quick


def both(ours, theirs, x):
  """What both make of x with the same variables, which are drawn."""
  rng = np.random.default_rng(0)
  shapes, mine = (jax.eval_shape(m.init, jax.random.key(0), x)
                  for m in (theirs, ours))
  variables = jax.tree.map(
      lambda a: rng.normal(0, 0.2, a.shape).astype(a.dtype), shapes)
  return mine == shapes, *map(np.asarray, quick.jit(lambda v, x: (
      ours.apply(v, x), theirs.apply(v, x)))(variables, x))


@pytest.mark.parametrize('k', [1, 3, 4])
@pytest.mark.parametrize('padding', ['SAME', 'VALID', ((2, 1), (0, 3))])
def test_modules_are_those_of_flax(k, padding):
  x = np.random.default_rng(k).normal(size=(4, 6, 7, 6)).astype(np.float32)
  for ours, theirs in ((layers.Conv, nn.Conv),
                       (layers.ConvTranspose, nn.ConvTranspose)):
    ours, theirs = (m(7, (k, k), (2, 2), padding) for m in (ours, theirs))
    alike, got, want = both(ours, theirs, x)
    assert alike and np.abs(got - want).max() < 1e-5


@pytest.mark.parametrize('padding', ['SAME', 'VALID'])
@pytest.mark.parametrize('given', [
    {'strides': None}, {'strides': 2}, {'strides': (2, 2),
                                        'kernel_dilation': (2, 3)},
    {'strides': (3, 1), 'kernel_dilation': 2}], ids=str)
def test_transposed_shapes_are_those_of_flax(given, padding):
  x = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
  ours, theirs = (m(4, (3, 3), padding=padding, **given)
                  for m in (layers.ConvTranspose, nn.ConvTranspose))
  _, got, want = both(ours, theirs, x)
  np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize('size', [(4, 6), (5, 7), (2, 3)])
def test_max_pool_is_the_stock_one(size):
  x = np.random.default_rng(0).permutation(2 * size[0] * size[1] * 3)
  x = x.reshape(2, *size, 3).astype(np.float32)  # No two alike.
  stock = functools.partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2))
  def run(pool):
    y, pull = jax.vjp(pool, x)
    weigh = np.random.default_rng(0).normal(size=y.shape)
    return y, *pull(jnp.float32(weigh))
  for got, want in zip(*quick.jit(lambda: (run(layers.max_pool),
                                           run(stock)))(), strict=True):
    np.testing.assert_array_equal(got, want)
