"""On-device augmentation: the classifier's standard set, and DiffAugment.

DiffAugment is Zhao et al. 2020, 'Differentiable Augmentation for
Data-Efficient GAN Training', with the operations of its published code.

An augmentation is `apply(key, images) -> images`: pure and jittable, float32
[B, H, W, C] in [-1, 1] with 1 or 3 channels, each sample with draws of its own
from `key`, so that the result does not depend on how the batch is sharded.
"""
import numbers
import typing

import dm_pix
import jax
import jax.numpy as jnp

from jaxaug import errors

Apply = typing.Callable[[jax.Array, jax.Array], jax.Array]

PADDINGS = ('constant', 'edge', 'reflect')

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


def _within(name, value, low, high, where) -> float:
  errors.between(f'{where}.{name}', value, low, high)
  return float(value)


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


def _column(values):
  """[B] -> [B, 1, 1, 1]."""
  return values[:, None, None, None]


def _integer(uniform, low: int, high: int):
  """Uniform numbers in [0, 1) -> whole numbers in low..high, both included."""
  return low + jnp.floor(uniform * (high - low + 1)).astype(jnp.int32)


def _frame(images, padding, fill):
  """A border of one pixel holds everything that lies outside."""
  if padding != 'constant':
    return images
  return jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=fill)


def _inside(index, size, padding):
  """Any coordinate -> its row or column in the framed image."""
  if padding == 'constant':
    return jnp.clip(index, -1, size) + 1
  if padding == 'edge':
    return jnp.clip(index, 0, size - 1)
  return size - 1 - jnp.abs(size - 1 - index % max(2 * size - 2, 1))


def _shift(images, dy, dx, padding, fill):
  """Moves each image by whole pixels, exactly; dy, dx int [B]."""
  height, width = images.shape[1:3]
  rows = _inside(jnp.arange(height) - dy[:, None], height, padding)
  columns = _inside(jnp.arange(width) - dx[:, None], width, padding)
  # dm_pix.random_crop crops one image, cannot say where, and knows no padding.
  images = jnp.take_along_axis(_frame(images, padding, fill),
                               rows[:, :, None, None], 1,
                               mode='promise_in_bounds')
  return jnp.take_along_axis(images, columns[:, None, :, None], 2,
                             mode='promise_in_bounds')


def _affine(images, dy, dx, rotation, zoom, shear, padding, fill):
  """Zooms, shears, rotates and shifts in one bilinear resampling.

  All arguments are [B]: dy, dx in pixels, the angles in degrees. Four gathers
  of whole pixels; dm_pix.affine_transform gathers one number at a time, and is
  about a hundred times slower on a CPU.
  """
  batch, height, width, channels = images.shape
  angle, tangent = jnp.radians(rotation), jnp.tan(jnp.radians(shear))
  cos, sin = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
  down = jnp.arange(height) - (height - 1) / 2 - dy[:, None]
  right = jnp.arange(width) - (width - 1) / 2 - dx[:, None]

  def place(a, b, size):
    return ((a[:, None] * down)[:, :, None] + (b[:, None] * right)[:, None]
            + (size - 1) / 2)

  # Backwards, from a pixel of the result to the place that it comes from.
  y = place(cos, sin, height)
  x = place(-sin - tangent * cos, cos - tangent * sin, width)
  top, left = jnp.floor(y), jnp.floor(x)
  v, h = (y - top)[..., None], (x - left)[..., None]
  framed = _frame(images, padding, fill)
  stride, pixels = framed.shape[2], framed.reshape(batch, -1, channels)

  def at(below, beside):
    row = _inside(top.astype(jnp.int32) + below, height, padding)
    column = _inside(left.astype(jnp.int32) + beside, width, padding)
    index = (row * stride + column).reshape(batch, -1, 1)
    return jnp.take_along_axis(
        pixels, index, 1, mode='promise_in_bounds').reshape(images.shape)

  upper = (1 - h) * at(0, 0) + h * at(0, 1)
  lower = (1 - h) * at(1, 0) + h * at(1, 1)
  return ((1 - v) * upper + v * lower).astype(images.dtype)


def _geometry(images, u, chosen, values, shift, padding, fill, warp):
  """Shifts by the draws `u`, and warps where any warp is switched on."""
  moves = [jnp.where(chosen['shift'], _integer(u[axis], -most, most), 0)
           for axis, most in zip(('shift_y', 'shift_x'), shift, strict=True)]
  if not warp:
    return _shift(images, *moves, padding, fill)
  warps = [jnp.where(chosen[name], values[name], _RANGES[name][0])
           for name in _WARPS]
  return _affine(images, *moves, *warps, padding, fill)


def _cutout(images, u_y, u_x, size, fill):
  """Fills one rectangle; its centre may lie anywhere, its parts outside not.

  An even size has one centre more than there are pixels, so that both edges of
  the image are treated alike.
  """
  def span(u, length, size):
    start = _integer(u, 0, length - size % 2)[:, None] - size // 2
    at = jnp.arange(length)
    return (at >= start) & (at < start + size)

  rows = span(u_y, images.shape[1], size[0])[:, :, None, None]
  columns = span(u_x, images.shape[2], size[1])[:, None, :, None]
  return jnp.where(rows & columns, jnp.asarray(fill, images.dtype), images)


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


