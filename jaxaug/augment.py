"""On-device augmentation: the standard set, DiffAugment, MixUp and CutMix.

DiffAugment is Zhao et al. 2020, 'Differentiable Augmentation for
Data-Efficient GAN Training', with the operations of its published code; MixUp
is Zhang et al. 2018, 'mixup: Beyond Empirical Risk Minimization'; CutMix is Yun
et al. 2019, 'CutMix: Regularization Strategy to Train Strong Classifiers'.

An augmentation is `apply(key, images) -> images`: pure and jittable, float32
[B, H, W, C] in [-1, 1] with 1 or 3 channels, each sample with draws of its own
from `key`, so that the result does not depend on how the batch is sharded.
"""
import numbers
import typing

import dm_pix
import jax
import jax.numpy as jnp

from jaxaug import errors, policy, warp

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


def to_float(images: jax.Array) -> jax.Array:
  """uint8 0..255 -> float32 [-1, 1]."""
  return images.astype(jnp.float32) / 127.5 - 1


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


def _cutout(images, u_y, u_x, size, fill):
  """Fills one rectangle."""
  return jnp.where(warp.box(images, u_y, u_x, size),
                   jnp.asarray(fill, images.dtype), images)


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
    saturation=0.0, saturation_p: float = 1.0, rand_ops: int = 0,
    rand_magnitude: float = 9, cutout=0, cutout_p: float = 1.0,
    padding: str = 'constant', fill: float = -1.0, cutout_fill: float = 0.0,
    where: str = 'augment') -> Apply:
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
    rand_magnitude: theirs, from 0 to 30; see jaxaug.policy.
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
  errors.count(f'{where}.rand_ops', rand_ops, least=0)
  errors.between(f'{where}.rand_magnitude', rand_magnitude, 0, policy.MOST)
  errors.one_of(f'{where}.padding', padding, warp.PADDINGS)
  wanted = {'flip': True, 'shift': any(shift), 'cutout': all(cutout)} | {
      name: pair != (_RANGES[name][0],) * 2 for name, pair in ranges.items()}
  active = {name for name in wanted if wanted[name] and shares[name]}
  rand = policy.rand_augment(rand_ops, rand_magnitude, padding=padding,
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
      hidden = _cutout(images, u['cutout_y'], u['cutout_x'], cutout,
                       cutout_fill)
      images = jnp.where(warp.column(chosen['cutout']), hidden, images)
    return jnp.clip(images, -1, 1)
  return apply


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
    dy, dx = (warp.integer(draw, -most, most) for draw, most in
              zip(u, sides(images, share), strict=True))
    return warp.shift(images, dy, dx, 'constant', fill)

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


def _mixup(key, share, images, targets, others, other_targets):
  """share [B] of each image, and the rest of the other; of targets too."""
  del key
  def blend(a, b):
    s = share.astype(a.dtype).reshape(-1, *[1] * (a.ndim - 1))
    return s * a + (1 - s) * b
  return blend(images, others), blend(targets, other_targets)


def _cutmix(key, share, images, targets, others, other_targets):
  """A box of 1 - share from the other; targets by the pixels that are in it."""
  size = [jnp.floor(side * jnp.sqrt(1 - share)).astype(jnp.int32)
          for side in images.shape[1:3]]
  box = warp.box(images, *jax.random.uniform(key, (2, len(images))), size)
  taken = box.mean((1, 2, 3), dtype=targets.dtype)[:, None]
  return (jnp.where(box, others, images),
          (1 - taken) * targets + taken * other_targets)


_MIXES = {'mixup': _mixup, 'cutmix': _cutmix}


def mix(kind: str = '', alpha: float = 1.0, *, where: str = 'arm'):
  """Returns MixUp or CutMix: each image and its target with those of another.

  The share that an image keeps is drawn from Beta(alpha, alpha), for each by
  itself. CutMix replaces a box of the other share, its centre anywhere, and
  what of the box lies outside the image counts for nothing: the target follows
  the exact number of pixels.

  Args:
    kind: 'mixup', 'cutmix', or '' or 'none' for the identity.
    alpha: above 0; small means mostly one of the two, 1 any share alike.
    where: the config path of `mix` and `mix_alpha`, for errors.

  Returns:
    apply(key, images [B, H, W, C], targets [B, K], other_images,
    other_targets) -> (images, targets), of the same shapes and types.

  Raises:
    InputError: an unknown kind, or an alpha that is not above 0.
  """
  errors.one_of(f'{where}.mix', kind, ('', 'none', *_MIXES))
  errors.positive(f'{where}.mix_alpha', alpha)
  if kind not in _MIXES:
    return lambda key, images, targets, others, other_targets: (images, targets)

  def apply(key, images, targets, other_images, other_targets):
    key_share, key_box = jax.random.split(key)
    share = jax.random.beta(key_share, alpha, alpha, (len(images),))
    return _MIXES[kind](key_box, share, images, targets, other_images,
                        other_targets)
  return apply
