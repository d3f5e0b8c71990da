"""A convolution that is fast on CPU, forwards and backwards.

XLA's CPU backend is fast at a plain convolution and slow around it: at the
gradients of transposed convolutions, of narrow and of 1x1 ones, and at every
backward convolution inside `scan`, `cond` or `map` (`benchmarks/conv.py`). Here
both gradients are plain convolutions and matrix products, and wide
convolutions take Winograd's fewer products.
"""
import functools
import math
import typing

import jax
import jax.numpy as jnp
from jax import lax

from jaxaug import winograd

_NHWC = ('NHWC', 'HWIO', 'NHWC')
# im2col columns, in values: what stays in a core's cache.
_CHUNK = 2 ** 19
# Pixels of an image so small that its convolution is best one product.
_TINY = 16
# Channels that are moved as rows, not one pixel's at a time.
_FEW = 8
# Rows and columns that Winograd's way makes at once: half a digit is lost at
# most, of 7x7.
_TILE = 2, 2
# (taps, stride) of kernels that it is faster for (`benchmarks/train_step.py`):
# fold, see `_View`; the fewest channels of the two sides, small and large; and
# whether that holds for the kernel's gradient too.
_FEWER = {(3, 1): (1, 128, 128, True), (4, 2): (1, 64, 128, True),
          (5, 2): (1, 64, 128, False), (6, 2): (1, 64, 128, True),
          (7, 1): (2, 64, 64, True)}


