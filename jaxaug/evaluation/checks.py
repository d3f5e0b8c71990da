"""What a metric is given of real and of generated images, checked.

Every error is one line that names the metric, the side and what is wrong.
"""
import numpy as np

from jaxaug.core import errors, types

_SIDES = 'real', 'generated'


def features(metric: str, real: types.ImageSet, fake: types.ImageSet,
             least: int = 1) -> tuple[np.ndarray, np.ndarray]:
  """Returns the features of both sides: finite [N, D] with N from `least` up.

  Raises:
    InputError: no such features, or another D on the other side.
  """
  for side, x in zip(_SIDES, (real.features, fake.features), strict=True):
    matrix(metric, f'features of {side} images', x, least)
  widths = [x.features.shape[1] for x in (real, fake)]
  if widths[0] != widths[1]:
    raise errors.InputError(f'{metric}: {widths[0]} features of a real image '
                            f'and {widths[1]} of a generated one; expected as '
                            'many.')
  return real.features, fake.features


def matrix(metric: str, what: str, x: np.ndarray | None, least: int = 1):
  """Raises InputError unless `x` is finite [N, D] with N from `least` up."""
  if x is None or x.ndim != 2 or len(x) < least or not x.shape[1]:
    shape = 'none' if x is None else list(x.shape)
    raise errors.InputError(f'{metric}: {what}: {shape}; expected [N, D] with '
                            f'N of at least {least}.')
  if not np.isfinite(x).all():
    raise errors.InputError(f'{metric}: {what}: some are NaN or infinite; '
                            'expected finite numbers.')


def images(metric: str, real: types.ImageSet, fake: types.ImageSet,
           least: int = 1) -> tuple[np.ndarray, np.ndarray]:
  """Returns the images of both sides: uint8 [N, H, W, C] of one size.

  Raises:
    InputError: others, or fewer than `least` on a side.
  """
  for side, x in zip(_SIDES, (real.images, fake.images), strict=True):
    if x is None or x.ndim != 4 or x.dtype != np.uint8 or len(x) < least:
      what = 'none' if x is None else f'{x.dtype} {list(x.shape)}'
      raise errors.InputError(
          f'{metric}: {side} images: {what}; expected uint8 [N, H, W, C] with '
          f'N of at least {least}.')
  sizes = [x.images.shape[1:] for x in (real, fake)]
  if sizes[0] != sizes[1]:
    raise errors.InputError(
        f'{metric}: real images are {list(sizes[0])} and generated ones '
        f'{list(sizes[1])}; expected one size.')
  return real.images, fake.images


def labels(metric: str, real: types.ImageSet, fake: types.ImageSet,
           count: tuple[int, int], needed: bool = True
           ) -> tuple[np.ndarray, np.ndarray]:
  """Returns the labels of both sides, `count` of each.

  needed: else, without labels on both sides all images are of class 0.

  Raises:
    InputError: a side has no labels, or another number of them.
  """
  if not needed and (real.labels is None or fake.labels is None):
    return tuple(np.zeros(n, np.int32) for n in count)
  for side, x, n in zip(_SIDES, (real.labels, fake.labels), count, strict=True):
    if x is None or x.shape != (n,):
      raise errors.InputError(
          f'{metric}: labels of {side} images: '
          f'{"none" if x is None else list(x.shape)}; expected one for each of '
          f'{n} images, by a folder a class or in the file.')
  return real.labels, fake.labels


def classes(metric: str, real: np.ndarray, fake: np.ndarray, least: int
            ) -> list[tuple[np.ndarray, np.ndarray]]:
  """Returns the rows of each class: int [n] of the real side, of the other.

  real, fake: int [N], the labels.

  Raises:
    InputError: a class has fewer than `least` images on a side.
  """
  out = []
  for number in np.union1d(real, fake):
    rows = [np.flatnonzero(x == number) for x in (real, fake)]
    for side, r in zip(_SIDES, rows, strict=True):
      if len(r) < least:
        raise errors.InputError(
            f'{metric}: class {number} has {len(r)} {side} images; expected at '
            f'least {least} of each class.')
    out.append(tuple(rows))
  return out
