"""Image resizing on the device, as a matrix product along each side.

The rules are those of FID's implementations: TensorFlow 1.x as torch-fidelity
repeats it, PyTorch as in pytorch-fid, and Pillow's antialiased kernels as in
clean-fid (Parmar et al. 2022). `by_factor` is MATLAB's imresize, by which
SinGAN (Shaham et al. 2019) goes from level to level.
"""
import functools
import math

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxaug.core import errors


def resize(images, size: tuple[int, int], rule: str):
  """Resizes images that all have one size.

  Each rule in words, where scale is the old side by the new one:

  | rule         | place in the old image      | weights                       |
  |--------------|-----------------------------|-------------------------------|
  | 'tf1'        | i scale                     | two nearest, linear           |
  | 'pytorch'    | (i + 0.5) scale - 0.5       | two nearest, linear           |
  | 'bilinear_aa'| the same, as Pillow         | triangle, widened to shrink   |
  | 'clean'      | the same, as clean-fid      | cubic a=-0.5, widened, cut to |
  |              |                             | 0..255, not rounded           |

  Args:
    images: uint8 or float32 [B, H, W, C], 0 to 255.
    size: height and width of the results.
    rule: one of the table's; 'area' is another name of 'bilinear_aa'.

  Returns:
    float32 [B, *size, C].

  Raises:
    InputError: there is no such rule.
  """
  errors.one_of('resize', rule, tuple(_MATRICES))
  x = jnp.asarray(images, jnp.float32)
  rows, columns = (_MATRICES[rule](old, new) for old, new in
                   zip(x.shape[1:3], size, strict=True))
  exact = dict(precision=lax.Precision.HIGHEST)
  if columns is not None:
    x = jnp.einsum('bhwc,vw->bhvc', x, columns, **exact)
  if rows is not None:
    x = jnp.einsum('bhwc,uh->buwc', x, rows, **exact)
  return jnp.clip(x, 0, 255) if rule == 'clean' else x


def _matrix(make):
  """Of (old, new) sides: float32 [new, old], None where nothing changes."""
  @functools.cache
  def matrix(old: int, new: int):
    return None if old == new else make(old, new).astype(np.float32)
  return matrix


def _between(places, old):
  """Weights [new, old] of the two pixels beside each of `places`."""
  low = np.clip(np.floor(places).astype(int), 0, old - 1)
  share = np.clip(places - low, 0, 1)
  eye = np.eye(old)
  return (eye[low] * (1 - share)[:, None]
          + eye[np.minimum(low + 1, old - 1)] * share[:, None])


@_matrix
def _tf1(old, new):
  # TensorFlow computes the places in float32.
  places = np.arange(new, dtype=np.float32) * np.float32(old / new)
  return _between(places.astype(np.float64), old)


@_matrix
def _pytorch(old, new):
  return _between((np.arange(new) + 0.5) * (old / new) - 0.5, old)


def _widened(kernel, support, old, new):
  """Pillow's rule: the kernel covers as many old pixels as one new one."""
  scale = old / new
  wide = max(scale, 1.0)
  centres = (np.arange(new)[:, None] + 0.5) * scale
  first = np.maximum(np.floor(centres - support * wide + 0.5), 0)
  last = np.minimum(np.floor(centres + support * wide + 0.5), old)
  pixels = np.arange(old)
  weights = kernel((pixels + 0.5 - centres) / wide)
  weights = np.where((pixels >= first) & (pixels < last), weights, 0)
  return weights / weights.sum(1, keepdims=True)


@_matrix
def _triangle(old, new):
  return _widened(lambda x: np.maximum(1 - np.abs(x), 0), 1, old, new)


def _keys(x, a=-0.5):
  """The cubic kernel of Keys 1981."""
  x = np.abs(x)
  near = ((a + 2) * x - (a + 3)) * x * x + 1
  far = (((x - 5) * x + 8) * x - 4) * a
  return np.where(x < 1, near, np.where(x < 2, far, 0))


@_matrix
def _cubic(old, new):
  return _widened(_keys, 2, old, new)


_MATRICES = {'tf1': _tf1, 'pytorch': _pytorch, 'clean': _cubic,
             'bilinear_aa': _triangle, 'area': _triangle}


@functools.cache
def _mirrored(old: int, factor: float) -> np.ndarray:
  """MATLAB's rule, float32 [new, old]: places by the factor itself, whatever
  the rounded sides say, and what lies beyond an edge mirrored at it."""
  new, narrow = math.ceil(old * factor), min(factor, 1.0)
  places = (np.arange(new) + 0.5)[:, None] / factor - 0.5
  reach = math.ceil(2 / narrow) + 1
  pixels = np.floor(places).astype(int) + np.arange(-reach, reach + 2)
  weights = _keys((places - pixels) * narrow)
  weights /= weights.sum(1, keepdims=True)
  pixels %= 2 * old
  pixels = np.minimum(pixels, 2 * old - 1 - pixels)
  out = np.zeros((new, old))
  np.add.at(out, (np.arange(new)[:, None], pixels), weights)
  return out.astype(np.float32)


def by_factor(images, factor: float):
  """Resizes by MATLAB's imresize: cubic, antialiased where it shrinks.

  Args:
    images: float [B, H, W, C], of any range, which is not cut.
    factor: above 0.

  Returns:
    float32 [B, ceil(factor H), ceil(factor W), C].

  Raises:
    InputError: no such factor.
  """
  errors.positive('factor', factor)
  x = jnp.asarray(images, jnp.float32)
  rows, columns = (_mirrored(old, factor) for old in x.shape[1:3])
  return jnp.einsum('bhwc,uh,vw->buvc', x, rows, columns,
                    precision=lax.Precision.HIGHEST)
