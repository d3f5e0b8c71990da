"""CycleGAN and its training step in PyTorch: a twin for tests.

Two generators between two sets of images, after "Unpaired Image-to-Image
Translation using Cycle-Consistent Adversarial Networks" (Zhu et al., ICCV
2017) and section 4.1 of the project's reference facts.

G_A makes images of B from those of A, and D_A judges images of B; G_B and D_B
go the other way. Images are [N, C, H, W] in [-1, 1]. Nothing here draws: the
pools' choices are arguments.

`python -m tests.torch_twins.cyclegan` checks the twin against formulas.
"""
import dataclasses
import itertools
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

# The networks. Instance norms have neither weights nor averages: each channel
# of each image by its own mean and its variance (divided by the pixels' count)
# plus 1e-5.


def residual_blocks(size):
  """Blocks of a generator of images of `size` pixels' side: 6 to 128, or 9."""
  return 6 if size <= 128 else 9


def _reflect(x, by):
  return F.pad(x, (by,) * 4, mode='reflect')


class Generator(nn.ModuleDict):
  """[N, C, H, W] -> [N, C, H, W] of the other set; sides divide by 4."""

  def __init__(self, channels=3, width=64, blocks=9):
    super().__init__()
    self.blocks = blocks
    self['stem'] = nn.Conv2d(channels, width, 7)
    for i in range(2):
      self[f'down_{i}'] = nn.Conv2d(width << i, width << i + 1, 3, 2, 1)
    for i, j in itertools.product(range(blocks), range(2)):
      self[f'block_{i}_conv_{j}'] = nn.Conv2d(4 * width, 4 * width, 3)
    for i in range(2):
      self[f'up_{i}'] = nn.ConvTranspose2d(
          4 * width >> i, 2 * width >> i, 3, 2, 1, output_padding=1)
    self['image'] = nn.Conv2d(width, channels, 7)

  def _active(self, name, x):
    return F.relu(F.instance_norm(self[name](x)))

  def forward(self, x):
    x = self._active('stem', _reflect(x, 3))
    for i in range(2):
      x = self._active(f'down_{i}', x)
    for i in range(self.blocks):
      h = self._active(f'block_{i}_conv_0', _reflect(x, 1))
      h = self[f'block_{i}_conv_1'](_reflect(h, 1))
      x = x + F.instance_norm(h)
    for i in range(2):
      x = self._active(f'up_{i}', x)
    return torch.tanh(self['image'](_reflect(x, 3)))


class Discriminator(nn.ModuleDict):
  """[N, C, H, W] -> scores of patches of 70 x 70, [N, 1, H/8 - 2, W/8 - 2]."""

  def __init__(self, channels=3, width=64):
    super().__init__()
    for i, stride in enumerate((2, 2, 2, 1)):
      inputs = width << i - 1 if i else channels
      self[f'conv_{i}'] = nn.Conv2d(inputs, width << i, 4, stride, 1)
    self['score'] = nn.Conv2d(8 * width, 1, 4, 1, 1)

  def forward(self, x):
    for i in range(4):
      x = self[f'conv_{i}'](x)
      x = F.leaky_relu(F.instance_norm(x) if i else x, 0.2)
    return self['score'](x)


def initialise(net, draws):
  """Weights N(0, 0.02), biases 0; `draws` has N(0, 1) by parameter name."""
  with torch.no_grad():
    for name, p in net.named_parameters():
      p.copy_(0.02 * draws[name] if p.ndim > 1 else torch.zeros_like(p))
  return net


# Losses.

def least_squares(scores, target):
  """Mean square of scores' distances to 1, for real, or to 0."""
  return ((scores - target) ** 2).mean()


def d_loss(d, real, fake):
  """Half the sum of both errors; no gradient goes to the fake's maker."""
  return (least_squares(d(real), 1) + least_squares(d(fake.detach()), 0)) / 2


@dataclasses.dataclass
class Nets:
  """The four players."""
  g_a: nn.Module  # A -> B.
  g_b: nn.Module  # B -> A.
  d_a: nn.Module  # Judges B.
  d_b: nn.Module  # Judges A.


def translate(nets, real_a, real_b):
  """Returns (fake B, fake A)."""
  return nets.g_a(real_a), nets.g_b(real_b)


