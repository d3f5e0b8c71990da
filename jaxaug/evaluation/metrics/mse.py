"""Squared error of the probabilities: their mean distance from the truth.

The mean over images and classes of (probability - 1 for the true class, 0 for
the others)^2: the Brier score (1950) divided by the number of classes.
"""
import numpy as np

from jaxaug.evaluation import probabilities

LABEL = 'squared error of probabilities'
PERCENT = False
LOWER_IS_BETTER = True


def update(sums, logits: np.ndarray, labels: np.ndarray):
  """Adds logits [N, K] and labels [N] to `sums`; None to begin."""
  apart = np.exp(probabilities.log_softmax(logits))
  apart[np.arange(len(labels)), labels] -= 1
  return merge(sums or (0, 0),
               (probabilities.exact_sum(apart**2), apart.size))


def merge(a, b):
  """Joins the sums of two parts."""
  return a[0] + b[0], a[1] + b[1]


def compute(sums) -> float:
  """Returns the mean over images and classes, 0 to 2 / K."""
  return probabilities.mean(*sums)
