"""Modules and poolings against those of flax."""
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.nn import layers


@pytest.mark.parametrize('k', [1, 3, 4])
@pytest.mark.parametrize('padding', ['SAME', 'VALID', ((2, 1), (0, 3))])
def test_modules_are_those_of_flax(k, padding):
  x = np.random.default_rng(k).normal(size=(4, 6, 7, 6)).astype(np.float32)
  for ours, theirs in ((layers.Conv, nn.Conv),
                       (layers.ConvTranspose, nn.ConvTranspose)):
    ours, theirs = (m(7, (k, k), (2, 2), padding) for m in (ours, theirs))
    want, variables = theirs.init_with_output(jax.random.key(0), x)
    mine = ours.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, mine) == jax.tree.map(jnp.shape, variables)
    assert np.abs(ours.apply(variables, x) - want).max() < 1e-5


@pytest.mark.parametrize('padding', ['SAME', 'VALID'])
@pytest.mark.parametrize('given', [
    {'strides': None}, {'strides': 2}, {'strides': (2, 2),
                                        'kernel_dilation': (2, 3)},
    {'strides': (3, 1), 'kernel_dilation': 2}], ids=str)
def test_transposed_shapes_are_those_of_flax(given, padding):
  x = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
  ours, theirs = (m(4, (3, 3), padding=padding, **given)
                  for m in (layers.ConvTranspose, nn.ConvTranspose))
  want, variables = theirs.init_with_output(jax.random.key(0), x)
  np.testing.assert_allclose(ours.apply(variables, x), want, atol=1e-5)


@pytest.mark.parametrize('size', [(4, 6), (5, 7), (2, 3)])
def test_max_pool_is_the_stock_one(size):
  x = np.random.default_rng(0).permutation(2 * size[0] * size[1] * 3)
  x = jnp.asarray(x.reshape(2, *size, 3), jnp.float32)  # No two alike.
  stock = functools.partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2))
  np.testing.assert_array_equal(layers.max_pool(x), stock(x))
  weigh = jax.random.normal(jax.random.key(0), stock(x).shape)
  np.testing.assert_array_equal(
      jax.grad(lambda x: (layers.max_pool(x) * weigh).sum())(x),
      jax.grad(lambda x: (stock(x) * weigh).sum())(x))
