"""VGG (Simonyan and Zisserman 2015, table 1), for CIFAR and ImageNet sizes."""
import functools
import typing

import flax.linen as nn
import jax.numpy as jnp

from jaxaug.core import errors, types
from jaxaug.nn import layers

# Convolutions between the pools.
_STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3),
           19: (2, 2, 4, 4, 4)}


class Vgg(nn.Module):
  """images [B, H, W, C] in [-1, 1] -> logits float32 [B, num_classes]."""
  spec: types.ImageSpec
  stages: tuple[int, ...]   # Convolutions of each.
  widths: tuple[int, ...]   # Channels of each.
  hidden: int               # Of both dense layers of the ImageNet head; or 0.
  batch_norm: bool
  dropout: float
  dtype: typing.Any

  @nn.compact
  def __call__(self, x, train: bool):
    fan_out = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
    dense = functools.partial(nn.Dense, dtype=self.dtype,
                              kernel_init=nn.initializers.normal(0.01))
    x = x.astype(self.dtype)
    for stage, n in enumerate(self.stages):
      for i in range(n):
        x = layers.Conv(self.widths[stage], (3, 3), kernel_init=fan_out,
                        dtype=self.dtype, name=f'conv_{stage}_{i}')(x)
        if self.batch_norm:  # In float32: half precision loses the variance.
          x = nn.BatchNorm(use_running_average=not train, momentum=0.9,
                           dtype=jnp.float32, name=f'norm_{stage}_{i}')(x)
        x = nn.relu(x)
      if min(x.shape[1:3]) > 1:
        x = layers.max_pool(x)
    if self.hidden:
      x = layers.adaptive_mean(x, 7).reshape(x.shape[0], -1)
      for i in range(2):
        x = nn.relu(dense(self.hidden, name=f'dense_{i}')(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
    else:
      x = x.mean((1, 2))
    x = dense(self.spec.num_classes, name='logits')(x)
    return x.astype(jnp.float32)


def build(spec: types.ImageSpec, *, depth: int = 16, batch_norm: bool = True,
          head: str = 'auto', width: float = 1.0, dropout: float = 0.5,
          dtype: str = 'float32') -> nn.Module:
  """Returns the network; 14,728,266 parameters at 32x32x3 and 10 classes.

  Initialised by He's rule of outgoing connections, dense layers by N(0, 0.01).

  Args:
    spec: at least 16x16 pixels. Below 32 pixels the last pool is left out.
    depth: 11, 13, 16 or 19, of the ImageNet network.
    batch_norm: after every convolution; without, SGD stands still for long at
      first, and Adam at 0.001 does not.
    head: 'cifar' (mean of the last map, one dense layer), 'imagenet' (7x7
      means, three dense layers; VGG16 without batch norm has 138,357,544
      parameters at RGB and 1000 classes), or 'auto': 'imagenet' where the
      smaller side has 128 pixels or more.
    width: multiplies all channels and hidden units.
    dropout: after both hidden layers of 'imagenet'; 'cifar' has none.
    dtype: 'float32' or 'bfloat16', of the computation.
  """
  errors.one_of('depth', depth, tuple(_STAGES))
  errors.one_of('batch_norm', batch_norm, (True, False))
  errors.one_of('head', head, ('auto', 'cifar', 'imagenet'))
  errors.positive('width', width)
  errors.between('dropout', dropout, 0, 1, below=True)
  errors.one_of('dtype', dtype, ('float32', 'bfloat16'))
  spec.at_least(16, 'vgg')
  if head == 'auto':
    head = 'imagenet' if min(spec.height, spec.width) >= 128 else 'cifar'
  *widths, hidden = (max(int(width * n), 1)
                     for n in (64, 128, 256, 512, 512, 4096))
  return Vgg(spec, _STAGES[depth], tuple(widths),
             hidden if head == 'imagenet' else 0, batch_norm, dropout,
             jnp.dtype(dtype))
