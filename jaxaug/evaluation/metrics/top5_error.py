"""Top-5 error: the share of images whose class is not among the best five.

With five classes or fewer all are among them, and the error is 0. Of equal
logits the lower class comes first, as in the top-1 error.
"""
import numpy as np

LABEL = 'top-5 error'
PERCENT = True
LOWER_IS_BETTER = True


def update(sums, logits: np.ndarray, labels: np.ndarray):
  """Adds logits [N, K] and labels [N] to `sums`; None to begin."""
  first = np.argsort(-logits, axis=-1, kind='stable')[:, :5]
  wrong = int((first != labels[:, None]).all(-1).sum())
  return merge(sums or (0, 0), (wrong, len(labels)))


def merge(a, b):
  """Joins the sums of two parts."""
  return a[0] + b[0], a[1] + b[1]


def compute(sums) -> float:
  """Returns the share, 0 to 1."""
  return sums[0] / sums[1]
