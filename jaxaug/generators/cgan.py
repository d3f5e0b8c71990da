"""Class-conditional convolutional GAN with label embeddings.

The Fashion-MNIST network of the conditional-GAN tutorials (Brownlee 2019: label
map beside the noise, two transposed 4x4 convolutions, final 7x7 tanh;
D of strided 3x3 convolutions with dropout 0.4), with the options that make it
learn from few images: class-conditional batch norm (de Vries et al. 2017),
projection discriminator (Miyato and Koyama 2018), spectral norm (Miyato et
al. 2018).
"""
import functools
import typing

import flax.linen as nn
import jax.numpy as jnp

from jaxaug.core import errors, types
from jaxaug.generators.gan import gan
from jaxaug.nn import layers


class Generator(nn.Module):
  """(z [B, z_dim], labels [B]) -> images [B, H, W, C] in [-1, 1]."""
  spec: types.ImageSpec
  widths: tuple[int, ...]
  embed_dim: int
  norm: str
  dtype: typing.Any

  @nn.compact
  def __call__(self, z, labels, train: bool):
    spec, widths = self.spec, self.widths
    ups = len(widths) - 1
    rows, columns = spec.height >> ups, spec.width >> ups
    dense = functools.partial(nn.Dense, dtype=self.dtype)
    def act(x, index):
      if self.norm == 'batch':
        x = layers.ConditionalBatchNorm(spec.num_classes, self.dtype,
                                        name=f'norm_{index}')(x, labels, train)
      return nn.leaky_relu(x, 0.2)

    label = nn.Embed(spec.num_classes, self.embed_dim, name='embed')(labels)
    label = dense(rows * columns, name='label_map')(label)
    x = dense(rows * columns * widths[0], name='noise_map')(z)
    x = act(x.reshape(-1, rows, columns, widths[0]), 0)
    x = jnp.concatenate([x, label.reshape(-1, rows, columns, 1)], -1)
    for i, width in enumerate(widths[1:]):
      x = layers.ConvTranspose(width, (4, 4), strides=(2, 2), padding='SAME',
                               dtype=self.dtype, name=f'up_{i}')(x)
      x = act(x, i + 1)
    x = layers.Conv(spec.channels, (7, 7), dtype=self.dtype, name='image')(x)
    return jnp.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
  """(images [B, H, W, C], labels [B]) -> raw scores [B]."""
  spec: types.ImageSpec
  widths: tuple[int, ...]
  embed_dim: int
  kernel: int
  conditioning: str
  spectral_norm: bool
  dropout: float
  dtype: typing.Any

  @nn.compact
  def __call__(self, x, labels, train: bool):
    spec = self.spec
    def layer(module, x):
      if self.spectral_norm:
        # Not layers.SpectralNorm: flax's also rescales the initial weights, and
        # all results of this network were measured from such a start.
        return nn.SpectralNorm(module)(x, update_stats=train)
      return module(x)

    x = x.astype(self.dtype)
    if self.conditioning == 'concat':
      label = nn.Embed(spec.num_classes, self.embed_dim, name='embed')(labels)
      label = layer(nn.Dense(spec.height * spec.width, dtype=self.dtype,
                             name='label_map'), label)
      label = label.reshape(-1, spec.height, spec.width, 1)
      x = jnp.concatenate([x, label.astype(x.dtype)], -1)
    for i, width in enumerate(self.widths):
      conv = layers.Conv(width, (self.kernel,) * 2, strides=(2, 2),
                         dtype=self.dtype, name=f'down_{i}')
      x = nn.leaky_relu(layer(conv, x), 0.2)
    x = x.reshape(x.shape[0], -1)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    score = layer(nn.Dense(1, dtype=self.dtype, name='score'), x)[:, 0]
    if self.conditioning == 'projection':
      embed = nn.Embed(spec.num_classes, x.shape[-1], dtype=self.dtype,
                       name='projection')
      score = score + (layer(embed, labels) * x).sum(-1)
    return score.astype(jnp.float32)


def build(spec: types.ImageSpec, *, z_dim: int = 100, embed_dim: int = 50,
          g_widths: tuple[int, ...] = (128, 128, 128),
          d_widths: tuple[int, ...] = (128, 128), d_kernel: int = 3,
          g_norm: str = 'none', conditioning: str = 'concat',
          spectral_norm: bool = False, dropout: float = 0.4,
          dtype: str = 'float32', **rule: gan.make) -> types.GenerativeModel:
  """Returns the class-conditional GAN; by default the tutorials' networks.

  They train with loss 'non_saturating' and b1 0.5; the defaults of
  gan.make are the hinge loss and b1 0.

  Args:
    spec: height and width must halve `len(g_widths) - 1` times.
    z_dim: size of the noise.
    embed_dim: size of the label embeddings.
    g_widths: channels of G at its smallest grid and after each doubling.
    d_widths: channels of D after each halving.
    d_kernel: side of D's kernels.
    g_norm: 'none', or 'batch' for class-conditional batch norm.
    conditioning: how D sees the label: 'concat' as a map beside the image, or
      'projection'.
    spectral_norm: on every layer of D.
    dropout: before D's last layer.
    dtype: 'float32' or 'bfloat16', of the computation; weights are float32.
    **rule: see gan.make.
  """
  for name, value, known in (
      ('g_norm', g_norm, ('none', 'batch')),
      ('conditioning', conditioning, ('concat', 'projection')),
      ('spectral_norm', spectral_norm, (False, True)),
      ('dtype', dtype, ('float32', 'bfloat16'))):
    errors.one_of(name, value, known)
  for name, value in (('z_dim', z_dim), ('embed_dim', embed_dim),
                      ('d_kernel', d_kernel)):
    errors.count(name, value)
  errors.counts('g_widths', g_widths)
  errors.counts('d_widths', d_widths)
  errors.between('dropout', dropout, 0, 1, below=True)
  halvings = len(g_widths) - 1
  if spec.height % 2**halvings or spec.width % 2**halvings:
    raise errors.InputError(
        f'g_widths: {halvings} doublings cannot end at {spec.height}x'
        f'{spec.width}; expected a size divisible by {2**halvings}, see '
        'config.data.resize.')
  dtype = jnp.dtype(dtype)
  generator = Generator(spec, tuple(g_widths), embed_dim, g_norm, dtype)
  discriminator = Discriminator(spec, tuple(d_widths), embed_dim, d_kernel,
                                conditioning, spectral_norm, dropout, dtype)
  return gan.make(spec, generator, discriminator, z_dim=z_dim, **rule)
