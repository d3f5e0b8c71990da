"""The VAE and its training step in PyTorch: a twin for `benchmarks.train_step`.

Built as (spec, hyper), hyper being the arguments of `build`, of which `prior`
is 'standard', and `likelihood` 'gaussian' with a fixed `sigma`. Layers have the
names of the flax parameters.
"""
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tests.torch_twins import biggan as torch_biggan
from tests.torch_twins import plain as torch_plain
from tests.torch_twins.layout import flat, nchw


class Encoder(nn.ModuleDict):
  """(images [B, C, H, W], labels) -> mean and log variance, [B, Z] each."""

  def __init__(self, spec, hyper):
    super().__init__()
    self.depth, channels = len(hyper['widths']), spec.channels
    for i, width in enumerate(hyper['widths']):
      self[f'down_{i}'] = nn.Conv2d(channels, width, 4, 2, 1, bias=False)
      self[f'norm_{i}'] = torch_biggan.ConditionalBatchNorm(
          width, spec.num_classes)
      channels = width
    pixels = (spec.height >> self.depth) * (spec.width >> self.depth)
    self['posterior'] = nn.Linear(pixels * channels, 2 * hyper['z_dim'])

  def forward(self, x, labels):
    for i in range(self.depth):
      x = F.leaky_relu(
          self[f'norm_{i}'](self[f'down_{i}'](x), labels), 0.2)
    return self['posterior'](flat(x)).chunk(2, 1)


class Decoder(nn.ModuleDict):
  """(latents [B, Z], labels) -> logits of white [B, C, H, W]."""

  def __init__(self, spec, hyper):
    super().__init__()
    widths = hyper['widths'][::-1]
    self.depth = len(widths)
    self.grid = [n >> self.depth for n in spec[:2]]
    self['embed'] = nn.Embedding(spec.num_classes, hyper['embed_dim'])
    self['latent_map'] = nn.Linear(
        hyper['z_dim'] + hyper['embed_dim'],
        self.grid[0] * self.grid[1] * widths[0], bias=False)
    inputs = (widths[0], *widths[1:], widths[-1])
    for i, width in enumerate(inputs):
      self[f'norm_{i}'] = torch_biggan.ConditionalBatchNorm(
          width, spec.num_classes)
    for i, (before, width) in enumerate(zip(inputs, inputs[1:], strict=False)):
      self[f'up_{i}'] = nn.ConvTranspose2d(before, width, 4, 2, 1, bias=False)
    self['image'] = torch_plain.Conv(inputs[-1], spec.channels, 7)

  def forward(self, z, labels):
    x = self['latent_map'](torch.cat([z, self['embed'](labels)], 1))
    x = nchw(x.view(len(z), *self.grid, -1))
    x = F.leaky_relu(self['norm_0'](x, labels), 0.2)
    for i in range(self.depth):
      x = F.leaky_relu(self[f'norm_{i + 1}'](self[f'up_{i}'](x), labels), 0.2)
    return self['image'](x)


class Vae(nn.ModuleDict):
  """(images [B, C, H, W], labels, noise [B, Z]) -> logits, KL [B, Z]."""

  def __init__(self, spec, hyper):
    super().__init__({'encoder': Encoder(spec, hyper),
                      'decoder': Decoder(spec, hyper)})

  def forward(self, x, labels, noise):
    mean, log_variance = self['encoder'](x, labels)
    kl = 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance)
    z = mean + (log_variance / 2).exp() * noise
    return self['decoder'](z, labels), kl


def loss(x, logits, kl, hyper):
  """Minus the evidence bound, mean over the batch; and its two parts."""
  error = F.mse_loss(torch.tanh(logits / 2), x, reduction='sum')
  constant = torch.log(torch.tensor(2 * torch.pi) * hyper['sigma'] ** 2)
  reconstruction = (error / hyper['sigma'] ** 2
                    + x.numel() * constant) / (2 * len(x))
  kl = kl.mean(0)
  total = reconstruction + hyper['beta'] * kl.clamp(
      min=hyper['free_bits']).sum()
  return {'g_loss': total, 'reconstruction': reconstruction, 'kl': kl.sum()}
