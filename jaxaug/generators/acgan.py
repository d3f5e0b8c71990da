"""Auxiliary classifier GAN: D also says which class an image shows.

Odena, Olah and Shlens 2017, "Conditional Image Synthesis with Auxiliary
Classifier GANs", section 3. Networks: 'cifar' is appendix A's for 32x32, in the
sizes of gitlimlab/ACGAN-PyTorch (1,593,888 and 1,663,867 parameters at
32x32x3 and 10 classes); 'fashion_mnist' is that of lukedeo/keras-acgan for
28x28x1, with batch norm in G and a slope of 0.2 in D.
"""
import functools
import math
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxaug.core import errors, types
from jaxaug.generators.gan import gan
from jaxaug.nn import layers

_N02 = nn.initializers.normal(0.02)


class _Sizes(typing.NamedTuple):
  """What is a network's own; `rest` of G's doublings come after its widths."""
  hidden: int
  g_widths: tuple[int, ...]
  d_widths: tuple[int, ...]
  d_norm: str
  dropout: float
  rest: int


NETWORKS = {
    'fashion_mnist': _Sizes(1024, (128, 256, 128), (32, 64, 128, 256),
                            'none', 0.3, 0),
    'cifar': _Sizes(384, (192, 96, 48), (16, 32, 64, 128, 256, 512), 'batch',
                    0.5, 1)}


_norm = functools.partial(layers.batch_norm,
                          scale_init=layers.normal_about(1.0, 0.02))


class Generator(nn.Module):
  """(z [B, z_dim], labels [B]) -> images [B, H, W, C] in [-1, 1]."""
  spec: types.ImageSpec
  network: str
  hidden: int
  widths: tuple[int, ...]
  conditioning: str
  norm: str
  dtype: typing.Any

  @nn.compact
  def __call__(self, z, labels, train: bool):
    spec, doubles = self.spec, self.network == 'fashion_mnist'
    ups = len(self.widths) - 1 + NETWORKS[self.network].rest
    grid = spec.height >> ups, spec.width >> ups, self.widths[0]
    how = dict(dtype=self.dtype, kernel_init=_N02)
    inner = how | {'use_bias': self.norm == 'none'}
    def act(x, index):
      if self.norm == 'batch':
        x = _norm(x, train, self.dtype, name=f'norm_{index}')
      return nn.relu(x)

    x = nn.Dense(self.hidden, name='hidden', **how)(self._latents(z, labels))
    x = nn.Dense(math.prod(grid), name='grid', **inner)(
        nn.relu(x) if doubles else x)
    x = act(x.reshape(-1, *grid), 0)
    transposed = functools.partial(layers.ConvTranspose, kernel_size=(4, 4),
                                   strides=(2, 2))
    up = functools.partial(nn.Conv, kernel_size=(5, 5),
                           conv_general_dilated=layers.conv_of_doubled)
    for i, width in enumerate(self.widths[1:]):
      x = (up if doubles else transposed)(width, name=f'up_{i}', **inner)(x)
      x = act(x, i + 1)
    if doubles:
      x = layers.Conv(spec.channels, (2, 2), name='image', **how)(x)
    else:
      x = transposed(spec.channels, use_bias=False, name='image', **how)(x)
    return jnp.tanh(x.astype(jnp.float32))

  def _latents(self, z, labels):
    if self.conditioning == 'product':
      return z * nn.Embed(self.spec.num_classes, z.shape[-1], name='embed',
                          embedding_init=nn.initializers.normal(1.0))(labels)
    return jnp.concatenate(
        [z, jax.nn.one_hot(labels, self.spec.num_classes)], -1)


