"""`cgan` in PyTorch: a twin for `benchmarks.train_step`.

Built as (spec, hyper), hyper being the arguments of `build`; layers have the
names of the flax parameters.
"""
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tests.torch_twins import biggan as torch_biggan
from tests.torch_twins import plain as torch_plain
from tests.torch_twins.layout import flat, nchw, nhwc


class Generator(nn.ModuleDict):

  def __init__(self, spec, hyper):
    super().__init__()
    widths, classes = hyper['g_widths'], spec.num_classes
    self.depth = len(widths)
    self.grid = [n >> self.depth - 1 for n in (spec.height, spec.width)]
    size = self.grid[0] * self.grid[1]
    self['embed'] = nn.Embedding(classes, hyper['embed_dim'])
    self['label_map'] = nn.Linear(hyper['embed_dim'], size)
    self['noise_map'] = nn.Linear(hyper['z_dim'], size * widths[0])
    for i, width in enumerate(widths):
      if i:  # The label map joins the first.
        self[f'up_{i - 1}'] = nn.ConvTranspose2d(
            widths[i - 1] + (i == 1), width, 4, 2, padding=1)
      if hyper['g_norm'] == 'batch':
        self[f'norm_{i}'] = torch_biggan.ConditionalBatchNorm(
            width, classes)
    self['image'] = torch_plain.Conv(widths[-1], spec.channels, 7)

  def forward(self, z, labels):
    def act(x, name):
      return F.leaky_relu(self[name](x, labels) if name in self else x, 0.2)

    grid = (len(labels), *self.grid, -1)
    label = self['label_map'](self['embed'](labels)).view(grid)
    x = act(nchw(self['noise_map'](z).view(grid)), 'norm_0')
    x = nchw(torch.cat([nhwc(x), label], 3))
    for i in range(1, self.depth):
      x = act(self[f'up_{i - 1}'](x), f'norm_{i}')
    return torch.tanh(self['image'](x))


class Discriminator(nn.ModuleDict):

  def __init__(self, spec, hyper):
    super().__init__()
    self.depth, self.dropout = len(hyper['d_widths']), hyper['dropout']
    h, w, channels = spec[:3]
    self.grid, classes = (h, w), spec.num_classes
    if hyper['conditioning'] == 'concat':
      self['embed'] = nn.Embedding(classes, hyper['embed_dim'])
      self['label_map'] = nn.Linear(hyper['embed_dim'], h * w)
      channels += 1
    for i, width in enumerate(hyper['d_widths']):
      self[f'down_{i}'] = torch_plain.Conv(channels, width, hyper['d_kernel'],
                                           2)
      channels, h, w = width, -(-h // 2), -(-w // 2)
    self['score'] = nn.Linear(channels * h * w, 1)
    if hyper['conditioning'] == 'projection':
      self['projection'] = nn.Embedding(classes, channels * h * w)

  def normalise(self):
    """Puts spectral norm where `cgan` has it."""
    for name, layer in self.items():
      if name != 'embed':
        nn.utils.parametrizations.spectral_norm(layer)

  def forward(self, x, labels):
    if 'embed' in self:
      label = self['label_map'](self['embed'](labels)).view(-1, *self.grid, 1)
      x = nchw(torch.cat([nhwc(x), label], 3))
    for i in range(self.depth):
      x = F.leaky_relu(self[f'down_{i}'](x), 0.2)
    x = flat(x)
    if self.dropout:
      x = F.dropout(x, self.dropout, self.training)
    score = self['score'](x)[:, 0]
    if 'projection' in self:
      score = score + (self['projection'](labels) * x).sum(1)
    return score
