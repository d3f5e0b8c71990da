"""SinGAN and its training step in PyTorch: a twin for tests.

A GAN per size of a pyramid made of one image, after "SinGAN: Learning a
Generative Model from a Single Natural Image" (Shaham et al., ICCV 2019) and
section 1 of the project's reference facts. The paper and the code its authors
published differ; `PAPER` and `PUBLISHED` say where, for `iteration`.

Images are [N, C, H, W] in [-1, 1], of a pyramid [1, C, h, w]. Nothing here
draws: noise and the penalty's epsilons are arguments. Noise is given without
padding, [N, 1, h, w] at the coarsest level, whose one map all channels share,
and [N, C, h, w] at the others.

`python -m tests.torch_twins.singan` checks the twin against formulas.
"""
import copy
import dataclasses
import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

PAD = 5  # Pixels that five 3x3 convolutions take from every side.
# Whether the noise to reconstruct from is drawn anew in every iteration at the
# coarsest level; whose norm the penalty takes, and the gradient of what score.
PUBLISHED = dict(redraw=True, per='pixel', score='sum')
PAPER = dict(redraw=False, per='image', score='mean')


# The pyramid.

def sizes(height, width, min_size=25, max_size=250, factor=0.75):
  """Returns ([(h, w), ...] from coarse to fine, the ratio of neighbours r).

  The asked factor settles only how many levels there are; r is then what
  leads from the image to `min_size` in as many. Rounding errors are those of
  doubles, and may add a pixel: 32 pixels have 26 for 32 * (25 / 32) = 25.
  """
  largest = max(height, width)
  count = math.ceil(math.log(min_size / min(height, width), factor)) + 1
  count -= math.ceil(math.log(min(max_size, largest) / largest, factor))
  start = min(max_size / largest, 1)
  full = [math.ceil(n * start) for n in (height, width)]
  if count < 1:
    raise ValueError(f'{height}x{width} leaves no level of {min_size} pixels')
  r = (min_size / min(full)) ** (1 / count)
  return [tuple(math.ceil(n * r ** (count - i)) for n in full)
          for i in range(count + 1)], r


