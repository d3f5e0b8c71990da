"""Deep convolutional GAN, of any size that halves, with or without labels.

Radford, Metz and Chintala 2016, "Unsupervised Representation Learning with Deep
Convolutional Generative Adversarial Networks", section 3 and figure 1, as its
authors' Torch code sets it: no biases but batch norm's, no batch norm after D's
first convolution. At 64x64x3 and without labels that is 3,576,704 and
2,765,568 parameters. With labels, G starts from noise and one-hot class, and
D sees a label map beside the image (as in Mirza and Osindero 2014, both sides
are told) or adds a projection (Miyato and Koyama 2018).
"""
import functools
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxaug.core import errors, types
from jaxaug.generators.gan import gan
from jaxaug.nn import layers

_N02 = nn.initializers.normal(0.02)
_norm = functools.partial(layers.batch_norm,
                          scale_init=layers.normal_about(1.0, 0.02))


class Generator(nn.Module):
  """(z [B, z_dim], labels [B]) -> images [B, H, W, C] in [-1, 1]."""
  spec: types.ImageSpec
  widths: tuple[int, ...]
  conditional: bool
  dtype: typing.Any

  @nn.compact
  def __call__(self, z, labels, train: bool):
    spec, ups = self.spec, len(self.widths)
    grid = spec.height >> ups, spec.width >> ups, self.widths[0]
    def act(x, index):
      return nn.relu(_norm(x, train, self.dtype, name=f'norm_{index}'))

    if self.conditional:
      z = jnp.concatenate([z, jax.nn.one_hot(labels, spec.num_classes)], -1)
    # A transposed convolution of one pixel by a kernel as large as the grid.
    x = nn.Dense(grid[0] * grid[1] * grid[2], use_bias=False, dtype=self.dtype,
                 kernel_init=_N02, name='project')(z)
    x = act(x.reshape(-1, *grid), 0)
    for i, width in enumerate((*self.widths[1:], spec.channels)):
      x = layers.ConvTranspose(width, (4, 4), strides=(2, 2), use_bias=False,
                               dtype=self.dtype, kernel_init=_N02,
                               name=f'up_{i}')(x)
      if i < ups - 1:
        x = act(x, i + 1)
    return jnp.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
  """(images [B, H, W, C], labels [B]) -> raw scores float32 [B]."""
  spec: types.ImageSpec
  widths: tuple[int, ...]
  conditioning: str
  dtype: typing.Any

  @nn.compact
  def __call__(self, x, labels, train: bool):
    spec = self.spec
    x = x.astype(self.dtype)
    if self.conditioning == 'concat':
      label = nn.Embed(spec.num_classes, spec.height * spec.width,
                       embedding_init=nn.initializers.normal(1.0),
                       dtype=self.dtype, name='label_map')(labels)
      label = label.reshape(-1, spec.height, spec.width, 1)
      x = jnp.concatenate([x, label], -1)
    for i, width in enumerate(self.widths):
      x = layers.Conv(width, (4, 4), strides=(2, 2), use_bias=False,
                      dtype=self.dtype, kernel_init=_N02, name=f'down_{i}')(x)
      if i:
        x = _norm(x, train, self.dtype, name=f'norm_{i}')
      x = nn.leaky_relu(x, 0.2)
    # A convolution by a kernel as large as the grid.
    x = x.reshape(len(x), -1).astype(jnp.float32)
    score = nn.Dense(1, use_bias=False, kernel_init=_N02, name='score')(x)[:, 0]
    if self.conditioning == 'projection':
      score += (nn.Embed(spec.num_classes, x.shape[-1], embedding_init=_N02,
                         name='projection')(labels) * x).sum(-1)
    return score


def _halvings(spec: types.ImageSpec) -> int:
  """How often images halve until the shorter side has 7 pixels or fewer."""
  spec.at_least(6, 'dcgan')
  short, count = min(spec.height, spec.width), 1
  while short >> count > 7:
    count += 1
  if spec.height % 2**count or spec.width % 2**count:
    raise errors.InputError(
        f'model: dcgan halves images to 7 pixels or fewer, {spec.height}x'
        f'{spec.width} in {count} steps; expected a size divisible by '
        f'{2**count}, see config.data.resize.')
  return count


def build(spec: types.ImageSpec, *, z_dim: int = 100, g_width: int = 64,
          d_width: int = 64, conditioning: str = 'concat',
          dtype: str = 'float32', loss: str = 'non_saturating',
          b1: float = 0.5, separate_passes: bool = True,
          fresh_fakes: bool = False, **rule: gan.make) -> types.GenerativeModel:
  """Returns the GAN; it trains as PyTorch's example of the paper does.

  Args:
    spec: height and width must halve until the shorter has 7 pixels or fewer,
      3 at least; each halving is a layer of both networks.
    z_dim: size of the noise.
    g_width: channels of G's last hidden layer; twice as many in each before.
    d_width: channels of D's first layer; twice as many in each after.
    conditioning: how D sees the label: 'concat' as a map beside the image, or
      'projection'; 'none' for a model that knows no labels.
    dtype: 'float32' or 'bfloat16', of the convolutions; weights are float32.
    loss, b1, separate_passes, fresh_fakes: as in the paper and its code; see
      gan.make.
    **rule: see gan.make.

  Raises:
    InputError: a value that cannot be, or a size that does not halve.
  """
  errors.one_of('conditioning', conditioning, ('concat', 'projection', 'none'))
  errors.one_of('dtype', dtype, ('float32', 'bfloat16'))
  for name, value in (('z_dim', z_dim), ('g_width', g_width),
                      ('d_width', d_width)):
    errors.count(name, value)
  dtype, steps = jnp.dtype(dtype), range(_halvings(spec))
  generator = Generator(spec, tuple(g_width << i for i in reversed(steps)),
                        conditioning != 'none', dtype)
  discriminator = Discriminator(spec, tuple(d_width << i for i in steps),
                                conditioning, dtype)
  return gan.make(
      spec, generator, discriminator, z_dim=z_dim, loss=loss, b1=b1,
      separate_passes=separate_passes, fresh_fakes=fresh_fakes, **rule)
