"""Drops near copies of training images, and what is far from all of them.

The yardstick is how far training images lie from each other, as with Alaa et
al. 2022, "How faithful is your synthetic data?" (authenticity); Meehan,
Chaudhuri and Dasgupta 2020, "A non-parametric test to detect data-copying in
generative models", have held-out images in that place. Authenticity takes
about half of all new real images for copies; here it is as small a share as one
likes.
"""
import typing

import numpy as np

from jaxaug.core import errors, randomness, types
from jaxaug.data import distances, picking

# Fields of types.Known that it looks at, beside the training split.
NEEDS = ('features', 'pixels')

_CANDIDATES = 4    # Training images that features and pixels each put up.
_THIRD = 3         # How far the third nearest is, is the spacing around one.
_YARDSTICK = 2000  # More training images than this tell little more.
_LARGEST = 32      # Pixels a side; of larger images, means are compared.
_BLOCK = 2**23     # Numbers in the largest temporary array.


class _Side(typing.NamedTuple):
  """features float64 [N, D]; pixels [N, h, w, C], h and w of 32 at most."""
  features: np.ndarray
  pixels: np.ndarray

  def rows(self, which):
    """Returns some of them."""
    return _Side(*(x[which] for x in self))


def _cells(images):
  """Returns means of cells [N, h, w, C], h and w of 32 at most."""
  for axis in (1, 2):
    length = images.shape[axis]
    if length > _LARGEST:
      edges = np.arange(_LARGEST) * length // _LARGEST
      sizes = np.diff(edges, append=length).reshape(-1, *[1] * (3 - axis))
      images = np.add.reduceat(images, edges, axis, np.float32) / sizes
  return images


def _in_features(some: _Side, real: _Side, own):
  there = len(real.features) - (own is not None)
  return distances.nearest(some.features, real.features,
                           min(_CANDIDATES, there), own)


def _in_pixels(some: _Side, real: _Side, own, reach: int):
  """The least distances over shifts to candidates: as `distances.nearest`."""
  put_up, _ = _in_features(some, real, own)
  k = put_up.shape[1]
  also, _ = distances.nearest(_flat(some.pixels), _flat(real.pixels), k, own)
  index = np.concatenate((put_up, also), 1)
  each = (2 * reach + 1)**2 * real.pixels[0].size
  apart = np.concatenate([
      _shifted(some.pixels[rows], real.pixels[index[rows]], reach)
      for rows in _slices(len(index), each)])
  # What both put up counts once.
  apart[:, k:][(also[:, :, None] == put_up[:, None]).any(2)] = np.inf
  order = np.argsort(apart, 1, kind='stable')[:, :k]
  return (np.take_along_axis(index, order, 1),
          np.take_along_axis(apart, order, 1))


def _flat(pixels):
  return pixels.reshape(*pixels.shape[:-3], -1)


def _slices(count, each):
  """Rows that are handled at a time, where each takes so many numbers."""
  size = max(1, _BLOCK // each)
  return [slice(i, i + size) for i in range(0, count, size)]


def _shifted(pixels, others, reach):
  """Distances [B, K] of images [B, h, w, C] to K others each [B, K, h, w, C].

  The least over shifts of up to `reach` pixels, of what stays inside.
  """
  h, w = (s - 2 * reach for s in pixels.shape[1:3])
  def window(x, y, x0):
    return np.float64(_flat(x[..., y:y + h, x0:x0 + w, :]))
  every = np.stack([window(pixels, y, x) for y in range(2 * reach + 1)
                    for x in range(2 * reach + 1)], 1)
  middle = window(others, reach, reach)
  square = (np.einsum('bsd,bsd->bs', every, every)[..., None]
            - 2 * every @ middle.swapaxes(1, 2)
            + np.einsum('bkd,bkd->bk', middle, middle)[:, None])
  return np.sqrt(np.maximum(square.min(1), 0))


def _copied(find, fake: _Side, real: _Side, share, rng):
  """Whether each image is nearer than a share of training images are.

  Distances are those to the nearest training image, as a multiple of how far
  its third nearest other one is from that.
  """
  drawn = np.sort(rng.permutation(len(real.pixels))[:_YARDSTICK])
  index, apart = (x[:, 0] for x in find(fake, real, None))
  near, ruler = (x[:, 0] for x in find(real.rows(drawn), real, drawn))
  matched, place = np.unique(np.concatenate((index, near)),
                             return_inverse=True)
  who, others = find(real.rows(matched), real, matched)
  who, others = who[place], others[place]
  # Of a training image too, the three are others than itself.
  itself = np.concatenate((np.full(len(index), -1), drawn))
  among = (who[:, :_THIRD] == itself[:, None]).any(1)
  last = others.shape[1] - 1
  spacing = np.where(among, others[:, min(_THIRD, last)],
                     others[:, min(_THIRD - 1, last)])
  ratio = np.concatenate((apart, ruler)) / np.maximum(spacing, 1e-9)
  ratio, ruler = ratio[:len(index)], ratio[len(index):]
  ruler = ruler[ruler > 1e-6]  # Twins among the training images tell nothing.
  limit = np.quantile(ruler, share, method='weibull') if len(ruler) else 1e-6
  return ratio <= limit


def _outlying(x, labels, real, of_real, share):
  """Whether each image is farther from its class than a share of it is."""
  out = np.zeros(len(x), bool)
  for k in np.unique(labels):
    mine = real[of_real == k]
    _, apart = distances.nearest(x[labels == k], mine)
    _, ruler = distances.nearest(mine, mine, 1, np.arange(len(mine)))
    # Of 10 values a new one is above the highest with a chance of 1 in 11.
    out[labels == k] = apart[:, 0] > np.quantile(ruler, 1 - share,
                                                 method='weibull')
  return out


def build(known: types.Known, *, copies: float = 0.01, outliers: float = 0.02,
          reach: int = 2):
  """Returns select(images, labels) -> what is dropped.

  A copy is nearer to a training image than most training images are to
  another, in features or in pixels; for pools, then. Mirrored copies are not
  looked for.

  Args:
    known: its training split and features.
    copies: share of the training images that are as near to another one; so
      many of new images are dropped too, by features and by pixels each.
    outliers: share of each class's training images that are as far from all
      others of it, in features.
    reach: shifts of up to so many pixels make no difference to the distance in
      pixels; of images of more than 32 a side, of 1/32 of it.

  Raises:
    InputError: a class with fewer than 2 training images.
  """
  errors.between('copies', copies, 0, 1)
  errors.between('outliers', outliers, 0, 1)
  errors.count('reach', reach, 0)
  train = known.train
  picking.at_least_two(known, 'novelty')
  within = min(reach, min(train.images.shape[1:3]) // 4)

  def select(images, labels):
    if not len(labels):
      return {}
    x, of_real = (np.asarray(known.features(i), np.float64)
                  for i in (images, train.images))
    x, of_real = x - of_real.mean(0), of_real - of_real.mean(0)
    fake, real = (_Side(f, _cells(i)) for f, i in (
        (x, images), (of_real, train.images)))
    near = [_copied(find, fake, real, copies,
                    randomness.generator(known.seed))
            for find in (_in_features, lambda some, real, own: _in_pixels(
                some, real, own, within))]
    return {'near copy of a training image': near[0] | near[1],
            'far from its class': _outlying(x, labels, of_real, train.labels,
                                            outliers)}
  return select
