"""Balanced accuracy: the mean over classes of the share that is found.

Classes without an image are left out, as in scikit-learn.
"""
import numpy as np

from jaxaug.evaluation import confusion

LABEL = 'balanced accuracy'
PERCENT = True
LOWER_IS_BETTER = False
update, merge = confusion.update, confusion.merge


def compute(sums) -> float:
  """Returns the mean over classes, 0 to 1."""
  count = sums.sum(1)
  return float((np.diag(sums)[count > 0] / count[count > 0]).mean())
