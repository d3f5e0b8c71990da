"""The plain classifiers in PyTorch: twins for tests and benchmarks.

A twin is built from the flax module, whose sizes it reads; what is done with
them is written here anew. Its layers have the names of the flax parameters.
"""
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tests.torch_twins.layout import flat


class Conv(nn.Conv2d):
  """SAME padding, which is uneven for some strided convolutions."""

  def forward(self, x):
    (k, _), (s, _) = self.kernel_size, self.stride
    (top, bottom), (left, right) = (
        (n // 2, n - n // 2) for n in (
            max((-(-n // s) - 1) * s + k - n, 0) for n in x.shape[2:]))
    if top != bottom or left != right:
      x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    return F.conv2d(x, self.weight, self.bias, s, (top, left),
                    groups=self.groups)


def _pool(x):
  return F.max_pool2d(x, 2) if min(x.shape[2:]) > 1 else x


class MobileNet(nn.ModuleDict):

  def __init__(self, net):
    super().__init__()
    self.blocks, self.dropout = net.blocks, net.dropout
    spec, inputs = net.spec, net.stem[0]
    self._unit('stem', spec.channels, inputs, 3, net.stem[1])
    for i, (expansion, channels, stride) in enumerate(net.blocks):
      name, wide = f'block_{i}', max(expansion, 1) * inputs
      if expansion > 1:
        self._unit(f'{name}_expand', inputs, wide)
      self._unit(f'{name}_depthwise', wide, wide, 3, stride, wide)
      self._unit(f'{name}_project', wide, channels)
      inputs = channels
    if net.last:
      self._unit('last', inputs, net.last)
    self['logits'] = nn.Linear(net.last or inputs, spec.num_classes)

  def _unit(self, name, inputs, channels, kernel=1, stride=1, groups=1):
    self[name] = Conv(inputs, channels, kernel, stride, groups=groups,
                      bias=False)
    self[f'{name}_norm'] = nn.BatchNorm2d(channels, 1e-3)

  def forward(self, x):
    def unit(x, name, act=True):
      if name not in self:
        return x
      x = self[f'{name}_norm'](self[name](x))
      return F.relu6(x) if act else x

    x = unit(x, 'stem')
    for i, (expansion, _, stride) in enumerate(self.blocks):
      name = f'block_{i}'
      h = unit(unit(x, f'{name}_expand'), f'{name}_depthwise')
      h = unit(h, f'{name}_project', not expansion)
      same = expansion and stride == 1 and x.shape == h.shape
      x = x + h if same else h
    x = unit(x, 'last').mean((2, 3))
    return self['logits'](F.dropout(x, self.dropout, self.training))


def _add_head(net, hidden, inputs, pixels, classes):
  """Two hidden layers before the logits; `hidden` 0: none."""
  if hidden:
    net['dense_0'] = nn.Linear(pixels * inputs, hidden)
    net['dense_1'] = nn.Linear(hidden, hidden)
  net['logits'] = nn.Linear(hidden or inputs, classes)


class AlexNet(nn.ModuleDict):

  def __init__(self, net):
    super().__init__()
    spec, inputs = net.spec, net.spec.channels
    self.large, self.dropout = net.hidden > 0, net.dropout
    for i, width in enumerate(net.widths):
      kernel = (11, 5, 3, 3, 3)[i]
      self[f'conv_{i}'] = nn.Conv2d(
          inputs, width, kernel, 1 if i else 4,
          padding=2 if not i and self.large else kernel // 2)
      inputs = width
    _add_head(self, net.hidden, inputs, 36, spec.num_classes)

  def forward(self, x):
    for i in range(5):
      x = F.relu(self[f'conv_{i}'](x))
      if i in (0, 1, 4):
        x = F.max_pool2d(x, 3, 2) if self.large else _pool(x)
    if not self.large:
      return self['logits'](x.mean((2, 3)))
    x = flat(F.adaptive_avg_pool2d(x, 6))
    for i in range(2):
      x = F.dropout(x, self.dropout, self.training)
      x = F.relu(self[f'dense_{i}'](x))
    return self['logits'](x)


class Vgg(nn.ModuleDict):

  def __init__(self, net):
    super().__init__()
    spec, inputs = net.spec, net.spec.channels
    self.stages, self.dropout = net.stages, net.dropout
    for stage, (n, width) in enumerate(zip(net.stages, net.widths,
                                           strict=True)):
      for i in range(n):
        self[f'conv_{stage}_{i}'] = nn.Conv2d(inputs, width, 3, padding=1)
        if net.batch_norm:
          self[f'norm_{stage}_{i}'] = nn.BatchNorm2d(width)
        inputs = width
    _add_head(self, net.hidden, inputs, 49, spec.num_classes)

  def forward(self, x):
    for stage, n in enumerate(self.stages):
      for i in range(n):
        x, norm = self[f'conv_{stage}_{i}'](x), f'norm_{stage}_{i}'
        x = F.relu(self[norm](x) if norm in self else x)
      x = _pool(x)
    if 'dense_0' not in self:
      return self['logits'](x.mean((2, 3)))
    x = flat(F.adaptive_avg_pool2d(x, 7))
    for i in range(2):
      x = F.relu(self[f'dense_{i}'](x))
      x = F.dropout(x, self.dropout, self.training)
    return self['logits'](x)


class SmallCnn(nn.ModuleDict):

  def __init__(self, net):
    super().__init__()
    spec, inputs, self.convs = net.spec, net.spec.channels, len(net.widths)
    for i, width in enumerate(net.widths):
      self[f'conv_{i}'] = nn.Conv2d(inputs, width, 3, padding=1)
      inputs = width
    inputs *= (spec.height >> self.convs) * (spec.width >> self.convs)
    for i, units in enumerate(net.hidden):
      self[f'dense_{i}'] = nn.Linear(inputs, units)
      inputs = units
    self['logits'] = nn.Linear(inputs, spec.num_classes)

  def forward(self, x):
    for i in range(self.convs):
      x = F.max_pool2d(F.relu(self[f'conv_{i}'](x)), 2)
    x = flat(x)
    for i in range(len(self) - self.convs - 1):
      x = F.relu(self[f'dense_{i}'](x))
    return self['logits'](x)


class Cnn(nn.ModuleDict):

  def __init__(self, net):
    super().__init__()
    spec, (first, second) = net.spec, net.widths
    h, w = (((n - 4) // 2 - 4) // 2 for n in spec[:2])
    self['conv_0'] = nn.Conv2d(spec.channels, first, 5)
    self['conv_1'] = nn.Conv2d(first, second, 5)
    self['hidden'] = nn.Linear(h * w * second, net.hidden)
    self['logits'] = nn.Linear(net.hidden, spec.num_classes)

  def forward(self, x):
    for name in ('conv_0', 'conv_1'):
      x = F.max_pool2d(torch.tanh(self[name](x)), 2)
    x = torch.tanh(self['hidden'](flat(x)))
    return self['logits'](x)


class NormReluConv(nn.Module):

  def __init__(self, inputs, features, kernel):
    super().__init__()
    self.norm = nn.BatchNorm2d(inputs)
    self.conv = nn.Conv2d(inputs, features, kernel, 1, kernel // 2, bias=False)

  def forward(self, x):
    return self.conv(F.relu(self.norm(x)))


class DenseBlock(nn.ModuleDict):

  def __init__(self, channels, layers, growth, bottleneck):
    super().__init__()
    self.layers, self.bottleneck = layers, bottleneck
    for i in range(layers):
      inputs = channels + i * growth
      if bottleneck:
        self[f'layer_{i}_reduce'] = NormReluConv(inputs, 4 * growth, 1)
        inputs = 4 * growth
      self[f'layer_{i}'] = NormReluConv(inputs, growth, 3)

  def forward(self, x):
    for i in range(self.layers):
      h = self[f'layer_{i}_reduce'](x) if self.bottleneck else x
      x = torch.cat([x, self[f'layer_{i}'](h)], 1)
    return x


class DenseNet(nn.ModuleDict):

  def __init__(self, net):
    super().__init__()
    spec, channels = net.spec, net.stem
    self['stem'] = Conv(spec.channels, channels, 3, net.stem_stride,
                        bias=False)
    for block in range(3):
      self[f'block_{block}'] = DenseBlock(channels, net.blocks, net.growth,
                                          net.bottleneck)
      channels += net.blocks * net.growth
      if block < 2:
        kept = int(channels * net.reduction)
        self[f'transition_{block}'] = NormReluConv(channels, kept, 1)
        channels = kept
    self['norm'] = nn.BatchNorm2d(channels)
    self['logits'] = nn.Linear(channels, spec.num_classes)

  def forward(self, x):
    x = self['stem'](x)
    for block in range(3):
      x = self[f'block_{block}'](x)
      if block < 2:
        x = F.avg_pool2d(self[f'transition_{block}'](x), 2)
    return self['logits'](F.relu(self['norm'](x)).mean((2, 3)))


# By the name of the flax module.
CLASSIFIERS = {'AlexNet': AlexNet, 'Cnn': Cnn, 'DenseNet': DenseNet,
               'MobileNet': MobileNet, 'SmallCnn': SmallCnn, 'Vgg': Vgg}
