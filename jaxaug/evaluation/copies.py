"""Finds exact and near duplicates between a pool and real images.

An image is a near duplicate when it lies much closer to a real image than
other real images do. A fixed distance would not do: two different trousers
are more alike than a shirt and its JPEG copy. Two rules look: pixel by pixel,
whatever the mirroring, small shift, brightness and contrast, and laid over each
other, see registration.py, which finds crops, turns, grey copies and other hues
too. Halves mixed with another image are found by neither. This is the audit's
rule; the selector not_copies and the metrics copying and pixel_copying have
their own.
"""
import math
import typing

import numpy as np

from jaxaug.core import errors, randomness
from jaxaug.data import images
from jaxaug.evaluation import registration

REACH = 2             # Shifts of up to this many pixels make no difference.
CANDIDATES = 4        # Real images that each proposal puts up for comparison.
NOISE = 4.            # Grey values; contrast below that says nothing.
LARGEST = 40          # Pixels a side; of larger images, means are compared.
CELLS = 8             # A side; what the first proposal compares.
SPACING = .2, .8      # Limits of how far apart real images count to be.
THRESHOLD = .25, .45  # Limits of what is near, as a share of the spacing.
YARDSTICK = 1000      # More real images than this tell little more.
CLOSEST = .01         # Share of the yardstick that is close in features.
_BLOCK = 2**24        # Numbers in the largest temporary array.
_REAL = 4096          # Real images that proposals look at together.
_SHRUNK = 128         # Pixels a side at most; larger images are made smaller.
_MEMORY = 2**28       # Bytes of images of a side that are held in memory.


class Side(typing.NamedTuple):
  """One side of a comparison.

  images: uint8 [N, H, W, C], or what looks like it, see data/records.py.
  features: float [N, D] of some network, or None on both sides. They put up
    more candidates, and what is close in them is counted apart: networks take
    different images for alike, so that they decide nothing.
  """
  images: np.ndarray
  features: np.ndarray | None = None


class Report(typing.NamedTuple):
  """What `compare` found, for N pool images and M real ones as yardstick.

  exact: bool [N], whether a real image has the same pixels.
  near: bool [N], not exact, but `distance` is below `threshold`, or it is
    `moved`.
  moved: bool [N], a real image that was cropped, turned or recoloured, as only
    the second rule tells.
  distance: float64 [N] to the nearest real image; 0 is a copy, and at 1 it is
    as far away as the third nearest real image is: from that one, or, of what
    is moved, from this image.
  index: int64 [N], which real image that is.
  threshold: float.
  yardstick: float64 [M], the distances of the real images.
  yardstick_found: bool [M], those that are exact, near or moved.
  alike: bool [N], whether a real image is as close in features as only one of
    100 of the yardstick's is; None without features.
  """
  exact: np.ndarray
  near: np.ndarray
  moved: np.ndarray
  distance: np.ndarray
  index: np.ndarray
  threshold: float
  yardstick: np.ndarray
  yardstick_found: np.ndarray
  alike: np.ndarray | None = None


