"""Class-conditional Laplacian pyramid of adversarial networks (LAPGAN).

Denton et al. 2015: a fully connected GAN makes the smallest image, and at each
doubling a convolutional GAN adds the residual. Layers are those of the authors'
code, the smallest level with the widths that the paper gives for CIFAR-10
(1,200 and 600 units). See gan/pyramid.py for the rule.
"""
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxaug.core import errors, types
from jaxaug.generators.gan import gan, pyramid

# The least side that leaves a pixel of two 5x5 kernels, the second of stride 2.
_LEAST = 9


def _class_map(labels, spec, dtype):
  """One map of the label, [B, H, W, 1], for the inside of a module."""
  x = jax.nn.one_hot(labels, spec.num_classes)
  x = pyramid.dense(x, spec.height * spec.width, 'label_map', dtype)
  return nn.relu(x).reshape(-1, spec.height, spec.width, 1)


class Generator(nn.Module):
  """(z [B, H * W], labels [B], coarse [B, H, W, C]) -> images [B, H, W, C].

  The sum of the coarse images and the residual that the layers make.
  """
  spec: types.ImageSpec
  channels: tuple[int, ...]
  dtype: typing.Any

  @nn.compact
  def __call__(self, z, labels, coarse, train: bool):
    spec = self.spec
    x = jnp.concatenate([
        z.reshape(-1, spec.height, spec.width, 1), coarse,
        _class_map(labels, spec, self.dtype)], -1)
    for i, width in enumerate(self.channels):
      x = nn.relu(pyramid.conv(x, width, 7, f'conv_{i}', self.dtype))
    x = pyramid.conv(x, spec.channels, 5, 'residual', self.dtype)
    return coarse + x.astype(jnp.float32)


class Discriminator(nn.Module):
  """(images [B, H, W, C], labels [B]) -> raw scores [B]."""
  spec: types.ImageSpec
  channels: tuple[int, int]
  dropout: float
  dtype: typing.Any

  @nn.compact
  def __call__(self, x, labels, train: bool):
    x = jnp.concatenate([x, _class_map(labels, self.spec, self.dtype)], -1)
    for i, width in enumerate(self.channels):
      x = nn.relu(pyramid.conv(x, width, 5, f'conv_{i}', self.dtype,
                               strides=(1 + i, 1 + i), padding='VALID'))
    x = nn.Dropout(self.dropout, deterministic=not train)(
        x.reshape(len(x), -1))
    return pyramid.dense(x, 1, 'score', self.dtype)[:, 0].astype(jnp.float32)


def _check(specs, z_dim, hidden, channels, dropout, dtype):
  """Raises InputError for a value that cannot be."""
  errors.count('z_dim', z_dim)
  for name, widths in zip(('g_hidden', 'd_hidden'), hidden, strict=True):
    errors.counts(name, widths)
  errors.counts('g_channels', channels[0])
  errors.counts('d_channels', channels[1], length=2)
  errors.between('dropout', dropout, 0, 1, below=True)
  errors.one_of('dtype', dtype, ('float32', 'bfloat16'))
  for spec in specs[1:2]:
    if min(spec[:2]) < _LEAST:
      raise errors.InputError(
          f'halvings: {len(specs) - 1}; D cannot judge residuals of {spec[0]}x'
          f'{spec[1]} pixels; expected fewer, so that a side has {_LEAST} at '
          'least, or larger images, see config.data.resize.')


def build(spec: types.ImageSpec, *, halvings: int = 2, z_dim: int = 100,
          g_hidden: tuple[int, ...] = (1200, 1200),
          d_hidden: tuple[int, ...] = (600, 600),
          g_channels: tuple[int, ...] = (64, 64),
          d_channels: tuple[int, int] = (64, 64), dropout: float = 0.5,
          dtype: str = 'float32', loss: str = 'non_saturating',
          noise: str = 'uniform', optimizer: str = 'sgd', g_lr: float = 0.02,
          d_lr: float = 0.01,
          momentum_growth: float = pyramid.MOMENTUM_GROWTH,
          **rule: gan.make) -> types.GenerativeModel:
  """Returns the pyramid; by default it trains as the authors' code does.

  The rates are as in generators/ccgan.py. Levels learn side by side from real
  images of their size; only samples go through all of them.

  Args:
    spec: height and width must halve `halvings` times.
    halvings: levels above the smallest; 2 makes 32 pixels of 8 and 16.
    z_dim: size of the smallest level's noise; the others have a number a pixel.
    g_hidden, d_hidden: units of the hidden layers of the smallest level; the
      widths of generators/ccgan.py make it that network.
    g_channels, d_channels: of the convolutions of all other levels; G's are
      7x7 and before the last 5x5, D's are two of 5x5.
    dropout: before D's last layer, at the smallest level after all hidden ones.
    dtype: 'float32' or 'bfloat16', of the computation; weights are float32.
    loss, noise, optimizer, g_lr, d_lr, momentum_growth: see gan.make;
      the momentum grows from 0 to 0.7 in 616,000 steps.
    **rule: see gan.make.

  Raises:
    InputError: a value that cannot be.
  """
  specs = pyramid.level_specs(spec, halvings)
  _check(specs, z_dim, (g_hidden, d_hidden), (g_channels, d_channels), dropout,
         dtype)
  dtype = jnp.dtype(dtype)
  smallest = pyramid.Level(
      specs[0], pyramid.DenseGenerator(specs[0], tuple(g_hidden), dtype),
      pyramid.DenseDiscriminator(specs[0], tuple(d_hidden), dropout, dtype),
      z_dim)
  finer = [pyramid.Level(
      spec, Generator(spec, tuple(g_channels), dtype),
      Discriminator(spec, tuple(d_channels), dropout, dtype),
      spec.height * spec.width) for spec in specs[1:]]
  return pyramid.make(spec, (smallest, *finer), loss=loss, noise=noise,
                      optimizer=optimizer, g_lr=g_lr, d_lr=d_lr,
                      momentum_growth=momentum_growth, **rule)
