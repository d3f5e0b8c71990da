"""Stride-1 convolutions with fewer products: Winograd's minimal filtering.

Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks": m
outputs of a filter of r taps take m + r - 1 products instead of m r, in each
of the two directions. The rest is sums, so it pays where products are dear: on
a CPU, and as long as the tiles of a few images stay in its cache.
"""
import functools
import typing

import jax.numpy as jnp
import numpy as np
from jax import lax

# Where the polynomials are evaluated, besides infinity; each more costs digits.
_POINTS = (0, 1, -1, 2, -2, 1 / 2, -1 / 2, 4, -4)


class Kernel(typing.NamedTuple):
  """A transformed kernel.

  taps: float32 [h', w', I, O], side by side m + r - 1 of each direction.
  size: r, height and width of the kernel it was.
  tile: m, how many rows and columns of the result are made at once.
  """
  taps: typing.Any
  size: tuple[int, int]
  tile: tuple[int, int]


@functools.cache
def _matrices(m: int, r: int):
  """Returns float64 (input [n, n], kernel [n, r], output [m, n]).

  n = m + r - 1.

  Toom and Cook's construction: with r = 1 or m = 1 nothing is gained.
  """
  points = np.array(_POINTS[:m + r - 2])
  if len(points) < m + r - 2:
    raise ValueError(f'no {m} outputs of {r} taps')
  n, polynomial = m + r - 1, np.polynomial.polynomial.polyfromroots
  of_input, of_kernel, of_output = (np.zeros(s) for s in ((n, n), (n, r),
                                                          (m, n)))
  for i, point in enumerate(points):
    others = np.delete(points, i)
    of_input[i, :-1] = polynomial(others)
    of_kernel[i] = point ** np.arange(r) / np.prod(point - others)
    of_output[:, i] = point ** np.arange(m)
  of_input[-1] = polynomial(points)
  of_kernel[-1, -1] = of_output[-1, -1] = 1
  return of_input, of_kernel, of_output


def transform(kernel, tile: tuple[int, int]) -> Kernel:
  """Makes a Kernel of an ordinary one.

  Args:
    kernel: float32 [h, w, I, O].
    tile: rows and columns of the result to make at once; 1 along a side of one
      tap. Larger tiles take fewer products and lose digits: 4 of 3 taps loses
      about one.
  """
  size = kernel.shape[:2]
  rows, columns = (np.float32(_matrices(m, r)[1])
                   for m, r in zip(tile, size, strict=True))
  taps = jnp.einsum('ai,bj,ijco->abco', rows, columns, kernel,
                    precision=lax.Precision.HIGHEST)
  return Kernel(taps, size, tuple(tile))


def _combine(matrix, parts):
  """Returns matrix @ parts as sums of whole arrays, without the zeros."""
  def row(weights):
    return sum(part if weight == 1 else float(weight) * part
               for weight, part in zip(weights, parts, strict=True) if weight)
  return [row(weights) for weights in matrix]


def conv(x, kernel: Kernel, padding):
  """Convolves x [B, H, W, I] -> [B, H', W', O].

  Args:
    padding: ((top, bottom), (left, right)), zeros around the images.
  """
  taps, sizes, (mh, mw) = kernel
  th, tw, inputs, out = taps.shape
  wanted = [n + sum(pad) - r + 1 for n, pad, r in
            zip(x.shape[1:3], padding, sizes, strict=True)]
  h, w = -(-wanted[0] // mh), -(-wanted[1] // mw)
  pads = [(low, count * m + r - 1 - n - low, 0) for n, (low, _), count, m, r in
          zip(x.shape[1:3], padding, (h, w), (mh, mw), sizes, strict=True)]
  x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
  (into_h, _, from_h), (into_w, _, from_w) = map(_matrices, (mh, mw), sizes)
  tiles = []
  for row in _combine(into_h, [x[:, i:i + h * mh - mh + 1:mh]
                               for i in range(th)]):
    tiles += _combine(into_w, [row[:, :, j:j + w * mw - mw + 1:mw]
                               for j in range(tw)])
  # Behind barriers each array is made once and not once for every use.
  tiles = lax.optimization_barrier(jnp.stack(tiles))
  y = jnp.matmul(tiles.reshape(th * tw, -1, inputs),
                 taps.reshape(th * tw, inputs, out),
                 precision=lax.Precision.HIGHEST)
  y = lax.optimization_barrier(y).reshape(th, tw, -1, h, w, out)
  y = jnp.stack([jnp.stack(_combine(from_w, list(row)), 3)
                 for row in _combine(from_h, list(y))], 2)
  return y.reshape(-1, h * mh, w * mw, out)[:, :wanted[0], :wanted[1]]
