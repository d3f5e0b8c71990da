"""Finds for an image the real one that it is a crop, turn or recolouring of.

Images are laid over each other by a shift, an angle and a scale, as Lucas and
Kanade (1981) do, on their brightness and on the largest of their colours: the
one is what a grey copy has, the other what a change of hue leaves alone. A copy
lies much closer to one real image than that lies to the next ones.
"""
import functools
import math
import typing

import jax
import jax.numpy as jnp
import numpy as np

from jaxaug.data import images

SIDE = 32            # Pixels of the longer side at most; larger images shrink.
NOISE = 4.           # Grey values; contrast below that says nothing.
CENTRE, CELLS = .7, 8      # Of a real image that any crop of it still shows.
WHOLE, WHOLE_CELLS = .84, 10
CANDIDATES = 20, 6    # By the centre, and by the whole.
KEPT = 4             # Of these that are looked at closely.
COARSE, FINE = (12, 4), (24, 8)  # Points of a side, and updates.
REACH = .94          # Share of a side that the points are spread over.
COVERED = .5         # Share of the points that must lie in both images.
LEAST = 4            # Real images; of fewer none is the third nearest.
LEAST_SIDE = 16      # Pixels; in fewer, any image can be laid over any other.
_BLOCK = 2**21       # Numbers in the largest temporary array.
_REAL = 4096         # Real images that are looked through at a time.
_SLAB = 1000         # Images that are registered at a time,
_CHUNK = 2048        # and pairs of them in one call.


class Views(typing.NamedTuple):
  """Ways in which a real image may show in another: float32 [V, 4].

  A point (y, x) of the real one, from its centre, in sides, is at
  ((1 + a) y - b x + ty, b y + (1 + a) x + tx) for each (a, b, ty, tx).
  """
  where: np.ndarray
  points: np.ndarray   # Float32 [P, 2], of the real image.


def nearest(some: np.ndarray, real: np.ndarray,
            own=None) -> tuple[np.ndarray, np.ndarray]:
  """Finds the nearest real image of each, however it was moved.

  Args:
    some: uint8 [N, H, W, C].
    real: uint8 [M, H, W, C], or what looks like it, see data/records.py:
      different ones, M of LEAST at least; sides of LEAST_SIDE at least.
    own: int [N], the real image that each one is, which does not count.

  Returns:
    (index int64 [N], ratio float64 [N]): which it is, and its distance as a
    share of that to the third nearest; by brightness or by the largest colour,
    whichever is smaller.
  """
  ratio, index = np.full(len(some), np.inf), np.zeros(len(some), np.int64)
  colours = some.shape[3]
  for plane, candidates in zip(
      _PLANES[colours], _candidates(some, real, own), strict=True):
    for start in range(0, len(some), _SLAB):
      rows = slice(start, start + _SLAB)
      found, distance = _registered(
          plane, some[rows], real, [x[rows] for x in candidates],
          None if own is None else own[rows])
      mine = distance[:, 0] / np.maximum(distance[:, 2], 1e-3)
      better = mine < ratio[rows]
      index[rows] = np.where(better, found[:, 0], index[rows])
      ratio[rows] = np.minimum(mine, ratio[rows])
  return index, ratio


# By the number of colours, what images are laid over each other by:
# brightness, and the largest of the colours.
_PLANES = {1: (lambda x: x[..., 0],),
           3: (lambda x: x @ np.float32([.299, .587, .114]),
               lambda x: x.max(-1))}


def _small(shape) -> tuple[int, int]:
  """The size at which images of a shape [.., H, W, C] are looked at."""
  return tuple(min(side, SIDE) for side in shape[-3:-1])


