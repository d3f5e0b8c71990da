"""The two-player rule against PyTorch and float64 numpy, and learning."""
import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.core import errors, types
from jaxaug.generators import cgan
from jaxaug.generators.gan import gan
from tests import quick
from tests.generators.gan import stubs

SPEC = types.ImageSpec(12, 8, 3, 4)
SMALL = dict(z_dim=5, embed_dim=3, g_widths=(6, 5, 4), d_widths=(5, 7),
             dropout=0.0)
KEY = stubs.KEY


def _batch(spec, size=6, d_steps=1, seed=0):
  rng = np.random.default_rng(seed)
  shape = (d_steps, size, spec.height, spec.width, spec.channels)
  labels = rng.integers(0, spec.num_classes, shape[:2])
  return {'image': rng.integers(0, 256, shape, np.uint8),
          'label': labels.astype(np.int32)}


def _with_noise(monkeypatch, model):
  """model.step as run(state, batch, noises): draws take these in turn."""
  def run(state, batch, noises):
    draws = itertools.cycle([noises[i] for i in range(len(noises))])
    def normal(key, shape=(), dtype=jnp.float32):
      noise = jnp.asarray(next(draws), dtype)
      assert noise.shape == shape
      return noise
    with monkeypatch.context() as m:
      m.setattr(jax.random, 'normal', normal)
      return model.step(state, batch, KEY)
  return quick.jit(run)


