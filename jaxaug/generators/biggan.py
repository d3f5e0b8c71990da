"""BigGAN for small images, as DiffAugment's CIFAR scripts configure it.

Brock, Donahue and Simonyan 2019, "Large Scale GAN Training for High Fidelity
Natural Image Synthesis", tables 4 to 6 and appendix B; Zhao et al. 2020,
"Differentiable Augmentation for Data-Efficient GAN Training", section 4.2: at
32 pixels 256 channels everywhere, no attention, no shared embedding, no noise
in the blocks. At 32x32x3 and 10 classes that is 4,304,387 and 4,207,361
parameters.
"""
import functools
import math
import typing

import flax.linen as nn
import jax.numpy as jnp

from jaxaug.core import errors, types
from jaxaug.generators.gan import gan
from jaxaug.nn import layers
from jaxaug.nn.cpu.convolution import conv_general_dilated

# Channels after each of G's doublings, in units of `width`, by how many there
# are; and after each of D's blocks, of which so many halve.
_G = {1: (4,), 2: (4, 4), 3: (4, 4, 4), 4: (16, 8, 4, 2),
      5: (16, 8, 4, 2, 1), 6: (16, 8, 8, 4, 2, 1)}
_D = {1: ((4, 4, 4), 1), 2: ((4, 4, 4, 4), 2), 3: ((4, 4, 4, 4), 2),
      4: ((1, 2, 4, 8, 16), 4), 5: ((1, 2, 4, 8, 16, 16), 5),
      6: ((1, 2, 4, 8, 8, 16, 16), 6)}
_N02 = nn.initializers.normal(0.02)


def _spectral(layer, x, train):
  return layers.SpectralNorm(layer, name=f'{layer.name}_sigma')(x, train)


def _conv(x, features, kernel, name, train, dtype, bias=True,
          operation=conv_general_dilated):
  return _spectral(layers.Conv(
      features, (kernel, kernel), padding=kernel // 2, use_bias=bias,
      dtype=dtype, kernel_init=_N02, name=name,
      bias_init=layers.uniform(kernel**2 * x.shape[-1]),
      conv_general_dilated=operation), x, train)


def _dense(x, features, name, train, dtype, bias=True):
  return _spectral(nn.Dense(
      features, use_bias=bias, dtype=dtype, kernel_init=_N02, name=name,
      bias_init=layers.uniform(x.shape[-1])), x, train)


def _double(x):
  """Every pixel four times: [B, H, W, C] -> [B, 2 H, 2 W, C]."""
  return x.repeat(2, 1).repeat(2, 2)


def _halve(x):
  """Means of 2x2 pixels: [B, H, W, C] -> [B, H / 2, W / 2, C]."""
  b, h, w, c = x.shape
  return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


