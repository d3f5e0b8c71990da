"""Minority accuracy: the share of a few named classes' images that is found."""
import numpy as np

from jaxaug.core import types
from jaxaug.evaluation import confusion

NEEDS = ('logits', 'labels', 'classes')
VALUES = {'minority_accuracy': types.Number('minority accuracy', '%', False)}


def compute(logits: np.ndarray, labels: np.ndarray, *,
            classes: tuple[int, ...] = ()) -> dict[str, types.Measured]:
  """Returns the share, 0 to 1; nan where the classes have no image.

  Args:
    logits, labels: [N, K] and [N].
    classes: the numbers of the classes that count; none for all.
  """
  counts = confusion.of_logits(logits, labels)
  named = list(classes) or range(len(counts))
  right, images = np.diag(counts)[named].sum(), counts[named].sum()
  share = float(right / images) if images else float('nan')
  return {'minority_accuracy': types.Measured(share)}
