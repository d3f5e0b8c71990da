"""Copying: generated images that are closer to a real one than reals are.

The ruler is how far each real image is from the nearest other one, in features.
Meehan et al. 2020, "A non-parametric test to detect data-copying in generative
models", take that of held-out real images from training images.
"""
from jaxaug.core import types
from jaxaug.evaluation import checks, neighbours

NEEDS = ('features',)
VALUES = {
    'copying': types.Number(
        'generated images that are close to a real one', '', True),
    'copying_ratio': types.Number(
        'distance to real images by that between them', '', None)}


def compute(real: types.ImageSet, fake: types.ImageSet, *,
            quantile: float = .01) -> dict[str, types.Measured]:
  """Returns the share of close images and the ratio of median distances.

  New real images have a share of about `quantile` and a ratio of about 1.

  Args:
    real, fake: the images, at least 2 of each.
    quantile: an image is close that is as near to a real one as only this
      share of the real images have another.

  Raises:
    InputError: a senseless number, too few images, unfit features, or half of
      the real images have equal ones.
  """
  x, y = checks.features('copying', real, fake, 2)
  share, ratio = neighbours.copies('copying', x, y, quantile)
  return {'copying': types.Measured(share),
          'copying_ratio': types.Measured(ratio)}
