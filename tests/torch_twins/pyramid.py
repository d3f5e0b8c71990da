"""`ccgan` and `lapgan` in PyTorch: twins for `benchmarks.train_step` and tests.

Layers have the names of the flax parameters. Images are [B, C, H, W]; dense
layers read and write pixels as flax has them, [B, H * W * C].
"""
import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tests.torch_twins.layout import flat, nchw


def _add_dense(net, inputs, widths):
  """Adds the hidden layers; returns the width of the last."""
  for i, width in enumerate(widths):
    net[f'dense_{i}'] = nn.Linear(inputs, width)
    inputs = width
  return inputs


class DenseGenerator(nn.ModuleDict):

  def __init__(self, spec, hyper):
    super().__init__()
    self.spec = spec
    last = _add_dense(self, hyper['z_dim'] + spec.num_classes,
                      hyper['g_widths'])
    self['image'] = nn.Linear(last, math.prod(spec[:3]))

  def forward(self, z, labels):
    x = torch.cat([z, F.one_hot(labels, self.spec.num_classes)], 1)
    for i in range(len(self) - 1):
      x = F.relu(self[f'dense_{i}'](x))
    return nchw(self['image'](x).view(-1, *self.spec[:3]))


class DenseDiscriminator(nn.ModuleDict):

  def __init__(self, spec, hyper):
    super().__init__()
    self.classes, self.dropout = spec.num_classes, hyper['dropout']
    last = _add_dense(self, math.prod(spec[:3]) + spec.num_classes,
                      hyper['d_widths'])
    self['score'] = nn.Linear(last, 1)

  def forward(self, x, labels):
    x = torch.cat([flat(x), F.one_hot(labels, self.classes)], 1)
    for i in range(len(self) - 1):
      x = F.relu(self[f'dense_{i}'](x))
      x = F.dropout(x, self.dropout, self.training)
    return self['score'](x)[:, 0]


class _WithClassMap(nn.ModuleDict):

  def __init__(self, spec):
    super().__init__()
    self.spec = spec
    self['label_map'] = nn.Linear(spec.num_classes, spec.height * spec.width)

  def class_map(self, labels):
    one_hot = F.one_hot(labels, self.spec.num_classes).to(
        self['label_map'].weight.dtype)
    x = F.relu(self['label_map'](one_hot))
    return x.view(-1, 1, self.spec.height, self.spec.width)


class Generator(_WithClassMap):
  """Of a level above the smallest: coarse images plus a residual."""

  def __init__(self, spec, hyper):
    super().__init__(spec)
    inputs = 2 + spec.channels
    for i, width in enumerate(hyper['g_channels']):
      self[f'conv_{i}'] = nn.Conv2d(inputs, width, 7, padding=3)
      inputs = width
    self['residual'] = nn.Conv2d(inputs, spec.channels, 5, padding=2)

  def forward(self, z, labels, coarse):
    noise = z.view(-1, 1, self.spec.height, self.spec.width)
    x = torch.cat([noise, coarse, self.class_map(labels)], 1)
    for i in range(len(self) - 2):
      x = F.relu(self[f'conv_{i}'](x))
    return coarse + self['residual'](x)


class Discriminator(_WithClassMap):
  """Of a level above the smallest."""

  def __init__(self, spec, hyper):
    super().__init__(spec)
    self.dropout, inputs = hyper['dropout'], spec.channels + 1
    first, second = hyper['d_channels']
    self['conv_0'] = nn.Conv2d(inputs, first, 5)
    self['conv_1'] = nn.Conv2d(first, second, 5, 2)
    h, w = ((n - 9) // 2 + 1 for n in spec[:2])
    self['score'] = nn.Linear(h * w * second, 1)

  def forward(self, x, labels):
    x = torch.cat([x, self.class_map(labels)], 1)
    x = F.relu(self['conv_1'](F.relu(self['conv_0'](x))))
    x = F.dropout(flat(x), self.dropout, self.training)
    return self['score'](x)[:, 0]


def ccgan(spec, hyper):
  """Returns its levels: ((generator, discriminator),)."""
  return ((DenseGenerator(spec, hyper), DenseDiscriminator(spec, hyper)),)


def lapgan(spec, hyper):
  """Returns its levels (generator, discriminator), the smallest first."""
  specs = [spec._replace(height=spec.height >> n, width=spec.width >> n)
           for n in range(hyper['halvings'], -1, -1)]
  own = hyper | {'g_widths': hyper['g_hidden'], 'd_widths': hyper['d_hidden']}
  return ((DenseGenerator(specs[0], own), DenseDiscriminator(specs[0], own)),
          *((Generator(spec, hyper), Discriminator(spec, hyper))
            for spec in specs[1:]))


def halve(x):
  """Bilinear at half the size, [B, C, H, W]."""
  return F.interpolate(x, scale_factor=0.5, mode='bilinear')


def double(x):
  """Bilinear at twice the size, [B, C, H, W]."""
  return F.interpolate(x, scale_factor=2, mode='bilinear')


def sample(levels, noises, labels, mean, std):
  """Images [B, C, H, W] in [-1, 1]; a noise a level, mean and std [C, H, W]."""
  (smallest, _), *finer = levels
  x = smallest(noises[0], labels)
  for (generator, _), z in zip(finer, noises[1:], strict=True):
    x = generator(z, labels, double(x))
  return (x * std + mean).clamp(-1, 1)
