"""FID: the Fréchet distance between Gaussians fitted to the features.

Heusel et al. 2017, "GANs trained by a two time-scale update rule converge to a
local Nash equilibrium", as in pytorch-fid: float64 and covariances by n - 1.
Smaller sets come out further away: compare at equal numbers of images.
"""
from jaxaug.core import errors, types
from jaxaug.evaluation import moments

NEEDS = ('moments',)
VALUES = {'fid': types.Number('Fréchet distance', '', True)}


def compute(real: types.ImageSet, fake: types.ImageSet
            ) -> dict[str, types.Measured]:
  """Returns the distance, 0 or more, in squared units of the features.

  Raises:
    InputError: different numbers of features, or some are not finite.
  """
  if real.moments is None or fake.moments is None:
    raise errors.InputError('fid: no mean and covariance; expected them of '
                            'both sides.')
  try:
    distance = moments.frechet(real.moments, fake.moments)
  except errors.InputError as e:
    raise errors.InputError(f'fid: {e}') from e
  return {'fid': types.Measured(distance)}
