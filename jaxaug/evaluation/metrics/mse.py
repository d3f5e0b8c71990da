"""Squared error of the probabilities: their mean distance from the truth.

The mean over images and classes of (probability - 1 for the true class, 0 for
the others)^2: the Brier score (1950) divided by the number of classes.
"""
import numpy as np

from jaxaug.core import types
from jaxaug.evaluation import probabilities

NEEDS = ('logits', 'labels')
VALUES = {'mse': types.Number('squared error of probabilities', '', True)}


def compute(logits: np.ndarray, labels: np.ndarray
            ) -> dict[str, types.Measured]:
  """Returns the mean over images and classes, 0 to 2 / K.

  logits, labels: [N, K] and [N]. It is nan where a logit is not finite.
  """
  apart = np.exp(probabilities.log_softmax(logits))
  apart[np.arange(len(labels)), labels] -= 1
  return {'mse': types.Measured(probabilities.mean(apart**2))}