def g_loss(nets, real_a, real_b, fake_b, fake_a, cycle=10.0, identity=0.5):
  """What both generators lower together, and its parts before weighting.

  Args:
    nets: the players.
    real_a: [N, C, H, W].
    real_b: [N, C, H, W].
    fake_b: G_A(real_a), with its graph.
    fake_a: G_B(real_b), with its graph.
    cycle: weight of the mean absolute errors after both ways.
    identity: weight of those of a generator on what it should leave alone,
      as a share of `cycle`. At 0 nothing is computed.

  Returns:
    (loss, dict of adversarial_a, adversarial_b, cycle_a, cycle_b, identity_a,
    identity_b). A part's letter is that of the player or the image at its
    start, but for identity: identity_a is that of G_A, on images of B.
  """
  parts = {
      'adversarial_a': least_squares(nets.d_a(fake_b), 1),
      'adversarial_b': least_squares(nets.d_b(fake_a), 1),
      'cycle_a': F.l1_loss(nets.g_b(fake_b), real_a),
      'cycle_b': F.l1_loss(nets.g_a(fake_a), real_b),
      'identity_a': real_a.new_zeros(()), 'identity_b': real_a.new_zeros(())}
  if identity:
    parts['identity_a'] = F.l1_loss(nets.g_a(real_b), real_b)
    parts['identity_b'] = F.l1_loss(nets.g_b(real_a), real_a)
  weights = {'adversarial': 1, 'cycle': cycle, 'identity': cycle * identity}
  loss = sum(weights[name[:-2]] * part for name, part in parts.items())
  return loss, parts


class Pool:
  """The last fakes, `size` at most, for a discriminator to see older ones.

  An image comes in and one goes out:

  * A pool of size 0 hands on what it gets.
  * One not yet full stores the image and hands it on.
  * One that is full hands on either the image, which it then does not store,
    or, if `swap`, the stored one at `index`, whose place the image takes.

  So a stored fake goes out a second time when it leaves, and never after. The
  images of a batch come in one after the other, and see each other.
  """

  def __init__(self, size=50):
    self.size, self.images = size, []

  def __call__(self, images, choices):
    """Returns the images [N, C, H, W] for D.

    Args:
      images: [N, C, H, W], new fakes.
      choices: (swap, index) of each: swap of probability 1/2, index uniform in
        0 ... size - 1, the two independent. Not looked at until full.
    """
    out = []
    for image, (swap, index) in zip(images.detach(), choices, strict=True):
      image = image.clone()
      if len(self.images) < self.size:
        self.images.append(image)
      elif self.size and swap:
        image, self.images[index] = self.images[index], image
      out.append(image)
    return torch.stack(out)


# Training.

def linear_decay(epoch, constant=100, decay=100, epoch_count=1):
  """The learning rate's factor in an epoch, counted from 0.

  1 - max(0, epoch + 1 + epoch_count - constant) / (decay + 1). With the first
  epoch's usual name, 1, the last epoch has 0; with 0 it has 1 / (decay + 1),
  as later versions of the published code have it.
  """
  return 1 - max(0, epoch + 1 + epoch_count - constant) / (decay + 1)


class Optimizers(NamedTuple):
  """One of the generators' weights together, one of the discriminators'."""
  g: torch.optim.Optimizer
  d: torch.optim.Optimizer


def optimizers(nets, learning_rate=2e-4):
  """Adam, with the betas 0.5 and 0.999, for both pairs of players."""
  return Optimizers(*(
      torch.optim.Adam([*first.parameters(), *second.parameters()],
                       learning_rate, (0.5, 0.999))
      for first, second in ((nets.g_a, nets.g_b), (nets.d_a, nets.d_b))))


class Draws(NamedTuple):
  """All that is random in one step: choices of the pools, one an image."""
  pool_b: list  # For fakes of B, that D_A sees.
  pool_a: list  # For fakes of A, that D_B sees.


def _gradients(loss, *nets):
  """Leaves the gradients in .grad of the given networks only."""
  weights = [p for net in nets for p in net.parameters()]
  for p, grad in zip(weights, torch.autograd.grad(loss, weights),
                     strict=True):
    p.grad = grad


