"""Cross-entropy: the mean of -log of the true class's probability, in nats."""
import numpy as np

from jaxaug.core import types
from jaxaug.evaluation import probabilities

NEEDS = ('logits', 'labels')
VALUES = {'cross_entropy': types.Number('cross-entropy', 'nats', True)}


def compute(logits: np.ndarray, labels: np.ndarray
            ) -> dict[str, types.Measured]:
  """Returns the mean over images, 0 or more, of logits [N, K], labels [N].

  It is nan where a logit is not finite.
  """
  of_truth = np.take_along_axis(probabilities.log_softmax(logits),
                                labels[:, None], 1)
  return {'cross_entropy': types.Measured(probabilities.mean(-of_truth))}
