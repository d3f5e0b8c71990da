"""BAGAN: its published sizes, latents beside NumPy's, steps beside a twin's."""
import functools

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.core import errors, registry, types
from jaxaug.data import mixing, pixels
from jaxaug.generators import bagan
from jaxaug.generators.gan import pretraining
from tests import quick
from tests.torch_twins import pretrained_steps as twin_steps
from tests.torch_twins.pretrained_steps import KEY, SPEC

WIDE = types.ImageSpec(16, 24, 3, 4)
SMALL = dict(z_dim=6, hidden=16, g_width=8, d_width=4)
RATE = 1e-3  # Of steps that are looked at closely.
RATES = dict.fromkeys(('autoencoder_lr', 'g_lr', 'd_lr'), RATE)
LARGE = types.ImageSpec(64, 64, 3, 22)


@pytest.mark.parametrize('spec, counts', [
    (types.ImageSpec(28, 28, 1, 10), {'g': 8_163_840}),
    (types.ImageSpec(32, 32, 3, 10), {
        'g': 10_130_944, 'encoder': 2_026_916, 'd': 568_651}),
    (LARGE, {'g': 11_769_344, 'encoder': 3_207_076, 'd': 1_945_431})], ids=str)
def test_as_many_parameters_as_the_authors_networks(spec, counts):
  model = bagan.build(spec)
  found = model.parameters(jax.eval_shape(model.init, KEY))
  assert {name: found[name] for name in counts} == counts


def _maps(spec, **given):
  """What every layer of the three networks gives, in their order."""
  maps = []
  def look(call, args, kwargs, context):
    out = call(*args, **kwargs)
    if isinstance(context.module, (nn.Conv, nn.Dense)):
      maps.append(out.shape[1:])
    return out
  model = bagan.build(spec, **given)
  with nn.intercept_methods(look):
    jax.eval_shape(model.init, KEY)
  return maps


