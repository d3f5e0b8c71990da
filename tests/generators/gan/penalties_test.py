"""Penalties against float64 derivatives, and the rules against plain loops."""
import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxaug.core import types
from jaxaug.generators import cgan
from jaxaug.generators.gan import losses, penalties
from jaxaug.nn import layers
from tests import quick

RNG = np.random.default_rng(0)
REAL, FAKE = RNG.uniform(-1, 1, (2, 2, 5, 4, 3)).astype(np.float32)
KEY = jax.random.key(0)
STEP = 1e-30  # A complex step has no rounding to fear.


class _Critic(nn.Module):
  """Smooth, with a convolution of each kind that D may have."""
  kernels = ((3, 2, 3), (4, 1, 2), (1, 1, 2))  # Side, stride, channels.

  @nn.compact
  def __call__(self, x):
    for side, stride, channels in self.kernels:
      x = jnp.tanh(layers.Conv(channels, (side, side), (stride, stride))(x))
    return nn.Dense(1)(x.reshape(x.shape[0], -1))[:, 0]


@functools.cache
def _critic():
  """params with biases too, and the same in float64."""
  params = quick.jit(_Critic().init)(KEY, REAL)['params']
  rng = np.random.default_rng(1)
  params = jax.tree.map(lambda w: (w + rng.normal(0, 0.2, w.shape)).astype(
      np.float32), jax.tree.map(np.asarray, params))
  return params, jax.tree.map(lambda w: w.astype(np.float64), params)


def _score(params):
  return lambda images: _Critic().apply({'params': params}, images)