def steps(batch: int, one: int, limit: int | None = None) -> int:
  """Returns the fewest steps of equally many images that fit the cache.

  Args:
    batch: number of images.
    one: values that one image takes.
    limit: values that fit.
  """
  limit = limit or _CHUNK
  return next(s for s in range(1, batch + 1)
              if batch % s == 0 and (s == batch or batch // s * one <= limit))


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

  Takes the same arguments and gives the same values to rounding where they are
  finite, at any order of reverse differentiation, under `vmap` and in loops,
  and inside `shard_map` with `check_vma=False`. The fast path is for 2D NHWC
  images without kernel dilation, and with groups also without input dilation;
  all else, and every other backend, is the stock operation. Forward-mode
  differentiation (`jax.jvp`) of the fast path is not supported.
  """
  plain = lhs_dilation is None or set(lhs_dilation) == {1}
  fast = (jax.default_backend() == 'cpu' and lhs.ndim == rhs.ndim == 4
          and lhs.dtype == rhs.dtype and lhs.dtype.itemsize > 1
          and jnp.issubdtype(lhs.dtype, jnp.floating)
          and batch_group_count == 1
          and (feature_group_count == 1 or plain)
          and (rhs_dilation is None or set(rhs_dilation) == {1})
          and preferred_element_type in (None, lhs.dtype)
          and not any(v is not None for v in more.values())
          and 0 not in lhs.shape + rhs.shape
          and (plain or not isinstance(padding, str))
          and _is_nhwc(lhs, rhs, dimension_numbers)
          and lhs.shape[3] == rhs.shape[2] * feature_group_count)
  if fast:
    if isinstance(padding, str):
      padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2],
                                    window_strides, padding)
    window = _Window(tuple(window_strides), tuple(map(tuple, padding)),
                     (1, 1) if plain else tuple(lhs_dilation), precision)
    # Else no pixel is left.
    fast = all((n - 1) * d + 1 + sum(pad) >= k for n, k, d, pad in
               zip(lhs.shape[1:3], rhs.shape[:2], window.dilation,
                   window.padding, strict=True))
  if not fast:
    return lax.conv_general_dilated(
        lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation,
        dimension_numbers, feature_group_count, batch_group_count, precision,
        preferred_element_type, **more)
  # Half precision is summed in float32.
  wide = jnp.promote_types(lhs.dtype, jnp.float32)
  y = _in_groups(feature_group_count, window, lhs.astype(wide),
                 rhs.astype(wide))
  return y.astype(lhs.dtype)


def _in_groups(groups, window, x, kernel):
  """A convolution in groups of channels; stock XLA's is 10 to 100 times slower.

  Where every channel is a group of its own, nine shifted products with the
  pixels are less work than a convolution; else the groups come in turn.
  """
  if groups == 1:
    return _conv(window, x, kernel)
  (h, w, inputs, out), (sh, sw) = kernel.shape, window.stride
  if inputs == 1 and out == groups:
    x = _padded(x, window.padding)
    height, width = ((n - k) // s + 1 for n, k, s in zip(
        x.shape[1:3], (h, w), window.stride, strict=True))
    return sum(x[:, i:i + height * sh - sh + 1:sh, j:j + width * sw - sw + 1:sw]
               * kernel[i, j, 0] for i in range(h) for j in range(w))
  x, kernel = (jnp.moveaxis(a.reshape(*a.shape[:3], groups, -1), 3, 0)
               for a in (x, kernel))
  y = lax.map(lambda pair: _conv(window, *pair), (x, kernel))
  return jnp.moveaxis(y, 0, 3).reshape(*y.shape[1:4], -1)


def _is_nhwc(lhs, rhs, numbers):
  given = lax.conv_dimension_numbers(lhs.shape, rhs.shape, numbers)
  return given == lax.conv_dimension_numbers(lhs.shape, rhs.shape, _NHWC)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(window, x, kernel):
  """x [B, H, W, I] and kernel [h, w, I, O] -> [B, H', W', O]."""
  stride, padding, dilation, precision = window
  if (kernel.shape[:2] == stride == dilation == (1, 1)
      and padding == ((0, 0), (0, 0))):
    return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())), precision)
  (h, w, _, out), (dh, dw) = kernel.shape, dilation
  view = _strided(window, kernel.shape)
  if view:
    sides = [((n - 1) * d + sum(pad) - k + 1) // s + 1 for n, d, pad, k, s in
             zip(x.shape[1:3], dilation, padding, (h, w), stride, strict=True)]
    return (_to_large if view.turned else _to_small)(view, sides, x, kernel)
  padded = -(-h // dh) * dh * -(-w // dw) * dw
  if stride == (1, 1) != dilation and out >= 4 and padded <= 1.5 * h * w:
    return _by_phases(window, x, kernel)
  if stride == dilation == (1, 1) and out**2 < h * w:
    return _to_few_channels(window, x, kernel)
  if dilation == (1, 1) and kernel.shape[2] >= 16 and (
      x.shape[1] * x.shape[2] <= _TINY):
    return _of_tiny_images(window, x, kernel)
  if min(map(min, padding)) < 0:  # XLA's CPU kernels misread some of these.
    x = _padded(x, padding, dilation)
    padding, dilation = ((0, 0), (0, 0)), (1, 1)
  return lax.conv_general_dilated(x, kernel, stride, padding, dilation,
                                  dimension_numbers=_NHWC, precision=precision)


def _conv_fwd(window, x, kernel):
  return _conv(window, x, kernel), (x, kernel)


def _conv_bwd(window, saved, dy):
  x, kernel = saved
  return (_input_grad(window, x.shape[1:3], dy, kernel),
          _kernel_grad(window, kernel.shape[:2], x, dy))


_conv.defvjp(_conv_fwd, _conv_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _input_grad(window, shape, dy, kernel):
  """d(loss)/dx [B, *shape, I]: a convolution, stride and dilation swapped."""
  view = _strided(window, kernel.shape)
  if view:
    return (_to_small if view.turned else _to_large)(view, shape, dy, kernel)
  # Behind the barrier XLA cannot fold the transposition into the convolution,
  # and so, inside loops, out of its fast kernel.
  turned = lax.optimization_barrier(kernel[::-1, ::-1].swapaxes(2, 3))
  padding = []
  for i in range(2):
    k, low = kernel.shape[i], kernel.shape[i] - 1 - window.padding[i][0]
    size = (dy.shape[1 + i] - 1) * window.stride[i] + 1
    full = (shape[i] - 1) * window.dilation[i] + k
    padding.append((low, full - size - low))
  back = window._replace(stride=window.dilation, padding=tuple(padding),
                         dilation=window.stride)
  return _conv(back, dy, turned)


def _input_grad_fwd(window, shape, dy, kernel):
  return _input_grad(window, shape, dy, kernel), (dy, kernel)


def _input_grad_bwd(window, shape, saved, dx):
  dy, kernel = saved
  return (_conv(window, dx, kernel),
          _kernel_grad(window, kernel.shape[:2], dx, dy))


_input_grad.defvjp(_input_grad_fwd, _input_grad_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _kernel_grad(window, size, x, dy):
  """d(loss)/d(kernel) [h, w, I, O] for a kernel of `size` (h, w)."""
  stride, padding, dilation, precision = window
  kernel = *size, x.shape[3], dy.shape[3]
  view = _strided(window, kernel, of_kernel=True)
  if view:
    # Turned as it is: to turn the gradient around takes longer than to make it.
    return _of_both(view, kernel, *((dy, x) if view.turned else (x, dy)))
  if dilation != (1, 1):
    if stride != (1, 1):
      x, dilation = _padded(x, ((0, 0), (0, 0)), dilation), (1, 1)
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
  return (_input_grad(window, x.shape[1:3], dy, kernel),
          _conv(window, x, kernel))


_kernel_grad.defvjp(_kernel_grad_fwd, _kernel_grad_bwd)


def _padded(x, padding, dilation=(1, 1)):
  """x with zeros around it, and between its pixels, `dilation` apart."""
  none = (0, 0, 0)
  return lax.pad(x, jnp.zeros((), x.dtype), (none, *(
      (*pad, d - 1) for pad, d in zip(padding, dilation, strict=True)), none))


class _View(typing.NamedTuple):
  """A convolution of stride 1 of `_fold`ed images that a `_conv` is.

  A strided convolution makes a small image of a large one; a transposed one,
  whose kernel is stored turned (channels swapped, taps in reverse), a large one
  of a small one.
  """
  turned: bool
  stride: int
  low: tuple[int, int]   # Rows and columns of zeros before the large image.
  fold: int              # Of the small image; of the large one `fold * stride`.
  size: int              # Taps of the kernel.

  @property
  def block(self) -> int:
    return self.stride * self.fold

  @property
  def taps(self) -> int:
    """Of the kernel between folded images."""
    return -(-(self.size + self.block - self.stride) // self.block)

  def whole(self, small) -> list[int]:
    """Height and width of the large image that a small one of `small` sees."""
    return [(-(-n // self.fold) - 1 + self.taps) * self.block for n in small]


def _strided(window, kernel, of_kernel=False):
  """The `_View` of a convolution for which Winograd's way pays, or None.

  `of_kernel`: for the gradient by the kernel.
  """
  (h, w, inputs, out), low = kernel, tuple(low for low, _ in window.padding)
  if window.dilation == (1, 1):
    turned, stride, large, small = False, window.stride, inputs, out
  elif window.stride == (1, 1):
    turned, stride, large, small = True, window.dilation, out, inputs
    low = h - 1 - low[0], w - 1 - low[1]
  else:
    return None
  if h != w or stride[0] != stride[1] or (h, stride[0]) not in _FEWER:
    return None
  fold, least, most, gradient = _FEWER[h, stride[0]]
  fewest, widest = sorted((large * stride[0]**2, small))
  if fewest < least or widest < most or (of_kernel and not gradient):
    return None
  return _View(turned, stride[0], low, fold, h)


def _fold(x, rows, columns):
  """[B, H, W, C] -> [B, H / rows, W / columns, rows columns C]."""
  _, h, w, channels = x.shape
  h, w = h // rows, w // columns
  x = x.reshape(-1, h, rows, w, columns * channels).swapaxes(2, 3)
  return x.reshape(-1, h, w, rows * columns * channels)


def _unfold(x, by):
  """The inverse of `_fold`, as many rows as columns."""
  _, h, w, channels = x.shape
  x = x.reshape(-1, h, w, by, channels // by).swapaxes(2, 3)
  return x.reshape(-1, h * by, w * by, channels // by**2)


def _folded(view, kernel):
  """The kernel between folded images: [h, w, I, O], [h, w, O, I] if turned."""
  _, stride, _, fold, size = view
  if view.turned:
    kernel = kernel[::-1, ::-1]
  low, taps = stride * (fold - 1), view.taps
  full = taps * view.block
  pad = low, full - size
  kernel = jnp.pad(kernel, (pad, pad, (0, 0), (0, 0)))
  kernel = jnp.stack([
      kernel[row:row + full, column:column + full]
      for row in range(low, -1, -stride) for column in range(low, -1, -stride)])
  _, _, _, first, last = kernel.shape
  kernel = kernel.reshape(fold, fold, taps, view.block, taps, view.block,
                          first, last)
  kernel = kernel.transpose((2, 4, 0, 1, 6, 3, 5, 7) if view.turned else
                            (2, 4, 3, 5, 6, 0, 1, 7))
  return kernel.reshape(taps, taps, math.prod(kernel.shape[2:5]), -1)


def _transformed(view, kernel):
  return winograd.transform(_folded(view, kernel), _TILE, view.turned)


def _to_small(view, grid, x, kernel):
  """The small image, of height and width `grid`, that a large one makes."""
  x = winograd.crop(x, view.low, view.whole(grid))
  x = _fold(x, view.block, view.block)
  y = winograd.conv(x, _transformed(view, kernel))
  return winograd.crop(_unfold(y, view.fold), (0, 0), grid)


def _grown(view, x):
  """A small image, folded."""
  x = winograd.crop(x, (0, 0), [-(-n // view.fold) * view.fold
                                for n in x.shape[1:3]])
  return _fold(x, view.fold, view.fold)


def _to_large(view, shape, x, kernel):
  """The large image, of sides `shape`: the transpose of `_to_small`."""
  whole = view.whole(x.shape[1:3])
  y = winograd.input_grad(_grown(view, x), _transformed(view, kernel),
                          [n // view.block for n in whole])
  return winograd.crop(_unfold(y, view.block), [-low for low in view.low],
                       shape)


def _of_both(view, shape, large, small):
  """The gradient by the kernel [*shape]."""
  large = winograd.crop(large, view.low, view.whole(small.shape[1:3]))
  large = _fold(large, view.block, view.block)
  grad = winograd.kernel_grad(large, _grown(view, small), (view.taps,) * 2,
                              _TILE, view.turned)
  back = jax.linear_transpose(functools.partial(_folded, view),
                              jax.ShapeDtypeStruct(shape, grad.dtype))
  return back(grad)[0]


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


def _of_tiny_images(window, x, kernel):
  """A convolution of few pixels: of all images' columns, in one product."""
  (h, w, channels, out), (sh, sw) = kernel.shape, window.stride
  x = _padded(x, window.padding)
  rows, columns = x.shape[1] - h + 1, x.shape[2] - w + 1
  x = jnp.concatenate([x[:, i:i + rows:sh, j:j + columns:sw]
                       for i in range(h) for j in range(w)], 3)
  y = jnp.matmul(x.reshape(-1, h * w * channels),
                 kernel.reshape(h * w * channels, out),
                 precision=window.precision)
  return y.reshape(*x.shape[:3], out)


def _to_few_channels(window, x, kernel):
  """A convolution to so few channels that its products come first.

  A product gives every tap's share of every pixel; shifted, they add up. A few
  images at a time, so that the shares stay in the cache.
  """
  (kh, kw, channels, out), precision = kernel.shape, window.precision
  x = _padded(x, window.padding)
  (batch, h, w, _), taps = x.shape, kernel.transpose(0, 1, 3, 2)
  taps = taps.reshape(-1, channels)

  def part(x):
    y = lax.dot_general(taps, x.reshape(-1, channels),
                        (((1,), (1,)), ((), ())), precision)
    y = y.reshape(kh, kw, out, -1, h, w)
    y = sum(y[:, j, ..., j:w - kw + 1 + j] for j in range(kw))
    # Two short sums, not their product, for each value.
    y = lax.optimization_barrier(y)
    y = sum(y[i, :, :, i:h - kh + 1 + i] for i in range(kh))
    return y.transpose(1, 2, 3, 0)

  one = h * w * kh * kw * out
  count = steps(batch, one)
  if count == 1:
    return part(x)
  y = lax.map(part, x.reshape(count, batch // count, h, w, channels))
  return y.reshape(batch, *y.shape[2:])


def _correlate(stride, low, size, precision, x, dy):
  """kernel[i, j] = sum of x[row * stride + i - low] dy[row], as a product."""
  (_, *shape, out), (_, *grid, channels) = dy.shape, x.shape
  if stride != (1, 1) and size[0] % stride[0] == size[1] % stride[1] == 0:
    return _correlate_folded(stride, low, size, precision, x, dy)
  # Columns (im2col) of the side where fewer values are moved and multiplied;
  # a move costs about as much as 64 multiplications.
  of_x = math.prod(shape) * channels * (out + 64)
  of_dy = math.prod(grid) * out * (channels + 64)
  if stride != (1, 1) or of_x <= of_dy:
    full = [(n - 1) * s + k for n, s, k in zip(shape, stride, size,
                                               strict=True)]
    return _product(size, stride, precision, winograd.crop(x, low, full), dy)
  # Seen from x, dy moves the other way.
  dy = winograd.crop(dy, [k - 1 - lo for k, lo in zip(size, low, strict=True)],
             [n + k - 1 for n, k in zip(grid, size, strict=True)])
  grad = _product(size, stride, precision, dy, x)
  return grad[::-1, ::-1].swapaxes(2, 3)


def _correlate_folded(stride, low, size, precision, x, dy):
  """`_correlate` with the stride moved into the channels."""
  (sh, sw), channels, out = stride, x.shape[3], dy.shape[3]
  th, tw = size[0] // sh, size[1] // sw
  h, w = dy.shape[1] + th - 1, dy.shape[2] + tw - 1
  x = _fold(winograd.crop(x, low, (h * sh, w * sw)), sh, sw)
  grad = _correlate((1, 1), (0, 0), (th, tw), precision, x, dy)
  grad = grad.reshape(th, tw, sh, sw, channels, out)
  return grad.transpose(0, 2, 1, 3, 4, 5).reshape(*size, channels, out)


def _product(taps, stride, precision, a, b):
  """[i, j, m, n] = sum over p of a[p * stride + (i, j), m] b[p, n].

  A few images at a time, so that the columns stay in the cache.
  """
  (batch, h, w, n), m = b.shape, a.shape[3]
  one = h * w * math.prod(taps) * m
  if m <= _FEW:
    product, limit = _few_channels, _CHUNK
  else:
    # One product, or one for each row of taps where even one image is large.
    rows = 1 if one <= _CHUNK // 4 else taps[0]
    limit = _CHUNK if math.prod(taps) > 1 else batch * one
    product = functools.partial(_many_channels, rows)
  product = functools.partial(product, taps, stride, precision)
  count = steps(batch, one, limit)
  if count == 1:
    total = product(a, b)
  else:
    split = [v.reshape(count, batch // count, *v.shape[1:]) for v in (a, b)]
    # Its value is dropped; inside `shard_map` zeros must vary as it does.
    zero = jnp.zeros_like(product(a[:1], b[:1]))
    total, _ = lax.scan(lambda total, ab: (total + product(*ab), None), zero,
                        tuple(split))
  return total.reshape(*taps, m, n) if m <= _FEW else (
      total.swapaxes(1, 2).reshape(*taps, m, n))


def _few_channels(taps, stride, precision, a, b):
  """[taps * m, n], the channels in front: whole rows are moved at once."""
  (_, h, w, n), m, (sh, sw) = b.shape, a.shape[3], stride
  a = a.transpose(3, 0, 1, 2)
  columns = jnp.stack([a[:, :, i:i + h * sh - sh + 1:sh,
                         j:j + w * sw - sw + 1:sw]
                       for i in range(taps[0]) for j in range(taps[1])])
  columns = columns.reshape(math.prod(taps) * m, -1)
  return jnp.matmul(columns, b.reshape(-1, n), precision=precision)


def _many_channels(rows, taps, stride, precision, a, b):
  """[rows, n, taps / rows * m], a product for each of `rows` rows of taps."""
  (_, h, w, n), (sh, sw) = b.shape, stride
  h, w, step = h * sh - sh + 1, w * sw - sw + 1, sh if rows == 1 else 1
  columns = jnp.concatenate(
      [a[:, i:i + h + rows - 1:step, j:j + w:sw]
       for i in range(taps[0] // rows) for j in range(taps[1])], 3)
  b, deep = b.reshape(-1, n), columns.shape[3]
  parts = [columns] if rows == 1 else [columns[:, i:i + h:sh]
                                       for i in range(rows)]
  return jnp.stack([lax.dot_general(b, c.reshape(-1, deep),
                                    (((0,), (0,)), ((), ())), precision)
                    for c in parts])


def conv_of_doubled(lhs, rhs, window_strides, padding, **more):
  """The SAME convolution of `lhs` doubled by repetition, without doubling it.

  Taps that see one pixel are added up: of 3x3 ones 4/9 of the products remain,
  of 5x5 ones 36/100.

  Args:
    lhs: [B, H, W, I].
    rhs: [h, w, I, O].
    window_strides, padding: 1 and SAME, whatever is given.
    **more: what else `conv_general_dilated` takes.

  Returns:
    [B, 2 H, 2 W, O].
  """
  del window_strides, padding
  pads = [((k + 1) // 2, k // 2 + 1) for k in rhs.shape[:2]]
  return conv_general_dilated(lhs, _over_four(rhs).astype(lhs.dtype), (1, 1),
                              pads, **more | {'lhs_dilation': (2, 2)})


def halved_conv(lhs, rhs, window_strides, padding, **more):
  """Means of the 2x2 pixels of a 3x3 SAME convolution, by 4/9 of the products.

  Arguments as of `conv_of_doubled`; [B, H, W, I] -> [B, H / 2, W / 2, O].
  """
  del window_strides, padding
  return conv_general_dilated(
      lhs, (_over_four(rhs) / 4).astype(lhs.dtype), (2, 2), ((1, 1), (1, 1)),
      **more)


def _over_four(kernel):
  """The sum of a kernel at 2x2 neighbouring pixels, one larger each way."""
  shifts = (0, 1), (1, 0)
  wide = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
  return sum(jnp.pad(wide, (i, j, (0, 0), (0, 0)))
             for i in shifts for j in shifts)
