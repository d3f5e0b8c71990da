"""The plain CNN of the CIFAR-10 cc-GAN paper: two tanh convolutions."""
import typing

import flax.linen as nn
import jax.numpy as jnp

from jaxaug.core import errors, types
from jaxaug.nn import layers


class Cnn(nn.Module):
  """images [B, H, W, C] in [-1, 1] -> logits float32 [B, num_classes]."""
  spec: types.ImageSpec
  widths: tuple[int, int]
  hidden: int
  dtype: typing.Any

  @nn.compact
  def __call__(self, x, train: bool):
    # 5x5 twice without padding eats images under 16 pixels whole.
    small = min(self.spec.height, self.spec.width) < 16
    x = x.astype(self.dtype)
    for i, width in enumerate(self.widths):
      x = layers.Conv(width, (5, 5), padding='SAME' if small else 'VALID',
                      dtype=self.dtype, name=f'conv_{i}')(x)
      x = layers.max_pool(jnp.tanh(x))
    x = x.reshape(x.shape[0], -1)
    x = jnp.tanh(nn.Dense(self.hidden, dtype=self.dtype, name='hidden')(x))
    x = nn.Dense(self.spec.num_classes, dtype=self.dtype, name='logits')(x)
    return x.astype(jnp.float32)


def build(spec: types.ImageSpec, *, widths: tuple[int, int] = (16, 128),
          hidden: int = 64, dtype: str = 'float32') -> nn.Module:
  """Returns the network; at 32x32x3 it has 258,058 parameters.

  Args:
    spec: at least 4x4 pixels.
    widths: channels of the two convolutions.
    hidden: units of the dense layer.
    dtype: 'float32' or 'bfloat16', of the computation.
  """
  errors.counts('widths', widths, 2)
  errors.count('hidden', hidden)
  errors.one_of('dtype', dtype, ('float32', 'bfloat16'))
  spec.at_least(4, 'cnn')
  return Cnn(spec, tuple(widths), hidden, jnp.dtype(dtype))