@pytest.mark.parametrize('size, grid, up, down', [
    ((28, 28, 1), (7, 7), [256, 128], [2, 2, 4, 4]),
    ((32, 32, 3), (8, 8), [256, 128], [2, 2, 4, 4]),
    ((64, 64, 3), (8, 8), [256, 256, 128], [2, 2, 4, 4, 8, 8]),
    ((224, 224, 3), (7, 7), [256] * 4 + [128],
     [2, 2, 4, 4, 8, 8, 16, 16, 32, 32]),
    # Neither square nor the authors': the shorter side is halved to 8 or less,
    # and encoder and discriminator halve twice at least.
    ((16, 24, 3), (8, 12), [128], [2, 2, 4, 4]),
    ((40, 24, 1), (10, 6), [256, 128], [2, 2, 4, 4]),
    ((5, 7, 1), (5, 7), [], [2, 2, 4, 4]),
], ids=str)
def test_layers_have_the_published_shapes(size, grid, up, down):
  widths = [32, 64, 128, *[256] * 20]
  trunk = [(-(-size[0] // n), -(-size[1] // n), width)
           for n, width in zip(down, widths, strict=False)]
  decoder = [(1024,), (grid[0] * grid[1] * 128,)] + [
      (grid[0] << i, grid[1] << i, width) for i, width in enumerate(up, 1)] + [
          size]
  # In the order of `init`: encoder and discriminator end in a dense layer.
  assert sorted(_maps(types.ImageSpec(*size, 5))) == sorted(
      [*trunk, (100,), *decoder, *trunk, (6,)])


def _state(model, seed=0):
  """A state whose biases are not 0."""
  rng = np.random.default_rng(seed)
  start = quick.jit(model.init)(KEY)
  def other(net):
    return net._replace(params=jax.tree.map(
        lambda x: x if x.ndim > 1 else np.float32(
            rng.uniform(-0.1, 0.1, x.shape)), net.params))
  return start._replace(encoder=other(start.encoder), d=other(start.d))


def test_weights_start_as_kerass():
  """Glorot's, uniform but for G's convolutions; G has no bias, others 0."""
  state = quick.jit(bagan.build(WIDE, hidden=64, d_width=8,
                                g_width=16).init)(KEY)
  for name in ('encoder', 'g', 'd'):
    params = getattr(state, name).params
    for path, x in flax.traverse_util.flatten_dict(params).items():
      if path[-1] == 'bias':
        assert name != 'g' and not x.any()
        continue
      taps = x[..., 0, 0].size
      std = np.sqrt(2 / (taps * (x.shape[-2] + x.shape[-1])))
      assert abs(x.std() / std - 1) < 5 / x.size**0.5, path
      if name == 'g' and x.ndim == 4:
        assert x.size < 1000 or np.abs(x).max() > 2 * std  # Of a normal.
      else:
        edge = 3**0.5 * std
        assert 0.9 * edge < np.abs(x).max() <= edge * (1 + 1e-6), path


# ---- Latents ----

def _codes(counts, size, seed=0):
  """Latents of classes that lie apart, and their labels, mixed."""
  rng = np.random.default_rng(seed)
  labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
  mix = rng.normal(size=(len(counts), size, size)) / size**0.5
  codes = np.einsum('nij,nj->ni', mix[labels], rng.normal(
      size=(len(labels), size)))
  return np.float32(codes * 2 + 50 * rng.normal(
      size=(len(counts), size))[labels]), np.int32(labels)


@pytest.mark.parametrize('size', [3, 20])
def test_latents_of_a_class_are_numpys_mean_and_covariance(size):
  """Also of fewer images than latents, down to two."""
  counts = (300, 21, 12, 2)
  codes, labels = _codes(counts, size)
  mean, root = quick.steady(functools.partial(
      bagan.class_normals, num_classes=4))(codes, labels)
  assert mean.dtype == root.dtype == jnp.float32
  for k, count in enumerate(counts):
    own = np.float64(codes[labels == k])
    covariance = np.cov(own.T)
    np.testing.assert_allclose(mean[k], own.mean(0), rtol=1e-6, atol=1e-5)
    r = np.float64(root[k])
    scale = np.abs(covariance).max()
    np.testing.assert_allclose(r @ r.T, covariance, atol=1e-5 * scale)
    np.testing.assert_allclose(r, r.T, atol=1e-5 * scale**0.5)
    rank = min(count - 1, size)
    assert np.linalg.matrix_rank(r, tol=1e-3 * scale**0.5) == rank
    # What cannot be told from rounding is nothing at all.
    assert np.abs(np.linalg.eigvalsh(r))[:0 if rank == size else 1].sum() < (
        1e-5 * scale**0.5)


def test_latents_of_many_images_far_from_0_are_as_exact():
  rng = np.random.default_rng(0)
  codes = np.float32(1000 + rng.normal(size=(60_000, 3)))
  labels = np.int32(np.arange(60_000) % 5 > 0)
  mean, root = quick.steady(functools.partial(
      bagan.class_normals, num_classes=2))(codes, labels)
  for k in range(2):
    own = np.float64(codes[labels == k])
    np.testing.assert_allclose(mean[k], own.mean(0), atol=3e-4)
    np.testing.assert_allclose(np.float64(root[k]) @ root[k], np.cov(own.T),
                               atol=1e-5)


def test_three_latents_by_hand():
  """(0, 0), (2, 0), (4, 6): mean (2, 2), off by (-2, -2), (0, -2), (2, 4).

  Variances (4 + 0 + 4) / 2 = 4 and (4 + 4 + 16) / 2 = 12, and (4 + 0 + 8) / 2 =
  6 between. Of (1, 1) and (3, 1), [[2, 0], [0, 0]], whose root has sqrt(2).
  """
  codes = jnp.array([[0, 0], [1, 1], [2, 0], [3, 1], [4, 6]], jnp.float32)
  mean, root = bagan.class_normals(codes, jnp.array([0, 1, 0, 1, 0]), 2)
  np.testing.assert_allclose(mean, [[2, 2], [2, 1]], atol=1e-6)
  np.testing.assert_allclose(root[0] @ root[0], [[4, 6], [6, 12]], atol=1e-5)
  np.testing.assert_allclose(root[1], [[2**0.5, 0], [0, 0]], atol=1e-6)


def _begun(model, state, images, labels):
  begin, = (phase.begin for phase in model.phases)
  return quick.jit(begin)(state, images, labels)


def test_second_phase_begins_with_what_the_first_has_learned(train):
  images, labels = twin_steps.garments(train)
  labels = np.where(np.arange(len(labels)) < 5, 1, labels)  # Unequal classes.
  labels = np.int32(np.where(np.arange(len(labels)) == 59, 2, labels))
  model = bagan.build(SPEC, **SMALL, d_ratio='rebalance')
  state = _state(model)
  rng = np.random.default_rng(1)
  # As after some steps, whatever they were.
  state = state._replace(step=jnp.int32(7), g=state.g._replace(
      opt=jax.tree.map(lambda x: x + jnp.ones_like(x), state.g.opt)))
  new = _begun(model, state, images, labels)
  assert int(new.step) == 7
  codes = quick.jit(lambda params, x: bagan.Encoder(
      6, ((4, 2), (8, 1), (16, 2), (32, 1)), 0.3, jnp.float32).apply(
          {'params': params}, x, train=False))(
              state.encoder.params, pixels.to_float(images))
  for k in range(3):
    own = np.float64(codes[labels == k])
    np.testing.assert_allclose(new.latents['mean'][k], own.mean(0), atol=1e-5)
    root = np.float64(new.latents['root'][k])
    want = np.cov(own.T)
    np.testing.assert_allclose(root @ root, want,
                               atol=1e-4 * np.abs(want).max())
  # 2 / 3 less the shares 15, 24 and 21 of 60, whose sum is 1 again.
  counts = np.bincount(labels)
  np.testing.assert_allclose(new.latents['d_ratio'], 2 / 3 - counts / 60,
                             rtol=1e-5)
  np.testing.assert_allclose(new.latents['g_ratio'], 1 / 3, rtol=1e-6)
  def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
  same(new.g.params, state.g.params)
  same(new.ema['params'], state.g.params)
  assert not any(np.any(x) for x in jax.tree.leaves(new.g.opt))
  convs = [name for name in new.d.params if name != 'classes']
  assert convs == [f'conv_{i}' for i in range(4)]
  for name in convs:
    same(new.d.params[name], state.encoder.params[name])
  same(new.d.params['classes'], state.d.params['classes'])
  # What samples see: a class's own mean and covariance, and G.
  z, asked = np.float32(rng.normal(size=(4, 6))), np.array([0, 2, 2, 1])
  got = quick.jit(model.decode)(model.variables(new), z, asked)
  latents = new.latents['mean'][asked] + np.einsum(
      'bij,bj->bi', new.latents['root'][asked], z)
  plain = quick.jit(model.decode)(model.variables(state), latents, asked)
  np.testing.assert_allclose(got, plain, atol=1e-5)


def test_before_the_second_phase_samples_are_of_standard_normal_latents():
  model = bagan.build(WIDE, **SMALL)
  variables = model.variables(quick.jit(model.init)(KEY))
  labels = np.arange(8, dtype=np.int32) % 4
  images = quick.jit(model.sample)(variables, KEY, labels)
  assert np.isfinite(images).all() and np.std(images) > 0
  z = jax.random.normal(KEY, (8, 6))
  np.testing.assert_array_equal(
      images, quick.jit(model.decode)(variables, z, labels * 0))


# ---- Ratios ----

@pytest.mark.parametrize('counts, kind, want', [
    ((8, 1, 1), 'uniform', (1 / 3,) * 3),
    # 2 / 3 - 0.8 is negative; 2 / 3 - 0.1 twice, over the sum.
    ((8, 1, 1), 'rebalance', (0, 0.5, 0.5)),
    # 2 / 3 less 0.5, 0.3 and 0.2.
    ((5, 3, 2), 'rebalance', (1 / 6, 11 / 30, 7 / 15)),
    ((4,), 'rebalance', (1,))], ids=str)
def test_ratios_by_hand(counts, kind, want):
  labels = jnp.repeat(jnp.arange(len(counts)), jnp.array(counts))
  got = bagan.class_ratio(labels, len(counts), kind)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_labels_of_fakes_follow_the_ratios(monkeypatch):
  """ceil(B / K) for D, B and as many for G: 2 and 7 beside 5 of 3 classes."""
  model = bagan.build(SPEC, **SMALL)
  state = quick.jit(model.init)(KEY)
  ratios = {'d_ratio': jnp.array([0.0, 0.25, 0.75]),
            'g_ratio': jnp.array([0.5, 0.5, 0.0])}
  state = state._replace(latents=state.latents | ratios)
  batch = {'image': np.zeros((1, 5, 16, 16, 1), np.uint8),
           'label': np.zeros((1, 5), np.int32)}
  run = twin_steps.heard(monkeypatch, model.phases[0].step)
  # Of the labels alone; what else a step does is not compiled.
  of_d, of_g = quick.jit(lambda state, keys: jax.vmap(
      lambda key: run(state, batch, key)[2]['choice'])(keys))(
          state, jax.random.split(KEY, 600))
  assert of_d.shape == (600, 2) and of_g.shape == (600, 7)
  for labels, ratio in (of_d, ratios['d_ratio']), (of_g, ratios['g_ratio']):
    share = np.bincount(np.ravel(labels), minlength=3) / labels.size
    # Five standard errors of a share of a half.
    np.testing.assert_allclose(share, ratio, atol=2.5 / labels.size**0.5)
    assert not share[np.asarray(ratio) == 0].any()


# ---- Steps ----

class _Given(nn.Module):
  """(z, labels) -> images whose pixels are weights, whatever z is."""

  @nn.compact
  def __call__(self, z, labels, train):
    row = self.param('row', lambda key: jnp.array([0.5, -0.25, 1.0]))
    return jnp.tile(row, (len(z), 1)).reshape(-1, 1, 3, 1)


class _Pixels(nn.Module):
  """(images of 3 pixels, labels) -> twice their pixels, as logits."""

  @nn.compact
  def __call__(self, x, labels, train):
    return x.reshape(-1, 3) * self.param('gain', lambda key: jnp.float32(2))


def test_losses_by_hand():
  """Two classes and fake; D's logits are twice the pixels."""
  import optax
  sgd = optax.sgd(0.1)
  rule = pretraining.Rule(
      types.ImageSpec(1, 3, 1, 2), 4, None, _Given(), _Pixels(), 0,
      pretraining.Optimizers(sgd, sgd, sgd), None,
      lambda ema, net, step: {'params': net.params, 'batch_stats': {}})
  g = {'row': jnp.array([0.5, -0.25, 1.0])}
  state = pretraining.State(
      jnp.int32(3), types.Net({}, {}, ()), types.Net(g, {}, sgd.init(g)),
      types.Net({'gain': jnp.float32(2)}, {}, sgd.init({'gain': 0.0})),
      {}, {'mean': jnp.zeros((2, 4)), 'root': jnp.zeros((2, 4, 4)),
           # D's fakes are of class 0, which it must not care about; G's of 1.
           'd_ratio': jnp.array([1.0, 0.0]), 'g_ratio': jnp.array([0.0, 1.0])})
  image = np.uint8([[255, 0, 0], [0, 255, 255], [255, 255, 0]])
  batch = {'image': image.reshape(1, 3, 1, 3, 1),
           'label': np.int32([[0, 1, 1]])}
  new, logs = quick.jit(functools.partial(bagan.adversarial, rule))(
      state, batch, KEY)

  # Three real images of their classes and ceil(3 / 2) fakes of class 2.
  row = np.array([0.5, -0.25, 1.0])
  shown = np.concatenate([image / 127.5 - 1, [row, row]])
  known = np.array([0, 1, 1, 2, 2])
  def entropies(logits, known):
    top = np.exp(logits).sum(1)
    return np.log(top) - logits[np.arange(len(known)), known]
  np.testing.assert_allclose(logs['d_loss'],
                             entropies(2 * shown, known).mean(), rtol=1e-6)
  assert logs['d_accuracy_real'] == np.float32(2 / 3)  # Of a tie the first is.
  assert logs['d_accuracy_fake'] == 1
  eps = 1e-6
  def slope(function, x):
    return (function(x + eps) - function(x - eps)) / (2 * eps)
  gain = 2 - 0.1 * slope(
      lambda gain: entropies(gain * shown, known).mean(), 2.0)
  np.testing.assert_allclose(new.d.params['gain'], gain, rtol=1e-6)
  # G's 3 + 2 by the new D, all asked to be of class 1.
  def g_loss(row):
    return entropies(gain * row[None], np.array([1])).mean()
  np.testing.assert_allclose(logs['g_loss'], g_loss(row), rtol=1e-6)
  want = [row[i] - 0.1 * slope(lambda x, i=i: g_loss(np.where(
      np.arange(3) == i, x, row)), row[i]) for i in range(3)]
  np.testing.assert_allclose(new.g.params['row'], want, rtol=1e-5)
  assert new.step == 4


@pytest.mark.parametrize('spec', [
    types.ImageSpec(28, 28, 1, 10),
    pytest.param(LARGE, marks=pytest.mark.slow)], ids=str)
def test_networks_are_the_twins(spec):
  """As they are by default."""
  twin, layout = twin_steps.twins()
  model = bagan.build(spec)
  state = _state(model)
  rng = np.random.default_rng(0)
  x = np.float32(rng.uniform(-1, 1, (2, *spec[:3])))
  z = np.float32(rng.normal(size=(2, 100)))
  ups = bagan._ups(spec)
  plan = bagan._plan(spec, ups, 32)
  for net, make, module, given in (
      (state.encoder, twin.Encoder,
       bagan.Encoder(100, plan, 0.3, jnp.float32), (x,)),
      (state.d, twin.Discriminator, bagan.Discriminator(
          spec.num_classes, plan, 0.3, jnp.float32), (x, None)),
      (state.g, twin.Decoder, bagan.Decoder(spec, ups, 1024, 128, jnp.float32),
       (z, None))):
    theirs = layout.load(make(spec, {}), net.params).double()
    got = quick.jit(lambda params, *given, module=module: module.apply(
        {'params': params}, *given, train=False))(net.params, *given)
    want = theirs(twin_steps.as_torch(given[0])).detach().numpy()
    want = np.moveaxis(want, 1, -1) if want.ndim == 4 else want
    assert np.abs(want).max() > 1e-2
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_a_step_of_each_phase_is_the_twins(monkeypatch, train):
  """A step of the autoencoder, the latents, a step of both players."""
  torch = pytest.importorskip('torch')
  twin, layout = twin_steps.twins()
  images, labels = twin_steps.garments(train)
  given = dict(z_dim=30)  # More than a class has images.
  model = bagan.build(SPEC, **given, **RATES)
  state = _state(model)
  nets = [layout.load(make(SPEC, given), net.params).double() for make, net in (
      (twin.Encoder, state.encoder), (twin.Decoder, state.g),
      (twin.Discriminator, state.d))]
  encoder, g, d = nets
  def adam(*nets):
    return torch.optim.Adam([p for net in nets for p in net.parameters()],
                            RATE, (0.5, 0.999))
  rows = np.random.default_rng(0).permutation(len(labels))[:7]
  batch = {'image': images[rows][None], 'label': labels[rows][None]}
  real = twin_steps.as_torch(pixels.to_float(images[rows]))
  as_torch = twin_steps.as_torch

  new, logs, draws = quick.steady(twin_steps.heard(monkeypatch, model.step))(
      state, batch, KEY)
  masks = [as_torch(np.float64(x)) for x in draws.pop('bernoulli')]
  assert len(masks) == 4 and not draws
  opt = adam(encoder, g)
  loss = twin.autoencoder_step(encoder, g, opt, real, masks)
  np.testing.assert_allclose(logs['ae_loss'], loss, rtol=1e-5)
  for net, mine in (encoder, new.encoder), (g, new.g):
    assert not twin_steps.check(net, opt, mine, RATE)

  state = _begun(model, new, images, labels)
  decoder = twin.Decoder(SPEC, given).double()
  twin.begin(decoder, d, encoder, g)
  with torch.no_grad():
    codes = encoder(as_torch(pixels.to_float(images))).numpy()
  means, covariances = twin.class_normals(codes, labels, 3)
  roots = twin.root(covariances)
  np.testing.assert_allclose(state.latents['mean'], means, atol=1e-4)
  np.testing.assert_allclose(state.latents['root'], roots, atol=2e-3 * np.abs(
      roots).max())

  second = twin_steps.heard(monkeypatch, model.phases[0].step)
  new, logs, draws = quick.steady(second)(state, batch, KEY)
  (d_labels, g_labels), (d_z, g_z) = draws['choice'], draws['normal']
  assert len(d_labels) == twin.fakes(7, 3) and len(g_labels) == 7 + 3
  # Of our latents: the twin's differ by rounding, which G makes larger.
  mean, root = (np.float64(state.latents[k]) for k in ('mean', 'root'))
  masks = [as_torch(np.float64(x)) for x in draws['bernoulli']]
  assert len(masks) == 8
  for i in range(4):  # Both see ten images, and each has masks of its own.
    share = (masks[i] != masks[i + 4]).double().mean()
    np.testing.assert_allclose(share, 2 * 0.3 * 0.7, atol=0.03)
    np.testing.assert_allclose(masks[i].mean(), 0.7, atol=0.03)
  opts = adam(decoder), adam(d)
  want = twin.step(
      decoder, d, *opts, real, as_torch(labels[rows]),
      as_torch(twin.latents(np.asarray(d_labels), mean, root, d_z)),
      as_torch(twin.latents(np.asarray(g_labels), mean, root, g_z)),
      as_torch(g_labels), d_masks=masks[:4], g_masks=masks[4:])
  for name in 'd_loss', 'g_loss':
    np.testing.assert_allclose(logs[name], want[name], rtol=1e-5)
  for net, opt, mine in (decoder, opts[0], new.g), (d, opts[1], new.d):
    assert not twin_steps.check(net, opt, mine, RATE)
  assert int(new.step) == 2


def test_without_an_average_samples_are_of_the_generator_itself():
  batch = {'image': np.arange(4 * 256, dtype=np.int32).astype(
      np.uint8).reshape(1, 4, 16, 16, 1), 'label': np.int32([[0, 1, 2, 0]])}
  for decay in 0.0, 0.9:
    model = bagan.build(SPEC, **SMALL, **RATES, ema_decay=decay, steps=4)
    state = quick.jit(model.init)(KEY)
    for step in model.step, model.phases[0].step:
      if int(state.step):
        state = _begun(model, state, np.repeat(batch['image'][0], 3, 0),
                       np.repeat(batch['label'][0], 3))
      before, step = state.ema['params'], quick.jit(step)
      for i in range(2):
        state, _ = step(state, batch, KEY)
        # As at the start of a training, in either phase.
        kept = min(decay, (1 + i) / (10 + i))
        want = jax.tree.map(lambda old, new, kept=kept: kept * old
                            + (1 - kept) * new, before, state.g.params)
        before = state.ema['params']
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4,
                                       atol=1e-6), before, want)
    if not decay:
      jax.tree.map(np.testing.assert_array_equal,
                   model.variables(state)['params'], state.g.params)


