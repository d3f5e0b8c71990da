"""VGG-19 of ImageNet (Simonyan and Zisserman 2015, table 1, column E).

The weights are torchvision's or Keras'; each network sees images as it did in
its training.
"""
import jax.numpy as jnp
import numpy as np

from jaxaug.core import errors, types
from jaxaug.nn import layers, pretrained, resize
from jaxaug.nn.cpu import convolution

_PUBLISHED = pretrained.Published(
    'vgg19-dcbb9e9d.pth', 'dcbb9e9d',
    'https://download.pytorch.org/models/vgg19-dcbb9e9d.pth')
# Channels and convolutions of the five blocks; a pool ends each.
_BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
# Dense layers by Keras' names, torchvision's number and size.
_TOP = {'fc1': (0, 7 * 7 * 512, 4096), 'fc2': (3, 4096, 4096),
        'predictions': (6, 4096, 1000)}
# Keras', of BGR in [0, 255].
_MEAN_BGR = (103.939, 116.779, 123.68)


def _layers(top: bool) -> dict:
  """Returns Keras' name -> (torchvision's, shape of the kernel)."""
  found, at, wide = {}, 0, 3
  for block, (channels, n) in enumerate(_BLOCKS, 1):
    for i in range(1, n + 1):
      found[f'block{block}_conv{i}'] = f'features.{at}', (3, 3, wide, channels)
      at, wide = at + 2, channels
    at += 1
  if top:
    found |= {name: (f'classifier.{at}', shape)
              for name, (at, *shape) in _TOP.items()}
  return found


def _read(file, top: bool) -> tuple[dict, bool]:
  """Returns (layer -> (kernel, bias), whether the file is torchvision's).

  Without `top` the dense layers are left out.
  """
  arrays, params = pretrained.read(file), {}
  torch = 'features.0.weight' in arrays
  # Keras has named its arrays differently over the years; what stays is that
  # their path starts with the layer.
  of_keras = {(name.split('/')[0], array.ndim > 1): (name, array)
              for name, array in arrays.items()}
  for layer, (name, shape) in _layers(top).items():
    for is_kernel, want in (True, tuple(shape)), (False, tuple(shape[-1:])):
      if torch:
        key = f'{name}.{"weight" if is_kernel else "bias"}'
        array = arrays.get(key)
        if is_kernel and array is not None:
          array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
      else:
        key, array = of_keras.get((layer, is_kernel), (layer, None))
      if array is None or array.shape != want:
        is_ = 'missing' if array is None else f'of shape {list(array.shape)}'
        raise errors.InputError(f'weights: {file}: array {key!r} is {is_}; '
                                f'expected {list(want)}, of VGG-19.')
      params.setdefault(layer, []).append(np.float32(array))
  if torch and top:  # Its map is flattened channels first.
    kernel = params['fc1'][0].reshape(512, 7, 7, -1)
    params['fc1'][0] = kernel.transpose(1, 2, 0, 3).reshape(7 * 7 * 512, -1)
  return params, torch


def _pool5(params, x):
  """Normalised images [B, H, W, 3] -> the last pool, [B, H/32, W/32, 512]."""
  for block, (_, n) in enumerate(_BLOCKS, 1):
    for i in range(1, n + 1):
      kernel, bias = params[f'block{block}_conv{i}']
      x = jnp.maximum(bias + convolution.conv_general_dilated(
          x, kernel, (1, 1), 'SAME',
          dimension_numbers=('NHWC', 'HWIO', 'NHWC')), 0)
    x = layers.max_pool(x)
  return x


def build(*, weights: str = '', layer: str = 'pool5', side: int = 224,
          grid: int = 1, download: bool = True) -> types.Extractor:
  """Returns the means of the last pool, or what the second dense layer gives.

  | layer   | features    | of                                               |
  |---------|-------------|--------------------------------------------------|
  | 'pool5' | 512 grid^2  | means over grid x grid fields of the last pool   |
  | 'fc2'   | 4096        | ReLUs; with 1000 logits; sees 224x224            |

  Args:
    weights: torchvision's .pth file, Keras' .h5 file, or an .npz of the names
      of either; '' finds or fetches torchvision's, of 575 MB.
    layer: see above; 'fc2' needs a file with the dense layers.
    side: images are resized to so many pixels each way; 0 keeps their size.
    grid: fields of 'pool5', each way; side / 32 gives the whole pool.
    download: whether it may be fetched.

  Raises:
    InputError: no such file and none to fetch, or one of another network.
  """
  errors.one_of('layer', layer, ('pool5', 'fc2'))
  errors.count('grid', grid)
  errors.one_of('download', download, (True, False))
  if side != 0:
    errors.count('side', side, least=32 * grid)
  top = layer == 'fc2'
  if top and (side, grid) != (224, 1):
    raise errors.InputError(f'layer: fc2 of side {side} and grid {grid}; '
                            'expected side 224 and grid 1.')
  file = pretrained.find(_PUBLISHED, weights, download=download,
                         standins=pretrained.STANDINS)
  params, torch = _read(file, top)

  def apply(variables, images):
    size = (side, side) if side else images.shape[1:3]
    if min(size) < 32 * grid:
      raise errors.InputError(
          f'grid: {grid} of images of {size[0]}x{size[1]}; expected at least '
          f'{32 * grid} pixels a side.')
    x = resize.resize(images, size, 'clean')
    if torch:
      x = layers.by_imagenet(x / 255)
    else:
      x = x[..., ::-1] - jnp.array(_MEAN_BGR)
    x = _pool5(variables, x)
    if not top:
      x = layers.adaptive_mean(x, grid)
      return {'features': x.reshape(len(x), -1)}
    x = x.reshape(len(x), -1)
    for name in ('fc1', 'fc2'):
      kernel, bias = variables[name]
      x = jnp.maximum(x @ kernel + bias, 0)
    kernel, bias = variables['predictions']
    return {'features': x, 'logits': x @ kernel + bias}

  size = f'clean bicubic to {side}x{side}' if side else 'as large as they are'
  how = 'RGB by mean and deviation' if torch else 'BGR less the mean'
  what = 'ReLUs of fc2' if top else f'means of pool5 in {grid}x{grid} fields'
  return types.Extractor('vgg19', apply, params, pretrained.digest(file),
                         f'{size}, {how}; {what}')
