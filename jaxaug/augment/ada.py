"""Adaptive discriminator augmentation: the pipeline, and what controls it.

Karras et al. 2020, 'Training Generative Adversarial Networks with Limited
Data', with the operations, ranges and order of appendix B and of the published
StyleGAN2-ADA. Two things differ: the geometry is one bilinear resampling, where
the original works at twice the size between two sym6 wavelet filters, and grey
images know brightness and contrast only, where the original inverts them too.
"""
import math
import typing

import jax
import jax.numpy as jnp

from jaxaug.augment import warp
from jaxaug.core import errors


class _Operation(typing.NamedTuple):
  """group: blit, geometric or colour. kind, size: of its draw."""
  group: str
  kind: str    # 'choice' of 0..size - 1, 'uniform' within, or 'normal'.
  size: float


# Under the published names, in their order; sizes in whole images (xint,
# xfrac), radians (rotate, hue), powers of two (scale, aniso, contrast,
# saturation), and where black to white is 2 (brightness).
OPERATIONS = {
    'xflip': _Operation('b', 'choice', 2),
    'rotate90': _Operation('b', 'choice', 4),
    'xint': _Operation('b', 'uniform', 0.125),
    'scale': _Operation('g', 'normal', 0.2),
    'rotate': _Operation('g', 'uniform', math.pi),
    'aniso': _Operation('g', 'normal', 0.2),
    'xfrac': _Operation('g', 'normal', 0.125),
    'brightness': _Operation('c', 'normal', 0.2),
    'contrast': _Operation('c', 'normal', 0.5),
    'lumaflip': _Operation('c', 'choice', 2),
    'hue': _Operation('c', 'uniform', math.pi),
    'saturation': _Operation('c', 'normal', 1.0),
}


def _named(policy, where) -> set[str]:
  """The operations of a policy."""
  if not isinstance(policy, tuple | list):
    policy = str(policy).split(',')
  names = set()
  for name in (str(name).strip() for name in policy):
    if set(name) <= set('bgc'):
      names |= {n for n, op in OPERATIONS.items() if op.group in name}
    else:
      errors.one_of(where, name, ('b', 'g', 'c', 'bg', 'bgc', *OPERATIONS))
      names.add(name)
  return names


def draw(key, batch: int, p) -> dict[str, jax.Array]:
  """Draws every operation for every image; an image's own 0 leaves it alone.

  Args:
    key: of the draws; those of one operation do not depend on the others.
    batch: number of images.
    p: with what probability each operation is applied, by itself.

  Returns:
    {operation: float32 [2, batch]}, in the units of OPERATIONS. xint and xfrac
    are (down, right), rotate is (before, after) anisotropic scaling, each of
    the two with probability 1 - sqrt(1 - p); of the others the first counts.
  """
  # One call for all: each takes long to compile.
  u, fire = jax.random.uniform(key, (len(OPERATIONS), 2, 2, batch)).swapaxes(
      0, 1)
  draws = {'choice': lambda u, size: jnp.floor(size * u),
           'uniform': lambda u, size: size * (2 * u - 1),
           # Of half a step instead of 0, where it would be infinite.
           'normal': lambda u, size: size * math.sqrt(2) * jax.lax.erf_inv(
               2 * jnp.maximum(u, 2**-24) - 1)}
  values = {}
  for i, (name, (_, kind, size)) in enumerate(OPERATIONS.items()):
    value = draws[kind](u[i], size)
    fires = fire[i, :1] < p
    if name == 'rotate':
      fires = fire[i] < 1 - jnp.sqrt(1 - jnp.minimum(p, 1))
    values[name] = jnp.where(fires, value, 0)
  return values


def _matrix(rows):
  """((a, b), (c, d)) of [B] each -> [2, 2, B]."""
  return jnp.stack([jnp.stack(row) for row in rows])


def _turn(cos, sin):
  """Pulls an image that is turned counter-clockwise."""
  return _matrix(((cos, sin), (-sin, cos)))


def _times(a, b):
  # No dot: an accelerator would round its operands.
  return (a[:, :, None] * b).sum(1)


def _stretch(down, right):
  none = jnp.zeros_like(down)
  return _matrix(((down, none), (none, right)))


def geometry(values, height: int, width: int):
  """Returns the arguments of `warp.resample`: dy, dx [B], matrix [2, 2, B].

  Flip, quarter turns and whole shift come first; then scaling, rotation,
  anisotropic scaling, rotation, and the shift by fractions.

  Args:
    values: see `draw`.
    height, width: in pixels.
  """
  size = jnp.array([[height], [width]], jnp.float32)
  # An exact quarter turn: i in 0, 1, 2, 3 -> cosine 1, 0, -1, 0.
  quarter = values['rotate90'][0]
  quarter = _turn(jnp.abs(quarter - 2) - 1, 1 - jnp.abs(quarter - 1))
  flip = 1 - 2 * values['xflip'][0]
  blit = _times(_stretch(jnp.ones_like(flip), flip), quarter)
  scale, aniso = values['scale'][0], values['aniso'][0]
  before, after = (_turn(jnp.cos(angle), jnp.sin(angle))
                   for angle in values['rotate'])
  pull = _times(_times(before, _stretch(jnp.exp2(aniso - scale),
                                        jnp.exp2(-aniso - scale))), after)
  push = _times(after.swapaxes(0, 1), _times(_stretch(
      jnp.exp2(scale - aniso), jnp.exp2(scale + aniso)), before.swapaxes(0, 1)))
  # The whole shift precedes what `push` does; resample shifts last.
  whole = jnp.round(values['xint'] * size)
  dy, dx = _times(push, whole[:, None])[:, 0] + values['xfrac'] * size
  return dy, dx, _times(blit, pull)


