"""Drops images that nearly repeat one of the training images."""
from jaxaug.core import errors, types
from jaxaug.data import distances

NEEDS = ('pixels',)


def build(known: types.Known, *, min_distance: float = 0.01):
  """Returns select(images, labels) -> what is dropped.

  Args:
    known: its training split.
    min_distance: smallest root mean square difference, with 1 for black to
      white, to the nearest training image of any class.
  """
  errors.between('min_distance', min_distance, 0, 1, below=True)
  real = known.train.images

  def select(images, labels):
    del labels
    if not len(images):
      return {}
    fake = images.reshape(len(images), -1)
    _, apart = distances.nearest(fake, real.reshape(len(real), -1))
    limit = 255 * min_distance * fake.shape[1]**.5
    return {'copy of a training image': apart[:, 0] <= limit}
  return select
