"""KID: the squared maximum mean discrepancy of the features, unbiased.

Binkowski et al. 2018, "Demystifying MMD GANs": the kernel (x.y / D + 1)^3, mean
and standard deviation over random subsets. Subsets and standard deviation
(population) are those of torch-fidelity with the generated images first.
"""
import jax
import jax.numpy as jnp
import numpy as np

from jaxaug.core import errors, types
from jaxaug.evaluation import checks

NEEDS = ('features',)
VALUES = {'kid': types.Number('kernel distance', '', True)}
_ROWS = 1024  # Of the kernel matrix at a time.


def compute(real: types.ImageSet, fake: types.ImageSet, *, subsets: int = 100,
            subset_size: int = 1000, seed: int = 2020
            ) -> dict[str, types.Measured]:
  """Returns the mean over subsets; a little below 0 for equal distributions.

  Args:
    real, fake: the images.
    subsets: how many are drawn.
    subset_size: images of each side in one; all of the smaller side at most.
    seed: of the draw.

  Raises:
    InputError: a senseless number, or unfit features.
  """
  errors.count('kid.subsets', subsets)
  errors.count('kid.subset_size', subset_size, 2)
  errors.count('kid.seed', seed, 0)
  x, y = checks.features('kid', real, fake, 2)
  size = min(subset_size, len(x), len(y))
  random = np.random.RandomState(seed % 2**32)
  drawn = [[random.choice(len(side), size, replace=False) for side in (y, x)]
           for _ in range(subsets)]
  with jax.enable_x64(True):
    if len(x)**2 + len(y)**2 + len(x) * len(y) < 3 * subsets * size**2:
      each = _discrepancy(x, _members(x, [i for _, i in drawn]),
                          y, _members(y, [j for j, _ in drawn]))
    else:
      every = np.ones((size, 1))
      each = np.concatenate([_discrepancy(x[i], every, y[j], every)
                             for j, i in drawn])
  # Subsets that are all the images are one and the same.
  spread = float(each.std()) if subsets > 1 and (
      size < max(len(x), len(y))) else None
  return {'kid': types.Measured(float(each.mean()), spread, subsets,
                                f'subsets of {size}')}


def _members(x, drawn):
  """Returns float64 [N, subsets], 1 where a subset holds the image."""
  out = np.zeros((len(x), len(drawn)))
  for i, rows in enumerate(drawn):
    out[rows, i] = 1
  return out


def _discrepancy(x, of_x, y, of_y):
  """Returns [subsets] from features and their membership [N, subsets]."""
  size = of_x[:, 0].sum()
  within = 0
  for z, members in ((x, of_x), (y, of_y)):
    squares = np.einsum('nd,nd->n', z, z, dtype=np.float64)
    own = (squares / z.shape[1] + 1)**3
    within += _sums(z, members, z, members) - own @ members
  return (within / (size * (size - 1))
          - 2 * _sums(x, of_x, y, of_y) / size**2)


def _sums(x, of_x, y, of_y):
  """Returns [subsets], the kernel summed over all pairs in each subset."""
  y, total = jnp.asarray(y, jnp.float64), 0
  rows = min(_ROWS, len(x))
  for start in range(0, len(x), rows):
    part, members = (np.asarray(z[start:start + rows], np.float64)
                     for z in (x, of_x))
    spare = ((0, rows - len(part)), (0, 0))
    total += np.asarray(_weigh(_kernel(np.pad(part, spare), y),
                               np.pad(members, spare), of_y))
  return total


# Not in one program with what reads it: XLA would fuse the product into the
# reduction, which is 4 times as slow on a CPU.
@jax.jit
def _kernel(x, y):
  return (x @ y.T / x.shape[1] + 1)**3


@jax.jit
def _weigh(kernel, of_x, of_y):
  return ((kernel @ of_y) * of_x).sum(0)
