"""A wavelet scattering network: features by a formula, without weights.

Bruna and Mallat 2013, "Invariant Scattering Convolution Networks", section 2,
with Morlet wavelets. A path is an image convolved with none to two wavelets,
the modulus taken after each, then averaged. Widths, frequencies, padding and
the order of the paths are those of the package kymatio (Andreux et al. 2020).
"""
import functools
import math
import typing

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxaug.core import errors, types
from jaxaug.nn import layers
from jaxaug.nn import resize as resizing

# Width of the finest wavelet in pixels, and its frequency.
_SIGMA, _XI = 0.8, 3 * math.pi / 4


class _Filters(typing.NamedTuple):
  """What images of one size need, after r halvings of their sides too.

  psi: psi[j, r] float32 [L, H / 2^r, W / 2^r], the spectra of scale j.
  low: low[r] = (rows [h, H / 2^r], columns [w, W / 2^r]) float32: matrices
    that average, keep every 2^(J - r)-th pixel and drop the padding.
  """
  psi: dict
  low: list


def _periodic(function, height, width):
  """Sums function(rows, columns) over the periods of [height, width]."""
  return sum(function(np.arange(height)[:, None] + i * height,
                      np.arange(width) + j * width)
             for i in range(-2, 3) for j in range(-2, 3))


def _morlet(height, width, j, angle, slant):
  """Returns the spectrum float64 [H, W] of a wave under a Gaussian, mean zero.

  The wave runs in the direction `angle`; across it the Gaussian is 1 / slant
  times as wide.
  """
  sigma, xi = _SIGMA * 2**j, _XI / 2**j
  def wave(frequency):
    def at(y, x):
      along = y * math.cos(angle) + x * math.sin(angle)
      across = x * math.cos(angle) - y * math.sin(angle)
      return np.exp(-(along**2 + (slant * across)**2) / (2 * sigma**2)
                    + 1j * frequency * along)
    return _periodic(at, height, width) * slant / (2 * math.pi * sigma**2)
  psi, envelope = wave(xi), wave(0)
  return np.fft.fft2(psi - psi.sum() / envelope.sum() * envelope).real


def _coarse(spectrum, halvings):
  """Drops what 2^halvings times fewer values cannot hold, of the last axis."""
  n = spectrum.shape[-1]
  half, wave = n / 2**(halvings + 1), np.fft.fftfreq(n, 1 / n)
  kept = spectrum * ((-half <= wave) & (wave < half))
  return kept.reshape(*spectrum.shape[:-1], 2**halvings, -1).sum(-2)


def _low(size, scales, halvings):
  """Returns one axis of _Filters.low; `size` is that of the padded images."""
  sigma, step = _SIGMA * 2**(scales - 1), 2**(scales - halvings)
  x = np.arange(size) + size * np.arange(-2, 3)[:, None]
  gauss = np.exp(-x**2 / (2 * sigma**2)).sum(0)
  gauss = np.fft.ifft(_coarse(np.fft.fft(gauss / gauss.sum()), halvings)).real
  kept = np.arange(step, len(gauss) - step, step)
  return np.float32(gauss[kept[:, None] - np.arange(len(gauss))])


