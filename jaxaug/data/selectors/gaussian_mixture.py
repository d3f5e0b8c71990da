"""Keeps the image that is most typical of each part of a Gaussian mixture.

Expectation maximisation, Dempster, Laird and Rubin 1977, by scikit-learn, on
principal components: there may be fewer images than features.
"""
import numpy as np

from jaxaug.core import errors, types
from jaxaug.data import picking

# Fields of types.Known that it looks at, beside the training split.
NEEDS = ('features',)


def build(known: types.Known, *, count: int = 5, dimensions: int = 32,
          starts: int = 3, normalize: bool = False):
  """Returns select(images, labels) -> what is dropped.

  A part's image is the one of the highest density under it times the part's
  responsibility for the image; no image is that of two parts.

  Args:
    known: its features.
    count: parts, and images kept, of each class that has any.
    dimensions: principal components of a class at most; the covariances of its
      parts are diagonal in them.
    starts: runs from other k-means clusters, of which the best counts.
    normalize: make features of length 1 first.
  """
  errors.count('count', count)
  errors.count('dimensions', dimensions)
  errors.count('starts', starts)
  errors.one_of('normalize', normalize, (True, False))

  def pick(x, most, rng):
    import warnings

    from scipy import optimize, special
    from sklearn import exceptions, mixture
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    z = u[:, :dimensions] * s[:dimensions]
    z /= max(z.std(0).max(), 1e-12)  # So that 1e-4 is small, or all of it.
    with warnings.catch_warnings():  # Equal images: fewer parts than asked.
      warnings.simplefilter('ignore', exceptions.ConvergenceWarning)
      found = mixture.GaussianMixture(
          most, covariance_type='diag', reg_covar=1e-4, n_init=starts,
          random_state=int(rng.integers(2**31))).fit(z)
    apart = z - found.means_[:, None]
    variance = found.covariances_[:, None]
    density = -.5 * (apart**2 / variance + np.log(variance)).sum(2)
    joint = density + np.log(found.weights_)[:, None]
    typical = density + joint - special.logsumexp(joint, 0)
    return np.sort(optimize.linear_sum_assignment(-typical)[1])
  return picking.of_features(known, pick, count=count, normalize=normalize)
