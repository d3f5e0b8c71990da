"""Data augmentation GAN: another image of the class that one image is of.

Antoniou et al. 2017, 'Data Augmentation Generative Adversarial Networks' (arXiv
1711.04340). G is a U-net that sees a real image and noise; D sees pairs, of two
real images of a class or of one and what G made of it; neither sees a label.
The layers, which the paper does not give in full, are those of its authors'
code, github.com/AntreasAntoniou/DAGAN, dagan_architectures.py.
"""
import functools
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxaug.core import errors, randomness, types
from jaxaug.generators.gan import gan
from jaxaug.nn import layers

# A purpose of randomness, beside those of data/mixing.py.
_PAIRS = 7


class BatchRenorm(nn.Module):
  """Batch norm whose outputs in training are those of the averages, in value.

  (x [B, H, W, C], train) -> [B, H, W, C]. Ioffe 2017: (x - mean) / std * r + d
  by the batch, with r and d that lead to the averages and have no gradients.
  TensorFlow 1 does not clip them unless told to, which the code of DAGAN does
  not; there, what is applied later is an average of the averages once more.

  The averages begin with the first batch: they are sums over batches, `seen`
  that of the factors, and what it lacks of 1 is the present batch's.
  """
  decay: float
  epsilon: float = 1e-3

  @nn.compact
  def __call__(self, x, train: bool):
    channels = x.shape[-1:]
    scale = self.param('scale', nn.initializers.ones, channels)
    bias = self.param('bias', nn.initializers.zeros, channels)
    mean, std, seen = averages = [
        self.variable('batch_stats', name, jnp.zeros, shape)
        for name, shape in (('mean', channels), ('std', channels),
                            ('seen', ()))]
    wide = x.astype(jnp.float32)  # Half precision loses the variance.
    if train:
      axes = tuple(range(x.ndim - 1))
      now = wide.mean(axes), jnp.sqrt(wide.var(axes) + self.epsilon)
      lacks = 1 - seen.value
      whole_mean, whole_std = (old.value + lacks * new for old, new in zip(
          averages[:2], now, strict=True))
      r = jax.lax.stop_gradient(now[1] / whole_std)
      d = jax.lax.stop_gradient((now[0] - whole_mean) / whole_std)
      out = (wide - now[0]) * (r / now[1]) + d
      for average, new in zip(averages, (*now, 1.0), strict=True):
        average.value = self.decay * average.value + (
            1 - self.decay) * jax.lax.stop_gradient(new)
    else:
      # Before the first batch, mean 0 and deviation 1.
      whole = jnp.where(seen.value > 0, seen.value, 1)
      out = (wide - mean.value / whole) / jnp.where(
          seen.value > 0, std.value / whole, 1)
    return (out * scale + bias).astype(x.dtype)


def _conv(x, features: int, name: str, stride: int = 1, size=None):
  """A 3x3 convolution, for the inside of a module; of x brought up to a size.

  That size is twice x's, by repeated pixels, or a pixel less.
  """
  make = layers.Conv
  if size == (2 * x.shape[1], 2 * x.shape[2]):
    make = functools.partial(nn.Conv,
                             conv_general_dilated=layers.conv_of_doubled)
  elif size:
    x = x.repeat(2, 1).repeat(2, 2)[:, :size[0], :size[1]]
  return make(features, (3, 3), strides=(stride, stride), dtype=x.dtype,
              kernel_init=nn.initializers.xavier_uniform(), name=name)(x)


def _beside(*maps):
  """Maps [B, H, W, C] beside each other in channels, each but once."""
  return jnp.concatenate([*{id(x): x for x in maps}.values()], -1)


def _down(x, widths, inner: int, finish):
  """The way down, for the inside of a module: maps, the largest first.

  After a layer that halves there are stages of `inner` layers and one that
  halves. A layer sees, beside each other: what the one before made, what the
  one before that made, and all that its stage was given and has made. At the
  start of a stage the second is halved by a convolution of its own.

  Args:
    x: [B, H, W, C].
    widths: channels of the first layer and of each stage.
    inner: layers of a stage that keep the size.
    finish(x, name, drop=False): what follows a layer's convolution.
  """
  made = [x, finish(_conv(x, widths[0], 'stem', 2), 'stem_norm')]
  ends = made[1:]
  for stage, width in enumerate(widths[1:]):
    name, own = f'down_{stage}', made[-1:]
    for i in range(inner + 1):
      before = made[-2] if i else _conv(made[-2], made[-2].shape[-1],
                                        f'{name}_skip', 2)
      halves = i == inner
      x = _conv(_beside(made[-1], before, *own), width, f'{name}_conv_{i}',
                2 if halves else 1)
      x = finish(x, f'{name}_norm_{i}', drop=halves)
      own.append(x)
      made.append(x)
    ends.append(x)
  return ends


