"""What selectors share: a few images of each class, or a share of them."""
import math

import numpy as np

from jaxaug.core import errors, randomness, types

REASON = 'not a representative'


def at_least_two(known: types.Known, selector: str):
  """Refuses a class of fewer than 2 training images, for others to compare."""
  for k, name in enumerate(known.class_names):
    if (count := np.count_nonzero(known.train.labels == k)) < 2:
      raise errors.InputError(
          f'{selector}: class {name!r} has {count} training images; expected 2 '
          'or more, or another selector.')


def picked(known: types.Known, labels: np.ndarray, pick, *, count: int = 0,
           share: float = 0.0, reason: str = REASON) -> dict[str, np.ndarray]:
  """Says what a selector drops that picks some images of each class.

  Args:
    known: names of the classes, and the seed.
    labels: int [N].
    pick: pick(rows int [n], how many, generator) -> so many different
      positions in `rows`; asked for fewer than n only.
    count: how many of each class that has images.
    share: of each class, rounded up; in place of `count` if that is 0.
    reason: of what is not picked.

  Raises:
    InputError: a class with fewer than `count` images.
  """
  dropped = np.ones(len(labels), bool)
  for label in np.unique(labels):
    rows = np.flatnonzero(labels == label)
    # A product such as 0.1 * 30 is a bit above the whole number that it is.
    most = count or math.ceil(share * len(rows) - 1e-9)
    if most > len(rows):
      raise errors.InputError(
          f'count: {count} representatives of class '
          f'{known.class_names[label]!r}, which has {len(rows)} images; '
          'expected as many images as that, or a lower count.')
    some = np.arange(most) if most == len(rows) else pick(
        rows, most, randomness.generator(known.seed, int(label)))
    dropped[rows[some]] = False
  return {reason: dropped}


def of_features(known: types.Known, pick, *, normalize: bool = False, **how):
  """Returns the select of a selector that looks at features alone.

  Args:
    known: what it may look at.
    pick: pick(features float64 [n, D], how many, generator) -> positions; the
      features have mean zero, unless they are normalized.
    normalize: make features of length 1 first.
    **how: see `picked`.
  """
  def select(images, labels):
    if not len(labels):
      return {}
    x = np.asarray(known.features(images), np.float64)
    if normalize:
      x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return picked(known, labels, lambda rows, most, rng: pick(
        x[rows] - (0 if normalize else x[rows].mean(0)), most, rng), **how)
  return select
