"""Every option of the two players against float64 numpy, torch, closed forms.

The stub D has 64 weights, so that its whole loss can be written once more and
differentiated by differences; both stubs keep what they were given. SGD at a
rate of 1 without momentum shows the gradient: it is old minus new weights.
"""
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxaug.augment import ada
from jaxaug.core import errors, types
from jaxaug.generators import cgan
from jaxaug.generators.gan import adversarial, options, penalties
from tests import quick

SPEC = types.ImageSpec(4, 2, 1, 3)
SIZE = 6
KEY = jax.random.key(0)
SHAPES = {'in': (8, 4), 'label': (3, 4), 'out': (4,), 'bias': (),
          'class': (4, 3)}
# What a score costs: of a real image, of a fake one to D, and to G.
COSTS = {
    'hinge': (lambda x: np.maximum(0, 1 - x), lambda x: np.maximum(0, 1 + x),
              lambda x: -x),
    'non_saturating': (lambda x: np.logaddexp(0, -x),
                       lambda x: np.logaddexp(0, x),
                       lambda x: np.logaddexp(0, -x)),
    'least_squares': (lambda x: (x - 1) ** 2 / 2, lambda x: x ** 2 / 2,
                      lambda x: (x - 1) ** 2 / 2),
    'wasserstein': (lambda x: -x, lambda x: x, lambda x: -x),
}


class _G(nn.Module):
  """Images are noise times a gain; the noise of two passes is kept."""

  @nn.compact
  def __call__(self, z, labels, train: bool):
    gain = self.param('gain', nn.initializers.ones, (8,))
    last = self.variable('batch_stats', 'last', jnp.zeros, z.shape)
    before = self.variable('batch_stats', 'before', jnp.zeros, z.shape)
    if train:
      before.value, last.value = last.value, z
    return (gain * z).reshape(-1, 4, 2, 1)


class _D(nn.Module):
  """One hidden layer; the images of the last pass are kept."""
  classes: bool = False

  @nn.compact
  def __call__(self, x, labels, train: bool):
    seen = self.variable('batch_stats', 'seen', jnp.zeros, x.shape)
    if train:
      seen.value = x
    w = {name: self.param(name, nn.initializers.normal(0.5), shape)
         for name, shape in SHAPES.items()}
    hidden = jnp.tanh(x.reshape(len(x), -1) @ w['in'] + w['label'][labels])
    scores = hidden @ w['out'] + w['bias']
    return (scores, hidden @ w['class']) if self.classes else scores


def _model(classes=False, **rule):
  """The stub players, at a rate of 1, and a state for batches of SIZE."""
  rule = {'optimizer': 'sgd', 'g_lr': 1.0, 'd_lr': 1.0} | rule
  model = adversarial.make(SPEC, _G(), _D(classes), z_dim=8, **rule)
  state = model.init(KEY)
  def grow(stats, rows):
    return {k: jnp.zeros((rows, *v.shape[1:])) for k, v in stats.items()}
  g, d = state.g, state.d
  return model, state._replace(
      g=g._replace(stats=grow(g.stats, SIZE)),
      d=d._replace(stats=grow(d.stats, 2 * SIZE)),
      ema=state.ema | {'batch_stats': grow(g.stats, SIZE)})


def _batch(seed=0, d_steps=1):
  rng = np.random.default_rng(seed)
  return {'image': rng.integers(0, 256, (d_steps, SIZE, 4, 2, 1), np.uint8),
          'label': rng.integers(0, 3, (d_steps, SIZE)).astype(np.int32)}


def _wide(params):
  return {name: np.array(value, np.float64) for name, value in params.items()}


def _hidden(w, x, labels):
  return np.tanh(x.reshape(len(x), -1) @ w['in'] + w['label'][labels])


def _scores(w, x, labels):
  return _hidden(w, x, labels) @ w['out'] + w['bias']


def _slopes(w, x, labels):
  """d(score)/d(image), [B, 8]."""
  inner = (1 - _hidden(w, x, labels) ** 2) * w['out']
  return inner @ w['in'].T


def _cross_entropy(w, x, labels):
  logits = _hidden(w, x, labels) @ w['class']
  own = np.take_along_axis(logits, labels[:, None], 1)[:, 0]
  return (special.logsumexp(logits, axis=1) - own).mean()


class _Seen(typing.NamedTuple):
  """What one step gave to D and to G, float64."""
  w: dict             # D's weights before the step.
  real: np.ndarray
  fake: np.ndarray
  shown: tuple        # The same two, augmented.
  labels: np.ndarray
  z: np.ndarray       # Of G's own pass.


def _seen(before, after, batch):
  z, own = (np.array(after.g.stats[k], np.float64) for k in ('before', 'last'))
  gain = np.array(before.g.params['gain'], np.float64)
  shown = np.split(np.array(after.d.stats['seen'], np.float64), 2)
  return _Seen(_wide(before.d.params), batch['image'][0] / 127.5 - 1,
               (gain * z).reshape(-1, 4, 2, 1), shown, batch['label'][0], own)


