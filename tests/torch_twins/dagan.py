"""`dagan` in PyTorch: a twin for tests.

Antoniou et al. 2017 (arXiv 1711.04340); layers and settings are those of the
authors' program, as the project's notes on generators (3.1 to 3.5) tell.

A network is built as (spec, hyper), hyper being what differs from `HYPER`.
Images are [B, C, H, W] in [-1, 1]; dense layers read and write pixels as flax
has them, [B, H * W * C].

Nothing here draws: pairs, noise, mixing coefficients and the masks of dropout
are arguments. Masks are a list of arrays of 0 and 1, in the order of the
layers, of shapes [B, *shape] for the network's `mask_shapes`; None: no dropout,
as when a trained network is applied.

`python -m tests.torch_twins.dagan` checks the file.
"""
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tests.torch_twins import plain as torch_plain
from tests.torch_twins.layout import flat, nchw

# Of both networks; inner layers were 3 in G and 5 in D in the published run.
HYPER = dict(z_dim=100, widths=(64, 64, 128, 128), g_inner=3, d_inner=5,
             dropout=0.5, noise_maps=4, hidden=1024, renorm=True,
             norm_epsilon=1e-3, layer_norm_epsilon=1e-12)
ADAM = dict(lr=1e-4, betas=(0.0, 0.9))
PENALTY_WEIGHT, D_STEPS = 10, 5


class BatchRenorm(nn.Module):
  """Batch norm whose outputs in training are, in value, by the averages.

  Ioffe 2017: with the batch's mean m and deviation s = sqrt(variance + epsilon)
  and the averages M and S, y = (x - m) / s * r + d, r = s / S and d =
  (m - M) / S without gradients. Here they may be clipped: r to [1 / r_max,
  r_max], d to [-d_max, d_max]; (1, 0) is batch norm. The averages start with
  the first batch: they are sums of 0.01 * 0.99^age * moment, `seen` being the
  sum of the factors, and what it lacks of 1 is given to the present batch
  before its r and d, to all seen when the averages are applied.
  """

  def __init__(self, channels, epsilon, r_max=None, d_max=None, decay=0.99):
    super().__init__()
    self.epsilon, self.decay = epsilon, decay
    self.r_max, self.d_max, self.moves = r_max, d_max, True
    self.weight = nn.Parameter(torch.ones(channels))
    self.bias = nn.Parameter(torch.zeros(channels))
    for name in 'running_mean', 'std':
      self.register_buffer(name, torch.zeros(channels))
    self.register_buffer('seen', torch.zeros(()))

  def forward(self, x):
    def apply(x, mean, std):
      return (x - mean[:, None, None]) / std[:, None, None]

    if self.training:
      mean = x.mean((0, 2, 3))
      std = (x.var((0, 2, 3), unbiased=False) + self.epsilon).sqrt()
      with torch.no_grad():
        lacks = 1 - self.seen
        whole = self.std + lacks * std
        r = std / whole
        d = (mean - self.running_mean - lacks * mean) / whole
        if self.r_max is not None:
          r = r.clamp(1 / self.r_max, self.r_max)
        if self.d_max is not None:
          d = d.clamp(-self.d_max, self.d_max)
        if self.moves:
          for average, now in ((self.running_mean, mean), (self.std, std),
                               (self.seen, 1.0)):
            average.mul_(self.decay).add_((1 - self.decay) * now)
      x = apply(x, mean, std) * r[:, None, None] + d[:, None, None]
    else:
      x = apply(x, self.running_mean / self.seen, self.std / self.seen)
    return x * self.weight[:, None, None] + self.bias[:, None, None]


class _Up(nn.ConvTranspose2d):
  """Nearest pixels to a size [h, w], then a transposed 3x3 of stride 1."""

  def __init__(self, inputs, outputs):
    super().__init__(inputs, outputs, 3, padding=1)

  def forward(self, x, size):
    return super().forward(F.interpolate(x, size=tuple(size)))


