"""The two-player rule against PyTorch, by what its players see, and learning.

The stub players below write what they are given into their statistics, so
that a test can read which noise, images and labels each update saw.
"""
import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.core import errors, types
from jaxaug.generators import cgan
from jaxaug.generators.gan import adversarial
from tests import quick

SPEC = types.ImageSpec(12, 8, 3, 4)
SMALL = dict(z_dim=5, embed_dim=3, g_widths=(6, 5, 4), d_widths=(5, 7),
             dropout=0.0)
KEY = jax.random.key(0)


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


def _flat(tree):
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf
          for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


class _Torch:
  """The cGAN and its training step, written once more, in float64."""

  def __init__(self, torch, state, *, loss, smoothing, norm, spectral,
               conditioning, fresh, b1, lr):
    self.t, self.norm, self.spectral = torch, norm, spectral
    self.conditioning, self.loss, self.fresh = conditioning, loss, fresh
    self.smoothing = smoothing
    def own(tree, grad):
      return {n: torch.tensor(np.asarray(x, np.float64), requires_grad=grad)
              for n, x in _flat(tree).items()}
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
  mu, mu_before = _flat(net.opt[0].mu), _flat(before.opt[0].mu)
  for name, got in _flat(net.params).items():
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
    for name, stat in _flat(new.d.stats).items():
      if name.endswith('/u'):
        np.testing.assert_allclose(
            stat, reference.u[name.split('/', 1)[1][:-2]], atol=1e-4)
    for name, stat in _flat(new.g.stats).items():
      # Later means move with the biases that have no gradient.
      np.testing.assert_allclose(stat, reference.g_stats[name],
                                 atol=1e-3 if i else 1e-6)
    state = new


def test_the_papers_networks_have_their_numbers_of_parameters():
  model = cgan.build(types.ImageSpec(28, 28, 1, 10))
  state = jax.eval_shape(model.init, KEY)
  assert model.parameters(state) == {'g': 1_169_336, 'd': 196_773}


class _G(nn.Module):
  """Images are the noise; the noise and labels of two passes are kept."""
  spec: types.ImageSpec

  @nn.compact
  def __call__(self, z, labels, train: bool):
    gain = self.param('gain', nn.initializers.ones, ())
    last = self.variable('batch_stats', 'last', jnp.zeros, z.shape)
    before = self.variable('batch_stats', 'before', jnp.zeros, z.shape)
    passes = self.variable('batch_stats', 'passes', jnp.zeros, ())
    if train and last.value.shape == z.shape:
      before.value, last.value = last.value, z
      passes.value += 1
    s = self.spec
    return gain * jnp.tanh(z).reshape(-1, s.height, s.width, s.channels)


class _D(nn.Module):
  """A linear score; what two passes were given is kept."""

  @nn.compact
  def __call__(self, x, labels, train: bool):
    kept = {f'{name}_{age}': self.variable('batch_stats', f'{name}_{age}',
                                           jnp.zeros, value.shape)
            for name, value in (('x', x), ('labels', labels))
            for age in ('last', 'before')}
    passes = self.variable('batch_stats', 'passes', jnp.zeros, ())
    if train:
      for name, value in ('x', x), ('labels', labels):
        kept[f'{name}_before'].value = kept[f'{name}_last'].value
        kept[f'{name}_last'].value = value.astype(jnp.float32)
      passes.value += 1
    return nn.Dense(1)(x.reshape(len(x), -1))[:, 0]


TINY = types.ImageSpec(4, 2, 1, 5)


def _stub(batch=6, **rule):
  """A model of the stub players and a state that fits batches of `batch`."""
  model = adversarial.make(TINY, _G(TINY), _D(), z_dim=8, **rule)
  state = model.init(KEY)
  def grow(stats, rows):
    return {k: jnp.zeros((rows, *v.shape[1:])) if v.ndim else v
            for k, v in stats.items()}
  return model, state._replace(
      g=state.g._replace(stats=grow(state.g.stats, batch)),
      d=state.d._replace(stats=grow(state.d.stats, 2 * batch)),
      ema={**state.ema, 'batch_stats': grow(state.g.stats, batch)})


def _image(z):
  return np.tanh(np.asarray(z)).reshape(-1, 4, 2, 1)


def _real(batch, k):
  return batch['image'][k].astype(np.float32) / 127.5 - 1


