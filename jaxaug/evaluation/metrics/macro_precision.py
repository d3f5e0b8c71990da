"""Macro precision: of what is called a class, the share that is; class mean.

Classes that have neither images nor predictions are left out; one that is
never predicted counts 0, as in scikit-learn with zero_division=0.
"""
from jaxaug.evaluation import confusion

LABEL = 'macro precision'
PERCENT = True
LOWER_IS_BETTER = False
update, merge = confusion.update, confusion.merge


def compute(sums) -> float:
  """Returns the mean over classes, 0 to 1."""
  return confusion.macro(sums, 'precision')
