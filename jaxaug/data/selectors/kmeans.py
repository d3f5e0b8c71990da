"""Keeps the image nearest to each centre of k-means, within every class.

As Tiny ImageNet's rare classes were augmented with SinGAN: raw features of a
network (there VGG-19), scikit-learn's KMeans, the nearest image to each centre.
"""
import numpy as np

from jaxaug.core import errors, types
from jaxaug.data import distances, picking

# Fields of types.Known that it looks at, beside the training split.
NEEDS = ('features',)


def build(known: types.Known, *, count: int = 5, starts: int = 10,
          normalize: bool = False):
  """Returns select(images, labels) -> what is dropped.

  Two centres that have the same nearest image share the images out, so that
  the sum of squared distances is least.

  Args:
    known: its features.
    count: clusters, and images kept, of each class that has any.
    starts: runs of k-means, of which the best counts.
    normalize: make features of length 1 first; the paper does not.
  """
  errors.count('count', count)
  errors.count('starts', starts)
  errors.one_of('normalize', normalize, (True, False))

  def pick(x, most, rng):
    import warnings

    from scipy import optimize
    from sklearn import cluster, exceptions
    with warnings.catch_warnings():  # Equal images: fewer clusters than asked.
      warnings.simplefilter('ignore', exceptions.ConvergenceWarning)
      centres = cluster.KMeans(most, n_init=starts, random_state=int(
          rng.integers(2**31))).fit(x).cluster_centers_
    apart = distances.squared(centres, x)
    return np.sort(optimize.linear_sum_assignment(apart)[1])
  return picking.of_features(known, pick, count=count, normalize=normalize)