# ---- At the door ----

def test_batches_are_shuffled_epochs():
  model = bagan.build(WIDE, **SMALL)
  labels = np.arange(12) % 4
  batch = model.feed(labels, tuple('abcd'), 5, 3)
  plan = mixing.plan(mixing.everything(12), pool_start=0, batch_size=5,
                     seed=(3,))
  for i in 0, 7:
    np.testing.assert_array_equal(batch(i), mixing.batch(plan, i)[None])


@pytest.mark.parametrize('counts, line', [
    ((4, 1, 2, 2), "model: training images of class 'b': 1; expected at least "
     '2 of each class, for the covariance of its latents.'),
    ((4, 2, 2, 0), "model: training images of class 'd': 0; expected at least "
     '2')])
def test_a_class_of_one_image_is_refused_by_name(counts, line):
  model = bagan.build(WIDE, **SMALL)
  labels = np.repeat(np.arange(4), counts)
  with pytest.raises(errors.InputError) as e:
    model.feed(labels, tuple('abcd'), 4, 0)
  assert str(e.value).startswith(line)


@pytest.mark.parametrize('size, given, line', [
    ((30, 30), {}, 'model: bagan halves images to 8 pixels or fewer, 30x30 in '
     '2 steps; expected a size divisible by 4, see config.data.resize.'),
    ((64, 60), {}, 'model: bagan halves images to 8 pixels or fewer, 64x60 in '
     '3 steps; expected a size divisible by 8'),
    ((32, 32), {'steps': 1}, 'steps: 1; expected a whole number of at least 2'),
    ((32, 32), {'steps': 9, 'autoencoder_steps': 9}, 'autoencoder_steps: 9; '
     'expected fewer than the 9 steps of the whole training.'),
    ((32, 32), {'g_ratio': 'rebalanced'}, "g_ratio: 'rebalanced'; expected one "
     "of uniform, rebalance. Did you mean 'rebalance'?")], ids=str)
