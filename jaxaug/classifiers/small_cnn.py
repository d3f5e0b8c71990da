"""The small CNN of the cows-and-horses cGAN paper: three 3x3 convolutions."""
import typing

import flax.linen as nn
import jax.numpy as jnp

from jaxaug.core import errors, types
from jaxaug.nn import layers


class SmallCnn(nn.Module):
  """images [B, H, W, C] in [-1, 1] -> logits float32 [B, num_classes]."""
  spec: types.ImageSpec
  widths: tuple[int, ...]
  hidden: tuple[int, ...]
  dtype: typing.Any

  @nn.compact
  def __call__(self, x, train: bool):
    he = nn.initializers.he_normal()
    x = x.astype(self.dtype)
    for i, width in enumerate(self.widths):
      x = layers.Conv(width, (3, 3), kernel_init=he, dtype=self.dtype,
                      name=f'conv_{i}')(x)
      x = layers.max_pool(nn.relu(x))
    x = x.reshape(x.shape[0], -1)
    for i, units in enumerate(self.hidden):
      x = nn.relu(nn.Dense(units, kernel_init=he, dtype=self.dtype,
                           name=f'dense_{i}')(x))
    x = nn.Dense(self.spec.num_classes, kernel_init=he, dtype=self.dtype,
                 name='logits')(x)
    return x.astype(jnp.float32)


def build(spec: types.ImageSpec, *, widths: tuple[int, ...] = (50, 20, 5),
          hidden: tuple[int, ...] = (30, 20),
          dtype: str = 'float32') -> nn.Module:
  """Returns the network; 50,417 parameters at 128x128x3 and 2 classes.

  The paper gives channels, kernel, pools and units. It is silent on the rest:
  here 2x2 pools, SAME padding, ReLU, He's initialisation, and a logit for
  each class instead of one for both. The paper trains it by Adam at 1e-4.

  Args:
    spec: every side must outlast the pools: 8 pixels for three.
    widths: channels of the convolutions, a 2x2 pool after each.
    hidden: units of the dense layers.
    dtype: 'float32' or 'bfloat16', of the computation.
  """
  errors.counts('widths', widths)
  errors.counts('hidden', hidden)
  errors.one_of('dtype', dtype, ('float32', 'bfloat16'))
  spec.at_least(2 ** len(widths), 'small_cnn')
  return SmallCnn(spec, tuple(widths), tuple(hidden), jnp.dtype(dtype))
