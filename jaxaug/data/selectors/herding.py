"""Keeps the images of each class whose mean features are the class's own.

Chen, Welling and Smola 2010, "Super-samples from kernel herding", on features
of length 1: each image is the one that brings the mean of those taken nearest
to that of all.
"""
import numpy as np

from jaxaug.core import errors, types
from jaxaug.data import picking

# Fields of types.Known that it looks at, beside the training split.
NEEDS = ('features',)


def herd(x: np.ndarray, count: int) -> list[int]:
  """Returns `count` rows of x [n, D], in the order of herding, none twice.

  w_0 = mean; row t is argmax <w, x_i>, and w becomes w + mean - x_t.
  """
  mean, chosen = x.mean(0), []
  w, free = mean.copy(), np.zeros(len(x))
  for _ in range(count):
    chosen.append(int((x @ w + free).argmax()))
    free[chosen[-1]] = -np.inf
    w += mean - x[chosen[-1]]
  return chosen


def build(known: types.Known, *, count: int = 5):
  """Returns select(images, labels) -> what is dropped.

  Args:
    known: its features.
    count: images kept of each class that has any.
  """
  errors.count('count', count)
  return picking.of_features(known, lambda x, most, rng: herd(x, most),
                             count=count, normalize=True)
