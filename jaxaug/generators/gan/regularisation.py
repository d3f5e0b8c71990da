"""What D's loss has beside the adversarial part, by the flat keys of a config.

Each function returns its Regulariser, or None where it weighs nothing. The
penalties and their papers are in penalties.py.
"""
import math
import typing

import jax
import jax.numpy as jnp

from jaxaug.core import errors
from jaxaug.generators.gan import penalties


class Seen(typing.NamedTuple):
  """What a regulariser sees of one update of D."""
  turn: typing.Any         # step.Turn: real images, what is remembered, keys.
  fake: jax.Array          # [B, H, W, C].
  scores: typing.Any       # step.Scores, of images augmented.
  score: typing.Callable   # Images [B, H, W, C], augmented here, -> scores [B].
  plain: typing.Callable   # The same without.


class Regulariser(typing.NamedTuple):
  """Terms of D's loss, and what they remember.

  terms(seen) -> float32 [] each. start() -> control.
  after(control, step, scores) -> control.
  """
  terms: typing.Callable
  start: typing.Callable = dict
  after: typing.Callable = lambda control, step, scores: control


def r1(*, r1: float = 0.0, r1_every: int = 1) -> Regulariser | None:
  """R1.

  Args:
    r1: gamma of R1, whose penalty is gamma / 2 times it.
    r1_every: steps between two R1 penalties, which then count as many times.
  """
  errors.between('r1', r1, 0, math.inf)
  errors.count('r1_every', r1_every)
  def terms(seen):
    def penalty():
      return r1 / 2 * r1_every * penalties.r1(seen.score, seen.turn.real)
    return [penalty() if r1_every == 1 else jax.lax.cond(
        seen.turn.step % r1_every == 0, penalty, lambda: jnp.float32(0))]
  return Regulariser(terms) if r1 else None


# The axes of [B, H, W, C] over which the gradient penalty's norms are.
NORMS = {'image': (1, 2, 3), 'pixel': (3,), 'column': (1,)}


def gradient_penalty(*, gradient_penalty: float = 0.0,
                     gradient_penalty_per: str = 'image',
                     ) -> Regulariser | None:
  """The gradient penalty.

  Args:
    gradient_penalty: its weight, 10 in the paper.
    gradient_penalty_per: what has a norm of its own: the 'image', as in the
      paper; the 'pixel', over its channels, as in SinGAN's code; or each
      'column' of pixels of a channel, as in DAGAN's code.
  """
  errors.between('gradient_penalty', gradient_penalty, 0, math.inf)
  errors.one_of('gradient_penalty_per', gradient_penalty_per, NORMS)
  def terms(seen):
    return [gradient_penalty * penalties.gradient_penalty(
        seen.turn.keys.penalty, seen.score, seen.turn.real, seen.fake,
        NORMS[gradient_penalty_per])]
  return Regulariser(terms) if gradient_penalty else None


def lecam(*, lecam: float = 0.0, lecam_start: int = 1000,
          lecam_decay: float = 0.99) -> Regulariser | None:
  """LeCam.

  Args:
    lecam, lecam_start, lecam_decay: LeCam's weight, 0.3 in the paper's code;
      the step of its first penalty; the decay of its averages.
  """
  errors.between('lecam', lecam, 0, math.inf)
  errors.count('lecam_start', lecam_start, least=0)
  errors.between('lecam_decay', lecam_decay, 0, 1, below=True)
  def terms(seen):
    scores, turn = seen.scores, seen.turn
    return [lecam * (turn.step >= lecam_start) * penalties.lecam(
        scores.real, scores.fake, turn.control['lecam'])]
  def start():
    # Two buffers: the state is donated.
    return {'lecam': penalties.LeCam(jnp.float32(0), jnp.float32(0))}
  def after(control, step, scores):
    decay = jnp.where(step >= lecam_start, lecam_decay, 0.)
    return control | {'lecam': penalties.lecam_update(
        control['lecam'], scores.real.mean(), scores.fake.mean(), decay)}
  return Regulariser(terms, start, after) if lecam else None


def consistency(*, consistency: float = 0.0,
                consistency_on_fakes: float = 0.0) -> Regulariser | None:
  """CR and bCR.

  Args:
    consistency, consistency_on_fakes: weights between scores with and without
      DiffAugment or ADA, of real images (CR) and of fakes (with it, bCR).
  """
  errors.between('consistency', consistency, 0, math.inf)
  errors.between('consistency_on_fakes', consistency_on_fakes, 0, math.inf)
  def terms(seen):
    return [weight * penalties.consistency(seen.plain(images), scores)
            for weight, images, scores in (
                (consistency, seen.turn.real, seen.scores.real),
                (consistency_on_fakes, seen.fake, seen.scores.fake)) if weight]
  return Regulariser(terms) if consistency or consistency_on_fakes else None


ALL = r1, gradient_penalty, lecam, consistency
