"""Probabilities from logits, and sums of them that no order can change."""
import math

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
  """Returns float64 [N, K]; nan where a logit of the row is not finite."""
  logits = np.asarray(logits, np.float64)
  with np.errstate(invalid='ignore'):
    logits = logits - logits.max(-1, keepdims=True)  # None overflows.
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def total(values: np.ndarray) -> float:
  """Returns the sum of values, each rounded to a multiple of 2**-40.

  Those add up to the same in any order. It is nan where a value is not finite:
  a training that diverged.
  """
  if not np.isfinite(values).all():
    return math.nan
  return sum(map(int, np.rint(np.ravel(values) * 2.**40).tolist())) / 2**40


def mean(values: np.ndarray) -> float:
  """Returns the mean of values, by their `total`."""
  return total(values) / np.size(values)
