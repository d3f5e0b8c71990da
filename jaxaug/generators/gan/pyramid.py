"""Pyramids of GANs on standardised pixels: one level, or one a resolution.

Denton et al. 2015, 'Deep Generative Image Models using a Laplacian Pyramid of
Adversarial Networks', by the rules of its authors' code: every pixel of every
channel is standardised by the training images, generators end in a linear
layer, and every level is trained by itself, next to the others. Level 0 makes
the smallest images from noise; each further level sees its images halved and
doubled again, makes the residual, and is judged by the sum.
"""
import itertools
import math
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxaug.core import errors, types
from jaxaug.data import pixels
from jaxaug.generators.gan import gan
from jaxaug.nn import layers, resize

# Growth of the momentum a step: 0.0008 in the 704 steps that the code counts as
# an epoch. Its rate falls by 1.000004 an epoch, which is left out: from 0.02 to
# 0.01997 after 400 of them.
MOMENTUM_GROWTH = 0.0008 / 704


class PyramidState(typing.NamedTuple):
  """All that a training must remember."""
  step: jax.Array        # int32 [].
  levels: tuple          # types.GanState of each, the smallest images first.
  mean: jax.Array        # float32 [H, W, C], of the training images from -1 to
  std: jax.Array         # 1; 0 and 1 before `adapt`.


class Level(typing.NamedTuple):
  """The two players of one resolution, flax modules as gan.make wants.

  Above the smallest, the generator is called (z, labels, coarse, train).
  """
  spec: types.ImageSpec
  generator: typing.Any
  discriminator: typing.Any
  z_dim: int


def dense(x, features: int, name: str, dtype):
  """A dense layer of Torch7, for the inside of a module: [B, D] -> [B, N]."""
  init = layers.uniform(x.shape[-1])
  return nn.Dense(features, dtype=dtype, kernel_init=init, bias_init=init,
                  name=name)(x)


def conv(x, features: int, kernel: int, name: str, dtype, **more):
  """A square convolution of Torch7, for the inside of a module."""
  init = layers.uniform(kernel**2 * x.shape[-1])
  return layers.Conv(features, (kernel, kernel), dtype=dtype, kernel_init=init,
                     bias_init=init, name=name, **more)(x)


class DenseGenerator(nn.Module):
  """(z [B, z_dim], labels [B]) -> standardised images [B, H, W, C]."""
  spec: types.ImageSpec
  widths: tuple[int, ...]
  dtype: typing.Any

  @nn.compact
  def __call__(self, z, labels, train: bool):
    spec = self.spec
    x = jnp.concatenate([z, jax.nn.one_hot(labels, spec.num_classes)], -1)
    for i, width in enumerate(self.widths):
      x = nn.relu(dense(x, width, f'dense_{i}', self.dtype))
    x = dense(x, math.prod(spec[:3]), 'image', self.dtype)
    return x.astype(jnp.float32).reshape(-1, *spec[:3])


class DenseDiscriminator(nn.Module):
  """(images [B, H, W, C], labels [B]) -> raw scores [B]."""
  spec: types.ImageSpec
  widths: tuple[int, ...]
  dropout: float
  dtype: typing.Any

  @nn.compact
  def __call__(self, x, labels, train: bool):
    x = jnp.concatenate([x.reshape(len(x), -1), jax.nn.one_hot(
        labels, self.spec.num_classes)], -1)
    for i, width in enumerate(self.widths):
      x = nn.relu(dense(x, width, f'dense_{i}', self.dtype))
      x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return dense(x, 1, 'score', self.dtype)[:, 0].astype(jnp.float32)


def level_specs(spec: types.ImageSpec,
                halvings: int) -> tuple[types.ImageSpec, ...]:
  """Returns what each level's images are, the smallest first.

  Raises:
    InputError: a side cannot be halved so often.
  """
  errors.count('halvings', halvings, least=0)
  if spec.height % 2**halvings or spec.width % 2**halvings:
    raise errors.InputError(
        f'halvings: {halvings} of {spec.height}x{spec.width} leave a rest; '
        f'expected a size divisible by {2**halvings}, see config.data.resize.')
  return tuple(spec._replace(height=spec.height >> n, width=spec.width >> n)
               for n in range(halvings, -1, -1))


