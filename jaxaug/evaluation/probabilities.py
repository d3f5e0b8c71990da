"""Probabilities from logits, and sums of them that no order can change."""
import math

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
  """Returns float64 [N, K]; nan where a logit of the row is not finite."""
  logits = np.asarray(logits, np.float64)
  with np.errstate(invalid='ignore'):
    logits = logits - logits.max(-1, keepdims=True)  # None overflows.
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def exact_sum(values: np.ndarray) -> int | float:
  """Returns the sum of `values` in units of 2**-40, each rounded to one.

  Whole numbers add up to the same in any order and any split; floats do not.
  The sum is nan where a value is not finite: a training that diverged.
  """
  if not np.isfinite(values).all():
    return math.nan
  return sum(map(int, np.rint(np.ravel(values) * 2.**40).tolist()))


def mean(total: int, count: int) -> float:
  """Returns the mean of `count` values whose `exact_sum` is `total`."""
  return total / 2**40 / count