def test_values_that_cannot_be_are_one_line(size, given, line):
  spec = types.ImageSpec(*size, 3, 10)
  with pytest.raises(errors.InputError) as e:
    registry.build('generators', 'bagan', given, 'x', spec)
  assert str(e.value).startswith(f'x.{line}') and '\n' not in str(e.value)


@pytest.mark.parametrize('steps, given, first', [
    (9, None, 4), (10, None, 5), (2, None, 1), (10, 9, 9), (10, 1, 1)])
def test_the_autoencoder_has_half_of_the_steps(steps, given, first):
  model = bagan.build(WIDE, **SMALL, steps=steps, autoencoder_steps=given)
  assert [phase.first for phase in model.phases] == [first]


@pytest.mark.slow
def test_classes_of_real_images_are_learned(garments):
  """Also one of 25 images among others of 200, in both phases.

  What it draws is nearest to its own class's mean image, of five; of real
  images 92 % are.
  """
  classes = (0, 1, 5, 8, 9)  # Shirts, trousers, sandals, bags, boots.
  rows = np.concatenate([
      np.flatnonzero(garments.train.labels == k)[:25 if k == 8 else 200]
      for k in classes])
  images = garments.train.images[rows]
  labels = np.int32(np.searchsorted(classes, garments.train.labels[rows]))
  spec = types.ImageSpec(28, 28, 1, 5)
  model = bagan.build(spec, z_dim=16, hidden=128, g_width=8, d_width=8,
                      autoencoder_lr=2e-3, g_lr=2e-4, d_lr=4e-4, steps=400)
  means = np.stack([images[labels == k].mean(0) / 127.5 - 1 for k in range(5)])
  def right(images, labels):
    away = np.square(images[:, None] - means).sum((2, 3, 4)).argmin(1) == labels
    return [away[labels == k].mean() for k in range(5)]
  assert np.mean(right(images / 127.5 - 1, labels)) > 0.85
  feed = model.feed(labels, tuple('abcde'), 32, 0)
  state = jax.jit(model.init)(KEY)
  sample = jax.jit(model.sample)
  asked = np.arange(250, dtype=np.int32) % 5
  second, = model.phases
  for first, step in (0, model.step), (second.first, second.step):
    if first:
      state = jax.jit(second.begin)(state, images, labels)
    step = jax.jit(step, donate_argnums=0)
    for i in range(first, first + 200):
      index = feed(i)
      state, _ = step(state, {'image': images[index], 'label': labels[index]},
                      KEY)
    variables = model.variables(state)
    if not first:
      variables = model.variables(jax.jit(second.begin)(state, images, labels))
    shares = right(np.asarray(sample(variables, KEY, asked)), asked)
    assert min(shares) > 0.5 and np.mean(shares) > 0.7, shares
