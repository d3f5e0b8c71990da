"""Inception score: exp of the mean KL divergence of p(y|x) from p(y).

Salimans et al. 2016, "Improved techniques for training GANs", section 4. The
order of the images and the standard deviation (population, over the splits)
are those of torch-fidelity. `is` is a keyword: import it by its name as text,
as the registry does.
"""
import numpy as np

from jaxaug.core import errors, types
from jaxaug.evaluation import checks, probabilities

NEEDS = ('logits',)
VALUES = {'is': types.Number('Inception score', '', False)}


def compute(real: types.ImageSet, fake: types.ImageSet, *, splits: int = 10,
            seed: int = 2020) -> dict[str, types.Measured]:
  """Returns the mean over splits, from 1 to the number of classes.

  Args:
    real: not looked at.
    fake: the images.
    splits: parts that are scored on their own.
    seed: of the order of the images before they are split.

  Raises:
    InputError: a senseless number, fewer images than splits, or logits that
      are absent or not finite.
  """
  del real
  errors.count('is.splits', splits)
  errors.count('is.seed', seed, 0)
  checks.matrix('is', 'logits of generated images', fake.logits, splits)
  order = np.random.RandomState(seed % 2**32).permutation(len(fake.logits))
  log_p = probabilities.log_softmax(fake.logits[order])
  ends = [i * len(order) // splits for i in range(splits + 1)]
  each = [_score(log_p[a:b]) for a, b in zip(ends, ends[1:], strict=False)]
  return {'is': types.Measured(
      float(np.mean(each)), float(np.std(each)) if splits > 1 else None,
      splits, 'splits')}


def _score(log_p):
  p = np.exp(log_p)
  # Where nothing is left of a probability, its logarithm must not be infinite.
  log_mean = np.log(np.maximum(p.mean(0), np.finfo(p.dtype).tiny))
  return np.exp((p * (log_p - log_mean)).sum(1).mean())
