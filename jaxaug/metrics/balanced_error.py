"""Balanced error: the mean over classes of each class's top-1 error.

Classes without an image are left out, as in scikit-learn's balanced accuracy.
"""
import numpy as np

LOWER_IS_BETTER = True


def update(sums, logits: np.ndarray, labels: np.ndarray):
  """Adds logits [N, K] and labels [N] to `sums`; None to begin."""
  wrong = logits.argmax(-1) != labels
  classes = logits.shape[-1]
  new = (np.bincount(labels, wrong, classes).astype(np.int64),
         np.bincount(labels, minlength=classes))
  return new if sums is None else merge(sums, new)


def merge(a, b):
  """Joins the sums of two parts."""
  return a[0] + b[0], a[1] + b[1]


def compute(sums) -> float:
  """Returns the mean, 0 to 1."""
  wrong, count = sums
  return float((wrong[count > 0] / count[count > 0]).mean())
