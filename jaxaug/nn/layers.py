"""Layers of the networks, whose convolution is one that is fast on CPU."""
import functools
import math
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxaug.nn.cpu import convolution


def each(function, x, size: int):
  """Returns function(x), on a CPU of at most `size` images at a time.

  What stays in the cache is faster; for networks that only look.

  Args:
    function: [b, ...] -> a pytree of [b, ...], every image by itself.
    x: [B, ...].
    size: images of a part; the largest divisor of B up to it is taken.
  """
  count = next(n for n in range(-(-len(x) // size), len(x) + 1)
               if len(x) % n == 0)
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


Conv = functools.partial(
    nn.Conv, conv_general_dilated=convolution.conv_general_dilated)


def ConvTranspose(features, kernel_size, strides=(1, 1), padding='SAME',
                  **more):
  """`flax.linen.ConvTranspose` as a `Conv` of the dilated input.

  The same arguments, parameter names and shapes; but no CIRCULAR padding, and
  no `transpose_kernel`.
  """
  def of_each(value):
    return np.broadcast_to(value or 1, len(kernel_size)).tolist()
  strides = of_each(strides)
  if padding in ('SAME', 'VALID'):
    pads = []
    for k, s, apart in zip(kernel_size, strides,
                           of_each(more.get('kernel_dilation')), strict=True):
      k = (k - 1) * apart + 1
      total = k + s - 2 + (max(k - s, 0) if padding == 'VALID' else 0)
      low = k - 1 if padding == 'VALID' or s > k - 1 else -(-total // 2)
      pads.append((low, total - low))
    padding = pads
  return Conv(features, kernel_size, input_dilation=strides, padding=padding,
              **more)


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
  return convolution.conv_general_dilated(
      lhs, _over_four(rhs).astype(lhs.dtype), (1, 1), pads,
      **more | {'lhs_dilation': (2, 2)})


def halved_conv(lhs, rhs, window_strides, padding, **more):
  """Means of the 2x2 pixels of a 3x3 SAME convolution, by 4/9 of the products.

  Arguments as of `conv_of_doubled`; [B, H, W, I] -> [B, H / 2, W / 2, O].
  """
  del window_strides, padding
  return convolution.conv_general_dilated(
      lhs, (_over_four(rhs) / 4).astype(lhs.dtype), (2, 2), ((1, 1), (1, 1)),
      **more)


def _over_four(kernel):
  """The sum of a kernel at 2x2 neighbouring pixels, one larger each way."""
  shifts = (0, 1), (1, 0)
  wide = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
  return sum(jnp.pad(wide, (i, j, (0, 0), (0, 0)))
             for i in shifts for j in shifts)


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