def step(nets, opts, real_a, real_b, pool_b, pool_a, draws, *, cycle=10.0,
         identity=0.5):
  """Both generators at once, then D_A's gradients, D_B's, and their update.

  Fakes are made once, before the generators' update, and the discriminators
  see those, through the pools. Neither D's loss depends on the other D: one
  Adam for both is two, and their order is that of the pools' draws alone.

  Args:
    nets: changed.
    opts: of `optimizers`.
    real_a: [N, C, H, W].
    real_b: [N, C, H, W].
    pool_b: a Pool, of fakes of B; changed.
    pool_a: a Pool, of fakes of A; changed.
    draws: a Draws.
    cycle: as in `g_loss`.
    identity: as in `g_loss`.

  Returns:
    dict of numbers: g_loss, its parts before weighting, d_loss_a, d_loss_b.
  """
  fake_b, fake_a = translate(nets, real_a, real_b)
  loss, parts = g_loss(nets, real_a, real_b, fake_b, fake_a, cycle, identity)
  _gradients(loss, nets.g_a, nets.g_b)
  opts.g.step()
  logs = {'g_loss': loss, **parts}
  logs['d_loss_a'] = d_loss(nets.d_a, real_b, pool_b(fake_b, draws.pool_b))
  _gradients(logs['d_loss_a'], nets.d_a)
  logs['d_loss_b'] = d_loss(nets.d_b, real_a, pool_a(fake_a, draws.pool_a))
  _gradients(logs['d_loss_b'], nets.d_b)
  opts.d.step()
  return {name: value.item() for name, value in logs.items()}


# The twin's own checks.

def _close(got, want, tolerance=1e-12):
  np.testing.assert_allclose(np.asarray(got, float), want, rtol=tolerance,
                             atol=tolerance)


def _random(net, rng):
  """`net` in float64 with weights and biases that are not small."""
  with torch.no_grad():
    for p in net.double().parameters():
      deviation = p[0].numel() ** -0.5 if p.ndim > 1 else 0.3
      p.copy_(deviation * torch.tensor(rng.normal(size=p.shape)))
  return net


def _check_networks():
  # A block has 2 * (256 * 256 * 9 + 256) = 1,180,160: three fewer than nine
  # leave 11,378,179 - 3,540,480 = 7,837,699.
  for make, want in ((Generator, 11378179), (Discriminator, 2764737),
                     (lambda: Generator(blocks=6), 7837699)):
    assert sum(p.numel() for p in make().parameters()) == want
  assert [residual_blocks(n) for n in (64, 128, 256)] == [6, 6, 9]
  rng = np.random.default_rng(0)
  d = _random(Discriminator(width=2), rng)
  x = torch.tensor(rng.uniform(-1, 1, (1, 3, 256, 256))).requires_grad_()
  # 256 -> 128 -> 64 -> 32 -> 31 -> 30.
  assert d(x).shape == (1, 1, 30, 30)
  # Without the norms, which see all of an image, a score sees 70 x 70:
  # 1, 4, 7, then 2 * (7 - 1) + 4 = 16, 34, 70.
  h = x
  for i in range(4):
    h = F.leaky_relu(d[f'conv_{i}'](h), 0.2)
  seen, = torch.autograd.grad(d['score'](h)[0, 0, 15, 15], x)
  rows, columns = seen[0].abs().sum(0).nonzero().T
  assert rows.max() - rows.min() == columns.max() - columns.min() == 69
  g = _random(Generator(width=2, blocks=1), rng)
  assert g(x[..., :12, :20]).shape == (1, 3, 12, 20)
  # A norm by hand: 0, 2, 4, 6 have mean 3 and variance 5.
  _close(F.instance_norm(torch.tensor([[[[0., 2], [4, 6]]]]).double())[0, 0, 0],
         np.array([-3, -1]) / np.sqrt(5 + 1e-5))
  # And reflection leaves the border out: 2 1 | 0 1 2 | 1 0.
  _close(_reflect(torch.arange(3.).repeat(1, 1, 3, 1), 2)[0, 0, 0],
         [2, 1, 0, 1, 2, 1, 0])
  # Biases before a norm change nothing.
  before = g(x[..., :16, :16]).detach()
  for name in 'stem', 'down_0', 'block_0_conv_0', 'block_0_conv_1', 'up_1':
    g[name].bias.data += 1
  _close(g(x[..., :16, :16]).detach(), before, 1e-9)
  draws = {name: torch.ones_like(p) for name, p in g.named_parameters()}
  initialise(g, draws)
  _close(g['up_0'].weight.detach(), np.full((8, 4, 3, 3), 0.02))
  assert not g['image'].bias.any()


