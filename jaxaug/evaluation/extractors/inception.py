"""Inception v3 as FID knows it: the network of 2015 with 1,008 classes.

Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer
Vision"; Heusel et al. 2017 took its last pool for the FID. Other than in
torchvision, means of 3x3 pixels leave out the padding, the last block takes
maxima instead, and there is no auxiliary head. Batch norm is folded into the
convolutions, and 1x1 convolutions of one input are one product.
"""
import functools

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxaug.core import errors, types
from jaxaug.nn import layers, pretrained
from jaxaug.nn import resize as resizing
from jaxaug.nn.cpu import convolution

_PUBLISHED = pretrained.Published(
    'pt_inception-2015-12-05-6726825d.pth',
    '6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2',
    'https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/'
    'pt_inception-2015-12-05-6726825d.pth', 95_628_359)
_EPSILON = 1e-3
_AT_A_TIME = 16  # Images on a CPU: their first maps take 20 MB each.
# rule of resampling -> (what is taken off, what it is divided by, whose it is)
_RULES = {'tf1': (128, 128, 'as TensorFlow 1 and torch-fidelity'),
          'pytorch': (127.5, 127.5, 'as pytorch-fid'),
          'clean': (128, 128, 'as clean-fid')}
# Branches of a block: (name, kernel [h, w], channels out), those that hang
# together in one tuple; a block's input width is known from what is before it.
_STEM = (('Conv2d_1a_3x3', 3, 3, 32), ('Conv2d_2a_3x3', 3, 3, 32),
         ('Conv2d_2b_3x3', 3, 3, 64), ('Conv2d_3b_1x1', 1, 1, 80),
         ('Conv2d_4a_3x3', 3, 3, 192))


def _a(pooled):
  return ((('branch1x1', 1, 1, 64),),
          (('branch5x5_1', 1, 1, 48), ('branch5x5_2', 5, 5, 64)),
          (('branch3x3dbl_1', 1, 1, 64), ('branch3x3dbl_2', 3, 3, 96),
           ('branch3x3dbl_3', 3, 3, 96)),
          (('branch_pool', 1, 1, pooled),))


_B = ((('branch3x3', 3, 3, 384),),
      (('branch3x3dbl_1', 1, 1, 64), ('branch3x3dbl_2', 3, 3, 96),
       ('branch3x3dbl_3', 3, 3, 96)))


def _c(n):
  return ((('branch1x1', 1, 1, 192),),
          (('branch7x7_1', 1, 1, n), ('branch7x7_2', 1, 7, n),
           ('branch7x7_3', 7, 1, 192)),
          (('branch7x7dbl_1', 1, 1, n), ('branch7x7dbl_2', 7, 1, n),
           ('branch7x7dbl_3', 1, 7, n), ('branch7x7dbl_4', 7, 1, n),
           ('branch7x7dbl_5', 1, 7, 192)),
          (('branch_pool', 1, 1, 192),))


_D = ((('branch3x3_1', 1, 1, 192), ('branch3x3_2', 3, 3, 320)),
      (('branch7x7x3_1', 1, 1, 192), ('branch7x7x3_2', 1, 7, 192),
       ('branch7x7x3_3', 7, 1, 192), ('branch7x7x3_4', 3, 3, 192)))
# 3x3_2a and _2b, dbl_3a and _3b both take what is before them.
_E = ((('branch1x1', 1, 1, 320),),
      (('branch3x3_1', 1, 1, 384), ('branch3x3_2a', 1, 3, 384),
       ('branch3x3_2b', 3, 1, 384)),
      (('branch3x3dbl_1', 1, 1, 448), ('branch3x3dbl_2', 3, 3, 384),
       ('branch3x3dbl_3a', 1, 3, 384), ('branch3x3dbl_3b', 3, 1, 384)),
      (('branch_pool', 1, 1, 192),))
_BLOCKS = {'Mixed_5b': (192, _a(32)), 'Mixed_5c': (256, _a(64)),
           'Mixed_5d': (288, _a(64)), 'Mixed_6a': (288, _B),
           'Mixed_6b': (768, _c(128)), 'Mixed_6c': (768, _c(160)),
           'Mixed_6d': (768, _c(160)), 'Mixed_6e': (768, _c(192)),
           'Mixed_7a': (768, _D), 'Mixed_7b': (1280, _E),
           'Mixed_7c': (2048, _E)}


