"""Stub players that keep what they are given, and their rule in float64.

D has 64 weights, so that its whole loss can be written once more and
differentiated by differences. SGD at a rate of 1 without momentum shows the
gradient: it is old minus new weights.
"""
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from jaxaug.core import types
from jaxaug.generators.gan import gan
from tests import quick

SPEC = types.ImageSpec(4, 2, 1, 3)
SIZE = 6
KEY = jax.random.key(0)
SHAPES = {'in': (8, 4), 'label': (3, 4), 'out': (4,), 'bias': (),
          'class': (4, 3)}
# What a score costs: of a real image, of a fake one to D, and to G.
COSTS = {
    'hinge': (lambda x: np.maximum(0, 1 - x), lambda x: np.maximum(0, 1 + x),
              lambda x: -x),
    'non_saturating': (lambda x: np.logaddexp(0, -x),
                       lambda x: np.logaddexp(0, x),
                       lambda x: np.logaddexp(0, -x)),
    'least_squares': (lambda x: (x - 1) ** 2 / 2, lambda x: x ** 2 / 2,
                      lambda x: (x - 1) ** 2 / 2),
    'wasserstein': (lambda x: -x, lambda x: x, lambda x: -x),
}


def flat(tree):
  """{path: array}."""
  return {jax.tree_util.keystr(path, simple=True, separator='/'):
          np.asarray(leaf)
          for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _keep(module, train, **values):
  """Keeps what a pass is given, and what the one before was, and counts."""
  passes = module.variable('batch_stats', 'passes', jnp.zeros, ())
  for name, value in values.items():
    last, before = (module.variable(
        'batch_stats', f'{name}_{age}', jnp.zeros, value.shape)
        for age in ('last', 'before'))
    if train:
      before.value, last.value = last.value, value.astype(jnp.float32)
  if train:
    passes.value += 1


class G(nn.Module):
  """Images are noise times a gain."""

  @nn.compact
  def __call__(self, z, labels, train: bool):
    gain = self.param('gain', nn.initializers.ones, (8,))
    _keep(self, train, z=z)
    return (gain * z).reshape(-1, 4, 2, 1)


class D(nn.Module):
  """One hidden layer."""
  classes: bool = False

  @nn.compact
  def __call__(self, x, labels, train: bool):
    _keep(self, train, x=x, labels=labels)
    w = {name: self.param(name, nn.initializers.normal(0.5), shape)
         for name, shape in SHAPES.items()}
    hidden = jnp.tanh(x.reshape(len(x), -1) @ w['in'] + w['label'][labels])
    scores = hidden @ w['out'] + w['bias']
    return (scores, hidden @ w['class']) if self.classes else scores


class PairG(nn.Module):
  """Images are the given ones times a gain."""

  @nn.compact
  def __call__(self, z, labels, given, train: bool):
    _keep(self, train, given=given, labels=labels)
    return self.param('gain', nn.initializers.ones, ()) * given


class PairD(nn.Module):
  """The score is a weighted sum of the image's pixels."""

  @nn.compact
  def __call__(self, x, labels, given, train: bool):
    _keep(self, train, x=x, given=given)
    w = self.param('w', nn.initializers.ones, x.shape[1:])
    return (w * x).sum((1, 2, 3))


def pair_model(spec, size, **rule):
  """Players that are given pairs, and a state for batches of `size`."""
  made = gan.make(spec, PairG(), PairD(), None, True, z_dim=8, **rule)
  state = quick.jit(made.init)(KEY)
  return made, state._replace(
      g=state.g._replace(stats=grow(state.g.stats, size)),
      d=state.d._replace(stats=grow(state.d.stats, 2 * size)),
      ema=state.ema | {'batch_stats': grow(state.g.stats, size)})


def grow(stats, rows):
  """What is kept, for batches of so many rows."""
  return {k: jnp.zeros((rows, *v.shape[1:]) if v.ndim else ())
          for k, v in stats.items()}


def model(classes=False, size=SIZE, **rule):
  """The stub players, at a rate of 1, and a state for batches of `size`."""
  rule = {'optimizer': 'sgd', 'g_lr': 1.0, 'd_lr': 1.0} | rule
  made = gan.make(SPEC, G(), D(classes), z_dim=8, **rule)
  state = quick.jit(made.init)(KEY)
  g, d = state.g, state.d
  return made, state._replace(
      g=g._replace(stats=grow(g.stats, size)),
      d=d._replace(stats=grow(d.stats, 2 * size)),
      ema=state.ema | {'batch_stats': grow(g.stats, size)})


def batch(seed=0, d_steps=1, size=SIZE):
  """A batch of random images."""
  rng = np.random.default_rng(seed)
  return {'image': rng.integers(0, 256, (d_steps, size, 4, 2, 1), np.uint8),
          'label': rng.integers(0, 3, (d_steps, size)).astype(np.int32)}


def real(batch, k=0):
  """Its images as floats."""
  return batch['image'][k].astype(np.float32) / 127.5 - 1


def image(z):
  """What a G makes of noise that has not moved yet."""
  return np.asarray(z).reshape(-1, 4, 2, 1)


def wide(params):
  """Weights as float64."""
  return {name: np.array(value, np.float64) for name, value in params.items()}


def hidden(w, x, labels):
  """D's hidden layer, float64 [B, 4]."""
  return np.tanh(x.reshape(len(x), -1) @ w['in'] + w['label'][labels])


def scores(w, x, labels):
  """D's scores, [B]."""
  return hidden(w, x, labels) @ w['out'] + w['bias']


def slopes(w, x, labels):
  """d(score)/d(image), [B, 8]."""
  inner = (1 - hidden(w, x, labels) ** 2) * w['out']
  return inner @ w['in'].T


def cross_entropy(w, x, labels):
  """Of D's classes, []."""
  logits = hidden(w, x, labels) @ w['class']
  own = np.take_along_axis(logits, labels[:, None], 1)[:, 0]
  return (special.logsumexp(logits, axis=1) - own).mean()


class Seen(typing.NamedTuple):
  """What one step gave to D and to G, float64."""
  w: dict             # D's weights before the step.
  real: np.ndarray
  fake: np.ndarray
  shown: tuple        # The same two, augmented.
  labels: np.ndarray
  z: np.ndarray       # Of G's own pass.


def seen(before, after, batch):
  """What a step from `before` to `after` gave."""
  z, own = (np.array(after.g.stats[k], np.float64)
            for k in ('z_before', 'z_last'))
  gain = np.array(before.g.params['gain'], np.float64)
  shown = np.split(np.array(after.d.stats['x_last'], np.float64), 2)
  return Seen(wide(before.d.params), batch['image'][0] / 127.5 - 1,
               (gain * z).reshape(-1, 4, 2, 1), shown, batch['label'][0], own)


def d_source(seen, w, loss='hinge'):
  """D's adversarial loss."""
  return sum(cost(scores(w, x, seen.labels)).mean()
             for cost, x in zip(COSTS[loss], seen.shown, strict=False))


def differences(loss, w):
  """Float64 central differences of loss(w)."""
  slopes = {}
  for name, value in w.items():
    slopes[name] = np.zeros(value.shape)
    for at in np.ndindex(value.shape):
      ends = []
      for by in 1e-5, -1e-5:
        moved = value.copy()
        moved[at] += by
        ends.append(loss(w | {name: moved}))
      slopes[name][at] = (ends[0] - ends[1]) / 2e-5
  return slopes


def assert_gradient(before, after, want):
  """The players' last step, at a rate of 1, was along `want`."""
  for name, value in want.items():
    got = np.array(before[name], np.float64) - np.array(after[name])
    np.testing.assert_allclose(got, value, atol=2e-6, rtol=2e-5, err_msg=name)


def run(model, state, steps, step=None):
  """Yields (step, state before, state after, batch, logs)."""
  step = step or quick.jit(model.step)
  for i in range(steps):
    given = batch(i, model.d_steps)
    after, logs = step(state, given, KEY)
    yield i, state, after, given, logs
    state = after
