"""Layers of the networks; the convolution is one that is fast on CPU.

XLA's CPU backend computes a convolution well and its gradients badly: the
gradient by the kernel, any convolution of a dilated input, and every backward
convolution inside `scan`, `cond` or `map`. Here both gradients are written as
what it does well: plain convolutions and matrix products.
"""
import functools
import math
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

_NHWC = ('NHWC', 'HWIO', 'NHWC')
# im2col columns, in values: what stays in a core's cache.
_CHUNK = 2 ** 19


class _Window(typing.NamedTuple):
  """How a kernel moves; all by (height, width)."""
  stride: tuple[int, int]
  padding: tuple[tuple[int, int], tuple[int, int]]
  dilation: tuple[int, int]  # Of the input, as a transposed convolution has.
  precision: typing.Any = None


def conv_general_dilated(lhs, rhs, window_strides, padding, lhs_dilation=None,
                         rhs_dilation=None, dimension_numbers=None,
                         feature_group_count=1, batch_group_count=1,
                         precision=None, preferred_element_type=None, **more):
  """`jax.lax.conv_general_dilated`, with fast gradients on CPU.

  Takes the same arguments and gives the same values to rounding, at any order
  of reverse differentiation, under `vmap` and in loops. The fast path is for
  2D NHWC images, one group, no kernel dilation; all else, and every other
  backend, is the stock operation. Forward-mode differentiation
  (`jax.jvp`) of the fast path is not supported.
  """
  fast = (jax.default_backend() == 'cpu' and lhs.ndim == 4
          and lhs.dtype == rhs.dtype
          and jnp.issubdtype(lhs.dtype, jnp.floating)
          and feature_group_count == batch_group_count == 1
          and set(rhs_dilation or (1,)) == {1}
          and preferred_element_type in (None, lhs.dtype)
          and not any(v is not None for v in more.values())
          and 0 not in lhs.shape + rhs.shape
          and _is_nhwc(lhs, rhs, dimension_numbers))
  if not fast:
    return lax.conv_general_dilated(
        lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation,
        dimension_numbers, feature_group_count, batch_group_count, precision,
        preferred_element_type, **more)
  dilation = tuple(lhs_dilation or (1, 1))
  if isinstance(padding, str):
    size = [(n - 1) * d + 1 for n, d in zip(lhs.shape[1:3], dilation,
                                            strict=True)]
    padding = lax.padtype_to_pads(size, rhs.shape[:2], window_strides, padding)
  window = _Window(tuple(window_strides), tuple(map(tuple, padding)), dilation,
                   precision)
  # Half precision has no fast CPU kernels, and sums are better in float32.
  wide = jnp.promote_types(lhs.dtype, jnp.float32)
  return _conv(window, lhs.astype(wide), rhs.astype(wide)).astype(lhs.dtype)


def _is_nhwc(lhs, rhs, numbers):
  given = lax.conv_dimension_numbers(lhs.shape, rhs.shape, numbers)
  return given == lax.conv_dimension_numbers(lhs.shape, rhs.shape, _NHWC)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(window, x, kernel):
  """x [B, H, W, I] and kernel [h, w, I, O] -> [B, H', W', O]."""
  stride, padding, dilation, precision = window
  if kernel.shape[:2] == stride == dilation == (1, 1) == tuple(
      map(sum, padding)) and padding == ((0, 0), (0, 0)):
    return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())), precision)
  if stride == (1, 1) != dilation:
    return _by_phases(window, x, kernel)
  return lax.conv_general_dilated(x, kernel, stride, padding, dilation,
                                  dimension_numbers=_NHWC, precision=precision)


def _conv_fwd(window, x, kernel):
  return _conv(window, x, kernel), (x, kernel)


def _conv_bwd(window, saved, dy):
  x, kernel = saved
  return (_input_grad(window, x.shape, dy, kernel),
          _kernel_grad(window, kernel.shape[:2], x, dy))


_conv.defvjp(_conv_fwd, _conv_bwd)


