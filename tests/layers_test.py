"""The convolution against the stock one in float64."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxaug import layers

NHWC = ('NHWC', 'HWIO', 'NHWC')
CASES = [  # height, width, kernel, stride, input dilation, padding
    *((7, 10, k, s, 1, p) for k in (1, 3, 4, 5) for s in (1, 2)
      for p in ('SAME', 'VALID')),
    (9, 6, 3, 1, 1, ((1, 2), (0, 3))),
    (9, 6, 4, 2, 1, ((1, 1), (1, 1))),
    (8, 5, 5, 2, 1, ((2, 1), (0, 4))),
    (8, 5, 1, 2, 1, ((1, 0), (0, 0))),
    (7, 4, 4, 1, 2, ((2, 2), (2, 2))),
    (7, 4, 5, 1, 2, ((3, 2), (3, 3))),
    (4, 7, 3, 1, 2, ((2, 1), (0, 2))),
    (4, 7, 1, 1, 2, ((0, 1), (0, 0))),
    (4, 5, 4, 1, 3, ((2, 3), (3, 3))),
    (6, 5, 3, 2, 2, ((1, 1), (2, 1))),
    (6, 6, 3, 1, 1, ((-1, 0), (2, -1))),
]


def _arrays(height, width, k, channels=(3, 4), batch=4, dtype=np.float64):
  rng = np.random.default_rng(k)
  return (rng.normal(size=(batch, height, width, channels[0])).astype(dtype),
          rng.normal(size=(k, k, *channels)).astype(dtype))


def _run(conv, case, dtype, channels=(3, 4)):
  """Output, both gradients, and the gradients of a gradient penalty."""
  height, width, k, stride, dilation, padding = case
  x, kernel = (jnp.asarray(v, dtype) for v in
               _arrays(height, width, k, channels))
  def apply(x, kernel):
    return conv(x, kernel, (stride,) * 2, padding, (dilation,) * 2, (1, 1),
                dimension_numbers=NHWC)
  def loss(x, kernel):
    return jnp.sum(jnp.sin(apply(x, kernel) / 3))
  def penalty(x, kernel):
    dx, dw = jax.grad(loss, (0, 1))(x, kernel)
    return jnp.sum(dx ** 2) + jnp.sum(jnp.cos(dw / 9))
  @jax.jit
  def both(x, kernel):
    return (apply(x, kernel), jax.grad(loss, (0, 1))(x, kernel),
            jax.grad(penalty, (0, 1))(x, kernel))
  return jax.tree.leaves(both(x, kernel))


def _error(got, want):
  got, want = (np.asarray(v, np.float64) for v in (got, want))
  assert got.shape == want.shape
  return np.abs(got - want).max() / max(np.abs(want).max(), 1e-9)


@pytest.mark.parametrize('case', CASES, ids=str)
def test_both_orders_agree_with_stock_in_float64(case):
  got = _run(layers.conv_general_dilated, case, jnp.float32)
  with jax.enable_x64(True):
    want = _run(lax.conv_general_dilated, case, jnp.float64)
  assert max(map(_error, got, want)) < 1e-5