def _d_source(seen, w, loss='hinge'):
  """D's adversarial loss."""
  return sum(cost(_scores(w, x, seen.labels)).mean()
             for cost, x in zip(COSTS[loss], seen.shown, strict=False))


def _differences(loss, w):
  """Float64 central differences of loss(w)."""
  slopes = {}
  for name, value in w.items():
    slopes[name] = np.zeros(value.shape)
    for at in np.ndindex(value.shape):
      ends = []
      for by in 1e-5, -1e-5:
        moved = value.copy()
        moved[at] += by
        ends.append(loss(w | {name: moved}))
      slopes[name][at] = (ends[0] - ends[1]) / 2e-5
  return slopes


def _assert_gradient(before, after, want):
  """The players' last step, at a rate of 1, was along `want`."""
  for name, value in want.items():
    got = np.array(before[name], np.float64) - np.array(after[name])
    np.testing.assert_allclose(got, value, atol=2e-6, rtol=2e-5, err_msg=name)


# ---- D's whole loss ----

SHARE = np.linspace(0.1, 0.9, SIZE).reshape(-1, 1, 1, 1)
AVERAGES = 0.4, -0.3  # Of LeCam, on real and on fake images.


def _r1(seen, w):
  return (_slopes(w, seen.real, seen.labels) ** 2).sum(1).mean()


def _gradient_penalty(seen, w):
  between = SHARE * seen.real + (1 - SHARE) * seen.fake
  norms = np.linalg.norm(_slopes(w, between, seen.labels), axis=1)
  return ((norms - 1) ** 2).mean()


def _lecam(seen, w, averages=AVERAGES):
  real, fake = (_scores(w, x, seen.labels) for x in seen.shown)
  return (np.maximum(real - averages[1], 0) ** 2).mean() + (
      np.maximum(averages[0] - fake, 0) ** 2).mean()


def _consistency(side):
  def penalty(seen, w):
    plain = (seen.real, seen.fake)[side]
    return ((_scores(w, seen.shown[side], seen.labels)
             - _scores(w, plain, seen.labels)) ** 2).mean()
  return penalty


def _classes(seen, w):
  return np.mean([_cross_entropy(w, x, seen.labels) for x in seen.shown])


def _classes_of_real(seen, w):
  return _cross_entropy(w, seen.shown[0], seen.labels)


CASES = {
    **{loss: ({'loss': loss}, 0, None) for loss in COSTS},
    'r1': ({'r1': 0.7}, 0.35, _r1),
    'r1, every fourth': ({'r1': 0.7, 'r1_every': 4}, 1.4, _r1),
    'gradient penalty': ({'gradient_penalty': 2.0, 'loss': 'wasserstein'}, 2.0,
                         _gradient_penalty),
    'lecam': ({'lecam': 0.3, 'lecam_start': 0}, 0.3, _lecam),
    'lecam, not yet': ({'lecam': 0.3, 'lecam_start': 1}, 0, _lecam),
    'consistency': ({'consistency': 3.0, 'diff_augment': 'color'}, 3.0,
                    _consistency(0)),
    'consistency on fakes': (
        {'consistency_on_fakes': 2.0, 'diff_augment': 'cutout'}, 2.0,
        _consistency(1)),
    'consistency under ADA': ({'consistency': 1.5, 'ada': 'c'}, 1.5,
                              _consistency(0)),
    'classes': ({'class_loss': 0.8}, 0.8, _classes),
    'classes of real images': (
        {'class_loss': 0.8, 'class_on_fakes': False}, 0.8, _classes_of_real),
}


@pytest.mark.parametrize('case', CASES)
def test_the_loss_of_d_and_its_gradient(monkeypatch, case):
  rule, weight, penalty = CASES[case]
  model, before = _model('class_loss' in rule, **rule)
  if 'ada' in rule:
    before = before._replace(control={'ada': ada.start(1.0)})
  if 'lecam' in rule:
    before = before._replace(control={'lecam': penalties.LeCam(
        *map(jnp.float32, AVERAGES))})
  if 'gradient_penalty' in rule:
    monkeypatch.setattr(jax.random, 'uniform',
                        lambda key, shape: jnp.float32(SHARE))
  batch = _batch()
  after, logs = quick.jit(model.step)(before, batch, KEY)
  seen, name = _seen(before, after, batch), rule.get('loss', 'hinge')
  if 'ada' not in rule and 'diff_augment' not in rule:
    np.testing.assert_allclose(seen.shown, (seen.real, seen.fake), atol=1e-6)
  def loss(w):
    extra = weight * penalty(seen, w) if penalty else 0
    return _d_source(seen, w, name) + extra
  np.testing.assert_allclose(logs['d_loss'], loss(seen.w), rtol=1e-5)
  _assert_gradient(before.d.params, after.d.params, _differences(loss, seen.w))
  if penalty and weight:  # It is there, and it pulls.
    assert weight * penalty(seen, seen.w) > 0.01
    pull = _differences(lambda w: weight * penalty(seen, w), seen.w)
    assert max(np.abs(x).max() for x in pull.values()) > 0.01


