"""Adversarial losses: pairs of functions of the discriminator's scores.

Sources: non-saturating, Goodfellow et al. 2014; hinge, Lim and Ye 2017;
one-sided label smoothing, Salimans et al. 2016.
"""
import typing

import jax
import jax.numpy as jnp

from jaxaug import errors


class Adversarial(typing.NamedTuple):
  """Two losses over raw scores (before any sigmoid), each float32 [B] -> [].

  discriminator(real_scores, fake_scores): what D minimises.
  generator(fake_scores): what G minimises.
  """
  discriminator: typing.Callable
  generator: typing.Callable


def hinge() -> Adversarial:
  """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))], and -E[D(G(z))]."""
  return Adversarial(
      lambda real, fake: (jax.nn.relu(1 - real).mean()
                          + jax.nn.relu(1 + fake).mean()),
      lambda fake: -fake.mean())


def non_saturating(*, smoothing: float = 1.0) -> Adversarial:
  """Binary cross-entropy of D, and -E[log D(G(z))].

  Args:
    smoothing: D's target for real images; 0.9 is one-sided smoothing.
  """
  def discriminator(real, fake):
    # -t log s(x) - (1 - t) log s(-x) = softplus(-x) + (1 - t) x
    on_real = jax.nn.softplus(-real) + (1 - smoothing) * real
    return on_real.mean() + jax.nn.softplus(fake).mean()
  return Adversarial(discriminator,
                     lambda fake: jax.nn.softplus(-fake).mean())


LOSSES = {'hinge': hinge, 'non_saturating': non_saturating}


def find(name: str, smoothing: float = 1.0) -> Adversarial:
  """Returns the adversarial loss `name`.

  Raises:
    InputError: an unknown name, smoothing outside (0.5, 1], or smoothing of a
      loss that has no target to smooth.
  """
  errors.one_of('loss', name, LOSSES)
  if not 0.5 < smoothing <= 1:
    raise errors.InputError(
        f'label_smoothing: {smoothing} is the target of a real image; '
        'expected more than 0.5 and at most 1.')
  if name == 'non_saturating':
    return non_saturating(smoothing=smoothing)
  if smoothing != 1:
    raise errors.InputError(
        f'label_smoothing: loss {name!r} has no target to smooth; expected '
        '1.0, or loss non_saturating.')
  return LOSSES[name]()


def accuracies(real: jax.Array, fake: jax.Array) -> dict[str, jax.Array]:
  """D's share of right answers on each side, the threshold at score 0."""
  return {'d_accuracy_real': jnp.mean(real > 0),
          'd_accuracy_fake': jnp.mean(fake < 0)}
