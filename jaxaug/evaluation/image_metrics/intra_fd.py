"""Intra-class Fréchet distance: within each class, then the mean over classes.

Miyato and Koyama 2018, "cGANs with projection discriminator" (intra FID). A
generator that mixes up its classes has a good FID and a bad one of these.
"""
import numpy as np

from jaxaug.core import types
from jaxaug.evaluation import checks, moments

NEEDS = ('features', 'labels')
VALUES = {'intra_fd': types.Number('Fréchet distance within a class', '', True)}


def compute(real: types.ImageSet, fake: types.ImageSet
            ) -> dict[str, types.Measured]:
  """Returns mean and population standard deviation over the classes.

  Raises:
    InputError: no labels, or a class with fewer than 2 images on a side;
      unfit features.
  """
  x, y = checks.features('intra_fd', real, fake, 2)
  labels = checks.labels('intra_fd', real, fake, (len(x), len(y)))
  each = [moments.frechet(moments.of(x[a]), moments.of(y[b]))
          for a, b in checks.classes('intra_fd', *labels, 2)]
  return {'intra_fd': types.Measured(
      float(np.mean(each)), float(np.std(each)) if len(each) > 1 else None,
      len(each), 'classes')}
