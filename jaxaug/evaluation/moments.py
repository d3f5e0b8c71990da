"""Mean and covariance of features, and the Fréchet distance between two.

Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for
computing sample variances": parts are merged by their means, so that nothing
cancels and constant features have no scatter at all. Heusel et al. 2017, "GANs
trained by a two time-scale update rule": the distance between the Gaussians.
Files are those of the package pytorch-fid: `mu` and `sigma`.
"""
import math
import typing

import numpy as np

from jaxaug.core import errors, files, types

_ROWS = 4096  # Of one part: its float64 copy stays small.
# Eigenvalues this far below the largest are rounding, as a share of it.
_ROUNDING = 10 * np.finfo(np.float64).eps


class Sums(typing.NamedTuple):
  """What `update` remembers: images, float64 mean [D] and scatter [D, D]."""
  count: int
  mean: np.ndarray
  scatter: np.ndarray


def update(sums: Sums | None, features: np.ndarray) -> Sums:
  """Adds features [N, D] to `sums`; None to begin.

  The time is that of one D x D matrix at least: give 1,000 rows or more.

  Raises:
    InputError: no matrix, no finite numbers, or another D than before.
  """
  features = np.asarray(features)
  if features.ndim != 2 or not features.size:
    raise errors.InputError(f'features: shape {list(features.shape)}; expected '
                            '[N, D], both at least 1.')
  if sums and len(sums.mean) != features.shape[1]:
    raise errors.InputError(f'features: {features.shape[1]} an image after '
                            f'{len(sums.mean)}; expected as many.')
  for start in range(0, len(features), _ROWS):
    rows = np.asarray(features[start:start + _ROWS], np.float64)
    if not np.isfinite(rows).all():
      raise errors.InputError('features: some are NaN or infinite; expected '
                              'finite numbers.')
    sums = _add(sums, rows)
  return sums


def _add(sums, rows):
  first = rows[0]
  mean = first + (rows - first).mean(0)  # Exact where all rows are equal.
  centred = rows - mean
  if sums is None:
    return Sums(len(rows), mean, centred.T @ centred)
  apart, count = mean - sums.mean, sums.count + len(rows)
  # One more row stands for the distance of the means.
  centred = np.vstack((centred, apart * (sums.count * len(rows) / count)**.5))
  return Sums(count, sums.mean + apart * (len(rows) / count),
              sums.scatter + centred.T @ centred)


def merge(a: Sums, b: Sums) -> Sums:
  """Joins the sums of two parts."""
  apart, count = b.mean - a.mean, a.count + b.count
  scatter = np.outer(apart, apart * (a.count * b.count / count))
  return Sums(count, a.mean + apart * (b.count / count),
              a.scatter + b.scatter + scatter)


def compute(sums: Sums | None) -> types.Moments:
  """Returns mean and covariance; InputError for fewer than 2 images."""
  count = sums.count if sums else 0
  if count < 2:
    raise errors.InputError(f'{"one image" if count else "no image"} is too '
                            'few for a covariance; expected at least 2.')
  return types.Moments(sums.mean, sums.scatter / (count - 1))


def of(features: np.ndarray) -> types.Moments:
  """Returns mean and covariance of features [N, D], N at least 2."""
  return compute(update(None, features))


def frechet(a: types.Moments, b: types.Moments) -> float:
  """Returns the squared Fréchet distance of two Gaussians, 0 or more.

  |mu_a - mu_b|^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2)): with A = L L^T, the
  eigenvalues of A B are those of the symmetric L^T B L. Needs no inverse, and
  takes covariances of fewer images than features.

  Raises:
    InputError: different numbers of features, or some are not finite.
  """
  if len(a.mean) != len(b.mean):
    raise errors.InputError(f'moments of {len(a.mean)} features beside '
                            f'{len(b.mean)}; expected as many.')
  if not all(np.isfinite(x).all() for x in (*a, *b)):
    raise errors.InputError('moments: some are NaN or infinite; expected '
                            'finite numbers.')
  with np.errstate(all='ignore'):
    try:
      distance = _frechet(a, b)
    except np.linalg.LinAlgError:
      distance = math.nan
  if not math.isfinite(distance):
    raise errors.InputError('moments: their numbers are too large for float64; '
                            'expected those of features.')
  return max(distance, 0.)


def _frechet(a: types.Moments, b: types.Moments) -> float:
  factor = _factor(np.asarray(a.covariance, np.float64))
  values = np.linalg.eigvalsh(factor.T @ b.covariance @ factor)
  values = values[values > _ROUNDING * values.max(initial=0)]
  apart = np.subtract(a.mean, b.mean, dtype=np.float64)
  return float(apart @ apart + np.trace(a.covariance) + np.trace(b.covariance)
               - 2 * np.sqrt(values).sum())


def _factor(covariance):
  """Returns L [D, rank] with L @ L.T = covariance."""
  try:
    return np.linalg.cholesky(covariance)
  except np.linalg.LinAlgError:  # Fewer images than features.
    from scipy.linalg import lapack  # Takes a while to load.
    lower, pivots, rank, _ = lapack.dpstrf(covariance, lower=1)
    factor = np.empty((len(lower), rank))
    factor[pivots - 1] = np.tril(lower)[:, :rank]
    return factor


def save(path, moments: types.Moments, **extra):
  """Writes an .npz file of `mu`, `sigma` and `extra` arrays."""
  files.save_npz(path, mu=moments.mean, sigma=moments.covariance, **extra)


def load(path, where: str = 'statistics') -> tuple[types.Moments, dict]:
  """Reads what `save` or pytorch-fid wrote.

  Args:
    path: of the .npz file.
    where: the option that names it, for the error.

  Returns:
    (the moments in float64, the other arrays by name).

  Raises:
    InputError: the file is missing or damaged, or holds no such moments.
  """
  arrays = files.read_npz(path, where)
  wrong = _wrong(arrays)
  if wrong:
    raise errors.InputError(f'{where}: {path}: {wrong}.')
  return types.Moments(*(np.asarray(arrays.pop(key), np.float64)
                         for key in ('mu', 'sigma'))), arrays


def _wrong(arrays) -> str:
  """Says what keeps arrays from being moments, or ''."""
  mu, sigma = (arrays.get(key) for key in ('mu', 'sigma'))
  if mu is None or sigma is None:
    return (f'holds {", ".join(arrays) or "nothing"}; expected the arrays mu '
            'and sigma')
  if mu.ndim != 1 or not mu.size or sigma.shape != 2 * mu.shape:
    return (f'mu is {list(mu.shape)} and sigma {list(sigma.shape)}; expected '
            '[D] and [D, D]')
  if not all(x.dtype.kind in 'fiu' and np.isfinite(x).all()
             for x in (mu, sigma)):
    return 'mu or sigma is not finite numbers'
  # That of float32 is as good as its rounding.
  if abs(sigma - sigma.T).max() > 1e-5 * abs(sigma).max():
    return 'sigma is not symmetric; expected a covariance'
  if np.diag(sigma).min() < 0:
    return 'sigma has a variance below 0; expected a covariance'
  return ''
