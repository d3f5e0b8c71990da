"""Layers of the networks; the convolution is one that is fast on CPU.

XLA's CPU backend is fast at a plain convolution and slow around it: at the
gradients of transposed convolutions, of narrow and of 1x1 ones, and at every
backward convolution inside `scan`, `cond` or `map` (`benchmarks/conv.py`). Here
both gradients are plain convolutions and matrix products.
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
# Pixels of an image so small that its convolution is best one product.
_TINY = 16


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


def each(function, x, size: int):
  """Returns function(x), on a CPU of at most `size` images at a time.

  What stays in the cache is faster; for networks that only look.

  Args:
    function: [b, ...] -> a pytree of [b, ...], every image by itself.
    x: [B, ...].
    size: images of a part; the largest divisor of B up to it is taken.
  """
  count = steps(len(x), 1, size)
  if count == 1 or jax.default_backend() != 'cpu':
    return function(x)
  parts = x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)
  return jax.tree.map(
      lambda y: y.swapaxes(0, 1).reshape(len(x), *y.shape[2:]),
      lax.map(function, parts))


def by_imagenet(x):
  """Normalises RGB in [0, 1] by ImageNet's mean and standard deviation.

  What PyTorch's pretrained networks expect; grey becomes three channels.
  """
  return (x - jnp.array((0.485, 0.456, 0.406))) / jnp.array(
      (0.229, 0.224, 0.225))


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
  2D NHWC images without kernel dilation, and with groups also without input
  dilation; all else, and every other backend, is the stock operation.
  Forward-mode differentiation (`jax.jvp`) of the fast path is not supported.
  """
  fast = (jax.default_backend() == 'cpu' and lhs.ndim == 4
          and lhs.dtype == rhs.dtype
          and jnp.issubdtype(lhs.dtype, jnp.floating)
          and batch_group_count == 1
          and (feature_group_count == 1 or set(lhs_dilation or (1,)) == {1})
          and set(rhs_dilation or (1,)) == {1}
          and preferred_element_type in (None, lhs.dtype)
          and not any(v is not None for v in more.values())
          and 0 not in lhs.shape + rhs.shape
          and (not isinstance(padding, str) or set(lhs_dilation or (1,)) == {1})
          and _is_nhwc(lhs, rhs, dimension_numbers))
  if not fast:
    return lax.conv_general_dilated(
        lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation,
        dimension_numbers, feature_group_count, batch_group_count, precision,
        preferred_element_type, **more)
  dilation = tuple(lhs_dilation or (1, 1))
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2],
                                  window_strides, padding)
  window = _Window(tuple(window_strides), tuple(map(tuple, padding)), dilation,
                   precision)
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
    none = (0, 0, 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), (
        none, *((low, high, 0) for low, high in window.padding), none))
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
  padded = -(-h // dh) * dh * -(-w // dw) * dw
  if stride == (1, 1) != dilation and out >= 4 and padded <= 1.5 * h * w:
    return _by_phases(window, x, kernel)
  if stride == dilation == (1, 1) and out <= 3 < math.isqrt(h * w):
    return _to_few_channels(window, x, kernel)
  if dilation == (1, 1) and kernel.shape[2] >= 16 and (
      x.shape[1] * x.shape[2] <= _TINY):
    return _of_tiny_images(window, x, kernel)
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


def _of_tiny_images(window, x, kernel):
  """A convolution of few pixels: of all images' columns, in one product."""
  (h, w, channels, out), (sh, sw) = kernel.shape, window.stride
  size = [n + low + high for n, (low, high) in
          zip(x.shape[1:3], window.padding, strict=True)]
  x = _crop(x, [low for low, _ in window.padding], size)
  rows, columns = (n - k + 1 for n, k in zip(size, (h, w), strict=True))
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
  size = [n + low + high for n, (low, high) in
          zip(x.shape[1:3], window.padding, strict=True)]
  x = _crop(x, [low for low, _ in window.padding], size)
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
    return _product(size, stride, precision, _crop(x, low, full), dy)
  # Seen from x, dy moves the other way.
  dy = _crop(dy, [k - 1 - lo for k, lo in zip(size, low, strict=True)],
             [n + k - 1 for n, k in zip(grid, size, strict=True)])
  grad = _product(size, stride, precision, dy, x)
  return grad[::-1, ::-1].swapaxes(2, 3)


def _correlate_folded(stride, low, size, precision, x, dy):
  """`_correlate` with the stride moved into the channels."""
  (sh, sw), channels, out = stride, x.shape[3], dy.shape[3]
  th, tw = size[0] // sh, size[1] // sw
  h, w = dy.shape[1] + th - 1, dy.shape[2] + tw - 1
  x = _crop(x, low, (h * sh, w * sw)).reshape(-1, h, sh, w, sw, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, h, w, sh * sw * channels)
  grad = _correlate((1, 1), (0, 0), (th, tw), precision, x, dy)
  grad = grad.reshape(th, tw, sh, sw, channels, out)
  return grad.transpose(0, 2, 1, 3, 4, 5).reshape(*size, channels, out)


def _product(taps, stride, precision, a, b):
  """[i, j, m, n] = sum over p of a[p * stride + (i, j), m] b[p, n].

  A few images at a time, so that the columns stay in the cache.
  """
  (batch, h, w, n), m = b.shape, a.shape[3]
  one = h * w * math.prod(taps) * m
  if m <= 4:
    product, limit = _few_channels, 16 * _CHUNK
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
  return total.reshape(*taps, m, n) if m <= 4 else (
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


Conv = functools.partial(nn.Conv, conv_general_dilated=conv_general_dilated)


def ConvTranspose(features, kernel_size, strides=(1, 1), padding='SAME',
                  **more):
  """`flax.linen.ConvTranspose` as a `Conv` of the dilated input.

  The same arguments, parameter names and shapes; but no CIRCULAR padding, and
  no `transpose_kernel`.
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



def max_pool(x):
  """Largest of every 2x2 pixels: [B, H, W, C] -> [B, H // 2, W // 2, C].

  The same as `nn.max_pool(x, (2, 2), (2, 2))`, but with a gradient that XLA's
  CPU backend computes twice as fast; equal pixels share it.
  """
  x = x[:, :x.shape[1] // 2 * 2, :x.shape[2] // 2 * 2]
  x = jnp.maximum(x[:, ::2], x[:, 1::2])
  return jnp.maximum(x[:, :, ::2], x[:, :, 1::2])


def adaptive_mean(x, size: int):
  """Means of fields that cover the map: [B, H, W, C] -> [B, size, size, C].

  Fields of a map that `size` does not divide overlap.
  """
  for axis in (1, 2):
    n = x.shape[axis]
    x = jnp.stack([
        lax.slice_in_dim(x, i * n // size, -(-(i + 1) * n // size),
                         axis=axis).mean(axis) for i in range(size)], axis)
  return x


def batch_norm(x, train: bool, dtype=jnp.float32, **more):
  """`flax.linen.BatchNorm` as PyTorch sets it, computed in float32.

  Half precision loses the variance. Over several devices the statistics are
  those of the global batch. Call it in a compact `__call__`.

  Args:
    x: [..., C].
    train: normalise by this batch, and move the averages; else by these.
    dtype: of what is returned, [..., C].
    **more: what else `flax.linen.BatchNorm` takes, such as `name`.
  """
  norm = functools.partial(nn.BatchNorm, use_running_average=not train,
                           momentum=0.9, epsilon=1e-5, dtype=jnp.float32)
  return norm(**more)(x).astype(dtype)


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
  wide = kernel.astype(jnp.float32)
  return sum(jnp.pad(wide, (i, j, (0, 0), (0, 0)))
             for i in shifts for j in shifts)


def uniform(fan_in: int):
  """Returns Torch's initialiser of weights and biases: +-1/sqrt(fan_in)."""
  edge = 1 / math.sqrt(fan_in)
  return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
      key, shape, dtype, -edge, edge)


def normal_about(mean: float, deviation: float):
  """Returns an initialiser; with a deviation of 0 it draws nothing."""
  if not deviation:
    return nn.initializers.constant(mean)
  draw = nn.initializers.normal(deviation)
  return lambda *given: mean + draw(*given)


class ConditionalBatchNorm(nn.Module):
  """Batch norm whose gain and bias belong to the class (de Vries et al. 2017).

  (x [B, H, W, C], labels [B], train) -> [B, H, W, C]; see `batch_norm`. Gains
  start about 1 and biases about 0, normal with the standard deviation.
  """
  num_classes: int
  dtype: typing.Any = jnp.float32
  deviation: float = 0.0

  @nn.compact
  def __call__(self, x, labels, train: bool):
    channels = x.shape[-1]
    x = batch_norm(x, train, use_bias=False, use_scale=False)
    def table(name, mean):
      return nn.Embed(self.num_classes, channels, name=name,
                      embedding_init=normal_about(mean, self.deviation))(
                          labels)[:, None, None]
    return (x * table('gain', 1.0) + table('bias', 0.0)).astype(self.dtype)


def _unit(x, epsilon: float):
  return x * lax.rsqrt(jnp.square(x).sum() + epsilon)


class SpectralNorm(nn.Module):
  """Divides a layer's weights by their largest singular value.

  (x, train) -> layer(x); Miyato et al. 2018: one step of the power iteration a
  training pass. `flax.linen.SpectralNorm` does the same, but it also rescales
  the initial weights, so that their standard deviation is not the one asked
  for.

  layer: has one weight, [..., outputs], and maybe a bias.
  epsilon: added to squared norms.
  """
  layer: nn.Module
  epsilon: float = 1e-8

  @nn.compact
  def __call__(self, x, train: bool):
    starts = self.is_initializing()
    def product(*matrices):
      return jnp.linalg.multi_dot(matrices, precision=lax.Precision.HIGHEST)

    def divided(weight):
      if weight.ndim < 2:
        return weight
      matrix = weight.reshape(-1, weight.shape[-1])
      u = self.variable(
          'batch_stats', 'u', lambda: jax.random.normal(
              self.make_rng('params'), matrix.shape[1:]))
      if starts:
        return weight
      v = _unit(product(matrix, u.value), self.epsilon)
      new = _unit(product(v, matrix), self.epsilon)
      v, new = lax.stop_gradient((v, new))
      if train:
        u.value = new
      return weight / product(v, matrix, new)
    return nn.map_variables(
        lambda layer: layer(x), 'params', init=starts, mutable=starts,
        trans_in_fn=functools.partial(jax.tree.map, divided))(self.layer)