def _layer_by_layer():
  """All layers once more, without torch's convolutions: sums over pixels."""
  rng = np.random.default_rng(1)
  g = _random(Generator(channels=1, width=1, blocks=1), rng)
  d = _random(Discriminator(channels=1, width=1), rng)
  x = rng.uniform(-1, 1, (1, 8, 12))
  def conv(name, x, stride, net=g):
    weight, bias = (p.detach().numpy() for p in net[name].parameters())
    k = weight.shape[-1]
    h, w = ((n - k) // stride + 1 for n in x.shape[1:])
    out = np.empty((len(weight), h, w))
    for i, j in np.ndindex(h, w):
      part = x[:, i * stride:i * stride + k, j * stride:j * stride + k]
      out[:, i, j] = (weight * part).sum((1, 2, 3)) + bias
    return out
  def up(name, x):
    # Pixel (i, j) adds to 2 i - 1 ... 2 i + 1, of twice as many.
    weight, bias = (p.detach().numpy() for p in g[name].parameters())
    h, w = x.shape[1:]
    out = np.zeros((weight.shape[1], 2 * h + 2, 2 * w + 2))
    for i, j in np.ndindex(h, w):
      out[:, 2 * i:2 * i + 3, 2 * j:2 * j + 3] += np.tensordot(
          x[:, i, j], weight, 1)
    return out[:, 1:-1, 1:-1] + bias[:, None, None]
  def norm(x):
    return (x - x.mean((1, 2), keepdims=True)) / np.sqrt(
        x.var((1, 2), keepdims=True) + 1e-5)
  def margin(x, by, mode):
    return np.pad(x, ((0, 0), (by, by), (by, by)), mode)
  h = np.maximum(norm(conv('stem', margin(x, 3, 'reflect'), 1)), 0)
  for name in 'down_0', 'down_1':
    h = np.maximum(norm(conv(name, margin(h, 1, 'constant'), 2)), 0)
  inner = np.maximum(
      norm(conv('block_0_conv_0', margin(h, 1, 'reflect'), 1)), 0)
  h = h + norm(conv('block_0_conv_1', margin(inner, 1, 'reflect'), 1))
  for name in 'up_0', 'up_1':
    h = np.maximum(norm(up(name, h)), 0)
  want = np.tanh(conv('image', margin(h, 3, 'reflect'), 1))
  _close(g(torch.tensor(x)[None])[0].detach(), want, 1e-9)
  h = x = rng.uniform(-1, 1, (1, 32, 40))
  for i in range(4):
    h = conv(f'conv_{i}', margin(h, 1, 'constant'), 2 if i < 3 else 1, d)
    h = norm(h) if i else h
    h = np.maximum(h, 0.2 * h)
  want = conv('score', margin(h, 1, 'constant'), 1, d)
  assert want.shape == (1, 2, 3)
  _close(d(torch.tensor(x)[None])[0].detach(), want, 1e-9)


def _check_losses():
  # Scores 0.8 and 0.3: ((0.8 - 1)^2 + 0.3^2) / 2 = (0.04 + 0.09) / 2.
  real, fake = (torch.full((1, 3, 4, 4), v, dtype=torch.float64)
                for v in (0.8, 0.3))
  _close(d_loss(nn.Identity(), real, fake), 0.065)
  # With A = 0.2, B = 0.4, G_A(x) = 2 x + 0.3, G_B(x) = x / 2, D_A(x) = x
  # and D_B(x) = -x: fakes are B 0.7 and A 0.2; adversarial (0.7 - 1)^2 = 0.09
  # and (-0.2 - 1)^2 = 1.44; cycles |0.35 - 0.2| = 0.15 and
  # |0.7 - 0.4| = 0.3; identities |1.1 - 0.4| = 0.7 and |0.1 - 0.2| = 0.1.
  # In all 0.09 + 1.44 + 10 * 0.45 + 5 * 0.8 = 10.03.
  nets = Nets(lambda x: 2 * x + 0.3, lambda x: x / 2, lambda x: x,
              lambda x: -x)
  a, b = (torch.full((2, 3, 4, 4), v, dtype=torch.float64) for v in (0.2, 0.4))
  loss, parts = g_loss(nets, a, b, *translate(nets, a, b))
  _close([*parts.values()], [0.09, 1.44, 0.15, 0.3, 0.7, 0.1])
  _close(loss, 10.03)
  _close(g_loss(nets, a, b, *translate(nets, a, b), identity=0)[0], 6.03)
  # 100 epochs of 1, then down to 0 (or 1 / 101).
  _close([linear_decay(e) for e in (0, 98, 99, 149, 199)],
         [1, 1, 1 - 1 / 101, 1 - 51 / 101, 0])
  _close([linear_decay(e, epoch_count=0) for e in (0, 99, 100, 199)],
         [1, 1, 1 - 1 / 101, 1 / 101])


def _check_pool():
  def image(value):
    return torch.full((1, 1, 1, 1), float(value))
  pool, out = Pool(2), []
  # 1 and 2 are stored; 3 passes; 4 goes in for 1, 5 for 4, 6 for 2.
  for value, choice in ((1, (True, 0)), (2, (True, 0)), (3, (False, 0)),
                        (4, (True, 0)), (5, (True, 0)), (6, (True, 1))):
    out.append(pool(image(value), [choice]).item())
  assert out == [1, 2, 3, 1, 4, 2], out
  assert [x.item() for x in pool.images] == [5, 6]
  # In a batch the second image may take out the first.
  batch = torch.cat([image(7), image(8)])
  assert pool(batch, [(True, 0), (True, 0)]).flatten().tolist() == [5, 7]
  assert Pool(0)(batch, [(True, 0)] * 2).flatten().tolist() == [7, 8]
  # What is stored is the picture, not the memory of it.
  pool, x = Pool(1), image(1)
  pool(x, [(False, 0)])
  x += 1
  assert pool(x, [(True, 0)]).item() == 1


def _small_nets():
  rng = np.random.default_rng(2)
  nets = Nets(*(_random(Generator(width=2, blocks=1), rng) for _ in range(2)),
              *(_random(Discriminator(width=2), rng) for _ in range(2)))
  return nets, [torch.tensor(rng.uniform(-1, 1, (1, 3, 32, 32)))
                for _ in range(2)]


def _check_gradients():
  """All losses' gradients against finite differences, in float64."""
  nets, (a, b) = _small_nets()
  fakes = [x.detach() for x in translate(nets, a, b)]
  cases = [
      (lambda: g_loss(nets, a, b, *translate(nets, a, b))[0],
       [*nets.g_a.values(), *nets.g_b.values()]),
      (lambda: d_loss(nets.d_a, b, fakes[0]), [*nets.d_a.values()]),
      (lambda: d_loss(nets.d_b, a, fakes[1]), [*nets.d_b.values()])]
  h, checked = 1e-6, 0
  for loss, layers in cases:
    weights = [layer.weight for layer in layers]
    grads = torch.autograd.grad(loss(), weights)
    for weight, grad in zip(weights, grads, strict=True):
      for i in (0, weight.numel() // 2):
        flat, values = weight.data.view(-1), []
        for side in h, -2 * h, h:
          flat[i] += side
          values.append(loss().item())
        slope = (values[0] - values[1]) / (2 * h)
        _close(grad.flatten()[i], slope, 1e-5 * max(1, abs(slope)))
        checked += 1
  assert checked == 2 * (2 * 8 + 2 * 5), checked


def _check_step():
  """A first step of Adam's is the rate times the gradient's sign."""
  nets, (a, b) = _small_nets()
  players = [nets.g_a, nets.g_b, nets.d_a, nets.d_b]
  before = [[p.detach().clone() for p in net.parameters()] for net in players]
  pools = Pool(), Pool()
  fakes = [x.detach() for x in translate(nets, a, b)]
  generators = [p for net in players[:2] for p in net.parameters()]
  # D's losses are of the fakes that G's update did not change.
  loss = g_loss(nets, a, b, *translate(nets, a, b))[0]
  want = [torch.autograd.grad(loss, generators)]
  scores = [nets.d_a(b), nets.d_a(fakes[0]), nets.d_b(a), nets.d_b(fakes[1])]
  errors = [(x - y).square().mean() for x, y in zip(scores, (1, 0, 1, 0),
                                                    strict=True)]
  want += [torch.autograd.grad(error / 2, list(net.parameters()))
           for net, error in ((nets.d_a, errors[0] + errors[1]),
                              (nets.d_b, errors[2] + errors[3]))]
  want = [grad for grads in want for grad in grads]
  logs = step(nets, optimizers(nets), a, b, *pools,
              Draws([(True, 3)], [(False, 7)]))
  _close([logs[x] for x in ('g_loss', 'd_loss_a', 'd_loss_b')],
         [loss.item(), (errors[0] + errors[1]).item() / 2,
          (errors[2] + errors[3]).item() / 2], 1e-9)
  _close(sum(logs[f'adversarial_{x}'] + 10 * logs[f'cycle_{x}']
             + 5 * logs[f'identity_{x}'] for x in 'ab'), logs['g_loss'])
  starts = [p for values in before for p in values]
  ends = [p for net in players for p in net.parameters()]
  for start, end, grad in zip(starts, ends, want, strict=True):
    _close(end.grad, grad, 1e-9)
    known = grad.abs() > 1e-4
    _close((end - start).detach()[known],
           -2e-4 * grad[known].sign().numpy(), 2e-8)
  for pool, fake in zip(pools, fakes, strict=True):
    _close(pool.images[0], fake[0])


if __name__ == '__main__':
  _check_networks()
  _layer_by_layer()
  _check_losses()
  _check_pool()
  _check_gradients()
  _check_step()
  print('OK')