class Generator(nn.Module):
  """(z [B, z_dim], labels [B], given [B, H, W, C]) -> images as `given`.

  On the way up every block but the last two is also given a map of the noise,
  of 2 channels in the last of them and twice as many in each before. The code
  makes one map more and does not use it; it is left out.
  """
  widths: tuple[int, ...]
  inner: int
  norm_decay: float
  dropout: float
  dtype: typing.Any

  @nn.compact
  def __call__(self, z, labels, given, train: bool):
    del labels  # The given image shows it.
    dropout = nn.Dropout(self.dropout, deterministic=not train)
    def finish(x, name, drop=False):
      norm = BatchRenorm(self.norm_decay, name=name)
      x = norm(nn.leaky_relu(x, 0.2), train)
      return dropout(x) if drop else x

    given = given.astype(self.dtype)
    ends = [*reversed(_down(given, self.widths, self.inner, finish)), given]
    widths = [*reversed(self.widths), self.widths[0]]
    x, skip = ends[0], None
    for block, width in enumerate(widths):
      name, (_, *size, _) = f'up_{block}', ends[block].shape
      noises = len(ends) - 2 - block
      if noises > 0:
        noise = nn.Dense(size[0] * size[1] * 2**noises, dtype=self.dtype,
                         kernel_init=nn.initializers.xavier_uniform(),
                         name=f'noise_{block}')(z)
        x = _beside(noise.reshape(-1, *size, 2**noises), x)
      own = [x]
      for i in range(self.inner):
        # Of the block before, brought up anew for every layer.
        before = [] if skip is None else [_conv(
            skip, skip.shape[-1], f'{name}_skip_{i}', size=tuple(size))]
        x = _conv(_beside(own[-1], *before, *own), width, f'{name}_conv_{i}')
        own.append(finish(x, f'{name}_norm_{i}'))
      x = skip = own[-1]
      if block + 1 < len(ends):
        end = ends[block + 1]
        x = _conv(_beside(x, *own), width, name, size=end.shape[1:3])
        x = _beside(finish(x, f'{name}_norm', drop=True), end)
    for i in range(2):
      x = finish(_conv(x, self.widths[0], f'tail_{i}'), f'tail_{i}_norm')
    x = _conv(x, given.shape[-1], 'image')
    return jnp.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
  """(images, labels, given, both [B, H, W, C]) -> raw scores [B]."""
  widths: tuple[int, ...]
  inner: int
  hidden: int
  dropout: float
  dtype: typing.Any

  @nn.compact
  def __call__(self, x, labels, given, train: bool):
    del labels  # The given image shows it.
    dropout = nn.Dropout(self.dropout, deterministic=not train)
    def finish(x, name, drop=False):
      # Of an image as a whole, so that its score does not hang on the others.
      norm = nn.LayerNorm(1e-12, reduction_axes=(1, 2, 3), feature_axes=-1,
                          use_fast_variance=False, dtype=jnp.float32, name=name)
      x = norm(nn.leaky_relu(x, 0.2)).astype(x.dtype)
      return dropout(x) if drop else x

    x = jnp.concatenate([x, given], -1).astype(self.dtype)
    x = _down(x, self.widths, self.inner, finish)[-1].astype(jnp.float32)
    dense = functools.partial(nn.Dense,
                              kernel_init=nn.initializers.xavier_uniform())
    pooled = nn.leaky_relu(dense(self.hidden, name='dense')(x.mean((1, 2))),
                           0.2)
    x = jnp.concatenate([pooled, x.reshape(len(x), -1)], -1)
    return dense(1, name='score')(x)[:, 0]


def _feed(updates: int, balanced: bool, labels, class_names, batch_size: int,
          seed: int):
  """Returns batch(i) -> int32 [updates, 2, B]: pairs of images of a class.

  The two are drawn each by itself, and may be one image.

  Args:
    updates: of either player in a step; each has pairs of its own.
    balanced: whether all classes are drawn alike, or all images.
    labels: int [N].
    class_names: K.
    batch_size, seed: see types.GenerativeModel.

  Raises:
    InputError: a class of fewer than two images.
  """
  labels = np.asarray(labels)
  count = np.bincount(labels, minlength=len(class_names))
  for name, images in zip(class_names, count, strict=True):
    if images < 2:
      raise errors.InputError(
          f'model: dagan learns from pairs of images of a class; {name!r} has '
          f'{images} in the training split, expected at least 2.')
  order, first = np.argsort(labels, kind='stable'), np.cumsum(count) - count

  def batch(i):
    rng = randomness.generator(seed, _PAIRS, i)
    shape = updates, 1, batch_size
    classes = (rng.integers(len(count), size=shape) if balanced else
               labels[rng.integers(len(labels), size=shape)])
    place = rng.integers(count[classes], size=(updates, 2, batch_size))
    return order[first[classes] + place].astype(np.int32)
  return batch