def standard(
    *, flip: float = 0.0, shift=0, shift_p: float = 1.0,
    rotation=0.0, rotation_p: float = 1.0, zoom=0.0, zoom_p: float = 1.0,
    shear=0.0, shear_p: float = 1.0, brightness=0.0, brightness_p: float = 1.0,
    contrast=0.0, contrast_p: float = 1.0,
    saturation=0.0, saturation_p: float = 1.0, cutout=0, cutout_p: float = 1.0,
    padding: str = 'constant', fill: float = -1.0, cutout_fill: float = 0.0,
    where: str = 'augment') -> Apply:
  """Returns the classifier's augmentation; with no argument, the identity.

  Flip comes first; zoom, shear, rotation and shift are one resampling (and
  flip and shift alone are exact); then the colours; then cutout. A range is a
  number x, for a uniform draw from neutral - x to neutral + x, or (low, high).
  `NAME_p` is the share of images that NAME is applied to.

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
    cutout: side in pixels, or (rows, columns), of a rectangle that is painted
      over; its centre is anywhere in the image.
    padding: what lies outside the image: 'constant' is `fill`, 'edge' repeats
      the last pixel, 'reflect' mirrors about it.
    fill: value outside; -1 is black.
    cutout_fill: value of the rectangle; 0 is mid-grey.
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
  shares = {name.removesuffix('_p'): _within(name, value, 0, 1, where)
            for name, value in dict(
      flip=flip, shift_p=shift_p, rotation_p=rotation_p, zoom_p=zoom_p,
      shear_p=shear_p, brightness_p=brightness_p, contrast_p=contrast_p,
      saturation_p=saturation_p, cutout_p=cutout_p).items()}
  shift = _pixels('shift', shift, where)
  cutout = _pixels('cutout', cutout, where)
  fill = _within('fill', fill, -1, 1, where)
  cutout_fill = _within('cutout_fill', cutout_fill, -1, 1, where)
  errors.one_of(f'{where}.padding', padding, PADDINGS)
  wanted = {'flip': True, 'shift': any(shift), 'cutout': all(cutout)} | {
      name: pair != (_RANGES[name][0],) * 2 for name, pair in ranges.items()}
  active = {name for name in wanted if wanted[name] and shares[name]}
  if not active:
    return lambda key, images: images

  def apply(key, images):
    uniform = jax.random.uniform(key, (len(_DRAWS), images.shape[0]))
    u = dict(zip(_DRAWS, uniform, strict=True))
    chosen = {name: u[f'{name}_p'] < share for name, share in shares.items()}
    values = {name: low + u[name] * (high - low)
              for name, (low, high) in ranges.items()}
    if 'flip' in active:
      images = jnp.where(_column(chosen['flip']),
                         dm_pix.flip_left_right(images), images)
    if active & {'shift', *_WARPS}:
      _fits('shift', shift, images, where)
      images = _geometry(images, u, chosen, values, shift, padding, fill,
                         warp=bool(active & set(_WARPS)))
    for name in (name for name in _COLORS if name in active):
      factor = _column(values[name]).astype(images.dtype)
      images = jnp.where(_column(chosen[name]), _COLORS[name](images, factor),
                         images)
    if 'cutout' in active:
      _fits('cutout', cutout, images, where)
      hidden = _cutout(images, u['cutout_y'], u['cutout_x'], cutout,
                       cutout_fill)
      images = jnp.where(_column(chosen['cutout']), hidden, images)
    return jnp.clip(images, -1, 1)
  return apply


def _brightness(images, u):
  return images + _column(u[0] - 0.5).astype(images.dtype)


def _saturation(images, u):
  # As slices: XLA on CPU reduces an axis of three ten times slower.
  channels = images.shape[3]
  mean = sum(images[..., i:i + 1] for i in range(channels)) / channels
  return mean + _column(2 * u[0]).astype(images.dtype) * (images - mean)


def _contrast(images, u):
  mean = jnp.mean(images, axis=(1, 2, 3), keepdims=True)
  return mean + _column(0.5 + u[0]).astype(images.dtype) * (images - mean)


def diff_augment(policy='color,translation,cutout', *,
                 translation_ratio: float = 0.125, cutout_ratio: float = 0.5,
                 fill: float = 0.0, where: str = 'augment') -> Apply:
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
  share = _within('translation_ratio', translation_ratio, 0, 1, where)
  cut = _within('cutout_ratio', cutout_ratio, 0, 1, where)
  fill = _within('fill', fill, -1, 1, where)

  def sides(images, ratio):
    return [int(side * ratio + 0.5) for side in images.shape[1:3]]

  def translation(images, u):
    dy, dx = (_integer(draw, -most, most) for draw, most in
              zip(u, sides(images, share), strict=True))
    return _shift(images, dy, dx, 'constant', fill)

  def cutout(images, u):
    return _cutout(images, *u, sides(images, cut), fill)

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