@pytest.mark.parametrize('loss, classes', [
    *((loss, 0.0) for loss in COSTS), ('hinge', 0.8)])
def test_the_loss_of_g_and_its_gradient(loss, classes):
  model, before = _model(bool(classes), loss=loss, class_loss=classes)
  batch = _batch()
  after, logs = quick.jit(model.step)(before, batch, KEY)
  seen, w = _seen(before, after, batch), _wide(after.d.params)
  def objective(params):
    fake = params['gain'] * seen.z
    return COSTS[loss][2](_scores(w, fake, seen.labels)).mean() + (
        classes and classes * _cross_entropy(w, fake, seen.labels))
  gain = _wide(before.g.params)
  np.testing.assert_allclose(logs['g_loss'], objective(gain), rtol=1e-5)
  _assert_gradient(before.g.params, after.g.params,
                   _differences(objective, gain))


@pytest.mark.parametrize('loss, threshold', [
    ('hinge', 0), ('least_squares', 0.5)])
def test_accuracies_are_about_the_threshold(loss, threshold):
  model, before = _model(loss=loss)
  before.d.params['bias'] = jnp.float32(0.3)
  batch = _batch()
  after, logs = quick.jit(model.step)(before, batch, KEY)
  seen = _seen(before, after, batch)
  real, fake = (_scores(seen.w, x, seen.labels) for x in seen.shown)
  assert ((real > 0) != (real > 0.5)).any()
  np.testing.assert_allclose(
      [logs['d_accuracy_real'], logs['d_accuracy_fake']],
      [(real > threshold).mean(), (fake < threshold).mean()], rtol=1e-6)


@pytest.mark.parametrize('on_fakes', [True, False])
def test_source_and_class_losses_are_logged_apart(on_fakes):
  torch = pytest.importorskip('torch')
  model, before = _model(True, class_loss=0.5, class_on_fakes=on_fakes,
                         loss='non_saturating')
  batch = _batch()
  after, logs = quick.jit(model.step)(before, batch, KEY)
  seen = _seen(before, after, batch)
  F, labels = torch.nn.functional, torch.tensor(seen.labels).long()
  def entropies(w, x, target):
    hidden = _hidden(w, x, seen.labels)
    scores = torch.tensor(hidden @ w['out'] + w['bias'])
    return (F.binary_cross_entropy_with_logits(
        scores, torch.full_like(scores, target)).item(),
            F.cross_entropy(torch.tensor(hidden @ w['class']), labels).item())
  real, fake = (entropies(seen.w, x, target)
                for x, target in zip(seen.shown, (1., 0.), strict=True))
  by_d = (real[1] + fake[1]) / 2 if on_fakes else real[1]
  by_g = entropies(_wide(after.d.params), seen.z, 1.)
  want = {'d_source_loss': real[0] + fake[0], 'd_class_loss': by_d,
          'd_loss': real[0] + fake[0] + 0.5 * by_d, 'g_source_loss': by_g[0],
          'g_class_loss': by_g[1], 'g_loss': by_g[0] + 0.5 * by_g[1]}
  for name, value in want.items():
    np.testing.assert_allclose(logs[name], value, rtol=1e-5, err_msg=name)


def test_a_head_of_classes_changes_nothing_without_its_loss():
  batch, out = _batch(), []
  for classes in False, True:
    model, state = _model(classes)
    after, logs = quick.jit(model.step)(state, batch, KEY)
    out.append((after.d.params, after.g.params, logs))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *out)


# ---- over the steps ----

def _run(model, state, steps):
  """Yields (step, state before, state after, batch, logs)."""
  step = quick.jit(model.step)
  for i in range(steps):
    batch = _batch(i, model.d_steps)
    after, logs = step(state, batch, KEY)
    yield i, state, after, batch, logs
    state = after


def test_r1_comes_every_fourth_step_and_counts_four_times():
  model, state = _model(r1=0.5, r1_every=4, g_lr=0.05, d_lr=0.05)
  for i, before, after, batch, logs in _run(model, state, 10):
    seen = _seen(before, after, batch)
    want = 0.25 * 4 * _r1(seen, seen.w) * (i in (0, 4, 8))
    np.testing.assert_allclose(logs['d_loss'] - _d_source(seen, seen.w), want,
                               atol=1e-5, err_msg=str(i))
    assert (want > 0.01) == (i % 4 == 0)


def test_r1_goes_through_the_augmentation():
  # A cut pixel has no slope: of a nearly linear D, R1 counts what is left.
  model, state = _model(r1=2.0, diff_augment='cutout')
  w = {name: jnp.zeros(shape) for name, shape in SHAPES.items()}
  w |= {'in': w['in'].at[:, 0].set(1e-3), 'out': w['out'].at[0].set(500.)}
  state = state._replace(d=state.d._replace(params=w))
  batch = _batch()
  after, logs = quick.jit(model.step)(state, batch, KEY)
  seen = _seen(state, after, batch)
  left = SIZE * (logs['d_loss'] - _d_source(seen, seen.w)) / 0.25
  np.testing.assert_allclose(left, round(float(left)), atol=0.01)
  assert 6 * SIZE <= round(float(left)) < 8 * SIZE


