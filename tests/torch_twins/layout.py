"""Where flax and PyTorch keep the same numbers, for the twins.

Images of flax are [B, H, W, C], those of PyTorch [B, C, H, W]. A twin's layers
have the names of the flax parameters, so that weights go over by name.
"""
import flax.traverse_util
import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

_NAMES = {'kernel': 'weight', 'embedding': 'weight', 'scale': 'weight',
          'mean': 'running_mean', 'var': 'running_var'}


def nchw(x):
  """[B, H, W, C] -> [B, C, H, W] of the same memory: channels_last."""
  return x.permute(0, 3, 1, 2)


def nhwc(x):
  """[B, C, H, W] -> [B, H, W, C] of the same memory."""
  return x.permute(0, 2, 3, 1)


def flat(x):
  """[B, C, H, W] -> [B, H * W * C], as flax has it."""
  return nhwc(x).reshape(len(x), -1)


def _layer(net, names):
  return net.get_submodule('.'.join(
      'norm' if name == 'BatchNorm_0' else name for name in names))


def tensor(net, *path):
  """Returns the parameter or buffer that flax keeps under `path`."""
  *names, kind = path
  if kind == 'u':  # Of spectral norm.
    layer = _layer(net, (*names[:-1], names[-1].removesuffix('_sigma')))
    return layer.parametrizations.weight[0].u
  layer = _layer(net, names)
  # What is norm and convolution in one is one layer in flax.
  layer = getattr(layer, 'conv' if kind == 'kernel' else 'norm', layer)
  name = _NAMES.get(kind, kind)
  if name == 'weight' and parametrize.is_parametrized(layer):
    return layer.parametrizations.weight.original
  return getattr(layer, name)


def weight(net, path, value):
  """Returns flax's array of `path` as an array that `net` could hold there."""
  *names, kind = path
  value = np.array(value)
  if kind != 'kernel':
    return value
  layer = _layer(net, names)
  if isinstance(layer, nn.ConvTranspose2d):
    return value[::-1, ::-1].transpose(2, 3, 0, 1).copy()
  return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T


def pairs(net, tree):
  """Yields (path, tensor of `net`, array of flax as it) of every leaf."""
  for path, value in flax.traverse_util.flatten_dict(tree).items():
    yield path, tensor(net, *path), weight(net, path, value)


def load(net, params, stats=None):
  """Gives `net` flax's weights, and its state if given; returns it.

  Raises:
    AssertionError: the two do not have the same parameters.
  """
  count = sum(p.numel() for p in net.parameters())
  sizes = [np.size(x) for x in flax.traverse_util.flatten_dict(params).values()]
  assert count == sum(sizes), f'{type(net).__name__}: {count}, not {sum(sizes)}'
  for tree in (params, stats or {}):
    for path, to, value in pairs(net, tree):
      assert to.shape == value.shape, path
      to.data.copy_(torch.from_numpy(value))
  return net