def _plane(of, pixels, rows=slice(None)) -> np.ndarray:
  """Returns one of _PLANES of some images, made small: float32 [N, h, w]."""
  shape = pixels.shape
  height, width = (_means(n, m) if n > m else None
                   for n, m in zip(shape[1:3], _small(shape), strict=True))
  out = []
  for part in images.blocks(np.arange(len(pixels))[rows],
                            max(1, _BLOCK // math.prod(shape[1:]))):
    x = of(pixels[part].astype(np.float32))
    x = x if height is None else height @ x
    out.append(x if width is None else x @ width.T)
  return np.concatenate(out)


def _means(n: int, m: int) -> np.ndarray:
  """Returns what makes m means of n pixels: float32 [m, n]."""
  edges = np.linspace(0, n, m + 1)
  left = np.clip(edges[:, None], np.arange(n), np.arange(n) + 1)
  shares = left[1:] - left[:-1]
  return (shares / shares.sum(1, keepdims=True)).astype(np.float32)


def _points(shape, cells: int, share: float) -> np.ndarray:
  """Returns [P, 2], spread over a share of each side; the longer one is 1."""
  spread = (np.arange(cells) + .5) / cells - .5
  height, width = (share * side / max(shape) for side in shape)
  return np.stack(np.meshgrid(spread * height, spread * width, indexing='ij'),
                  -1).reshape(-1, 2).astype(np.float32)


@functools.lru_cache(8)
def _views(shape: tuple[int, int]) -> tuple[Views, Views]:
  """Views by which candidates are found: of the centre, and of the whole."""
  crops = []
  for share, steps in ((1., 1), (.93, 2), (.87, 3), (.81, 3)):
    offsets = np.linspace(-1, 1, steps) * (1 - share) / 2 if steps > 1 else [0]
    crops += [(1 / share - 1, 0, -y / share, -x / share)
              for y in offsets for x in offsets]
  turns = [(math.cos(t) - 1, math.sin(t), 0, 0)
           for t in map(math.radians, (-8, -4, 4, 8))]
  shifts = [(0, 0, y, x) for y in (-.07, 0, .07) for x in (-.07, 0, .07)]
  return (Views(np.float32(crops + turns), _points(shape, CELLS, CENTRE)),
          Views(np.float32(shifts), _points(shape, WHOLE_CELLS, WHOLE)))


def _moved(where, points):
  """Returns [V, P, 2], where points of the real image are in the other."""
  a, b, ty, tx = (where[:, i, None] for i in range(4))
  y, x = points[:, 0], points[:, 1]
  return np.stack([(1 + a) * y - b * x + ty, b * y + (1 + a) * x + tx], -1)


def _reader(points: np.ndarray, shape) -> np.ndarray:
  """Returns what reads 3x3 means at points: float32 [P, h * w]."""
  out = np.zeros((len(points), *shape), np.float32)
  rows = np.arange(len(points))
  for dy in (-1, 0, 1):
    for dx in (-1, 0, 1):
      places = []
      for axis, d in ((0, dy), (1, dx)):
        n = shape[axis]
        at = points[:, axis] * max(shape) + n / 2 - .5 + d
        low = np.clip(np.floor(at), 0, max(n - 2, 0)).astype(int)
        places.append((low, np.clip(at - low, 0, 1), min(n - 1, 1)))
      (y, fy, up), (x, fx, right) = places
      for iy, wy in ((0, 1 - fy), (up, fy)):
        for ix, wx in ((0, 1 - fx), (right, fx)):
          np.add.at(out, (rows, y + iy, x + ix), wy * wx / 9)
  return out.reshape(len(points), -1)


def _unit(cells):
  """Vectors of length 1 that brightness and contrast leave alone."""
  cells = cells - cells.mean(-1, keepdims=True)
  return cells / np.sqrt((cells**2).sum(-1, keepdims=True)
                         + NOISE**2 * cells.shape[-1])


class _Found(typing.NamedTuple):
  """The best so far: which real image, how much alike, by which view; [N, K].
  """
  index: np.ndarray
  alike: np.ndarray
  view: np.ndarray


def _candidates(some, real, own):
  """Returns for each plane (index, start [.., 4], mirrored), [N, K] each."""
  views, m = _views(_small(some.shape)), len(real)
  planes = _PLANES[some.shape[3]]
  seen = [[_seen(_plane(plane, some), each) for each in views]
          for plane in planes]
  most = [min(count, m - (own is not None)) for count in CANDIDATES]
  none = _Found(*(np.zeros((len(some), 0), kind)
                  for kind in (np.int64, np.float32, np.int64)))
  found = [[none for _ in views] for _ in planes]
  for first in range(0, m, _REAL):
    for p, plane in enumerate(planes):
      theirs = _plane(plane, real, slice(first, first + _REAL))
      for v, each in enumerate(views):
        known = _unit(theirs.reshape(len(theirs), -1) @ _reader(
            each.points, theirs.shape[1:]).T).T.copy()
        found[p][v] = _merged(found[p][v], seen[p][v], known, first, most[v],
                              own)
  out = []
  for each in found:
    starts = [np.concatenate([v.where, v.where])[f.view]
              for v, f in zip(views, each, strict=True)]
    mirrored = [f.view >= len(v.where)
                for v, f in zip(views, each, strict=True)]
    out.append((np.concatenate([f.index for f in each], 1),
                np.concatenate(starts, 1), np.concatenate(mirrored, 1)))
  return out


def _seen(ours, views: Views) -> np.ndarray:
  """Returns what the views see of images and mirrors: [N, 2 V, cells]."""
  n, cells = len(ours), len(views.points)
  read = _reader(_moved(views.where, views.points).reshape(-1, 2),
                 ours.shape[1:])
  both = np.stack([ours, ours[..., ::-1]], 1).reshape(2 * n, -1)
  return _unit((both @ read.T).reshape(n, 2 * len(views.where), cells))


def _merged(old: _Found, seen, known, first: int, count: int, own) -> _Found:
  """Returns the best `count` of those so far and of a block of real images.

  seen: of `_seen`. known: [cells, R], what there is to see of the block, which
  begins at the real image `first`.
  """
  n, v, cells = seen.shape
  r = known.shape[1]
  out, size = [], max(1, _BLOCK // (v * r))
  for i in range(0, n, size):
    block = seen[i:i + size]
    alike = (block.reshape(-1, cells) @ known).reshape(len(block), v, r)
    best = alike.max(1)
    if own is not None:
      here = own[i:i + size] - first
      rows = np.flatnonzero((here >= 0) & (here < r))
      best[rows, here[rows]] = -np.inf
    top = np.argpartition(best, -min(count, r), 1)[:, -count:]
    out.append((top + first, np.take_along_axis(best, top, 1),
                np.take_along_axis(alike, top[:, None], 2).argmax(1)))
  new = [np.concatenate(x) for x in zip(*out, strict=True)]
  both = [np.concatenate(x, 1) for x in zip(old, new, strict=True)]
  k = min(count, both[1].shape[1])
  keep = np.argpartition(both[1], -k, 1)[:, -k:]
  return _Found(*(np.take_along_axis(x, keep, 1) for x in both))


def _registered(plane, some, real, candidates, own):
  """Returns (index, distance) of the KEPT nearest, [N, KEPT], nearest first."""
  index, start, mirrored = candidates
  used, place = np.unique(index, return_inverse=True)
  found, distance = _closest(
      _blurred(_plane(plane, some)), _blurred(_plane(plane, real, used)),
      place.reshape(index.shape), start, mirrored)
  found = used[found]
  if own is not None:
    distance[found == own[:, None]] = 2
  distance = _once(found, distance)
  order = np.argsort(distance, 1, kind='stable')
  return (np.take_along_axis(found, order, 1),
          np.take_along_axis(distance, order, 1))


def _closest(ours, theirs, index, start, mirrored):
  """Returns (index, distance) of the KEPT that lie closest: [N, KEPT]."""
  start, distance = _register(ours, theirs, index, start, mirrored, COARSE)
  rows = np.arange(len(ours))[:, None]
  keep = np.argsort(_once(index, distance), 1, kind='stable')[:, :KEPT]
  index, start, mirrored = (x[rows, keep] for x in (index, start, mirrored))
  _, distance = _register(ours, theirs, index, start, mirrored, FINE)
  return index, distance


def _once(index, distance):
  """Returns the distances, 2 for all but the nearest of the same image."""
  order = np.lexsort((distance, index), axis=-1)
  again = np.zeros(index.shape, bool)
  same = np.take_along_axis(index, order, 1)
  np.put_along_axis(again, order[:, 1:], same[:, 1:] == same[:, :-1], 1)
  return np.where(again, 2, distance)


def _blurred(planes):
  """Smooths by (1, 2, 1) / 4 both ways."""
  for axis in (1, 2):
    pad = [(int(i == axis),) * 2 for i in range(3)]
    padded = np.moveaxis(np.pad(planes, pad, 'edge'), axis, 0)
    planes = np.moveaxis((padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4, 0,
                         axis)
  return np.ascontiguousarray(planes, np.float32)


def _register(ours, theirs, index, start, mirrored, how):
  """Registers every pair: (where [N, K, 4], distance float64 [N, K])."""
  rows = np.repeat(np.arange(len(ours)), index.shape[1])
  index, start, mirrored = (x.reshape(len(rows), *x.shape[2:])
                            for x in (index, start, mirrored))
  points = _points(ours.shape[1:], how[0], REACH)
  where, distance = [], []
  for i in range(0, len(rows), _CHUNK):
    # Always as many, so that one program is enough.
    part = np.minimum(np.arange(i, i + _CHUNK), len(rows) - 1)
    block = ours[rows[part]]
    block = np.where(mirrored[part, None, None], block[..., ::-1], block)
    found = _pairs(block, theirs[index[part]], start[part], points, how[1])
    for out, x in zip((where, distance), found, strict=True):
      out.append(np.asarray(x)[:len(rows) - i])
  shape = len(ours), -1
  return (np.concatenate(where).reshape(*shape, 4),
          np.concatenate(distance).astype(np.float64).reshape(shape))


@functools.partial(jax.jit, static_argnames='updates')
def _pairs(ours, theirs, start, points, updates: int):
  """Registers pairs of images: (where [B, 4], distance [B])."""
  return jax.vmap(functools.partial(_pair, points, updates))(
      ours, theirs, start)


def _pair(points, updates: int, mine, real, where):
  """Registers one image [h, w] with a real one, from a first guess."""
  target, _ = _read(real, points)
  def update(_, where):
    return _updated(mine, target, points, where)
  where = jax.lax.fori_loop(0, updates, update, where)
  at = _at(points, where)
  value, _ = _read(mine, at)
  weight = _inside(at, mine.shape)
  cov = functools.partial(_covariance, weight)
  like = (cov(value, target) + NOISE**2) / jnp.sqrt(
      (cov(value, value) + NOISE**2) * (cov(target, target) + NOISE**2))
  distance = jnp.sqrt(jnp.maximum(2 - 2 * like, 0))
  return where, jnp.where(weight.mean() < COVERED, 2., distance)


def _at(points, where):
  """Points of the real image in the other, as `_moved`."""
  a, b, ty, tx = where
  y, x = points[:, 0], points[:, 1]
  return jnp.stack([(1 + a) * y - b * x + ty, b * y + (1 + a) * x + tx], -1)


def _read(image, points):
  """Reads an image at points: values [P], and their slopes a side [P, 2]."""
  side, places = max(image.shape), []
  for axis, n in enumerate(image.shape):
    at = points[:, axis] * side + n / 2 - .5
    low = jnp.clip(jnp.floor(at), 0, max(n - 2, 0)).astype(jnp.int32)
    places.append((low, jnp.clip(at - low, 0, 1), min(n - 1, 1)))
  (y, fy, up), (x, fx, right) = places
  corner = [[image[y + dy, x + dx] for dx in (0, right)] for dy in (0, up)]
  (nw, ne), (sw, se) = corner
  top, bottom = nw + fx * (ne - nw), sw + fx * (se - sw)
  slopes = jnp.stack([bottom - top, (ne - nw) * (1 - fy) + (se - sw) * fy], -1)
  return top + fy * (bottom - top), slopes * side


def _inside(points, shape):
  """Float32 [P]: 1 where a point lies in an image."""
  limits = jnp.array([(n - 1) / 2 / max(shape) for n in shape])
  return (jnp.abs(points) <= limits + 1e-6).all(-1).astype(jnp.float32)


def _covariance(weight, a, b):
  total = weight.sum() + 1e-6
  a, b = (x - (x * weight).sum() / total for x in (a, b))
  return (a * b * weight).sum() / total


def _updated(mine, target, points, where):
  """One Gauss-Newton step on the difference of the standardised values."""
  at = _at(points, where)
  value, slope = _read(mine, at)
  weight = _inside(at, mine.shape)
  total = weight.sum() + 1e-6
  def standard(v):
    v = v - (v * weight).sum() / total
    return v / jnp.sqrt((v * v * weight).sum() / total + NOISE**2)
  spread = jnp.sqrt(_covariance(weight, value, value) + NOISE**2)
  value, wanted = standard(value), standard(target)
  dy, dx = slope[:, 0] / spread, slope[:, 1] / spread
  y, x = points[:, 0], points[:, 1]
  changes = jnp.stack([dy * y + dx * x, dx * y - dy * x, dy, dx], -1)
  # What shifts or scales all values is taken out by the standardisation.
  changes -= (changes * weight[:, None]).sum(0) / total
  changes -= value[:, None] * (changes * (value * weight)[:, None]).sum(
      0) / total
  weighted = changes * weight[:, None]
  step = jnp.linalg.solve(
      weighted.T @ changes + jnp.diag(jnp.array([.5, .5, .1, .1])),
      weighted.T @ (wanted - value))
  limit = jnp.array([.35, .25, .2, .2])
  return jnp.clip(where + jnp.clip(step, -.06, .06), -limit, limit)