def test_lecam_starts_at_its_step_with_averages_from_there():
  model, state = _model(lecam=0.3, lecam_start=3, lecam_decay=0.8, g_lr=0.05,
                        d_lr=0.05)
  averages = np.zeros(2)
  for i, before, after, batch, logs in _run(model, state, 7):
    np.testing.assert_allclose(before.control['lecam'], averages, atol=1e-6)
    seen = _seen(before, after, batch)
    want = 0.3 * _lecam(seen, seen.w, averages) * (i >= 3)
    np.testing.assert_allclose(logs['d_loss'] - _d_source(seen, seen.w), want,
                               atol=1e-5, err_msg=str(i))
    assert (want > 0.001) == (i >= 3)
    means = np.array([_scores(seen.w, x, seen.labels).mean()
                      for x in seen.shown])
    averages = means if i < 3 else 0.8 * averages + 0.2 * means


def test_g_learns_from_its_best_fakes_alone():
  model, state = _model(top_k=0.5, top_k_gamma=0.7, top_k_every=2, g_lr=0.2,
                        d_lr=0.05)
  for i, before, after, batch, logs in _run(model, state, 6):
    k = (6, 6, 4, 4, 3, 3)[i]
    seen, w = _seen(before, after, batch), _wide(after.d.params)
    fake = np.array(before.g.params['gain'], np.float64) * seen.z
    scores = _scores(w, fake, seen.labels)
    best = np.argsort(scores)[SIZE - k:]
    np.testing.assert_allclose(logs['g_loss'], -scores[best].mean(), rtol=1e-5)
    slope = -(_slopes(w, fake, seen.labels) * seen.z)[best].mean(0)
    np.testing.assert_allclose(
        before.g.params['gain'] - after.g.params['gain'], 0.2 * slope,
        atol=1e-6)


def test_the_average_is_a_copy_and_then_an_average_without_warm_up():
  model, state = _model(ema_start=3, ema_decay=0.9, g_lr=0.2, d_lr=0.05)
  seen = set()
  for i, before, after, _, _ in _run(model, state, 6):
    now = {'params': after.g.params, 'batch_stats': after.g.stats}
    if i < 3:
      jax.tree.map(np.testing.assert_array_equal, after.ema, now)
    else:
      jax.tree.map(lambda new, old, g: np.testing.assert_allclose(
          new, 0.9 * np.float64(old) + 0.1 * np.float64(g), rtol=1e-5,
          atol=1e-6), after.ema, before.ema, now)
    seen.add(float(after.ema['params']['gain'][0]))
  assert len(seen) == 6


# ---- ADA ----

def _blind(state, score, p=0.0):
  """A D that gives every image this score, and p."""
  w = {name: jnp.zeros(shape) for name, shape in SHAPES.items()}
  return state._replace(
      d=state.d._replace(params=w | {'bias': jnp.float32(score)}),
      control={'ada': ada.start(p)})


@pytest.mark.parametrize('rule, score, p, want', [
    # 12 images a move: every second update of D, 0.12 at a time.
    ({}, 2.0, 0.0, [0, 0.12, 0.12, 0.24, 0.24, 0.36]),
    ({}, 2.0, 0.8, [0.8, 0.92, 0.92, 1, 1, 1]),
    ({}, -2.0, 0.2, [0.2, 0.08, 0.08, 0, 0, 0]),
    ({'d_steps': 2}, 2.0, 0.0, [0.12, 0.24, 0.36, 0.48, 0.6, 0.72]),
    ({'fresh_fakes': False}, 2.0, 0.0, [0, 0.12, 0.12, 0.24, 0.24, 0.36]),
    # Right is above the loss's threshold, here 0.5.
    ({'loss': 'least_squares'}, 0.3, 0.2, [0.2, 0.08, 0.08, 0, 0, 0]),
    ({'loss': 'least_squares'}, 0.7, 0.0, [0, 0.12, 0.12, 0.24, 0.24, 0.36]),
    ({'ada_target': -1.0}, -2.0, 0.3, [0.3] * 6),
])
def test_p_rises_while_d_knows_the_real_images(rule, score, p, want):
  model, state = _model(ada='brightness', ada_every=2, ada_images=100,
                        d_lr=1e-30, **rule)
  got = [(float(after.control['ada'].p), float(logs['ada_p']))
         for *_, after, _, logs in _run(model, _blind(state, score, p), 6)]
  np.testing.assert_allclose(got, np.transpose([want, want]), atol=1e-6)


def test_p_is_how_often_what_d_sees_changes():
  model, state = _model(ada='contrast')
  batch, step = _batch(), quick.jit(model.step)
  slopes = []
  for p in 0.0, 1.0:
    before = state._replace(control={'ada': ada.start(p)})
    after, _ = step(before, batch, KEY)
    seen = _seen(before, after, batch)
    for shown, plain in zip(seen.shown, (seen.real, seen.fake), strict=True):
      factor = shown / plain  # One number an image.
      np.testing.assert_allclose(factor, np.broadcast_to(
          factor[:, :1, :1], factor.shape), rtol=1e-4)
      # One image in 20,000 draws a factor that is hardly one.
      assert ((np.abs(factor[:, 0, 0] - 1) > 1e-5) == bool(p)).all()
    slopes.append(np.asarray(before.g.params['gain'] - after.g.params['gain']))
  assert np.abs(slopes[0] - slopes[1]).max() > 1e-3  # G feels it as well.


