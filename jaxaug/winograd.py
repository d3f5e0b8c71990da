"""Stride-1 convolutions with fewer products: Winograd's minimal filtering.

Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks": m
outputs of a filter of r taps take m + r - 1 products instead of m r, in each
of the two directions. The rest is sums, so it pays where products are dear: on
a CPU, and with many channels.
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

  taps: m + r - 1 rows of as many float32 [I, O], or [O, I].
  size: r, height and width of the kernel it was.
  tile: m, how many rows and columns of the result are made at once.
  turned: whether a tap is [O, I].
  """
  taps: typing.Any
  size: tuple[int, int]
  tile: tuple[int, int]
  turned: bool = False


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


def transform(kernel, tile: tuple[int, int], turned: bool = False) -> Kernel:
  """Makes a Kernel of an ordinary one.

  Args:
    kernel: float32 [h, w, I, O], or [h, w, O, I] if turned.
    tile: rows and columns of the result to make at once; 1 along a side of one
      tap. Larger tiles take fewer products and lose digits: 4 of 3 taps loses
      about one.
    turned: see above.
  """
  size, tile = kernel.shape[:2], tuple(tile)
  _, of_kernel, _ = _transforms(tile, size)
  return Kernel(_sums(of_kernel, [list(row) for row in kernel]), size, tile,
                turned)


def conv(x, kernel: Kernel, padding=((0, 0), (0, 0))):
  """Convolves x [B, H, W, I] -> [B, H', W', O].

  Args:
    padding: ((top, bottom), (left, right)), zeros around the images.
  """
  wanted = [n + sum(pad) - r + 1 for n, pad, r in
            zip(x.shape[1:3], padding, kernel.size, strict=True)]
  counts = _counts(wanted, kernel.tile)
  _, _, of_output = _transforms(kernel.tile, kernel.size)
  parts = _of_input(x, [low for low, _ in padding], counts, kernel.size,
                    kernel.tile)
  parts = _products(parts, kernel.taps, int(kernel.turned))
  return _placed(_sums(of_output, parts))[:, :wanted[0], :wanted[1]]


def input_grad(dy, kernel: Kernel, shape):
  """The gradient of `conv` without padding by its x, [B, *shape, I].

  Args:
    dy: [B, H', W', O], the gradient by what `conv` returns.
    shape: height and width of x.
  """
  (mh, mw), counts = kernel.tile, _counts(dy.shape[1:3], kernel.tile)
  of_input, _, _ = _transforms(kernel.tile, kernel.size)
  parts = _of_output(dy, counts, kernel.size, kernel.tile)
  parts = _products(parts, kernel.taps, 1 - int(kernel.turned))
  parts = _sums(_transposed(of_input), parts)
  # Tiles overlap: pixel m of one is pixel 0 of the next.
  th, tw = len(parts), len(parts[0])
  grown = [n + (t - 1) // m for n, t, m in zip(counts, (th, tw), kernel.tile,
                                               strict=True)]
  return crop(_placed([
      [sum(crop(parts[i][j], (i // mh, j // mw), grown)
           for i in range(row, th, mh) for j in range(column, tw, mw))
       for column in range(mw)] for row in range(mh)]), (0, 0), shape)


def kernel_grad(x, dy, size, tile, turned: bool = False):
  """The gradient of `conv` without padding by the kernel before `transform`.

  Args:
    x: [B, H, W, I], what `conv` takes.
    dy: [B, H', W', O], the gradient by what it returns.
    size, tile, turned: see `Kernel`.

  Returns:
    [*size, I, O], or [*size, O, I] if turned.
  """
  counts = _counts(dy.shape[1:3], tile)
  _, of_kernel, _ = _transforms(tile, size)
  def product(a, b):
    a, b = (_flat(v) for v in ((b, a) if turned else (a, b)))
    if b.shape[1] < a.shape[1]:  # So XLA's product is faster.
      return _product(b, a, 0, 0).T
    return _product(a, b, 0, 0)
  parts = [[product(*pair) for pair in zip(*rows, strict=True)]
           for rows in zip(_of_input(x, (0, 0), counts, size, tile),
                           _of_output(dy, counts, size, tile), strict=True)]
  return jnp.stack([jnp.stack(row)
                    for row in _sums(_transposed(of_kernel), parts)])


def crop(x, low, size):
  """Puts `low` rows and columns of zeros in front, and cuts to `size`.

  Args:
    x: [B, H, W, C].
    low: (rows, columns); negative ones are cut off.
    size: height and width of the result; what is missing is zeros.
  """
  pads = [(lo, n - lo - m, 0) for lo, n, m in
          zip(low, size, x.shape[1:3], strict=True)]
  return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *pads, (0, 0, 0)))


