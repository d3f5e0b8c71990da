"""Keeps the images of each class from which all others are least far.

k-medoids: Kaufman and Rousseeuw 1990, "Finding groups in data", chapter 2
(BUILD); swaps by Schubert and Rousseeuw 2021, "Fast and eager k-medoids
clustering" (FasterPAM: every swap that helps is made at once).
"""
import numpy as np

from jaxaug.core import errors, types
from jaxaug.data import distances, picking

# Fields of types.Known that it looks at, beside the training split.
NEEDS = ('features',)


def medoids(apart: np.ndarray, count: int) -> np.ndarray:
  """Returns int [count], rows whose nearest distances have a small sum.

  No swap of one of them for another row makes it smaller.

  Args:
    apart: float64 [n, n], distances of all pairs.
    count: from 1 to n.
  """
  chosen = [int(apart.sum(1).argmin())]
  while len(chosen) < count:
    near = apart[chosen].min(0)
    gains = np.array([np.maximum(near - row, 0).sum() for row in apart])
    gains[chosen] = -1
    chosen.append(int(gains.argmax()))
  if count == 1:
    return np.array(chosen)
  chosen, columns = np.array(chosen), np.arange(len(apart))
  near, first, second = _two_nearest(apart, chosen)
  unchanged, i = 0, 0
  while unchanged < len(apart):
    if i not in chosen:
      # What the sum gains by row i, and by each medoid's going away for it:
      # its images go to their second nearest, or to i if that is nearer.
      better = apart[i] < first
      change = np.where(better, first, np.minimum(apart[i], second)) - first
      change = np.bincount(near, change, count) + np.where(
          better, apart[i] - first, 0).sum()
      out = int(change.argmin())
      if change[out] < -1e-9 * first.sum():
        chosen[out] = columns[i]
        near, first, second = _two_nearest(apart, chosen)
        unchanged = 0
    unchanged, i = unchanged + 1, (i + 1) % len(apart)
  return chosen


def _two_nearest(apart, chosen):
  """Which medoid is nearest to each row, how far that and the next one are."""
  order = np.argsort(apart[chosen], 0, kind='stable')[:2]
  first, second = np.take_along_axis(apart[chosen], order, 0)
  return order[0], first, second


def build(known: types.Known, *, count: int = 5, normalize: bool = False):
  """Returns select(images, labels) -> what is dropped.

  Memory goes by the square of the images of a class: 200 MB for 5,000.

  Args:
    known: its features.
    count: images kept of each class that has any.
    normalize: make features of length 1 first.
  """
  errors.count('count', count)
  errors.one_of('normalize', normalize, (True, False))

  def pick(x, most, rng):
    del rng
    return medoids(np.sqrt(distances.squared(x, x)), most)
  return picking.of_features(known, pick, count=count, normalize=normalize)