class _Torch:
  """The cGAN and its training step, written once more, in float64."""

  def __init__(self, torch, state, *, loss, smoothing, norm, spectral,
               conditioning, fresh, b1, lr):
    self.t, self.norm, self.spectral = torch, norm, spectral
    self.conditioning, self.loss, self.fresh = conditioning, loss, fresh
    self.smoothing = smoothing
    def own(tree, grad):
      return {n: torch.tensor(np.asarray(x, np.float64), requires_grad=grad)
              for n, x in stubs.flat(tree).items()}
    self.g, self.d = own(state.g.params, True), own(state.d.params, True)
    self.g_stats = own(state.g.stats, False)
    self.u = {n.split('/', 1)[1][:-2]: x
              for n, x in own(state.d.stats, False).items() if n[-2:] == '/u'}
    self.adam = [torch.optim.Adam(list(w.values()), lr, (b1, 0.999))
                 for w in (self.g, self.d)]

  def generate(self, z, labels, grid):
    F, w = self.t.nn.functional, self.g
    rows, columns = grid
    label = w['embed/embedding'][labels]
    label = label @ w['label_map/kernel'] + w['label_map/bias']
    x = z @ w['noise_map/kernel'] + w['noise_map/bias']
    x = x.reshape(len(z), rows, columns, -1).permute(0, 3, 1, 2)
    x = self._act(x, labels, 0)
    x = self.t.cat([x, label.reshape(-1, 1, rows, columns)], 1)
    ups = sum(n.startswith('up_') and n.endswith('kernel') for n in w)
    for i in range(ups):
      # Torch turns the kernel of a transposed convolution; flax does not.
      kernel = w[f'up_{i}/kernel'].flip(0, 1).permute(2, 3, 0, 1)
      x = F.conv_transpose2d(x, kernel, w[f'up_{i}/bias'], 2, 1)
      x = self._act(x, labels, i + 1)
    x = F.conv2d(x, w['image/kernel'].permute(3, 2, 0, 1), w['image/bias'],
                 padding=3)
    return self.t.tanh(x)

  def _act(self, x, labels, i):
    if self.norm == 'batch':
      mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
      for name, value in ('mean', mean), ('var', var):
        old = self.g_stats[f'norm_{i}/BatchNorm_0/{name}']
        self.g_stats[f'norm_{i}/BatchNorm_0/{name}'] = (
            0.9 * old + 0.1 * value.detach())
      x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
      gain, bias = (self.g[f'norm_{i}/{n}/embedding'][labels][..., None, None]
                    for n in ('gain', 'bias'))
      x = x * gain + bias
    return self.t.nn.functional.leaky_relu(x, 0.2)

  def discriminate(self, x, labels, keep):
    F = self.t.nn.functional
    def weight(name):
      w = self.d[name]
      if not self.spectral:
        return w
      matrix = w.reshape(-1, w.shape[-1])
      with self.t.no_grad():
        v = F.normalize(self.u[name] @ matrix.T)
        u = F.normalize(v @ matrix)
        if keep:
          self.u[name] = u
      return w / (v @ matrix @ u.T)
    if self.conditioning == 'concat':
      label = self.d['embed/embedding'][labels] @ weight('label_map/kernel')
      label = label + self.d['label_map/bias']
      x = self.t.cat([x, label.reshape(-1, 1, *x.shape[2:])], 1)
    for i in range(2):
      # SAME of stride 2 and kernel 3: the odd pixel is at the end, if any.
      pad = [p for n in reversed(x.shape[2:])
             for p in ([0, 1] if n % 2 == 0 else [1, 1])]
      kernel = weight(f'down_{i}/kernel').permute(3, 2, 0, 1)
      x = F.conv2d(F.pad(x, pad), kernel, self.d[f'down_{i}/bias'], 2)
      x = F.leaky_relu(x, 0.2)
    x = x.permute(0, 2, 3, 1).reshape(len(x), -1)
    score = (x @ weight('score/kernel') + self.d['score/bias'])[:, 0]
    if self.conditioning == 'projection':
      score = score + (weight('projection/embedding')[labels] * x).sum(1)
    return score

  def step(self, image, label, noises, grid):
    """One update of D, one of G; returns the losses and all gradients."""
    t, F = self.t, self.t.nn.functional
    label = t.tensor(label, dtype=t.long)
    real = t.tensor(image / 127.5 - 1, dtype=t.float64).permute(0, 3, 1, 2)
    noises = [t.tensor(z, dtype=t.float64) for z in noises]
    fake = self.generate(noises[0], label, grid)
    # Both sides in one pass: one step of the power iteration for the two.
    scores = self.discriminate(t.cat([real, fake.detach()]),
                               label.repeat(2), True)
    on_real, on_fake = scores.chunk(2)
    if self.loss == 'hinge':
      d_loss = F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
    else:
      bce = F.binary_cross_entropy_with_logits
      d_loss = (bce(on_real, t.full_like(on_real, self.smoothing))
                + bce(on_fake, t.zeros_like(on_fake)))
    d_grads = self._update(1, self.d, d_loss, retain=not self.fresh)
    if self.fresh:
      fake = self.generate(noises[1], label, grid)
    scores = self.discriminate(fake, label, False)
    g_loss = (-scores.mean() if self.loss == 'hinge'
              else bce(scores, t.ones_like(scores)))
    g_grads = self._update(0, self.g, g_loss)
    return (d_loss.item(), g_loss.item(),
            (on_real > 0).double().mean().item(),
            (on_fake < 0).double().mean().item(), g_grads, d_grads)

  def _update(self, player, weights, loss, retain=False):
    for w in (*self.g.values(), *self.d.values()):
      w.grad = None
    loss.backward(retain_graph=retain)
    grads = {n: w.grad.clone() for n, w in weights.items()}
    self.adam[player].step()
    return grads


def _compare(net, before, want, grads, b1):
  """Gradients everywhere; weights where a gradient is not rounding noise.

  Adam's first step is the sign of the gradient, which is noise where the
  gradient is exactly zero in theory: biases in front of batch norm.
  """
  mu, mu_before = stubs.flat(net.opt[0].mu), stubs.flat(before.opt[0].mu)
  for name, got in stubs.flat(net.params).items():
    grad = np.asarray(grads[name])
    np.testing.assert_allclose(
        (mu[name] - b1 * mu_before[name]) / (1 - b1), grad,
        rtol=2e-3, atol=2e-5 * max(5e-2, np.abs(grad).max()), err_msg=name)
    close = np.abs(got - want[name].detach().numpy()) < 1e-4
    assert (close | (np.abs(grad) < 1e-6)).all(), name


