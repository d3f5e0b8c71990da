"""RandAugment: some of fourteen operations, drawn for each image by itself.

Cubuk et al. 2020, 'RandAugment: Practical Automated Data Augmentation with a
Reduced Search Space', with the ranges of Cubuk et al. 2019, 'AutoAugment',
table 6: linear, from no change at a magnitude of 0 to the far end at 30, and
to either side where there are two. Autocontrast and equalize have no magnitude.

Levels are float32 [B, H, W, C], whole numbers from 0 to 255. The whole batch
goes through every operation: those on single levels have a neutral setting,
so that they are one pass, and no image needs a branch of its own.
"""
import functools

import jax
import jax.numpy as jnp

from jaxaug.augment import warp

OPS = ('identity', 'autocontrast', 'equalize', 'rotate', 'solarize', 'color',
       'posterize', 'contrast', 'brightness', 'sharpness', 'shear_x',
       'shear_y', 'translate_x', 'translate_y')
_MOVES = ('rotate', 'shear_x', 'shear_y', 'translate_x', 'translate_y')
MOST = 30  # The largest magnitude.

# What that is: degrees, pixels for a pixel, share of a side, change of the
# factor, bits.
_ROTATE, _SHEAR, _TRANSLATE, _ENHANCE, _BITS = 30.0, 0.3, 150 / 331, 0.9, 4


def _geometry(levels, chosen, strength, padding, fill):
  """Rotates about the centre, shears about the top left corner, translates."""
  height, width = levels.shape[1:3]
  def setting(name, value, neutral=0.0):
    return jnp.where(chosen[name], value, neutral)
  angle = setting('rotate', jnp.radians(_ROTATE) * strength)
  shear_x = setting('shear_x', _SHEAR * strength)
  shear_y = setting('shear_y', _SHEAR * strength)
  dx = setting('translate_x', _TRANSLATE * width * strength,
               -shear_x * height / 2)
  dy = setting('translate_y', _TRANSLATE * height * strength,
               -shear_y * width / 2)
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  # The nearest pixel, as published; and the levels stay whole.
  return warp.resample(levels, dy, dx, ((cos, sin + shear_y),
                                        (shear_x - sin, cos)),
                       padding, fill, nearest=True)


def _equalize(levels):
  """Levels by rank, channel by channel."""
  batch, height, width, channels = levels.shape
  index = jnp.moveaxis(levels.astype(jnp.int32), 3, 1).reshape(
      batch, channels, -1)
  # A scatter of counts; sorting is a hundred times slower on a CPU.
  count = jax.vmap(jax.vmap(lambda row: jnp.zeros(256).at[row].add(
      1, mode='promise_in_bounds')))(index)
  below = jnp.cumsum(count, 2) - count
  # What is darker than the brightest level that occurs, in 255 equal steps.
  step = jnp.floor(jnp.where(count > 0, below, 0).max(2, keepdims=True) / 255)
  rank = jnp.take_along_axis(below, index, 2, mode='promise_in_bounds')
  new = jnp.floor((jnp.floor(step / 2) + rank) / jnp.maximum(step, 1))
  new = jnp.where(step > 0, jnp.minimum(new, 255), index)
  return jnp.moveaxis(new.reshape(batch, channels, height, width), 1, 3)


def _luma(levels):
  """Grey levels [B, H, W, 1] by ITU-R 601-2, in 16 bits as Pillow's."""
  if levels.shape[3] == 1:
    return levels
  red, green, blue = (levels[..., i:i + 1] for i in range(3))
  # Below 2**24, so that float32 is exact.
  return jnp.floor((19595 * red + 38470 * green + 7471 * blue + 32768) / 65536)


