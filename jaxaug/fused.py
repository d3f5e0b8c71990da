"""Batch norm, ReLU and convolution as one, and dense blocks made of them.

On CPU the three and their gradients are computed a few images at a time, so
that what lies between them stays in the cache, and the layers of a dense block
share one array, each of them adding its channels (Pleiss et al. 2017,
"Memory-Efficient Implementation of DenseNets").
"""
import functools
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxaug import convolution

EPSILON, MOMENTUM = 1e-5, 0.9


class _Weights(nn.Module):
  """Returns ((scale, bias, kernel), (mean, var)); the latter are variables."""
  features: int
  size: int
  kernel_init: typing.Callable

  @nn.compact
  def __call__(self, channels: int):
    f32, shape = jnp.float32, (channels,)
    kernel = (self.size, self.size, channels, self.features)
    return ((self.param('scale', nn.initializers.ones, shape, f32),
             self.param('bias', nn.initializers.zeros, shape, f32),
             self.param('kernel', self.kernel_init, kernel, f32)), tuple(
        self.variable('batch_stats', name, fill, shape, f32)
        for name, fill in (('mean', jnp.zeros), ('var', jnp.ones))))


def _learn(running, new):
  """Moves running statistics towards those of a batch."""
  for old, value in zip(running, new, strict=True):
    old.value = MOMENTUM * old.value + (1 - MOMENTUM) * (
        lax.stop_gradient(value))


class NormReluConv(nn.Module):
  """x [B, H, W, C] -> convolution of relu(batch norm(x)), SAME, stride 1.

  The kernel is square and odd. Over several devices the statistics are those
  of the global batch. In half precision the convolution alone is half.
  """
  features: int
  size: int                    # Of the kernel's sides.
  kernel_init: typing.Callable = nn.initializers.lecun_normal()
  dtype: typing.Any = jnp.float32

  @nn.compact
  def __call__(self, x, train: bool):
    module = _Weights(self.features, self.size, self.kernel_init)
    nn.share_scope(self, module)
    (scale, bias, kernel), running = module(x.shape[-1])
    new = _statistics(x) if train else [v.value for v in running]
    if train and _is_fast(self.dtype):
      y, *new = _fast(x, scale, bias, kernel)
    else:
      y = _apply(self.dtype, x, *_fold(scale, bias, *new), kernel)
    if train and not self.is_initializing():
      _learn(running, new)
    return y


class Transition(nn.Module):
  """x [B, H, W, C] -> means of 2x2 of a 1x1 convolution of relu(batch norm(x)).

  Of an odd side the last mean is of what is there. Both are linear, so that
  the mean goes first, which is a quarter of the work; only dropout, which is
  of what the convolution gives, keeps it from that.
  """
  features: int
  dropout: float = 0.0
  kernel_init: typing.Callable = nn.initializers.lecun_normal()
  dtype: typing.Any = jnp.float32

  @nn.compact
  def __call__(self, x, train: bool):
    if train and self.dropout:
      conv = NormReluConv(self.features, 1, self.kernel_init, self.dtype)
      nn.share_scope(self, conv)
      return _means(nn.Dropout(self.dropout)(conv(x, train), False))
    module = _Weights(self.features, 1, self.kernel_init)
    nn.share_scope(self, module)
    (scale, bias, kernel), running = module(x.shape[-1])
    new = _statistics(x) if train else [v.value for v in running]
    if train and _is_fast(self.dtype) and x.shape[1] % 2 == x.shape[2] % 2 == 0:
      y, *new = _shrink(x, scale, bias, kernel)
    else:
      gain, shift = _fold(scale, bias, *new)
      y = _product(self.dtype, _means(nn.relu(x * gain + shift)), kernel)
    if train and not self.is_initializing():
      _learn(running, new)
    return y


