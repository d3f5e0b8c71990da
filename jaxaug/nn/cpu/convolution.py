"""Convolutions on CPU: one relation of images, kernel and result.

XLA's CPU backend is slow around a plain convolution: at its gradients, in
loops, with groups (`benchmarks/conv.py`). Here a convolution and its two
gradients are one primitive, linear in both operands and closed under
differentiation, which oneDNN computes where it is installed, and `products`
elsewhere.
"""
import functools
import os
import typing
import warnings

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jax.interpreters import ad, batching, mlir

from jaxaug.core import errors
from jaxaug.nn.cpu import onednn, products

_NHWC = ('NHWC', 'HWIO', 'NHWC')
_VARIABLE = 'JAXAUG_CONVOLUTIONS'
# oneDNN computes channels by the 16: where fewer come out, several pixels do.
# Not for the gradient by x, into which few channels go.
_FEW = 4


@functools.cache
def way(devices: int = 1) -> tuple[str, str]:
  """Returns which of onednn, products and xla computes, and a line about it.

  JAXAUG_CONVOLUTIONS chooses; else it is oneDNN, where that can be used. Over
  several devices that is plain JAX: XLA cannot split what it calls.

  Raises:
    InputError: there is no such choice, or it cannot be.
  """
  asked = os.environ.get(_VARIABLE, '')
  if asked:
    errors.one_of(_VARIABLE, asked, ('onednn', 'products', 'xla'))
  if asked in ('products', 'xla'):
    return asked, f'convolutions: {asked}, as {_VARIABLE} says'
  try:
    words = onednn.library().words
    if devices > 1:
      return 'products', ('convolutions: plain JAX over several devices, '
                          f'{words} on one')
    return 'onednn', f'convolutions: {words}'
  except onednn.Unavailable as e:
    if asked:
      raise errors.InputError(f'{_VARIABLE}: onednn; {e}') from e
    return 'products', f'convolutions: plain JAX, slower than oneDNN: {e}'


class Window(typing.NamedTuple):
  """How x [B, *x, C], a kernel of sides `w` and y [B, *y, O] belong together.

  y[p] = sum over taps t of x[p * stride - low + t * dilation] w[t], zeros
  around x; `turned`: the kernel is [h, w, O / groups, C], and not
  [h, w, C / groups, O].
  """
  x: tuple[int, int]
  w: tuple[int, int]
  y: tuple[int, int]
  stride: tuple[int, int]
  low: tuple[int, int]
  dilation: tuple[int, int]
  groups: int
  turned: bool


def _shapes(want, window, a, b):
  """The shapes of x, w and y, by those of the two that are given."""
  shapes = dict(zip(onednn.OPERANDS[want], (a.shape, b.shape), strict=True))
  if want == 'w':
    first, last = (shapes[n][3] for n in ('yx' if window.turned else 'xy'))
    made = *window.w, first // window.groups, last
  else:
    # Of the last two of a kernel, one is whole and one of one group.
    whole = (want == 'y') != window.turned
    made = a.shape[0], *getattr(window, want), (
        b.shape[3] if whole else b.shape[2] * window.groups)
  return shapes | {want: made}


_convolution = core.Primitive('jaxaug_convolution')


@_convolution.def_abstract_eval
def _(a, b, *, want, window):
  if a.manual_axis_type.varying or b.manual_axis_type.varying:
    raise NotImplementedError('a convolution inside shard_map: expected '
                              'check_vma=False')
  return jax.core.ShapedArray(_shapes(want, window, a, b)[want], a.dtype)


@functools.partial(jax.jit, static_argnames=('want', 'window'))
def _solve(a, b, want, window):
  return _convolution.bind(a, b, want=want, window=window)


@_convolution.def_impl
def _(a, b, **given):
  with jax.disable_jit(False):  # Or it would ask itself again.
    return _solve(a, b, **given)


def _transposed(side, cotangent, a, b, *, want, window):
  """The gradient by one operand solves the same relation."""
  mine, other = onednn.OPERANDS[want][::-1 if side else 1]
  given = {want: cotangent, other: a if side else b}
  a, b = (given[n] for n in onednn.OPERANDS[mine])
  return _convolution.bind(a, b, want=mine, window=window)