EVERYTHING = dict(
    ada='xflip', ada_every=1, ada_images=100, ada_target=-0.9,
    diff_augment='contrast', lecam=0.3, lecam_start=2, r1=0.1, r1_every=2,
    gradient_penalty=0.1, consistency=1.0, consistency_on_fakes=1.0,
    optimizer='sgd', momentum=0.1, momentum_growth=0.1, g_lr=0.05, d_lr=0.05,
    class_loss=0.5, top_k=0.5, top_k_gamma=0.8, top_k_every=1, ema_start=3,
    d_steps=2, balance='behind')


def test_two_halves_are_one_run_bit_for_bit():
  model, state = _model(True, **EVERYTHING)
  *_, (_, _, whole, _, _) = _run(model, state, 6)
  *_, (_, _, half, _, _) = _run(model, state, 3)
  assert {*half.control} == {'ada', 'lecam'}
  # Through host memory, into a model that knows nothing of the first.
  stored = jax.tree.map(np.array, half)
  model, _ = _model(True, **EVERYTHING)
  step, state = quick.jit(model.step), jax.tree.map(jnp.asarray, stored)
  for i in range(3, 6):
    state, _ = step(state, _batch(i, 2), KEY)
  jax.tree.map(np.testing.assert_array_equal, state, whole)
  assert float(half.control['ada'].p) != float(whole.control['ada'].p) > 0
  again, _ = step(stored._replace(control=whole.control), _batch(3, 2), KEY)
  assert not np.array_equal(again.d.stats['seen'], step(
      stored, _batch(3, 2), KEY)[0].d.stats['seen'])


def test_a_new_state_may_be_donated():
  model, state = _model(True, **EVERYTHING)
  want, _ = quick.jit(model.step)(state, _batch(0, 2), KEY)
  got, _ = quick.jit(model.step, donate_argnums=0)(state, _batch(0, 2), KEY)
  jax.tree.map(np.testing.assert_array_equal, got, want)


# ---- optimizers ----

def _gradients(steps=25):
  """Large ones, small ones and one that is 0."""
  rng = np.random.default_rng(3)
  return rng.normal(size=(steps, 7)) * [3, 1, 0.1, 1e-3, 1e-4, 1e-5, 0]


def _descend(tx, gradients):
  params, out = {'w': jnp.ones(7)}, []
  state, update = tx.init(params), jax.jit(tx.update)
  for gradient in gradients:
    updates, state = update({'w': jnp.float32(gradient)}, state, params)
    out.append(np.array(updates['w']))
  return np.array(out)


@pytest.mark.parametrize('rule, torch_name, arguments', [
    ({'optimizer': 'adam', 'b1': 0.5, 'b2': 0.99}, 'Adam',
     {'betas': (0.5, 0.99)}),
    ({'optimizer': 'rmsprop', 'b2': 0.9}, 'RMSprop', {'alpha': 0.9}),
    ({'optimizer': 'rmsprop', 'b2': 0.99}, 'RMSprop', {'alpha': 0.99}),
    ({'optimizer': 'sgd'}, 'SGD', {}),
])
def test_optimizers_are_those_of_torch(rule, torch_name, arguments):
  torch = pytest.importorskip('torch')
  both = options.optimizers(g_lr=0.01, d_lr=0.03, **rule)
  for tx, rate in zip(both, (0.01, 0.03), strict=True):
    w = torch.zeros(7, dtype=torch.float64, requires_grad=True)
    optimizer = getattr(torch.optim, torch_name)([w], lr=rate, **arguments)
    want = []
    for gradient in _gradients():
      before = w.detach().clone()
      w.grad = torch.tensor(gradient)
      optimizer.step()
      want.append((w.detach() - before).numpy())
    # Adam's eps of 1e-8 is felt by a gradient of 1e-5, and is the same.
    np.testing.assert_allclose(_descend(tx, _gradients()), want, rtol=1e-4,
                               atol=1e-9)


def test_the_momentum_of_sgd_grows_and_damps():
  both = options.optimizers(optimizer='sgd', g_lr=0.1, d_lr=0.2,
                                momentum=0.25, momentum_growth=0.03,
                                momentum_limit=0.6)
  v, want = np.zeros(7), []
  for i, gradient in enumerate(_gradients()):
    m = 0.25 + 0.03 * i if i < 12 else 0.6
    v = m * v + (1 - m) * gradient
    want.append(v)
  for tx, rate in zip(both, (0.1, 0.2), strict=True):
    np.testing.assert_allclose(_descend(tx, _gradients()),
                               -rate * np.array(want), rtol=1e-4, atol=1e-9)


# ---- who rests ----

