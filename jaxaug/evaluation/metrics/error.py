"""Top-1 error: the share of images that are put in a wrong class."""
import numpy as np

from jaxaug.core import types

NEEDS = ('logits', 'labels')
VALUES = {'error': types.Number('top-1 error', '%', True)}


def compute(logits: np.ndarray, labels: np.ndarray
            ) -> dict[str, types.Measured]:
  """Returns the share, 0 to 1, of logits [N, K], labels [N]."""
  wrong = logits.argmax(-1) != labels
  return {'error': types.Measured(float(wrong.mean()))}