def build(spec: types.ImageSpec, *, z_dim: int = 100,
          g_widths: tuple[int, ...] = (64, 64, 128, 128),
          d_widths: tuple[int, ...] = (64, 64, 128, 128), g_inner: int = 3,
          d_inner: int = 5, d_hidden: int = 1024, norm_decay: float = 0.99,
          dropout: float = 0.5, balanced: bool = True, dtype: str = 'float32',
          loss: str = 'wasserstein', gradient_penalty: float = 10.0,
          d_steps: int = 5, fresh_fakes: bool = True, g_lr: float = 1e-4,
          d_lr: float = 1e-4, b2: float = 0.9, ema_decay: float = 0.0,
          **rule: gan.make) -> types.GenerativeModel:
  """Returns DAGAN, whose samples start from real images of their class.

  By default it is the authors' run on Omniglot and VGG-Face, in batches of 32,
  with the paper's gradient penalty; their code's is gradient_penalty_per
  'column'. It also turns images: quarter_turns=True. G's 10.71M parameters
  there are ours and 103,424 of a layer of noise that nothing reads.

  Args:
    spec: any size whose sides halve, rounded up, as often as there are widths.
    z_dim: size of the noise.
    g_widths, d_widths: channels after each halving of G, two or more, and of D;
      G goes up again by the same.
    g_inner, d_inner: layers that keep the size, of each of their stages.
    d_hidden: units of D's layer after the mean over its last map.
    norm_decay: of the averages that G's norms go by; less than the code's 0.99
      lets them follow a short training.
    dropout: after each layer of both that halves or doubles, but the first; not
      in samples, where the noise alone is left.
    balanced: whether pairs are of all classes alike, however few images they
      have; False for as many as the images.
    dtype: 'float32' or 'bfloat16', of the convolutions; weights are float32.
    loss, gradient_penalty, d_steps, g_lr, d_lr, b2: as in the paper and its
      code; see gan.make.
    fresh_fakes: see gan.make; False also for D's last pairs in place of G's
      own.
    ema_decay: see gan.make; 0 as in the paper, which averages nothing.
    **rule: see gan.make.

  Raises:
    InputError: a value that cannot be; from `feed`, a class of fewer than two
      images.
  """
  for name, value, known in (('balanced', balanced, (False, True)),
                             ('dtype', dtype, ('float32', 'bfloat16'))):
    errors.one_of(name, value, known)
  for name, value in (('z_dim', z_dim), ('g_inner', g_inner),
                      ('d_inner', d_inner), ('d_hidden', d_hidden)):
    errors.count(name, value)
  errors.counts('g_widths', g_widths)
  errors.counts('d_widths', d_widths)
  if len(g_widths) < 2:
    raise errors.InputError(
        f'g_widths: {g_widths!r}; expected two or more, for the noise enters '
        'before the last two blocks.')
  errors.between('norm_decay', norm_decay, 0, 1, below=True)
  errors.between('dropout', dropout, 0, 1, below=True)
  if rule.get('statistics', 'running') != 'running':
    raise errors.InputError(
        f"statistics: {rule['statistics']!r}; expected 'running', for dagan's "
        'norms go by their averages in training too.')
  halvings = max(len(g_widths), len(d_widths))
  spec.at_least(2**(halvings - 1) + 1, 'dagan', f' to halve {halvings} times')
  dtype = jnp.dtype(dtype)
  model = gan.make(
      spec, Generator(tuple(g_widths), g_inner, norm_decay, dropout, dtype),
      Discriminator(tuple(d_widths), d_inner, d_hidden, dropout, dtype), None,
      True, z_dim=z_dim, loss=loss, gradient_penalty=gradient_penalty,
      d_steps=d_steps, fresh_fakes=fresh_fakes, g_lr=g_lr, d_lr=d_lr, b2=b2,
      ema_decay=ema_decay, **rule)
  updates = d_steps + 1 if fresh_fakes else d_steps
  # A place in the space of the noise is no image without one to start from.
  return model._replace(
      feed=functools.partial(_feed, updates, balanced), decode=None,
      origins=tuple((k, k) for k in range(spec.num_classes)))
