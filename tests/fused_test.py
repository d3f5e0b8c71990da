"""Norm, ReLU and convolution in one, against the plain three in float64."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxaug import convolution, fused

# (images, height, width, channels, features, kernel)
CASES = [(4, 8, 8, 5, 3, 3), (3, 5, 9, 4, 2, 3), (4, 7, 6, 9, 8, 1),
         (2, 6, 6, 3, 2, 5), (1, 8, 8, 4, 3, 3)]


def _arrays(case):
  batch, h, w, c, o, k = case
  rng = np.random.default_rng(sum(case))
  return (rng.normal(2, 3, (batch, h, w, c)), rng.uniform(.5, 2, c),
          rng.normal(size=c), rng.normal(size=(k, k, c, o)),
          rng.normal(size=(batch, h, w, o)))


def _plain(x, scale, bias, kernel, mean=None, var=None):
  if mean is None:
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
  z = jax.nn.relu((x - mean) / jnp.sqrt(var + 1e-5) * scale + bias)
  return lax.conv_general_dilated(z, kernel, (1, 1), 'SAME',
                                  dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def _agree(fast, plain, args, dy):
  """Values and all gradients, the plain ones in float64."""
  def graded(f):
    def loss(args):
      y = f(*args)
      return (y * dy).sum(), y
    return jax.jit(jax.value_and_grad(loss, has_aux=True))
  with jax.enable_x64(True):
    (_, want), wants = graded(plain)(jax.tree.map(jnp.float64, args))
  (_, got), gots = graded(fast)(jax.tree.map(jnp.float32, args))
  for a, b in zip(jax.tree.leaves((got, gots)), jax.tree.leaves((want, wants)),
                  strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())


@pytest.mark.parametrize('limit', [2 ** 19, 64], ids=['whole', 'in parts'])
@pytest.mark.parametrize('case', CASES, ids=str)
def test_values_and_gradients(case, limit, monkeypatch):
  monkeypatch.setattr(convolution, '_CHUNK', limit)
  *args, dy = _arrays(case)
  _agree(lambda *a: fused._fast(*a)[0], _plain, tuple(args), dy)


@pytest.mark.parametrize('limit', [2 ** 19, 64], ids=['whole', 'in parts'])
@pytest.mark.parametrize('batch', [4, 3, 1])
def test_dense_block(batch, limit, monkeypatch):
  """Three layers that share an array, against three that are put together."""
  monkeypatch.setattr(convolution, '_CHUNK', limit)
  rng, growth = np.random.default_rng(batch), 3
  x = rng.normal(1, 2, (batch, 6, 5, 4))
  weights = tuple(zip(*(
      (rng.uniform(.5, 2, c), rng.normal(size=c),
       rng.normal(size=(3, 3, c, growth)) / 3) for c in (4, 7, 10)),
      strict=True))
  def plain(x, *weights):
    for layer in zip(*weights, strict=True):
      x = jnp.concatenate([x, _plain(x, *layer)], -1)
    return x
  _agree(lambda *a: fused._dense(*a)[0], plain, (x, *weights),
         rng.normal(size=(batch, 6, 5, 13)))
  y, mean, var = fused._dense(*jax.tree.map(jnp.float32, (x, *weights)))
  np.testing.assert_allclose(mean, y.mean((0, 1, 2)), atol=1e-5)
  np.testing.assert_allclose(var, y.var((0, 1, 2)), rtol=1e-4)


def test_dense_block_is_the_same_on_other_backends():
  x = jnp.float32(np.random.default_rng(0).normal(size=(4, 6, 5, 4)))
  block = fused.DenseBlock(3, 5)
  variables = block.init(jax.random.key(0), x, train=False)
  def run(train):
    return block.apply(variables, x, train=train, mutable=['batch_stats'])
  with pytest.MonkeyPatch.context() as patch:
    fast, seen = run(True), run(False)
    patch.setattr(fused, '_is_fast', lambda dtype: False)
    plain, other = run(True), run(False)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
               (fast, seen), (plain, other))


@pytest.mark.parametrize('shape', [(4, 6, 4), (2, 7, 5), (3, 1, 2)], ids=str)
def test_transition(shape):
  """Means first, against means of the convolution, of odd sides too."""
  batch, h, w = shape
  *args, _ = _arrays((batch, h, w, 5, 4, 1))
  def means(x):
    """In numpy's way: a mean of what is there."""
    rows = [x[:, i:i + 2].mean(1) for i in range(0, h, 2)]
    x = jnp.stack(rows, 1)
    return jnp.stack([x[:, :, j:j + 2].mean(2) for j in range(0, w, 2)], 2)
  dy = np.random.default_rng(0).normal(
      size=(batch, (h + 1) // 2, (w + 1) // 2, 4))
  module = fused.Transition(4)
  def run(x, scale, bias, kernel, train=True):
    params = {'scale': scale, 'bias': bias, 'kernel': kernel}
    stats = {'mean': x.mean((0, 1, 2)), 'var': x.var((0, 1, 2))}
    return module.apply({'params': params, 'batch_stats': stats}, x,
                        train=train, mutable=['batch_stats'])[0]
  def plain(*args):
    return means(_plain(*args))
  _agree(run, plain, tuple(args), dy)
  args = jax.tree.map(jnp.float32, tuple(args))
  np.testing.assert_allclose(run(*args, train=False), plain(*args), atol=1e-4)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(fused, '_is_fast', lambda dtype: False)
    np.testing.assert_allclose(run(*args), plain(*args), atol=1e-4)


def test_dropout_of_a_transition_comes_before_the_means():
  x = jnp.float32(np.random.default_rng(0).normal(size=(8, 4, 4, 3)))
  module = fused.Transition(6, dropout=0.5)
  variables = module.init(jax.random.key(0), x, train=False)
  def run(train):
    return module.apply(variables, x, train=train, mutable=['batch_stats'],
                        rngs={'dropout': jax.random.key(1)})[0]
  # All four of a mean are dropped once in 16 times, one value every other time.
  y = run(True)
  assert 0 < (y == 0).mean() < 0.2
  assert not (run(False) == 0).any()
  assert jax.tree.map(jnp.shape, module.init(
      jax.random.key(0), x, train=True)) == jax.tree.map(jnp.shape, variables)


@pytest.mark.parametrize('case', CASES[:3], ids=str)
def test_module_learns_statistics_and_uses_them(case):
  x = jnp.float32(_arrays(case)[0])
  module = fused.NormReluConv(case[4], case[5])
  variables = module.init(jax.random.key(0), x, train=False)
  y, new = module.apply(variables, x, train=True, mutable=['batch_stats'])
  stats, params = new['batch_stats'], variables['params']
  np.testing.assert_allclose(stats['mean'], 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
  np.testing.assert_allclose(stats['var'], 0.9 + 0.1 * x.var((0, 1, 2)),
                             rtol=1e-4)
  args = params['scale'], params['bias'], params['kernel']
  np.testing.assert_allclose(y, _plain(x, *args), atol=1e-5)
  seen = module.apply({'params': params, 'batch_stats': stats}, x, train=False)
  np.testing.assert_allclose(seen, _plain(x, *args, **stats), atol=1e-5)
  # Half precision: of the convolution alone.
  half = fused.NormReluConv(case[4], case[5], dtype=jnp.bfloat16)
  z, _ = half.apply(variables, x, train=True, mutable=['batch_stats'])
  assert z.dtype == jnp.float32
  np.testing.assert_allclose(z, y, atol=0.03 * np.abs(y).max())
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
    return jax.grad(lambda *a: (fused._fast(*a)[0] * dy).sum(),
                    (0, 1, 2, 3))(x, scale, bias, kernel)
  kernels = jnp.stack([kernel, -kernel, 2 * kernel])
  many = jax.vmap(grads)(kernels)
  for i, one in enumerate(kernels):
    jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(
        a[i], b, atol=1e-4), many, grads(one))
