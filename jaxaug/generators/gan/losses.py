"""Losses of the two players: functions of the discriminator's outputs.

Sources: non-saturating, Goodfellow et al. 2014; hinge, Lim and Ye 2017; least
squares, Mao et al. 2017, with targets 0 and 1; Wasserstein, Arjovsky et al.
2017, algorithm 1; one-sided label smoothing, Salimans et al. 2016; auxiliary
classifier, Odena et al. 2017.
"""
import math
import typing

import jax
import jax.numpy as jnp
import optax

from jaxaug.core import errors


class Adversarial(typing.NamedTuple):
  """Losses over raw scores (before any sigmoid), float32 [B] -> [].

  discriminator(real_scores, fake_scores): what D minimises.
  generator(fake_scores, weights=None): what G minimises; with weights [B],
    their weighted mean.
  parts(real_scores, fake_scores): the two sums of `discriminator`, on real
    and on fake images.
  threshold: the score between 'fake' and 'real'.
  name: one of LOSSES.
  """
  discriminator: typing.Callable
  generator: typing.Callable
  parts: typing.Callable
  threshold: float = 0.0
  name: str = ''


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


def make(*, loss: str = 'hinge', label_smoothing: float = 1.0) -> Adversarial:
  """Returns the adversarial loss.

  Args:
    loss: 'hinge', 'non_saturating', 'least_squares' or 'wasserstein'.
    label_smoothing: D's target for real images; 1.0 for none.

  Raises:
    InputError: an unknown name, smoothing outside (0.5, 1], or smoothing of a
      loss that has no target to smooth.
  """
  errors.one_of('loss', loss, LOSSES)
  errors.between('label_smoothing', label_smoothing, 0, math.inf)
  if not 0.5 < label_smoothing <= 1:
    raise errors.InputError(
        f'label_smoothing: {label_smoothing} is the target of a real image; '
        'expected more than 0.5 and at most 1.')
  if loss in _SMOOTHED:
    return LOSSES[loss](smoothing=label_smoothing)._replace(name=loss)
  if label_smoothing != 1:
    raise errors.InputError(
        f'label_smoothing: loss {loss!r} has no target to smooth; expected '
        f'1.0, or loss {" or ".join(_SMOOTHED)}.')
  return LOSSES[loss]()._replace(name=loss)


class ClassLoss(typing.NamedTuple):
  """The auxiliary classifier's (AC-GAN)."""
  weight: float
  on_fakes: bool

  def __call__(self, labels, *logits):
    """Cross-entropy of class logits [B, K], mean over all, float32 []."""
    if logits[0] is None:
      raise errors.InputError(
          f'class_loss: {self.weight}; expected 0, for this discriminator '
          'has no class logits.')
    return sum(optax.softmax_cross_entropy_with_integer_labels(
        each, labels).mean() for each in logits) / len(logits)


def classes(*, class_loss: float = 0.0,
            class_on_fakes: bool = True) -> ClassLoss:
  """Returns the loss of an auxiliary classifier.

  Args:
    class_loss: weight of the cross-entropy of D's class logits, in both
      players' losses (AC-GAN, Odena et al. 2017).
    class_on_fakes: whether D's own is of fakes as well as of real images.
  """
  errors.between('class_loss', class_loss, 0, math.inf)
  errors.one_of('class_on_fakes', class_on_fakes, (False, True))
  return ClassLoss(class_loss, class_on_fakes)


def accuracies(real: jax.Array, fake: jax.Array,
               threshold: float = 0.0) -> dict[str, jax.Array]:
  """D's share of right answers on each side; a score at the threshold is none.

  Args:
    real, fake: scores [B].
    threshold: of the loss, `Adversarial.threshold`.
  """
  return {'d_accuracy_real': jnp.mean(real > threshold),
          'd_accuracy_fake': jnp.mean(fake < threshold)}
