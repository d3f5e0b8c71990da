"""Macro precision: of what is called a class, the share that is; class mean.

Classes that have neither images nor predictions are left out; one that is
never predicted counts 0, as in scikit-learn with zero_division=0.
"""
import numpy as np

from jaxaug.core import types
from jaxaug.evaluation import confusion

NEEDS = ('logits', 'labels')
VALUES = {'macro_precision': types.Number('macro precision', '%', False)}


def compute(logits: np.ndarray, labels: np.ndarray
            ) -> dict[str, types.Measured]:
  """Returns the mean over classes, 0 to 1, of logits [N, K], labels [N]."""
  mean = confusion.macro(confusion.of_logits(logits, labels), 'precision')
  return {'macro_precision': types.Measured(mean)}
