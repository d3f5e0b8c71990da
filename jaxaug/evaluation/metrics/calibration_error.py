"""Expected calibration error: how far confidence is from accuracy, 15 bins.

Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3: the
largest probability of each image falls into one of 15 equally wide bins
(each open below and closed above), and the distances between the bins'
accuracy and mean confidence are averaged, weighted by their images.
"""
import numpy as np

from jaxaug.core import types
from jaxaug.evaluation import probabilities

NEEDS = ('logits', 'labels')
VALUES = {'calibration_error': types.Number('calibration error', '%', True)}
_BINS = 15


def compute(logits: np.ndarray, labels: np.ndarray
            ) -> dict[str, types.Measured]:
  """Returns the weighted distance, 0 to 1, of logits [N, K], labels [N].

  It is nan where a logit is not finite.
  """
  confidence = np.exp(probabilities.log_softmax(logits).max(-1))
  right = logits.argmax(-1) == labels
  bins = np.nan_to_num(np.ceil(confidence * _BINS)).astype(int) - 1
  bins = np.clip(bins, 0, _BINS - 1)
  distance = sum(abs(probabilities.total(confidence[bins == b])
                     - right[bins == b].sum()) for b in range(_BINS))
  return {'calibration_error': types.Measured(float(distance / len(labels)))}
