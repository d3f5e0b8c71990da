"""Adversarial losses: functions of the discriminator's scores.

Sources: non-saturating, Goodfellow et al. 2014; hinge, Lim and Ye 2017; least
squares, Mao et al. 2017, with targets 0 and 1; Wasserstein, Arjovsky et al.
2017, algorithm 1; one-sided label smoothing, Salimans et al. 2016.
"""
import typing

import jax
import jax.numpy as jnp

from jaxaug.core import errors


class Adversarial(typing.NamedTuple):
  """Losses over raw scores (before any sigmoid), float32 [B] -> [].

  discriminator(real_scores, fake_scores): what D minimises.
  generator(fake_scores, weights=None): what G minimises; with weights [B],
    their weighted mean.
  parts(real_scores, fake_scores): the two sums of `discriminator`, on real
    and on fake images.
  threshold: the score between 'fake' and 'real'.
  """
  discriminator: typing.Callable
  generator: typing.Callable
  parts: typing.Callable
  threshold: float = 0.0


def _adversarial(on_real, on_fake, of_generator, threshold=0.0) -> Adversarial:
  """From what each score costs: three functions [B] -> [B]."""
  def parts(real, fake):
    return on_real(real).mean(), on_fake(fake).mean()
  def generator(fake, weights=None):
    return jnp.average(of_generator(fake), weights=weights)
  return Adversarial(lambda real, fake: sum(parts(real, fake)), generator,
                     parts, threshold)


def hinge() -> Adversarial:
  """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))], and -E[D(G(z))]."""
  return _adversarial(lambda real: jax.nn.relu(1 - real),
                      lambda fake: jax.nn.relu(1 + fake), lambda fake: -fake)


def non_saturating(*, smoothing: float = 1.0) -> Adversarial:
  """Binary cross-entropy of D, and -E[log D(G(z))].

  Args:
    smoothing: D's target for real images; 0.9 is one-sided smoothing.
  """
  # -t log s(x) - (1 - t) log s(-x) = softplus(-x) + (1 - t) x
  return _adversarial(
      lambda real: jax.nn.softplus(-real) + (1 - smoothing) * real,
      jax.nn.softplus, lambda fake: jax.nn.softplus(-fake))


def least_squares(*, smoothing: float = 1.0) -> Adversarial:
  """E[(D(x) - 1)^2] / 2 + E[D(G(z))^2] / 2, and E[(D(G(z)) - 1)^2] / 2.

  Args:
    smoothing: D's target for real images; G's stays 1.
  """
  def to(target):
    return lambda scores: jnp.square(scores - target) / 2
  return _adversarial(to(smoothing), to(0.0), to(1.0), smoothing / 2)


def wasserstein() -> Adversarial:
  """E[D(G(z))] - E[D(x)], and -E[D(G(z))].

  Only differences of scores mean anything, the threshold at 0 does not; and D
  must be held Lipschitz by other means, such as
  `penalties.gradient_penalty`.
  """
  return _adversarial(lambda real: -real, lambda fake: fake, lambda fake: -fake)


LOSSES = {'hinge': hinge, 'non_saturating': non_saturating,
          'least_squares': least_squares, 'wasserstein': wasserstein}
_SMOOTHED = ('non_saturating', 'least_squares')


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
  if name in _SMOOTHED:
    return LOSSES[name](smoothing=smoothing)
  if smoothing != 1:
    raise errors.InputError(
        f'label_smoothing: loss {name!r} has no target to smooth; expected '
        f'1.0, or loss {" or ".join(_SMOOTHED)}.')
  return LOSSES[name]()


def accuracies(real: jax.Array, fake: jax.Array,
               threshold: float = 0.0) -> dict[str, jax.Array]:
  """D's share of right answers on each side; a score at the threshold is none.

  Args:
    real, fake: scores [B].
    threshold: of the loss, `Adversarial.threshold`.
  """
  return {'d_accuracy_real': jnp.mean(real > threshold),
          'd_accuracy_fake': jnp.mean(fake < threshold)}