def _shapes() -> dict[str, tuple[int, int, int, int]]:
  """Returns the shape [h, w, I, O] of every convolution, by its name."""
  out, wide = {}, 3
  for name, h, w, channels in _STEM:
    out[name], wide = (h, w, wide, channels), channels
  for block, (inputs, branches) in _BLOCKS.items():
    for branch in branches:
      wide = inputs
      for name, h, w, channels in branch:
        out[f'{block}.{name}'] = h, w, wide, channels
        if not name.endswith('a'):  # What is called b has the input of a.
          wide = channels
  return out


def _read(file) -> dict:
  """Returns name -> (kernel [h, w, I, O], bias [O]), batch norm folded in.

  And 'fc' -> (kernel [2048, 1008], bias).
  """
  arrays = pretrained.read(file)
  def take(name, shape):
    return np.float64(pretrained.take(arrays, name, shape, file,
                                 "FID's Inception"))

  params = {}
  for name, (h, w, inputs, out) in _shapes().items():
    kernel = take(f'{name}.conv.weight', (out, inputs, h, w))
    gain, bias, mean, variance = (
        take(f'{name}.bn.{part}', (out,))
        for part in ('weight', 'bias', 'running_mean', 'running_var'))
    scale = gain / np.sqrt(variance + _EPSILON)
    params[name] = (np.float32(kernel.transpose(2, 3, 1, 0) * scale),
                    np.float32(bias - mean * scale))
  params['fc'] = (np.float32(take('fc.weight', (1008, 2048)).T),
                  np.float32(take('fc.bias', (1008,))))
  return params


