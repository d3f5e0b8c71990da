"""The residual classifiers in PyTorch: a twin for tests and benchmarks.

Built from the flax module, whose sizes it reads; what is done with them is
written here anew. Its layers have the names of the flax parameters.
"""
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn


def _conv(inputs, features, kernel, stride=1, groups=1):
  return nn.Conv2d(inputs, features, kernel, stride, kernel // 2,
                   groups=groups, bias=False)


class SqueezeExcite(nn.ModuleDict):

  def __init__(self, channels, reduction):
    narrow = max(channels // reduction, 1)
    super().__init__({'reduce': nn.Linear(channels, narrow),
                      'expand': nn.Linear(narrow, channels)})

  def forward(self, x):
    s = F.relu(self['reduce'](x.mean((2, 3))))
    return x * torch.sigmoid(self['expand'](s))[:, :, None, None]


class DiaUnit(nn.ModuleDict):

  def __init__(self, channels, reduction):
    narrow = max(channels // reduction, 1)
    super().__init__({
        f'{side}_{name}': nn.Linear(*sizes) for side in ('input', 'hidden')
        for name, sizes in (('reduce', (channels, narrow)),
                            ('expand', (narrow, 4 * channels)))})

  def forward(self, x, state):
    s = x.mean((2, 3))
    h, c = state or (torch.zeros_like(s), torch.zeros_like(s))
    i, f, g, o = sum(
        self[f'{side}_expand'](F.relu(self[f'{side}_reduce'](v)))
        for side, v in (('input', s), ('hidden', h))).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.sigmoid(c)
    return x * h[:, :, None, None], (h, c)


class Residual(nn.ModuleDict):
  """`jaxaug.nn.residual.Residual`."""

  def __init__(self, net):
    super().__init__()
    self.blocks, self.shortcut, self.dropout = [], net.shortcut, net.dropout
    self.preactivation, self.attention = net.preactivation, net.attention
    self.convs, self.by_imagenet = 3 if net.inner else 2, net.weights != ''
    channels = 3 if self.by_imagenet else net.spec.channels
    self['stem'] = _conv(channels, net.stem, 3, net.stem_stride)
    if not net.preactivation:
      self['stem_norm'] = nn.BatchNorm2d(net.stem)
    inputs = net.stem
    for stage, features in enumerate(net.widths):
      if net.attention == 'dia':
        self[f'stage_{stage}_dia'] = DiaUnit(features, net.reduction)
      for block in range(net.blocks):
        stride = 2 if stage and not block else 1
        name = f'stage_{stage}_block_{block}'
        self._add_block(net, name, inputs, stage, stride)
        self.blocks.append((stage, name, stride, (features - inputs) // 2))
        inputs = features
    if net.preactivation:
      self['norm'] = nn.BatchNorm2d(inputs)
    self['logits'] = nn.Linear(inputs, net.spec.num_classes)

  def _add_block(self, net, name, inputs, stage, stride):
    features = net.widths[stage]
    plan = [(inputs, features, 3, stride), (features, features, 3)]
    if net.inner:
      narrow = net.inner[stage]
      plan = [(inputs, narrow, 1),
              (narrow, narrow, 3, stride, net.cardinality),
              (narrow, features, 1)]
    for i, conv in enumerate(plan):
      self[f'{name}_conv_{i}'] = _conv(*conv)
      self[f'{name}_norm_{i}'] = nn.BatchNorm2d(
          conv[0] if net.preactivation else conv[1])
    if net.attention == 'se':
      self[f'{name}_se'] = SqueezeExcite(features, net.reduction)
    if net.attention != 'none' and net.preactivation:
      self[f'{name}_attention_norm'] = nn.BatchNorm2d(features)
    if inputs != features and net.shortcut != 'pad':
      self[f'{name}_shortcut'] = _conv(inputs, features, 1, stride)
      if not net.preactivation:
        self[f'{name}_shortcut_norm'] = nn.BatchNorm2d(features)

  def branch(self, x, name):
    """Returns what a block adds, and its input after the first norm."""
    active = x
    for i in range(self.convs):
      if self.preactivation:
        x = F.relu(self[f'{name}_norm_{i}'](x))
        active = active if i else x
      if i == self.convs - 1 and self.dropout:
        x = F.dropout(x, self.dropout, self.training)
      x = self[f'{name}_conv_{i}'](x)
      if not self.preactivation:
        x = self[f'{name}_norm_{i}'](x)
        x = F.relu(x) if i < self.convs - 1 else x
    if f'{name}_attention_norm' in self:
      x = self[f'{name}_attention_norm'](x)
    return x, active

  def forward(self, x):
    if self.by_imagenet:
      mean, deviation = (x.new_tensor(row)[:, None, None] for row in (
          (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
      x = ((x + 1) / 2 - mean) / deviation
    x, state = self['stem'](x), {}
    if not self.preactivation:
      x = F.relu(self['stem_norm'](x))
    for stage, name, stride, grow in self.blocks:
      h, active = self.branch(x, name)
      if self.attention == 'se':
        h = self[f'{name}_se'](h)
      elif self.attention == 'dia':
        h, state[stage] = self[f'stage_{stage}_dia'](h, state.get(stage))
      if f'{name}_shortcut' in self:
        x = self[f'{name}_shortcut'](
            active if self.shortcut == 'project_active' else x)
        if not self.preactivation:
          x = self[f'{name}_shortcut_norm'](x)
      elif grow:
        x = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, grow, grow))
      x = x + h if self.preactivation else F.relu(x + h)
    if self.preactivation:
      x = F.relu(self['norm'](x))
    return self['logits'](x.mean((2, 3)))


# By the name of the flax module.
CLASSIFIERS = {'Residual': Residual}
