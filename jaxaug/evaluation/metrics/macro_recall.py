"""Macro recall: of the images of a class, the share that is found; class mean.

Classes that have neither images nor predictions are left out; one that is
predicted and has no image counts 0, as in scikit-learn with zero_division=0.
Balanced accuracy leaves that one out.
"""
from jaxaug.evaluation import confusion

LABEL = 'macro recall'
PERCENT = True
LOWER_IS_BETTER = False
update, merge = confusion.update, confusion.merge


def compute(sums) -> float:
  """Returns the mean over classes, 0 to 1."""
  return confusion.macro(sums, 'recall')
