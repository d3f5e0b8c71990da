"""BigGAN and its training step in PyTorch: twins for tests and timing.

A network is built as (spec, hyper), hyper being the arguments of `build`; its
layers have the names of the flax parameters. Eager, as the paper's code is.
"""
import copy
import functools
import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.utils import parametrize

from tests.torch_twins.layout import nchw

# Channels of the blocks in units of `width`, by the smaller side's least: of G,
# of D, and how many of D's halve.
BLOCKS = {8: ([4], [4] * 3, 1), 16: ([4] * 2, [4] * 4, 2),
          32: ([4] * 3, [4] * 4, 2),
          64: ([16, 8, 4, 2], [1, 2, 4, 8, 16], 4),
          128: ([16, 8, 4, 2, 1], [1, 2, 4, 8, 16, 16], 5),
          256: ([16, 8, 8, 4, 2, 1], [1, 2, 4, 8, 8, 16, 16], 6)}
EPSILON = 1e-8


class OneSigma(nn.Module):
  """weight / sigma, by one step of the power iteration a training forward.

  The matrix has an output in each row; `u` starts from the last step's.
  """

  def __init__(self, outputs):
    super().__init__()
    self.register_buffer('u', torch.randn(outputs))

  def forward(self, weight):
    matrix = weight.reshape(len(self.u), -1)
    with torch.no_grad():
      v = F.normalize(self.u @ matrix, dim=0, eps=EPSILON)
      u = F.normalize(matrix @ v, dim=0, eps=EPSILON)
    sigma = u @ matrix @ v
    if self.training:
      self.u.copy_(u)
    return weight / sigma


class OneSigmaOfTable(OneSigma):
  """The same of an embedding, whose outputs are columns."""

  def forward(self, weight):
    return super().forward(weight.T).T


def blocks(spec):
  """Returns BLOCKS of the size."""
  return BLOCKS[max(n for n in BLOCKS if n <= min(spec[:2]))]


def spectral(layer):
  """Returns `layer` with spectral norm."""
  table = isinstance(layer, nn.Embedding)
  parametrize.register_parametrization(
      layer, 'weight', (OneSigmaOfTable if table else OneSigma)(
          layer.weight.shape[table]))
  return layer


def conv(inputs, outputs, kernel, bias=True):
  return spectral(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2,
                            bias=bias))


class ConditionalBatchNorm(nn.Module):
  """Gain and bias of the class."""

  def __init__(self, channels, classes):
    super().__init__()
    self.norm = nn.BatchNorm2d(channels, affine=False)
    self.gain = nn.Embedding(classes, channels)
    self.bias = nn.Embedding(classes, channels)

  def forward(self, x, labels):
    return (self.norm(x) * self.gain(labels)[:, :, None, None]
            + self.bias(labels)[:, :, None, None])


class SharedNorm(nn.Module):
  """Gain and bias of an embedding."""

  def __init__(self, channels, inputs):
    super().__init__()
    self.norm = nn.BatchNorm2d(channels, affine=False)
    self.gain = spectral(nn.Linear(inputs, channels, bias=False))
    self.bias = spectral(nn.Linear(inputs, channels, bias=False))

  def forward(self, x, given):
    return (self.norm(x) * (1 + self.gain(given)[:, :, None, None])
            + self.bias(given)[:, :, None, None])


