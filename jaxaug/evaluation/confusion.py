"""Confusion counts: who was taken for whom, and what follows class by class."""
import numpy as np


def counts(labels: np.ndarray, predicted: np.ndarray,
           classes: int) -> np.ndarray:
  """Counts int64 [K, K]: row is the true class, column the predicted one."""
  flat = np.bincount(labels * np.int64(classes) + predicted,
                     minlength=classes**2)
  return flat.reshape(classes, classes)


def of_logits(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Counts int64 [K, K] of logits [N, K] and labels [N]."""
  return counts(labels, logits.argmax(-1), logits.shape[-1])


def share(numerator, denominator) -> list:
  """Element by element; None where there is nothing to divide by."""
  return [float(a / b) if b else None
          for a, b in zip(numerator, denominator, strict=True)]


def per_class(counts: np.ndarray) -> dict[str, list]:
  """Returns 'precision', 'recall' and 'f1' [K] of counts [K, K], 0 to 1.

  As scikit-learn with zero_division=0: a class that has images but no
  prediction, or predictions but no image, has 0 where nothing is there to
  divide by. One that has neither is left out: None.
  """
  counts = np.asarray(counts)
  right, true, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
  def each(top, bottom):
    return [None if not t + p else float(a / b) if b else 0.
            for a, b, t, p in zip(top, bottom, true, predicted, strict=True)]
  return {'precision': each(right, predicted), 'recall': each(right, true),
          'f1': each(2 * right, true + predicted)}


def macro(counts: np.ndarray, what: str) -> float:
  """Returns the mean over classes of one of `per_class`, None left out."""
  return float(np.mean([x for x in per_class(counts)[what] if x is not None]))
