"""Top-1 error: the share of images that are put in a wrong class."""
import numpy as np

LABEL = 'top-1 error'
PERCENT = True
LOWER_IS_BETTER = True


def update(sums, logits: np.ndarray, labels: np.ndarray):
  """Adds logits [N, K] and labels [N] to `sums`; None to begin."""
  wrong = int((logits.argmax(-1) != labels).sum())
  return merge(sums or (0, 0), (wrong, len(labels)))


def merge(a, b):
  """Joins the sums of two parts."""
  return a[0] + b[0], a[1] + b[1]


def compute(sums) -> float:
  """Returns the share, 0 to 1."""
  return sums[0] / sums[1]