@pytest.mark.parametrize('case, spec, batch, steps, arguments', [
    ('the defaults of the paper, without dropout',
     types.ImageSpec(28, 28, 1, 10), 4, 1, dict(
         loss='non_saturating', label_smoothing=0.9, b1=0.5)),
    ('small, plain targets', SPEC, 6, 2, dict(
        SMALL, loss='non_saturating', b1=0.5)),
    ('hinge, projection, spectral and batch norm', SPEC, 6, 2, dict(
        SMALL, loss='hinge', g_norm='batch', conditioning='projection',
        spectral_norm=True, fresh_fakes=False, g_lr=1e-3, d_lr=1e-3)),
    ('spectral norm of the label map, fresh fakes', SPEC, 6, 2, dict(
        SMALL, loss='hinge', g_norm='batch', spectral_norm=True)),
], ids=lambda x: x if isinstance(x, str) else '')
def test_steps_are_those_of_torch(monkeypatch, case, spec, batch, steps,
                                  arguments):
  del case
  torch = pytest.importorskip('torch')
  arguments = {'dropout': 0.0, 'b1': 0.0, 'g_lr': 2e-4, **arguments}
  model = cgan.build(spec, **arguments)
  state = quick.jit(model.init)(KEY)
  fresh = arguments.get('fresh_fakes', True)
  reference = _Torch(
      torch, state, loss=arguments['loss'], fresh=fresh, b1=arguments['b1'],
      smoothing=arguments.get('label_smoothing', 1.0), lr=arguments['g_lr'],
      norm=arguments.get('g_norm'), spectral=arguments.get('spectral_norm'),
      conditioning=arguments.get('conditioning', 'concat'))
  rng = np.random.default_rng(0)
  grid = spec.height // 4, spec.width // 4
  step = _with_noise(monkeypatch, model)
  for i in range(steps):
    noises = rng.normal(size=(1 + fresh, batch, arguments.get('z_dim', 100)))
    data = _batch(spec, batch, seed=i)
    new, logs = step(state, data, noises)
    *want, g_grads, d_grads = reference.step(data['image'][0],
                                             data['label'][0], noises, grid)
    got = [logs[k] for k in ('d_loss', 'g_loss', 'd_accuracy_real',
                             'd_accuracy_fake')]
    np.testing.assert_allclose(got, want, atol=1e-4)
    _compare(new.g, state.g, reference.g, g_grads, arguments['b1'])
    _compare(new.d, state.d, reference.d, d_grads, arguments['b1'])
    for name, stat in stubs.flat(new.d.stats).items():
      if name.endswith('/u'):
        np.testing.assert_allclose(
            stat, reference.u[name.split('/', 1)[1][:-2]], atol=1e-4)
    for name, stat in stubs.flat(new.g.stats).items():
      # Later means move with the biases that have no gradient.
      np.testing.assert_allclose(stat, reference.g_stats[name],
                                 atol=1e-3 if i else 1e-6)
    state = new


def test_the_papers_networks_have_their_numbers_of_parameters():
  model = cgan.build(types.ImageSpec(28, 28, 1, 10))
  state = jax.eval_shape(model.init, KEY)
  assert model.parameters(state) == {'g': 1_169_336, 'd': 196_773}


@pytest.mark.parametrize('fresh', [True, False])
def test_two_updates_of_d_are_two_single_ones(monkeypatch, fresh):
  # One noise for all, so that both ways see the same.
  noise = np.random.default_rng(1).normal(size=(1, 6, 5))
  build = functools.partial(cgan.build, SPEC, **SMALL, g_norm='batch',
                            spectral_norm=True, conditioning='projection',
                            d_lr=1e-3, fresh_fakes=fresh)
  one, two = build(g_lr=1e-30), build(d_steps=2)
  batch = _batch(SPEC, d_steps=2)
  start = quick.jit(two.init)(KEY)
  got, logs = _with_noise(monkeypatch, two)(start, batch, noise)
  state, step = start, _with_noise(monkeypatch, one)
  for k in range(2):
    # G stands still but for its statistics, which training does not read.
    state, single = step(state, {n: v[k:k + 1] for n, v in batch.items()},
                         noise)
  for a, b in zip(jax.tree.leaves(got.d), jax.tree.leaves(state.d),
                  strict=True):
    np.testing.assert_allclose(a, b, atol=2e-6)
  for name in logs:  # D's logs are those of its last update.
    np.testing.assert_allclose(logs[name], single[name], atol=1e-5)


