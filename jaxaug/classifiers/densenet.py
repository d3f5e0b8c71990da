"""DenseNet (Huang et al. 2017, table 1 and section 4), the CIFAR versions."""
import typing

import flax.linen as nn
import jax.numpy as jnp

from jaxaug import errors, fused, layers, types

_INIT = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


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
      x = fused.DenseBlock(self.blocks, self.growth, self.bottleneck,
                           self.dropout, _INIT, self.dtype,
                           name=f'block_{block}')(x, train)
      if block < 2:
        width = int(x.shape[-1] * self.reduction)
        x = fused.Transition(width, self.dropout, _INIT, self.dtype,
                             name=f'transition_{block}')(x, train)
    x = nn.BatchNorm(use_running_average=not train, momentum=fused.MOMENTUM,
                     name='norm')(x)
    x = nn.relu(x).mean((1, 2))
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
