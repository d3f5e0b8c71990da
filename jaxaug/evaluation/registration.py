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
_BLOCK = 2**23       # Numbers in the largest temporary array.
_CHUNK = 2048        # Pairs that are registered in one call.


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
    real: uint8 [M, H, W, C], different ones, M of LEAST at least; sides of
      LEAST_SIDE at least.
    own: int [N], the real image that each one is, which does not count.

  Returns:
    (index int64 [N], ratio float64 [N]): which it is, and its distance as a
    share of that to the third nearest; by brightness or by the largest colour,
    whichever is smaller.
  """
  ratio, index = np.full(len(some), np.inf), np.zeros(len(some), np.int64)
  for ours, theirs in zip(_planes(some), _planes(real), strict=True):
    found, distance = _registered(ours, theirs, own)
    mine = distance[:, 0] / np.maximum(distance[:, 2], 1e-3)
    index = np.where(mine < ratio, found[:, 0], index)
    ratio = np.minimum(mine, ratio)
  return index, ratio


def _planes(pixels: np.ndarray):
  """Yields brightness and, of colour, the largest: float32 [N, h, w]."""
  size = [min(side, SIDE) for side in pixels.shape[1:3]]
  shrink = [_means(n, m) for n, m in zip(pixels.shape[1:3], size, strict=True)]
  def small(plane):
    return np.einsum('hy,nyx,wx->nhw', shrink[0], plane, shrink[1],
                     optimize=True).astype(np.float32)
  step = max(1, _BLOCK // math.prod(pixels.shape[1:]))
  def planes(of):
    return np.concatenate([small(of(pixels[i:i + step].astype(np.float32)))
                           for i in range(0, len(pixels), step)])
  if pixels.shape[3] == 1:
    yield planes(lambda x: x[..., 0])
  else:
    yield planes(lambda x: x @ np.float32([.299, .587, .114]))
    yield planes(lambda x: x.max(-1))


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


def _candidates(ours, theirs, views: Views, count: int, own):
  """Returns (index, start [.., 4], mirrored) of the best views, [N, K] each."""
  shape, n, m = ours.shape[1:], len(ours), len(theirs)
  read = _reader(_moved(views.where, views.points).reshape(-1, 2), shape)
  cells = len(views.points)
  known = _unit(theirs.reshape(m, -1) @ _reader(views.points, shape).T).T.copy()
  start = np.concatenate([views.where, views.where])
  size, out = max(1, _BLOCK // (len(start) * m)), []
  for i in range(0, n, size):
    block = ours[i:i + size]
    both = np.stack([block, block[..., ::-1]], 1).reshape(2 * len(block), -1)
    seen = _unit((both @ read.T).reshape(len(block), len(start), cells))
    alike = (seen.reshape(-1, cells) @ known).reshape(
        len(block), len(start), m)
    best = alike.max(1)
    if own is not None:
      best[np.arange(len(block)), own[i:i + size]] = -np.inf
    top = np.argpartition(best, -count, 1)[:, -count:]
    out.append((top, np.take_along_axis(alike, top[:, None], 2).argmax(1)))
  index, view = (np.concatenate(x) for x in zip(*out, strict=True))
  return index, start[view], view >= len(views.where)


def _registered(ours, theirs, own):
  """Returns (index, distance) of the KEPT nearest, [N, KEPT], nearest first."""
  shape, m = ours.shape[1:], len(theirs) - (own is not None)
  parts = [_candidates(ours, theirs, views, min(count, m), own)
           for views, count in zip(_views(shape), CANDIDATES, strict=True)]
  index, start, mirrored = (np.concatenate(x, 1)
                            for x in zip(*parts, strict=True))
  ours, theirs = _blurred(ours), _blurred(theirs)
  start, distance = _register(ours, theirs, index, start, mirrored, COARSE)
  rows = np.arange(len(ours))[:, None]
  keep = np.argsort(_once(index, distance), 1, kind='stable')[:, :KEPT]
  index, start, mirrored = (x[rows, keep] for x in (index, start, mirrored))
  _, distance = _register(ours, theirs, index, start, mirrored, FINE)
  if own is not None:
    distance[index == own[:, None]] = 2
  distance = _once(index, distance)
  order = np.argsort(distance, 1, kind='stable')
  return index[rows, order], distance[rows, order]


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