def _input_grad(window, shape, dy, kernel):
  """d(loss)/dx, itself a `_conv`: of `dy`, stride and dilation swapped."""
  # Behind the barrier XLA cannot fold the transposition into the convolution,
  # and so, inside loops, out of its fast kernel.
  turned = lax.optimization_barrier(kernel[::-1, ::-1].swapaxes(2, 3))
  padding = []
  for i in range(2):
    k, low = kernel.shape[i], kernel.shape[i] - 1 - window.padding[i][0]
    size = (dy.shape[1 + i] - 1) * window.stride[i] + 1
    full = (shape[1 + i] - 1) * window.dilation[i] + k
    padding.append((low, full - size - low))
  back = window._replace(stride=window.dilation, padding=tuple(padding),
                         dilation=window.stride)
  return _conv(back, dy, turned)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _kernel_grad(window, size, x, dy):
  """d(loss)/d(kernel) [h, w, I, O] for a kernel of `size` (h, w)."""
  stride, padding, dilation, precision = window
  if dilation != (1, 1):
    if stride != (1, 1):
      x, dilation = _dilate(x, dilation), (1, 1)
    else:
      # A dilated x and dy are a dy and a strided x, with the kernel turned.
      padding = tuple((k - 1 - low, 0) for k, (low, _) in
                      zip(size, padding, strict=True))
      turned = _Window(dilation, padding, stride, precision)
      turned = _kernel_grad(turned, size, dy, x)
      return turned[::-1, ::-1].swapaxes(2, 3)
  return _correlate(stride, [low for low, _ in padding], size, precision, x, dy)


def _kernel_grad_fwd(window, size, x, dy):
  return _kernel_grad(window, size, x, dy), (x, dy)


def _kernel_grad_bwd(window, size, saved, kernel):
  x, dy = saved
  return (_input_grad(window, x.shape, dy, kernel), _conv(window, x, kernel))


_kernel_grad.defvjp(_kernel_grad_fwd, _kernel_grad_bwd)


def _dilate(x, dilation):
  (h, w), zero = dilation, (0, 0, 0)
  return lax.pad(x, jnp.zeros((), x.dtype),
                 (zero, (0, 0, h - 1), (0, 0, w - 1), zero))


def _crop(x, low, size):
  """Shifts height and width by `low` rows of zeros, and cuts to `size`."""
  pads = [(0, 0, 0), *((lo, n - lo - m, 0) for lo, n, m in
                       zip(low, size, x.shape[1:3], strict=True)), (0, 0, 0)]
  return lax.pad(x, jnp.zeros((), x.dtype), pads)


