"""DiffAugment: what a discriminator sees of real and of generated images.

Zhao et al. 2020, 'Differentiable Augmentation for Data-Efficient GAN
Training', with the operations of its published code.
"""
import typing

import jax
import jax.numpy as jnp

from jaxaug.augment import warp
from jaxaug.core import errors


def _brightness(images, u):
  return images + warp.column(u[0] - 0.5).astype(images.dtype)


def _saturation(images, u):
  # As slices: XLA on CPU reduces an axis of three ten times slower.
  channels = images.shape[3]
  mean = sum(images[..., i:i + 1] for i in range(channels)) / channels
  return mean + warp.column(2 * u[0]).astype(images.dtype) * (images - mean)


def _contrast(images, u):
  mean = jnp.mean(images, axis=(1, 2, 3), keepdims=True)
  return mean + warp.column(0.5 + u[0]).astype(images.dtype) * (images - mean)


def make(policy='color,translation,cutout', *,
                 translation_ratio: float = 0.125, cutout_ratio: float = 0.5,
                 fill: float = 0.0, where: str = 'augment') -> typing.Callable:
  """Returns DiffAugment, for the discriminator's real and fake images.

  Differentiable with respect to the images, and not clipped. 'color' is
  brightness, saturation and contrast, which may also be named alone.

  Args:
    policy: names joined by commas, or a sequence of names, in their order;
      empty for the identity.
    translation_ratio: largest shift as a share of each side.
    cutout_ratio: the rectangle's sides as a share of the image's.
    fill: value of vacated and cut pixels: 0, mid-grey, in the published code;
      -1 where images have a black background.
    where: the config path of the policy, for errors.

  Returns:
    apply(key, images [B, H, W, C]) -> the same shape and type. Real and fake
    images go in as one batch, or in two calls with different keys.

  Raises:
    InputError: an unknown name, or a ratio outside [0, 1].
  """
  errors.between(f'{where}.translation_ratio', translation_ratio, 0, 1)
  errors.between(f'{where}.cutout_ratio', cutout_ratio, 0, 1)
  errors.between(f'{where}.fill', fill, -1, 1)

  def sides(images, ratio):
    return [int(side * ratio + 0.5) for side in images.shape[1:3]]

  def translation(images, u):
    dy, dx = (warp.integer(draw, -most, most) for draw, most in
              zip(u, sides(images, translation_ratio), strict=True))
    return warp.shift(images, dy, dx, 'constant', fill)

  def cutout(images, u):
    return warp.paint(images, *u, sides(images, cutout_ratio), fill)

  color = (_brightness, _saturation, _contrast)
  known = {'color': color, 'translation': (translation,), 'cutout': (cutout,),
           'brightness': color[:1], 'saturation': color[1:2],
           'contrast': color[2:]}
  names = policy.split(',') if isinstance(policy, str) else policy
  names = [str(name).strip() for name in names]
  ops = []
  for name in filter(None, names):
    errors.one_of(where, name, known)
    ops += known[name]

  def apply(key, images):
    for i, op in enumerate(ops):
      shape = (2, images.shape[0])
      images = op(images, jax.random.uniform(jax.random.fold_in(key, i), shape))
    return images
  return apply
