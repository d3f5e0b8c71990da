"""DenseNet: the paper's parameter counts, and its block in PyTorch."""
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.classifiers import densenet
from jaxaug.core import errors, registry, types
from tests import quick
from tests.torch_twins import classifiers

CIFAR10 = types.ImageSpec(32, 32, 3, 10)


def _build(spec=CIFAR10, **given):
  return registry.build('classifiers', 'densenet', given, 'x', spec)


def _count(spec, **given):
  made = jax.eval_shape(lambda x: _build(spec, **given).init(
      jax.random.key(0), x, train=False), jnp.zeros((1, *spec[:3])))
  return sum(x.size for x in jax.tree.leaves(made['params']))


@pytest.mark.parametrize('classes, given, count', [
    (10, {}, 1_019_722),
    (100, {}, 1_060_132),
    (10, {'stem': 24}, 1_059_298),
    (10, {'depth': 100, 'bottleneck': True, 'reduction': 0.5, 'stem': 24},
     769_162),
])
def test_parameters(classes, given, count):
  assert _count(CIFAR10._replace(num_classes=classes), **given) == count


@pytest.mark.parametrize('given, million', [
    ({'depth': 100, 'growth': 24}, 27.2),
    pytest.param({'depth': 250, 'growth': 24, 'bottleneck': True,
                  'reduction': 0.5, 'stem': 48}, 15.3, marks=pytest.mark.slow)])
def test_parameters_of_table_2(given, million):
  count = _count(CIFAR10, **given)
  assert abs(count / 1e6 - million) <= 0.06


@pytest.mark.parametrize('given, key', [
    ({'depth': 41}, 'depth'), ({'depth': 4}, 'depth'),
    ({'depth': 43, 'bottleneck': True}, 'depth'),
    ({'reduction': 0.0}, 'reduction'), ({'reduction': 1.5}, 'reduction')],
                         ids=str)
def test_refusals(given, key):
  with pytest.raises(errors.InputError, match=rf'^x\.{key}: ') as e:
    _build(**given)
  assert '\n' not in str(e.value)


@pytest.mark.parametrize('given', [
    {'depth': 10, 'growth': 5},
    {'depth': 10, 'growth': 4, 'bottleneck': True, 'reduction': 0.5}], ids=str)
def test_logits_and_gradients_are_those_of_torch(given):
  network = _build(types.ImageSpec(8, 12, 3, 4), **given)
  images = np.random.default_rng(0).uniform(-1, 1, (5, 8, 12, 3))
  classifiers.check(network, classifiers.variables(network)['params'],
                    np.float32(images))


def test_dropout_takes_the_plain_way_and_drops():
  network = _build(types.ImageSpec(8, 8, 1, 2), depth=7, growth=4, dropout=0.5)
  x = jnp.ones((2, 8, 8, 1))
  variables = classifiers.variables(network)
  train = quick.jit(lambda key: network.apply(
      variables, x, train=True, mutable=['batch_stats'],
      rngs={'dropout': key})[0])
  one, again, other = map(train, jax.random.split(jax.random.key(0))[
      jnp.array([0, 0, 1])])
  np.testing.assert_array_equal(one, again)
  assert not np.array_equal(one, other)
  # Without training it asks for no key.
  jax.eval_shape(lambda: network.apply(variables, x, train=False))


def test_norm_is_flax_batch_norm_in_training_and_after():
  rng = np.random.default_rng(0)
  norms = densenet.Norm(), nn.BatchNorm(momentum=0.9, epsilon=1e-5)
  @quick.jit
  def run(batches):
    states = [norm.init(jax.random.key(0), jnp.zeros((1, 1, 1, 7)), True)
              for norm in norms]
    out = []
    for x in batches:
      both = [norm.apply(state, x, train, mutable=['batch_stats'])
              for norm, state, train in zip(norms, states, (True, False),
                                            strict=True)]
      states = [state | new for state, (_, new) in zip(states, both,
                                                       strict=True)]
      out.append(([y for y, _ in both], states))
    return out, (norms[0].apply(states[0], x, False),
                 norms[1].apply(states[1], x, True))
  out, last = run(rng.normal(3, 2, (2, 6, 5, 4, 7)).astype(np.float32))
  for (got, want), states in out:
    np.testing.assert_allclose(got, want, atol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-5)
  np.testing.assert_allclose(*last, atol=1e-5)


def test_norm_of_a_channel_that_never_changes_is_finite():
  """A mean of squares less the mean's square rounds below zero."""
  x = np.float32(np.full((7, 5, 3, 64), 1000.0) + np.linspace(0, 1, 64))
  norm = densenet.Norm()
  @quick.jit
  def run(x):
    state = norm.init(jax.random.key(0), x, False)
    return (norm.apply(state, x, True, mutable=['batch_stats'])[0],
            densenet.moments(jnp.ones((2, 3, 3, 4), jnp.bfloat16)))
  got, (mean, var) = run(x)
  assert np.isfinite(got).all()
  assert mean.dtype == var.dtype == jnp.float32 and not var.any()


def test_a_transition_drops_what_its_convolution_gives():
  part = densenet.Transition(4, 0.5, jnp.float32)
  x = np.random.default_rng(0).normal(size=(1, 4, 4, 8)).astype(np.float32)
  @quick.jit
  def run(init, drop):
    state = part.init(init, x, False)
    return part.apply(state, x, True, rngs={'dropout': drop},
                      mutable=['batch_stats'])[0]
  a, b = (run(jax.random.key(0), jax.random.key(k)) for k in (0, 1))
  assert not np.array_equal(a, b)