def compare(pool: Side, real: Side, yardstick: Side | None = None,
            moved: bool = True) -> Report:
  """Looks for each pool image among the real ones.

  Mirroring, shifts of up to 2 pixels each way, brightness and contrast make no
  difference; crops of 80 % of a side or more, turns of up to 10 degrees, other
  hues and grey copies little.

  Args:
    pool: N images.
    real: 2 different images or more; the same one again changes nothing.
    yardstick: real images that are not among `real`; None takes `real` itself,
      each image compared with the others. 1,000 are drawn if there are more.
    moved: whether the second rule looks too, which takes most of the time.

  Raises:
    InputError: fewer than 2 different real images, none in the others, or
      images or features that do not fit together.
  """
  leave_out = yardstick is None
  yardstick = real if leave_out else yardstick
  _check(pool, real, yardstick)
  drawn = np.sort(randomness.generator(0).permutation(
      len(yardstick.images))[:YARDSTICK])
  some = _pick(yardstick, drawn)
  # Duplicates must neither crowd out candidates nor hide the spacing.
  hashes, first, counts = np.unique(images.row_hashes(real.images),
                                    return_index=True, return_counts=True)
  if len(first) < 2:
    raise errors.InputError(
        f'audit: all {len(real.images)} real images are the same; expected 2 '
        'different ones or more.')
  real = _pick(real, first)
  exact, twin = _twins(pool.images, hashes)
  found, own = _twins(some.images, hashes)
  if leave_out:
    found = counts[own] > 1
  pool, real, some = map(_held, (pool, real, some))
  left_out = own if leave_out else None
  index, distance = _nearest(pool, real)
  near, ruler = _nearest(some, real, left_out)
  # How far apart real images are, around those that were found.
  matched, place = np.unique(np.concatenate((index[:, 0], near[:, 0])),
                             return_inverse=True)
  _, apart = _nearest(_pick(real, matched), real, matched)
  spacing = np.clip(apart[:, min(2, len(first) - 2)], *SPACING)[place]
  distance = distance[:, 0] / spacing[:len(exact)]
  ruler = ruler[:, 0] / spacing[len(exact):]
  limit = threshold(ruler[~found] if not found.all() else ruler)
  ((mine, laid, moved), (_, ruler_laid, moved_real)) = _moved(
      pool, some, real, left_out, found, moved)
  near = ~exact & (distance < limit)
  moved &= ~exact & ~near
  moved_real &= ~found & (ruler >= limit)
  return Report(
      exact, near | moved, moved,
      np.where(exact, 0, np.where(moved, laid, distance)),
      first[np.where(exact, twin, np.where(moved, mine, index[:, 0]))], limit,
      np.where(found, 0, np.where(moved_real, ruler_laid, ruler)),
      found | (ruler < limit) | moved_real,
      None if real.features is None else feature_distances(pool, real)
      < np.quantile(feature_distances(some, real, left_out), CLOSEST))


def _moved(pool: Side, some: Side, real: Side, own, found, look: bool):
  """Lays images over real ones; see registration.nearest.

  Args:
    pool, some, real: the pool, the yardstick, and different real images.
    own: int, which of these each of the yardstick is, or None.
    found: bool, which of the yardstick are duplicates.
    look: False to lay nothing over anything.

  Returns:
    Of the pool and of the yardstick (index, ratio, whether that is too small).
  """
  count = len(real.images) - (own is not None)
  if not look or count < registration.LEAST or min(
      real.images.shape[1:3]) < registration.LEAST_SIDE:
    return tuple((np.zeros(len(side.images), np.int64),
                  np.full(len(side.images), 2.),
                  np.zeros(len(side.images), bool)) for side in (pool, some))
  mine, ratio = registration.nearest(pool.images, real.images)
  theirs, ruler = registration.nearest(some.images, real.images, own)
  limit = threshold(ruler[~found] if not found.all() else ruler)
  return (mine, ratio, ratio < limit), (theirs, ruler, ruler < limit)


