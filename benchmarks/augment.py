"""Images per second of every augmentation, beside dm_pix, in one table.

  python -m benchmarks.augment [--batch=256] [--size=32] [--channels=3]

Each is one jitted function of (key, images) with the random draws inside it;
dm_pix works on one image and is vmapped. Fastest of several rounds.
"""
import argparse
import functools
import time

import dm_pix
import jax
import jax.numpy as jnp

from jaxaug.augment import diff_augment, standard

COMBINATION = dict(flip=0.5, shift=4, rotation=15)
OURS = {
    'flip': standard.make(flip=0.5),
    'shift': standard.make(shift=4),
    'shift, reflected': standard.make(shift=4, padding='reflect'),
    'rotation': standard.make(rotation=15),
    'zoom': standard.make(zoom=0.1),
    'shear': standard.make(shear=10),
    'brightness': standard.make(brightness=0.2),
    'contrast': standard.make(contrast=0.2),
    'saturation': standard.make(saturation=0.2),
    'cutout': standard.make(cutout=8),
    'flip, shift': standard.make(flip=0.5, shift=4),
    'flip, shift, rotation': standard.make(**COMBINATION),
    'everything': standard.make(
        **COMBINATION, zoom=0.1, shear=5, brightness=0.2, contrast=0.2,
        saturation=0.2, cutout=8),
    'RandAugment, 2 operations': standard.make(rand_ops=2),
    'flip, shift, RandAugment': standard.make(
        flip=0.5, shift=4, rand_ops=2),
    'DiffAugment color': diff_augment.make('color'),
    'DiffAugment translation': diff_augment.make('translation'),
    'DiffAugment cutout': diff_augment.make('cutout'),
    'DiffAugment, all three': diff_augment.make(),
}


def _crop(key, image, mode='constant'):
  wide = jnp.pad(image, ((4, 4), (4, 4), (0, 0)), mode)
  return dm_pix.random_crop(key, wide, image.shape)


def _rotate(key, image):
  angle = jax.random.uniform(key, minval=-0.26, maxval=0.26)
  return dm_pix.rotate(image, angle, mode='constant', cval=-1.0)


def _affine(key, image, zoom=0.0, shear=0.0):
  a = jax.random.uniform(key, minval=-1.0, maxval=1.0)
  matrix = jnp.array([[1 + zoom * a, 0, 0], [shear * a, 1 + zoom * a, 0],
                      [0, 0, 1]])
  centre = (jnp.array(image.shape) - 1) / 2
  return dm_pix.affine_transform(image, matrix,
                                 offset=centre - matrix @ centre,
                                 mode='constant', cval=-1.0)


def _chain(*steps):
  def apply(key, image):
    for i, step in enumerate(steps):
      image = step(jax.random.fold_in(key, i), image)
    return image
  return apply


_contrast = functools.partial(dm_pix.random_contrast, lower=0.8, upper=1.2)
_saturation = functools.partial(dm_pix.random_saturation, lower=0.8, upper=1.2)
_brightness = functools.partial(dm_pix.random_brightness, max_delta=0.2)
_flip = dm_pix.random_flip_left_right
THEIRS = {
    'flip': _flip,
    'shift': _crop,
    'shift, reflected': functools.partial(_crop, mode='reflect'),
    'rotation': _rotate,
    'zoom': functools.partial(_affine, zoom=0.1),
    'shear': functools.partial(_affine, shear=0.2),
    'brightness': _brightness,
    'contrast': _contrast,
    'saturation': _saturation,
    'flip, shift': _chain(_flip, _crop),
    'flip, shift, rotation': _chain(_flip, _crop, _rotate),
}


def rate(apply, images, rounds=4, seconds=0.2) -> float:
  """Images per second of the fastest round."""
  apply, key = jax.jit(apply), jax.random.key(0)
  jax.block_until_ready(apply(key, images))
  start = time.perf_counter()
  jax.block_until_ready(apply(key, images))
  calls = max(1, int(seconds / (time.perf_counter() - start)))
  best = 0.0
  for _ in range(rounds):
    start = time.perf_counter()
    for _ in range(calls):
      out = apply(key, images)
    jax.block_until_ready(out)
    best = max(best, calls * len(images) / (time.perf_counter() - start))
  return best


def _gradient(apply):
  """The gradient by the images, as the generator's step needs it."""
  return lambda key, images: jax.grad(
      lambda images: (apply(key, images)**2).sum())(images)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--batch', type=int, default=256)
  parser.add_argument('--size', type=int, default=32)
  parser.add_argument('--channels', type=int, default=3, choices=(1, 3))
  args = parser.parse_args()
  images = jax.random.uniform(
      jax.random.key(0), (args.batch, args.size, args.size, args.channels),
      minval=-1)
  print(f'{images.shape} float32, {jax.devices()[0].device_kind}')
  print(f'{"images a second":<34}{"jaxaug":>12}{"dm_pix":>12}{"ratio":>8}')

  def line(name, ours, theirs=None):
    print(f'{name:<34}{ours:>12,.0f}' + (
        f'{theirs:>12,.0f}{ours / theirs:>8.1f}' if theirs else
        f'{"-":>12}{"-":>8}'), flush=True)

  for name, apply in OURS.items():
    theirs = THEIRS.get(name)
    if name == 'saturation' and args.channels != 3:
      theirs = None
    keyed = theirs and (lambda key, images, one=theirs: jax.vmap(one)(
        jax.random.split(key, len(images)), images))
    line(name, rate(apply, images), keyed and rate(keyed, images))
  for name in [name for name in OURS if name.startswith('DiffAugment')]:
    line(f'{name}: gradient', rate(_gradient(OURS[name]), images))


if __name__ == '__main__':
  main()