def test_step_is_pure_and_safe_to_donate():
  model = cgan.build(SPEC, **{**SMALL, 'dropout': 0.4}, g_norm='batch',
                     spectral_norm=True, d_steps=2, mirror=True,
                     diff_augment='color,translation,cutout')
  batch = _batch(SPEC, d_steps=2)
  state = quick.jit(model.init)(KEY)
  kept = jax.tree.map(np.array, state)
  step = quick.jit(model.step, donate_argnums=0)
  first, logs = step(state, batch, KEY)
  again, other = (step(jax.tree.map(jnp.array, kept), batch, key)[0]
                  for key in (KEY, jax.random.key(7)))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert not np.array_equal(first.g.params['image']['bias'],
                            other.g.params['image']['bias'])
  assert {'g_loss', 'd_loss', 'd_accuracy_real', 'd_accuracy_fake'} <= {*logs}
  assert all(v.shape == () for v in logs.values())
  # State that can be stored: arrays only, the same shapes and types after.
  assert jax.tree.map(lambda x: (x.shape, x.dtype), first) == (
      jax.tree.map(lambda x: (x.shape, x.dtype), kept))
  assert not any(jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
                 for x in jax.tree.leaves(first))


def test_a_generator_learns_a_pattern_a_class():
  spec = types.ImageSpec(8, 8, 1, 2)
  patterns = np.zeros((2, 8, 8, 1), np.uint8)
  patterns[0, :, :4], patterns[1, :4] = 255, 255
  model = cgan.build(spec, z_dim=4, embed_dim=4, g_widths=(24, 16, 12),
                     d_widths=(16, 24), g_norm='batch', spectral_norm=True,
                     conditioning='projection', dropout=0.0, g_lr=2e-3,
                     d_lr=2e-3, ema_decay=0.9)
  labels = np.tile(np.arange(2, dtype=np.int32), 8)[None]
  batch = {'image': patterns[labels], 'label': labels}
  state = quick.jit(model.init)(KEY)
  step = quick.jit(model.step, donate_argnums=0)
  accuracies = []
  for _ in range(150):
    state, logs = step(state, batch, KEY)
    accuracies.append([float(logs[f'd_accuracy_{side}'])
                       for side in ('real', 'fake')])
  images = quick.jit(model.sample)(
      model.variables(state), jax.random.key(5), labels[0])
  far = np.abs(images - (patterns[labels[0]] / 127.5 - 1)).mean((1, 2, 3))
  assert far.max() < 0.25  # Random images are at 1.
  accuracies = np.array(accuracies)
  assert ((0 <= accuracies) & (accuracies <= 1)).all()
  assert accuracies[:20].mean() > 0.5


@pytest.mark.parametrize('loss, classes', [
    *((loss, 0.0) for loss in stubs.COSTS), ('hinge', 0.8)])
def test_the_loss_of_g_and_its_gradient(loss, classes):
  model, before = stubs.model(bool(classes), loss=loss, class_loss=classes)
  batch = stubs.batch()
  after, logs = quick.jit(model.step)(before, batch, KEY)
  seen, w = stubs.seen(before, after, batch), stubs.wide(after.d.params)
  def objective(params):
    fake = params['gain'] * seen.z
    return stubs.COSTS[loss][2](stubs.scores(w, fake, seen.labels)).mean() + (
        classes and classes * stubs.cross_entropy(w, fake, seen.labels))
  gain = stubs.wide(before.g.params)
  np.testing.assert_allclose(logs['g_loss'], objective(gain), rtol=1e-5)
  stubs.assert_gradient(before.g.params, after.g.params,
                        stubs.differences(objective, gain))


@pytest.mark.parametrize('loss, threshold', [
    ('hinge', 0), ('least_squares', 0.5)])