def feature_distances(some: Side, real: Side, own=None) -> np.ndarray:
  """Returns float64 [N], how far the nearest of `real` is in features.

  own: int [N], the real image that each one is, which does not count.
  """
  from scipy.spatial import distance  # Takes a while to load.
  ours, theirs = (np.asarray(side.features, np.float64)
                  for side in (some, real))
  size, out = max(1, _BLOCK // max(len(theirs), theirs.shape[1])), []
  for start in range(0, len(ours), size):
    rows = slice(start, start + size)
    apart = distance.cdist(ours[rows], theirs)
    if own is not None:
      apart[np.arange(len(apart)), own[rows]] = np.inf
    out.append(apart.min(1))
  return np.concatenate(out)


def threshold(distances: np.ndarray) -> float:
  """Returns the distance below which clean images are rarely found.

  Distances to the nearest image are about log-normal; this is 3 standard
  deviations below the median, 0.13 %, and 0.45 at most. The spread comes from
  the tenth percentile, which some duplicates among the images hardly move.
  """
  middle, low = np.maximum(np.quantile(distances, (.5, .1)), 1e-9)
  # A normal distribution has its tenth percentile at -1.2816.
  return float(np.clip(middle * (low / middle)**(3 / 1.2816), *THRESHOLD))


def _check(pool: Side, real: Side, yardstick: Side):
  shape = real.images.shape[1:]
  for name, (pixels, features), least in (
      ('pool', pool, 1), ('real', real, 2), ('yardstick', yardstick, 1)):
    if (pixels.dtype != np.uint8 or pixels.ndim != 4
        or pixels.shape[1:] != shape or len(pixels) < least):
      raise errors.InputError(
          f'audit: {name} images are {pixels.dtype} {list(pixels.shape)}; '
          f'expected uint8 {["N", *shape]} with N of {least} or more.')
    if (features is None) != (real.features is None) or (
        features is not None
        and features.shape != (len(pixels), real.features.shape[-1])):
      raise errors.InputError(
          f'audit: {name} features are '
          f'{None if features is None else list(features.shape)} for '
          f'{len(pixels)} images; expected one row an image, on every side.')


def _pick(side: Side, rows) -> Side:
  return Side(images.take(side.images, rows),
              None if side.features is None else side.features[rows])


def _twins(pixels, hashes):
  """Returns (bool [N]: same pixels as one of the sorted hashes, which)."""
  mine = images.row_hashes(pixels)
  place = np.minimum(np.searchsorted(hashes, mine), len(hashes) - 1)
  return hashes[place] == mine, place


def _unit(pixels):
  """Vectors [..., D] of length 1 that brightness and contrast leave alone.

  One more number, the same for all images before the division, keeps the
  noise of a blank image from being all that is left of it.
  """
  flat = pixels.reshape(*pixels.shape[:-3], -1)
  out = np.empty((*flat.shape[:-1], flat.shape[-1] + 1), np.float32)
  np.subtract(flat, flat.mean(-1, keepdims=True, dtype=np.float32),
              out=out[..., :-1])
  out[..., -1] = NOISE * math.sqrt(flat.shape[-1])
  out /= np.sqrt(np.einsum('...d,...d->...', out, out))[..., None]
  return out


def _shrunk(pixels):
  """Makes large images smaller, by means of whole pixels."""
  height, width = pixels.shape[1:3]
  cell = math.ceil(max(height, width) / _SHRUNK)
  if cell == 1 or min(height, width) < cell:
    return pixels
  h, w = height // cell, width // cell
  sums = pixels[:, :h * cell, :w * cell].reshape(
      len(pixels), h, cell, w * cell, -1).sum(2, np.int32)
  sums = sums.reshape(len(pixels), h, w, cell, -1).sum(3)
  return np.rint(sums / cell**2).astype(np.uint8)


def _held(side: Side) -> Side:
  """The same, its images small and in memory, where they are not too many."""
  count = len(side.images)
  size = math.prod(_shrunk(side.images[:1]).shape)
  if count * size > _MEMORY:
    return side
  step = max(1, _BLOCK // math.prod(side.images.shape[1:]))
  return side._replace(images=np.concatenate([
      _shrunk(part) for part in images.blocks(side.images, step)]))


def _views(pixels, reach: int, most: int, one: bool = False):
  """Cuts windows that are `reach` smaller than the images on every side.

  Args:
    pixels: uint8 [N, H, W, C].
    reach: pixels.
    most: larger windows become means of at most so many cells a side.
    one: cut out the centre only, instead of all windows of the images and of
      their mirrors.

  Returns:
    [N, A, h, w, C]: uint8, or float32 means.
  """
  h, w = (s - 2 * reach for s in pixels.shape[1:3])
  y, x = math.ceil(h / most), math.ceil(w / most)
  for axis, cell in ((1, y), (2, x)):  # Sums around every pixel, once.
    if cell > 1:
      pad = [(int(i == axis), 0) for i in range(4)]
      sums = np.cumsum(np.pad(pixels, pad), axis, np.int32)
      sums = np.moveaxis(sums, axis, 0)
      pixels = np.moveaxis(sums[cell:] - sums[:-cell], 0, axis)
  if y * x > 1:
    pixels = np.divide(pixels, y * x, dtype=np.float32)
  shifts = (reach,) if one else range(2 * reach + 1)
  return np.stack([
      p[:, top:top + h - y + 1:y, left:left + w - x + 1:x]
      for p in ((pixels,) if one else (pixels, pixels[:, :, ::-1]))
      for top in shifts for left in shifts], 1)


def _proposed(count: int, real: Side, own, scored) -> np.ndarray:
  """Returns real images of the highest scores: int64 [N, K], in order.

  Args:
    count: N.
    real: the images.
    own: int [N] or None, see `_nearest`.
    scored(part) -> float32 [N, M] of the real images of a slice.
  """
  total = len(real.images)
  most = min(CANDIDATES, total)
  index = np.zeros((count, 0), np.int64)
  best = np.zeros((count, 0), np.float32)
  for start in range(0, total, _REAL):
    part = slice(start, min(start + _REAL, total))
    scores = scored(part)
    if own is not None:
      mine = np.flatnonzero((own >= part.start) & (own < part.stop))
      scores[mine, own[mine] - start] = -np.inf
    k = min(most, scores.shape[1])
    top = np.argpartition(scores, -k)[:, -k:]
    index = np.concatenate((index, top + start), 1)
    best = np.concatenate((best, np.take_along_axis(scores, top, 1)), 1)
    keep = np.argpartition(best, -k)[:, -most:]
    index, best = (np.take_along_axis(x, keep, 1) for x in (index, best))
  return np.sort(index)


def _nearest(some: Side, real: Side, own=None):
  """Finds real images near each of N images.

  All real images are compared with all windows of an image in a few cells;
  the best of them, and the nearest in features, pixel by pixel.

  Args:
    some, real: the images.
    own: int [N], the real image that each one is, which does not count.

  Returns:
    (index int64 [N, K], distance float64 [N, K]), the nearest first: the root
    mean square difference in standard deviations, from 0 to 2.
  """
  count, shape = len(some.images), _shrunk(real.images[:1]).shape[1:]
  reach = min(REACH, min(shape[:2]) // 4)
  windows = 2 * (2 * reach + 1)**2
  held = max(1, _BLOCK // math.prod(real.images.shape[1:]))

  def by_cells(part):
    cells = np.concatenate([
        _unit(_views(_shrunk(real.images[rows]), reach, CELLS, one=True)[:, 0])
        for rows in images.blocks(np.arange(part.start, part.stop), held)]).T
    out = np.empty((count, cells.shape[1]), np.float32)
    size = max(1, _BLOCK // 8 // (windows * cells.shape[1]))
    for start in range(0, count, size):
      rows = slice(start, start + size)
      few = _unit(_views(_shrunk(some.images[rows]), reach, CELLS))
      # One product of matrices: a stack of them is slower.
      out[rows] = (few.reshape(-1, few.shape[-1]) @ cells).reshape(
          *few.shape[:2], -1).max(1)
    return out

  def by_features(part):
    theirs = real.features[part]
    return np.float32(2 * some.features @ theirs.T - (theirs**2).sum(1))
  index = _proposed(count, real, own, by_cells)
  if some.features is not None:
    index = np.concatenate(
        (index, _proposed(count, real, own, by_features)), 1)
  distance = np.empty(index.shape)
  size = max(1, _BLOCK // (windows * math.prod(shape)))
  for start in range(0, count, size):
    rows = slice(start, start + size)
    theirs = _shrunk(real.images[index[rows].reshape(-1)])
    fine = _unit(_views(theirs, reach, LARGEST, one=True)[:, 0])
    every = _unit(_views(_shrunk(some.images[rows]), reach, LARGEST))
    alike = (every @ fine.reshape(*index[rows].shape, -1).swapaxes(1, 2)).max(1)
    distance[rows] = np.sqrt(np.maximum(2 - 2 * alike.astype(np.float64), 0))
  if own is not None:
    distance[index == own[:, None]] = 2
  order = np.argsort(distance, 1, kind='stable')
  return (np.take_along_axis(index, order, 1),
          np.take_along_axis(distance, order, 1))
