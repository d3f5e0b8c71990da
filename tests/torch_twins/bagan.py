"""`bagan` and `bagan_gp` in PyTorch: twins for tests.

BAGAN is that of Mariani et al. 2018 (arXiv 1803.09655), BAGAN-GP, here with
the prefix gp, that of Huang and Jafari 2021; layers and settings are those of
the authors' programs, as the project's notes on generators (2.1 to 2.5) tell.

A network is built as (spec, hyper), hyper being what differs from `HYPER` or
`GP_HYPER`. Images are [B, C, H, W] in [-1, 1], square; dense layers read and
write pixels as flax has them, [B, H * W * C]. Labels are int64 [B].

Nothing here draws: latents, labels, mixing coefficients and the masks of
dropout are arguments. Masks are a list of arrays of 0 and 1, in the order of
the layers, of shapes [B, *shape] for the network's `mask_shapes`; None: no
dropout, as when a trained network is applied.

`python -m tests.torch_twins.bagan` checks the file.
"""
import math

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tests.torch_twins import plain as torch_plain
from tests.torch_twins.layout import flat, nchw

HYPER = dict(z_dim=100, dropout=0.3)
ADAM = dict(lr=5e-5, betas=(0.5, 0.999))  # Of the autoencoder, G and D.
GP_HYPER = dict(z_dim=128, widths=(64, 128, 128, 256), label_dim=512,
                hidden=512)
GP_ADAM = dict(lr=2e-4, betas=(0.5, 0.9))  # Of the autoencoder, G and D.
GP_WEIGHT, GP_D_STEPS = 10, 5


def start_side(side):
  """The side of the smallest map: halved until it is 8 or less."""
  while side > 8:
    side //= 2
  return side


class Decoder(nn.ModuleDict):
  """Latents [B, Z] -> images; the generator is of the same class.

  No layer has a bias. Maps double by repeated pixels, then a 5x5 convolution:
  of 256 channels while the map before had less than half the image's side, of
  128 then. The last is 2x2, padded below and at the right.
  """

  def __init__(self, spec, hyper):
    super().__init__()
    hyper, side = HYPER | hyper, start_side(spec.height)
    self.side, self.ups, inputs = side, 0, 128
    self['dense_0'] = nn.Linear(hyper['z_dim'], 1024, bias=False)
    self['dense_1'] = nn.Linear(1024, side * side * inputs, bias=False)
    while side < spec.height:
      width = 256 if 2 * side < spec.height else 128
      self[f'up_{self.ups}'] = nn.Conv2d(inputs, width, 5, padding=2,
                                         bias=False)
      self.ups, side, inputs = self.ups + 1, 2 * side, width
    self['image'] = torch_plain.Conv(inputs, spec.channels, 2, bias=False)

  def forward(self, z):
    x = F.relu(self['dense_1'](F.relu(self['dense_0'](z))))
    x = nchw(x.view(len(z), self.side, self.side, -1))
    for i in range(self.ups):
      x = F.relu(self[f'up_{i}'](F.interpolate(x, scale_factor=2)))
    return torch.tanh(self['image'](x))


