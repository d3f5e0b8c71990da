"""Convolutions and their gradients in plain JAX, for CPUs without oneDNN.

XLA is fast at a convolution, slower at its gradient by the input and slow at
that by the kernel, which here is a matrix product of columns of pixels
(im2col). In loops it is fast at those in the layout of a forward one only.
"""
import functools
import math

import jax.numpy as jnp
from jax import lax

_NHWC, _HIGHEST = ('NHWC', 'HWIO', 'NHWC'), lax.Precision.HIGHEST
# Columns of pixels, in values: what stays in a core's cache.
_CHUNK = 2 ** 19


def solve(want: str, window, shape, a, b):
  """Computes what is wanted of a `convolution.Window`.

  Args:
    want: 'y', 'x' or 'w'.
    shape: of the result.
    a, b: what is given, in the order of `onednn.OPERANDS`.
  """
  groups = window.groups
  if groups > 1:  # In turn.
    a, b = (jnp.moveaxis(v.reshape(*v.shape[:3], groups, -1), 3, 0)
            for v in (a, b))
    one = functools.partial(solve, want, window._replace(groups=1),
                            (*shape[:3], shape[3] // groups))
    found = lax.map(lambda pair: one(*pair), (a, b))
    return jnp.moveaxis(found, 0, 3).reshape(shape)
  if want == 'w':
    y = _by_kernel(window, a, b)
    return y.swapaxes(2, 3) if window.turned else y
  return (_forward if want == 'y' else _by_input)(
      window, a, b.swapaxes(2, 3) if window.turned else b)


def _cut(x, low, high):
  """x with rows and columns of zeros before and after, or without some."""
  return lax.pad(x, jnp.zeros((), x.dtype), (
      (0, 0, 0), *((*ends, 0) for ends in zip(low, high, strict=True)),
      (0, 0, 0)))


def _span(window):
  return [(k - 1) * d + 1 for k, d in zip(window.w, window.dilation,
                                          strict=True)]


def _seen(window, x):
  """Just those pixels of x that a kernel sees."""
  high = [(m - 1) * s + k - low - n for m, s, k, low, n in zip(
      window.y, window.stride, _span(window), window.low, window.x,
      strict=True)]
  return _cut(x, window.low, high)


def _forward(window, x, w):
  return lax.conv_general_dilated(
      _seen(window, x), w, window.stride, 'VALID', None, window.dilation,
      _NHWC, precision=_HIGHEST)


def _by_input(window, y, w):
  # Behind the barrier XLA cannot fold the turning into the convolution, and so,
  # inside loops, out of its fast kernel.
  w = lax.optimization_barrier(w[::-1, ::-1].swapaxes(2, 3))
  span = _span(window)
  pads = [(k - 1, k - 1) for k in span]
  x = lax.conv_general_dilated(y, w, (1, 1), pads, window.stride,
                               window.dilation, _NHWC, precision=_HIGHEST)
  high = [n + low - m for n, low, m in zip(window.x, window.low, x.shape[1:3],
                                           strict=True)]
  return _cut(x, [-low for low in window.low], high)


def _by_kernel(window, x, y):
  batch, channels, out = len(x), x.shape[3], y.shape[3]
  if window.stride == (1, 1) and out < channels:
    # Columns of the narrower side: seen from x, y moves the other way.
    back = window._replace(x=window.y, y=window.x, low=tuple(
        k - 1 - low for k, low in zip(_span(window), window.low, strict=True)))
    return _by_kernel(back, y, x)[::-1, ::-1].swapaxes(2, 3)
  (kh, kw), (sh, sw), (dh, dw) = window.w, window.stride, window.dilation
  h, w = ((n - 1) * s + 1 for n, s in zip(window.y, window.stride, strict=True))

  def product(x, y):
    columns = jnp.concatenate(
        [x[:, i * dh:i * dh + h:sh, j * dw:j * dw + w:sw]
         for i in range(kh) for j in range(kw)], 3)
    return lax.dot_general(columns, y, (((0, 1, 2),) * 2, ((), ())), _HIGHEST)
  one = math.prod(window.y) * kh * kw * channels
  count = next(n for n in range(1, batch + 1)
               if batch % n == 0 and (n == batch or batch // n * one <= _CHUNK))
  parts = [v.reshape(count, -1, *v.shape[1:]) for v in (_seen(window, x), y)]
  total, _ = lax.scan(lambda total, pair: (total + product(*pair), None),
                      jnp.zeros((kh * kw * channels, out), x.dtype),
                      tuple(parts))
  return total.reshape(kh, kw, channels, out)
