"""Where flax and PyTorch keep the same numbers, for the twins.

Images of flax are [B, H, W, C], those of PyTorch [B, C, H, W].
"""
import numpy as np
from torch import nn


def nchw(x):
  """[B, H, W, C] -> [B, C, H, W] of the same memory: channels_last."""
  return x.permute(0, 3, 1, 2)


def nhwc(x):
  """[B, C, H, W] -> [B, H, W, C] of the same memory."""
  return x.permute(0, 2, 3, 1)


def flat(x):
  """[B, C, H, W] -> [B, H * W * C], as flax has it."""
  return nhwc(x).reshape(len(x), -1)


def weight(value, kind, layer=None):
  """A leaf of flax named `kind`, as PyTorch's `layer` has it."""
  value = np.array(value)
  if kind != 'kernel':
    return value
  if isinstance(layer, nn.ConvTranspose2d):
    return value[::-1, ::-1].transpose(2, 3, 0, 1).copy()
  return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
