"""Minority accuracy: the share of a few named classes' images that is found."""
import numpy as np

from jaxaug.evaluation import confusion

LABEL = 'minority accuracy'
PERCENT = True
LOWER_IS_BETTER = False
update, merge = confusion.update, confusion.merge


def compute(sums, *, classes: tuple[int, ...] = ()) -> float:
  """Returns the share, 0 to 1; nan where the classes have no image.

  Args:
    classes: the numbers of the classes that count; none for all.
  """
  named = list(classes) or range(len(sums))
  right, count = np.diag(sums)[named].sum(), sums[named].sum()
  return float(right / count) if count else float('nan')
