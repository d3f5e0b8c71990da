"""Authenticity: the share of generated images that are no copies.

Alaa et al. 2022, "How faithful is your synthetic data?": a generated image is
authentic unless it lies closer to the nearest real image than any other real
image does. New real images do not reach 1: about half of them are as close
where features are many and spread evenly, so look at theirs beside it.
"""
from jaxaug.core import types
from jaxaug.evaluation import checks, neighbours

NEEDS = ('features',)
VALUES = {
    'authenticity': types.Number(
        'generated images that are no copies', '', False)}


def compute(real: types.ImageSet, fake: types.ImageSet
            ) -> dict[str, types.Measured]:
  """Returns the share of authentic images; 0 for copies of real ones.

  Raises:
    InputError: fewer than 2 images on a side, or unfit features.
  """
  x, y = checks.features('authenticity', real, fake, 2)
  index, distance = neighbours.nearest(y, x)
  authentic = distance >= neighbours.kth(x, 1)[index]
  return {'authenticity': types.Measured(float(authentic.mean()))}
