"""Keeps the most different images of each class: farthest point first.

Gonzalez 1985, "Clustering to minimize the maximum intercluster distance": no
image is farther from the kept ones than twice what is possible. It finds
outliers too; for a pool, drop those before.
"""
import numpy as np

from jaxaug.core import errors, types
from jaxaug.data import picking

# Fields of types.Known that it looks at, beside the training split.
NEEDS = ('features',)


def farthest(x: np.ndarray, count: int, first: int) -> list[int]:
  """Returns `count` rows of x [n, D], each the farthest from those before."""
  chosen, apart = [], np.full(len(x), np.inf)
  for _ in range(count):
    chosen.append(int(apart.argmax()) if chosen else first)
    difference = x - x[chosen[-1]]
    apart = np.minimum(apart, np.einsum('nd,nd->n', difference, difference))
    apart[chosen] = -1  # Not again, though another may be equal to it.
  return chosen


def build(known: types.Known, *, count: int = 5, share: float = 0.0,
          normalize: bool = False):
  """Returns select(images, labels) -> what is dropped.

  The first image is the one nearest to the mean of its class.

  Args:
    known: its features.
    count: images kept of each class that has any.
    share: of the images of each class, rounded up: kept in place of `count`;
      0 for `count`.
    normalize: make features of length 1 first.
  """
  errors.count('count', count)
  errors.between('share', share, 0, 1)
  errors.one_of('normalize', normalize, (True, False))

  def pick(x, most, rng):
    del rng
    middle = ((x - x.mean(0))**2).sum(1).argmin()
    return farthest(x, most, int(middle))
  how = {'share': share, 'reason': 'like others that are kept'} if share else {
      'count': count}
  return picking.of_features(known, pick, normalize=normalize, **how)