def colour(images, values):
  """Brightness, contrast, luma flip, hue and saturation as one affine map.

  The original's 4x4 matrices in closed form: with m the mean of red, green and
  blue, luma flip turns the sign of m, hue rotates about it and saturation
  scales what is left.

  Args:
    images: float [B, H, W, C]; without C = 3, brightness and contrast only.
    values: see `draw`.
  """
  added, contrast, flip, hue, saturation = (
      warp.column(values[name][0]) for name in
      ('brightness', 'contrast', 'lumaflip', 'hue', 'saturation'))
  contrast = jnp.exp2(contrast)
  if images.shape[3] != 3:
    return (contrast * (images + added)).astype(images.dtype)
  luma, radius = contrast * (1 - 2 * flip), contrast * jnp.exp2(saturation)
  cos, sin = radius * jnp.cos(hue), radius * jnp.sin(hue) / math.sqrt(3)
  rgb = [images[..., i:i + 1].astype(jnp.float32) for i in range(3)]
  grey = (luma - cos) * (sum(rgb) / 3) + luma * added
  return jnp.concatenate(
      [cos * rgb[i] + sin * (rgb[i - 1] - rgb[i - 2]) + grey
       for i in range(3)], 3).astype(images.dtype)


def pipeline(policy='bgc', *, where: str = 'ada'):
  """Returns the augmentation of everything that the discriminator sees.

  Differentiable with respect to the images, and not clipped. What a warp pulls
  from outside is the image mirrored about its last pixel.

  Args:
    policy: groups of operations, 'b' for blit (flips, quarter turns, whole
      shifts), 'g' for geometric and 'c' for colour; or names of OPERATIONS
      joined by commas, or a sequence of names. Their order is that of
      OPERATIONS; empty for the identity.
    where: the config path of the policy, for errors.

  Returns:
    apply(key, images [B, H, W, C], p) -> the same shape and type; p is the
    probability of each operation, and may be traced. An image that is drawn no
    operation is returned as it was; quarter turns are for square images only,
    the last three colours for RGB only.

  Raises:
    InputError: an unknown name.
  """
  names = _named(policy, where)
  groups = {OPERATIONS[name].group for name in names}

  def apply(key, images, p):
    batch, height, width, _ = images.shape
    chosen = names - ({'rotate90'} if height != width else set())
    values = {name: value if name in chosen else jnp.zeros_like(value)
              for name, value in draw(key, batch, p).items()}
    if groups & {'b', 'g'}:
      images = warp.resample(images, *geometry(values, height, width),
                             'reflect', 0.0, nearest='g' not in groups)
    return colour(images, values) if 'c' in groups else images
  return apply


class Controller(typing.NamedTuple):
  """How strongly to augment, and the signs of real scores since p last moved.

  All float32 []: p from 0 to 1, the sum of the signs, and their number.
  """
  p: jax.Array
  sign_sum: jax.Array
  count: jax.Array


def start(p: float = 0.0) -> Controller:
  """Returns a controller that has seen nothing."""
  return Controller(*map(jnp.float32, (p, 0, 0)))


def observe(controller: Controller, real_scores) -> Controller:
  """Counts the signs of D's scores [B] of augmented real images.

  Scores are measured from the loss's threshold, see `losses.Adversarial`.
  """
  signs = jnp.sign(real_scores.astype(jnp.float32))
  return controller._replace(sign_sum=controller.sign_sum + signs.sum(),
                             count=controller.count + signs.size)


def adjust(controller: Controller, batch: int, target: float = 0.6,
           every: int = 4, images: int = 500_000) -> Controller:
  """Moves p after `every` updates of D, and else nothing.

  Up where the mean sign of real scores is above `target`, for D then knows the
  real images; down where it is below. To be called after each update of D.

  Args:
    controller: has observed `batch` scores for each update.
    batch: real images in one update.
    target: of the mean sign, -1 to 1.
    every: updates of D between two moves.
    images: how many real images take p from 0 to 1.
  """
  p, total, count = controller
  step = jnp.sign(total / jnp.maximum(count, 1) - target) * (
      batch * every / images)
  moved = Controller(jnp.clip(p + step, 0, 1), jnp.zeros_like(total),
                     jnp.zeros_like(count))
  due = count >= batch * every
  return jax.tree.map(lambda new, old: jnp.where(due, new, old), moved,
                      controller)
