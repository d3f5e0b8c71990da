"""Batch norm, ReLU and convolution as one operation, as dense blocks have it.

On CPU the three, and their gradients, are computed a few images at a time, so
that what lies between them stays in the cache and is never written.
"""
import functools
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxaug import layers

EPSILON, MOMENTUM = 1e-5, 0.9


class NormReluConv(nn.Module):
  """x [B, H, W, C] -> convolution of relu(batch norm(x)), SAME, stride 1.

  The kernel is square and odd. Over several devices the statistics are those
  of the global batch. In half precision the convolution alone is half.
  """
  features: int
  size: int                    # Of the kernel's sides.
  join: bool = False           # Returns x with the result behind its channels.
  kernel_init: typing.Callable = nn.initializers.lecun_normal()
  dtype: typing.Any = jnp.float32

  @nn.compact
  def __call__(self, x, train: bool):
    channels, f32 = x.shape[-1], jnp.float32
    scale = self.param('scale', nn.initializers.ones, (channels,), f32)
    bias = self.param('bias', nn.initializers.zeros, (channels,), f32)
    kernel = self.param('kernel', self.kernel_init, (
        self.size, self.size, channels, self.features), f32)
    mean, var = (self.variable('batch_stats', name, fill, (channels,), f32)
                 for name, fill in (('mean', jnp.zeros), ('var', jnp.ones)))
    if not train:
      gain = scale * lax.rsqrt(var.value + EPSILON)
      return _apply(self.join, self.dtype, x, gain, bias - mean.value * gain,
                    kernel)
    if _is_fast(self.dtype):
      y, *new = _fast(self.join, x, scale, bias, kernel)
    else:
      new = _statistics(x)
      gain = scale * lax.rsqrt(new[1] + EPSILON)
      y = _apply(self.join, self.dtype, x, gain, bias - new[0] * gain, kernel)
    if not self.is_initializing():
      for old, value in zip((mean, var), new, strict=True):
        old.value = MOMENTUM * old.value + (1 - MOMENTUM) * (
            lax.stop_gradient(value))
    return y


def _is_fast(dtype) -> bool:
  return jax.default_backend() == 'cpu' and dtype == jnp.float32


def _statistics(x):
  """Returns mean and variance, float32 [C]."""
  x = x.astype(jnp.float32)
  mean = x.mean((0, 1, 2))
  return mean, jnp.maximum((x * x).mean((0, 1, 2)) - mean * mean, 0)


def _apply(join, dtype, x, gain, shift, kernel):
  if _is_fast(dtype):
    return _forward(join, x, gain, shift, kernel)
  z = nn.relu(x * gain + shift)
  y = lax.conv_general_dilated(
      z.astype(dtype), kernel.astype(dtype), (1, 1), 'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  return jnp.concatenate([x, y.astype(x.dtype)], -1) if join else y


def _flat(kernel):
  """[k, k, C, O] -> [C, k * k * O]: one product gives every tap's share."""
  return kernel.transpose(2, 0, 1, 3).reshape(kernel.shape[2], -1)


def _add_taps(shares, size):
  """shares [b, H, W, k, k * O] of each pixel -> [b, H, W, O]."""
  _, h, w, _, features = shares.shape
  edge, none = (size // 2,) * 2, (0, 0)
  y = jnp.pad(shares, (none, edge, none, none, none))
  y = sum(y[:, i:i + h, :, i] for i in range(size))
  y = y.reshape(*y.shape[:3], size, features // size)
  y = jnp.pad(y, (none, none, edge, none, none))
  return sum(y[:, :, j:j + w, j] for j in range(size))


def _columns(dy, size):
  """dy [b, H, W, O] -> [b * H * W, k * k * O]: what each tap of a pixel fed."""
  _, h, w, _ = dy.shape
  edge = (size // 2,) * 2
  dy = jnp.pad(dy, ((0, 0), edge, edge, (0, 0)))
  return jnp.concatenate(
      [dy[:, size - 1 - i:size - 1 - i + h, size - 1 - j:size - 1 - j + w]
       for i in range(size) for j in range(size)], -1).reshape(
           -1, size * size * dy.shape[-1])


def _in_steps(x, kernel, least):
  """Returns split(array), which gives it as [steps, images, ...]."""
  batch, h, w, channels = x.shape
  size, _, _, out = kernel.shape
  steps = layers.steps(batch, h * w * max(channels, size * size * out))
  steps = max(steps, least if batch % least == 0 else 1)
  return lambda array: array.reshape(steps, -1, *array.shape[1:])


def _forward(join, x, gain, shift, kernel):
  size, _, channels, out = kernel.shape
  weights = _flat(kernel)

  def part(x):
    z = nn.relu(x * gain + shift)
    y = z.reshape(-1, channels) @ weights
    if size == 1:
      y = y.reshape(*x.shape[:3], out)
    else:
      y = _add_taps(y.reshape(*x.shape[:3], size, size * out), size)
    return jnp.concatenate([x, y], -1) if join else y

  parts = _in_steps(x, kernel, 1)(x)
  y = part(x) if len(parts) == 1 else lax.map(part, parts)
  return y.reshape(*x.shape[:3], -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fast(join, x, scale, bias, kernel):
  """Returns (y, mean, variance); the last two have no gradient."""
  return _fast_fwd(join, x, scale, bias, kernel)[0]


def _fast_fwd(join, x, scale, bias, kernel):
  mean, var = _statistics(x)
  inverse = lax.rsqrt(var + EPSILON)
  gain = scale * inverse
  shift = bias - mean * gain
  y = _forward(join, x, gain, shift, kernel)
  return (y, mean, var), (x, mean, inverse, gain, shift, kernel)


def _fast_bwd(join, saved, cotangents):
  x, mean, inverse, gain, shift, kernel = saved
  dy_all, (size, _, channels, out) = cotangents[0], kernel.shape
  # Turned before the loop: YNN is twice as slow at the turned product.
  turned = lax.optimization_barrier(_flat(kernel).T)

  def part(total, given):
    x, dy = given
    z = nn.relu(x * gain + shift)
    dy = _columns(dy[..., -out:], size)
    # Both products read the same columns.
    new = lax.dot_general(dy, z.reshape(-1, channels),
                          (((0,), (0,)), ((), ())))
    dz = (dy @ turned).reshape(z.shape)
    return total + new, jnp.where(z > 0, dz, 0)

  # Two steps at least: XLA would fuse what follows into each of its readers.
  split = _in_steps(x, kernel, 2)
  dweights, dz = lax.scan(part, jnp.zeros(turned.shape),
                          (split(x), split(dy_all)))
  dbias = dz.sum((0, 1, 2, 3))
  dot = (dz * split(x)).sum((0, 1, 2, 3))
  dscale = (dot - mean * dbias) * inverse
  count = x.size // channels
  slope = gain * inverse * dscale / count
  offset = mean * slope - gain * dbias / count

  def whole(given):
    x, dy, dz = given
    dx = dz * gain - x * slope + offset
    return dx + dy[..., :channels] if join else dx
  dx = lax.map(whole, (split(x), split(dy_all), dz)).reshape(x.shape)
  dkernel = dweights.reshape(size, size, out, channels).swapaxes(2, 3)
  return dx, dscale, dbias, dkernel


_fast.defvjp(_fast_fwd, _fast_bwd)