def _judging(state, on_real, on_fake):
  """D gives white images `on_real` and G's, which are grey, `on_fake`."""
  w = {name: jnp.zeros(shape) for name, shape in SHAPES.items()}
  w |= {'in': w['in'].at[:, 0].set(0.02), 'bias': jnp.float32(on_fake),
        'out': w['out'].at[0].set((on_real - on_fake) / np.tanh(0.16))}
  return state._replace(
      d=state.d._replace(params=w),
      g=state.g._replace(params={'gain': jnp.zeros(8)}))


@pytest.mark.parametrize('fresh', [True, False])
@pytest.mark.parametrize('balance, on_real, on_fake, d_moves, g_moves', [
    ('margin', 2, -2, False, True),    # Errors 0.13 and 0.13.
    ('margin', 0, -0.1, True, True),   # 0.69 and 0.64.
    ('margin', -1, -2, True, True),    # 1.31 and 0.13.
    ('margin', -2, 2, True, False),    # 2.13 and 2.13.
    ('behind', 2, -2, False, True),    # 0.25 of D, 2.13 of G.
    ('behind', -2, 2, True, False),    # 4.25 and 0.13.
    ('behind', 40, 0, True, True),     # 0.69 both.
    ('none', 2, -2, True, True),
])
def test_who_rests_stays_bit_for_bit(fresh, balance, on_real, on_fake, d_moves,
                                     g_moves):
  model, state = _model(balance=balance, loss='non_saturating',
                        optimizer='adam', fresh_fakes=fresh)
  before = _judging(state, on_real, on_fake)
  batch = _batch() | {'image': np.full((1, SIZE, 4, 2, 1), 255, np.uint8)}
  after, logs = quick.jit(model.step)(before, batch, KEY)
  for name, moves in (('d', d_moves), ('g', g_moves)):
    old, new = (getattr(state, name) for state in (before, after))
    for part in ('params', 'stats', 'opt'):
      same = [np.array_equal(a, b) for a, b in zip(
          *(jax.tree.leaves(getattr(net, part)) for net in (old, new)),
          strict=True)]
      assert all(same) != moves, (name, part)
    if balance != 'none':
      assert float(logs[f'{name}_moves']) == moves
  assert ('d_moves' in logs) == (balance != 'none')
  assert int(after.step) == 1


def test_each_update_of_d_rests_by_its_own_errors():
  # The second batch is black, on which D is wrong.
  model, state = _model(balance='margin', loss='non_saturating', d_steps=2)
  before = _judging(state, 2, -2)
  batch = _batch(d_steps=2)
  batch['image'][0], batch['image'][1] = 255, 0
  after, logs = quick.jit(model.step)(before, batch, KEY)
  assert float(logs['d_moves']) == 1
  one, state = _model(balance='margin', loss='non_saturating')
  alone, _ = quick.jit(one.step)(_judging(state, 2, -2), {
      k: v[1:] for k, v in batch.items()}, KEY)
  # G's images are grey whatever its noise: the two moves are one.
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
               after.d.params, alone.d.params)


# ---- noise, sampling ----

@pytest.mark.parametrize('rule, distribution, in_training', [
    ({}, stats.norm(), stats.norm()),
    ({'truncation': 0.7}, stats.truncnorm(-0.7, 0.7), stats.norm()),
    ({'truncation': 3.0}, stats.truncnorm(-3, 3), stats.norm()),
    ({'noise': 'uniform'}, stats.uniform(-1, 2), stats.uniform(-1, 2)),
    ({'noise': 'uniform', 'truncation': 0.5}, stats.uniform(-0.5, 1),
     stats.uniform(-1, 2)),
    ({'noise': 'uniform', 'truncation': 1.5}, stats.uniform(-1, 2),
     stats.uniform(-1, 2)),
])
def test_noise_is_of_its_distribution(rule, distribution, in_training):
  model, state = _model(**rule, g_lr=1e-30, d_lr=1e-30)
  labels = jnp.zeros(2000, jnp.int32)
  z = np.ravel(model.sample(model.variables(state), KEY, labels))
  low, high = distribution.support()
  assert low <= z.min() and z.max() <= high
  assert stats.kstest(z, distribution.cdf).pvalue > 1e-4
  assert len(np.unique(z)) > 0.99 * len(z)
  seen = np.ravel([[after.g.stats[age] for age in ('before', 'last')]
                   for *_, after, _, _ in _run(model, state, 10)])
  low, high = in_training.support()
  assert low <= seen.min() and seen.max() <= high
  assert stats.kstest(seen, in_training.cdf).pvalue > 1e-4


@pytest.mark.parametrize('statistics', ['running', 'batch', 'standing'])
def test_decoded_noise_is_the_sample_of_it(monkeypatch, statistics):
  model = cgan.build(types.ImageSpec(8, 8, 1, 3), z_dim=5, embed_dim=3,
                     g_widths=(6, 5), d_widths=(5,), g_norm='batch',
                     statistics=statistics)
  assert model.z_dim == 5
  variables = model.variables(jax.jit(model.init)(KEY))
  labels = jnp.arange(6) % 3
  z = jax.random.normal(jax.random.key(3), (6, 5))
  got = model.decode(variables, z, labels)
  assert got.shape == (6, 8, 8, 1) and got.dtype == jnp.float32
  monkeypatch.setattr(jax.random, 'normal', lambda key, shape: z)
  np.testing.assert_array_equal(got, model.sample(variables, KEY, labels))
  other = model.decode(variables, -z, labels)
  assert np.abs(got - other).max() > 1e-3