ad.defbilinear(_convolution, functools.partial(_transposed, 0),
               functools.partial(_transposed, 1))


def _batched(operands, axes, *, want, window):
  """Many at once: more images where the kernel is one, else one by one."""
  operands = [a if axis is None else jnp.moveaxis(a, axis, 0)
              for a, axis in zip(operands, axes, strict=True)]
  solve = functools.partial(_convolution.bind, want=want, window=window)
  if want != 'w' and axes[1] is None:
    images, kernel = operands
    y = solve(images.reshape(-1, *images.shape[2:]), kernel)
    return y.reshape(*images.shape[:2], *y.shape[1:]), 0

  def one(mapped):
    mapped = iter(mapped)
    return solve(*(a if axis is None else next(mapped)
                   for a, axis in zip(operands, axes, strict=True)))
  return lax.map(one, [a for a, axis in zip(operands, axes, strict=True)
                       if axis is not None]), 0


batching.primitive_batchers[_convolution] = _batched


def _by_onednn(a, b, *, want, window):
  """What is compiled for a CPU: a call of the library where it can be."""
  plain = functools.partial(_by_products, a, b, want=want, window=window)
  if a.dtype.name not in ('float32', 'bfloat16'):
    return plain()
  if want == 'w' and a.dtype != jnp.float32:
    # oneDNN 3.2 leaves taps that see no pixel unwritten in half precision.
    return _in_float32(_by_onednn, a, b, want=want, window=window)
  shapes = _shapes(want, window, a, b)
  if (want != 'x' and shapes['y'][3] <= _FEW and min(window.y) >= 8
      and window.w != (1, 1) and window.groups == 1
      and window.stride == window.dilation == (1, 1)):
    return _four_at_once(want, window, shapes, a, b)
  try:
    name, scratch = onednn.target(want, window, **shapes, dtype=a.dtype.name)
  except onednn.Unavailable as e:
    if a.dtype != jnp.float32:
      return _in_float32(_by_onednn, a, b, want=want, window=window)
    warnings.warn(f'plain JAX computes {want} of {window}: {e}', stacklevel=2)
    return plain()
  return jax.ffi.ffi_call(name, (
      jax.ShapeDtypeStruct(shapes[want], a.dtype),
      jax.ShapeDtypeStruct((scratch,), jnp.uint8)))(a, b)[0]


def _by_products(a, b, *, want, window):
  """What is compiled where no library is called."""
  if a.dtype.itemsize < 4:  # Half precision is summed in float32.
    return _in_float32(_by_products, a, b, want=want, window=window)
  shape = _shapes(want, window, a, b)[want]
  return products.solve(want, window, shape, a, b)


def _in_float32(solve, a, b, **given):
  return solve(a.astype(jnp.float32), b.astype(jnp.float32),
               **given).astype(a.dtype)


