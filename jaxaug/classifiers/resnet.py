"""The CIFAR residual network (He et al. 2016, section 4.2), basic blocks."""
import functools
import typing

import flax.linen as nn
import jax.numpy as jnp

from jaxaug import errors, layers, types


class ResNet(nn.Module):
  """images [B, H, W, C] in [-1, 1] -> logits float32 [B, num_classes]."""
  spec: types.ImageSpec
  blocks: int
  width: int
  stem_stride: int
  dtype: typing.Any

  @nn.compact
  def __call__(self, x, train: bool):
    conv = functools.partial(layers.Conv, kernel_size=(3, 3), use_bias=False,
                             dtype=self.dtype,
                             kernel_init=nn.initializers.he_normal())
    # Norms and the residual stream stay in float32: in half precision they
    # lose digits, and XLA's CPU backend of jax 0.11 makes them NaN.
    norm = functools.partial(nn.BatchNorm, use_running_average=not train,
                             momentum=0.9, dtype=jnp.float32)
    x = x.astype(self.dtype)
    x = conv(self.width, strides=(self.stem_stride,) * 2, name='stem')(x)
    x = nn.relu(norm(name='stem_norm')(x))
    for stage in range(3):
      for block in range(self.blocks):
        width = self.width << stage
        stride = 2 if stage and not block else 1
        name = f'stage_{stage}_block_{block}'
        h = conv(width, strides=(stride, stride), name=f'{name}_conv_0')(x)
        h = nn.relu(norm(name=f'{name}_norm_0')(h))
        h = norm(name=f'{name}_norm_1')(conv(width, name=f'{name}_conv_1')(h))
        # Option A: the shortcut subsamples and pads channels with zeros.
        x = x[:, ::stride, ::stride]
        grow = width - x.shape[-1]
        x = jnp.pad(x, ((0, 0),) * 3 + ((grow // 2, grow - grow // 2),))
        x = nn.relu(x + h)
    x = x.mean((1, 2))
    x = nn.Dense(self.spec.num_classes, dtype=self.dtype, name='logits')(x)
    return x.astype(jnp.float32)


def build(spec: types.ImageSpec, *, depth: int = 8, width: int = 16,
          stem_stride: int = 1, dtype: str = 'float32') -> nn.Module:
  """Returns the network; depth 20 has 0.27M parameters at 32x32x3.

  Args:
    spec: any size.
    depth: 6 n + 2, for n blocks in each of three stages.
    width: channels of the first stage.
    stem_stride: 2 makes every layer four times cheaper.
    dtype: 'float32' or 'bfloat16', of the computation.
  """
  errors.one_of('dtype', dtype, ('float32', 'bfloat16'))
  for name, value in (('depth', depth), ('width', width),
                      ('stem_stride', stem_stride)):
    errors.count(name, value)
  if depth < 8 or depth % 6 != 2:
    raise errors.InputError(
        f'depth: {depth}; expected 6 n + 2, such as 8, 14, 20, 32 or 56.')
  return ResNet(spec, depth // 6, width, stem_stride, jnp.dtype(dtype))