def _conv(params, x, stride=1, pad=(0, 0)):
  kernel, bias = params
  y = convolution.conv_general_dilated(
      x, kernel, (stride, stride), tuple((p, p) for p in pad),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  return jnp.maximum(y + bias, 0)


def _same(params, x):
  """A convolution whose output is as large as its input."""
  return _conv(params, x, pad=[n // 2 for n in params[0].shape[:2]])


def _chain(params, block, names, x):
  for name in names:
    x = _same(params[f'{block}.{name}'], x)
  return x


def _windows(x, stride, axis, fill):
  """The three shifts of x under a window of 3 along an axis."""
  n = x.shape[axis]
  if stride == 1:
    pads = [(0, 0, 0)] * 4
    pads[axis] = (1, 1, 0)
    x, n = lax.pad(x, jnp.asarray(fill, x.dtype), pads), n + 2
  count = (n - 3) // stride + 1
  return [lax.slice_in_dim(x, i, i + (count - 1) * stride + 1, stride, axis)
          for i in range(3)]


def _max_pool(x, stride=2):
  """Largest of 3x3; of stride 1 as large as before, else without padding."""
  for axis in (1, 2):
    x = functools.reduce(jnp.maximum, _windows(x, stride, axis, -jnp.inf))
  return x


def _mean_pool(x):
  """Means of 3x3 pixels, those outside left out."""
  for axis in (1, 2):
    n = x.shape[axis]
    count = np.full(n, 3., np.float32)
    count[0] -= 1
    count[-1] -= 1
    shape = [1] * 4
    shape[axis] = n
    x = sum(_windows(x, 1, axis, 0)) / count.reshape(shape)
  return x


def _first(params, block, names, x):
  """The 1x1 convolutions of one input, as one product; before any ReLU.

  Returns a list [B, H, W, O], without the biases.
  """
  kernels = [params[f'{block}.{name}'][0] for name in names]
  ends = np.cumsum([kernel.shape[3] for kernel in kernels])[:-1]
  y = convolution.conv_general_dilated(
      x, jnp.concatenate(kernels, 3), (1, 1), 'VALID',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  return jnp.split(y, ends, 3)


def _block(params, block, x):
  """A block whose output is as large as its input: kinds A, C and E."""
  branches = _BLOCKS[block][1]
  heads = [branch[0][0] for branch in branches]
  maxima = block == 'Mixed_7c'
  firsts = _first(params, block, heads[:3] if maxima else heads, x)
  def bias(name):
    return params[f'{block}.{name}'][1]
  out = []
  for branch, y in zip(branches[:3], firsts, strict=False):
    y = jnp.maximum(y + bias(branch[0][0]), 0)
    names = [name for name, *_ in branch[1:]]
    twins = [name for name in names if name[-1] in 'ab']
    y = _chain(params, block, names[:len(names) - len(twins)], y)
    out += [_same(params[f'{block}.{name}'], y) for name in twins] or [y]
  if maxima:
    out.append(_same(params[f'{block}.branch_pool'], _max_pool(x, 1)))
  else:  # Means and a 1x1 convolution may change places: fewer channels.
    out.append(jnp.maximum(_mean_pool(firsts[3]) + bias('branch_pool'), 0))
  return jnp.concatenate(out, 3)


def _halving(params, block, x):
  """A block that halves the map: kinds B and D."""
  out = []
  for branch in _BLOCKS[block][1]:
    *names, last = (name for name, *_ in branch)
    out.append(_conv(params[f'{block}.{last}'],
                     _chain(params, block, names, x), 2))
  return jnp.concatenate([*out, _max_pool(x)], 3)


def _stem(params, resize, images):
  less, by, _ = _RULES[resize]
  x = (resizing.resize(images, (299, 299), resize) - less) / by
  x = _conv(params['Conv2d_1a_3x3'], x, 2)
  x = _conv(params['Conv2d_2a_3x3'], x)
  return _max_pool(_same(params['Conv2d_2b_3x3'], x))


def _second(params, x):
  x = _conv(params['Conv2d_3b_1x1'], x)
  return _max_pool(_conv(params['Conv2d_4a_3x3'], x))


def _through(params, names, x):
  for block in names:
    x = (_halving if block in ('Mixed_6a', 'Mixed_7a') else _block)(
        params, block, x)
  return x


def _network(params, resize, maps, images):
  """What `blocks` returns, but for the logits."""
  *names, _, _, _ = _BLOCKS
  out = {'64': _stem(params, resize, images)}
  out['192'] = _second(params, out['64'])
  out['768'] = _through(params, names, out['192'])
  last = _through(params, ('Mixed_7a', 'Mixed_7b', 'Mixed_7c'), out['768'])
  return (out if maps else {}) | {'2048': last.mean((1, 2))}


def blocks(params, images, resize: str = 'tf1', maps: bool = True) -> dict:
  """Returns what pytorch-fid calls blocks, and the logits.

  Args:
    params: an extractor's variables.
    images: uint8 or float32 [B, H, W, 3], 0 to 255.
    resize: see `build`.
    maps: whether to return the first three.

  Returns:
    '64' [B, 73, 73, 64], '192' [B, 35, 35, 192], '768' [B, 17, 17, 768], all
    maps; '2048' [B, 2048], their means; 'logits' [B, 1008], and
    'logits_unbiased', without the last layer's bias, as the Inception score
    takes them.
  """
  out = layers.each(functools.partial(_network, params, resize, maps), images,
                    _AT_A_TIME)
  kernel, bias = params['fc']
  unbiased = jnp.matmul(out['2048'], kernel)
  return out | {'logits_unbiased': unbiased, 'logits': unbiased + bias}


def build(*, weights: str = '', resize: str = 'tf1',
          download: bool = True) -> types.Extractor:
  """Returns the network that FID, KID and IS are defined on.

  2,048 features; 1,008 logits without bias, as torch-fidelity's.

  | resize    | to 299x299 by                            | then            |
  |-----------|------------------------------------------|-----------------|
  | 'tf1'     | bilinear, as TensorFlow 1 (the original) | (x - 128) / 128 |
  | 'pytorch' | bilinear with half-pixel centres         | x / 127.5 - 1   |
  | 'clean'   | antialiased bicubic (Parmar et al. 2022) | (x - 128) / 128 |

  Args:
    weights: a file of the published arrays, .pth or .npz; '' finds or fetches
      the published one, of 96 MB.
    resize: see above; the published numbers of most papers are 'tf1' or
      'pytorch', which differ little.
    download: whether the file may be fetched.

  Raises:
    InputError: no such file and none to fetch, or one of another network.
  """
  errors.one_of('resize', resize, _RULES)
  errors.one_of('download', download, (True, False))
  file = pretrained.find(_PUBLISHED, weights, download=download,
                         standins=pretrained.STANDINS)
  digest = pretrained.digest(file)
  name = 'inception' if resize == 'tf1' else f'inception_{resize}'
  less, by, whose = _RULES[resize]

  def apply(variables, images):
    found = blocks(variables, images, resize, maps=False)
    return {'features': found['2048'], 'logits': found['logits_unbiased']}

  return types.Extractor(
      name, apply, _read(file), digest,
      f'resized to 299x299 {whose} ({resize}), (x - {less}) / {by}',
      fid=digest == _PUBLISHED.sha256)
