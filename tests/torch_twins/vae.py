"""The VAE and its training step in PyTorch: a twin for tests and benchmarks.

Built as (spec, hyper), hyper being the arguments of `build`. Layers have the
names of the flax parameters.
"""
import torch
import torch.nn.functional as F  # noqa: N812
from torch import distributions, nn

from tests.torch_twins import biggan as torch_biggan
from tests.torch_twins import plain as torch_plain
from tests.torch_twins.layout import flat, nchw


class Encoder(nn.ModuleDict):
  """(images [B, C, H, W], labels) -> mean and log variance, [B, Z] each."""

  def __init__(self, spec, hyper, classes):
    super().__init__()
    self.depth, channels = len(hyper['widths']), spec.channels
    for i, width in enumerate(hyper['widths']):
      self[f'down_{i}'] = nn.Conv2d(channels, width, 4, 2, 1, bias=False)
      self[f'norm_{i}'] = torch_biggan.ConditionalBatchNorm(width, classes)
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

  def __init__(self, spec, hyper, classes):
    super().__init__()
    widths = hyper['widths'][::-1]
    self.depth = len(widths)
    self.grid = [n >> self.depth for n in spec[:2]]
    self['embed'] = nn.Embedding(classes, hyper['embed_dim'])
    self['latent_map'] = nn.Linear(
        hyper['z_dim'] + hyper['embed_dim'],
        self.grid[0] * self.grid[1] * widths[0], bias=False)
    inputs = (widths[0], *widths[1:], widths[-1])
    for i, width in enumerate(inputs):
      self[f'norm_{i}'] = torch_biggan.ConditionalBatchNorm(width, classes)
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


def _normal(mean, log_variance):
  return distributions.Normal(mean, (log_variance / 2).exp(),
                              validate_args=False)


class Vae(nn.ModuleDict):
  """(images [B, C, H, W], labels, noise [B, Z]) -> logits, KL [B, Z]."""

  def __init__(self, spec, hyper):
    self.conditional = hyper['conditional']
    classes = spec.num_classes if self.conditional else 1
    super().__init__({'encoder': Encoder(spec, hyper, classes),
                      'decoder': Decoder(spec, hyper, classes)})
    if hyper['prior'] == 'class':
      for name in 'prior_mean', 'prior_log_variance':
        self[name] = nn.Embedding(spec.num_classes, hyper['z_dim'])
    if not hyper['sigma']:
      self.log_sigma = nn.Parameter(torch.zeros(()))

  def forward(self, x, labels, noise):
    seen = labels if self.conditional else 0 * labels
    mean, log_variance = self['encoder'](x, seen)
    posterior = _normal(mean, log_variance)
    prior = _normal(torch.zeros_like(mean), torch.zeros_like(mean))
    if 'prior_mean' in self:
      prior = _normal(self['prior_mean'](labels),
                      self['prior_log_variance'](labels))
    kl = distributions.kl_divergence(posterior, prior)
    return self['decoder'](posterior.loc + posterior.scale * noise, seen), kl


def loss(net, x, labels, noise, hyper):
  """Minus the evidence bound, mean over the batch; and its two parts."""
  logits, kl = net(x, labels, noise)
  if hyper['likelihood'] == 'bernoulli':
    nats = -F.binary_cross_entropy_with_logits(logits, x / 2 + 0.5,
                                               reduction='sum')
  else:
    sigma = torch.as_tensor(hyper['sigma'])
    if not hyper['sigma']:  # Of half a step of 8-bit pixels at least.
      sigma = (1 + net.log_sigma.exp() * 255) / 255
    error = F.mse_loss(torch.tanh(logits / 2), x, reduction='sum')
    nats = -(error / sigma ** 2
             + x.numel() * torch.log(2 * torch.pi * sigma ** 2)) / 2
  kl = kl.mean(0)
  free = kl.clamp(min=hyper['free_bits']).sum()
  reconstruction = -nats / len(x)
  return {'g_loss': reconstruction + hyper['beta'] * free,
          'reconstruction': reconstruction, 'kl': kl.sum()}


def step(net, opt, x, labels, noise, hyper):
  """One update; returns the logs."""
  logs = loss(net, x, labels, noise, hyper)
  opt.zero_grad()
  logs['g_loss'].backward()
  opt.step()
  return logs
