"""Macro F1: the harmonic mean of precision and recall; class mean.

Classes that have neither images nor predictions are left out; one that is
never found counts 0, as in scikit-learn with zero_division=0.
"""
import numpy as np

from jaxaug.core import types
from jaxaug.evaluation import confusion

NEEDS = ('logits', 'labels')
VALUES = {'macro_f1': types.Number('macro F1', '%', False)}


def compute(logits: np.ndarray, labels: np.ndarray
            ) -> dict[str, types.Measured]:
  """Returns the mean over classes, 0 to 1, of logits [N, K], labels [N]."""
  mean = confusion.macro(confusion.of_logits(logits, labels), 'f1')
  return {'macro_f1': types.Measured(mean)}
