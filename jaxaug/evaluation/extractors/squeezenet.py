"""SqueezeNet 1.1 of ImageNet (Iandola et al. 2016 and its second release).

The weights are torchvision's, or Keras' without the last layer; each network
sees images as it did in its training.
"""
import functools

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxaug.core import errors, types
from jaxaug.nn import layers, pretrained, resize
from jaxaug.nn.cpu import convolution

_PUBLISHED = pretrained.Published(
    'squeezenet1_1-b8a52dc0.pth', 'b8a52dc0',
    'https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth')
# Fire module -> its channels, squeezed and expanded, and torchvision's number.
_FIRES = {2: (16, 64, 3), 3: (16, 64, 4), 4: (32, 128, 6), 5: (32, 128, 7),
          6: (48, 192, 9), 7: (48, 192, 10), 8: (64, 256, 11), 9: (64, 256, 12)}
_POOLED = (3, 5)  # A pool follows these, and the first convolution.
# Keras', of BGR in [0, 255].
_MEAN_BGR = (103.939, 116.779, 123.68)


def _shapes() -> dict:
  """Returns layer -> (what torchvision calls it, shape of its kernel)."""
  shapes, wide = {'conv1': ('features.0', (3, 3, 3, 64))}, 64
  for i, (squeezed, expanded, number) in _FIRES.items():
    for part, shape in (('squeeze1x1', (1, 1, wide, squeezed)),
                        ('expand1x1', (1, 1, squeezed, expanded)),
                        ('expand3x3', (3, 3, squeezed, expanded))):
      named = part.replace('squeeze1x1', 'squeeze')
      shapes[f'fire{i}/{part}'] = f'features.{number}.{named}', shape
    wide = 2 * expanded
  return shapes


def _read(file) -> tuple[dict, bool]:
  """Returns (layer -> (kernel [h, w, I, O], bias [O]), whether torchvision's).
  """
  arrays, shapes = pretrained.read(file), _shapes()
  torch = 'features.0.weight' in arrays
  if torch:
    shapes['classifier'] = 'classifier.1', (1, 1, 512, 1000)
  def take(name, shape):
    return np.float32(
        pretrained.take(arrays, name, shape, file, 'SqueezeNet 1.1'))

  params = {}
  for layer, (name, shape) in shapes.items():
    if torch:
      kernel = take(f'{name}.weight', (*shape[:1:-1], *shape[:2]))
      params[layer] = kernel.transpose(2, 3, 1, 0), take(f'{name}.bias',
                                                         shape[-1:])
    else:
      params[layer] = (take(f'{layer}/kernel', shape),
                       take(f'{layer}/bias', shape[-1:]))
  return params, torch


def _conv(x, params, stride=1, pad=0):
  kernel, bias = params
  x = convolution.conv_general_dilated(
      x, kernel, (stride,) * 2, ((pad, pad),) * 2,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  return jnp.maximum(x + bias, 0)


def _max_pool(x, ceil):
  """Largest of 3x3 values, 2 apart; `ceil` keeps a last window of fewer.

  The values are not negative, so zeros may fill it.
  """
  for axis in (1, 2):
    n = x.shape[axis]
    count = (n - 3 + ceil) // 2 + 1
    pads = [(0, 0, 0)] * 4
    pads[axis] = (0, 2 * count + 1 - n, 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), pads)
    x = functools.reduce(jnp.maximum, (
        lax.slice_in_dim(x, i, i + 2 * count - 1, 2, axis) for i in range(3)))
  return x


def _network(params, x, ceil):
  """Normalised images [B, H, W, 3] -> the last map, [B, h, w, 512]."""
  x = _max_pool(_conv(x, params['conv1'], 2), ceil)
  for i in _FIRES:
    x = _conv(x, params[f'fire{i}/squeeze1x1'])
    x = jnp.concatenate([_conv(x, params[f'fire{i}/expand1x1']),
                         _conv(x, params[f'fire{i}/expand3x3'], pad=1)], 3)
    if i in _POOLED:
      x = _max_pool(x, ceil)
  return x


def build(*, weights: str = '', side: int = 160,
          download: bool = True) -> types.Extractor:
  """Returns the 512 means of the last map; 1000 logits with torchvision's file.

  Args:
    weights: torchvision's .pth file, or an .npz of Keras' names (conv1/kernel,
      fire2/squeeze1x1/kernel, ...); '' finds or fetches torchvision's.
    side: images are resized to so many pixels each way; at 224, as in the
      training, features tell a little more and cost twice as much.
    download: whether it may be fetched.

  Raises:
    InputError: no such file and none to fetch, or one of another network.
  """
  errors.count('side', side, least=32)
  errors.one_of('download', download, (True, False))
  file = pretrained.find(_PUBLISHED, weights, download=download,
                         standins=pretrained.STANDINS)
  params, torch = _read(file)

  def apply(variables, images):
    x = resize.resize(images, (side, side), 'clean')
    if torch:
      x = layers.by_imagenet(x / 255)
    else:
      x = x[..., ::-1] - jnp.array(_MEAN_BGR)
    x = _network(variables, x, torch)
    out = {'features': x.mean((1, 2))}
    if torch:
      out['logits'] = _conv(x, variables['classifier']).mean((1, 2))
    return out

  how = 'RGB by mean and deviation' if torch else 'BGR less the mean'
  return types.Extractor(
      'squeezenet', apply, params, pretrained.digest(file),
      f'clean bicubic to {side}x{side}, {how}; means of the last map')
