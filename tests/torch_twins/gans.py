"""`dcgan`, `acgan` and their training step in PyTorch: twins for tests, timing.

A network is built as (spec, hyper), hyper being the arguments of `build`; its
layers have the names of the flax parameters. Images are [B, C, H, W]; dense
layers read and write pixels as flax has them, [B, H * W * C].
"""
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tests.torch_twins import plain as torch_plain
from tests.torch_twins.layout import flat, nchw

# Of AC-GAN: units, channels of G and of D, dropout, as `build` has them.
AC_SIZES = {
    'fashion_mnist': dict(hidden=1024, g_widths=(128, 256, 128),
                          d_widths=(32, 64, 128, 256), d_norm='none',
                          dropout=0.3),
    'cifar': dict(hidden=384, g_widths=(192, 96, 48),
                  d_widths=(16, 32, 64, 128, 256, 512), d_norm='batch',
                  dropout=0.5)}


def _with_class(z, labels, classes):
  return torch.cat([z, F.one_hot(labels, classes)], 1)


def _up(inputs, outputs, bias=False):
  return nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=bias)


def halvings(spec):
  """How often DCGAN halves: until the shorter side has 7 pixels or fewer."""
  count = 1
  while min(spec[:2]) / 2**count > 7:
    count += 1
  return count


