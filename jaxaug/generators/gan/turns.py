"""How the players take turns: how often D moves, who rests, what G hears."""
import typing

from jaxaug.core import errors
from jaxaug.generators.gan import penalties


class Turns(typing.NamedTuple):
  """See `turns`."""
  d_steps: int
  fresh_fakes: bool
  separate_passes: bool


def turns(*, d_steps: int = 1, fresh_fakes: bool = True,
          separate_passes: bool = False) -> Turns:
  """Returns how often D moves for one move of G, and on what.

  Args:
    d_steps: updates of D for one of G; each eats a batch of its own.
    fresh_fakes: False lets G learn from the fakes that the last D update saw
      (scored anew by the updated D), which saves one pass through G.
    separate_passes: D sees real and generated images one after the other, so
      that its batch norm has statistics of each; else together.
  """
  errors.count('d_steps', d_steps)
  errors.one_of('fresh_fakes', fresh_fakes, (False, True))
  errors.one_of('separate_passes', separate_passes, (False, True))
  return Turns(d_steps, fresh_fakes, separate_passes)


def balance(*, balance: str = 'none'):
  """Returns moves(parts, g_loss) -> (D moves, G moves); None for no rests.

  Args:
    balance: who rests: 'none', 'margin' or 'behind', see penalties.
  """
  errors.one_of('balance', balance, ('none', 'margin', 'behind'))
  def moves(parts, g_loss):
    if balance == 'margin':
      return penalties.margin(*parts)
    return penalties.behind(sum(parts), g_loss)
  return None if balance == 'none' else moves


def top_k(*, top_k: float = 1.0, top_k_gamma: float = 0.99,
          top_k_every: int = 1000):
  """Returns weights(step, scores [B]) of the fakes that G learns from, or None.

  Args:
    top_k, top_k_gamma, top_k_every: G learns from the best scored share of its
      fakes, which falls by the factor every so many steps and ends at top_k.
  """
  errors.between('top_k', top_k, 0, 1)
  errors.between('top_k_gamma', top_k_gamma, 0, 1)
  errors.count('top_k_every', top_k_every)
  def weights(step, scores):
    return None if top_k == 1 else penalties.top_k(
        scores, penalties.top_k_count(step, len(scores), top_k_gamma,
                                      top_k_every, top_k))
  return weights