def _transforms(tile, size):
  """Returns (input, kernel, output), each (matrix of rows, of columns)."""
  return zip(*map(_matrices, tile, size), strict=True)


def _transposed(matrices):
  return tuple(matrix.T for matrix in matrices)


def _combine(matrix, parts):
  """Returns matrix @ parts as sums of whole arrays, without the zeros."""
  def row(weights):
    return sum(part if weight == 1 else float(weight) * part
               for weight, part in zip(weights, parts, strict=True) if weight)
  return [row(weights) for weights in matrix]


def _sums(matrices, parts):
  """[a][b] = sum of rows[a, i] columns[b, j] parts[i][j], as whole arrays."""
  rows, columns = matrices
  halves = [_combine(rows, column) for column in zip(*parts, strict=True)]
  return [_combine(columns, half) for half in zip(*halves, strict=True)]


def _counts(shape, tile):
  """How many tiles cover an image of `shape` (height, width)."""
  return [-(-n // m) for n, m in zip(shape, tile, strict=True)]


def _pixels(x, counts, tile, size):
  """[i][j]: pixel (i, j) of every tile of `size`, a `tile` apart."""
  (h, w), (mh, mw) = counts, tile
  return [[x[:, i:i + h * mh - mh + 1:mh, j:j + w * mw - mw + 1:mw]
           for j in range(size[1])] for i in range(size[0])]


def _placed(parts):
  """The inverse of `_pixels` where size = tile."""
  y = jnp.stack([jnp.stack(row, 3) for row in parts], 2)
  _, h, mh, w, mw, channels = y.shape
  return y.reshape(-1, h * mh, w * mw, channels)


def _of_input(x, low, counts, size, tile):
  """The input's side of the products, [i][j] of [B, *counts, I]."""
  matrices, _, _ = _transforms(tile, size)
  seen = [m + r - 1 for m, r in zip(tile, size, strict=True)]
  x = crop(x, low, [(n - 1) * m + s for n, m, s in
                    zip(counts, tile, seen, strict=True)])
  return _sums(matrices, _pixels(x, counts, tile, seen))


def _of_output(dy, counts, size, tile):
  """The same of the output's gradient, [i][j] of [B, *counts, O]."""
  _, _, matrices = _transforms(tile, size)
  dy = crop(dy, (0, 0), [n * m for n, m in zip(counts, tile, strict=True)])
  return _sums(_transposed(matrices), _pixels(dy, counts, tile, tile))


def _flat(x):
  return x.reshape(-1, x.shape[-1])


def _product(a, b, of_a, of_b):
  """Sums over dimension `of_a` of a matrix a and `of_b` of b."""
  return lax.dot_general(a, b, (((of_a,), (of_b,)), ((), ())),
                         lax.Precision.HIGHEST)


def _products(parts, taps, side):
  """Of each part's channels and dimension `side` of its tap."""
  # One by one: stacked, they would be copied for XLA's product of stacks.
  return [[_product(_flat(part), tap, 1, side).reshape(*part.shape[:3], -1)
           for part, tap in zip(*rows, strict=True)]
          for rows in zip(parts, taps, strict=True)]
