"""Pyramids of GANs: pixels, levels and steps against numpy and PyTorch."""
import functools
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.core import errors, registry, types
from jaxaug.data.datasets import fashion_mnist_small
from jaxaug.generators import ccgan, lapgan
from jaxaug.generators.gan import pyramid
from tests import quick

RGB = types.ImageSpec(32, 32, 3, 10)
GREY = types.ImageSpec(28, 28, 1, 10)
KEY = jax.random.key(0)
SMALL = {'ccgan': dict(z_dim=5, g_widths=(9, 8), d_widths=(7, 6)),
         'lapgan': dict(z_dim=5, g_hidden=(9, 8), d_hidden=(7, 6),
                        g_channels=(4, 3), d_channels=(3, 5))}
BUILD = {'ccgan': ccgan.build, 'lapgan': lapgan.build}


def _flat(tree):
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf
          for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _images(spec, n=40, seed=0):
  """Real images where the size is theirs, else noise."""
  if spec[:3] == GREY[:3]:
    return fashion_mnist_small.load().train.images[seed::5000 // n][:n]
  return np.random.default_rng(seed).integers(0, 256, (n, *spec[:3]), np.uint8)


def _batch(spec, size=6, seed=0, d_steps=1):
  rng = np.random.default_rng(seed)
  images = _images(spec, d_steps * size, seed)
  labels = rng.integers(0, spec.num_classes, (d_steps, size))
  return {'image': images.reshape(d_steps, size, *spec[:3]),
          'label': labels.astype(np.int32)}


# ---- networks ----

@pytest.mark.parametrize('name, spec, given, counts', [
    ('ccgan', RGB, {}, {'g': 89_475_072, 'd': 7_496_001}),
    ('lapgan', RGB, {'halvings': 1, 'g_hidden': (8000, 8000),
                     'd_hidden': (1600, 1600)},
     {'g_16': 110 * 8000 + 8000 + 8000 * 8001 + 8001 * 768,
      'd_16': 778 * 1600 + 1600 + 1600 * 1601 + 1601,
      'g_32': 232_579, 'd_32': 129_409}),
    ('lapgan', GREY, {},
     {'g_7': 111 * 1200 + 1201 * 1200 + 1201 * 49,
      'd_7': 60 * 600 + 601 * 600 + 601,
      'g_14': 11 * 196 + (147 + 1) * 64 + (3136 + 1) * 64 + 1601,
      'd_14': 11 * 196 + 51 * 64 + 1601 * 64 + 64 * 3 * 3 + 1,
      'g_28': 11 * 784 + (147 + 1) * 64 + (3136 + 1) * 64 + 1601,
      'd_28': 11 * 784 + 51 * 64 + 1601 * 64 + 64 * 10 * 10 + 1}),
    ('lapgan', types.ImageSpec(8, 12, 3, 4), {'halvings': 0},
     {'g': 105 * 1200 + 1201 * 1200 + 1201 * 288,
      'd': 293 * 600 + 601 * 600 + 601}),
], ids=['ccgan', 'lapgan of ccgan', 'lapgan of three', 'lapgan of one'])
def test_networks_have_their_numbers_of_parameters(name, spec, given, counts):
  model = BUILD[name](spec, **given)
  assert model.parameters(jax.eval_shape(model.init, KEY)) == counts


def test_shapes_of_the_papers_coarse_to_fine_level():
  state = jax.eval_shape(lapgan.build(RGB).init, KEY)
  shapes = {side: {k: v.shape for k, v in _flat(
      getattr(state.levels[2], side).params).items() if k.endswith('kernel')}
            for side in 'gd'}
  assert shapes == {
      'g': {'label_map/kernel': (10, 1024), 'conv_0/kernel': (7, 7, 5, 64),
            'conv_1/kernel': (7, 7, 64, 64), 'residual/kernel': (5, 5, 64, 3)},
      'd': {'label_map/kernel': (10, 1024), 'conv_0/kernel': (5, 5, 4, 64),
            'conv_1/kernel': (5, 5, 64, 64),
            'score/kernel': (12 * 12 * 64, 1)}}
  model = lapgan.build(RGB)
  assert model.z_dim == 100 + 16**2 + 32**2


@pytest.mark.parametrize('name', BUILD)
def test_weights_and_biases_start_as_in_torch7(name):
  given = {'ccgan': dict(g_widths=(300,), d_widths=(300,)),
           'lapgan': dict(halvings=1, g_hidden=(300,), d_hidden=(300,),
                          g_channels=(16, 16), d_channels=(16, 16))}[name]
  state = jax.tree.map(
      np.asarray, quick.jit(BUILD[name](GREY, **given).init)(KEY))
  fan_in, biases = {}, []
  params = {(i, side): getattr(level, side).params
            for i, level in enumerate(state.levels) for side in 'gd'}
  for name, value in _flat(params).items():
    if name.endswith('kernel'):
      fan_in[name.removesuffix('kernel')] = math.prod(value.shape[:-1])
  for name, value in _flat(params).items():
    scaled = np.ravel(value) * math.sqrt(fan_in[name.rsplit('/', 1)[0] + '/'])
    assert np.abs(scaled).max() <= 1 + 1e-6
    if name.endswith('bias'):
      biases.append(scaled)
    elif value.size > 1000:
      assert abs(scaled.std() - 1 / math.sqrt(3)) < 0.03
      assert np.abs(scaled).max() > 0.99 and abs(scaled.mean()) < 0.06
  biases = np.concatenate(biases)
  assert abs(biases.std() - 1 / math.sqrt(3)) < 0.03
  assert np.abs(biases).max() > 0.99


@pytest.mark.parametrize('net', [
    pyramid.DenseDiscriminator(GREY, (40,), 0.5, jnp.float32),
    lapgan.Discriminator(GREY, (4, 4), 0.5, jnp.float32)],
    ids=['dense', 'convolutions'])
def test_dropout_is_drawn_in_training_alone(net):
  x = _images(GREY, 5) / np.float32(127.5) - 1
  labels = np.arange(5) % 10
  variables = quick.jit(lambda: net.init(KEY, x, labels, train=False))()
  drawn = quick.jit(jax.vmap(lambda key: net.apply(
      variables, x, labels, train=True, rngs={'dropout': key})))(
          jax.random.split(KEY, 500))
  still = quick.jit(lambda: net.apply(variables, x, labels, train=False))()
  assert still.shape == (5,) and still.dtype == jnp.float32
  assert len(np.unique(drawn[:, 0])) > 400
  # Half of the sum that is a score, at twice its size.
  np.testing.assert_allclose(drawn.mean(0), still,
                             atol=4 * drawn.std() / math.sqrt(500))


# ---- pixels ----

def _rare(n=5000):
  """Noise with a pixel that never changes and one that does once."""
  images = np.random.default_rng(0).integers(0, 256, (n, 2, 4, 3), np.uint8)
  images[:, 0, 0], images[:, 1, 1] = 37, 0
  images[n // 2, 1, 1] = 255
  return images


PIXELS = {
    'fashion': lambda: fashion_mnist_small.load().train.images,
    'noise': lambda: _images(types.ImageSpec(4, 6, 3, 2), 997),
    'rare': _rare,
    'one': lambda: _images(RGB, 1),
    'overflow': lambda: np.where(  # 2e9 in whole numbers is at 33,000 images.
        np.arange(80_000)[:, None, None, None] % 4 < 3, 255,
        np.arange(6).reshape(1, 2, 3, 1)).astype(np.uint8)}


@pytest.mark.parametrize('mirror', [False, True])
@pytest.mark.parametrize('name', PIXELS)
def test_pixel_statistics_are_those_of_numpy(name, mirror):
  images = PIXELS[name]()
  mean, std = quick.jit(functools.partial(
      pyramid.pixel_statistics, mirror=mirror))(images)
  wide = images.astype(np.float64) / 127.5 - 1
  if mirror:
    wide = np.concatenate([wide, wide[:, :, ::-1]])
  assert mean.dtype == std.dtype == jnp.float32
  np.testing.assert_allclose(mean, wide.mean(0), atol=2e-7)
  np.testing.assert_allclose(std, wide.std(0), rtol=5e-6, atol=1e-7)
  if not mirror:  # What never changes is told apart from what hardly does.
    np.testing.assert_array_equal(std == 0, np.ptp(images, 0) == 0)


@pytest.mark.parametrize('name', ['fashion', 'noise', 'rare', 'one'])
def test_standardised_images_have_mean_0_and_deviation_1_and_come_back(name):
  images = PIXELS[name]()
  floats = images / np.float32(127.5) - 1
  mean, std = quick.jit(pyramid.pixel_statistics)(images)
  z = np.float64(quick.jit(pyramid.standardise)(floats, mean, std))
  alive = np.ptp(images, 0) > 0
  np.testing.assert_allclose(z.mean(0), 0, atol=3e-4)
  np.testing.assert_allclose(z.std(0), alive, atol=5e-3)
  assert np.abs(z).max() <= math.sqrt(len(images))
  assert (z[:, ~alive] == 0).all()
  np.testing.assert_allclose(quick.jit(pyramid.restore)(
      np.float32(z), mean, std), floats, atol=1e-6)


def test_what_never_changed_in_training_is_not_blown_up_by_other_images():
  mean, std = quick.jit(pyramid.pixel_statistics)(_rare())
  other = np.ones((1, 2, 4, 3), np.float32)
  assert np.abs(pyramid.standardise(other, mean, std)).max() < 100
  # Nor can a generator move it: its value is the one that it always had.
  back = np.asarray(pyramid.restore(50 * other, mean, std))
  np.testing.assert_allclose(back[0, 0, 0], 37 / 127.5 - 1, atol=1e-7)
  assert back.max() <= 1


@pytest.mark.parametrize('spec', [GREY, types.ImageSpec(16, 24, 3, 4)], ids=str)
def test_levels_are_halved_and_doubled_as_in_torch(spec):
  torch = pytest.importorskip('torch')
  from tests.torch_twins import pyramid as torch_pyramid
  images = _images(spec, 5) / np.float32(127.5) - 1
  sizes = quick.jit(pyramid.resolutions, static_argnums=1)(images, 3)
  x = torch.tensor(np.float64(images)).permute(0, 3, 1, 2)
  for i in (2, 1, 0):
    np.testing.assert_allclose(sizes[i], x.permute(0, 2, 3, 1), atol=1e-6)
    x = torch_pyramid.halve(x)
    if i:
      np.testing.assert_allclose(
          quick.jit(pyramid.coarsen)(sizes[i]),
          torch_pyramid.double(x).permute(0, 2, 3, 1), atol=1e-6)
  # A level starts from the one below, and the residuals give all back.
  for low, fine in itertools.pairwise(sizes):
    np.testing.assert_array_equal(pyramid.coarsen(fine), pyramid.double(low))
  whole = sizes[0]
  for fine in sizes[1:]:
    whole = pyramid.double(whole) + (fine - pyramid.coarsen(fine))
  np.testing.assert_allclose(whole, images, atol=3e-7)


# ---- what levels are given ----

class _G(nn.Module):
  """The noise, scaled; what it started from is kept."""
  spec: types.ImageSpec

  @nn.compact
  def __call__(self, z, labels, *given, train: bool):
    gain = self.param('gain', nn.initializers.ones, ())
    if given:
      seen = self.variable('batch_stats', 'given', jnp.zeros, given[0].shape)
      if train:
        seen.value = given[0]
    return gain * z.reshape(-1, *self.spec[:3]) + sum(given)


class _D(nn.Module):
  """A linear score; the images of the last two passes are kept."""

  @nn.compact
  def __call__(self, x, labels, train: bool):
    seen = self.variable('batch_stats', 'seen', jnp.zeros, (2, *x.shape))
    if train and seen.value.shape[1:] == x.shape:
      seen.value = jnp.stack([seen.value[1], x])
    return nn.Dense(1)(x.reshape(len(x), -1))[:, 0]


TINY = types.ImageSpec(8, 4, 1, 3)


def _stubs(**rule):
  specs = pyramid.level_specs(TINY, 2)
  return pyramid.make(TINY, tuple(
      pyramid.Level(spec, _G(spec), _D(), math.prod(spec[:3]))
      for spec in specs), **rule)


def _adapted(model, images=None):
  """A state for batches of 6."""
  state = quick.jit(model.init)(KEY)
  def grow(net, axis, rows):
    return net._replace(stats=jax.tree.map(
        lambda x: jnp.repeat(x, rows, axis), net.stats))
  state = state._replace(levels=tuple(
      level._replace(g=grow(level.g, 0, 6), d=grow(level.d, 1, 12))
      for level in state.levels))
  return state if images is None else quick.jit(model.adapt)(
      state, images, None)


def _standard(images, of):
  wide = of / 127.5 - 1
  return (images / 127.5 - 1 - wide.mean(0)) / wide.std(0)


def test_each_level_sees_its_size_of_the_standardised_images():
  model, train = _stubs(d_steps=2, noise='uniform'), _images(TINY, 30)
  assert model.d_steps == 2 and model.z_dim == 2 + 8 + 32
  batch = _batch(TINY, d_steps=2, seed=1)
  state, logs = quick.jit(model.step)(_adapted(model, train), batch, KEY)
  noise, resolutions = [], quick.jit(pyramid.resolutions, static_argnums=1)
  for k in range(2):
    fine = np.float32(_standard(batch['image'][k], train))
    for i, want in enumerate(resolutions(fine, 3)):
      real, fake = np.split(np.asarray(state.levels[i].d.stats['seen'][k]), 2)
      np.testing.assert_allclose(real, want, atol=2e-5)
      if i:
        fake = fake - pyramid.coarsen(want)
        if k:  # G goes by the last batch.
          np.testing.assert_allclose(state.levels[i].g.stats['given'],
                                     pyramid.coarsen(want), atol=2e-5)
      noise += list(np.ravel(fake))
  # No two levels or passes share their noise.
  assert np.abs(noise).max() < 1 + 1e-5
  assert len(np.unique(noise)) == len(noise) == 2 * 6 * (2 + 8 + 32)
  names = {'d_loss', 'g_loss', 'd_accuracy_real', 'd_accuracy_fake'}
  assert {*logs} == {name + end for name in names for end in ('', '_2', '_4')}
  assert int(state.step) == 1 == int(state.levels[2].step)


def test_mirrored_images_are_mirrored_before_they_are_standardised():
  model, train = _stubs(mirror=True, g_lr=1e-30), _images(TINY, 30)
  state, step = _adapted(model, train), quick.jit(model.step)
  both = np.concatenate([train, train[:, :, ::-1]])
  np.testing.assert_allclose(state.std, (both / 127.5 - 1).std(0), rtol=1e-5)
  flips, resolutions = [], quick.jit(pyramid.resolutions, static_argnums=1)
  for i in range(8):
    batch = _batch(TINY, seed=1 + i)
    state, _ = step(state, batch, KEY)
    plain, turned = (_standard(x, both) for x in (
        batch['image'][0], batch['image'][0][:, :, ::-1]))
    seen = np.asarray(state.levels[2].d.stats['seen'])[1, :6]
    off = np.abs([seen - plain, seen - turned]).max((2, 3, 4))
    assert (off.min(0) < 2e-5).all() and (off.max(0) > 0.1).all()
    flips += list(off.argmin(0))
    # The smaller levels see the same images, turned alike.
    for level, want in zip(state.levels, resolutions(seen, 3), strict=True):
      np.testing.assert_allclose(np.asarray(level.d.stats['seen'])[1, :6], want,
                                 atol=2e-5)
  assert 12 < sum(flips) < 36


def test_before_adapt_pixels_are_as_they_are_and_steps_leave_them_alone():
  model, train = _stubs(), _images(TINY, 30)
  batch, step = _batch(TINY), quick.jit(model.step)
  for state in _adapted(model), _adapted(model, train):
    after, _ = step(state, batch, KEY)
    np.testing.assert_array_equal(after.mean, state.mean)
    np.testing.assert_array_equal(after.std, state.std)
  after, _ = step(_adapted(model), batch, KEY)
  seen = after.levels[2].d.stats['seen'][1, :6]
  np.testing.assert_allclose(seen, batch['image'][0] / 127.5 - 1, atol=1e-6)


# ---- PyTorch ----

def _load(net, params):
  """Gives a twin the weights of flax, in float64; returns it."""
  import torch
  net.double()
  assert len(list(net.parameters())) == len(jax.tree.leaves(params))
  for name, layer in params.items():
    kernel = np.float64(layer['kernel'])
    kernel = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
    for weight, value in ((net[name].weight, kernel),
                          (net[name].bias, np.float64(layer['bias']))):
      assert weight.shape == value.shape
      weight.data.copy_(torch.tensor(value))
  return net


def _assert_alike(params, net, atol):
  for name, layer in params.items():
    weights = net[name].weight, net[name].bias
    kernel, bias = (w.detach().numpy() for w in weights)
    kernel = kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T
    np.testing.assert_allclose(layer['kernel'], kernel, atol=atol, err_msg=name)
    np.testing.assert_allclose(layer['bias'], bias, atol=atol, err_msg=name)


def _twins(name, spec, given):
  from tests.torch_twins import pyramid as torch_pyramid
  hyper = registry.arguments(BUILD[name]) | given
  return getattr(torch_pyramid, name)(spec, hyper)


def _noises(z_dims, size, rng):
  """Uniform noise of each level, [B, z_dim]."""
  return [rng.uniform(-1, 1, (size, n)).astype(np.float32) for n in z_dims]


def _with_noise(monkeypatch, function):
  """function(*args) as run(noises, *args): draws take these in turn."""
  plain = jax.random.uniform  # Initialisers draw by it too.
  def run(noises, *args):
    left = iter(noises)
    def uniform(key, shape, *given, **limits):
      if not limits:
        return plain(key, shape, *given)
      noise = jnp.asarray(next(left))
      assert (noise.shape, limits) == (shape, {'minval': -1, 'maxval': 1})
      return noise
    with monkeypatch.context() as m:
      m.setattr(jax.random, 'uniform', uniform)
      out = function(*args)
    assert not list(left)
    return out
  return quick.jit(run)


def _levels(variables):
  """Those of the levels, the smallest first."""
  names = [name for name in variables if name not in ('mean', 'std')]
  return [variables[name] for name in sorted(
      names, key=lambda name: int(name.removeprefix('level_')))]


@functools.cache
def _start(name, spec, **given):
  """A model and its first state; compiled once."""
  model = BUILD[name](spec, **given)
  return model, quick.jit(model.init)(KEY), quick.jit(model.decode)


CASES = [
    ('ccgan', types.ImageSpec(4, 6, 3, 4), {}, (5,)),
    ('lapgan', GREY, {'halvings': 1}, (5, 784)),
    ('lapgan', types.ImageSpec(20, 24, 3, 4), {}, (5, 120, 480))]


@pytest.mark.parametrize('name, spec, given, z_dims', CASES,
                         ids=['ccgan', 'lapgan grey', 'lapgan RGB'])
def test_samples_climb_the_levels_as_in_torch(name, spec, given, z_dims):
  torch = pytest.importorskip('torch')
  from tests.torch_twins import pyramid as torch_pyramid
  given = SMALL[name] | given
  model, state, decode = _start(name, spec, **given)
  assert (model.z_dim, model.noise) == (sum(z_dims), 'uniform')
  # Weights so large that pixels reach the clip.
  state = quick.jit(model.adapt)(
      jax.tree.map(lambda x: 3 * np.asarray(x), state), _images(spec, 50), None)
  variables = model.variables(state)
  twins = [(_load(g, own['params']), None) for (g, _), own in zip(
      _twins(name, spec, given), _levels(variables), strict=True)]
  labels = np.arange(7) % spec.num_classes
  noises = _noises(z_dims, 7, np.random.default_rng(3))
  mean, std = (torch.tensor(np.float64(x)).permute(2, 0, 1)
               for x in (state.mean, state.std))
  want = torch_pyramid.sample(
      twins, [torch.tensor(np.float64(z)) for z in noises],
      torch.tensor(labels), mean, std).detach().permute(0, 2, 3, 1).numpy()
  got = decode(variables, np.concatenate(noises, 1), labels)
  np.testing.assert_allclose(got, want, atol=2e-5)
  assert (np.abs(want) == 1).any() and (np.abs(want) < 0.9).mean() > 0.1


def test_samples_are_decoded_noise_of_all_levels(monkeypatch):
  name, spec, given, z_dims = CASES[1]
  model, state, decode = _start(name, spec, **SMALL[name] | given)
  variables, labels = model.variables(state), np.arange(7)
  noises = _noises(z_dims, 7, np.random.default_rng(3))
  got = _with_noise(monkeypatch, model.sample)(noises, variables, KEY, labels)
  want = decode(variables, np.concatenate(noises, 1), labels)
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_without_residuals_an_image_is_its_smallest_level_made_larger():
  name, spec, _, _ = CASES[2]
  model, state, decode = _start(name, spec, **SMALL[name])
  variables = model.variables(state)
  smallest, *finer = _levels(variables)
  for level in finer:
    level['params'] = level['params'] | {
        'residual': jax.tree.map(jnp.zeros_like, level['params']['residual'])}
  mean, std = quick.jit(pyramid.pixel_statistics)(_images(spec, 200))
  z = np.random.default_rng(0).uniform(size=(7, model.z_dim)).astype(np.float32)
  labels = np.arange(7) % 4
  got = decode(variables | {'mean': mean, 'std': std}, z, labels)
  net = pyramid.DenseGenerator(pyramid.level_specs(spec, 2)[0], (9, 8),
                               jnp.float32)
  @quick.jit
  def run(mean, std):
    image = net.apply(smallest, z[:, :5], labels, train=False)
    assert image.shape == (7, 5, 6, 3)
    return pyramid.restore(pyramid.double(pyramid.double(image)), mean, std)
  want = run(mean, std)
  np.testing.assert_allclose(got, want, atol=1e-6)


class _Descent:
  """SGD whose momentum grows and damps, in PyTorch."""

  def __init__(self, net, lr, growth, limit):
    self.net, self.lr, self.growth, self.limit = net, lr, growth, limit
    self.step, self.v = 0, [0.] * len(list(net.parameters()))

  def __call__(self, loss):
    import torch
    weights = list(self.net.parameters())
    grads = torch.autograd.grad(loss, weights)
    m = min(self.growth * self.step, self.limit)
    self.v = [m * v + (1 - m) * g for v, g in zip(self.v, grads, strict=True)]
    with torch.no_grad():
      for w, v in zip(weights, self.v, strict=True):
        w -= self.lr * v
    self.step += 1
    return loss.item()


def _torch_level(g, d, g_sgd, d_sgd, real, given, labels, noises):
  """One update of D and of G: binary cross-entropies of a batch."""
  import torch
  bce = torch.nn.functional.binary_cross_entropy_with_logits
  def cost(scores, target):
    return bce(scores, torch.full_like(scores, target))
  on_real = d(real, labels)
  on_fake = d(g(noises[0], labels, *given).detach(), labels)
  logs = {'d_accuracy_real': (on_real > 0).double().mean().item(),
          'd_accuracy_fake': (on_fake < 0).double().mean().item()}
  # The code's loss is half of it, at twice the rate.
  d_loss = d_sgd(cost(on_real, 1.) + cost(on_fake, 0.))
  g_loss = g_sgd(cost(d(g(noises[1], labels, *given), labels), 1.))
  return logs | {'d_loss': d_loss, 'g_loss': g_loss}


@pytest.mark.parametrize('name, spec, given, z_dims', CASES[:2],
                         ids=['ccgan', 'lapgan'])
def test_steps_are_those_of_torch(monkeypatch, name, spec, given, z_dims):
  torch = pytest.importorskip('torch')
  from tests.torch_twins import pyramid as torch_pyramid
  given = SMALL[name] | given | dict(dropout=0.0, momentum_growth=0.2,
                                     momentum_limit=0.3, g_lr=0.2, d_lr=0.1)
  model, train = BUILD[name](spec, **given), _images(spec, 50)
  same = {k: v for k, v in given.items() if k in SMALL[name] | CASES[1][2]}
  state = quick.jit(model.adapt)(_start(name, spec, **same)[1], train,
                                None)
  twins = _twins(name, spec, given)
  for level, (g, d) in zip(state.levels, twins, strict=True):
    _load(g, level.g.params), _load(d, level.d.params)
  descents = [(_Descent(g, 0.2, 0.2, 0.3), _Descent(d, 0.1, 0.2, 0.3))
              for g, d in twins]
  step = _with_noise(monkeypatch, model.step)
  # A pixel that never changes is 0 whatever divides it.
  wide = train / 127.5 - 1
  mean, std = wide.mean(0), wide.std(0) + (np.ptp(train, 0) == 0)
  rng = np.random.default_rng(5)
  for i in range(3):
    batch = _batch(spec, seed=i)
    noises = [z for n in z_dims for z in _noises((n, n), 6, rng)]
    state, logs = step(noises, state, batch, KEY)
    z = (batch['image'][0] / 127.5 - 1 - mean) / std * (np.ptp(train, 0) > 0)
    sizes = [torch.tensor(z).permute(0, 3, 1, 2)]
    for _ in z_dims[1:]:
      sizes.insert(0, torch_pyramid.halve(sizes[0]))
    labels = torch.tensor(batch['label'][0]).long()
    for k, (real, nets, sgd) in enumerate(zip(sizes, twins, descents,
                                              strict=True)):
      coarse = (torch_pyramid.double(sizes[k - 1]),) if k else ()
      want = _torch_level(*nets, *sgd, real, coarse, labels, [
          torch.tensor(np.float64(z)) for z in noises[2 * k:2 * k + 2]])
      end = '' if k == len(sizes) - 1 else f'_{real.shape[2]}'
      for key, value in want.items():
        np.testing.assert_allclose(logs[key + end], value, rtol=1e-4,
                                   atol=1e-5, err_msg=f'{i} {key}{end}')
      _assert_alike(state.levels[k].g.params, nets[0], 1e-5)
      _assert_alike(state.levels[k].d.params, nets[1], 1e-5)


# ---- the whole ----

def test_half_precision_computes_alike():
  spec = types.ImageSpec(16, 24, 3, 4)
  batch, out = _batch(spec), []
  for dtype in 'float32', 'bfloat16':
    model, state, _ = _start('ccgan', spec, dtype=dtype, **SMALL['ccgan'])
    state = quick.jit(model.adapt)(state, _images(spec, 50), None)
    state, logs = quick.jit(model.step)(state, batch, KEY)
    assert all(x.dtype != jnp.bfloat16 for x in jax.tree.leaves(state))
    out.append([logs['d_loss'], logs['g_loss']])
  assert out[0] != out[1]
  np.testing.assert_allclose(*out, rtol=0.02)


@pytest.mark.parametrize('name, spec, given', [
    ('ccgan', types.ImageSpec(8, 4, 1, 3), dict(g_widths=(64,),
                                                d_widths=(48,))),
    pytest.param('lapgan', types.ImageSpec(18, 10, 1, 3), dict(
        halvings=1, g_hidden=(64,), d_hidden=(48,), g_channels=(8,),
        d_channels=(8, 8)), marks=pytest.mark.slow),
], ids=['ccgan', 'lapgan'])
def test_a_pattern_a_class_is_learnt(name, spec, given):
  h, w = spec[:2]
  patterns = np.full((3, h, w, 1), 60, np.uint8)
  patterns[0, :h // 2], patterns[1, :, :w // 2] = 200, 200
  patterns[2, h // 4:3 * h // 4] = 200
  rng = np.random.default_rng(0)
  labels = np.arange(60, dtype=np.int32) % 3
  images = patterns[labels] + rng.integers(-40, 41, (60, 1, 1, 1))
  images = (images + rng.integers(0, 9, images.shape)).astype(np.uint8)
  model = BUILD[name](spec, z_dim=4, optimizer='adam', b1=0.5, g_lr=2e-3,
                      d_lr=2e-3, ema_decay=0.9, **given)
  state = quick.jit(model.adapt)(quick.jit(model.init)(KEY), images, None)
  step = quick.jit(model.step, donate_argnums=0)
  for _ in range(800):
    pick = rng.permutation(60)[:24]
    state, _ = step(state, {'image': images[pick][None],
                            'label': labels[pick][None]}, KEY)
  drawn = quick.jit(model.sample)(
      model.variables(state), jax.random.key(5), labels)
  far = np.abs(np.asarray(drawn)[:, None]
               - (patterns / 127.5 - 1)).mean((2, 3, 4))
  assert (far.argmin(1) == labels).mean() > 0.95
  assert far.min(1).mean() < 0.25  # The images themselves are at 0.16.


@pytest.mark.parametrize('name, given, line', [
    *((name, *case) for name in BUILD for case in (
        ({'z_dim': 0}, 'z_dim: 0; expected a whole number of at least 1'),
        ({'dropout': 1.0}, 'dropout: 1.0; expected a number from 0 to below 1'),
        ({'dtype': 'float16'}, "dtype: 'float16'; expected one of float32"),
        ({'noise': 'gauss'}, "noise: 'gauss'; expected one of normal"),
        ({'g_lr': 0.0}, 'g_lr: 0.0; expected a number above 0'),
        ({'mirror': 'yes'}, "mirror: 'yes'; expected one of False, True"),
        ({'momentum_growth': -1.0}, 'momentum_growth: -1.0; '),
        ({'width': 3}, 'width: unknown key'))),
    ('ccgan', {'g_widths': ()}, r'g_widths: \(\); expected some whole numbers'),
    ('ccgan', {'d_widths': (8, 0)}, 'd_widths: 0; '),
    ('lapgan', {'halvings': 3}, 'halvings: 3 of 28x28 leave a rest; expected a '
     'size divisible by 8, see config.data.resize'),
    ('lapgan', {'halvings': -1}, 'halvings: -1; '),
    ('lapgan', {'g_hidden': 8}, 'g_hidden: 8; '),
    ('lapgan', {'d_hidden': (0,)}, 'd_hidden: 0; '),
    ('lapgan', {'g_channels': (8, 'a')}, "g_channels: 'a'; "),
    ('lapgan', {'d_channels': (8,)}, r'd_channels: \(8,\); expected 2 whole'),
], ids=str)
def test_values_that_cannot_be_are_one_line(name, given, line):
  with pytest.raises(errors.InputError, match=rf'^x\.{line}') as e:
    registry.build('generators', name, given, 'x', GREY)
  assert '\n' not in str(e.value)


def test_levels_too_small_to_judge_are_one_line():
  with pytest.raises(errors.InputError, match='^x.halvings: 2; .* 8x12 pixels; '
                     'expected fewer, so that a side has 9') as e:
    registry.build('generators', 'lapgan', {}, 'x',
                   types.ImageSpec(16, 24, 3, 4))
  assert '\n' not in str(e.value)
  spec = types.ImageSpec(18, 24, 3, 4)  # One pixel is left of a side of 9.
  jax.eval_shape(lapgan.build(spec._replace(height=36, width=40)).init, KEY)
