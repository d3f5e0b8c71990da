"""Euclidean distances between rows, in float64 on the host, tile by tile.

Whole numbers, such as pixels, make no error: equal rows are at 0.
"""
import numpy as np

_BLOCK = 2**24  # Numbers in the largest temporary array.


def squared(points: np.ndarray, others: np.ndarray) -> np.ndarray:
  """Returns float64 [N, M], of points [N, D] to others [M, D].

  Take off a mean that is large beside the distances first: it cancels.
  """
  x, y = (np.asarray(a, np.float64) for a in (points, others))
  # |a - b|^2 = |a|^2 - 2 a b + |b|^2, one matrix product for all pairs.
  out = -2 * (x @ y.T)
  out += np.einsum('nd,nd->n', x, x)[:, None]
  out += np.einsum('md,md->m', y, y)
  return np.maximum(out, 0, out=out)


def nearest(points: np.ndarray, others: np.ndarray, k: int = 1,
            own: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
  """Finds the k nearest of `others` [M, D] to each of `points` [N, D].

  own: int [N], the one of `others` that each point is, which does not count.

  Returns:
    (int64 [N, k] which ones, the nearest first; float64 [N, k] how far away).
  """
  index = np.zeros((len(points), 0), np.int64)
  least = np.zeros((len(points), 0))
  wide = points.shape[1]
  columns = max(1, _BLOCK // max(wide, 1))
  rows = max(1, _BLOCK // max(wide, min(columns, len(others)), 1))
  for left in range(0, len(others), columns):
    part = np.asarray(others[left:left + columns], np.float64)
    found = []
    for top in range(0, len(points), rows):
      tile = squared(points[top:top + rows], part)
      if own is not None:
        mine = own[top:top + rows] - left
        here = np.flatnonzero((mine >= 0) & (mine < len(part)))
        tile[here, mine[here]] = np.inf
      at = np.argpartition(tile, min(k, len(part)) - 1)[:, :k]
      found.append((at + left, np.take_along_axis(tile, at, 1)))
    index, least = (np.concatenate((old, np.concatenate(new)), 1)
                    for old, new in zip((index, least),
                                        zip(*found, strict=True), strict=True))
    order = np.lexsort((index, least))[:, :k]
    index, least = (np.take_along_axis(a, order, 1) for a in (index, least))
  return index, np.sqrt(least)