def test_accuracies_are_about_the_threshold(loss, threshold):
  model, before = stubs.model(loss=loss)
  before.d.params['bias'] = jnp.float32(0.3)
  batch = stubs.batch()
  after, logs = quick.jit(model.step)(before, batch, KEY)
  seen = stubs.seen(before, after, batch)
  real, fake = (stubs.scores(seen.w, x, seen.labels) for x in seen.shown)
  assert ((real > 0) != (real > 0.5)).any()
  np.testing.assert_allclose(
      [logs['d_accuracy_real'], logs['d_accuracy_fake']],
      [(real > threshold).mean(), (fake < threshold).mean()], rtol=1e-6)


@pytest.mark.parametrize('on_fakes', [True, False])
def test_source_and_class_losses_are_logged_apart(on_fakes):
  torch = pytest.importorskip('torch')
  model, before = stubs.model(True, class_loss=0.5, class_on_fakes=on_fakes,
                              loss='non_saturating')
  batch = stubs.batch()
  after, logs = quick.jit(model.step)(before, batch, KEY)
  seen = stubs.seen(before, after, batch)
  F, labels = torch.nn.functional, torch.tensor(seen.labels).long()
  def entropies(w, x, target):
    hidden = stubs.hidden(w, x, seen.labels)
    scores = torch.tensor(hidden @ w['out'] + w['bias'])
    return (F.binary_cross_entropy_with_logits(
        scores, torch.full_like(scores, target)).item(),
            F.cross_entropy(torch.tensor(hidden @ w['class']), labels).item())
  real, fake = (entropies(seen.w, x, target)
                for x, target in zip(seen.shown, (1., 0.), strict=True))
  by_d = (real[1] + fake[1]) / 2 if on_fakes else real[1]
  by_g = entropies(stubs.wide(after.d.params), seen.z, 1.)
  want = {'d_source_loss': real[0] + fake[0], 'd_class_loss': by_d,
          'd_loss': real[0] + fake[0] + 0.5 * by_d, 'g_source_loss': by_g[0],
          'g_class_loss': by_g[1], 'g_loss': by_g[0] + 0.5 * by_g[1]}
  for name, value in want.items():
    np.testing.assert_allclose(logs[name], value, rtol=1e-5, err_msg=name)


def test_a_head_of_classes_changes_nothing_without_its_loss():
  batch, out = stubs.batch(), []
  for classes in False, True:
    model, state = stubs.model(classes)
    after, logs = quick.jit(model.step)(state, batch, KEY)
    out.append((after.d.params, after.g.params, logs))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *out)


EVERYTHING = dict(
    ada='xflip', ada_every=1, ada_images=100, ada_target=-0.9,
    diff_augment='contrast', lecam=0.3, lecam_start=2, r1=0.1, r1_every=2,
    gradient_penalty=0.1, consistency=1.0, consistency_on_fakes=1.0,
    optimizer='sgd', momentum=0.1, momentum_growth=0.1, g_lr=0.05, d_lr=0.05,
    class_loss=0.5, top_k=0.5, top_k_gamma=0.8, top_k_every=1, ema_start=3,
    d_steps=2, balance='behind')


def test_two_halves_are_one_run_bit_for_bit_and_donated_or_not():
  model, state = stubs.model(True, **EVERYTHING)
  states = [after for _, _, after, _, _ in stubs.run(
      model, state, 6, quick.steady(model.step))]
  half, whole = states[2], states[5]
  assert {*half.control} == {'ada', 'lecam'}
  # Through host memory, into a model that knows nothing of the first.
  stored = jax.tree.map(np.array, half)
  model, _ = stubs.model(True, **EVERYTHING)
  step, state = quick.steady(model.step), jax.tree.map(jnp.asarray, stored)
  for i in range(3, 6):
    state, _ = step(state, stubs.batch(i, 2), KEY)
  jax.tree.map(np.testing.assert_array_equal, state, whole)
  assert float(half.control['ada'].p) != float(whole.control['ada'].p) > 0
  again, other = (step(state, stubs.batch(3, 2), KEY)[0] for state in (
      stored._replace(control=whole.control), stored))
  assert not np.array_equal(again.d.stats['x_last'], other.d.stats['x_last'])
  _, state = stubs.model(True, **EVERYTHING)
  donated, _ = quick.steady(model.step, donate_argnums=0)(
      state, stubs.batch(0, 2), KEY)
  jax.tree.map(np.testing.assert_array_equal, donated, states[0])


