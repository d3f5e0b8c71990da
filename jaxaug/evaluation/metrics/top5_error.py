"""Top-5 error: the share of images whose class is not among the best five.

With five classes or fewer all are among them, and the error is 0. Of equal
logits the lower class comes first, as in the top-1 error.
"""
import numpy as np

from jaxaug.core import types

NEEDS = ('logits', 'labels')
VALUES = {'top5_error': types.Number('top-5 error', '%', True)}


def compute(logits: np.ndarray, labels: np.ndarray
            ) -> dict[str, types.Measured]:
  """Returns the share, 0 to 1, of logits [N, K], labels [N]."""
  first = np.argsort(-logits, axis=-1, kind='stable')[:, :5]
  wrong = (first != labels[:, None]).all(-1)
  return {'top5_error': types.Measured(float(wrong.mean()))}