def _distinct(*tensors):
  """[B, C, H, W]s beside each other in channels, the same one but once."""
  kept = []
  for x in tensors:
    if not any(x is other for other in kept):
      kept.append(x)
  return torch.cat(kept, 1)


class _Unet(nn.ModuleDict):
  """The way down, which G and D share, and what their layers have in common.

  A layer is a 3x3 convolution, leaky ReLU of slope 0.2 and a norm. The stem,
  of stride 2, is one; then stages of `inner` layers and one of stride 2 each,
  after which there is dropout. A layer of a stage sees, beside each other in
  this order and each but once: what the layer before made; what the layer
  before that made; what the stage was given and has made so far. Where the
  second has another size, at a stage's start, a 3x3 convolution of as many
  channels brings it down, and nothing follows it.

  `sizes` and `channels` are of the stem and the stages, finest first.
  """

  def __init__(self, spec, inputs, inner, hyper):
    super().__init__()
    self.hyper, self.inner = HYPER | hyper, inner
    widths = self.hyper['widths']
    self.mask_shapes, self.channels = [], list(widths)
    size, before, given = spec[:2], inputs, widths[0]
    size = [-(-n // 2) for n in size]
    self.sizes = [size]
    self['stem'] = torch_plain.Conv(inputs, given, 3, 2)
    self['stem_norm'] = self.norm(given)
    for stage, width in enumerate(widths[1:]):
      name, size = f'down_{stage}', [-(-n // 2) for n in size]
      self[f'{name}_skip'] = torch_plain.Conv(before, before, 3, 2)
      for i in range(inner + 1):
        seen = given + i * width + (0 if i else before)
        self[f'{name}_conv_{i}'] = torch_plain.Conv(
            seen, width, 3, 2 if i == inner else 1)
        self[f'{name}_norm_{i}'] = self.norm(width)
      self.sizes.append(size)
      self.mask_shapes.append((width, *size))
      before, given = width, width

  def finish(self, x, norm, mask=None):
    """What follows a convolution."""
    x = self[norm](F.leaky_relu(x, 0.2))
    return x if mask is None else x * mask / (1 - self.hyper['dropout'])

  def down(self, x, masks):
    """Returns what the stem and the stages made, finest first."""
    made = [x, self.finish(self['stem'](x), 'stem_norm')]
    ends = [made[-1]]
    for stage in range(len(self.sizes) - 1):
      name, own = f'down_{stage}', [made[-1]]
      for i in range(self.inner + 1):
        skip = made[-2] if i else self[f'{name}_skip'](made[-2])
        x = self[f'{name}_conv_{i}'](_distinct(made[-1], skip, *own))
        last = i == self.inner and masks is not None
        x = self.finish(x, f'{name}_norm_{i}', masks[stage] if last else None)
        own.append(x)
        made.append(x)
      ends.append(x)
    return ends


class Generator(_Unet):
  """(images, noise [B, Z], masks) -> images of the same classes.

  The way up has a block for every size, smallest first. It is given, in this
  order: a map of the noise, a dense layer's, of 8, 4 and 2 channels in all
  blocks but the last two; what the block before made; and what the way down has
  of that size, in the last block the image. A fourth map has weights, unused.
  Inner layers are as on the way down, but what they see in the second place is
  the same for all of a block: the last inner layer of the block before, brought
  up anew for each. Then comes, but in the last block, a layer up: it sees the
  last inner layer, what the block was given, and its other layers, and has
  dropout. Two layers and a convolution follow the last block.
  """

  def __init__(self, spec, hyper):
    hyper = HYPER | hyper
    super().__init__(spec, spec.channels, hyper['g_inner'], hyper)
    self.depth = len(self.sizes)
    # Of every block: its size, and the channels the way down has there.
    self.grids = [*self.sizes[::-1], list(spec[:2])]
    found = [*self.channels[::-1], spec.channels]
    widths = [*self.channels[::-1], self.channels[0]]
    self.maps = hyper['noise_maps']
    noisy = [2**(self.depth - 1 - i) for i in range(self.maps)]
    for i, channels in enumerate(noisy):
      h, w = self.grids[i]
      self[f'noise_{i}'] = nn.Linear(hyper['z_dim'], h * w * channels)
    given, before = found[0] + noisy[0], 0
    for block, width in enumerate(widths):
      name = f'up_{block}'
      for i in range(self.inner):
        if block:
          self[f'{name}_skip_{i}'] = _Up(before, before)
        self[f'{name}_conv_{i}'] = torch_plain.Conv(
            given + before + i * width, width, 3)
        self[f'{name}_norm_{i}'] = self.norm(width)
      if block < self.depth:
        self[name] = _Up(given + self.inner * width, width)
        self[f'{name}_norm'] = self.norm(width)
        self.mask_shapes.append((width, *self.grids[block + 1]))
        given, before = width + found[block + 1], width
        if block + 1 < self.depth - 1:
          given += noisy[block + 1]
    for i in range(2):
      self[f'tail_{i}'] = torch_plain.Conv(widths[-1], widths[-1], 3)
      self[f'tail_{i}_norm'] = self.norm(widths[-1])
    self['image'] = torch_plain.Conv(widths[-1], spec.channels, 3)

  def norm(self, channels):
    limits = () if self.hyper['renorm'] else (1, 0)
    return BatchRenorm(channels, self.hyper['norm_epsilon'], *limits)

  def moving(self, moves):
    """Says whether training moves the averages of the norms; returns self."""
    for layer in self.values():
      if isinstance(layer, BatchRenorm):
        layer.moves = moves
    return self

  def noise(self, z, block):
    return nchw(self[f'noise_{block}'](z).view(
        len(z), *self.grids[block], -1))

  def forward(self, image, z, masks=None):
    ends = [*self.down(image, masks)[::-1], image]
    x, skip = torch.cat([self.noise(z, 0), ends[0]], 1), None
    for block, grid in enumerate(self.grids):
      name, own = f'up_{block}', [x]
      for i in range(self.inner):
        seen = [] if skip is None else [self[f'{name}_skip_{i}'](skip, grid)]
        x = self[f'{name}_conv_{i}'](_distinct(own[-1], *seen, *own))
        own.append(self.finish(x, f'{name}_norm_{i}'))
      x = skip = own[-1]
      if block < self.depth:
        x = self[name](_distinct(own[-1], *own), self.grids[block + 1])
        x = self.finish(x, f'{name}_norm', None if masks is None
                        else masks[self.depth - 1 + block])
        x = torch.cat([x, ends[block + 1]], 1)
        if block + 1 < self.depth - 1:
          x = torch.cat([self.noise(z, block + 1), x], 1)
    for i in range(2):
      x = self.finish(self[f'tail_{i}'](x), f'tail_{i}_norm')
    return torch.tanh(self['image'](x))


class Discriminator(_Unet):
  """(candidates, images they are made from, masks) -> scores [B].

  Sees the two beside each other in channels. Norms are of a whole image at
  once, their scale and shift of a channel.
  """

  def __init__(self, spec, hyper):
    hyper = HYPER | hyper
    super().__init__(spec, 2 * spec.channels, hyper['d_inner'], hyper)
    (h, w), channels = self.sizes[-1], self.channels[-1]
    self['dense'] = nn.Linear(channels, hyper['hidden'])
    self['score'] = nn.Linear(hyper['hidden'] + h * w * channels, 1)

  def norm(self, channels):
    return nn.GroupNorm(1, channels, self.hyper['layer_norm_epsilon'])

  def forward(self, candidate, image, masks=None):
    x = self.down(torch.cat([candidate, image], 1), masks)[-1]
    pooled = F.leaky_relu(self['dense'](x.mean((2, 3))), 0.2)
    return self['score'](torch.cat([pooled, flat(x)], 1))[:, 0]


NETWORKS = (Generator, Discriminator)


def pick_pair(groups, classes, first, second):
  """Positions of pairs (x_i, x_j) of a class, possibly of the same image.

  Args:
    groups: of every class, the positions of its images.
    classes: [B], drawn uniformly, whatever the classes' sizes are.
    first, second: [B], uniform in [0, 1).
  """
  return tuple(
      torch.tensor([groups[c][int(u * len(groups[c]))]
                    for c, u in zip(classes, uniforms, strict=True)])
      for uniforms in (first, second))


def turn(x_i, x_j, whether, quarters):
  """Turns both images of a pair alike, counterclockwise.

  Args:
    whether: bool [B], true with probability 1/2.
    quarters: [B], uniform in 0 to 3.
  """
  times = [int(t) * int(q) for t, q in zip(whether, quarters, strict=True)]
  return tuple(torch.stack([torch.rot90(x, n, (1, 2))
                            for x, n in zip(images, times, strict=True)])
               for images in (x_i, x_j))


def gradient_penalty(score, real, fake, alpha, norm='image'):
  """Mean of (norm of D's gradient - 1)^2.

  Args:
    score: candidates -> [B].
    alpha: [B], uniform: where from real (0) to fake (1) D is looked at.
    norm: 'image', one for every image; 'height', as the authors' program has
      it, one for every column of pixels of every channel of every image.
  """
  x = real + alpha.view(-1, 1, 1, 1) * (fake - real)
  x = x.detach().requires_grad_(True)
  gradient, = torch.autograd.grad(score(x).sum(), x, create_graph=True)
  axes = {'image': (1, 2, 3), 'height': 2}[norm]
  return (torch.linalg.vector_norm(gradient, dim=axes) - 1).square().mean()


def critic_losses(d, fake, x_j, x_i, alpha, masks=(None,) * 3, norm='image'):
  """The Wasserstein difference and the penalty before its weight.

  Args:
    d: (candidates, images they go with, masks) -> [B].
    fake, x_j, x_i: what G made of x_i, an image of its class, and x_i.
    masks: at the fakes, at x_j and in between.
  """
  difference = d(fake, x_i, masks[0]).mean() - d(x_j, x_i, masks[1]).mean()
  return difference, gradient_penalty(
      lambda x: d(x, x_i, masks[2]), x_j, fake, alpha, norm)


def step(g, d, g_opt, d_opt, d_draws, g_draw, *, norm='image', move_all=True):
  """Updates of D, one for each of `d_draws`, and then one of G.

  G normalises by its batch in all of them, if it is in training. Published:
  every draw, G's too, is of other pairs, turned anew.

  Args:
    d_draws: dicts: x_i, x_j [B, C, H, W], z [B, Z], alpha [B]; and, if there
      is dropout, g_masks and d_masks, the latter as in `critic_losses`.
    g_draw: a dict: x_i, z; and, if there is dropout, g_masks and d_masks.
    norm: of the penalty's gradients.
    move_all: whether the averages of G's norms move in D's updates as well.
  Returns:
    Lists d_loss, with the weighted penalty, and penalty, without; and g_loss.
  """
  logs = {'d_loss': [], 'penalty': []}
  for given in d_draws:
    x_i = given['x_i']
    with torch.no_grad():
      fake = g.moving(move_all)(x_i, given['z'], given.get('g_masks'))
    difference, penalty = critic_losses(
        d, fake, given['x_j'], x_i, given['alpha'],
        given.get('d_masks', (None,) * 3), norm)
    logs['penalty'].append(penalty.detach())
    logs['d_loss'].append(_update(d_opt, difference + PENALTY_WEIGHT * penalty))
  d.requires_grad_(False)
  x_i = g_draw['x_i']
  fake = g.moving(True)(x_i, g_draw['z'], g_draw.get('g_masks'))
  logs['g_loss'] = _update(g_opt, -d(fake, x_i, g_draw.get('d_masks')).mean())
  d.requires_grad_(True)
  return logs


def _update(opt, loss):
  opt.zero_grad()
  loss.backward()
  opt.step()
  return loss.detach()


def _check_counts():
  """The weights and convolutions of the published settings; their shapes."""
  from collections import namedtuple
  spec = namedtuple('Spec', 'height width channels num_classes')
  face, letter = spec(64, 64, 3, 2), spec(28, 28, 1, 2)
  with torch.device('meta'):
    for make, given, hyper, want, convolutions in (
        (Generator, face, {}, 10_707_735, 50),
        (Generator, face, {'g_inner': 1}, 3_885_975, 26),
        (Generator, letter, {}, 10_546_217, 50),
        (Discriminator, face, {}, 7_078_987, None),
        (Discriminator, face, {'d_inner': 1}, 1_398_091, None)):
      net = make(given, hyper)
      got = sum(p.numel() for p in net.parameters())
      assert got == want, (make.__name__, given, hyper, got, want)
      kinds = nn.Conv2d, nn.ConvTranspose2d
      got = sum(isinstance(layer, kinds) for layer in net.values())
      assert convolutions in (got, None), got
      # The convolutions check the widths they are given.
      x = torch.zeros(2, *given[2::-1])
      if make is Generator:
        assert net(x, torch.zeros(2, 100)).shape == x.shape
      else:
        assert net(x, x).shape == (2,)

  # What successive convolutions see, as the notes have it.
  with torch.device('meta'):
    net = Generator(face, {})
  seen = {name: layer.in_channels for name, layer in net.items()
          if '_conv_' in name or isinstance(layer, _Up)}
  for name, want in (('down_0', [67, 128, 192, 256]),
                     ('down_1', [128, 192, 320, 448]),
                     ('down_2', [256, 256, 384, 512]),
                     ('up_0', [136, 264, 392]), ('up_1', [388, 516, 644]),
                     ('up_2', [322, 386, 450]), ('up_3', [192, 256, 320]),
                     ('up_4', [131, 195, 259])):
    got = [seen[f'{name}_conv_{i}'] for i in range(len(want))]
    assert got == want, (name, got, want)
  assert [seen[f'up_{i}'] for i in range(4)] == [520, 644, 386, 320]
  return spec


def _check_numbers():
  """Values worked out by hand."""
  # D(x, c) = the weighted sum of x, of weights [[3, 0], [4, 1]], plus c's
  # first pixel. Fakes of ones and c of 2: 8 + 2; real ones of 1/2: 4 + 2; the
  # difference is 4. Norms of columns: 5 and 1, (16 + 0) / 2 = 8. Of the image:
  # sqrt(9 + 16 + 1) = 5.099020, 4.099020^2 = 27 - 2 sqrt(26) = 16.801961.
  weights = torch.tensor([[[[3.0, 0], [4, 1]]]]).double()

  def score(x, c, masks):
    del masks
    return (weights * x).sum((1, 2, 3)) + c[:, 0, 0, 0]

  ones, alpha = torch.ones(2, 1, 2, 2).double(), torch.tensor([.2, .7]).double()
  for norm, want in (('height', 8.0), ('image', 16.801960972814432)):
    difference, penalty = critic_losses(score, ones, ones / 2, 2 * ones, alpha,
                                        norm=norm)
    torch.testing.assert_close(difference.item(), 4.0)
    torch.testing.assert_close(penalty.item(), want)
  # Where it looks: D(x) = x0^2 / 2 has the gradient x0 there; from a real 1 to
  # a fake 5 at alpha 1/4 that is 2, so (2 - 1)^2 = 1, and 9 at 3/4.
  got = gradient_penalty(
      lambda x: x[:, 0, 0, 0].square() / 2, ones, 5 * ones,
      torch.tensor([0.25, 0.75]).double())
  torch.testing.assert_close(got.item(), 5.0)

  # Two pixels 1 and 3: mean 2, deviation 1. At first y = -1, 1. Then 6 and 10,
  # mean 8, deviation 2; with the averages 0.01 * 2 + 0.99 * 8 = 7.94 and 0.01
  # + 0.99 * 2 = 1.99: y = (x - 7.94) / 1.99 = -0.974874, 1.035176. Applied:
  # (0.01 * (0.99 * 2 + 8), 0.01 * (0.99 + 2)) / 0.0199 = 5.015075, 1.502513,
  # so that 8 gives 1.986622.
  norm = BatchRenorm(1, 0.0).double()

  def at(*pixels):
    x = torch.tensor(pixels).double().view(1, 1, 1, -1)
    return norm(x).flatten().tolist()

  torch.testing.assert_close(at(1.0, 3.0), [-1.0, 1.0])
  torch.testing.assert_close(at(6.0, 10.0), [-0.9748743718592965,
                                             1.0351758793969852])
  norm.eval()
  torch.testing.assert_close(at(8.0), [1.9866220735785953])
  # Clipped to batch norm; and to r at most 1.5 and d at most 0.25: then
  # averages 2 and 1 (of many such batches) give r = 1.5 and d = 0.25 for 2.
  norm = BatchRenorm(1, 0.0, 1, 0).double()
  norm.seen += 1
  torch.testing.assert_close(at(6.0, 10.0), [-1.0, 1.0])
  norm = BatchRenorm(1, 0.0, 1.5, 0.25).double()
  norm.seen, norm.std, norm.running_mean = (
      torch.tensor(1.0), torch.tensor([1.0]), torch.tensor([2.0]))
  torch.testing.assert_close(at(6.0, 10.0), [-1.25, 1.75])

  # Of a whole image at once: channels (1, 3) and (5, 7) have the mean 4 and
  # the variance (9 + 1 + 1 + 9) / 4 = 5.
  norm = Discriminator.norm(type('', (), {'hyper': HYPER})(), 2).double()
  x = torch.tensor([1.0, 3, 5, 7]).double().view(1, 2, 1, 2)
  torch.testing.assert_close(norm(x), (x - 4) / 5**0.5)

  groups = [[4, 7], [0, 1, 2]]
  first, second = pick_pair(groups, [1, 0], [0.99, 0.0], [0.0, 0.5])
  assert first.tolist() == [2, 4] and second.tolist() == [0, 7]
  x = torch.tensor([[[[1.0, 2], [3, 4]]]]).repeat(2, 1, 1, 1)
  turned, other = turn(x, 10 * x, [True, False], [1, 3])
  assert turned.flatten().tolist() == [2, 4, 1, 3, 1, 2, 3, 4]
  torch.testing.assert_close(other, 10 * turned)


def _check_step(spec):
  import copy
  import functools

  from tests.torch_twins.bagan import check_penalty
  rng = torch.Generator().manual_seed(0)
  spec, batch, rate = spec(16, 16, 2, 3), 3, 0.01
  hyper = dict(z_dim=5, widths=(4, 4, 6, 6), g_inner=2, d_inner=2, hidden=7)
  nets = [make(spec, hyper).double() for make in NETWORKS]

  def normal(*shape):
    return torch.randn(batch, *shape, generator=rng).double()

  def masks(net):
    return [(torch.rand(batch, *shape, generator=rng) < 0.5).double()
            for shape in net.mask_shapes]

  def draw():
    g, d = nets
    return dict(x_i=normal(2, 16, 16).tanh(), x_j=normal(2, 16, 16).tanh(),
                z=normal(5), alpha=torch.rand(batch, generator=rng).double(),
                g_masks=masks(g), d_masks=[masks(d) for _ in range(3)])

  d_draws = [draw() for _ in range(D_STEPS)]
  g_draw = draw()
  g_draw['d_masks'] = g_draw['d_masks'][0]
  one = d_draws[0]
  assert [len(net.mask_shapes) for net in nets] == [7, 3]

  # What is seen beyond a stage or a block.
  g, d = copy.deepcopy(nets)
  seen, made = {}, {}
  for name, layer in g.items():
    layer.register_forward_hook(lambda _, given, out, name=name: (
        seen.update({name: given[0]}), made.update({name: out}), None)[-1])
  g(one['x_i'], one['z'])
  for name, source in (('down_1_skip', 'down_0_norm_1'),
                       ('down_2_skip', 'down_1_norm_1'),
                       ('up_1_skip_0', 'up_0_norm_1'),
                       ('up_1_skip_1', 'up_0_norm_1'),
                       ('up_4_skip_1', 'up_3_norm_1')):
    assert torch.equal(seen[name], made[source]), name
  assert torch.equal(seen['down_0_skip'], one['x_i'])
  for name, parts in (
      ('down_1_conv_1', ('down_1_norm_0', 'down_0_norm_2')),
      ('down_1_conv_2', ('down_1_norm_1', 'down_1_norm_0', 'down_0_norm_2')),
      ('up_3_conv_0', ('up_2_norm', 'stem_norm', 'up_3_skip_0')),
      ('up_3_conv_1', ('up_3_norm_0', 'up_3_skip_1', 'up_2_norm', 'stem_norm')),
      ('up_3', ('up_3_norm_1', 'up_2_norm', 'stem_norm', 'up_3_norm_0'))):
    wanted = torch.cat([made[part] for part in parts], 1)
    assert torch.equal(seen[name], wanted), name

  g, d = copy.deepcopy(nets)
  with torch.no_grad():
    fake = g(one['x_i'], one['z'], one['g_masks'])
  x = one['x_j'] + one['alpha'].view(-1, 1, 1, 1) * (fake - one['x_j'])
  for norm, dims in (('image', (1, 2, 3)), ('height', 2)):
    check_penalty(
        lambda x: d(x, one['x_i'], one['d_masks'][2]), x,
        lambda norm=norm: critic_losses(
            d, fake, one['x_j'], one['x_i'], one['alpha'], one['d_masks'],
            norm)[1], list(d.parameters()),
        lambda slope, dims=dims: (slope.square().sum(dims).sqrt() - 1
                                  ).square().mean())

  def descend(net, loss):
    params = list(net.parameters())
    slopes = torch.autograd.grad(loss, params, allow_unused=True)
    for p, slope in zip(params, slopes, strict=True):
      if slope is not None:  # The unused map's is.
        p.data = p.data - rate * slope

  def same(net, want):
    for p, q in zip(net.state_dict().values(), want.state_dict().values(),
                    strict=True):
      torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-11)

  for norm, move_all in (('image', True), ('height', False)):
    (g, d), (want_g, want_d) = copy.deepcopy(nets), copy.deepcopy(nets)
    opts = [torch.optim.SGD(net.parameters(), rate) for net in (g, d)]
    logs = step(g, d, *opts, d_draws, g_draw, norm=norm, move_all=move_all)
    for given, got in zip(d_draws, logs['d_loss'], strict=True):
      still = copy.deepcopy(want_g)
      fake = (want_g if move_all else still)(
          given['x_i'], given['z'], given['g_masks']).detach()
      first, second, third = given['d_masks']
      loss = (want_d(fake, given['x_i'], first)
              - want_d(given['x_j'], given['x_i'], second)).mean()
      loss = loss + 10 * gradient_penalty(
          functools.partial(want_d, image=given['x_i'], masks=third),
          given['x_j'], fake, given['alpha'], norm)
      torch.testing.assert_close(got, loss.detach())
      descend(want_d, loss)
    fake = want_g(g_draw['x_i'], g_draw['z'], g_draw['g_masks'])
    loss = -want_d(fake, g_draw['x_i'], g_draw['d_masks']).mean()
    torch.testing.assert_close(logs['g_loss'], loss.detach())
    descend(want_g, loss)
    same(g, want_g)
    same(d, want_d)
    # 5 and 1, or 1, of the batches have moved the averages.
    torch.testing.assert_close(
        g['stem_norm'].seen.item(), 1 - 0.99**(6 if move_all else 1))
  assert torch.isfinite(g.eval()(one['x_i'], one['z'])).all()


if __name__ == '__main__':
  torch.set_num_threads(1)
  torch.manual_seed(0)
  made = _check_counts()
  _check_numbers()
  _check_step(made)
  print('OK')
