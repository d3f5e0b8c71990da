"""Precision, recall, density and coverage: real and generated neighbourhoods.

Naeem et al. 2020, "Reliable fidelity and diversity metrics for generative
models", as in the package prdc: each image has a ball that reaches to its k-th
nearest neighbour on its own side, and what lies on the surface is outside.
"""
from jaxaug.core import errors, types
from jaxaug.evaluation import checks, neighbours

NEEDS = ('features',)
VALUES = {
    'precision': types.Number(
        'generated images in a real neighbourhood', '', False),
    'recall': types.Number(
        'real images in a generated neighbourhood', '', False),
    'density': types.Number(
        'real neighbourhoods around a generated image, by k', '', False),
    'coverage': types.Number(
        'real neighbourhoods with a generated image', '', False)}


def compute(real: types.ImageSet, fake: types.ImageSet, *, k: int = 5
            ) -> dict[str, types.Measured]:
  """Returns four numbers, 0 to 1; density may be larger, and is 1 at best fit.

  Args:
    real, fake: the images, more than `k` of each.
    k: the neighbour that a ball reaches to.

  Raises:
    InputError: a senseless number, too few images, or unfit features.
  """
  errors.count('prdc.k', k)
  x, y = checks.features('prdc', real, fake, k + 1)
  of_real, of_fake = neighbours.inside(
      x, y, neighbours.kth(x, k), neighbours.kth(y, k), strict=True)
  values = {'precision': (of_fake.around > 0).mean(),
            'recall': (of_real.around > 0).mean(),
            'density': of_fake.around.mean() / k,
            'coverage': (of_real.within > 0).mean()}
  return {name: types.Measured(float(v)) for name, v in values.items()}