class Discriminator(nn.Module):
  """images [B, H, W, C] -> (raw scores [B], class logits [B, K]), float32."""
  classes: int
  widths: tuple[int, ...]
  norm: str
  dropout: float
  dtype: typing.Any

  @nn.compact
  def __call__(self, x, labels, train: bool):
    del labels  # It is to find them out.
    x = x.astype(self.dtype)
    for i, width in enumerate(self.widths):
      x = layers.Conv(width, (3, 3), strides=(2 - i % 2,) * 2, padding=1,
                      use_bias=self.norm == 'none', dtype=self.dtype,
                      kernel_init=_N02, name=f'conv_{i}')(x)
      if self.norm == 'batch' and i:
        x = _norm(x, train, self.dtype, name=f'norm_{i}')
      x = nn.leaky_relu(x, 0.2)
      x = nn.Dropout(self.dropout, deterministic=not train)(x)
    x = x.reshape(len(x), -1).astype(jnp.float32)
    head = functools.partial(nn.Dense, kernel_init=_N02)
    return head(1, name='score')(x)[:, 0], head(self.classes, name='class')(x)


def build(spec: types.ImageSpec, *, network: str = 'fashion_mnist',
          z_dim: int = 100, conditioning: str = 'concat',
          g_norm: str = 'batch', hidden: int | None = None,
          g_widths: tuple[int, ...] | None = None,
          d_widths: tuple[int, ...] | None = None,
          d_norm: str | None = None, dropout: float | None = None,
          dtype: str = 'float32', loss: str = 'non_saturating',
          class_loss: float = 1.0, b1: float = 0.5,
          separate_passes: bool = True,
          **rule: gan.make) -> types.GenerativeModel:
  """Returns the GAN with an auxiliary classifier; it trains as in the paper.

  Where D wins at once, class_on_fakes False, label_smoothing 0.9, a lower d_lr
  and balance 'behind' are known to help; where the samples of a class become
  one image, d_norm 'batch'.

  Args:
    spec: height and width must double from G's grid, see g_widths.
    network: 'fashion_mnist', G of nearest upsampling and 5x5 convolutions and D
      of four; or 'cifar', G of transposed 4x4 ones and D of six, batch norm in
      both.
    z_dim: size of the noise.
    conditioning: how G sees the label: 'concat', one-hot beside the noise, as
      in the paper; or 'product', an embedding times the noise.
    g_norm: 'batch', or 'none'.
    hidden: units of G's first layer; None, here and below, the network's own.
    g_widths: channels of G at its smallest grid and after each doubling; of
      'cifar' one more doubling leads to the image.
    d_widths: channels of D's layers, of which the first, third and so on halve.
    d_norm: 'batch' from D's second layer on, or 'none'.
    dropout: after each of D's layers.
    dtype: 'float32' or 'bfloat16', of the convolutions; weights are float32.
    loss, class_loss, b1, separate_passes: as in the paper; see gan.make.
    **rule: see gan.make.

  Raises:
    InputError: a value that cannot be, or a size that G cannot double to.
  """
  for name, value, known in (
      ('network', network, NETWORKS),
      ('conditioning', conditioning, ('concat', 'product')),
      ('g_norm', g_norm, ('batch', 'none')),
      ('dtype', dtype, ('float32', 'bfloat16'))):
    errors.one_of(name, value, known)
  given = dict(hidden=hidden, g_widths=g_widths, d_widths=d_widths,
               d_norm=d_norm, dropout=dropout)
  own = NETWORKS[network]._replace(
      **{k: v for k, v in given.items() if v is not None})
  for name, value in (('z_dim', z_dim), ('hidden', own.hidden)):
    errors.count(name, value)
  errors.one_of('d_norm', own.d_norm, ('batch', 'none'))
  errors.counts('g_widths', own.g_widths)
  errors.counts('d_widths', own.d_widths)
  errors.between('dropout', own.dropout, 0, 1, below=True)
  times = 2 ** (len(own.g_widths) - 1 + own.rest)
  if spec.height % times or spec.width % times:
    raise errors.InputError(
        f'g_widths: a grid times {times} cannot be {spec.height}x{spec.width}; '
        f'expected a size divisible by {times}, see config.data.resize.')
  dtype = jnp.dtype(dtype)
  generator = Generator(spec, network, own.hidden, tuple(own.g_widths),
                        conditioning, g_norm, dtype)
  discriminator = Discriminator(spec.num_classes, tuple(own.d_widths),
                                own.d_norm, own.dropout, dtype)
  return gan.make(
      spec, generator, discriminator, z_dim=z_dim, loss=loss,
      class_loss=class_loss, b1=b1, separate_passes=separate_passes, **rule)