class Attention(nn.Module):

  def __init__(self, channels):
    super().__init__()
    few, half = max(channels // 8, 1), max(channels // 2, 1)
    self.query, self.key = (conv(channels, few, 1, False) for _ in range(2))
    self.value = conv(channels, half, 1, False)
    self.out = conv(half, channels, 1, False)
    self.gain = nn.Parameter(torch.zeros(()))

  def forward(self, x):
    query = self.query(x).flatten(2)
    key = F.max_pool2d(self.key(x), 2).flatten(2)
    value = F.max_pool2d(self.value(x), 2).flatten(2)
    weight = torch.softmax(query.transpose(1, 2) @ key, -1)
    seen = value @ weight.transpose(1, 2)
    return x + self.gain * self.out(seen.unflatten(2, x.shape[2:]))


class Generator(nn.ModuleDict):

  def __init__(self, spec, hyper):
    super().__init__()
    widths = [hyper['width'] * n for n in blocks(spec)[0]]
    self.ups = len(widths)
    self.grid = [widths[0], *(n // 2**self.ups for n in spec[:2])]
    self.side, self.shares = hyper['attention'], 1
    shared = given = hyper['embed_dim']
    if hyper['hierarchical']:
      self.shares += self.ups
      given += hyper['z_dim'] // self.shares
    if shared:
      self['shared'] = nn.Embedding(spec.num_classes, shared)
    def norm(channels):
      return (SharedNorm(channels, given) if shared else
              ConditionalBatchNorm(channels, spec.num_classes))
    self['noise_map'] = spectral(
        nn.Linear(hyper['z_dim'] // self.shares, math.prod(self.grid)))
    inputs = widths[0]
    for i, channels in enumerate(widths):
      self[f'block_{i}_norm_0'] = norm(inputs)
      self[f'block_{i}_conv_0'] = conv(inputs, channels, 3)
      self[f'block_{i}_norm_1'] = norm(channels)
      self[f'block_{i}_conv_1'] = conv(channels, channels, 3)
      self[f'block_{i}_shortcut'] = conv(inputs, channels, 1)
      if self.side == self.grid[1] * 2**(i + 1):
        self['attention'] = Attention(channels)
      inputs = channels
    self['norm'] = nn.BatchNorm2d(inputs)
    self['image'] = conv(inputs, spec.channels, 3)

  def forward(self, z, labels):
    z, *rest = z.chunk(self.shares, 1)
    given = self['shared'](labels) if 'shared' in self else labels
    c, h, w = self.grid
    x = nchw(self['noise_map'](z).view(-1, h, w, c))
    for i in range(self.ups):
      own = torch.cat([given, rest[i]], 1) if rest else given
      y = F.relu(self[f'block_{i}_norm_0'](x, own))
      y, x = (F.interpolate(a, scale_factor=2.) for a in (y, x))
      y = F.relu(self[f'block_{i}_norm_1'](self[f'block_{i}_conv_0'](y), own))
      x = self[f'block_{i}_conv_1'](y) + self[f'block_{i}_shortcut'](x)
      if x.shape[2] == self.side:
        x = self['attention'](x)
    return torch.tanh(self['image'](F.relu(self['norm'](x))))


class Discriminator(nn.ModuleDict):

  def __init__(self, spec, hyper):
    super().__init__()
    _, widths, self.downs = blocks(spec)
    self.side = hyper['attention']
    inputs, self.blocks = spec.channels, len(widths)
    for i, channels in enumerate(hyper['width'] * n for n in widths):
      self[f'block_{i}_conv_0'] = conv(inputs, channels, 3)
      self[f'block_{i}_conv_1'] = conv(channels, channels, 3)
      if i < self.downs or inputs != channels:
        self[f'block_{i}_shortcut'] = conv(inputs, channels, 1)
      if i < self.downs and spec.height // 2**(i + 1) == self.side:
        self['attention'] = Attention(channels)
      inputs = channels
    self['score'] = spectral(nn.Linear(inputs, 1))
    self['projection'] = spectral(nn.Embedding(spec.num_classes, inputs))

  def forward(self, x, labels):
    for i in range(self.blocks):
      down, name = i < self.downs, f'block_{i}_shortcut'
      y = self[f'block_{i}_conv_0'](F.relu(x) if i else x)
      y = self[f'block_{i}_conv_1'](F.relu(y))
      if not i:  # The first shortcut halves first, as in the paper's code.
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
      x = (self[name](x) if name in self else x) + y
      if i and down:
        x = F.avg_pool2d(x, 2)
      if down and x.shape[2] == self.side:
        x = self['attention'](x)
    x = F.relu(x).sum((2, 3))
    return self['score'](x)[:, 0] + (self['projection'](labels) * x).sum(1)


def training(g, d, hyper):
  """Returns (step, averaged G): `gan.make`'s with the hinge loss.

  step(images uint8 [d_steps, B, H, W, C], labels [d_steps, B], noises) ->
  {'d_loss', 'g_loss'}; noises [d_steps + 1, B, z_dim] or None. Without mirror
  and DiffAugment.
  """
  adam = functools.partial(torch.optim.Adam, fused=True,
                           betas=(hyper['b1'], hyper['b2']))
  g_opt, d_opt = (adam(net.parameters(), hyper[name])
                  for net, name in ((g, 'g_lr'), (d, 'd_lr')))
  average, done = copy.deepcopy(g), 0
  live, kept = (
      [x.data for x in (*net.parameters(), *net.buffers())
       if x.is_floating_point()] for net in (g, average))

  def d_update(z, image, label):
    with torch.no_grad():
      fake = g(z, label)
    real = nchw(image.to(fake.dtype) / 127.5 - 1)
    on_real, on_fake = d(torch.cat([real, fake]), label.repeat(2)).chunk(2)
    loss = F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
    d_opt.zero_grad()
    loss.backward()
    d_opt.step()
    return loss

  def step(images, labels, noises=None):
    nonlocal done
    if noises is None:
      noises = torch.randn(len(labels) + 1, len(labels[0]), hyper['z_dim'])
    for z, image, label in zip(noises[:-1], images, labels, strict=True):
      d_loss = d_update(z, image, label)
    # D is not trained here: neither its weights nor its singular vectors.
    d.eval().requires_grad_(False)
    loss = -d(g(noises[-1], labels[-1]), labels[-1]).mean()
    g_opt.zero_grad()
    loss.backward()
    g_opt.step()
    d.train().requires_grad_(True)
    decay = min(hyper['ema_decay'], (1 + done) / (10 + done))
    if hyper['ema_start']:
      decay = 0 if done < hyper['ema_start'] else hyper['ema_decay']
    torch._foreach_lerp_(kept, live, 1 - decay)
    done += 1
    return {'d_loss': d_loss, 'g_loss': loss}
  return step, average
