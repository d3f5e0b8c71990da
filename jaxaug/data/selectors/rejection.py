"""Keeps what the generator's own discriminator takes for likely enough.

Azadi et al. 2019, "Discriminator rejection sampling": an image is accepted with
the probability sigmoid(F), F = d - M - log(1 - exp(d - M - eps)) - gamma, where
d is its raw score and M the highest one.
"""
import numpy as np

from jaxaug.core import errors, randomness, types

# Fields of types.Known that it looks at, beside the training split.
NEEDS = ('score',)
_EPS = 1e-6  # Keeps the logarithm finite where d is M.


def build(known: types.Known, *, percentile: float = 80.0):
  """Returns select(images, labels) -> what is dropped.

  The formula means densities where the discriminator learned by cross-entropy
  (a non-saturating loss); other losses give an order, no more. M and gamma are
  those of the set and of each class, so that no class is drained.

  Args:
    known: the scores of the discriminator.
    percentile: of F without gamma: gamma, so that the image there is kept by
      one half. Higher keeps fewer; 0 to 100.

  Raises:
    InputError: there is no discriminator, or its scores are not finite.
  """
  errors.between('percentile', percentile, 0, 100)
  if known.score is None:
    raise errors.InputError(
        'rejection: this pool has no discriminator to ask; expected one of a '
        'GAN, or another selector.')

  def select(images, labels):
    if not len(labels):
      return {}
    scores = np.asarray(known.score(images, labels), np.float64)
    if not np.isfinite(scores).all():
      raise errors.InputError(
          f'rejection: {np.sum(~np.isfinite(scores))} of {len(scores)} scores '
          'of the discriminator are not finite; expected a GAN that does not '
          'diverge.')
    accepted = np.zeros(len(labels))
    for k in np.unique(labels):
      below = scores[labels == k] - scores[labels == k].max()
      f = below - np.log1p(-np.exp(below - _EPS))
      f -= np.percentile(f, percentile)
      # Beyond that, the sigmoid is 0 or 1.
      accepted[labels == k] = 1 / (1 + np.exp(np.clip(-f, -700, 700)))
    draws = randomness.generator(known.seed).random(len(labels))
    return {'rejected by the discriminator': draws >= accepted}
  return select
