"""Improved precision and recall: who lies in a neighbourhood of the others.

Kynkäänniemi et al. 2019, "Improved precision and recall metric for assessing
generative models": each image has a ball that reaches to its k-th nearest
neighbour on its own side, and its surface belongs to it.
"""
from jaxaug.core import errors, types
from jaxaug.evaluation import checks, neighbours

NEEDS = ('features',)
VALUES = {
    'improved_precision': types.Number(
        'generated images in a real neighbourhood', '', False),
    'improved_recall': types.Number(
        'real images in a generated neighbourhood', '', False)}


def compute(real: types.ImageSet, fake: types.ImageSet, *, k: int = 3
            ) -> dict[str, types.Measured]:
  """Returns two shares.

  Args:
    real, fake: the images, more than `k` of each.
    k: the neighbour that a ball reaches to.

  Raises:
    InputError: a senseless number, too few images, or unfit features.
  """
  errors.count('improved_pr.k', k)
  x, y = checks.features('improved_pr', real, fake, k + 1)
  of_real, of_fake = neighbours.inside(
      x, y, neighbours.kth(x, k), neighbours.kth(y, k), strict=False)
  return {'improved_precision': types.Measured(
              float((of_fake.around > 0).mean())),
          'improved_recall': types.Measured(
              float((of_real.around > 0).mean()))}
