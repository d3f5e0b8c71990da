"""Cross-entropy: the mean of -log of the true class's probability, in nats."""
import numpy as np

from jaxaug.evaluation import probabilities

LABEL = 'cross-entropy'
PERCENT = False
LOWER_IS_BETTER = True


def update(sums, logits: np.ndarray, labels: np.ndarray):
  """Adds logits [N, K] and labels [N] to `sums`; None to begin."""
  of_truth = np.take_along_axis(probabilities.log_softmax(logits),
                                labels[:, None], 1)
  return merge(sums or (0, 0),
               (probabilities.exact_sum(-of_truth), len(labels)))


def merge(a, b):
  """Joins the sums of two parts."""
  return a[0] + b[0], a[1] + b[1]


def compute(sums) -> float:
  """Returns the mean over images, 0 or more."""
  return probabilities.mean(*sums)
