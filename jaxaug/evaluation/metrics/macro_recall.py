"""Macro recall: of the images of a class, the share that is found; class mean.

Classes that have neither images nor predictions are left out; one that is
predicted and has no image counts 0, as in scikit-learn with zero_division=0.
Balanced accuracy leaves that one out.
"""
import numpy as np

from jaxaug.core import types
from jaxaug.evaluation import confusion

NEEDS = ('logits', 'labels')
VALUES = {'macro_recall': types.Number('macro recall', '%', False)}


def compute(logits: np.ndarray, labels: np.ndarray
            ) -> dict[str, types.Measured]:
  """Returns the mean over classes, 0 to 1, of logits [N, K], labels [N]."""
  mean = confusion.macro(confusion.of_logits(logits, labels), 'recall')
  return {'macro_recall': types.Measured(mean)}