class DenseBlock(nn.Module):
  """x [B, H, W, C] -> [B, H, W, C + layers * growth] (Huang et al. 2017).

  Every layer is norm, ReLU and a 3x3 convolution of all channels before it;
  with `bottleneck` the same of 1x1 to 4 growth comes first. What a convolution
  gives is dropped at the rate `dropout`.
  """
  layers: int
  growth: int
  bottleneck: bool = False
  dropout: float = 0.0
  kernel_init: typing.Callable = nn.initializers.lecun_normal()
  dtype: typing.Any = jnp.float32

  @nn.compact
  def __call__(self, x, train: bool):
    if (train and _is_fast(self.dtype) and not self.bottleneck
        and not self.dropout):
      made = [_Weights(self.growth, 3, self.kernel_init, name=f'layer_{i}')(
          x.shape[-1] + i * self.growth) for i in range(self.layers)]
      x, mean, var = _dense(x, *zip(*(weights for weights, _ in made),
                                    strict=True))
      for _, running in made:
        count = len(running[0].value)
        _learn(running, (mean[:count], var[:count]))
      return x
    conv = functools.partial(NormReluConv, kernel_init=self.kernel_init,
                             dtype=self.dtype)
    drop = nn.Dropout(self.dropout, deterministic=not train)
    for i in range(self.layers):
      h, name = x, f'layer_{i}'
      if self.bottleneck:
        h = drop(conv(4 * self.growth, 1, name=f'{name}_reduce')(h, train))
      h = drop(conv(self.growth, 3, name=name)(h, train))
      x = jnp.concatenate([x, h.astype(x.dtype)], -1)
    return x


def _is_fast(dtype) -> bool:
  return jax.default_backend() == 'cpu' and dtype == jnp.float32


def _statistics(x):
  """Returns mean and variance, float32 [C]."""
  x = x.astype(jnp.float32)
  mean = x.mean((0, 1, 2))
  return mean, jnp.maximum((x * x).mean((0, 1, 2)) - mean * mean, 0)


def _fold(scale, bias, mean, var):
  """Returns the (gain, shift) [C] of a norm as a whole."""
  gain = scale * lax.rsqrt(var + EPSILON)
  return gain, bias - mean * gain


def _apply(dtype, x, gain, shift, kernel):
  if _is_fast(dtype):
    parts = x.reshape(_steps(x, kernel), -1, *x.shape[1:])
    def part(x):
      return _forward(x, gain, shift, kernel)
    y = part(x) if len(parts) == 1 else lax.map(part, parts)
    return y.reshape(*x.shape[:3], -1)
  return _product(dtype, nn.relu(x * gain + shift), kernel)


def _product(dtype, z, kernel):
  return lax.conv_general_dilated(
      z.astype(dtype), kernel.astype(dtype), (1, 1), 'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC')).astype(z.dtype)


def _means(x):
  return nn.avg_pool(x, (2, 2), (2, 2), 'SAME', count_include_pad=False)


def _steps(x, kernel, least: int = 1) -> int:
  """In how many steps a batch goes through a layer."""
  batch, h, w, channels = x.shape
  size, _, _, out = kernel.shape
  count = convolution.steps(batch, h * w * max(channels, size * size * out))
  return max(count, least if batch % least == 0 else 1)


def _flat(kernel):
  """[k, k, C, O] -> [C, k * k * O]: one product gives every tap's share."""
  return kernel.transpose(2, 0, 1, 3).reshape(kernel.shape[2], -1)