@pytest.mark.parametrize('fresh', [True, False])
def test_each_update_of_d_sees_its_own_batch_noise_and_labels(fresh):
  model, state = _stub(d_steps=2, fresh_fakes=fresh)
  assert model.d_steps == 2
  batch = _batch(TINY, d_steps=2)
  state, _ = model.step(state, batch, KEY)
  g, d = state.g.stats, state.d.stats
  assert (float(d['passes']), float(g['passes'])) == (2, 3 if fresh else 2)
  seen = {age: np.split(np.asarray(d[f'x_{age}']), 2)
          for age in ('before', 'last')}
  for k, age in enumerate(('before', 'last')):
    np.testing.assert_allclose(seen[age][0], _real(batch, k), atol=1e-6)
    np.testing.assert_array_equal(d[f'labels_{age}'],
                                  np.tile(batch['label'][k], 2))
  assert not np.allclose(seen['before'][1], seen['last'][1])  # Fresh noise.
  if fresh:
    # G's own pass came last, on noise that D has not seen.
    np.testing.assert_allclose(_image(g['before']), seen['last'][1], atol=1e-6)
    assert not np.allclose(_image(g['last']), seen['last'][1])
  else:
    np.testing.assert_allclose(_image(g['before']), seen['before'][1],
                               atol=1e-6)
    np.testing.assert_allclose(_image(g['last']), seen['last'][1], atol=1e-6)


def test_noise_differs_from_step_to_step_and_run_to_run():
  model, state = _stub()
  batch = _batch(TINY)
  seen = []
  for key in (KEY, jax.random.key(1)):
    for step in range(2):
      new, _ = model.step(state._replace(step=jnp.int32(step)), batch, key)
      seen += [np.asarray(new.g.stats[age]) for age in ('before', 'last')]
  draws = np.concatenate(seen).ravel()
  assert len(np.unique(draws)) == len(draws)
  assert abs(draws.mean()) < 0.2 and abs(draws.std() - 1) < 0.15


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


def test_mirror_flips_half_of_the_real_images_and_no_fake():
  model, state = _stub(batch=400, mirror=True)
  batch = _batch(TINY, 400)
  new, _ = model.step(state, batch, KEY)
  real, fake = np.split(np.asarray(new.d.stats['x_last']), 2)
  want = _real(batch, 0)
  same = np.isclose(real, want, atol=1e-6).all((1, 2, 3))
  flipped = np.isclose(real, want[:, :, ::-1], atol=1e-6).all((1, 2, 3))
  assert (same ^ flipped).all()
  assert 150 < flipped.sum() < 250
  np.testing.assert_allclose(fake, _image(new.g.stats['before']), atol=1e-6)


def test_diff_augment_treats_both_sides():
  model, state = _stub(diff_augment='brightness')
  batch = _batch(TINY)
  new, _ = model.step(state, batch, KEY)
  real, fake = np.split(np.asarray(new.d.stats['x_last']), 2)
  for seen, plain in ((real, _real(batch, 0)),
                      (fake, _image(new.g.stats['before']))):
    shift = seen - plain  # One number an image.
    np.testing.assert_allclose(shift, shift[:, :1, :1] + 0 * shift, atol=1e-5)
    assert len(np.unique(shift[:, 0, 0].round(4))) == len(shift)


def test_diff_augment_of_the_fakes_reaches_g():
  # D stands still; what is cut out of a fake pulls no more.
  batch, grads = _batch(TINY), []
  for policy in 'cutout', '':
    model, state = _stub(diff_augment=policy, d_lr=1e-30)
    new, _ = model.step(state, batch, KEY)
    grads.append(float(new.g.opt[0].mu['gain']))
  assert grads[0] != grads[1] and np.all(grads)


def test_average_is_its_formula_with_the_warm_up():
  # 1/10 and 2/11 by the warm-up, then 0.2 by the ceiling.
  model, state = _stub(ema_decay=0.2, g_lr=0.1)
  def now(state):
    return _flat({'params': state.g.params, 'batch_stats': state.g.stats})
  want, seen = now(state), set()
  for t in range(4):
    state, _ = model.step(state, _batch(TINY, seed=t), KEY)
    decay = (1 / 10, 2 / 11, 0.2, 0.2)[t]
    want = {k: decay * np.asarray(v, np.float64) + (1 - decay) * now(state)[k]
            for k, v in want.items()}
    got = _flat(model.variables(state))
    assert got.keys() == want.keys()
    for k in want:
      np.testing.assert_allclose(got[k], want[k], rtol=1e-5, atol=1e-6)
    seen.add(float(got['params/gain']))
  assert int(state.step) == 4 and len(seen) == 4


