"""Operations counted by hand."""
import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxaug.nn.cpu import convolution
from jaxaug.study import budget

SQUARE = jnp.zeros((3, 3))
CASES = {
    'product': (lambda a, b: a @ b, (jnp.zeros((3, 4)), jnp.zeros((4, 5))),
                2 * 3 * 4 * 5),
    'batched': (jnp.matmul, (jnp.zeros((7, 3, 4)), jnp.zeros((7, 4, 5))),
                2 * 7 * 3 * 4 * 5),
    'scan': (lambda a: lax.scan(lambda c, _: (c @ c, None), a, length=7)[0],
             (SQUARE,), 7 * 54),
    'dearest branch': (jax.jit(lambda a: lax.cond(
        a[0, 0] > 0, lambda: a @ a, lambda: a)), (SQUARE,), 54),
    'nothing': (jnp.tanh, (SQUARE,), 0),
}


@pytest.mark.parametrize('name', CASES)
def test_by_hand(name):
  function, args, want = CASES[name]
  assert budget.flops(function, *args) == want
  shapes = jax.eval_shape(lambda: args)
  assert budget.flops(function, *shapes) == want  # Nothing is run.


@pytest.mark.parametrize('conv', [lax.conv_general_dilated,
                                  convolution.conv_general_dilated])
@pytest.mark.parametrize('groups, stride, dilation', [
    (1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2)])
def test_convolution_and_its_gradients(conv, groups, stride, dilation):
  """Zeros between pixels, of the image or of a gradient, are no work."""
  size = 16 // dilation
  x, kernel = jnp.zeros((4, size, size, 6)), jnp.zeros((4, 4, 6 // groups, 10))
  padding = {1: 'SAME', 2: ((2, 2),) * 2}[dilation]
  def f(x, kernel):
    return conv(x, kernel, (stride,) * 2, padding, feature_group_count=groups,
                lhs_dilation=(dilation,) * 2,
                dimension_numbers=('NHWC', 'HWIO', 'NHWC')).sum()
  out = (16 // stride) ** 2
  one = 2 * 4 * out * 10 * 16 * 6 // groups // dilation ** 2
  assert budget.flops(f, x, kernel) == pytest.approx(one, rel=0.3)
  assert budget.flops(jax.grad(f, (0, 1)), x, kernel) == pytest.approx(
      3 * one, rel=0.4)
