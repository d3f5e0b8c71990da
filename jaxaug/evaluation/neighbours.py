"""Euclidean distances between all pairs of features, tile by tile.

|x|^2 + |y|^2 - 2xy in float64 on the device, of features whose mean is taken
off first, so that less of it cancels. Memory is that of one tile, and tiles of
one shape share one compiled program.
"""
import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np

from jaxaug.core import errors

_SIDE = 2048   # Rows and columns of a tile at most.
_CHUNK = 32    # Columns of which the least is looked at first.
# Squared distances below this share of |x|^2 + |y|^2 are rounding: equal rows.
_EQUAL = 1e-12
# Distances and radii closer than this share are the same number twice.
_TIE = 1e-9


class Balls(typing.NamedTuple):
  """What `inside` counts for each point, int64 [N].

  around: balls of the other side that hold the point.
  within: points of the other side that the point's own ball holds.
  """
  around: np.ndarray
  within: np.ndarray


def kth(points: np.ndarray, k: int) -> np.ndarray:
  """Returns float64 [N], each point's distance to its k-th nearest other.

  points: [N, D], finite, N above k. Equal points are others at distance 0.
  """
  with jax.enable_x64(True):
    best = np.full((_padded(len(points)), k), np.inf)
    for i, j, tile in _tiles(points):
      best[i] = _smallest(best[i], tile, k)
      if i != j:
        best[j] = _smallest(best[j], tile.T, k)
  return np.sqrt(best[:len(points), -1])


