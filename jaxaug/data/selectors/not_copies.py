"""Drops images that nearly repeat one of the training images."""
import numpy as np

from jaxaug.core import errors


def build(train, *, min_distance: float = 0.01):
  """Returns select(images uint8 [N, H, W, C], labels) -> bool [N].

  Args:
    train: the real training split.
    min_distance: smallest root mean square difference, with 1 for black to
      white, to the nearest training image of any class.
  """
  errors.between('min_distance', min_distance, 0, 1, below=True)
  # In whole grey values, where float64 makes no error: a copy is at 0.
  def rows(images):
    return images.reshape(len(images), -1).astype(np.float64)
  real = rows(train.images)
  squares = (real**2).sum(1)

  def select(images, labels):
    del labels
    fake = rows(images)
    # |a - b|^2 = |a|^2 - 2 a b + |b|^2, one matrix product for all pairs.
    nearest = ((fake**2).sum(1, keepdims=True) - 2 * fake @ real.T
               + squares).min(1)
    return nearest / fake.shape[1] > (255 * min_distance)**2
  return select
