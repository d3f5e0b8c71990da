"""Expected calibration error: how far confidence is from accuracy, 15 bins.

Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3: the
largest probability of each image falls into one of 15 equally wide bins
(each open below and closed above), and the distances between the bins'
accuracy and mean confidence are averaged, weighted by their images.
"""
import numpy as np

from jaxaug.evaluation import probabilities

LABEL = 'calibration error'
PERCENT = True
LOWER_IS_BETTER = True
_BINS = 15


def update(sums, logits: np.ndarray, labels: np.ndarray):
  """Adds logits [N, K] and labels [N] to `sums`; None to begin."""
  confidence = np.exp(probabilities.log_softmax(logits).max(-1))
  right = logits.argmax(-1) == labels
  bins = np.nan_to_num(np.ceil(confidence * _BINS)).astype(int) - 1
  bins = np.clip(bins, 0, _BINS - 1)
  new = [(probabilities.exact_sum(confidence[bins == b]),
          int(right[bins == b].sum()), int((bins == b).sum()))
         for b in range(_BINS)]
  return new if sums is None else merge(sums, new)


def merge(a, b):
  """Joins the sums of two parts."""
  return [tuple(x + y for x, y in zip(*pair, strict=True))
          for pair in zip(a, b, strict=True)]


def compute(sums) -> float:
  """Returns the weighted distance, 0 to 1."""
  total = sum(count for *_, count in sums)
  return sum(abs(probabilities.mean(confidence, 1) - right)
             for confidence, right, _ in sums) / total