def nearest(points: np.ndarray, others: np.ndarray,
            own: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
  """Finds the nearest of `others` [M, D] to each of `points` [N, D].

  own: int [N], the one of `others` that each point is, which does not count.

  Returns:
    (int64 [N] which one, the first of equals; float64 [N] how far away).
  """
  rows = _padded(len(points))
  index, least = np.zeros(rows, np.int64), np.full(rows, np.inf)
  with jax.enable_x64(True):
    for i, j, tile in _tiles(points, others, own):
      index[i], least[i] = _nearer(index[i], least[i], tile, j.start)
  return index[:len(points)], np.sqrt(least[:len(points)])


def inside(a: np.ndarray, b: np.ndarray, radii_a: np.ndarray,
           radii_b: np.ndarray, strict: bool) -> tuple[Balls, Balls]:
  """Counts who lies in whose ball: the counts of `a` [N, D] and `b` [M, D].

  radii: float64 [N] and [M]. strict: a point on the surface is outside;
    distances that differ from the radius by rounding are on it.
  """
  limits, counts = [], []
  for radii in (radii_a, radii_b):
    limit = np.full(_padded(len(radii)), -1.)
    limit[:len(radii)] = radii**2 * (1 - _TIE if strict else 1 + _TIE)
    limits.append(limit)
    counts.append(np.zeros((2, len(limit)), np.int64))
  with jax.enable_x64(True):
    for i, j, tile in _tiles(a, b):
      new = _inside(tile, limits[0][i], limits[1][j], strict)
      for side, part, count in zip(counts, (i, j), new, strict=True):
        side[:, part] += count
  return tuple(Balls(*side[:, :len(radii)]) for side, radii in
               zip(counts, (radii_a, radii_b), strict=True))


def mean_distance(points: np.ndarray) -> float:
  """Returns the mean distance of all pairs of points [N, D], N at least 2."""
  with jax.enable_x64(True):
    total = sum(float(_total(tile)) * (1 if i == j else 2)
                for i, j, tile in _tiles(points))
  return total / (len(points) * (len(points) - 1))


def copies(metric: str, real: np.ndarray, fake: np.ndarray,
           quantile: float) -> tuple[float, float]:
  """Says how much closer `fake` [M, D] is to `real` [N, D] than real to itself.

  Returns:
    (share of fakes whose nearest real one is as close as only a share of
    `quantile` of the real ones have another, median of those distances over
    the median between real ones).

  Raises:
    InputError: half of the real ones have a twin, so that there is no ratio.
  """
  errors.between(f'{metric}.quantile', quantile, 0, 1)
  apart, distance = kth(real, 1), nearest(fake, real)[1]
  middle = np.median(apart)
  if middle == 0:
    raise errors.InputError(f'{metric}: half of the {len(real)} real images '
                            'have an equal one; expected different images.')
  close = distance <= np.quantile(apart, quantile)
  return float(close.mean()), float(np.median(distance) / middle)


def _side(count: int) -> int:
  """How many rows each block of `count` points has: few different numbers."""
  grain = 256 if count > 128 else 64
  blocks = -(-count // _SIDE)
  return -(-count // (blocks * grain)) * grain


def _padded(count: int) -> int:
  return -(-count // _side(count)) * _side(count)


def _blocks(points, centre, first=0):
  """Yields (slice, float64 [B, D], squares [B]); rows to spare are far away."""
  side = _side(len(points))
  for start in range(first, len(points), side):
    rows = np.asarray(points[start:start + side], np.float64) - centre
    squares = np.full(side, np.inf)
    squares[:len(rows)] = np.einsum('nd,nd->n', rows, rows)
    spare = np.zeros((side - len(rows), rows.shape[1]))
    yield (slice(start, start + side), np.concatenate((rows, spare)), squares)


def _tiles(a, b=None, own=None):
  """Yields (slice of rows, slice of columns, squared distances [B, C]).

  Without `b`, those of `a` to itself: the upper triangle of the tiles, and a
  point is not its own neighbour. What does not count is at infinity.
  """
  alone = b is None
  own = np.arange(len(a)) if alone else own
  b = a if alone else b
  centre = b.mean(0, dtype=np.float64)
  for i, x, xx in _blocks(a, centre):
    for j, y, yy in _blocks(b, centre, i.start if alone else 0):
      left_out = np.full(len(x), -1)
      if own is not None:
        left_out[:len(own[i])] = own[i] - j.start
      yield i, j, _squared(x, xx, y, yy, left_out)


# Not in one program with what reads it: XLA would fuse the product into the
# reduction, which is 4 times as slow on a CPU.
@jax.jit
def _squared(x, xx, y, yy, left_out):
  both = xx[:, None] + yy
  square = both - 2 * (x @ y.T)
  square = jnp.where(square < _EQUAL * both, 0, square)
  return jnp.where(jnp.arange(len(y)) == left_out[:, None], jnp.inf, square)


@functools.partial(jax.jit, static_argnums=2)
def _smallest(best, tile, k):
  """The k least of `best` [B, k] and the rows of a tile [B, C], in order."""
  chunks = tile.reshape(len(tile), -1, _CHUNK)
  if chunks.shape[1] > k:  # They lie in the k chunks with the least minima.
    index, _ = _ordered(chunks.min(2), k)
    tile = jnp.take_along_axis(chunks, index[..., None], 1)
  return _ordered(jnp.concatenate((best, tile.reshape(len(tile), -1)), 1), k)[1]


def _ordered(x, k):
  """(index, value) [B, k] of the k least of each row; x stays below 1e308."""
  x = jnp.minimum(x, jnp.finfo(x.dtype).max)  # Infinite is what was taken.
  columns = jnp.arange(x.shape[1], dtype=jnp.int32)

  def take(x, _):
    least = x.min(1)
    index = jnp.where(x == least[:, None], columns, x.shape[1]).min(1)
    return jnp.where(columns == index[:, None], jnp.inf, x), (index, least)
  index, value = jax.lax.scan(take, x, None, k)[1]
  return index.T, value.T


@jax.jit
def _nearer(index, least, tile, start):
  new = tile.min(1)
  columns = jnp.arange(tile.shape[1], dtype=jnp.int32)
  at = jnp.where(tile == new[:, None], columns, tile.shape[1]).min(1)
  return (jnp.where(new < least, at + start, index),
          jnp.minimum(new, least))


@functools.partial(jax.jit, static_argnums=3)
def _inside(tile, limit_a, limit_b, strict):
  """Counts [2, B] of the rows and [2, C] of the columns, as `Balls`."""
  below = jnp.less if strict else jnp.less_equal
  in_a, in_b = below(tile, limit_a[:, None]), below(tile, limit_b)

  def count(x, axis):
    return x.sum(axis, dtype=jnp.int32)
  return (jnp.stack((count(in_b, 1), count(in_a, 1))),
          jnp.stack((count(in_a, 0), count(in_b, 0))))


@jax.jit
def _total(tile):
  return jnp.sqrt(jnp.where(jnp.isinf(tile), 0, tile)).sum()
