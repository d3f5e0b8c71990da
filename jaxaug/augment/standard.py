"""The standard augmentation of a classifier's images.

An augmentation is `apply(key, images) -> images`: pure and jittable, float32
[B, H, W, C] in [-1, 1] with 1 or 3 channels, each sample with draws of its own
from `key`, so that the result does not depend on how the batch is sharded.
"""
import numbers
import typing

import dm_pix
import jax
import jax.numpy as jnp

from jaxaug.augment import rand_augment, warp
from jaxaug.core import errors

Apply = typing.Callable[[jax.Array, jax.Array], jax.Array]

# What leaves an image as it is, and the widest range that is accepted.
_RANGES = {
    'rotation': (0.0, -180.0, 180.0),
    'zoom': (1.0, 0.1, 10.0),
    'shear': (0.0, -80.0, 80.0),
    'brightness': (0.0, -2.0, 2.0),
    'contrast': (1.0, 0.0, 10.0),
    'saturation': (1.0, 0.0, 10.0),
}
_WARPS = ('rotation', 'zoom', 'shear')

# One row of uniform numbers each, used or not: switching one operation on
# leaves the draws of the others as they were. New rows go to the end.
_DRAWS = ('flip_p', 'shift_p', 'shift_y', 'shift_x', 'cutout_p', 'cutout_y',
          'cutout_x', *_RANGES, *(f'{name}_p' for name in _RANGES))


def _number(value) -> bool:
  return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _range(name, value, where) -> tuple[float, float]:
  """One number is a distance from neutral; two are (low, high)."""
  neutral, lowest, highest = _RANGES[name]
  pair = (neutral - value, neutral + value) if _number(value) else value
  if not (isinstance(pair, tuple | list) and len(pair) == 2
          and all(map(_number, pair))
          and lowest <= pair[0] <= pair[1] <= highest):
    raise errors.InputError(
        f'{where}.{name}: {value!r} is no range; expected a number x >= 0, '
        f'meaning ({neutral:g} - x, {neutral:g} + x), or (low, high), within '
        f'{lowest:g} and {highest:g}.')
  return float(pair[0]), float(pair[1])


def _pixels(name, value, where) -> tuple[int, int]:
  """One number is for both axes; two are (rows, columns)."""
  pair = value if isinstance(value, tuple | list) else (value, value)
  if len(pair) != 2 or not all(
      _number(n) and isinstance(n, numbers.Integral) and n >= 0 for n in pair):
    raise errors.InputError(f'{where}.{name}: {value!r}; expected a whole '
                            'number of pixels, or (rows, columns).')
  return int(pair[0]), int(pair[1])


def _fits(name, pixels, images, where):
  """Image sizes are known only when the augmentation is traced."""
  height, width = images.shape[1:3]
  if pixels[0] > height or pixels[1] > width:
    raise errors.InputError(
        f'{where}.{name}: {pixels[0]}x{pixels[1]} pixels, but the images are '
        f'{height}x{width}.')


def _geometry(images, u, chosen, values, shift, padding, fill,
              resampled):
  """Shifts by the draws `u`, and warps where any warp is switched on."""
  moves = [jnp.where(chosen['shift'], warp.integer(u[axis], -most, most), 0)
           for axis, most in zip(('shift_y', 'shift_x'), shift, strict=True)]
  if not resampled:
    return warp.shift(images, *moves, padding, fill)
  warps = [jnp.where(chosen[name], values[name], _RANGES[name][0])
           for name in _WARPS]
  return warp.affine(images, *moves, *warps, padding, fill)


def _saturate(images, factor):
  if images.shape[3] != 3:
    return images  # Grey has none.
  # dm_pix wants [0, 1].
  unit = (jnp.clip(images, -1, 1) + 1) / 2
  return dm_pix.adjust_saturation(unit, factor[:, :, :, 0]) * 2 - 1


# Right and fast in dm_pix: the definitions of tf.image.
_COLORS = {'brightness': dm_pix.adjust_brightness,
           'contrast': dm_pix.adjust_contrast,
           'saturation': _saturate}


