"""AlexNet in one column (Krizhevsky 2014), for CIFAR and for ImageNet sizes."""
import functools
import typing

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from jaxaug.core import errors, types
from jaxaug.nn import layers


class AlexNet(nn.Module):
  """images [B, H, W, C] in [-1, 1] -> logits float32 [B, num_classes]."""
  spec: types.ImageSpec
  widths: tuple[int, ...]  # Of the five convolutions.
  hidden: int              # Of both dense layers of the ImageNet head; or 0.
  dropout: float
  dtype: typing.Any

  @nn.compact
  def __call__(self, x, train: bool):
    he = nn.initializers.he_normal()
    dense = functools.partial(nn.Dense, kernel_init=he, dtype=self.dtype)
    x = x.astype(self.dtype)
    for i, width in enumerate(self.widths):
      kernel, stride, pad = ((11, 4, 2 if self.hidden else 5), (5, 1, 2),
                             (3, 1, 1))[min(i, 2)]
      x = layers.Conv(width, (kernel, kernel), strides=(stride, stride),
                      padding=pad, kernel_init=he, dtype=self.dtype,
                      name=f'conv_{i}')(x)
      x = nn.relu(x)
      if i in (0, 1, 4):
        x = _overlapping_pool(x) if self.hidden else _pool(x)
    if self.hidden:
      x = layers.adaptive_mean(x, 6).reshape(x.shape[0], -1)
      for i in range(2):
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = nn.relu(dense(self.hidden, name=f'dense_{i}')(x))
    else:
      x = x.mean((1, 2))
    x = dense(self.spec.num_classes, name='logits')(x)
    return x.astype(jnp.float32)


def _pool(x):
  """2x2 pixels into one, unless a side has only one."""
  return layers.max_pool(x) if min(x.shape[1:3]) > 1 else x


def _overlapping_pool(x):
  """Largest of 3x3 pixels around every second: n -> (n - 1) // 2 a side."""
  for axis in (1, 2):
    end = (x.shape[axis] - 1) // 2 * 2 - 1
    a, b, c = (lax.slice_in_dim(x, i, i + end, 2, axis) for i in range(3))
    x = jnp.maximum(jnp.maximum(a, b), c)
  return x


def build(spec: types.ImageSpec, *, head: str = 'auto', width: float = 1.0,
          dropout: float = 0.5, dtype: str = 'float32') -> nn.Module:
  """Returns the network; 2,472,266 parameters at 32x32x3 and 10 classes.

  It has no norms: SGD wants a learning rate of 0.03 or less. The source leaves
  the first weights to its framework; here they are He et al.'s (2015) for ReLU.

  Args:
    spec: at least 16x16 pixels. Below 32 pixels the last pool may be left out.
    head: 'cifar' (2x2 pools, mean of the last map, one dense layer),
      'imagenet' (3x3 pools, 6x6 means, three dense layers; 61,100,840
      parameters at RGB and 1000 classes; at least 63x63 pixels), or 'auto':
      'imagenet' where the smaller side has 128 pixels or more.
    width: multiplies all channels and hidden units.
    dropout: before both hidden layers of 'imagenet'; 'cifar' has none.
    dtype: 'float32' or 'bfloat16', of the computation.
  """
  errors.one_of('head', head, ('auto', 'cifar', 'imagenet'))
  errors.positive('width', width)
  errors.between('dropout', dropout, 0, 1, below=True)
  errors.one_of('dtype', dtype, ('float32', 'bfloat16'))
  if head == 'auto':
    head = 'imagenet' if min(spec.height, spec.width) >= 128 else 'cifar'
  spec.at_least(63 if head == 'imagenet' else 16, 'alexnet',
                f' for head {head!r}')
  *widths, hidden = (max(int(width * n), 1)
                     for n in (64, 192, 384, 256, 256, 4096))
  return AlexNet(spec, tuple(widths), hidden if head == 'imagenet' else 0,
                 dropout, jnp.dtype(dtype))