class _Normed(nn.Module):
  """A linear map of the noise and a number of the class; then batch norm."""
  classes: int

  @nn.compact
  def __call__(self, z, labels, train: bool):
    x = nn.Dense(8, name='map')(z)
    x = x + nn.Embed(self.classes, 1, name='class')(labels)
    x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name='norm',
                     use_bias=False, use_scale=False)(x)
    return x.reshape(-1, 4, 2, 1)


@pytest.mark.parametrize('classes', [1, 10, 100])
def test_standing_statistics_are_those_of_the_averaged_weights(classes):
  spec = SPEC._replace(num_classes=classes)
  build = {name: adversarial.make(spec, _Normed(classes), _D(), z_dim=8,
                                  statistics=name)
           for name in ('running', 'standing')}
  state = build['running'].init(KEY)
  rng = np.random.default_rng(0)
  w = {'map': {'kernel': rng.normal(size=(8, 8)), 'bias': rng.normal(size=8)},
       'class': {'embedding': np.linspace(-1, 3, classes)[:, None]}}
  ema = {'params': jax.tree.map(jnp.float32, w), 'batch_stats': {
      'norm': {'mean': jnp.full(8, 4.0), 'var': jnp.full(8, 50.0)}}}
  kept = jax.tree.map(np.array, ema)
  state = state._replace(ema=ema)
  assert build['running'].variables(state) is ema
  variables = build['standing'].variables(state)
  jax.tree.map(np.testing.assert_array_equal, ema, kept)
  jax.tree.map(np.testing.assert_array_equal, variables['params'],
               ema['params'])
  # Of all noise and all classes, in closed form.
  values = w['class']['embedding']
  mean = w['map']['bias'] + values.mean()
  var = (w['map']['kernel'] ** 2).sum(0) + values.var()
  got = variables['batch_stats']['norm']
  # 0.9^32 of the running ones remains; 5 errors of some 19 batches of 64.
  remains = 0.9 ** 32
  np.testing.assert_array_less(
      np.abs(got['mean'] - remains * 4 - (1 - remains) * mean),
      5 * np.sqrt(var / (19 * 64)))
  np.testing.assert_array_less(
      np.abs(got['var'] - remains * 50 - (1 - remains) * var),
      5 * var * np.sqrt(2 / (19 * 64)))
  jax.tree.map(np.testing.assert_array_equal, variables,
               build['standing'].variables(state))
  images = build['standing'].sample(variables, KEY, jnp.arange(4000) % classes)
  flat = np.asarray(images).reshape(-1, 8)
  assert np.abs(flat.mean(0)).max() < 0.3 and np.abs(flat.std(0) - 1).max() < .3


# ---- refusals ----

@pytest.mark.parametrize('given, line', [
    ({'optimizer': 'adamw'}, "^optimizer: 'adamw'; expected one of adam, rmsp"),
    ({'g_lr': 0.0}, '^g_lr: 0.0; expected a number above 0'),
    ({'d_lr': -1.0}, '^d_lr: -1.0; '),
    ({'b1': 1.0}, '^b1: 1.0; expected a number from 0 to below 1'),
    ({'b2': -0.1}, '^b2: -0.1; '),
    ({'momentum': 1.0}, '^momentum: 1.0; '),
    ({'momentum': 0.8}, r'^momentum: 0.8; expected .* 0 to 0\.7\.$'),
    ({'momentum_growth': -0.1}, '^momentum_growth: -0.1; '),
    ({'momentum_limit': 1.0}, '^momentum_limit: 1.0; '),
    ({'r1': -1.0}, '^r1: -1.0; expected a number of 0 or more'),
    ({'r1_every': 0}, '^r1_every: 0; expected a whole number of at least 1'),
    ({'gradient_penalty': float('nan')}, '^gradient_penalty: nan; '),
    ({'lecam': '0.3'}, "^lecam: '0.3'; expected a number"),
    ({'lecam_start': -1}, '^lecam_start: -1; .* at least 0'),
    ({'lecam_decay': 1.0}, '^lecam_decay: 1.0; '),
    ({'consistency': -1.0}, '^consistency: -1.0; '),
    ({'consistency': 10.0}, '^consistency: 10.0; .*diff_augment or ada'),
    ({'consistency_on_fakes': float('inf'), 'ada': 'b'},
     '^consistency_on_fakes: inf; '),
    ({'consistency_on_fakes': 10.0}, '^consistency_on_fakes: 10.0; .* ada'),
    ({'ada': 'bgcf'}, "^ada: 'bgcf'; expected one of b, g, c"),
    ({'ada_target': 1.5}, '^ada_target: 1.5; '),
    ({'ada_every': 2.5}, '^ada_every: 2.5; expected a whole number'),
    ({'ada_images': 0}, '^ada_images: 0; '),
    ({'loss': 'wgan'}, "^loss: 'wgan'; .* wasserstein"),
    ({'loss': 'wasserstein', 'label_smoothing': 0.9}, '^label_smoothing: '),
    ({'noise': 'gaussian'}, "^noise: 'gaussian'; expected one of normal, uni"),
    ({'truncation': -0.5}, '^truncation: -0.5; '),
    ({'class_loss': -1}, '^class_loss: -1; '),
    ({'balance': 'margins'}, "^balance: 'margins'; .*Did you mean 'margin'"),
    ({'balance': 'margin'}, "^balance: 'margin' .* 'hinge'; .*non_saturating"),
    ({'top_k': 1.5}, '^top_k: 1.5; '),
    ({'top_k_gamma': -1}, '^top_k_gamma: -1; '),
    ({'top_k_every': 0}, '^top_k_every: 0; '),
    ({'ema_start': -1}, '^ema_start: -1; '),
    ({'statistics': 'standings'}, "^statistics: 'standings'; .* 'standing'"),
])
def test_refusals(given, line):
  with pytest.raises(errors.InputError, match=line) as e:
    adversarial.make(SPEC, _G(), _D(), z_dim=8, **given)
  assert '\n' not in str(e.value)