class Attention(nn.Module):
  """Every pixel looks at the whole map (Zhang et al. 2019, section 3).

  (x [B, H, W, C], train) -> the same shape; keys and values at half the size,
  as BigGAN's code has it.
  """
  dtype: typing.Any

  @nn.compact
  def __call__(self, x, train: bool):
    b, h, w, c = x.shape
    conv = functools.partial(_conv, kernel=1, train=train, dtype=self.dtype,
                             bias=False)
    def rows(x):
      return x.reshape(b, -1, x.shape[-1])
    query = rows(conv(x, max(c // 8, 1), name='query'))
    key = rows(layers.max_pool(conv(x, max(c // 8, 1), name='key')))
    value = rows(layers.max_pool(conv(x, max(c // 2, 1), name='value')))
    scores = jnp.einsum('bqc,bkc->bqk', query, key,
                        preferred_element_type=jnp.float32)
    seen = nn.softmax(scores).astype(self.dtype) @ value
    seen = conv(seen.reshape(b, h, w, -1), c, name='out')
    gain = self.param('gain', nn.initializers.zeros, ())
    return x + gain.astype(self.dtype) * seen


class SharedNorm(nn.Module):
  """Batch norm whose gain and bias are linear in an embedding.

  (x [B, H, W, C], given [B, E], train) -> the shape of x; `given` is the
  class's embedding and, if the noise is hierarchical, a share of it.
  """
  dtype: typing.Any

  @nn.compact
  def __call__(self, x, given, train: bool):
    gain, bias = (
        _dense(given, x.shape[-1], name, train, jnp.float32, bias=False)
        for name in ('gain', 'bias'))
    x = layers.batch_norm(x, train, use_bias=False, use_scale=False)
    x = x * (1 + gain[:, None, None]) + bias[:, None, None]
    return x.astype(self.dtype)


class Generator(nn.Module):
  """(z [B, z_dim], labels [B]) -> images [B, H, W, C] in [-1, 1]."""
  spec: types.ImageSpec
  widths: tuple[int, ...]  # Channels after each doubling.
  embed_dim: int           # Of the shared embedding; 0 for one in each norm.
  hierarchical: bool
  attention: int
  dtype: typing.Any

  @nn.compact
  def __call__(self, z, labels, train: bool):
    spec, ups, dtype = self.spec, len(self.widths), self.dtype
    conv = functools.partial(_conv, train=train, dtype=dtype)
    def act(x, given, name):
      norm = SharedNorm(dtype, name=name) if self.embed_dim else (
          layers.ConditionalBatchNorm(spec.num_classes, dtype, 0.02,
                                      name=name))
      return nn.relu(norm(x, given, train))

    given = [labels] * ups
    if self.embed_dim:
      shared = nn.Embed(spec.num_classes, self.embed_dim, name='shared',
                        embedding_init=_N02)(labels)
      given = [shared] * ups
    if self.hierarchical:
      z, *rest = jnp.split(z, ups + 1, -1)
      given = [jnp.concatenate([shared, part], -1) for part in rest]
    grid = spec.height >> ups, spec.width >> ups, self.widths[0]
    x = _dense(z, math.prod(grid), 'noise_map', train, dtype)
    x = x.reshape(-1, *grid)
    for i, width in enumerate(self.widths):
      h = act(x, given[i], f'block_{i}_norm_0')
      h = conv(h, width, 3, f'block_{i}_conv_0',
               operation=layers.conv_of_doubled)
      h = act(h, given[i], f'block_{i}_norm_1')
      h = conv(h, width, 3, f'block_{i}_conv_1')
      # In either order, but so it is a quarter of the work.
      x = h + _double(conv(x, width, 1, f'block_{i}_shortcut'))
      if x.shape[1] == self.attention:
        x = Attention(dtype, name='attention')(x, train)
    x = nn.relu(layers.batch_norm(x, train, dtype, name='norm'))
    x = conv(x, spec.channels, 3, 'image')
    return jnp.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
  """(images [B, H, W, C], labels [B]) -> raw scores [B]."""
  spec: types.ImageSpec
  widths: tuple[int, ...]  # Channels after each block.
  halvings: int            # Blocks that halve, from the first on.
  attention: int
  dtype: typing.Any

  @nn.compact
  def __call__(self, x, labels, train: bool):
    conv = functools.partial(_conv, train=train, dtype=self.dtype)
    x = x.astype(self.dtype)
    for i, width in enumerate(self.widths):
      halves = i < self.halvings
      h = conv(nn.relu(x) if i else x, width, 3, f'block_{i}_conv_0')
      operation = (layers.halved_conv if halves else
                   conv_general_dilated)
      h = conv(nn.relu(h), width, 3, f'block_{i}_conv_1', operation=operation)
      if halves:
        x = _halve(x)
      if halves or width != x.shape[-1]:
        x = conv(x, width, 1, f'block_{i}_shortcut')
      x = h + x
      if halves and x.shape[1] == self.attention:
        x = Attention(self.dtype, name='attention')(x, train)
    x = nn.relu(x).sum((1, 2), dtype=jnp.float32)
    embed = nn.Embed(self.spec.num_classes, x.shape[-1], name='projection',
                     embedding_init=_N02)
    return (_dense(x, 1, 'score', train, jnp.float32)[:, 0]
            + (_spectral(embed, labels, train) * x).sum(-1))


def _doublings(spec: types.ImageSpec) -> int:
  """Returns how often G doubles; after as many halvings 4 to 7 pixels remain.

  Raises:
    InputError: a size that does not halve so often.
  """
  spec.at_least(8, 'biggan')
  count = (min(spec.height, spec.width) // 4).bit_length() - 1
  if count > max(_G) or spec.height % 2**count or spec.width % 2**count:
    raise errors.InputError(
        'model: biggan needs a smaller side of 4 to 7 times 2, 4, .. or '
        f'{2**max(_G)} pixels, and a larger one that halves as often; the data '
        f'is {spec.height}x{spec.width}, see config.data.resize.')
  return count


def build(spec: types.ImageSpec, *, z_dim: int = 128, width: int = 64,
          embed_dim: int = 0, hierarchical: bool = False, attention: int = 0,
          d_steps: int = 4, ema_decay: float = 0.9999, ema_start: int = 1000,
          diff_augment: str = 'translation,cutout', mirror: bool = True,
          statistics: str = 'standing', dtype: str = 'float32',
          **rule: gan.make) -> types.GenerativeModel:
  """Returns BigGAN; by default DiffAugment's, for batches of 50.

  Args:
    spec: a size whose smaller side halves to 4 to 7 pixels, of up to 448.
    z_dim: size of the noise.
    width: channels; the blocks have 1 to 16 times as many, 4 times below 64
      pixels.
    embed_dim: size of a class embedding that all norms of G share, 128 in
      BigGAN's paper; 0 for tables of their own.
    hierarchical: the noise, in equal shares, also enters every block of G; it
      needs embed_dim.
    attention: height of the map at which both networks see all of it at once,
      64 at 128 pixels in BigGAN's paper; 0 for none.
    d_steps, ema_decay, ema_start: see gan.make.
    diff_augment: see gan.make; trained on a few thousand images,
      'cutout' leaves its holes in samples, which 'translation' does not.
    mirror: see gan.make; False where a mirror image is another class.
    statistics: see gan.make; the scripts' 'batch' shifts images where
      a batch has one class, its mean over mixed ones, 'standing', never.
    dtype: 'float32' or 'bfloat16', of the computation; weights are float32.
    **rule: see gan.make.

  Raises:
    InputError: a value that cannot be.
  """
  for name, value, known in (
      ('hierarchical', hierarchical, (False, True)),
      ('dtype', dtype, ('float32', 'bfloat16'))):
    errors.one_of(name, value, known)
  errors.count('z_dim', z_dim)
  errors.count('width', width)
  errors.count('embed_dim', embed_dim, least=0)
  ups = _doublings(spec)
  d_widths, halvings = _D[ups]
  sides = [spec.height >> i for i in range(1, min(halvings, ups - 1) + 1)]
  errors.one_of('attention', attention, (0, *sides))
  if hierarchical and not embed_dim:
    raise errors.InputError('hierarchical: True; expected False, or an '
                            'embed_dim above 0 that the noise can join.')
  if hierarchical and z_dim % (ups + 1):
    raise errors.InputError(
        f'z_dim: {z_dim}; expected a multiple of {ups + 1}, for as many equal '
        'shares of the hierarchical noise.')
  dtype = jnp.dtype(dtype)
  generator = Generator(spec, tuple(n * width for n in _G[ups]), embed_dim,
                        hierarchical, attention, dtype)
  discriminator = Discriminator(spec, tuple(n * width for n in d_widths),
                                halvings, attention, dtype)
  return gan.make(
      spec, generator, discriminator, z_dim=z_dim, d_steps=d_steps,
      ema_decay=ema_decay, ema_start=ema_start, diff_augment=diff_augment,
      mirror=mirror, statistics=statistics, **rule)
