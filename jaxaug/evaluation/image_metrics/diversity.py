"""Diversity: the mean distance within a class, as a ratio to that of real ones.

1 is as diverse as real images, 0 one and the same image again and again. The
pairwise distance of Zhu et al. 2017, "Toward multimodal image-to-image
translation" (there LPIPS), on the features at hand.
"""
import numpy as np

from jaxaug.core import errors, types
from jaxaug.evaluation import checks, neighbours

NEEDS = ('features', 'labels')
VALUES = {
    'diversity': types.Number(
        'distance within a class by that of real ones', '', None)}


def compute(real: types.ImageSet, fake: types.ImageSet
            ) -> dict[str, types.Measured]:
  """Returns mean and population standard deviation over the classes.

  Without labels on both sides, all images are one class.

  Raises:
    InputError: a class with fewer than 2 images on a side or whose real images
      are all the same; unfit features.
  """
  x, y = checks.features('diversity', real, fake, 2)
  labels = checks.labels('diversity', real, fake, (len(x), len(y)),
                        needed=False)
  each = []
  for a, b in checks.classes('diversity', *labels, 2):
    apart = neighbours.mean_distance(x[a])
    if apart == 0:
      raise errors.InputError(
          'diversity: the real images of a class have all the same features; '
          'expected different images.')
    each.append(neighbours.mean_distance(y[b]) / apart)
  return {'diversity': types.Measured(
      float(np.mean(each)), float(np.std(each)) if len(each) > 1 else None,
      len(each), 'classes')}