def test_a_class_loss_wants_a_d_that_knows_classes():
  model, state = _model(class_loss=1.0)
  with pytest.raises(errors.InputError, match='^class_loss: 1.0; ') as e:
    jax.eval_shape(model.step, state, _batch(), KEY)
  assert '\n' not in str(e.value)


# ---- what G starts from, and how D sees ----

class _Given(nn.Module):
  """What is given, and noise times a gain that starts at 0."""

  @nn.compact
  def __call__(self, z, labels, given, train: bool):
    gain = self.param('gain', nn.initializers.zeros, (8,))
    return given['half'] + (gain * z).reshape(-1, 4, 2, 1)


@pytest.mark.parametrize('fresh', [True, False])
def test_g_starts_from_what_the_condition_makes_of_real_images(fresh):
  model = adversarial.make(
      SPEC, _Given(), _D(), lambda images: {'half': images / 2}, z_dim=8,
      mirror=True, fresh_fakes=fresh, g_lr=1e-30, d_steps=2)
  state = model.init(KEY)
  state = state._replace(d=state.d._replace(
      stats={'seen': jnp.zeros((2 * SIZE, 4, 2, 1))}))
  batch, step = _batch(d_steps=2), quick.jit(model.step)
  after, _ = step(state, batch, KEY)
  # D saw the last batch, half of it mirrored, and G's images of just these.
  real, fake = np.split(np.asarray(after.d.stats['seen']), 2)
  np.testing.assert_allclose(fake, real / 2, atol=1e-6)
  plain = batch['image'][-1] / np.float32(127.5) - 1
  same = np.isclose(real, plain, atol=1e-6).all((1, 2, 3))
  turned = np.isclose(real, plain[:, :, ::-1], atol=1e-6).all((1, 2, 3))
  assert (same | turned).all() and 0 < same.sum() < SIZE
  given = {'half': jnp.float32(plain)}
  labels = jnp.zeros(SIZE, jnp.int32)
  for images in (model.sample(state.ema, KEY, labels, given),
                 model.decode(state.ema, jnp.ones((SIZE, 8)), labels, given)):
    np.testing.assert_allclose(images, plain, atol=1e-6)
  with pytest.raises(errors.InputError, match="^statistics: 'standing' draws"):
    adversarial.make(SPEC, _Given(), _D(), lambda images: images, z_dim=8,
                     statistics='standing')


def test_images_may_come_as_floats():
  model, state = _model(mirror=True)
  batch, step = _batch(), quick.jit(model.step)
  floats = batch | {'image': batch['image'] / np.float32(127.5) - 1}
  ends = [step(state, given, KEY)[0] for given in (batch, floats)]
  for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


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
  model = adversarial.make(
      SPEC, _Given(), _Judge(), lambda images: {'half': images / 2}, z_dim=8,
      loss='least_squares', separate_passes=separate)
  batch = _batch()
  real = np.float64(batch['image'][0, :, 0, 0, 0]) / 127.5 - 1
  fake = real / 2
  parts = [real, fake] if separate else [np.concatenate([real, fake])]
  scores = np.concatenate([(x - x.mean()) / x.std() for x in parts])
  want = (((scores[:SIZE] - 1) ** 2) / 2).mean() + (
      scores[SIZE:] ** 2 / 2).mean()
  mean = 0
  for x in parts:
    mean = 0.9 * mean + 0.1 * x.mean()
  after, logs = quick.jit(model.step)(model.init(KEY), batch, KEY)
  np.testing.assert_allclose(logs['d_loss'], want, rtol=1e-5)
  np.testing.assert_allclose(after.d.stats['norm']['mean'], [mean], rtol=1e-5)