def _numpy_score(params, x):
  """The critic once more, of real or complex images."""
  for i, (side, stride, _) in enumerate(_Critic.kernels):
    pads = []
    for n in x.shape[1:3]:
      total = max((-(-n // stride) - 1) * stride + side - n, 0)
      pads.append((total // 2, total - total // 2))
    x = np.pad(x, ((0, 0), *pads, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), (1, 2))
    weights = params[f'Conv_{i}']
    x = np.tanh(np.einsum('byxchw,hwco->byxo', windows[:, ::stride, ::stride],
                          weights['kernel']) + weights['bias'])
  out = x.reshape(len(x), -1) @ params['Dense_0']['kernel']
  return out[:, 0] + params['Dense_0']['bias']


def _numpy_norms(params, images):
  """|d(score)/d(image)| by a complex step to every pixel."""
  images = images.astype(np.float64)
  pixels = images[0].size
  steps = 1j * STEP * np.eye(pixels).reshape(pixels, *images.shape[1:])
  scores = _numpy_score(params, (images[:, None] + steps).reshape(
      -1, *images.shape[1:]))
  return np.linalg.norm(scores.imag.reshape(-1, pixels) / STEP, axis=1)


def _differences(function, params, step=1e-5):
  """d(function)/d(params), one weight after the other."""
  def each(leaf):
    out = np.empty_like(leaf)
    for at in np.ndindex(leaf.shape):
      old, values = leaf[at], []
      for sign in (1, -1):
        leaf[at] = old + sign * step
        values.append(function(params))
      leaf[at] = old
      out[at] = (values[0] - values[1]) / (2 * step)
    return out
  params = jax.tree.map(np.copy, params)
  return jax.tree.map(each, params)


def _assert_close(got, want):
  scale = max(np.abs(w).max() for w in jax.tree.leaves(want))
  assert scale > 1e-2
  jax.tree.map(lambda g, w: np.testing.assert_allclose(
      g, w, rtol=1e-4, atol=2e-6 * scale), got, want)


def test_the_critic_is_the_fast_convolution_and_the_reference_the_same():
  params, wide = _critic()
  jaxpr = str(jax.make_jaxpr(_score(params))(REAL))
  assert jaxpr.count('jaxaug_convolution') >= len(_Critic.kernels)
  np.testing.assert_allclose(quick.jit(_score(params))(REAL), _numpy_score(
      wide, REAL.astype(np.float64)), rtol=1e-5)


def test_r1_and_its_gradient():
  params, wide = _critic()
  def want(params):
    return np.square(_numpy_norms(params, REAL)).mean()
  got, grads = quick.jit(jax.value_and_grad(
      lambda params: penalties.r1(_score(params), REAL)))(params)
  assert got.dtype == jnp.float32 and got.shape == ()
  np.testing.assert_allclose(got, want(wide), rtol=1e-5)
  _assert_close(grads, _differences(want, wide))


def test_gradient_penalty_and_its_gradient():
  params, wide = _critic()
  seen = []
  def watched(images):
    jax.debug.callback(lambda x: seen.append(np.asarray(x)), images)
    return _score(params)(images)
  penalties.gradient_penalty(KEY, watched, REAL, FAKE).block_until_ready()
  jax.effects_barrier()
  def want(params):
    return np.square(_numpy_norms(params, seen[0]) - 1).mean()
  got, grads = quick.jit(jax.value_and_grad(
      lambda params: penalties.gradient_penalty(
          KEY, _score(params), REAL, FAKE)))(params)
  assert got.dtype == jnp.float32 and got.shape == ()
  np.testing.assert_allclose(got, want(wide), rtol=1e-5)
  _assert_close(grads, _differences(want, wide))


def test_mixing_is_uniform_and_one_for_each_image():
  real, fake = np.broadcast_to(np.float32([[3.], [-1.]]).reshape(2, 1, 1, 1, 1),
                               (2, 2000, 2, 3, 1))
  seen = []
  def watched(images):
    jax.debug.callback(lambda x: seen.append(np.asarray(x)), images)
    return images.sum((1, 2, 3))
  penalties.gradient_penalty(KEY, watched, real, fake).block_until_ready()
  jax.effects_barrier()
  share = (seen[0] + 1) / 4
  np.testing.assert_array_equal(share, np.broadcast_to(share[:, :1, :1],
                                                       share.shape))
  assert stats.kstest(share[:, 0, 0, 0], 'uniform').pvalue > 1e-6


@pytest.mark.parametrize('penalty, want', [
    (lambda score: penalties.r1(score, REAL), 0),
    (lambda score: penalties.gradient_penalty(KEY, score, REAL, FAKE), 1)])
def test_a_flat_critic_has_a_penalty_and_finite_gradients(penalty, want):
  def value(weights):
    return penalty(lambda x: (weights * x).sum((1, 2, 3)))
  run = quick.jit(jax.value_and_grad(value))
  got, grad = run(np.zeros(REAL.shape[1:], np.float32))
  assert got == want
  np.testing.assert_array_equal(grad, 0)
  # Just beside it, both are closed forms: |w|^2 and (|w| - 1)^2.
  weights = np.full(REAL.shape[1:], 0.25, np.float32)
  norm = 0.25 * np.sqrt(weights.size)
  got, grad = run(weights)
  np.testing.assert_allclose(got, (norm - want) ** 2, rtol=1e-6)
  np.testing.assert_allclose(grad, 2 * (norm - want) * weights / norm,
                             rtol=1e-5)


def test_a_real_discriminator_as_with_the_stock_convolution(monkeypatch):
  spec = types.ImageSpec(28, 28, 1, 10)
  net = cgan.Discriminator(spec, (6, 8), 5, 4, 'concat', True, 0.0,
                           jnp.float32)
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.uniform(-1, 1, (6, 28, 28, 1)), jnp.float32)
  labels = jnp.arange(6)
  variables = quick.jit(lambda: net.init(KEY, images, labels, train=False))()
  def value(params, images):
    return penalties.r1(lambda x: net.apply(
        variables | {'params': params}, x, labels, train=False), images)
  def grads():
    traced = quick.jit(jax.grad(lambda *args: value(*args), (0, 1))).trace(
        variables['params'], images)
    return traced.lower().compile()(variables['params'], images), str(
        traced.jaxpr)
  got, fast = grads()
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  want, stock = grads()
  assert 'jaxaug_convolution' in fast and 'jaxaug_convolution' not in stock
  _assert_close(*({**params, 'images': grad * 100} for params, grad in
                  (got, want)))


def test_half_precision_inside_gives_float32():
  params, _ = _critic()
  half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), params)
  def score(images):
    return _score(half)(images.astype(jnp.bfloat16))
  def both(score):
    return quick.jit(lambda: (penalties.r1(score, REAL),
                              penalties.gradient_penalty(KEY, score, REAL,
                                                         FAKE)))()
  for got, want in zip(both(score), both(_score(params)), strict=True):
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=0.1)


# ---- LeCam ----

def test_lecam_is_its_formula():
  real, fake = RNG.normal(0.3, 2, (2, 50)).astype(np.float32)
  state = penalties.LeCam(jnp.float32(0.7), jnp.float32(-0.4))
  r, f = real.astype(np.float64), fake.astype(np.float64)
  want = (np.maximum(r + 0.4, 0) ** 2).mean() + (
      np.maximum(0.7 - f, 0) ** 2).mean()
  got, grads = quick.jit(jax.value_and_grad(penalties.lecam, (0, 1)))(
      real, fake, state)
  np.testing.assert_allclose(got, want, rtol=1e-6)
  np.testing.assert_allclose(grads[0], 2 * np.maximum(r + 0.4, 0) / 50,
                             rtol=1e-5, atol=1e-8)
  np.testing.assert_allclose(grads[1], -2 * np.maximum(0.7 - f, 0) / 50,
                             rtol=1e-5, atol=1e-8)


def test_lecam_takes_its_averages_as_constants():
  scores = jnp.asarray(RNG.normal(size=(2, 20)), jnp.float32)
  state = penalties.LeCam(scores[0].mean(), scores[1].mean())
  def own(scores):
    start = penalties.LeCam(jnp.zeros(()), jnp.zeros(()))
    moved = penalties.lecam_update(start, *scores.mean(1), 0.0)
    return penalties.lecam(*scores, moved)
  np.testing.assert_array_equal(
      jax.grad(own)(scores),
      jax.grad(lambda scores: penalties.lecam(*scores, state))(scores))


def test_lecam_averages_copy_until_they_start():
  means = RNG.normal(size=(30, 2)).astype(np.float32)
  state = penalties.LeCam(jnp.float32(9), jnp.float32(9))
  update = jax.jit(penalties.lecam_update)
  want = np.zeros(2)
  for i, pair in enumerate(means):
    state = update(state, *pair, jnp.where(i < 10, 0, 0.9))
    want = pair if i < 10 else 0.9 * want + 0.1 * pair
    np.testing.assert_allclose(state, want, rtol=1e-5, atol=1e-6)
  assert update._cache_size() == 1


# ---- consistency, top-k ----

def test_consistency_is_mse_and_pulls_both():
  torch = pytest.importorskip('torch')
  a, b = (torch.tensor(x, dtype=torch.float64, requires_grad=True)
          for x in RNG.normal(size=(2, 40)))
  want = torch.nn.functional.mse_loss(a, b)
  want.backward()
  got, grads = quick.jit(jax.value_and_grad(penalties.consistency, (0, 1)))(
      *(jnp.float32(x.detach().numpy()) for x in (a, b)))
  np.testing.assert_allclose(got, want.item(), rtol=1e-6)
  for g, x in zip(grads, (a, b), strict=True):
    np.testing.assert_allclose(g, x.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('name', losses.LOSSES)
def test_top_k_is_the_loss_of_the_k_highest_alone(name):
  scores = RNG.normal(size=40).astype(np.float32)
  loss = losses.make(loss=name)
  top = quick.jit(jax.value_and_grad(lambda scores, k: loss.generator(
      scores, penalties.top_k(scores, k))))
  for k in (1, 17, 40):
    best = np.argsort(scores)[-k:]
    got, grad = top(scores, k)
    np.testing.assert_allclose(got, loss.generator(scores[best]), rtol=1e-5)
    want = np.zeros(40)
    want[best] = quick.jit(jax.grad(loss.generator))(scores[best])
    np.testing.assert_allclose(grad, want, rtol=1e-5)
  assert top._cache_size() == 1


def test_top_k_of_equals_is_exactly_k():
  scores = np.float32([1, 3, 3, -2, 3, 1])
  for k, want in enumerate(([0, 1, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0],
                            [0, 1, 1, 0, 1, 0], [1, 1, 1, 0, 1, 0],
                            [1, 1, 1, 0, 1, 1], [1] * 6), 1):
    got = penalties.top_k(scores, k)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('batch, gamma, every, nu', [
    (64, 0.99, 10, 0.5), (100, 0.9, 1, 0.75), (7, 0.5, 3, 0.1),
    (5, 1.0, 1, 0.5), (50, 0.5, 4, 0.02), (3, 0.1, 1, 0.1)])
def test_the_count_falls_as_a_loop_does(batch, gamma, every, nu):
  count = jax.jit(lambda step: penalties.top_k_count(step, batch, gamma, every,
                                                     nu))
  k = float(batch)
  for step in range(60):
    if step and step % every == 0:
      k = max(gamma * k, nu * batch)
    got = count(step)
    assert got.dtype == jnp.int32 and int(got) == max(1, int(k + 1e-9)), step
  assert int(penalties.top_k_count(5, batch, gamma, every, nu)) == count(5)


# ---- balance ----

def test_the_margin_rule():
  margin = quick.jit(penalties.margin)
  for real, fake in itertools.product((0.1, 0.29, 0.3, 0.5, 0.7, 0.71, 2.0),
                                      repeat=2):
    train_d, train_g = True, True
    if real < 0.3 or fake < 0.3:
      train_d = False
    if real > 0.7 or fake > 0.7:
      train_g = False
    if not train_d and not train_g:
      train_d = train_g = True
    for function in (penalties.margin, margin):
      got = function(np.float32(real), np.float32(fake))
      assert [bool(x) for x in got] == [train_d, train_g], (real, fake)
  got = penalties.margin(0.15, 0.5, low=0.1, high=0.4)
  assert [bool(x) for x in got] == [True, False]


@pytest.mark.parametrize('d_loss, g_loss, want', [
    (0.2, 1.0, [False, True]), (1.0, 0.2, [True, False]),
    (0.5, 0.5, [True, True]), (float('nan'), 0.5, [True, True])])
def test_the_one_behind_moves(d_loss, g_loss, want):
  for function in (penalties.behind, jax.jit(penalties.behind)):
    assert [bool(x) for x in function(d_loss, g_loss)] == want