class DcGenerator(nn.ModuleDict):

  def __init__(self, spec, hyper):
    super().__init__()
    self.conditional, self.classes = hyper['conditioning'] != 'none', spec[3]
    self.ups = halvings(spec)
    self.grid = [n // 2**self.ups for n in spec[:2]]
    width = hyper['g_width'] * 2**(self.ups - 1)
    self['project'] = nn.Linear(
        hyper['z_dim'] + self.conditional * self.classes,
        self.grid[0] * self.grid[1] * width, bias=False)
    for i in range(self.ups):
      self[f'norm_{i}'] = nn.BatchNorm2d(width)
      last = i == self.ups - 1
      self[f'up_{i}'] = _up(width, spec.channels if last else width // 2)
      width //= 2

  def forward(self, z, labels):
    if self.conditional:
      z = _with_class(z, labels, self.classes)
    x = nchw(self['project'](z).view(len(z), *self.grid, -1))
    for i in range(self.ups):
      x = self[f'up_{i}'](F.relu(self[f'norm_{i}'](x)))
    return torch.tanh(x)


class DcDiscriminator(nn.ModuleDict):

  def __init__(self, spec, hyper):
    super().__init__()
    self.depth, inputs = halvings(spec), spec.channels
    pixels = spec.height * spec.width
    if hyper['conditioning'] == 'concat':
      self['label_map'] = nn.Embedding(spec.num_classes, pixels)
      inputs += 1
    for i in range(self.depth):
      width = hyper['d_width'] * 2**i
      self[f'down_{i}'] = nn.Conv2d(inputs, width, 4, 2, 1, bias=False)
      if i:
        self[f'norm_{i}'] = nn.BatchNorm2d(width)
      inputs = width
    inputs *= pixels // 4**self.depth
    self['score'] = nn.Linear(inputs, 1, bias=False)
    if hyper['conditioning'] == 'projection':
      self['projection'] = nn.Embedding(spec.num_classes, inputs)

  def forward(self, x, labels):
    if 'label_map' in self:
      label = self['label_map'](labels).view(len(x), 1, *x.shape[2:])
      x = torch.cat([x, label], 1)
    for i in range(self.depth):
      x = self[f'down_{i}'](x)
      x = F.leaky_relu(self[f'norm_{i}'](x) if i else x, 0.2)
    x = flat(x)
    score = self['score'](x)[:, 0]
    if 'projection' in self:
      score = score + (self['projection'](labels) * x).sum(1)
    return score


def _ac_sizes(hyper):
  return AC_SIZES[hyper['network']] | {
      k: v for k, v in hyper.items() if v is not None}


class AcGenerator(nn.ModuleDict):

  def __init__(self, spec, hyper):
    super().__init__()
    hyper, self.classes = _ac_sizes(hyper), spec.num_classes
    widths, inputs = hyper['g_widths'], hyper['z_dim']
    self.doubles = hyper['network'] == 'fashion_mnist'
    self.norms = len(widths)
    times = 2 ** (len(widths) - self.doubles)
    self.size = [n // times for n in spec[:2]]
    if hyper['conditioning'] == 'product':
      self['embed'] = nn.Embedding(self.classes, inputs)
    else:
      inputs += self.classes
    bias = hyper['g_norm'] == 'none'
    self['hidden'] = nn.Linear(inputs, hyper['hidden'])
    self['grid'] = nn.Linear(hyper['hidden'],
                             self.size[0] * self.size[1] * widths[0], bias=bias)
    for i, width in enumerate(widths):
      if i:
        self[f'up_{i - 1}'] = (
            nn.Conv2d(widths[i - 1], width, 5, padding=2, bias=bias)
            if self.doubles else _up(widths[i - 1], width, bias))
      if not bias:
        self[f'norm_{i}'] = nn.BatchNorm2d(width)
    self['image'] = (torch_plain.Conv(widths[-1], spec.channels, 2)
                     if self.doubles else _up(widths[-1], spec.channels))

  def forward(self, z, labels):
    z = z * self['embed'](labels) if 'embed' in self else _with_class(
        z, labels, self.classes)
    x = self['hidden'](z)
    x = self['grid'](F.relu(x) if self.doubles else x)
    x = nchw(x.view(len(z), *self.size, -1))
    for i in range(self.norms):
      if i:
        x = F.interpolate(x, scale_factor=2) if self.doubles else x
        x = self[f'up_{i - 1}'](x)
      x = F.relu(self[f'norm_{i}'](x) if 'norm_0' in self else x)
    return torch.tanh(self['image'](x))


class AcDiscriminator(nn.ModuleDict):

  def __init__(self, spec, hyper):
    super().__init__()
    hyper, inputs, pixels = _ac_sizes(hyper), spec.channels, spec[:2]
    self.depth, self.dropout = len(hyper['d_widths']), hyper['dropout']
    norm = hyper['d_norm'] == 'batch'
    for i, width in enumerate(hyper['d_widths']):
      self[f'conv_{i}'] = nn.Conv2d(inputs, width, 3, 2 - i % 2, 1,
                                    bias=not norm)
      if norm and i:
        self[f'norm_{i}'] = nn.BatchNorm2d(width)
      inputs, pixels = width, [-(-n // (2 - i % 2)) for n in pixels]
    inputs *= pixels[0] * pixels[1]
    self['score'] = nn.Linear(inputs, 1)
    self['class'] = nn.Linear(inputs, spec.num_classes)

  def forward(self, x, labels):
    for i in range(self.depth):
      x = self[f'conv_{i}'](x)
      x = self[f'norm_{i}'](x) if f'norm_{i}' in self else x
      x = F.dropout(F.leaky_relu(x, 0.2), self.dropout, self.training)
    x = flat(x)
    return self['score'](x)[:, 0], self['class'](x)


NETWORKS = {'dcgan': (DcGenerator, DcDiscriminator),
            'acgan': (AcGenerator, AcDiscriminator)}


def step(g, d, g_opt, d_opt, real, labels, noise, *, class_loss=0.0,
         fresh_noise=None):
  """One update of D, on real and on generated images apart, and one of G.

  Binary cross-entropy, and that of the classes where D has them.

  Args:
    g, d: networks; g_opt, d_opt: their optimizers.
    real: [B, C, H, W]; labels: int64 [B], of the fakes as well.
    noise: [B, z_dim]; fresh_noise: for G's own update, None: the same fakes.
    class_loss: weight of the classes' cross-entropy in both losses.
  """
  def look(images):
    out = d(images, labels)
    scores, logits = out if isinstance(out, tuple) else (out, None)
    return scores, F.cross_entropy(logits, labels) if class_loss else 0.0

  if fresh_noise is None:
    fake = g(noise, labels)
  else:
    with torch.no_grad():
      fake = g(noise, labels)
  (on_real, real_class), (on_fake, fake_class) = look(real), look(fake.detach())
  d_source = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
  d_class = (real_class + fake_class) / 2
  d_opt.zero_grad()
  (d_source + class_loss * d_class).backward()
  d_opt.step()
  if fresh_noise is not None:
    fake = g(fresh_noise, labels)
  d.requires_grad_(False)  # Spares gradients that nobody reads.
  scores, g_class = look(fake)
  g_source = F.softplus(-scores).mean()
  g_opt.zero_grad()
  (g_source + class_loss * g_class).backward()
  g_opt.step()
  d.requires_grad_(True)
  return {'d_loss': d_source + class_loss * d_class, 'g_loss': g_source
          + class_loss * g_class, 'd_source_loss': d_source,
          'd_class_loss': d_class, 'g_source_loss': g_source,
          'g_class_loss': g_class}
