"""MS-SSIM between random images of a class: how alike they are, 1 the same.

Odena et al. 2017, "Conditional image synthesis with auxiliary classifier GANs",
section 4.2: the measure of collapsed classes, beside that of real images. Wang
et al. 2003, "Multi-scale structural similarity for image quality assessment":
five scales and their weights, an 11x11 Gaussian window of sigma 1.5. Images
under 161 pixels have fewer scales (two at 32), whose weights are divided by
their sum: compare images of one size only.
"""
import jax
import jax.numpy as jnp
import numpy as np

from jaxaug.core import errors, randomness, types
from jaxaug.evaluation import checks

NEEDS = ('images', 'labels')
VALUES = {
    'ms_ssim': types.Number('MS-SSIM of images of a class', '', True),
    'ms_ssim_real': types.Number('MS-SSIM of real images of a class', '', None)}
_WEIGHTS = (.0448, .2856, .3001, .2363, .1333)
_WINDOW, _SIGMA = 11, 1.5
_LUMINANCE, _CONTRAST = (.01 * 255)**2, (.03 * 255)**2
_NUMBERS = 2**21  # Pixels at a time.


def compute(real: types.ImageSet, fake: types.ImageSet, *, pairs: int = 100,
            seed: int = 0) -> dict[str, types.Measured]:
  """Returns mean and population standard deviation over the classes.

  Without labels on both sides, all images are one class.

  Args:
    real, fake: the images, at least 2 a class and of one size.
    pairs: of different images that are drawn in each class.
    seed: of the draw.

  Raises:
    InputError: a senseless number, a class with fewer than 2 images on a side,
      or images of different sizes or less than 11 pixels a side.
  """
  errors.count('ms_ssim.pairs', pairs)
  errors.count('ms_ssim.seed', seed, 0)
  x, y = checks.images('ms_ssim', real, fake, 2)
  if min(x.shape[1:3]) < _WINDOW:
    raise errors.InputError(
        f'ms_ssim: images of {x.shape[1]}x{x.shape[2]} pixels; expected at '
        f'least {_WINDOW} a side.')
  labels = checks.labels('ms_ssim', real, fake, (len(x), len(y)), needed=False)
  rows = checks.classes('ms_ssim', *labels, 2)
  out = {}
  for name, images, side in (('ms_ssim', y, 1), ('ms_ssim_real', x, 0)):
    each = [_mean(images, r[side], pairs, seed) for r in rows]
    out[name] = types.Measured(
        float(np.mean(each)), float(np.std(each)) if len(each) > 1 else None,
        len(each), 'classes')
  return out


def _mean(images, rows, pairs, seed):
  """The mean over random pairs of different images."""
  random = randomness.generator(seed)
  first = random.integers(len(rows), size=pairs)
  second = (first + random.integers(1, len(rows), size=pairs)) % len(rows)
  return similarity(images, rows[first], rows[second]).mean()


def similarity(images: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Returns float64 [P], the MS-SSIM of images [N, H, W, C] `a` with `b`.

  images: uint8, 11 pixels a side or more. a, b: int [P].
  """
  size = max(1, min(len(a), _NUMBERS // images[0].size))
  spare = -len(a) % size
  a, b = (np.concatenate((x, np.zeros(spare, x.dtype))) for x in (a, b))
  with jax.enable_x64(True):
    out = [np.asarray(_similarity(images[a[i:i + size]], images[b[i:i + size]]))
           for i in range(0, len(a), size)]
  return np.concatenate(out)[:len(a) - spare]


@jax.jit
def _similarity(x, y):
  """MS-SSIM [P] of images [P, H, W, C], each channel on its own."""
  count = len(x)
  x, y = (jnp.moveaxis(z, 3, 1).reshape(-1, *z.shape[1:3]).astype(jnp.float64)
          for z in (x, y))
  parts = []
  while len(parts) < len(_WEIGHTS) and min(x.shape[1:]) >= _WINDOW:
    whole, structure = _compare(x, y)
    parts.append(structure)
    x, y = _halve(x), _halve(y)
  parts[-1] = whole  # Luminance counts in the coarsest scale only.
  weights = np.asarray(_WEIGHTS[:len(parts)])
  weights /= weights.sum()
  parts = jnp.maximum(jnp.stack(parts), 0)  # A negative one has no power.
  return (parts ** weights[:, None]).prod(0).reshape(count, -1).mean(1)


def _compare(x, y):
  """(SSIM, its contrast and structure alone), means [B] over images [B, H, W].
  """
  mean_x, mean_y, both, product = map(_blur, (x, y, x * x + y * y, x * y))
  squares = mean_x**2 + mean_y**2
  luminance = (2 * mean_x * mean_y + _LUMINANCE) / (squares + _LUMINANCE)
  structure = ((2 * (product - mean_x * mean_y) + _CONTRAST)
               / (both - squares + _CONTRAST))
  return (luminance * structure).mean((1, 2)), structure.mean((1, 2))


def _blur(x):
  """Means [B, H - 10, W - 10] over the Gaussian windows inside the image."""
  window = np.exp(-.5 * ((np.arange(_WINDOW) - _WINDOW // 2) / _SIGMA)**2)
  window /= window.sum()
  x = x[..., None]
  for shape in ((_WINDOW, 1, 1, 1), (1, _WINDOW, 1, 1)):
    x = jax.lax.conv_general_dilated(
        x, jnp.asarray(window.reshape(shape), x.dtype), (1, 1), 'VALID',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  return x[..., 0]


def _halve(x):
  """Means of 2 x 2 pixels; an odd last row or column is doubled."""
  x = jnp.pad(x, ((0, 0), *((0, s % 2) for s in x.shape[1:])), mode='edge')
  return x.reshape(len(x), x.shape[1] // 2, 2, -1, 2).mean((2, 4))