def _four_at_once(want, window, shapes, a, b):
  """With the 2x2 pixels of a block of y as channels: a stride of 2."""
  (h, w), (kh, kw, channels, out) = window.y, shapes['w']
  rows, columns = -(-h // 2), -(-w // 2)
  solve = functools.partial(_by_onednn, want=want, window=window._replace(
      w=(kh + 1, kw + 1), y=(rows, columns), stride=(2, 2)))

  def kernel(w):
    w = [jnp.pad(w, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0)))
         for i in (0, 1) for j in (0, 1)]
    return jnp.stack(w, 3).reshape(kh + 1, kw + 1, channels, 4 * out)

  def image(y):
    y = y.reshape(-1, rows, columns, 2, 2, out).swapaxes(2, 3)
    return y.reshape(-1, 2 * rows, 2 * columns, out)[:, :h, :w]

  def blocks(y):
    y = jnp.pad(y, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
    y = y.reshape(-1, rows, 2, columns, 2, out).swapaxes(2, 3)
    return y.reshape(-1, rows, columns, 4 * out)
  if want == 'y':
    return image(solve(a, kernel(b)))
  return jax.linear_transpose(kernel, jax.ShapeDtypeStruct(
      shapes['w'], a.dtype))(solve(a, blocks(b)))[0]


def _lowered(context, *operands, **given):
  # Inside `shard_map` each device calls for itself, and no number is there.
  devices = getattr(context.module_context.axis_context, 'num_devices', 1) or 1
  by = _by_onednn if way(devices)[0] == 'onednn' else _by_products
  return mlir.lower_fun(by, multiple_results=False)(context, *operands, **given)


mlir.register_lowering(_convolution, _lowered, platform='cpu')
mlir.register_lowering(_convolution, mlir.lower_fun(_by_products,
                                                    multiple_results=False))


def conv_general_dilated(lhs, rhs, window_strides, padding, lhs_dilation=None,
                         rhs_dilation=None, dimension_numbers=None,
                         feature_group_count=1, batch_group_count=1,
                         precision=None, preferred_element_type=None, **more):
  """`jax.lax.conv_general_dilated`, with other kernels on CPU.

  Takes the same arguments and gives the same values to rounding where they are
  finite, at any order of differentiation, under `vmap`, in loops, and inside
  `shard_map` with `check_vma=False`. The stock
  operation serves other backends, images other than NHWC, strides of a dilated
  input, and padding by which a transposed convolution is none. Products are
  whole float32 ones whatever the `precision`.
  """
  window = None
  if (jax.default_backend() == 'cpu' and lhs.ndim == rhs.ndim == 4
      and lhs.dtype == rhs.dtype and lhs.dtype.itemsize > 1
      and jnp.issubdtype(lhs.dtype, jnp.floating)
      and batch_group_count == 1
      and preferred_element_type in (None, lhs.dtype)
      and not any(v is not None for v in more.values())
      and 0 not in lhs.shape + rhs.shape
      and _is_nhwc(lhs, rhs, dimension_numbers)
      and lhs.shape[3] == rhs.shape[2] * feature_group_count
      and rhs.shape[3] % feature_group_count == 0
      and way()[0] != 'xla'):
    window, lhs = _window(lhs, rhs, window_strides, padding, lhs_dilation,
                          rhs_dilation, feature_group_count)
  if window is None:
    return lax.conv_general_dilated(
        lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation,
        dimension_numbers, feature_group_count, batch_group_count, precision,
        preferred_element_type, **more)
  if window.turned:
    return _solve(lhs, lax.rev(rhs, (0, 1)), 'x', window)
  return _solve(lhs, rhs, 'y', window)


def _is_nhwc(lhs, rhs, numbers):
  given = lax.conv_dimension_numbers(lhs.shape, rhs.shape, numbers)
  return given == lax.conv_dimension_numbers(lhs.shape, rhs.shape, _NHWC)


def _window(x, kernel, stride, padding, up, dilation, groups):
  """Returns the Window, or None, and the images without what is cut off."""
  sides, taps, stride = x.shape[1:3], kernel.shape[:2], tuple(stride)
  if len(stride) != 2 or min(stride) < 1:
    return None, x  # Which says what is wrong.
  up, dilation = (tuple(v or (1, 1)) for v in (up, dilation))
  spans = [(k - 1) * d + 1 for k, d in zip(taps, dilation, strict=True)]
  if isinstance(padding, str):
    if up != (1, 1):
      return None, x
    padding = lax.padtype_to_pads(sides, spans, stride, padding)
  if len(padding) != 2:
    return None, x
  lows, highs = zip(*padding, strict=True)
  whole = [(n - 1) * u + 1 + low + high for n, u, low, high in zip(
      sides, up, lows, highs, strict=True)]
  out = tuple((n - k) // s + 1
              for n, k, s in zip(whole, spans, stride, strict=True))
  if min(out) < 1:
    return None, x
  if up == (1, 1):
    rows, columns = (
        slice(max(-low, 0), max(n + min(high, 0), 0))
        for n, low, high in zip(sides, lows, highs, strict=True))
    cut, low = x[:, rows, columns], tuple(max(low, 0) for low in lows)
    if 0 in cut.shape:
      return None, x
    return Window(cut.shape[1:3], taps, out, stride, low, dilation, groups,
                  False), cut
  # The gradient of a convolution with this stride, by its images.
  low, high = (tuple(k - 1 - edge for k, edge in zip(spans, edges, strict=True))
               for edges in (lows, highs))
  if stride != (1, 1) or min(*low, *high) < 0:
    return None, x
  return Window(out, taps, sides, up, low, dilation, groups, True), x