class _Trunk(nn.ModuleDict):
  """Images -> features [B, H * W * C]: what encoder and discriminator share.

  3x3 convolutions with bias, leaky ReLU of slope 0.3 and dropout after each.
  """

  def __init__(self, spec, hyper):
    super().__init__()
    self.dropout = (HYPER | hyper)['dropout']
    inputs, side, last = spec.channels, spec.height, start_side(spec.height)
    plan = [(32, 2), (64, 1), (128, 2), (256, 1)]
    while side // 2**sum(stride == 2 for _, stride in plan) > last:
      plan += [(256, 2), (256, 1)]
    self.depth, self.mask_shapes = len(plan), []
    for i, (width, stride) in enumerate(plan):
      self[f'conv_{i}'] = torch_plain.Conv(inputs, width, 3, stride)
      inputs, side = width, -(-side // stride)
      self.mask_shapes.append((width, side, side))
    self.features = side * side * inputs

  def trunk(self, x, masks=None):
    for i in range(self.depth):
      x = F.leaky_relu(self[f'conv_{i}'](x), 0.3)
      if masks is not None:
        x = x * masks[i] / (1 - self.dropout)
    return flat(x)


class Encoder(_Trunk):
  """(images, masks) -> latents [B, Z]."""

  def __init__(self, spec, hyper):
    super().__init__(spec, hyper)
    self['latent'] = nn.Linear(self.features, (HYPER | hyper)['z_dim'])

  def forward(self, x, masks=None):
    return self['latent'](self.trunk(x, masks))


class Discriminator(_Trunk):
  """(images, masks) -> logits [B, K + 1]: the K classes, then fake."""

  def __init__(self, spec, hyper):
    super().__init__(spec, hyper)
    self['classes'] = nn.Linear(self.features, spec.num_classes + 1)

  def forward(self, x, masks=None):
    return self['classes'](self.trunk(x, masks))


NETWORKS = (Decoder, Discriminator)


def autoencoder_loss(encoder, decoder, x, masks=None):
  """Mean squared error of the pixels; labels have no part."""
  return F.mse_loss(decoder(encoder(x, masks)), x)


def autoencoder_step(encoder, decoder, opt, x, masks=None):
  """One update of both, by one optimizer; returns the loss."""
  return _update(opt, autoencoder_loss(encoder, decoder, x, masks))


def _update(opt, loss):
  opt.zero_grad()
  loss.backward()
  opt.step()
  return loss.detach()


def begin(g, d, encoder, decoder):
  """Gives G the decoder's weights and D the encoder's but for the heads.

  The optimizers of G and D begin anew.
  """
  g.load_state_dict(decoder.state_dict())
  for i in range(d.depth):
    d[f'conv_{i}'].load_state_dict(encoder[f'conv_{i}'].state_dict())


def class_normals(codes, labels, classes):
  """Mean and covariance of every class's latents, dropout being off.

  Args:
    codes: [N, Z] of all training images; labels: [N]; NumPy.
    classes: how many there are.
  Returns:
    Means [K, Z] and covariances [K, Z, Z], float64, divided by n - 1.
  Raises:
    ValueError: a class has less than two images.
  """
  codes, means, covariances = np.asarray(codes, np.float64), [], []
  for c in range(classes):
    own = codes[np.asarray(labels) == c]
    if len(own) < 2:
      raise ValueError(f'class {c} has {len(own)} images')
    mean = own.sum(0) / len(own)
    off = own - mean
    means.append(mean)
    covariances.append(off.T @ off / (len(own) - 1))
  return np.stack(means), np.stack(covariances)


def root(covariances):
  """Their symmetric square roots [..., Z, Z], of rank less than Z as well."""
  values, vectors = np.linalg.eigh(covariances)
  scaled = vectors * np.sqrt(np.maximum(values, 0))[..., None, :]
  return scaled @ np.swapaxes(vectors, -1, -2)


def latents(labels, means, roots, normals):
  """z = mean of the class + its root times `normals` [B, Z]; NumPy."""
  return means[labels] + np.einsum('bij,bj->bi', roots[labels], normals)


def class_ratio(counts, kind='uniform'):
  """With what probability a fake is of each class; float64 [K].

  'uniform': 1 / K. 'rebalance': 2 / K less the class's share of the training
  images, 0 where that is negative, then divided by the sum.
  """
  counts = np.asarray(counts, np.float64)
  if kind == 'uniform':
    return np.full(len(counts), 1 / len(counts))
  ratio = np.maximum(2 / len(counts) - counts / counts.sum(), 0)
  return ratio / ratio.sum()


def draw_labels(ratio, uniforms):
  """The first class whose cumulated ratio is above each of `uniforms` [B]."""
  bounds = np.cumsum(ratio)
  return np.searchsorted(bounds / bounds[-1], uniforms, side='right')


def fakes(batch, classes):
  """How many D sees beside a batch; G is updated by that and the batch."""
  return math.ceil(batch / classes)


def discriminator_loss(logits, labels):
  """Mean cross-entropy of the real images and then the fakes, in one.

  Args:
    logits: [B + fakes, K + 1]; labels: of the first B, the real ones.
  """
  fake = labels.new_full((len(logits) - len(labels),), logits.shape[1] - 1)
  return F.cross_entropy(logits, torch.cat([labels, fake]))


def step(g, d, g_opt, d_opt, real, labels, d_z, g_z, g_labels, *,
         d_masks=None, g_masks=None):
  """One update of D and then, against the new D, one of G.

  Args:
    real: [B, C, H, W]; labels: theirs.
    d_z: latents of D's fakes, [fakes(B, K), Z].
    g_z: latents of G's own fakes, [B + fakes(B, K), Z]; g_labels: theirs.
    d_masks, g_masks: for D at [real, fakes] and at G's own fakes.
  Returns:
    The losses: d_loss, g_loss.
  """
  with torch.no_grad():
    fake = g(d_z)
  logits = d(torch.cat([real, fake]), d_masks)
  d_loss = _update(d_opt, discriminator_loss(logits, labels))
  d.requires_grad_(False)
  g_loss = _update(g_opt, F.cross_entropy(d(g(g_z), g_masks), g_labels))
  d.requires_grad_(True)
  return {'d_loss': d_loss, 'g_loss': g_loss}


class _GpTrunk(nn.ModuleDict):
  """Images -> features: 4x4 convolutions of stride 2, leaky ReLU of 0.2."""

  def __init__(self, spec, hyper):
    super().__init__()
    self.hyper, inputs = GP_HYPER | hyper, spec.channels
    self.depth = len(self.hyper['widths'])
    for i, width in enumerate(self.hyper['widths']):
      self[f'conv_{i}'] = nn.Conv2d(inputs, width, 4, 2, 1)
      inputs = width
    self.features = (spec.height >> self.depth)**2 * inputs

  def trunk(self, x):
    for i in range(self.depth):
      x = F.leaky_relu(self[f'conv_{i}'](x), 0.2)
    return flat(x)


class GpEncoder(_GpTrunk):
  """Images -> latents [B, Z]."""

  def __init__(self, spec, hyper):
    super().__init__(spec, hyper)
    self['latent'] = nn.Linear(self.features, self.hyper['z_dim'])

  def forward(self, x):
    return F.leaky_relu(self['latent'](self.trunk(x)), 0.2)


class GpGenerator(nn.ModuleDict):
  """(latents [B, Z], labels) -> images; the autoencoder's decoder as well.

  The latents are multiplied by the label's embedding. Batch norm is by the
  batch in training, its averages moving by 0.01; its epsilon is 1e-3.
  """

  def __init__(self, spec, hyper):
    super().__init__()
    hyper = GP_HYPER | hyper
    widths = hyper['widths'][::-1]
    self.depth, self.side = len(widths), spec.height >> len(widths)
    self['embed'] = nn.Embedding(spec.num_classes, hyper['z_dim'])
    self['dense'] = nn.Linear(hyper['z_dim'], self.side**2 * widths[0])
    for i, width in enumerate(widths[1:]):
      self[f'up_{i}'] = nn.ConvTranspose2d(widths[i], width, 4, 2, 1)
      self[f'norm_{i}'] = nn.BatchNorm2d(width, 1e-3, 0.01)
    self['image'] = nn.ConvTranspose2d(widths[-1], spec.channels, 4, 2, 1)

  def forward(self, z, labels):
    x = F.leaky_relu(self['dense'](z * self['embed'](labels)), 0.2)
    x = nchw(x.view(len(z), self.side, self.side, -1))
    for i in range(self.depth - 1):
      x = F.leaky_relu(self[f'norm_{i}'](self[f'up_{i}'](x)), 0.2)
    return torch.tanh(self['image'](x))


class GpDiscriminator(_GpTrunk):
  """(images, labels) -> logits [B] of the pair being real.

  The features are multiplied by what a dense layer makes of the label.
  """

  def __init__(self, spec, hyper):
    super().__init__(spec, hyper)
    self['embed'] = nn.Embedding(spec.num_classes, self.hyper['label_dim'])
    self['label'] = nn.Linear(self.hyper['label_dim'], self.features)
    self['dense'] = nn.Linear(self.features, self.hyper['hidden'])
    self['score'] = nn.Linear(self.hyper['hidden'], 1)

  def forward(self, x, labels):
    label = F.leaky_relu(self['label'](self['embed'](labels)), 0.2)
    return self['score'](self['dense'](self.trunk(x) * label))[:, 0]


GP_NETWORKS = (GpGenerator, GpDiscriminator)


def gp_autoencoder_loss(encoder, g, x, labels):
  """Mean absolute error of the pixels, by the labels' embeddings."""
  return (g(encoder(x), labels) - x).abs().mean()


def gp_autoencoder_step(encoder, g, opt, x, labels):
  """One update of both, by one optimizer; returns the loss."""
  return _update(opt, gp_autoencoder_loss(encoder, g, x, labels))


def gp_begin(g, d, encoder, decoder, with_d=False):
  """Gives G the decoder's weights and D, if asked, the encoder's."""
  g.load_state_dict(decoder.state_dict())
  for i in range(d.depth if with_d else 0):
    d[f'conv_{i}'].load_state_dict(encoder[f'conv_{i}'].state_dict())


def gradient_penalty(score, real, fake, alpha):
  """Mean over the images of (norm of D's gradient - 1)^2.

  Args:
    score: images -> [B].
    alpha: [B], where between real (0) and fake (1), or beyond, D is looked at;
      published: of a standard normal, not of a uniform distribution.
  """
  x = real + alpha.view(-1, 1, 1, 1) * (fake - real)
  x = x.detach().requires_grad_(True)
  gradient, = torch.autograd.grad(score(x).sum(), x, create_graph=True)
  return (torch.linalg.vector_norm(gradient, dim=(1, 2, 3)) - 1).square().mean()


def gp_discriminator_loss(on_real, on_fake, on_wrong):
  """Binary cross-entropies of the three logits [B] each, summed."""
  return (F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
          + F.softplus(on_wrong).mean())


def gp_step(g, d, g_opt, d_opt, d_draws, g_z, g_labels):
  """Updates of D, one for each of `d_draws`, and then one of G.

  In all of them G normalises by its batch and moves its averages, if it is
  in training.

  Args:
    d_draws: dicts: real [B, C, H, W], labels: theirs, wrong: labels for the
      same images, z [B, Z] and fake_labels, alpha [B]. Published: of one batch
      of real images, and all else drawn anew; z and alpha normal; fake_labels
      and wrong uniform, so that some of wrong are right.
    g_z: [B, Z]; g_labels: theirs; drawn as those of D.
  Returns:
    The losses: lists d_loss and penalty (before its weight), and g_loss.
  """
  logs = {'d_loss': [], 'penalty': []}
  for given in d_draws:
    real, labels = given['real'], given['labels']
    with torch.no_grad():
      fake = g(given['z'], given['fake_labels'])
    loss = gp_discriminator_loss(
        d(real, labels), d(fake, given['fake_labels']), d(real, given['wrong']))
    penalty = gradient_penalty(
        lambda x, labels=labels: d(x, labels), real, fake, given['alpha'])
    logs['penalty'].append(penalty.detach())
    logs['d_loss'].append(_update(d_opt, loss + GP_WEIGHT * penalty))
  d.requires_grad_(False)
  loss = F.softplus(-d(g(g_z, g_labels), g_labels)).mean()
  logs['g_loss'] = _update(g_opt, loss)
  d.requires_grad_(True)
  return logs


def _check_counts():
  """The weights of the published settings."""
  from collections import namedtuple
  spec = namedtuple('Spec', 'height width channels num_classes')
  small, middle, large = spec(28, 28, 1, 10), spec(32, 32, 3, 10), spec(
      64, 64, 3, 22)
  with torch.device('meta'):
    for make, given, want in (
        (Decoder, small, 8_163_840), (Decoder, middle, 10_130_944),
        (Decoder, large, 11_769_344), (Encoder, middle, 2_026_916),
        (Encoder, large, 3_207_076), (Discriminator, middle, 568_651),
        (Discriminator, large, 1_945_431)):
      got = sum(p.numel() for p in make(given, {}).parameters())
      assert got == want, (make.__name__, given, got, want)
  return spec


def _check_numbers():
  """Values worked out by hand."""
  # Latents (0, 0), (2, 0), (4, 6): mean (2, 2), off by (-2, -2), (0, -2),
  # (2, 4). Var x = (4 + 0 + 4) / 2 = 4, var y = (4 + 4 + 16) / 2 = 12, cov =
  # (4 + 0 + 8) / 2 = 6. Of two images (1, 1), (3, 1): [[2, 0], [0, 0]].
  codes = [[0, 0], [2, 0], [4, 6], [1, 1], [3, 1]]
  means, covariances = class_normals(codes, [0, 0, 0, 1, 1], 2)
  np.testing.assert_allclose(means, [[2, 2], [2, 1]])
  np.testing.assert_allclose(covariances, [[[4, 6], [6, 12]], [[2, 0], [0, 0]]])
  roots = root(covariances)
  np.testing.assert_allclose(roots @ roots, covariances, atol=1e-12)
  # A singular covariance: (2, 1) + (sqrt(2) * 3, 0 * 5) = (6.242641, 1).
  np.testing.assert_allclose(
      latents(np.array([1]), means, roots, np.array([[3.0, 5.0]])),
      [[6.242640687119285, 1]])

  # 2 / 3 - 0.8 < 0 -> 0 and 2 / 3 - 0.1 twice: (0, 1/2, 1/2). Of counts 5, 3
  # and 2: 2 / 3 less (0.5, 0.3, 0.2), whose sum is 1: (1/6, 11/30, 7/15).
  np.testing.assert_allclose(class_ratio([8, 1, 1], 'rebalance'), [0, .5, .5])
  ratio = class_ratio([5, 3, 2], 'rebalance')
  np.testing.assert_allclose(ratio, [1 / 6, 11 / 30, 7 / 15])
  np.testing.assert_array_equal(  # The bounds are 0.1667 and 0.5333.
      draw_labels(ratio, [0, 0.16, 0.17, 0.53, 0.54, 0.999]),
      [0, 0, 1, 1, 2, 2])
  assert fakes(128, 10) == 13 and fakes(128, 128) == 1

  # Two classes and fake; logits (ln 2, 0, 0) are shares (1/2, 1/4, 1/4), so
  # real of class 0, of class 1 and a fake cost ln 2, 2 ln 2 and 2 ln 2: on
  # the average 5/3 ln 2 = 1.155245.
  logits = torch.tensor([2.0, 1, 1]).log().repeat(3, 1).double()
  got = discriminator_loss(logits, torch.tensor([0, 1]))
  np.testing.assert_allclose(got, 1.1552453009332422, rtol=1e-6)
  # ln(1 + 1/3) + ln(1 + 1) + ln(1 + 3) = 0.287682 + 0.693147 + 1.386294, by
  # logits ln 3, 0 and ln 3.
  three = torch.tensor([math.log(3)]).double()
  np.testing.assert_allclose(
      gp_discriminator_loss(three, 0 * three, three), 2.367123614131617,
      rtol=1e-6)

  # D(x) = x0^2 + 2 x1 has the gradient (2 x0, 2). Between real 0 and fake
  # (3, 0): at alpha 1/4 x0 = 0.75, norm sqrt(2.25 + 4) = 2.5, 1.5^2 = 2.25;
  # beyond, at alpha -1/2, x0 = -1.5, norm sqrt(9 + 4) = 3.605551, 6.788897.
  fake = torch.tensor([3.0, 0]).double().view(1, 1, 1, 2).repeat(2, 1, 1, 1)
  got = gradient_penalty(
      lambda x: x[:, 0, 0, 0]**2 + 2 * x[:, 0, 0, 1], 0 * fake, fake,
      torch.tensor([0.25, -0.5]).double())
  np.testing.assert_allclose(got.detach(), (2.25 + 6.788897449072023) / 2)


def check_penalty(score, x, penalty, params, how, eps=1e-6):
  """Holds a gradient penalty and its gradient beside finite differences.

  Args:
    score: images -> [B], no image's score hanging on the others.
    x: float64 [B, C, H, W], where the penalty looks.
    penalty: () -> the penalty at x, to be differentiated.
    params: of each, the weight of the largest gradient is tried.
    how: the gradient [B, C, H, W] -> the penalty.
  """
  gradient = torch.zeros_like(x)
  with torch.no_grad():
    for place in np.ndindex(*x.shape[1:]):
      step = torch.zeros_like(x)
      step[(slice(None), *place)] = eps
      gradient[(slice(None), *place)] = (score(x + step) - score(x - step)) / (
          2 * eps)
  got = penalty()
  np.testing.assert_allclose(got.detach(), how(gradient), rtol=1e-6)
  slopes = torch.autograd.grad(got, params, allow_unused=True)
  tried = 0
  for param, slope in zip(params, slopes, strict=True):
    if slope is None:  # Of the last bias: no gradient hangs on it.
      continue
    at, values = slope.abs().argmax(), param.data.view(-1)
    kept, ends = values[at].item(), []
    for sign in (1, -1):
      values[at] = kept + sign * eps
      ends.append(penalty().item())
    values[at] = kept
    np.testing.assert_allclose(
        slope.flatten()[at], (ends[0] - ends[1]) / (2 * eps), rtol=1e-4,
        atol=1e-8)
    tried += bool(slope.abs().max() > 1e-6)
  assert tried, 'the penalty hangs on no weight'


def _masks(net, batch, rng):
  return [torch.bernoulli(torch.full((batch, *shape), 1 - net.dropout),
                          generator=rng).double() for shape in net.mask_shapes]


def _copies(nets, learning_rate):
  """float64 copies and their plain gradient descents."""
  import copy
  nets = [copy.deepcopy(net) for net in nets]
  return nets, [torch.optim.SGD(net.parameters(), learning_rate)
                for net in nets]


def _check_same(net, want):
  for p, q in zip(net.parameters(), want, strict=True):
    torch.testing.assert_close(p.data, q.data, rtol=1e-9, atol=1e-12)


def _descended(net, loss, learning_rate):
  params = list(net.parameters())
  return [p.detach() - learning_rate * slope for p, slope in zip(
      params, torch.autograd.grad(loss, params), strict=True)]


def _check_step(spec):
  """Slopes and dropout; the order of the updates: G's is by the new D."""
  rng = torch.Generator().manual_seed(0)
  spec, rate = spec(16, 16, 1, 3), 0.1
  hyper = dict(z_dim=5)
  nets = [make(spec, hyper).double() for make in NETWORKS]
  # A last convolution of zeros with the bias -1: -0.3; of those that 0.7 are
  # kept of, -0.3 / 0.7 = -0.428571, and 0.
  net = Encoder(spec, hyper).double()
  net['conv_3'].weight.data.zero_()
  net['conv_3'].bias.data.fill_(-1)
  image = torch.ones(2, 1, 16, 16).double()
  assert net.trunk(image).shape == (2, 4 * 4 * 256)
  torch.testing.assert_close(net.trunk(image).unique().tolist(), [-0.3])
  torch.testing.assert_close(
      net.trunk(image, _masks(net, 2, rng)).unique().tolist(),
      [-0.42857142857142855, 0.0])
  (g, d), opts = _copies(nets, rate)
  real = torch.rand(4, 1, 16, 16, generator=rng).double() * 2 - 1
  labels, g_labels = torch.tensor([0, 0, 2, 1]), torch.tensor([0, 1, 2] * 2)
  count = fakes(4, 3)
  z = torch.randn(4 + 2 * count, 5, generator=rng).double()
  d_z, g_z = z[:count], z[count:]
  d_masks, g_masks = (_masks(d, 4 + count, rng) for _ in range(2))
  logs = step(g, d, *opts, real, labels, d_z, g_z, g_labels, d_masks=d_masks,
              g_masks=g_masks)
  old_g, old_d = nets
  # By the shares' logarithms, term by term.
  shares = old_d(torch.cat([real, old_g(d_z).detach()]), d_masks).softmax(1)
  index = torch.cat([labels, torch.tensor([3] * count)])
  loss = -shares.log()[torch.arange(4 + count), index].mean()
  torch.testing.assert_close(logs['d_loss'], loss.detach())
  _check_same(d, _descended(old_d, loss, rate))
  shares = d(old_g(g_z), g_masks).softmax(1)
  loss = -shares.log()[torch.arange(len(g_z)), g_labels].mean()
  torch.testing.assert_close(logs['g_loss'], loss.detach())
  _check_same(g, _descended(old_g, loss, rate))

  encoder = Encoder(spec, hyper).double()
  opt = torch.optim.Adam([*encoder.parameters(), *g.parameters()], **ADAM)
  losses = [autoencoder_step(encoder, g, opt, real, _masks(encoder, 4, rng))
            for _ in range(3)]
  assert all(map(torch.isfinite, losses))
  begin(nets[0], nets[1], encoder, g)
  torch.testing.assert_close(nets[1].trunk(real), encoder.trunk(real))
  torch.testing.assert_close(nets[0](d_z), g(d_z))


def _check_gp(spec):
  rng = torch.Generator().manual_seed(1)
  spec, rate, hyper = spec(16, 16, 1, 3), 0.01, dict(
      z_dim=5, widths=(4, 6, 6, 8), label_dim=7, hidden=9)
  nets = [make(spec, hyper).double() for make in GP_NETWORKS]

  def normal(*shape):
    return torch.randn(*shape, generator=rng).double()

  def draw():
    return dict(real=normal(4, 1, 16, 16).tanh(),
                labels=torch.tensor([0, 0, 2, 1]), z=normal(4, 5),
                wrong=torch.tensor([1, 2, 0, 0]), alpha=normal(4),
                fake_labels=torch.tensor([2, 1, 0, 1]))

  (g, d), opts = _copies(nets, rate)
  draws, g_z = [draw(), draw()], normal(4, 5)
  g_labels = torch.tensor([0, 1] * 2)
  one = draws[0]
  with torch.no_grad():
    fake = g(one['z'], one['fake_labels'])
  x = one['real'] + one['alpha'].view(4, 1, 1, 1) * (fake - one['real'])
  check_penalty(
      lambda x: d(x, one['labels']), x,
      lambda: gradient_penalty(lambda x: d(x, one['labels']), one['real'], fake,
                               one['alpha']), list(d.parameters()),
      lambda slope: (slope.square().sum((1, 2, 3)).sqrt() - 1).square().mean())
  (g, d), opts = _copies(nets, rate)
  logs = gp_step(g, d, *opts, draws, g_z, g_labels)

  # Term by term, by the sigmoid's logarithm.
  (old_g, old_d), _ = _copies(nets, rate)
  for given, got in zip(draws, logs['d_loss'], strict=True):
    fake = old_g(given['z'], given['fake_labels']).detach()
    terms = [(given['real'], given['labels'], 1),
             (fake, given['fake_labels'], 0),
             (given['real'], given['wrong'], 0)]
    loss = sum(F.binary_cross_entropy(
        old_d(x, labels).sigmoid(), torch.full((4,), float(want)).double())
        for x, labels, want in terms)
    loss = loss + 10 * gradient_penalty(
        lambda x, given=given: old_d(x, given['labels']), given['real'], fake,
        given['alpha'])
    torch.testing.assert_close(got, loss.detach())
    for p, new in zip(old_d.parameters(), _descended(old_d, loss, rate),
                      strict=True):
      p.data = new
  _check_same(d, old_d.parameters())
  loss = -d(old_g(g_z, g_labels), g_labels).sigmoid().log().mean()
  torch.testing.assert_close(logs['g_loss'], loss.detach())
  _check_same(g, _descended(old_g, loss, rate))

  encoder = GpEncoder(spec, hyper).double()
  opt = torch.optim.Adam([*encoder.parameters(), *g.parameters()], **GP_ADAM)
  losses = [gp_autoencoder_step(encoder, g, opt, one['real'], one['labels'])
            for _ in range(3)]
  assert all(map(torch.isfinite, losses))
  gp_begin(*nets, encoder, g, with_d=True)
  torch.testing.assert_close(nets[1].trunk(one['real']),
                             encoder.trunk(one['real']))
  # The published size: 4096 features of 64 pixels.
  large = spec._replace(height=64, width=64, channels=3)
  with torch.device('meta'):
    assert GpEncoder(large, {}).features == 4096
    assert GpGenerator(large, {})(
        torch.zeros(2, 128), torch.zeros(2, dtype=torch.long)
    ).shape == (2, 3, 64, 64)


if __name__ == '__main__':
  torch.set_num_threads(1)
  torch.manual_seed(0)
  made = _check_counts()
  _check_numbers()
  _check_step(made)
  _check_gp(made)
  print('OK')
