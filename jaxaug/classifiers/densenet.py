"""DenseNet (Huang et al. 2017, table 1 and section 4), the CIFAR versions."""
import typing

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from jaxaug.core import errors, types
from jaxaug.nn import layers

_INIT = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


def moments(x):
  """Mean and variance of each channel, float32 [C]."""
  x = x.astype(jnp.float32)
  mean = x.mean((0, 1, 2))
  return mean, jnp.maximum((x * x).mean((0, 1, 2)) - mean * mean, 0)


class Norm(nn.Module):
  """`layers.batch_norm` of x [B, H, W, C], by `known` moments if there are.

  A dense block's channels are the same for every layer that sees them, and so
  are their moments: to take them once, and their gradients together, is a
  fifth of a training step.
  """

  @nn.compact
  def __call__(self, x, train: bool, known=None):
    shape, ones = x.shape[-1:], nn.initializers.ones
    scale = self.param('scale', ones, shape)
    bias = self.param('bias', nn.initializers.zeros, shape)
    running = [self.variable('batch_stats', name, fill, shape)
               for name, fill in (('mean', jnp.zeros), ('var', jnp.ones))]
    mean, var = (known or moments(x)) if train else (v.value for v in running)
    if train and not self.is_initializing():
      for old, new in zip(running, (mean, var), strict=True):
        old.value = 0.9 * old.value + 0.1 * lax.stop_gradient(new)
    gain = scale * lax.rsqrt(var + 1e-5)
    return x * gain + (bias - mean * gain)


class NormReluConv(nn.Module):
  """x [B, H, W, C] -> convolution of relu(batch norm(x)), SAME, stride 1.

  In half precision the convolution alone is half; `known`: see `Norm`.
  """
  features: int
  size: int                    # Of the kernel's sides.
  dtype: typing.Any

  @nn.compact
  def __call__(self, x, train: bool, known=None):
    norm, conv = Norm(), layers.Conv(
        self.features, (self.size,) * 2, use_bias=False, kernel_init=_INIT,
        dtype=self.dtype)
    for part in norm, conv:  # One layer's weights have one name.
      nn.share_scope(self, part)
    return conv(nn.relu(norm(x, train, known))).astype(x.dtype)


def _means(x):
  return nn.avg_pool(x, (2, 2), (2, 2), 'SAME', count_include_pad=False)


class Transition(nn.Module):
  """x [B, H, W, C] -> means of 2x2 of a 1x1 convolution of relu(batch norm(x)).

  Of an odd side the last mean is of what is there. Both are linear, so that
  the mean goes first, which is a quarter of the work; only dropout, which is
  of what the convolution gives, keeps it from that.
  """
  features: int
  dropout: float
  dtype: typing.Any

  @nn.compact
  def __call__(self, x, train: bool, known=None):
    norm, conv = Norm(), layers.Conv(
        self.features, (1, 1), use_bias=False, kernel_init=_INIT,
        dtype=self.dtype)
    for part in norm, conv:
      nn.share_scope(self, part)
    x = nn.relu(norm(x, train, known))
    if not train or not self.dropout:
      return conv(_means(x)).astype(x.dtype)
    return _means(nn.Dropout(self.dropout)(conv(x).astype(x.dtype), False))


class DenseBlock(nn.Module):
  """x [B, H, W, C] -> ([B, H, W, C + layers * growth], its moments).

  Every layer is norm, ReLU and a 3x3 convolution of all channels before it;
  with `bottleneck` the same of 1x1 to 4 growth comes first. What a convolution
  gives is dropped at the rate `dropout`.
  """
  layers: int
  growth: int
  bottleneck: bool
  dropout: float
  dtype: typing.Any

  @nn.compact
  def __call__(self, x, train: bool):
    drop = nn.Dropout(self.dropout, deterministic=not train)
    known = moments(x)
    for i in range(self.layers):
      h, name, of_h = x, f'layer_{i}', known
      if self.bottleneck:
        h = drop(NormReluConv(4 * self.growth, 1, self.dtype,
                              name=f'{name}_reduce')(h, train, of_h))
        of_h = None
      h = drop(NormReluConv(self.growth, 3, self.dtype, name=name)(
          h, train, of_h))
      x = jnp.concatenate([x, h], -1)
      known = [jnp.concatenate(pair) for pair in zip(known, moments(h),
                                                     strict=True)]
    return x, known


class DenseNet(nn.Module):
  """images [B, H, W, C] in [-1, 1] -> logits float32 [B, num_classes]."""
  spec: types.ImageSpec
  blocks: int        # Layers in each of the three dense blocks.
  growth: int
  stem: int
  bottleneck: bool
  reduction: float
  dropout: float
  stem_stride: int
  dtype: typing.Any

  @nn.compact
  def __call__(self, x, train: bool):
    x = layers.Conv(self.stem, (3, 3), strides=(self.stem_stride,) * 2,
                    use_bias=False, kernel_init=_INIT, dtype=self.dtype,
                    name='stem')(x.astype(self.dtype)).astype(jnp.float32)
    for block in range(3):
      x, known = DenseBlock(
          self.blocks, self.growth, self.bottleneck, self.dropout, self.dtype,
          name=f'block_{block}')(x, train)
      if block < 2:
        width = int(x.shape[-1] * self.reduction)
        x = Transition(width, self.dropout, self.dtype,
                       name=f'transition_{block}')(x, train, known)
    x = nn.relu(Norm(name='norm')(x, train, known)).mean((1, 2))
    x = nn.Dense(self.spec.num_classes, dtype=self.dtype, name='logits')(x)
    return x.astype(jnp.float32)


def build(spec: types.ImageSpec, *, depth: int = 40, growth: int = 12,
          bottleneck: bool = False, reduction: float = 1.0, stem: int = 16,
          dropout: float = 0.0, stem_stride: int = 1,
          dtype: str = 'float32') -> nn.Module:
  """Returns the network; 40-12 has 1,019,722 parameters at 32x32x3.

  DenseNet-BC-100-12 is depth 100, bottleneck, reduction 0.5, stem 24.

  Args:
    spec: any size.
    depth: 3 n + 4, for n layers in each of three blocks; with `bottleneck`
      6 n + 4.
    growth: channels that every layer adds.
    bottleneck: whether a 1x1 convolution to 4 growth comes first (B).
    reduction: share of the channels that a transition keeps (C).
    stem: channels of the first convolution: 16, or 2 growth in BC.
    dropout: share dropped after every convolution but the first; the paper
      has 0.2 without augmentation, and none with it.
    stem_stride: 2 makes every layer four times cheaper.
    dtype: 'float32' or 'bfloat16', of the convolutions.
  """
  errors.one_of('dtype', dtype, ('float32', 'bfloat16'))
  errors.one_of('bottleneck', bottleneck, (False, True))
  for name, value in (('depth', depth), ('growth', growth), ('stem', stem),
                      ('stem_stride', stem_stride)):
    errors.count(name, value)
  errors.positive('reduction', reduction)
  errors.between('reduction', reduction, 0, 1)
  errors.between('dropout', dropout, 0, 1, below=True)
  each = 6 if bottleneck else 3
  if depth < each + 4 or depth % each != 4 % each:
    raise errors.InputError(
        f'depth: {depth}; expected {each} n + 4, such as {each + 4}, 22, 40 or '
        '100.')
  return DenseNet(spec, (depth - 4) // each, growth, stem, bottleneck,
                  reduction, dropout, stem_stride, jnp.dtype(dtype))