def test_sampling_uses_the_average_and_leaves_it_alone():
  model, state = _stub()
  labels = jnp.arange(6) % 5
  far = {**state.ema, 'params': {'gain': jnp.float32(0.5)}}
  near, half = (model.sample(v, KEY, labels) for v in (state.ema, far))
  assert np.abs(near).max() > 0.5
  np.testing.assert_allclose(half, 0.5 * near, rtol=1e-6)
  np.testing.assert_array_equal(
      near, model.sample(model.variables(state), KEY, labels))


def test_step_is_pure_and_safe_to_donate():
  model = cgan.build(SPEC, **{**SMALL, 'dropout': 0.4}, g_norm='batch',
                     spectral_norm=True, d_steps=2, mirror=True,
                     diff_augment='color,translation,cutout')
  batch = _batch(SPEC, d_steps=2)
  state = quick.jit(model.init)(KEY)
  kept = jax.tree.map(np.array, state)
  step = quick.jit(model.step)
  first, logs = step(state, batch, KEY)
  again, _ = step(state, batch, KEY)
  jax.tree.map(np.testing.assert_array_equal, first, again)
  jax.tree.map(np.testing.assert_array_equal, state, kept)
  other, _ = step(state, batch, jax.random.key(7))
  assert not np.array_equal(first.g.params['image']['bias'],
                            other.g.params['image']['bias'])
  donated, _ = quick.jit(model.step, donate_argnums=0)(state, batch, KEY)
  jax.tree.map(np.testing.assert_array_equal, first, donated)
  assert {'g_loss', 'd_loss', 'd_accuracy_real', 'd_accuracy_fake'} <= {*logs}
  assert all(v.shape == () for v in logs.values())
  # State that can be stored: arrays only, the same shapes and types after.
  assert jax.tree.map(lambda x: (x.shape, x.dtype), first) == (
      jax.tree.map(lambda x: (x.shape, x.dtype), kept))
  assert not any(jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
                 for x in jax.tree.leaves(first))


def test_sample_by_running_statistics_or_by_those_of_the_batch():
  labels = jnp.arange(6) % 4
  for statistics, alone in ('running', True), ('batch', False):
    model = cgan.build(SPEC, **SMALL, g_norm='batch', statistics=statistics)
    variables = model.variables(quick.jit(model.init)(KEY))
    images = model.sample(variables, KEY, labels)
    assert images.shape == (6, 12, 8, 3) and images.dtype == jnp.float32
    assert (np.abs(images) <= 1).all()
    np.testing.assert_array_equal(
        images, model.sample(variables, KEY, labels))
    # Another class of the last image; the first ones feel it through the batch.
    other = model.sample(variables, KEY, labels.at[-1].set(3))
    same = np.allclose(images[:-1], other[:-1], atol=1e-7)
    assert same == alone
    assert not np.allclose(images[-1], other[-1], atol=1e-3)


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
  images = model.sample(model.variables(state), jax.random.key(5), labels[0])
  far = np.abs(images - (patterns[labels[0]] / 127.5 - 1)).mean((1, 2, 3))
  assert far.max() < 0.25  # Random images are at 1.
  accuracies = np.array(accuracies)
  assert ((0 <= accuracies) & (accuracies <= 1)).all()
  assert accuracies[:20].mean() > 0.5


@pytest.mark.parametrize('given, line', [
    ({'loss': 'hinges'}, "^loss: 'hinges'; .*mean 'hinge'"),
    ({'d_steps': 0}, '^d_steps: 0; expected a whole number of at least 1'),
    ({'statistics': 'moving'}, "^statistics: 'moving'; expected one of run"),
    ({'label_smoothing': 0.9}, "^label_smoothing: loss 'hinge'"),
    ({'diff_augment': 'colour'}, "^diff_augment: 'colour'; .*mean 'color'"),
    ({'diff_augment_fill': 2.0}, '^diff_augment_fill: 2.0'),
])
def test_refusals(given, line):
  with pytest.raises(errors.InputError, match=line) as e:
    adversarial.make(TINY, _G(TINY), _D(), z_dim=8, **given)
  assert '\n' not in str(e.value)