def _by_phases(window, x, kernel):
  """A convolution of a dilated input without its zeros.

  The d outputs that lie between two neighbours of x each see every d-th row of
  the kernel, so one convolution with d * d times the channels, then a shuffle,
  gives them all (Shi et al. 2016).
  """
  _, padding, (dh, dw), _ = window
  (batch, *size, _), (h, w, channels, out) = x.shape, kernel.shape
  taps = -(-h // dh), -(-w // dw)
  kernel = jnp.pad(kernel, ((0, taps[0] * dh - h), (0, taps[1] * dw - w),
                            (0, 0), (0, 0)))
  kernel = kernel.reshape(taps[0], dh, taps[1], dw, channels, out)
  kernel = kernel.transpose(0, 2, 4, 1, 3, 5)
  kernel = lax.optimization_barrier(kernel.reshape(*taps, channels, -1))
  # Phase r starts at kernel row first[r] and sees x from row + shift[r].
  pads, cuts, counts, ends = [], [], [], []
  for n, k, d, (low, high) in zip(size, (h, w), (dh, dw), padding, strict=True):
    end = (n - 1) * d + 1 + low + high - k + 1
    first = [(low - r) % d for r in range(d)]
    shift = [(r + f - low) // d for r, f in enumerate(first)]
    count = -(-end // d)
    lo, hi = min(shift), max(shift) + count
    pads.append((-lo, hi - 1 + -(-k // d) - n))
    cuts.append([(f, s - lo) for f, s in zip(first, shift, strict=True)])
    counts.append(count)
    ends.append(end)
  y = _conv(window._replace(padding=tuple(pads), dilation=(1, 1)), x, kernel)
  y = y.reshape(*y.shape[:3], dh, dw, out)
  rows = [jnp.stack([y[:, a:a + counts[0], b:b + counts[1], f, g]
                     for g, b in cuts[1]], 3) for f, a in cuts[0]]
  y = jnp.stack(rows, 2).reshape(batch, counts[0] * dh, counts[1] * dw, out)
  return y[:, :ends[0], :ends[1]]


def _correlate(stride, low, size, precision, x, dy):
  """kernel[i, j] = sum of x[row * stride + i - low] dy[row], as a product."""
  (_, oh, ow, out), (sh, sw) = dy.shape, stride
  th, tw = -(-size[0] // sh), -(-size[1] // sw)
  x = _crop(x, low, ((oh + th - 1) * sh, (ow + tw - 1) * sw))
  if stride != (1, 1):
    # The stride moves into the channels.
    batch, h, w, channels = x.shape
    x = x.reshape(batch, h // sh, sh, w // sw, sw, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, h // sh, w // sw, -1)
  if x.shape[3] < out:
    grad = _product((th, tw), precision, x, dy)
  else:
    # Columns of the narrower side; seen from x, dy moves the other way.
    dy = _crop(dy, (th - 1, tw - 1), (oh + 2 * th - 2, ow + 2 * tw - 2))
    grad = _product((th, tw), precision, dy, x)[::-1, ::-1].swapaxes(2, 3)
  grad = grad.reshape(th, tw, sh, sw, -1, out).transpose(0, 2, 1, 3, 4, 5)
  return grad.reshape(th * sh, tw * sw, -1, out)[:size[0], :size[1]]


def _product(taps, precision, a, b):
  """[i, j] = sum over positions of a[position + (i, j)] b[position]."""
  batch, (_, h, w, n), m = len(b), b.shape, a.shape[3]
  one = h * w * math.prod(taps) * m if taps != (1, 1) else 0
  steps = next(s for s in range(1, batch + 1)
               if batch % s == 0 and (s == batch or batch // s * one <= _CHUNK))

  def part(total, ab):
    a, b = ab
    columns = jnp.concatenate([a[:, i:i + h, j:j + w] for i in range(taps[0])
                               for j in range(taps[1])], 3)
    columns, b = columns.reshape(-1, math.prod(taps) * m), b.reshape(-1, n)
    more = lax.dot_general(columns, b, (((0,), (0,)), ((), ())), precision)
    return more if total is None else total + more, None

  if steps == 1:
    total, _ = part(None, (a, b))
  else:
    split = [v.reshape(steps, batch // steps, *v.shape[1:]) for v in (a, b)]
    zero = jnp.zeros((math.prod(taps) * m, n), a.dtype)
    total, _ = lax.scan(part, zero, tuple(split))
  return total.reshape(*taps, m, n)


Conv = functools.partial(nn.Conv, conv_general_dilated=conv_general_dilated)


def ConvTranspose(features, kernel_size, strides=(1, 1), padding='SAME', **more):  # noqa: N802,E501
  """`flax.linen.ConvTranspose` as a `Conv` of the dilated input.

  Args: as there, without CIRCULAR padding and transposed kernels; the
    parameters have the same names and shapes.
  """
  if padding in ('SAME', 'VALID'):
    pads = []
    for k, s in zip(kernel_size, strides, strict=True):
      total = k + s - 2 + (max(k - s, 0) if padding == 'VALID' else 0)
      low = k - 1 if padding == 'VALID' or s > k - 1 else -(-total // 2)
      pads.append((low, total - low))
    padding = pads
  return Conv(features, kernel_size, input_dilation=strides, padding=padding,
              **more)


class ConditionalBatchNorm(nn.Module):
  """Batch norm whose gain and bias belong to the class (de Vries et al. 2017).

  (x [B, H, W, C], labels [B], train) -> [B, H, W, C]. Over several devices
  the statistics are those of the global batch.
  """
  num_classes: int
  dtype: typing.Any = jnp.float32

  @nn.compact
  def __call__(self, x, labels, train: bool):
    channels = x.shape[-1]
    x = nn.BatchNorm(use_running_average=not train, momentum=0.9,
                     use_bias=False, use_scale=False, dtype=self.dtype)(x)
    def table(name, init):
      return nn.Embed(self.num_classes, channels, embedding_init=init,
                      dtype=self.dtype, name=name)(labels)[:, None, None]
    return (x * table('gain', nn.initializers.ones)
            + table('bias', nn.initializers.zeros))
