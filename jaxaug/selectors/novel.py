"""Drops images that nearly repeat one of the training images."""
import numpy as np

from jaxaug import errors


def build(train, *, min_distance: float = 0.01):
  """Returns select(images uint8 [N, H, W, C], labels) -> bool [N].

  Args:
    train: the real training split.
    min_distance: smallest root mean square difference, with 1 for black to
      white, to the nearest training image of any class.
  """
  if not 0 <= min_distance < 1:
    raise errors.InputError(
        f'min_distance: {min_distance}; expected 0 to below 1.')
  real = train.images.reshape(len(train.images), -1).astype(np.float32) / 255
  squares = (real**2).sum(1)

  def select(images, labels):
    del labels
    fake = images.reshape(len(images), -1).astype(np.float32) / 255
    # |a - b|^2 = |a|^2 - 2 a b + |b|^2, one matrix product for all pairs.
    nearest = ((fake**2).sum(1, keepdims=True) - 2 * fake @ real.T
               + squares).min(1)
    return np.maximum(nearest, 0) / fake.shape[1] > min_distance**2
  return select
