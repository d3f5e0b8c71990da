"""Norm, ReLU and convolution in one, against the plain three in float64."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxaug import fused, layers

# (images, height, width, channels, features, kernel, join)
CASES = [(4, 8, 8, 5, 3, 3, True), (3, 5, 9, 4, 2, 3, False),
         (4, 7, 6, 9, 8, 1, False), (6, 4, 4, 3, 12, 1, True),
         (2, 6, 6, 3, 2, 5, True), (1, 8, 8, 4, 3, 3, True)]


def _arrays(case):
  batch, h, w, c, o, k, join = case
  rng = np.random.default_rng(sum(case))
  return (rng.normal(2, 3, (batch, h, w, c)), rng.uniform(.5, 2, c),
          rng.normal(size=c), rng.normal(size=(k, k, c, o)),
          rng.normal(size=(batch, h, w, o + join * c)))


def _plain(join, x, scale, bias, kernel, mean=None, var=None):
  if mean is None:
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
  z = jax.nn.relu((x - mean) / jnp.sqrt(var + 1e-5) * scale + bias)
  y = lax.conv_general_dilated(z, kernel, (1, 1), 'SAME',
                               dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  return jnp.concatenate([x, y], -1) if join else y


@pytest.mark.parametrize('limit', [2 ** 19, 64], ids=['whole', 'in parts'])
@pytest.mark.parametrize('case', CASES, ids=str)
def test_values_and_gradients(case, limit, monkeypatch):
  monkeypatch.setattr(layers, '_CHUNK', limit)
  *args, dy = _arrays(case)
  join = case[-1]
  def loss(f, *args):
    y = f(*args)
    return (y * dy).sum(), y
  grad = [0, 1, 2, 3]
  with jax.enable_x64(True):
    (_, want), wants = jax.value_and_grad(
        lambda *a: loss(lambda *b: _plain(join, *b), *a), grad,
        has_aux=True)(*map(jnp.float64, args))
  small = [jnp.float32(a) for a in args]
  (_, got), gots = jax.jit(jax.value_and_grad(
      lambda *a: loss(lambda *b: fused._fast(join, *b)[0], *a), grad,
      has_aux=True))(*small)
  for a, b in zip((got, *gots), (want, *wants), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())


@pytest.mark.parametrize('case', CASES[:3], ids=str)
def test_module_learns_statistics_and_uses_them(case):
  x, _, _, _, _ = _arrays(case)
  x, join = jnp.float32(x), case[-1]
  module = fused.NormReluConv(case[4], case[5], join)
  variables = module.init(jax.random.key(0), x, train=False)
  y, new = module.apply(variables, x, train=True, mutable=['batch_stats'])
  stats, params = new['batch_stats'], variables['params']
  np.testing.assert_allclose(stats['mean'], 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
  np.testing.assert_allclose(stats['var'], 0.9 + 0.1 * x.var((0, 1, 2)),
                             rtol=1e-4)
  args = params['scale'], params['bias'], params['kernel']
  np.testing.assert_allclose(y, _plain(join, x, *args), atol=1e-5)
  seen = module.apply({'params': params, 'batch_stats': stats}, x, train=False)
  np.testing.assert_allclose(seen, _plain(join, x, *args, **stats), atol=1e-5)
  # Half precision: of the convolution alone.
  half = fused.NormReluConv(case[4], case[5], join, dtype=jnp.bfloat16)
  z, _ = half.apply(variables, x, train=True, mutable=['batch_stats'])
  assert z.dtype == jnp.float32 if join else jnp.bfloat16
  np.testing.assert_allclose(np.float32(z), y, atol=0.03 * np.abs(y).max())
  # Other backends take the plain way, to the same numbers.
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(fused, '_is_fast', lambda dtype: False)
    plain, other = module.apply(variables, x, train=True,
                                mutable=['batch_stats'])
  np.testing.assert_allclose(plain, y, atol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
               other, new)


def test_under_vmap():
  x, scale, bias, kernel, dy = map(jnp.float32, _arrays(CASES[0]))
  def grads(kernel):
    return jax.grad(lambda *a: (fused._fast(True, *a)[0] * dy).sum(),
                    (0, 1, 2, 3))(x, scale, bias, kernel)
  kernels = jnp.stack([kernel, -kernel, 2 * kernel])
  many = jax.vmap(grads)(kernels)
  for i, one in enumerate(kernels):
    jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(
        a[i], b, atol=1e-4), many, grads(one))
