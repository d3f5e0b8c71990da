"""The residual classifiers in PyTorch, for `benchmarks.train_step`.

A module is called as the parameters of its twin in flax are, so that weights
can be copied by name. A constructor takes (spec, hyper), `hyper` being the
keyword arguments of the classifier's `build`.
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

  def __init__(self, spec, hyper, depth, stem, width, *, out=1, inner=0,
               groups=1, shortcut='project', preactivation=False, dropout=0.0):
    super().__init__()
    self.blocks, self.shortcut, self.dropout = [], shortcut, dropout
    self.preactivation, self.attention = preactivation, hyper['attention']
    self.convs, inputs = 3 if inner else 2, stem
    reduction = hyper['reduction'] or {'se': 16, 'dia': 4}.get(self.attention)
    self['stem'] = _conv(spec.channels, stem, 3, hyper['stem_stride'])
    if not preactivation:
      self['stem_norm'] = nn.BatchNorm2d(stem)
    for stage in range(3):
      features, narrow = width * out << stage, width * inner << stage
      if self.attention == 'dia':
        self[f'stage_{stage}_dia'] = DiaUnit(features, reduction)
      for block in range(depth // (3 * self.convs)):
        name = f'stage_{stage}_block_{block}'
        stride = 2 if stage and not block else 1
        plan = [(inputs, features, 3, stride), (features, features, 3)]
        if inner:
          plan = [(inputs, narrow, 1), (narrow, narrow, 3, stride, groups),
                  (narrow, features, 1)]
        for i, conv in enumerate(plan):
          self[f'{name}_conv_{i}'] = _conv(*conv)
          self[f'{name}_norm_{i}'] = nn.BatchNorm2d(conv[not preactivation])
        if self.attention == 'se':
          self[f'{name}_se'] = SqueezeExcite(features, reduction)
        if self.attention != 'none' and preactivation:
          self[f'{name}_attention_norm'] = nn.BatchNorm2d(features)
        if inputs != features and shortcut != 'pad':
          self[f'{name}_shortcut'] = _conv(inputs, features, 1, stride)
          if not preactivation:
            self[f'{name}_shortcut_norm'] = nn.BatchNorm2d(features)
        self.blocks.append((stage, name, stride, (features - inputs) // 2))
        inputs = features
    if preactivation:
      self['norm'] = nn.BatchNorm2d(inputs)
    self['logits'] = nn.Linear(inputs, spec.num_classes)

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


def resnet(spec, hyper):
  """`classifiers.resnet`."""
  how = {'shortcut': 'pad'}
  if hyper['block'] == 'bottleneck':
    how = {'out': 4, 'inner': 1}
  return Residual(spec, hyper, hyper['depth'], hyper['width'], hyper['width'],
                  preactivation=hyper['preactivation'], **how)


def wideresnet(spec, hyper):
  """`classifiers.wideresnet`."""
  return Residual(spec, hyper, hyper['depth'], 16, 16, out=hyper['widen'],
                  shortcut='project_active', preactivation=True,
                  dropout=hyper['dropout'])


def resnext(spec, hyper):
  """`classifiers.resnext`."""
  return Residual(spec, hyper, hyper['depth'], hyper['width'], hyper['width'],
                  out=hyper['widen'], inner=hyper['cardinality'],
                  groups=hyper['cardinality'])


def dianet(spec, hyper):
  """`classifiers.dianet`."""
  base = hyper['base']
  full = {'resnet56': 56, 'wrn52_4': 52, 'resnext101': 101}.get(base, 164)
  hyper = hyper | {
      'attention': 'dia', 'depth': hyper['depth'] or full, 'widen': 4,
      'block': 'bottleneck', 'preactivation': base == 'preresnet164',
      'width': 32 if base == 'resnext101' else 16, 'cardinality': 8}
  family = {'wrn52_4': wideresnet, 'resnext101': resnext}.get(base, resnet)
  return family(spec, hyper)


CLASSIFIERS = {'resnet': resnet, 'wideresnet': wideresnet, 'resnext': resnext,
               'dianet': dianet}
