"""MobileNetV2 1.0 of ImageNet (Sandler et al. 2018, table 2).

The weights are torchvision's, or TensorFlow's in 8 bits; each network sees
images as it did in its training. Batch norm is folded into the convolutions.
"""
import functools

import jax.numpy as jnp
import numpy as np

from jaxaug.core import errors, types
from jaxaug.nn import layers, pretrained, resize
from jaxaug.nn.cpu import convolution

_PUBLISHED = pretrained.Published(
    'mobilenet_v2-b0353104.pth', 'b0353104',
    'https://download.pytorch.org/models/mobilenet_v2-b0353104.pth')
# Expansion, channels, blocks, stride of the first.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
           (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_STRIDES = tuple(stride if i == 0 else 1 for _, _, n, stride in _STAGES
                 for i in range(n))


def _shapes(classes) -> dict:
  """Returns layer -> (torchvision's names of it and its norm, kernel's shape).

  Layers have TensorFlow's names.
  """
  shapes = {'Conv': ('features.0.0', 'features.0.1', (3, 3, 3, 32))}
  i, wide = 0, 32
  for expansion, channels, n, _ in _STAGES:
    for _ in range(n):
      name = f'expanded_conv_{i}' if i else 'expanded_conv'
      i, inner, at = i + 1, expansion * wide, 0
      conv = f'features.{i}.conv'
      for part, shape in (('expand', (1, 1, wide, inner)),
                          ('depthwise', (3, 3, 1, inner))):
        if expansion > 1 or part == 'depthwise':
          shapes[f'{name}/{part}'] = f'{conv}.{at}.0', f'{conv}.{at}.1', shape
          at += 1
      shapes[f'{name}/project'] = (f'{conv}.{at}', f'{conv}.{at + 1}',
                                   (1, 1, inner, channels))
      wide = channels
  shapes['Conv_1'] = 'features.18.0', 'features.18.1', (1, 1, 320, 1280)
  shapes['Logits/Conv2d_1c_1x1'] = 'classifier.1', '', (1, 1, 1280, classes)
  return shapes


def _taker(file):
  """Returns f(name, shape) -> an array of the file, and the names it has."""
  arrays = pretrained.read(file)
  def take(name, shape):
    return np.float32(
        pretrained.take(arrays, name, shape, file, 'MobileNetV2 1.0'))
  return take, arrays.keys()


def _of_tensorflow(take) -> dict:
  params = {}
  for layer, (*_, shape) in _shapes(1001).items():
    kernel = take(f'{layer}/kernel_u8', shape) - take(f'{layer}/kernel_zero',
                                                      ())
    params[layer] = (kernel * take(f'{layer}/kernel_scale', ()),
                     take(f'{layer}/bias', shape[-1:]))
  return params


def _of_torch(take) -> dict:
  params = {}
  for layer, (conv, norm, shape) in _shapes(1000).items():
    out = shape[-1:]
    if not norm:
      kernel = take(f'{conv}.weight', shape[:1:-1]).T
      params[layer] = kernel[None, None], take(f'{conv}.bias', out)
      continue
    kernel = take(f'{conv}.weight', (*shape[:1:-1], *shape[:2]))
    mean, var, scale, bias = (take(f'{norm}.{name}', out) for name in (
        'running_mean', 'running_var', 'weight', 'bias'))
    scale = scale / np.sqrt(var + 1e-5)
    params[layer] = kernel.transpose(2, 3, 1, 0) * scale, bias - mean * scale
  return params


def _conv(params, x, padding='VALID', stride=1, groups=1):
  kernel, bias = params
  return bias + convolution.conv_general_dilated(
      x, kernel, (stride,) * 2, padding, feature_group_count=groups,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def _relu6(x):
  return jnp.clip(x, 0, 6)


def _network(params, x, padding):
  """Normalised images [B, H, W, 3] -> the last map, [B, h, w, 1280]."""
  x = _relu6(_conv(params['Conv'], x, padding, 2))
  for i, stride in enumerate(_STRIDES):
    h, name = x, f'expanded_conv_{i}' if i else 'expanded_conv'
    if i:
      h = _relu6(_conv(params[f'{name}/expand'], h))
    h = _relu6(_conv(params[f'{name}/depthwise'], h, padding, stride,
                     h.shape[3]))
    h = _conv(params[f'{name}/project'], h)
    x = x + h if stride == 1 and x.shape == h.shape else h
  return _relu6(_conv(params['Conv_1'], x))


def build(*, weights: str = '', side: int = 160,
          download: bool = True) -> types.Extractor:
  """Returns the 1280 means of the last map, and logits.

  Args:
    weights: torchvision's .pth file, of 1000 classes, or an .npz of
      TensorFlow's names (Conv/kernel_u8, kernel_scale, kernel_zero, bias, ...),
      of 1001, the first being none; '' finds or fetches torchvision's.
    side: images are resized to so many pixels each way; 224 in the training.
    download: whether it may be fetched.

  Raises:
    InputError: no such file and none to fetch, or one of another network.
  """
  errors.count('side', side, least=32)
  errors.one_of('download', download, (True, False))
  file = pretrained.find(_PUBLISHED, weights, download=download,
                         standins=pretrained.STANDINS)
  take, names = _taker(file)
  torch = 'features.0.0.weight' in names
  params = (_of_torch if torch else _of_tensorflow)(take)
  padding = ((1, 1), (1, 1)) if torch else 'SAME'

  def network(variables, images):
    x = resize.resize(images, (side, side), 'clean')
    x = layers.by_imagenet(x / 255) if torch else x / 127.5 - 1
    x = _network(variables, x, padding).mean((1, 2))
    kernel, bias = variables['Logits/Conv2d_1c_1x1']
    return {'features': x, 'logits': x @ kernel[0, 0] + bias}

  def apply(variables, images):
    return layers.each(functools.partial(network, variables), images, 8)

  how = 'by mean and deviation' if torch else 'of -1 to 1'
  return types.Extractor(
      'mobilenet', apply, params, pretrained.digest(file),
      f'clean bicubic to {side}x{side}, {how}; means of the last map')
