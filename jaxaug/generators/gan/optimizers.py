"""The optimizers of the two players."""
import typing

import jax
import jax.numpy as jnp
import optax

from jaxaug.core import errors


class Optimizers(typing.NamedTuple):
  """One for each player."""
  g: optax.GradientTransformation
  d: optax.GradientTransformation


def make(*, optimizer: str = 'adam', g_lr: float = 2e-4, d_lr: float = 2e-4,
         b1: float = 0.0, b2: float = 0.999, momentum: float = 0.0,
         momentum_growth: float = 0.0,
         momentum_limit: float = 0.7) -> Optimizers:
  """Returns the optimizers of both players.

  Args:
    optimizer: 'adam', 'rmsprop' (decay b2), or 'sgd' with a growing momentum.
    g_lr, d_lr: learning rates; two different ones are TTUR (Heusel et al.
      2017).
    b1, b2: Adam's.
    momentum, momentum_growth, momentum_limit: of 'sgd': at the start, more of
      it with each step, and at most. The gradient is damped by as much, as in
      Torch7.

  Raises:
    InputError: a value that cannot be.
  """
  errors.one_of('optimizer', optimizer, ('adam', 'rmsprop', 'sgd'))
  for name, rate in (('g_lr', g_lr), ('d_lr', d_lr)):
    errors.positive(name, rate)
  for name, share in (('b1', b1), ('b2', b2),
                      ('momentum_limit', momentum_limit)):
    errors.between(name, share, 0, 1, below=True)
  errors.between('momentum', momentum, 0, momentum_limit)
  errors.between('momentum_growth', momentum_growth, 0, 1)

  def at(rate):
    if optimizer == 'adam':
      return optax.adam(rate, b1, b2)
    if optimizer == 'rmsprop':
      return optax.rmsprop(rate, b2, eps_in_sqrt=False)
    return optax.chain(
        _growing_momentum(momentum, momentum_growth, momentum_limit),
        optax.scale(-rate))
  return Optimizers(at(g_lr), at(d_lr))


def _growing_momentum(first, growth, limit):
  """v <- m v + (1 - m) gradient, where m grows with the steps."""
  def init(params):
    return jnp.int32(0), jax.tree.map(jnp.zeros_like, params)

  def update(grads, state, params=None):
    del params
    step, v = state
    m = jnp.minimum(first + growth * step.astype(jnp.float32), limit)
    v = jax.tree.map(lambda v, g: m * v + (1 - m) * g, v, grads)
    return v, (step + 1, v)
  return optax.GradientTransformation(init, update)
