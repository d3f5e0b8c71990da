"""Pixel copying: as `copying`, on the pixels of small versions of the images.

Needs no network, and finds copies that are the same pixel by pixel. Mirroring
and shifts hide a copy from it.
"""
import numpy as np

from jaxaug.core import errors, types
from jaxaug.evaluation import checks, neighbours

NEEDS = ('images',)
VALUES = {
    'pixel_copying': types.Number(
        'generated images whose pixels are close to a real one', '', True),
    'pixel_copying_ratio': types.Number(
        'pixel distance to real images by that between them', '', None)}
_IMAGES = 1000  # At a time, so that intermediate sums stay small.


def compute(real: types.ImageSet, fake: types.ImageSet, *, side: int = 16,
            quantile: float = .01) -> dict[str, types.Measured]:
  """Returns the share of close images and the ratio of median distances.

  Args:
    real, fake: the images, at least 2 of each and of one size.
    side: larger images become means of so many cells a side.
    quantile: an image is close that is as near to a real one as only this
      share of the real images have another.

  Raises:
    InputError: a senseless number, too few images or of different sizes, or
      half of the real images have equal ones.
  """
  errors.count('pixel_copying.side', side)
  x, y = checks.images('pixel_copying', real, fake, 2)
  share, ratio = neighbours.copies('pixel_copying', _cells(x, side),
                                   _cells(y, side), quantile)
  return {'pixel_copying': types.Measured(share),
          'pixel_copying_ratio': types.Measured(ratio)}


def _cells(images, side):
  """Returns float32 [N, h * w * C], means of cells; h and w are `side` at most.
  """
  out = []
  for start in range(0, len(images), _IMAGES):
    part = np.float32(images[start:start + _IMAGES])
    for axis in (1, 2):
      length = part.shape[axis]
      edges = np.arange(min(side, length)) * length // min(side, length)
      sizes = np.diff(edges, append=length).astype(np.float32)
      part = np.add.reduceat(part, edges, axis)
      part /= np.expand_dims(sizes, [a for a in range(4) if a != axis])
    out.append(part.reshape(len(part), -1))
  return np.concatenate(out)