def _forward(x, gain, shift, kernel):
  """What a layer makes of a few images."""
  size, _, channels, out = kernel.shape
  z = nn.relu(x * gain + shift)
  y = z.reshape(-1, channels) @ _flat(kernel)
  if size == 1:
    return y.reshape(*x.shape[:3], out)
  return _add_taps(y.reshape(*x.shape[:3], size, size * out), size)


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
  """dy [b, H, W, O] -> [b * H * W, k * k * O]: what each tap of a pixel fed.

  Side by side first: the second step then copies longer runs.
  """
  _, h, w, _ = dy.shape
  edge, taps = (size // 2,) * 2, range(size - 1, -1, -1)
  dy = jnp.pad(dy, ((0, 0), edge, edge, (0, 0)))
  dy = jnp.concatenate([dy[:, :, j:j + w] for j in taps], -1)
  dy = jnp.concatenate([dy[:, i:i + h] for i in taps], -1)
  return dy.reshape(-1, dy.shape[-1])


def _backward(x, dy, gain, shift, turned, size):
  """Returns d(loss)/d(what the ReLU gives), and / d(`turned`), of a few images.

  Both products read the same columns. `turned` is `_flat(kernel).T`.
  """
  z = nn.relu(x * gain + shift)
  dy = _columns(dy, size)
  dweights = lax.dot_general(dy, z.reshape(-1, x.shape[-1]),
                             (((0,), (0,)), ((), ())))
  return jnp.where(z > 0, (dy @ turned).reshape(z.shape), 0), dweights


def _sums(dz, x):
  return jnp.stack([_sum(dz), _sum(dz * x)])


def _sum(x):
  """Over all but the channels; as a product, which is faster on CPU."""
  x = x.reshape(-1, x.shape[-1])
  return (jnp.ones((8, len(x)), x.dtype) @ x)[0]


def _slopes(scale, mean, var, sums, count):
  """Returns (dscale, dbias, and a, b, c of dx = a * dz + b * x + c)."""
  inverse = lax.rsqrt(var + EPSILON)
  dbias, dot = sums
  dscale = (dot - mean * dbias) * inverse
  gain = scale * inverse
  b = -gain * inverse * dscale / count
  return dscale, dbias, (gain, b, -gain * dbias / count - mean * b)


def _unturned(dweights, kernel):
  size, _, channels, out = kernel.shape
  return dweights.reshape(size, size, out, channels).swapaxes(2, 3)


@jax.custom_vjp
def _fast(x, scale, bias, kernel):
  """Returns (y, mean, variance); the last two have no gradient."""
  return _fast_fwd(x, scale, bias, kernel)[0]


def _fast_fwd(x, scale, bias, kernel):
  stats = _statistics(x)
  y = _apply(jnp.float32, x, *_fold(scale, bias, *stats), kernel)
  return (y, *stats), (x, scale, bias, kernel, stats)


def _fast_bwd(saved, cotangents):
  x, scale, bias, kernel, stats = saved
  gain, shift = _fold(scale, bias, *stats)
  turned = _flat(kernel).T
  # Two steps at least: XLA would fuse what follows into each of its readers.
  steps = _steps(x, kernel, 2)
  xs, dys = (a.reshape(steps, -1, *a.shape[1:]) for a in (x, cotangents[0]))

  def first(totals, given):
    dz, dweights = _backward(*given, gain, shift, turned, len(kernel))
    return (totals[0] + dweights, totals[1] + _sums(dz, given[0])), dz
  (dweights, sums), dz = lax.scan(
      first, (jnp.zeros(turned.shape), jnp.zeros((2, x.shape[-1]))), (xs, dys))
  dscale, dbias, (a, b, c) = _slopes(scale, *stats, sums,
                                     x.size // x.shape[-1])

  def second(dz, given):  # In place of dz.
    i, x = given
    return lax.dynamic_update_index_in_dim(
        dz, dz[i] * a + x * b + c, i, 0), None
  dx, _ = lax.scan(second, dz, (jnp.arange(steps), xs))
  return dx.reshape(x.shape), dscale, dbias, _unturned(dweights, kernel)


_fast.defvjp(_fast_fwd, _fast_bwd)


@jax.custom_vjp
def _shrink(x, scale, bias, kernel):
  """`_fast` of means of 2x2, of even sides; a quarter of the pixels at once."""
  return _shrink_fwd(x, scale, bias, kernel)[0]


def _quarters(x):
  return [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]


def _shrink_fwd(x, scale, bias, kernel):
  stats = _statistics(x)
  gain, shift = _fold(scale, bias, *stats)
  z = sum(nn.relu(part * gain + shift) for part in _quarters(x)) / 4
  return (z @ kernel[0, 0], *stats), (x, z, scale, bias, kernel, stats)


def _shrink_bwd(saved, cotangents):
  x, z, scale, bias, kernel, stats = saved
  (batch, h, w, channels), dy = x.shape, cotangents[0]
  gain, shift = _fold(scale, bias, *stats)
  dweights = lax.dot_general(z, dy, (((0, 1, 2),) * 2, ((), ())))
  dz = dy @ kernel[0, 0].T / 4
  on = [(part * gain + shift > 0, part) for part in _quarters(x)]
  sums = jnp.stack([_sum(dz * sum(yes.astype(x.dtype) for yes, _ in on)),
                    _sum(dz * sum(jnp.where(yes, part, 0)
                                  for yes, part in on))])
  dscale, dbias, (a, b, c) = _slopes(scale, *stats, sums, x.size // channels)
  dz = jnp.broadcast_to(dz[:, :, None, :, None],
                        (batch, h // 2, 2, w // 2, 2, channels))
  dz = jnp.where(x * gain + shift > 0, dz.reshape(x.shape), 0)
  return a * dz + b * x + c, dscale, dbias, dweights[None, None]


_shrink.defvjp(_shrink_fwd, _shrink_bwd)


def _write(whole, i, part, channel):
  """Puts [b, H, W, c] into [steps, b, H, W, C] from `channel` on."""
  return lax.dynamic_update_slice(whole, part[None], (i, 0, 0, 0, channel))


@jax.custom_vjp
def _dense(x, scales, biases, kernels):
  """Returns (all channels, mean, variance); the last two have no gradient.

  scales, biases and kernels are tuples, a layer each.
  """
  return _dense_fwd(x, scales, biases, kernels)[0]


def _dense_fwd(x, scales, biases, kernels):
  batch, *shape, first = x.shape
  growth = kernels[0].shape[3]
  mean, var = _statistics(x)
  total = first + growth * len(kernels)
  x = jnp.pad(x, ((0, 0),) * 3 + ((0, total - first),))
  for i, (scale, bias, kernel) in enumerate(zip(scales, biases, kernels,
                                                strict=True)):
    channels = first + i * growth
    fold = _fold(scale, bias, mean, var)
    steps = _steps(x[..., :channels], kernel, 2)
    def layer(carry, k, channels=channels, fold=fold, kernel=kernel):
      x, sums = carry
      y = _forward(x[k][..., :channels], *fold, kernel)
      return (_write(x, k, y, channels), sums + _sums(y, y)), None
    x = x.reshape(steps, -1, *shape, total)
    (x, sums), _ = lax.scan(layer, (x, jnp.zeros((2, growth))),
                            jnp.arange(steps))
    x = x.reshape(batch, *shape, total)
    new = sums[0] / (x.size // total), sums[1] / (x.size // total)
    mean = jnp.concatenate([mean, new[0]])
    var = jnp.concatenate([var, jnp.maximum(new[1] - new[0]**2, 0)])
  return (x, mean, var), (x, mean, var, scales, biases, kernels)


def _dense_bwd(saved, cotangents):
  """One pass a layer, in place.

  What a norm's statistics add to the gradient is b * x + c with b and c of a
  channel. Those of all layers are added up, and join the gradient where a
  layer, or whoever gave x, reads it.
  """
  x, mean, var, scales, biases, kernels = saved
  dx, growth = cotangents[0], kernels[0].shape[3]
  batch, *shape, total = x.shape
  b, c, out = jnp.zeros(total), jnp.zeros(total), [(), (), ()]
  for i in reversed(range(len(kernels))):
    channels = total - growth * (len(kernels) - i)
    stats = mean[:channels], var[:channels]
    fold = _fold(scales[i], biases[i], *stats)
    turned = _flat(kernels[i]).T
    steps = _steps(x[..., :channels], kernels[i], 2)
    xs, dx = (a.reshape(steps, -1, *shape, total) for a in (x, dx))

    def layer(carry, k, xs=xs, channels=channels, fold=fold, turned=turned,
              b=b, c=c):
      dx, dweights, sums = carry
      made = slice(channels, channels + growth)
      dy = dx[k][..., made] + b[made] * xs[k][..., made] + c[made]
      part = xs[k][..., :channels]
      dz, new = _backward(part, dy, *fold, turned, 3)
      dx = _write(dx, k, dx[k][..., :channels] + fold[0] * dz, 0)
      return (dx, dweights + new, sums + _sums(dz, part)), None
    (dx, dweights, sums), _ = lax.scan(
        layer, (dx, jnp.zeros(turned.shape), jnp.zeros((2, channels))),
        jnp.arange(steps))
    dscale, dbias, (_, *slopes) = _slopes(scales[i], *stats, sums,
                                          x.size // total)
    b, c = (whole.at[:channels].add(one)
            for whole, one in zip((b, c), slopes, strict=True))
    new = dscale, dbias, _unturned(dweights, kernels[i])
    out = [(one, *rest) for one, rest in zip(new, out, strict=True)]
    dx = dx.reshape(batch, *shape, total)
  return (dx + b * x + c)[..., :channels], *out


_dense.defvjp(_dense_fwd, _dense_bwd)