def _smooth(levels):
  """The mean of 3x3 with a centre of 5 in 13; the border stays."""
  height, width = levels.shape[1:3]
  wide = jnp.pad(levels, ((0, 0), (1, 1), (1, 1), (0, 0)), 'edge')
  rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
  box = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
  row, column = jnp.arange(height)[:, None], jnp.arange(width)
  inner = ((row > 0) & (row < height - 1)
           & (column > 0) & (column < width - 1))[:, :, None]
  return jnp.where(inner, jnp.floor((box + 4 * levels) / 13 + 0.5), levels)


def _tones(levels, chosen, strength):
  """All that keeps each pixel in its place, but equalize, in one pass."""
  low = levels.min((1, 2), keepdims=True)
  high = levels.max((1, 2), keepdims=True)
  stretch = chosen['autocontrast'] & (high > low)
  low, high = jnp.where(stretch, low, 0), jnp.where(stretch, high, 255)
  out = jnp.floor((levels - low) * 255 / (high - low))

  luma = _luma(levels)
  base, factor = 0.0, 1.0
  for name, towards in (
      ('brightness', 0.0),
      ('contrast', jnp.floor(luma.mean((1, 2, 3), keepdims=True) + 0.5)),
      ('color', luma), ('sharpness', _smooth(levels))):
    base = jnp.where(chosen[name], towards, base)
    factor = jnp.where(chosen[name], 1 + _ENHANCE * strength, factor)
  out = jnp.floor(jnp.clip(base + factor * (out - base), 0, 255))

  size = jnp.abs(strength)
  bits = jnp.round(_BITS * size).astype(jnp.int32)
  unit = jnp.left_shift(1, jnp.where(chosen['posterize'], bits, 0))
  out = jnp.floor(out / unit) * unit
  limit = jnp.where(chosen['solarize'], 256 * (1 - size), 256)
  return jnp.where(out < limit, out, 255 - out)


def operate(levels, operation, strength, *, padding: str = 'constant',
            fill: float = 0.0):
  """Applies to each image the operation that is its own.

  Args:
    levels: float32 [B, H, W, C], whole numbers from 0 to 255.
    operation: int [B], places in OPS.
    strength: float32 [B], from -1 to 1: the share of the range, and for those
      that have two sides (rotate, shear, translate; color, contrast,
      brightness, sharpness) the side.
    padding, fill: what lies outside, as in warp; `fill` is a level.

  Returns:
    Levels of the same shape.
  """
  chosen = {name: operation == i for i, name in enumerate(OPS)}
  moved = _geometry(levels, chosen, strength, padding, fill)
  chosen, strength = jax.tree.map(warp.column, (chosen, strength))
  out = _tones(levels, chosen, strength)
  out = jnp.where(chosen['equalize'], _equalize(levels), out)
  moves = functools.reduce(jnp.logical_or, [chosen[name] for name in _MOVES])
  return jnp.where(moves, moved, out)


def make(ops: int, magnitude: float, *, padding: str = 'constant',
                 fill: float = -1.0):
  """Returns RandAugment: `ops` operations, one after the other.

  Each image draws its operations, with replacement, and their signs.

  Args:
    ops: how many.
    magnitude: from 0 to 30, the same for all of them.
    padding, fill: what lies outside, as in warp.

  Returns:
    apply(key, images [B, H, W, C] in [-1, 1]) -> the same shape and type,
    rounded to the levels of uint8.
  """
  outside = round((fill + 1) * 127.5)

  def layer(levels, uniform):
    strength = jnp.where(uniform[1] < 0.5, -1.0, 1.0) * (magnitude / MOST)
    return operate(levels, warp.integer(uniform[0], 0, len(OPS) - 1), strength,
                   padding=padding, fill=outside), None

  def apply(key, images):
    levels = jnp.round(jnp.clip(
        (images.astype(jnp.float32) + 1) * 127.5, 0, 255))
    uniform = jax.random.uniform(key, (ops, 2, images.shape[0]))
    # A loop, so that each layer's input is made once and not in every use.
    levels, _ = jax.lax.scan(layer, levels, uniform)
    return (levels / 127.5 - 1).astype(images.dtype)
  return apply