def halve(images):
  """Bilinear at half the size, which is the mean of every 2x2 pixels."""
  height, width = images.shape[1:3]
  return resize.resize(images, (height // 2, width // 2), 'pytorch')


def double(images):
  """Bilinear at twice the size: pixels are squares, the border is repeated.

  Torch7 stretched corner to corner, which shifts what it doubles.
  """
  height, width = images.shape[1:3]
  return resize.resize(images, (2 * height, 2 * width), 'pytorch')


def coarsen(images):
  """What a level starts from: images [B, H, W, C] halved and doubled again."""
  return double(halve(images))


def resolutions(images, count: int) -> list:
  """Returns float images [B, H, W, C] at `count` sizes, the smallest first."""
  sizes = itertools.accumulate(range(count - 1), lambda x, _: halve(x),
                               initial=images)
  return list(sizes)[::-1]


def pixel_statistics(images, mirror: bool = False):
  """Mean and standard deviation of every pixel of every channel.

  Args:
    images: uint8 [N, H, W, C], fewer than 8 million.
    mirror: as if the images were there mirrored too.

  Returns:
    float32 [H, W, C] each, in units of images from -1 to 1. A pixel that never
    changes has exactly its value and 0.
  """
  n = len(images)
  # Whole numbers about a whole number: sums are exact in any order.
  centre = jnp.round(images.sum(0, dtype=jnp.int32) / n).astype(jnp.int32)
  off = images.astype(jnp.int32) - centre
  squares = off * off  # Summed in two parts, or 33,000 of them overflow.
  square = (256. * (squares >> 8).sum(0) + (squares & 255).sum(0)) / n
  off = off.sum(0) / n
  mean, variance = centre + off, square - off * off
  if mirror:
    mean, other = (mean + mean[:, ::-1]) / 2, mean
    variance = ((variance + variance[:, ::-1]) / 2
                + jnp.square(other - mean))
  return pixels.to_float(mean), jnp.sqrt(jnp.maximum(variance, 0)) / 127.5


def standardise(images, mean, std):
  """Float images from -1 to 1 -> (images - mean) / std, pixel by pixel.

  No training image is further out than sqrt(N), however rarely a pixel changes.
  One that never does is 0, whatever it is in other images; the authors' code
  adds 1e-7 to the deviation, which would blow those up.
  """
  return (images - mean) / jnp.where(std > 0, std, jnp.inf)


def restore(images, mean, std):
  """The inverse of `standardise`, clipped to [-1, 1]."""
  return jnp.clip(images * std + mean, -1, 1)


def _flip(key, images):
  """Flips half of uint8 images [D, B, H, W, C] left to right."""
  flip = jax.random.bernoulli(key, shape=(*images.shape[:2], 1, 1, 1))
  return jnp.where(flip, images[..., ::-1, :], images)


def _named(values: list[dict], specs, plain_last: bool) -> dict:
  """Joins the levels' values; keys of several levels end in the height."""
  last = len(values) - 1
  return {name if i == last and (plain_last or not last)
          else f'{name}_{spec.height}': value
          for i, (spec, each) in enumerate(zip(specs, values, strict=True))
          for name, value in each.items()}


def _training(models, specs, mirror: bool):
  """Returns the step of all levels; see types.GenerativeModel."""
  def step(state, batch, key):
    image, lead = batch['image'], batch['image'].shape[:2]
    if mirror:
      flips = jax.random.fold_in(key, len(models))
      image = _flip(jax.random.fold_in(flips, state.step), image)
    real = standardise(pixels.to_float(image), state.mean, state.std)
    sizes = resolutions(real.reshape(-1, *real.shape[2:]), len(models))
    levels, logs = [], []
    for i, (model, level) in enumerate(zip(models, state.levels, strict=True)):
      own = batch | {'image': sizes[i].reshape(*lead, *sizes[i].shape[1:])}
      level, log = model.step(level, own, jax.random.fold_in(key, i))
      levels.append(level)
      logs.append(log)
    return (state._replace(step=state.step + 1, levels=tuple(levels)),
            _named(logs, specs, plain_last=True))
  return step


def _sampling(models, names):
  """Returns (sample, decode); see types.GenerativeModel."""
  def climb(variables, draw):
    """Images, draw(i, variables of a level, coarse) being those of a level."""
    images = draw(0, variables[names[0]], None)
    for i, name in enumerate(names[1:], 1):
      images = draw(i, variables[name], double(images))
    return restore(images, variables['mean'], variables['std'])

  def sample(variables, key, labels, given=None):
    del given  # It starts from noise.
    return climb(variables, lambda i, own, coarse: models[i].sample(
        own, jax.random.fold_in(key, i), labels, coarse))

  def decode(variables, z, labels):
    ends = [*itertools.accumulate(model.z_dim for model in models)]
    parts = jnp.split(z, ends[:-1], -1)
    return climb(variables, lambda i, own, coarse: models[i].decode(
        own, parts[i], labels, coarse))
  return sample, decode


def make(spec: types.ImageSpec, levels: tuple[Level, ...], *,
         mirror: bool = False, **rule: gan.make,
         ) -> types.GenerativeModel:
  """Returns the generative model of a pyramid, all levels trained by one step.

  Logs and numbers of parameters of smaller levels end in their height, such as
  'd_loss_7'. `decode` takes the noise of all levels side by side, the smallest
  first.

  Args:
    spec: what the images are.
    levels: the smallest first; each doubles the one before.
    mirror: flips half of the real images, before they are standardised.
    **rule: see gan.make; the same for every level.

  Raises:
    InputError: a value that cannot be.
  """
  errors.one_of('mirror', mirror, (False, True))
  models = [gan.make(
      level.spec, level.generator, level.discriminator, coarsen if i else None,
      z_dim=level.z_dim, **rule) for i, level in enumerate(levels)]
  specs = [level.spec for level in levels]
  names = [f'level_{spec.height}' for spec in specs]

  def init(key):
    states = tuple(model.init(jax.random.fold_in(key, i))
                   for i, model in enumerate(models))
    return PyramidState(jnp.int32(0), states, jnp.zeros(spec[:3]),
                        jnp.ones(spec[:3]))

  def adapt(state, images, labels):
    del labels
    mean, std = pixel_statistics(images, mirror)
    return state._replace(mean=mean, std=std)

  def variables(state):
    return {'mean': state.mean, 'std': state.std} | {
        name: model.variables(level) for name, model, level in
        zip(names, models, state.levels, strict=True)}

  def parameters(state):
    return _named([model.parameters(level) for model, level in
                   zip(models, state.levels, strict=True)], specs,
                  plain_last=False)

  sample, decode = _sampling(models, names)
  return types.GenerativeModel(
      init, _training(models, specs, mirror), variables, sample, parameters,
      models[0].d_steps, decode, sum(model.z_dim for model in models), adapt,
      models[0].noise)
