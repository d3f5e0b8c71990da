"""Averages of a network's weights over a training."""
import jax.numpy as jnp
import optax

from jaxaug.core import errors


def make(decay: float, start: int):
  """Returns average(ema, net, step): moves an average towards a network.

  `ema` is {'params', 'batch_stats'}, and so is what it gives.

  Args:
    decay: warmed up as min(decay, (1 + t) / (10 + t)),
    start: or 0 before this step, if it is not 0.
  """
  errors.between('ema_decay', decay, 0, 1)
  errors.count('ema_start', start, least=0)
  def average(ema, net, step):
    t = step.astype(jnp.float32)
    share = (jnp.where(step < start, 0., decay) if start else
             jnp.minimum(decay, (1 + t) / (10 + t)))
    return optax.incremental_update(
        {'params': net.params, 'batch_stats': net.stats}, ema, 1 - share)
  return average
