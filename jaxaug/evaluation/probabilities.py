"""Probabilities from logits, and means of them that no order can change."""
import math

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
  """Returns float64 [N, K]; nan where a logit of the row is not finite."""
  logits = np.asarray(logits, np.float64)
  with np.errstate(invalid='ignore'):
    logits = logits - logits.max(-1, keepdims=True)  # None overflows.
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def mean(values: np.ndarray) -> float:
  """Returns the mean, its sum rounded once, so that order is no matter.

  It is nan where a value is not finite: a training that diverged.
  """
  if not np.isfinite(values).all():
    return math.nan
  return math.fsum(np.ravel(values)) / np.size(values)
