"""Macro F1: the harmonic mean of precision and recall; class mean.

Classes that have neither images nor predictions are left out; one that is
never found counts 0, as in scikit-learn with zero_division=0.
"""
from jaxaug.evaluation import confusion

LABEL = 'macro F1'
PERCENT = True
LOWER_IS_BETTER = False
update, merge = confusion.update, confusion.merge


def compute(sums) -> float:
  """Returns the mean over classes, 0 to 1."""
  return confusion.macro(sums, 'f1')