def test_no_two_parts_of_a_new_state_share_memory():
  """For one buffer cannot be donated twice; compiled, none ever would."""
  model = gan.make(stubs.SPEC, stubs.G(), stubs.D(), z_dim=8)
  places = [x.unsafe_buffer_pointer()
            for x in jax.tree.leaves(model.init(KEY))]
  assert len({*places}) == len(places)


def test_mirror_flips_half_of_the_real_images_and_no_fake():
  model, state = stubs.model(size=400, mirror=True)
  batch = stubs.batch(size=400)
  new, _ = quick.jit(model.step)(state, batch, KEY)
  real, fake = np.split(np.asarray(new.d.stats['x_last']), 2)
  want = stubs.real(batch)
  same = np.isclose(real, want, atol=1e-6).all((1, 2, 3))
  flipped = np.isclose(real, want[:, :, ::-1], atol=1e-6).all((1, 2, 3))
  assert (same ^ flipped).all()
  assert 150 < flipped.sum() < 250
  np.testing.assert_allclose(fake, stubs.image(new.g.stats['z_before']),
                             atol=1e-6)


def test_images_may_come_as_floats():
  model, state = stubs.model(mirror=True)
  batch, step = stubs.batch(), quick.jit(model.step)
  floats = batch | {'image': stubs.real(batch)[None]}
  ends = [step(state, given, KEY)[0] for given in (batch, floats)]
  for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


class _Given(nn.Module):
  """What is given, and noise times a gain that starts at 0."""

  @nn.compact
  def __call__(self, z, labels, given, train: bool):
    gain = self.param('gain', nn.initializers.zeros, (8,))
    return given['half'] + (gain * z).reshape(-1, 4, 2, 1)


@pytest.mark.parametrize('fresh', [True, False])
def test_g_starts_from_what_the_condition_makes_of_real_images(fresh):
  model = gan.make(
      stubs.SPEC, _Given(), stubs.D(), lambda images: {'half': images / 2},
      z_dim=8, mirror=True, fresh_fakes=fresh, g_lr=1e-30, d_steps=2)
  state = quick.jit(model.init)(KEY)
  state = state._replace(d=state.d._replace(
      stats=stubs.grow(state.d.stats, 2 * stubs.SIZE)))
  batch, step = stubs.batch(d_steps=2), quick.jit(model.step)
  after, _ = step(state, batch, KEY)
  # D saw the last batch, half of it mirrored, and G's images of just these.
  real, fake = np.split(np.asarray(after.d.stats['x_last']), 2)
  np.testing.assert_allclose(fake, real / 2, atol=1e-6)
  plain = stubs.real(batch, -1)
  same = np.isclose(real, plain, atol=1e-6).all((1, 2, 3))
  turned = np.isclose(real, plain[:, :, ::-1], atol=1e-6).all((1, 2, 3))
  assert (same | turned).all() and 0 < same.sum() < stubs.SIZE
  given = {'half': jnp.float32(plain)}
  labels = jnp.zeros(stubs.SIZE, jnp.int32)
  z = jnp.ones((stubs.SIZE, 8))
  for images in (quick.jit(model.sample)(state.ema, KEY, labels, given),
                 quick.jit(model.decode)(state.ema, z, labels, given)):
    np.testing.assert_allclose(images, plain, atol=1e-6)
  with pytest.raises(errors.InputError, match="^statistics: 'standing' draws"):
    gan.make(stubs.SPEC, _Given(), stubs.D(), lambda images: images, z_dim=8,
             statistics='standing')


def _pairs(spec, updates, size):
  rng = np.random.default_rng(0)
  labels = rng.integers(0, spec.num_classes, (updates, 1, size))
  return {'image': rng.integers(0, 256, (updates, 2, size, *spec[:3]),
                                np.uint8),
          'label': np.int32(labels.repeat(2, 1))}


