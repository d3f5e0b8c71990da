"""Balanced accuracy: the mean over classes of the share that is found.

Classes without an image are left out, as in scikit-learn.
"""
import numpy as np

from jaxaug.core import types
from jaxaug.evaluation import confusion

NEEDS = ('logits', 'labels')
VALUES = {'balanced_accuracy': types.Number('balanced accuracy', '%', False)}


def compute(logits: np.ndarray, labels: np.ndarray
            ) -> dict[str, types.Measured]:
  """Returns the mean over classes, 0 to 1, of logits [N, K], labels [N]."""
  counts = confusion.of_logits(logits, labels)
  images = counts.sum(1)
  shares = np.diag(counts)[images > 0] / images[images > 0]
  return {'balanced_accuracy': types.Measured(float(shares.mean()))}
