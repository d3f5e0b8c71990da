"""CAS: how well a classifier trained on one side does on the other.

Ravuri and Vinyals 2019, "Classification accuracy score for conditional
generative models": trained on generated images, tested on real ones (GAN-train
in Shmelkov et al. 2018, "How good is my GAN?", who add the way back, GAN-test).
"""
import typing

import numpy as np

from jaxaug.core import errors, types
from jaxaug.evaluation import checks

NEEDS = ('images', 'labels', 'fit')
VALUES = {
    'cas_fake_to_real': types.Number(
        'accuracy on real images, trained on generated', '', False),
    'cas_real_to_fake': types.Number(
        'accuracy on generated images, trained on real', '', False)}


def compute(real: types.ImageSet, fake: types.ImageSet, *,
            fit: typing.Callable, runs: int = 3) -> dict[str, types.Measured]:
  """Returns mean and sample standard deviation of the accuracy over the runs.

  Args:
    real, fake: the images with labels.
    fit: fit(images, labels, seed) -> predict(images) -> logits [N, K].
    runs: how many classifiers are trained each way, with seeds from 0.

  Raises:
    InputError: a senseless number, no labels, or images of different sizes.
  """
  errors.count('cas.runs', runs)
  x, y = checks.images('cas', real, fake)
  of_x, of_y = checks.labels('cas', real, fake, (len(x), len(y)))
  out = {}
  for name, train, test in (('cas_fake_to_real', (y, of_y), (x, of_x)),
                            ('cas_real_to_fake', (x, of_x), (y, of_y))):
    each = [np.mean(fit(*train, seed)(test[0]).argmax(-1) == test[1])
            for seed in range(runs)]
    out[name] = types.Measured(
        float(np.mean(each)), float(np.std(each, ddof=1)) if runs > 1 else None,
        runs, 'runs')
  return out