@pytest.mark.parametrize('fresh', [True, False])
def test_pairs_are_what_g_starts_from_and_what_is_real(fresh):
  model, state = stubs.pair_model(stubs.SPEC, stubs.SIZE, d_steps=2,
                                  fresh_fakes=fresh, g_lr=1e-30)
  batch = _pairs(stubs.SPEC, 3 if fresh else 2, stubs.SIZE)
  images = np.float32(batch['image'] / 127.5 - 1)
  after, _ = quick.jit(model.step)(state, batch, KEY)
  # D's last update; G had its image of the first, and then one of its own.
  first, second = images[1]
  seen, by_g = after.d.stats, after.g.stats
  for got, want in (
      (seen['x_last'], np.concatenate([second, first])),
      (seen['given_last'], np.concatenate([first, first])),
      (by_g['given_last'], images[-1][0]),
      (by_g['given_before'], images[1 if fresh else 0][0]),
      (by_g['labels_last'], batch['label'][-1][0])):
    np.testing.assert_allclose(got, want, atol=1e-6)
  given = images[0, 0]
  np.testing.assert_allclose(quick.jit(model.sample)(
      state.ema, KEY, batch['label'][0, 0], given), given, atol=1e-6)


def test_pairs_are_mirrored_and_turned_alike_and_by_each_player_anew():
  spec, size = types.ImageSpec(4, 4, 1, 3), 800
  batch = _pairs(spec, 2, size)
  images = np.float32(batch['image'] / 127.5 - 1)
  def poses(images, seen):
    found = [np.isclose(seen, np.rot90(x, k, (1, 2)), atol=1e-6).all((1, 2, 3))
             for x in (images, images[:, :, ::-1]) for k in range(4)]
    assert (np.sum(found, 0) == 1).all()
    return np.argmax(found, 0)
  for rule, shares in (({'quarter_turns': True}, [5, 1, 1, 1]),
                       ({'quarter_turns': True, 'mirror': True},
                        [5, 1, 1, 1] * 2), ({'mirror': True}, [1, 0, 0, 0] * 2),
                       ({}, [1])):
    model, state = stubs.pair_model(spec, size, g_lr=1e-30, **rule)
    after, _ = quick.jit(model.step)(state, batch, KEY)
    real, fake = np.split(np.asarray(after.d.stats['x_last']), 2)
    by_d, by_g = poses(images[0, 0], fake), poses(
        images[1, 0], after.g.stats['given_last'])
    np.testing.assert_array_equal(by_d, poses(images[0, 1], real))
    want = np.resize(shares, 8) if len(shares) == 8 else np.pad(
        shares, (0, 8 - len(shares)))
    want = want / want.sum()
    for pose in by_d, by_g:
      got = np.bincount(pose, minlength=8) / size
      assert (np.abs(got - want) <= 5 * np.sqrt(
          want * (1 - want) / size)).all(), (rule, got)
    assert (by_d == by_g).all() == (rule == {})


class _Judge(nn.Module):
  """Batch norm of the first pixel: a score without weights."""

  @nn.compact
  def __call__(self, x, labels, train: bool):
    self.param('unused', nn.initializers.zeros, (1,))
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=0,
                        use_bias=False, use_scale=False, name='norm')(
                            x[:, 0, 0])[:, 0]


@pytest.mark.parametrize('separate', [True, False])
def test_batch_norm_of_d_sees_both_sides_together_or_each(separate):
  model = gan.make(
      stubs.SPEC, _Given(), _Judge(), lambda images: {'half': images / 2},
      z_dim=8, loss='least_squares', separate_passes=separate)
  batch = stubs.batch()
  real = np.float64(batch['image'][0, :, 0, 0, 0]) / 127.5 - 1
  fake = real / 2
  parts = [real, fake] if separate else [np.concatenate([real, fake])]
  scores = np.concatenate([(x - x.mean()) / x.std() for x in parts])
  want = (((scores[:stubs.SIZE] - 1) ** 2) / 2).mean() + (
      scores[stubs.SIZE:] ** 2 / 2).mean()
  mean = 0
  for x in parts:
    mean = 0.9 * mean + 0.1 * x.mean()
  after, logs = quick.jit(model.step)(
      quick.jit(model.init)(KEY), batch, KEY)
  np.testing.assert_allclose(logs['d_loss'], want, rtol=1e-5)
  np.testing.assert_allclose(after.d.stats['norm']['mean'], [mean], rtol=1e-5)