def width_of(level, first=32, most=128):
  """Channels of the networks of a level: doubled every four levels."""
  return min(first * 2 ** (level // 4), most)


def _cubic(x):
  """Keys' kernel with a = -1/2, of four pixels' width."""
  x = np.abs(x)
  near = 1.5 * x ** 3 - 2.5 * x ** 2 + 1
  far = -0.5 * x ** 3 + 2.5 * x ** 2 - 4 * x + 2
  return np.where(x <= 1, near, np.where(x < 2, far, 0))


def resize_matrix(size, out, scale):
  """Returns what makes `out` pixels of `size`, [out, size] in float64.

  MATLAB's cubic: below scale 1 the kernel is stretched by 1 / scale. Pixels
  beyond a border are mirrored at it, the outermost twice: ... 1 0 | 0 1 ...
  """
  shrink = min(scale, 1)
  # MATLAB counts from one; taps whose weight is zero do no harm.
  at = np.arange(1, out + 1) / scale + (1 - 1 / scale) / 2
  reach = 2 / shrink
  taps = np.floor(at - reach)[:, None] + np.arange(math.ceil(2 * reach) + 2)
  weights = shrink * _cubic(shrink * (at[:, None] - taps))
  weights /= weights.sum(1, keepdims=True)
  mirrored = (taps.astype(int) - 1) % (2 * size)
  mirrored = np.minimum(mirrored, 2 * size - 1 - mirrored)
  matrix = np.zeros((out, size))
  np.add.at(matrix, (np.arange(out)[:, None], mirrored), weights)
  return matrix


def quantise(image):
  """[-1, 1] -> 0 ... 255, whole numbers: clamped, then cut off, not rounded.

  Of the 256 values an 8-bit image has, 20 fall to the next lower one in
  float64 and 63 in float32: compare implementations off these values.
  """
  return (((image + 1) / 2).clamp(0, 1) * 255).floor()


def resize(image, to, eight_bit=True):
  """Resizes [N, C, H, W] in float64; returns the type of `image`.

  Args:
    image: in [-1, 1].
    to: the scale, for sizes of ceil(scale * size), or the size (h, w).
    eight_bit: make whole numbers of 256 of the pixels first, and clamp what
      comes out, which is not rounded.
  """
  size = image.shape[-2:]
  if isinstance(to, (int, float)):
    scales, out = (to, to), [math.ceil(n * to) for n in size]
  else:
    scales, out = [a / b for a, b in zip(to, size, strict=True)], to
  x = image.detach()
  x = (quantise(x) if eight_bit else x).double()
  for axis in sorted((0, 1), key=lambda i: scales[i]):  # What shrinks, first.
    matrix = torch.tensor(resize_matrix(size[axis], out[axis], scales[axis]))
    x = torch.tensordot(x, matrix, ([axis + 2], [1])).movedim(-1, axis + 2)
  if eight_bit:
    x = (2 * (x / 255 - 0.5)).clamp(-1, 1)
  return x.to(image.dtype)


def enlarge(image, r, size, eight_bit=True):
  """[N, C, H, W] by 1 / r, then the upper left (h, w) of it."""
  image = resize(image, 1 / r, eight_bit)
  if image.shape[-2] < size[0] or image.shape[-1] < size[1]:
    raise ValueError(f'{tuple(image.shape[-2:])} has no part of {size}')
  return image[..., :size[0], :size[1]]


def pyramid(image, min_size=25, max_size=250, factor=0.75, eight_bit=True):
  """Returns (the images of the levels from coarse to fine, r).

  Each is made of the whole image, itself resized once before.
  """
  wanted, r = sizes(*image.shape[-2:], min_size, max_size, factor)
  whole = resize(image, min(max_size / max(image.shape[-2:]), 1.0), eight_bit)
  top = len(wanted) - 1
  reals = [resize(whole, r ** (top - i), eight_bit) for i in range(top + 1)]
  assert [tuple(x.shape[-2:]) for x in reals] == wanted
  return reals, r


# The networks of one level.

def pad(x):
  """[N, C, H, W] -> [N, C, H + 10, W + 10], of zeros on every side."""
  return F.pad(x, (PAD,) * 4)


class _Convs(nn.ModuleDict):
  """Five 3x3 convolutions without padding: 11 pixels are seen."""

  def __init__(self, inputs, width, outputs):
    super().__init__()
    for i in range(4):
      self[f'conv_{i}'] = nn.Conv2d(width if i else inputs, width, 3)
      self[f'norm_{i}'] = nn.BatchNorm2d(width)
    self['conv_4'] = nn.Conv2d(width, outputs, 3)

  def convs(self, x):
    for i in range(4):
      x = F.leaky_relu(self[f'norm_{i}'](self[f'conv_{i}'](x)), 0.2)
    return self['conv_4'](x)


class Generator(_Convs):
  """(noise plus image, image), padded -> the image with its details."""

  def __init__(self, channels=3, width=32):
    super().__init__(channels, width, channels)

  def forward(self, x, prev):
    return torch.tanh(self.convs(x)) + prev[..., PAD:-PAD, PAD:-PAD]


class Discriminator(_Convs):
  """[N, C, H, W] -> scores of patches [N, 1, H - 10, W - 10]."""

  def __init__(self, channels=3, width=32):
    super().__init__(channels, width, 1)

  def forward(self, x):
    return self.convs(x)


def initialise(net, draws):
  """Gives `net` its first weights: N(0, 0.02), of norms N(1, 0.02).

  Biases of convolutions stay as PyTorch draws them.

  Args:
    net: a player of one level.
    draws: by parameter name, N(0, 1) of the shapes of the `weight`s.
  """
  with torch.no_grad():
    for name, weight in net.named_parameters():
      if name.endswith('weight'):
        mean = 1.0 if name.startswith('norm') else 0.0
        weight.copy_(mean + 0.02 * draws[name])
      elif name.startswith('norm'):
        weight.zero_()
  return net


# One level, and all of them.

@dataclasses.dataclass
class Level:
  """A trained level, or the one in training.

  `z_opt` is the noise that `real` is reconstructed from, zeros but at the
  coarsest level; `amp` is what noise is multiplied by before G.
  """
  g: nn.Module
  d: nn.Module
  real: torch.Tensor  # [1, C, h, w]
  z_opt: torch.Tensor  # [1, 1 or C, h, w]
  amp: float = 1.0


def start_from(level, previous):
  """Starts a level from the trained one below if as wide; says whether it did.

  Statistics of the norms go along.
  """
  same = [a.shape for a in level.g.parameters()] == [
      b.shape for b in previous.g.parameters()]
  if same:
    for player in 'g', 'd':
      state = getattr(previous, player).state_dict()
      getattr(level, player).load_state_dict(copy.deepcopy(state))
  return same


def finish(level):
  """Freezes a level: its norms now go by their averages."""
  for net in level.g, level.d:
    net.eval().requires_grad_(False)


def noise_amp(real, prev, factor=0.1):
  """A level's noise: `factor` times the root mean square of what is missing.

  The mean is over all pixels and channels, of images in [-1, 1].
  """
  return factor * ((real - prev) ** 2).mean().sqrt().item()


def generate(level, z, prev):
  """Noise and the enlarged coarser image, both unpadded -> an image."""
  x = level.amp * z.expand(-1, level.real.shape[1], -1, -1) + prev
  return level.g(pad(x), pad(prev))


@torch.no_grad()
def coarser(level, lower, noises, r, eight_bit=True):
  """Runs the levels `lower`; returns what `level` gets, zeros if none."""
  levels = [*lower, level]
  image = torch.zeros_like(levels[0].real)
  for here, finer, z in zip(lower, levels[1:], noises, strict=True):
    assert not here.g.training
    image = generate(here, z, image)
    image = enlarge(image, r, finer.real.shape[-2:], eight_bit)
  return image


@torch.no_grad()
def sample(levels, noises, r, start_scale=0, eight_bit=True):
  """Images [N, C, H, W] of the finest level, clamped to [-1, 1].

  Args:
    levels: from coarse to fine, all frozen.
    noises: one a level; those below `start_scale` are not looked at.
    r: ratio of sizes, as `sizes` has it.
    start_scale: levels below it reconstruct. len(levels) reconstructs all.
    eight_bit: as in `resize`.
  """
  assert not levels[-1].g.training
  zs = [level.z_opt if i < start_scale else noises[i]
        for i, level in enumerate(levels)]
  prev = coarser(levels[-1], levels[:-1], zs[:-1], r, eight_bit)
  return generate(levels[-1], zs[-1], prev).clamp(-1, 1)


def prepare(level, lower, r, eight_bit=True):
  """Sets the level's `amp`; returns what it is to reconstruct `real` from.

  Once, before the first iteration: both stay.
  """
  prev = coarser(level, lower, [x.z_opt for x in lower], r, eight_bit)
  level.amp = noise_amp(level.real, prev) if lower else 1.0
  return prev


# Training.

def gradient_penalty(d, real, fake, eps, per='pixel', score='sum'):
  """Mean of (norm of D's gradient - 1)^2 at eps * real + (1 - eps) * fake.

  Args:
    d: gives a map of scores, [N, 1, h, w].
    real: [N, C, H, W].
    fake: [N, C, H, W].
    eps: in [0, 1], a number or [N, 1, 1, 1].
    per: 'pixel', with the norm over channels and the mean over pixels, or
      'image', with the norm over pixels and channels.
    score: whether the gradient is that of the 'sum' of the scores of an image
      or of their 'mean'.
  """
  x = (eps * real + (1 - eps) * fake).detach().requires_grad_()
  scores = getattr(d(x).flatten(1), score)(1)
  grad, = torch.autograd.grad(scores.sum(), x, create_graph=True)
  norm = (grad ** 2).sum({'pixel': 1, 'image': (1, 2, 3)}[per]).sqrt()
  return ((norm - 1) ** 2).mean()


def d_loss(d, real, fake, eps, per='pixel', score='sum', weight=0.1):
  """Wasserstein's loss with the penalty; returns (it, the penalty).

  Three passes, each with statistics of its own in the norms.
  """
  fake = fake.detach()
  loss = -d(real).mean() + d(fake).mean()
  penalty = gradient_penalty(d, real, fake, eps, per, score)
  return loss + weight * penalty, penalty


def g_loss(level, fake, prev_opt, alpha=10.0):
  """Returns (G's loss, the mean square that it reconstructs `real` with).

  `prev_opt` is what `prepare` returned.
  """
  adversarial = -level.d(fake).mean()
  rebuilt = generate(level, level.z_opt, prev_opt)
  error = F.mse_loss(rebuilt, level.real)
  return adversarial + alpha * error, error


def optimizers(level, learning_rate=5e-4):
  """Returns Adam for (G, D) of a level."""
  return [torch.optim.Adam(net.parameters(), learning_rate, (0.5, 0.999))
          for net in (level.g, level.d)]


def learning_rate(iteration, first=5e-4, drop_at=1600):
  """The rate of all steps of an iteration, counted from 0 in each level."""
  return first * (0.1 if iteration >= drop_at else 1)


class Draws(NamedTuple):
  """All that is random in one iteration."""
  z: torch.Tensor  # The level's noise, the same for all steps.
  eps: list  # Of a penalty, one a step of D.
  lower: list  # A step of D each: the noises of the levels below.
  z_opt: torch.Tensor | None = None  # Where the coarsest level redraws.


def _update(net, opt, loss):
  """Steps; the gradients of `net` stay in .grad, no other network has any."""
  weights = list(net.parameters())
  for p, grad in zip(weights, torch.autograd.grad(loss, weights),
                     strict=True):
    p.grad = grad
  opt.step()


def iteration(level, lower, opts, draws, prev_opt, r, *, redraw=True,
              per='pixel', score='sum', alpha=10.0, weight=0.1, g_steps=3,
              eight_bit=True):
  """One iteration: the steps of D, one a drawn epsilon, then those of G.

  G's steps see the noise of D's, and the coarser image of the last one; their
  fake is made anew by the G of the moment, before the reconstruction: so do
  the averages in its norms move.

  Args:
    level: in training; changed.
    lower: trained levels, frozen, from coarse to fine.
    opts: of `optimizers`.
    draws: a Draws.
    prev_opt: what `prepare` returned.
    r: ratio of sizes, as `sizes` has it.
    redraw: whether the coarsest level takes the `z_opt` of `draws`.
    per: as in `gradient_penalty`.
    score: as in `gradient_penalty`.
    alpha: weight of the reconstruction.
    weight: of the penalty.
    g_steps: steps of G.
    eight_bit: as in `resize`.

  Returns:
    dict of lists, a number a step: d_loss, penalty, g_loss, error.
  """
  level.g.train()
  level.d.train()
  g_opt, d_opt = opts
  logs = {name: [] for name in ('d_loss', 'penalty', 'g_loss', 'error')}
  if redraw and not lower:
    level.z_opt = draws.z_opt
  for eps, noises in zip(draws.eps, draws.lower, strict=True):
    prev = coarser(level, lower, noises, r, eight_bit)
    with torch.no_grad():
      fake = generate(level, draws.z, prev)
    loss, penalty = d_loss(level.d, level.real, fake, eps, per, score, weight)
    _update(level.d, d_opt, loss)
    logs['d_loss'].append(loss.item())
    logs['penalty'].append(penalty.item())
  for _ in range(g_steps):
    fake = generate(level, draws.z, prev)
    loss, error = g_loss(level, fake, prev_opt, alpha)
    _update(level.g, g_opt, loss)
    logs['g_loss'].append(loss.item())
    logs['error'].append(error.item())
  return logs


# The twin's own checks.

def _close(got, want, tolerance=1e-12):
  np.testing.assert_allclose(np.asarray(got, float), want, rtol=tolerance,
                             atol=tolerance)


def _check_sizes():
  # log(25 / 64) / log(0.75) = 3.27, so 4 + 1 = 5 ratios and 6 levels;
  # r = 0.390625^(1 / 5) = 0.8286.
  got, r = sizes(64, 64)
  assert [h for h, _ in got] == [25, 31, 37, 44, 54, 64]
  _close(r, 0.8286, 1e-4)
  for side, least, want in (
      (32, 25, [26, 29, 32]), (32, 11, [12, 14, 17, 21, 26, 32]),
      (64, 18, [18, 23, 28, 34, 42, 52, 64]),
      (128, 25, [25, 32, 40, 51, 64, 81, 102, 128]),
      (256, 25, [26, 33, 42, 54, 70, 90, 117, 150, 194, 250])):
    got, _ = sizes(side, side, least)
    assert got == [(n, n) for n in want], got
  assert [width_of(i) for i in (0, 3, 4, 7, 8, 12)] == [
      32, 32, 64, 64, 128, 128]
  # The shorter side settles the count: 40 pixels to 25 are 1.63 factors, so
  # 2 + 1 ratios; r = 0.625^(1 / 3) = 0.85499 and 60 r^3 = 37.5.
  got, r = sizes(40, 60)
  assert (len(got), got[0][1], got[-1]) == (4, 38, (40, 60)), got
  # Whatever the size, a level enlarged covers the next one.
  for side in range(25, 301):
    for least in (11, 18, 25):
      got, r = sizes(side, side, least)
      for (coarse, _), (fine, _) in zip(got, got[1:], strict=False):
        assert math.ceil(coarse * (1 / r)) >= fine, (side, least, got)


def _check_resize():
  # Twice the size: pixels lie 0.25 and 0.75 from their neighbours, where the
  # kernel is 0.8671875 and 0.2265625; at 1.25 and 1.75 it is -0.0703125 and
  # -0.0234375. Their sum is 1.
  near, middle, far, last = 0.8671875, 0.2265625, -0.0703125, -0.0234375
  matrix = resize_matrix(8, 16, 2)
  _close(matrix[6, 1:5], (last, middle, near, far))
  _close(matrix[7, 2:6], (far, near, middle, last))
  # The first lies a quarter before the first pixel, whose mirror is itself.
  _close(matrix[0, :3], (near + middle, far + last, 0))
  # Half the size: the kernel of twice the width, at 0.5, 1.5, 2.5 and 3.5.
  half = np.array([last, far, middle, near, near, middle, far, last]) / 2
  _close(resize_matrix(16, 8, 0.5)[3, 3:11], half)
  # Off the borders PyTorch's cubic with antialias is the same.
  x = torch.tensor(np.random.default_rng(0).uniform(-1, 1, (2, 3, 40, 60)))
  for to in (20, 36), (50, 75), (28, 66):
    want = F.interpolate(x, to, mode='bicubic', antialias=True,
                         align_corners=False)
    got = resize(x, to, eight_bit=False)
    _close(got[..., 9:-9, 9:-9], want[..., 9:-9, 9:-9], 1e-6)
  # Positions go by the scale, not by the rounded size: 9 * 1.3 makes 12, and
  # the sixth lies at 6 / 1.3 + (1 - 1 / 1.3) / 2 = 4.7307692 counted from 1
  # (by 12 / 9 at 4.625). Enlarging keeps a ramp a ramp.
  ramp = (torch.arange(9.) / 9).double().view(1, 1, 1, 9)
  _close(9 * resize(ramp, 1.3, False)[0, 0, 0, 5], 3.7307692, 1e-7)
  # 0.3 is 165.75 of 255: cut to 165, -1 + 330 / 255 = 0.29411..; 1.7 is clamped
  # to 1, -3 to -1. Nothing else changes a flat image.
  for value, want in (0.3, -1 + 330 / 255), (1.7, 1), (-3, -1):
    flat = torch.full((1, 3, 7, 9), value, dtype=torch.float64)
    _close(resize(flat, 1.3), np.full((1, 3, 10, 12), want))
  flat = torch.full((1, 1, 5, 5), 0.3, dtype=torch.float64)
  _close(resize(flat, (4, 9), False), np.full((1, 1, 4, 9), 0.3))
  reals, r = pyramid(x[:1], 25, 50)
  assert [x.shape[-2:] for x in reals][-1] == (34, 50)
  assert r == sizes(40, 60, 25, 50)[1]
  for kind, lost in (torch.float32, 63), (torch.float64, 20):
    bits = 2 * (torch.arange(256, dtype=kind) / 255 - 0.5)
    assert (quantise(bits) != torch.arange(256)).sum() == lost


def _small_level(size=13, width=3, seed=0, channels=3):
  """A level in float64 with weights and averages of no symmetry."""
  rng = np.random.default_rng(seed)
  nets = [make(channels, width).double()
          for make in (Generator, Discriminator)]
  with torch.no_grad():
    for net in nets:
      for name, p in net.named_parameters():
        fan_in = p[0].numel() if p.ndim > 1 else 4
        mean = 1 if name.startswith('norm') and name.endswith('weight') else 0
        p.copy_(torch.tensor(rng.normal(mean, fan_in ** -0.5, p.shape)))
  shape = (1, channels, size, size)
  return Level(*nets, torch.tensor(rng.uniform(-1, 1, shape)),
               torch.tensor(rng.normal(size=(1, 1, size, size))))


def _check_networks():
  for width, *want in (32, 29763, 29185), (64, 114819, 113665), (
      128, 450819, 448513):
    nets = Generator(width=width), Discriminator(width=width)
    assert [sum(p.numel() for p in net.parameters()) for net in nets] == want
  level = _small_level(25)
  finish(level)
  x = level.real.requires_grad_()
  scores = level.d(x)
  assert scores.shape == (1, 1, 15, 15)
  seen, = torch.autograd.grad(scores[0, 0, 7, 7], x)
  rows, columns = seen[0].abs().sum(0).nonzero().T
  assert (rows.min(), rows.max(), columns.min(), columns.max()) == (
      7, 17, 7, 17)  # 11 x 11.
  z = torch.randn(2, 3, 25, 25).double().requires_grad_()
  image = generate(level, z, torch.zeros_like(x))
  assert image.shape == (2, 3, 25, 25)
  seen, = torch.autograd.grad(image[0, 0, 12, 12], z)
  assert (seen[0].abs().sum(0) > 0).sum() == 121 and not seen[1].any()
  # G adds to the image: with the last layer at zero nothing is added.
  level.g['conv_4'].weight.zero_()
  level.g['conv_4'].bias.zero_()
  _close(generate(level, z, x).detach(), x.detach().expand(2, -1, -1, -1))
  draws = {name: torch.ones_like(p) for name, p in level.d.named_parameters()}
  bias = level.d['conv_0'].bias.clone()
  initialise(level.d, draws)
  _close(level.d['conv_4'].weight, np.full((1, 3, 3, 3), 0.02))
  _close(level.d['norm_2'].weight, np.full(3, 1.02))
  _close(level.d['norm_2'].bias, np.zeros(3))
  _close(level.d['conv_0'].bias, bias)


class _Linear(nn.Module):
  """Every pixel's score is r + 2 g + 2 b: the gradient's norm is 3."""

  def forward(self, x):
    return (x * x.new_tensor([1, 2, 2])[:, None, None]).sum(1, keepdim=True)


def _check_losses():
  real = torch.ones(1, 3, 2, 2).double()
  fake = real / 2
  # Per pixel: (3 - 1)^2 = 4 of the sum; of the mean over four, 3 / 4: 1 / 16.
  # Per image: the sum has 3 * sqrt(4) = 6 and (6 - 1)^2 = 25; the mean has
  # 6 / 4 and 1 / 4.
  for (per, score), want in {
      ('pixel', 'sum'): 4, ('pixel', 'mean'): 1 / 16,
      ('image', 'sum'): 25, ('image', 'mean'): 1 / 4}.items():
    _close(gradient_penalty(_Linear(), real, fake, 0.3, per, score).detach(),
           want)
  # D(real) = 5, D(fake) = 2.5: -5 + 2.5 + 0.1 * 4 = -2.1.
  _close(d_loss(_Linear(), real, fake, 0.3)[0].detach(), -2.1)
  # What G makes of a zero body is `prev`: 0.9 for 1 is off by 0.1, so
  # -2.5 + 10 * 0.01 = -2.4. And a tenth of 0.1 is the noise's amplitude.
  level = Level(Generator(width=2).double(), _Linear(), real,
                torch.zeros_like(real))
  with torch.no_grad():
    for p in level.g['conv_4'].parameters():
      p.zero_()
  loss, error = g_loss(level, fake, 0.9 * real)
  _close((loss.item(), error.item()), (-2.4, 0.01))
  _close(noise_amp(real, 0.9 * real), 0.01)
  _close([learning_rate(i) for i in (0, 1599, 1600)], (5e-4, 5e-4, 5e-5))


def _check_penalty():
  """The penalty and its gradient against finite differences, in float64."""
  level, eps, h = _small_level(), 0.37, 1e-6
  real, d = level.real, level.d.train()
  fake = torch.tensor(np.random.default_rng(1).uniform(-1, 1, real.shape))
  x = eps * real + (1 - eps) * fake
  slopes = torch.zeros_like(x)
  with torch.no_grad():
    for i in range(x.numel()):
      step = torch.zeros_like(x)
      step.view(-1)[i] = h
      slopes.view(-1)[i] = (d(x + step).sum() - d(x - step).sum()) / (2 * h)
  for score, share in ('sum', 1), ('mean', d(x).numel()):
    per_pixel = ((slopes / share).square().sum(1).sqrt() - 1).square().mean()
    per_image = ((slopes / share).square().sum().sqrt() - 1).square()
    for per, want in ('pixel', per_pixel), ('image', per_image):
      got = gradient_penalty(d, real, fake, eps, per, score)
      _close(got.detach(), want, 1e-6)
      weights = [d['conv_0'].weight, d['norm_1'].weight, d['conv_4'].weight]
      grads = torch.autograd.grad(got, weights)
      for weight, grad in zip(weights, grads, strict=True):
        for i in (0, weight.numel() - 1):
          flat, values = weight.data.view(-1), []
          for side in h, -2 * h, h:
            flat[i] += side
            values.append(gradient_penalty(d, real, fake, eps, per,
                                           score).item())
          slope = (values[0] - values[1]) / (2 * h)
          _close(grad.flatten()[i], slope, 1e-5 * max(1, abs(slope)))


def _check_training():
  rng = np.random.default_rng(3)
  def noise(*shape):
    return torch.tensor(rng.normal(size=shape))
  image = torch.tensor(rng.uniform(-0.9, 0.9, (1, 3, 20, 16)))
  reals, r = pyramid(image, 13)
  shapes = [tuple(x.shape[-2:]) for x in reals]
  assert shapes == [(17, 13), (19, 15), (20, 16)]
  def noises(count, upto):
    return [noise(count, 3 if i else 1, *shape)
            for i, shape in enumerate(shapes[:upto])]
  trained = []
  for i, real in enumerate(reals):
    level = _small_level(seed=5 + i)
    level.real = real
    level.z_opt = torch.zeros_like(real) if i else noise(1, 1, *shapes[0])
    if i == 1:
      assert start_from(level, trained[0])
      _close(level.g['norm_0'].running_var, trained[0].g['norm_0'].running_var)
    prev_opt = prepare(level, trained, r)
    opts = optimizers(level)
    first_z, before = level.z_opt, copy.deepcopy(level.g)
    draws = Draws(noises(1, i + 1)[-1], list(rng.uniform(size=3)),
                  [noises(1, i) for _ in range(3)], noise(1, 1, *shapes[0]))
    logs = iteration(level, trained, opts, draws, prev_opt, r,
                     **(PUBLISHED if i < 2 else PAPER))
    assert (level.z_opt is first_z) == bool(i)  # Redrawn only at the coarsest.
    assert [len(x) for x in logs.values()] == [3] * 4
    # A step of Adam's is about 5e-4 long, and three of them were taken.
    moved = (level.g['conv_0'].weight - before['conv_0'].weight).abs().max()
    assert 5e-4 < moved < 3 * 5e-4 * 1.7, moved
    # One pass of G in a step of D's, two in one of its own.
    count = 9 + before['norm_0'].num_batches_tracked
    assert level.g['norm_0'].num_batches_tracked == count
    finish(level)
    trained.append(level)
  # All of it by hand: noise at the coarsest level, zeros at the others.
  image = torch.zeros_like(reals[0])
  for i, level in enumerate(trained):
    if i:
      image = enlarge(image, r, shapes[i])
      missing = (image - reals[i]).numpy()
      _close(level.amp, 0.1 * np.sqrt(np.mean(missing ** 2)))
    x = level.z_opt if i else level.z_opt.repeat(1, 3, 1, 1)
    x = F.pad(image + (0 if i else x), (5, 5, 5, 5))
    image = torch.tanh(level.g.convs(x)) + image
  zs = noises(2, 3)
  images = [sample(trained, zs, r, start) for start in range(4)]
  assert [len(x) for x in images] == [2, 2, 2, 1]
  _close(images[3], image.clamp(-1, 1))
  # From the finest scale on: noise there alone, times its amplitude.
  with_noise = F.pad(trained[2].amp * zs[2] + prev_opt, (5, 5, 5, 5))
  _close(images[2], (torch.tanh(trained[2].g.convs(with_noise))
                     + prev_opt).clamp(-1, 1))
  # Noise below the start scale is not looked at; above it, it is.
  _close(images[1], sample(trained, [None, *zs[1:]], r, 1))
  assert not torch.equal(images[1], images[0])
  assert not torch.equal(images[2][0], images[2][1])


def _check_against_autograd():
  """The steps of an iteration once more, by what their losses are.

  At the coarsest level, where D sees G of noise alone; with statistics of the
  norms by F.batch_norm, Adam by its formula.
  """
  rng = np.random.default_rng(4)
  level = _small_level()
  mine = [dict(copy.deepcopy(net).named_parameters())
          for net in (level.g, level.d)]
  moments = [{k: [0, 0] for k in weights} for weights in mine]
  z, z_opt = (torch.tensor(rng.normal(size=(1, 1, 13, 13))) for _ in range(2))
  epsilons = list(rng.uniform(size=3))
  def run(weights, x):
    for i in range(5):
      x = F.conv2d(x, weights[f'conv_{i}.weight'], weights[f'conv_{i}.bias'])
      if i < 4:
        x = F.batch_norm(x, None, None, weights[f'norm_{i}.weight'],
                         weights[f'norm_{i}.bias'], training=True)
        x = torch.where(x > 0, x, 0.2 * x)
    return x
  def fake(noise):
    return torch.tanh(run(mine[0], F.pad(noise.repeat(1, 3, 1, 1), [5] * 4)))
  def adam(player, loss, t):
    grads = torch.autograd.grad(loss, list(mine[player].values()))
    for (k, p), grad in zip(mine[player].items(), grads, strict=True):
      m, v = moments[player][k]
      m, v = 0.5 * m + 0.5 * grad, 0.999 * v + 0.001 * grad ** 2
      moments[player][k] = m, v
      p.data -= 5e-4 * m / (1 - 0.5 ** t) / (
          (v / (1 - 0.999 ** t)).sqrt() + 1e-8)
  want = []
  for t, eps in enumerate(epsilons, 1):
    made = fake(z).detach()
    x = (eps * level.real + (1 - eps) * made).requires_grad_()
    grad, = torch.autograd.grad(run(mine[1], x).sum(), x, create_graph=True)
    penalty = (grad.norm(dim=1) - 1).square().mean()
    loss = (run(mine[1], made).mean() - run(mine[1], level.real).mean()
            + 0.1 * penalty)
    want.append(loss.item())
    adam(1, loss, t)
  for t in 1, 2, 3:
    loss = (10 * (fake(z_opt) - level.real).square().mean()
            - run(mine[1], fake(z)).mean())
    want.append(loss.item())
    adam(0, loss, t)
  prev_opt = prepare(level, [], 0.8)
  logs = iteration(level, [], optimizers(level),
                   Draws(z, epsilons, [[]] * 3, z_opt), prev_opt, 0.8)
  _close(logs['d_loss'] + logs['g_loss'], want, 1e-8)


if __name__ == '__main__':
  torch.manual_seed(0)
  _check_sizes()
  _check_resize()
  _check_networks()
  _check_losses()
  _check_penalty()
  _check_training()
  _check_against_autograd()
  print('OK')
