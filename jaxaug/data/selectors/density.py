"""Drops images whose features are unlikely in their class: noise, mostly.

DeVries, Drozdzal and Taylor 2020, "Instance selection for GANs": the likelihood
under a Gaussian of each class. Few images do not give a covariance: it is
shrunk as by Ledoit and Wolf 2004, "A well-conditioned estimator for
large-dimensional covariance matrices", and towards the one that all classes
share, as by Friedman 1989, "Regularized discriminant analysis".
"""
import functools
import typing

import numpy as np

from jaxaug.core import errors, types
from jaxaug.data import images as image_arrays
from jaxaug.data import picking

# Fields of types.Known that it looks at, beside the training split.
NEEDS = ('features',)


class _Gaussian(typing.NamedTuple):
  """mean float64 [D]; root [D, D], Cholesky's of the covariance."""
  mean: np.ndarray
  root: np.ndarray

  def log_likelihood(self, x):
    """Of rows [n, D], without the constant: float64 [n]."""
    return -.5 * _squares(self.root, x - self.mean) - _log(self.root)


def _squares(root, x):
  """x^T (root root^T)^-1 x, of each row."""
  from scipy import linalg
  z = linalg.solve_triangular(root, x.T, lower=True)
  return np.einsum('dn,dn->n', z, z)


def _log(root):
  """Half the logarithm of the determinant of root root^T."""
  return np.log(np.diag(root)).sum()


class _Shrunk(typing.NamedTuple):
  """A covariance of n rows about class means: kept * moment + ridge * I.

  moment: float64 [D, D], the mean of the rows' products.
  """
  moment: np.ndarray
  kept: float
  ridge: float
  n: int


def _shrink(apart) -> _Shrunk:
  from sklearn import covariance
  share = covariance.ledoit_wolf_shrinkage(apart, assume_centered=True)
  moment = apart.T @ apart / len(apart)
  return _Shrunk(moment, 1 - share, share * np.trace(moment) / len(moment),
                 len(apart))


def learn(groups: list[np.ndarray], shared: float):
  """Fits the Gaussian of each class, and judges its images by the others.

  Without an image, the mean goes away from it, and the covariance, also what
  classes share of it, loses a multiple of r r^T, of its distance r from the
  mean; the likelihood is then Sherman's and Morrison's. Shrinkage stays as it
  is.

  Args:
    groups: float64 [n, D], features of the images of each class, n from 2.
    shared: weight of the covariance of all classes about their means.

  Returns:
    (a _Gaussian of each class; of each class float64 [n], the log-likelihoods
    of its images under the Gaussian without each).
  """
  apart = [group - group.mean(0) for group in groups]
  every, models, held_out = _shrink(np.concatenate(apart)), [], []
  # Dead features, or images that are all the same, have a likelihood too.
  least = 1e-6 * np.trace(every.moment) / len(every.moment) + 1e-12
  for group, r in zip(groups, apart, strict=True):
    n, mine = len(group), _shrink(r)
    ridge = shared * every.ridge + (1 - shared) * mine.ridge + least
    a, b = shared * every.kept, (1 - shared) * mine.kept
    models.append(_Gaussian(group.mean(0), _root(
        a * every.moment + b * mine.moment, ridge)))
    # Means over one row fewer, before what the row itself gave is taken off.
    a, b = a / (every.n - 1), b / (n - 1)
    without = _root(a * every.n * every.moment + b * n * mine.moment, ridge)
    square = _squares(without, r)
    left = 1 - (a + b) * n / (n - 1) * square
    held_out.append(-.5 * (n / (n - 1))**2 * square / left - _log(without)
                    - .5 * np.log(left))
  return models, held_out


def _root(moment, ridge):
  return np.linalg.cholesky(moment + ridge * np.eye(len(moment)))


def build(known: types.Known, *, drop: float = 0.1, shared: float = 0.5):
  """Returns select(images, labels) -> what is dropped.

  Training images judge themselves too well where there are few: each is judged
  by the others, also where it is in the set that is selected from.

  Args:
    known: its training split and features.
    drop: an image goes that is less likely in its class than this share of
      the class's training images.
    shared: weight of the covariance that all classes share; 0 for the class's
      own alone.

  Raises:
    InputError: a class with fewer than 2 training images.
  """
  errors.between('drop', drop, 0, 1)
  errors.between('shared', shared, 0, 1)
  train = known.train
  picking.at_least_two(known, 'density')

  @functools.cache
  def learned():
    """Models and limits of the classes, and held-out ones by (hash, class)."""
    x = np.asarray(known.features(train.images), np.float64)
    rows = [np.flatnonzero(train.labels == k)
            for k in range(len(known.class_names))]
    models, held_out = learn([x[mine] for mine in rows], shared)
    hashes = image_arrays.row_hashes(train.images)
    # Of 10 values a new one is below the least with a chance of 1 in 11.
    limits = [np.quantile(own, drop, method='weibull') for own in held_out]
    return models, limits, {
        (hashes[i], k): value for k, mine in enumerate(rows)
        for i, value in zip(mine, held_out[k], strict=True)}

  def select(images, labels):
    if not len(labels):
      return {}
    models, limits, held_out = learned()
    x = np.asarray(known.features(images), np.float64)
    likely = np.zeros(len(x))
    for k in np.unique(labels):
      likely[labels == k] = models[k].log_likelihood(x[labels == k])
    keys = zip(image_arrays.row_hashes(images), labels, strict=True)
    likely = np.array([held_out.get(key, value) for key, value in zip(
        keys, likely, strict=True)])
    return {'unlikely in its class': likely < np.array(limits)[labels]}
  return select