@functools.cache
def _filters(height, width, scales, orientations):
  """Returns the _Filters of images padded to [height, width]."""
  psi = {}
  for j in range(scales):
    all_angles = np.stack([
        _morlet(height, width, j, (orientations // 2 - 1 - i) * math.pi
                / orientations, 4 / orientations) for i in range(orientations)])
    for r in range(j) or (0,):
      part = _coarse(all_angles.swapaxes(1, 2), r).swapaxes(1, 2)
      psi[j, r] = np.float32(_coarse(part, r))
  low = [(_low(height, scales, r), _low(width, scales, r))
         for r in range(scales)]
  return _Filters(psi, low)


def _modulus(spectrum, psi, halvings):
  """|x * psi| at every 2^halvings-th pixel: [..., H, W] -> [..., L, h, w]."""
  step, height, width = 2**halvings, *(n >> halvings for n in psi.shape[1:])
  folded = sum(spectrum[..., None, y:y + height, x:x + width]
               * psi[:, y:y + height, x:x + width]
               for y in range(0, step * height, height)
               for x in range(0, step * width, width))
  return jnp.abs(jnp.fft.ifft2(folded / step**2))


def paths(images, scales: int = 2, orientations: int = 8):
  """Returns P = 1 + L J + L^2 J (J - 1) / 2 averaged paths of each channel.

  Args:
    images: float32 [B, H, W, C]; H and W are multiples of 2^J, and above it.
    scales: J, octaves of wavelets.
    orientations: L, wavelets in a half turn.

  Returns:
    float32 [B, C, P, H / 2^J, W / 2^J]; path 0 is the average, the next L J are
    of one wavelet, finest first, the others of two.
  """
  pad = 2**scales
  x = jnp.pad(images.transpose(0, 3, 1, 2), ((0, 0),) * 2 + ((pad, pad),) * 2,
              mode='reflect')
  psi, low = _filters(*x.shape[2:], scales, orientations)
  def average(x, halvings):
    rows, columns = low[halvings]
    return jnp.einsum('yi,...ij,xj->...yx', rows, x, columns,
                      precision=lax.Precision.HIGHEST)
  first, second = [average(x, 0)[:, :, None]], []
  spectrum = jnp.fft.fft2(x)
  for j in range(scales):
    u = _modulus(spectrum, psi[j, 0], j)
    first.append(average(u, j))
    again = [average(_modulus(jnp.fft.fft2(u), psi[k, j], k - j), k)
             for k in range(j + 1, scales)]
    if again:
      again = jnp.concatenate(again, 3)
      second.append(again.reshape(*again.shape[:2], -1, *again.shape[-2:]))
  return jnp.concatenate(first + second, 2)


def build(*, side: int = 32, scales: int = 2, orientations: int = 8,
          grid: int = 2, resize: str = 'bilinear_aa') -> types.Extractor:
  """Returns the network; 324 features of grey images, 972 of RGB ones.

  A feature is the square root of a path's mean over a cell of the image; 1e-4
  is added first, so that an empty cell's rounding stays small.

  Args:
    side: images, of 0 to 1, are first resized to so many pixels each way.
    scales, orientations: see `paths`.
    grid: cells each way; a divisor of side / 2^scales.
    resize: 'bilinear_aa' or 'clean', see resize.resize.
  """
  for name, value in (('side', side), ('scales', scales),
                      ('orientations', orientations), ('grid', grid)):
    errors.count(name, value)
  errors.one_of('resize', resize, ('bilinear_aa', 'clean'))
  if side % 2**scales or side <= 2**scales:
    raise errors.InputError(
        f'side: {side}; expected a multiple of {2**scales}, of at least '
        f'{2**(scales + 1)}.')
  if side // 2**scales % grid:
    raise errors.InputError(
        f'grid: {grid}; expected a divisor of {side // 2**scales}.')

  def network(images):
    x = resizing.resize(images, (side, side), resize) / 255
    x = paths(x, scales, orientations)
    cell = side // 2**scales // grid
    x = x.reshape(*x.shape[:3], grid, cell, grid, cell).mean((-3, -1))
    return jnp.sqrt(jnp.abs(x) + 1e-4).reshape(len(images), -1)

  def apply(variables, images):
    del variables
    return {'features': layers.each(network, images, 8)}

  how = {'bilinear_aa': 'antialiased bilinear', 'clean': 'clean bicubic'}
  return types.Extractor(
      'scattering', apply, {}, channels=0,
      protocol=f'{how[resize]} to {side}x{side}, of 0 to 1; {scales} scales, '
      f'{orientations} orientations, roots of means in {grid}x{grid} cells')