def make(
    where: str = 'augment', *, flip: float = 0.0, shift=0, shift_p: float = 1.0,
    rotation=0.0, rotation_p: float = 1.0, zoom=0.0, zoom_p: float = 1.0,
    shear=0.0, shear_p: float = 1.0, brightness=0.0, brightness_p: float = 1.0,
    contrast=0.0, contrast_p: float = 1.0,
    saturation=0.0, saturation_p: float = 1.0, rand_ops: int = 0,
    rand_magnitude: float = 9, cutout=0, cutout_p: float = 1.0,
    padding: str = 'constant', fill: float = -1.0, cutout_fill: float = 0.0,
    ) -> Apply:
  """Returns the classifier's augmentation; with no argument, the identity.

  Flip comes first; zoom, shear, rotation and shift are one resampling (and
  flip and shift alone are exact); then the colours, RandAugment and
  cutout. A range is a number x, for a uniform draw from neutral - x to
  neutral + x, or (low, high). `NAME_p` is the share of images that NAME is
  applied to.

  Args:
    flip: the share of images that are mirrored left to right.
    shift: pixels, or (rows, columns): each axis moves by a whole number from
      -shift to shift. The same as padding by `shift` and cropping.
    rotation: range of angles in degrees, counter-clockwise; 15 or (0, 45).
    zoom: range of factors; 0.1 is (0.9, 1.1), and above 1 enlarges.
    shear: range of angles in degrees by which vertical lines lean.
    brightness: range of what is added, where black to white is 2.
    contrast: range of factors about each channel's mean; 0.2 is (0.8, 1.2).
    saturation: range of factors of the HSV saturation; nothing on grey images.
    rand_ops: operations that RandAugment draws for each image; 0 for none.
    rand_magnitude: theirs, from 0 to 30; see rand_augment.
    cutout: side in pixels, or (rows, columns), of a rectangle that is painted
      over; its centre is anywhere in the image.
    padding: what lies outside the image: 'constant' is `fill`, 'edge' repeats
      the last pixel, 'reflect' mirrors about it.
    fill: value outside; -1 is black.
    cutout_fill: value of the rectangle; 0 is mid-grey.
    shift_p, rotation_p, zoom_p, shear_p: the share of images that are moved so.
    brightness_p, contrast_p, saturation_p: the share that are recoloured so.
    cutout_p: the share that lose a rectangle.
    where: the config path of these arguments, for errors.

  Returns:
    apply(key, images [B, H, W, C]) -> the same shape and type, clipped to
    [-1, 1].

  Raises:
    InputError: an argument out of range; when applied, `shift` or `cutout`
      larger than the image.
  """
  ranges = {name: _range(name, value, where) for name, value in dict(
      rotation=rotation, zoom=zoom, shear=shear, brightness=brightness,
      contrast=contrast, saturation=saturation).items()}
  shares = dict(
      flip=flip, shift_p=shift_p, rotation_p=rotation_p, zoom_p=zoom_p,
      shear_p=shear_p, brightness_p=brightness_p, contrast_p=contrast_p,
      saturation_p=saturation_p, cutout_p=cutout_p)
  for name, share in shares.items():
    errors.between(f'{where}.{name}', share, 0, 1)
  shares = {name.removesuffix('_p'): share for name, share in shares.items()}
  shift = _pixels('shift', shift, where)
  cutout = _pixels('cutout', cutout, where)
  errors.between(f'{where}.fill', fill, -1, 1)
  errors.between(f'{where}.cutout_fill', cutout_fill, -1, 1)
  errors.count(f'{where}.rand_ops', rand_ops, least=0)
  errors.between(f'{where}.rand_magnitude', rand_magnitude, 0,
                 rand_augment.MOST)
  errors.one_of(f'{where}.padding', padding, warp.PADDINGS)
  wanted = {'flip': True, 'shift': any(shift), 'cutout': all(cutout)} | {
      name: pair != (_RANGES[name][0],) * 2 for name, pair in ranges.items()}
  active = {name for name in wanted if wanted[name] and shares[name]}
  rand = rand_augment.make(rand_ops, rand_magnitude, padding=padding,
                             fill=fill)
  if not active and not rand_ops:
    return lambda key, images: images

  def apply(key, images):
    uniform = jax.random.uniform(key, (len(_DRAWS), images.shape[0]))
    u = dict(zip(_DRAWS, uniform, strict=True))
    chosen = {name: u[f'{name}_p'] < share for name, share in shares.items()}
    values = {name: low + u[name] * (high - low)
              for name, (low, high) in ranges.items()}
    if 'flip' in active:
      images = jnp.where(warp.column(chosen['flip']),
                         dm_pix.flip_left_right(images), images)
    if active & {'shift', *_WARPS}:
      _fits('shift', shift, images, where)
      images = _geometry(images, u, chosen, values, shift, padding, fill,
                         resampled=bool(active & set(_WARPS)))
    for name in (name for name in _COLORS if name in active):
      factor = warp.column(values[name]).astype(images.dtype)
      images = jnp.where(warp.column(chosen[name]),
                         _COLORS[name](images, factor), images)
    if rand_ops:  # Draws of its own: those above stay as they are without it.
      images = rand(jax.random.fold_in(key, 0), images)
    if 'cutout' in active:
      _fits('cutout', cutout, images, where)
      hidden = warp.paint(images, u['cutout_y'], u['cutout_x'], cutout,
                       cutout_fill)
      images = jnp.where(warp.column(chosen['cutout']), hidden, images)
    return jnp.clip(images, -1, 1)
  return apply
