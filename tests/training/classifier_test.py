"""Training rules against closed forms and PyTorch; the paper's networks."""
import functools
import math
from fractions import Fraction

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.core import errors, registry, types
from jaxaug.training import classifier

SPEC = types.ImageSpec(6, 4, 1, 3)


def _rates(steps, **rule):
  """The learning rate of every step, as a unit gradient sees it."""
  rate = classifier.make_optimizer(**rule).rate
  return np.asarray(jax.jit(jax.vmap(rate, (0, None)))(
      jnp.arange(steps), jnp.int32(steps)))


def test_cosine_falls_to_zero_over_the_run():
  t = np.arange(40)
  np.testing.assert_allclose(
      _rates(40, schedule='cosine', learning_rate=0.2),
      0.1 * (1 + np.cos(np.pi * t / 40)), atol=1e-7)


def test_warmup_rises_linearly_and_cosine_takes_the_rest():
  rates = _rates(50, schedule='cosine', learning_rate=0.3, warmup=10)
  np.testing.assert_allclose(np.diff(rates[:11], 2), 0, atol=1e-7)
  np.testing.assert_allclose(rates[0], 0.03, rtol=1e-5)
  np.testing.assert_allclose(rates[10], 0.3, rtol=1e-6)
  t = np.arange(40)
  np.testing.assert_allclose(rates[10:], 0.15 * (1 + np.cos(np.pi * t / 40)),
                             atol=1e-7)
  # A warm-up as long as the run or longer still leaves a step.
  assert np.isfinite(_rates(4, warmup=9)).all() and np.isfinite(_rates(1)).all()


@pytest.mark.parametrize('steps, warmup, milestones', [
    (40, 0, ('0.5', '0.75')), (100, 10, ('0.5', '0.75')),
    (100, 0, ('0.29', '0.57')), (100, 60, ('0.5', '0.55')),
    (2, 0, ('0.5', '0.75')), (90, 0, ())], ids=str)
def test_step_schedule_decays_at_each_share_of_the_run(steps, warmup,
                                                        milestones):
  rates = _rates(steps, schedule='step', learning_rate=0.4, decay=0.1,
                 warmup=warmup, milestones=tuple(map(float, milestones)))
  shares = [Fraction(m) for m in milestones]
  want = [0.4 * 0.1**sum(t >= int(m * steps) for m in shares)
          for t in range(steps)]
  np.testing.assert_allclose(rates[warmup:], want[warmup:], rtol=1e-5)


def test_constant_is_constant():
  np.testing.assert_allclose(_rates(9, schedule='constant', learning_rate=.7),
                             .7, rtol=1e-6)


@pytest.mark.parametrize('decay_norms', [False, True])
@pytest.mark.parametrize('optimizer', ['sgd', 'adam'])
def test_weight_decay_is_of_kernels_or_of_all(optimizer, decay_norms):
  tx = classifier.make_optimizer(
      optimizer=optimizer, momentum=0.0, weight_decay=0.1,
      decay_norms=decay_norms).direction
  params = {'conv': {'kernel': jnp.full((3, 3, 1, 2), 2.),
                     'bias': jnp.full(2, 2.)},
            'dense': {'kernel': jnp.full((4, 2), 2.)},
            'norm': {'scale': jnp.full(2, 2.), 'bias': jnp.full(2, 2.)}}
  zero = jax.tree.map(jnp.zeros_like, params)
  updates, _ = tx.update(zero, tx.init(params), params)
  for path, update in jax.tree_util.tree_flatten_with_path(updates)[0]:
    want = 0.1 * 2 if decay_norms or path[-1].key == 'kernel' else 0
    np.testing.assert_allclose(update, want, rtol=1e-6, err_msg=str(path))


class _Net(nn.Module):
  @nn.compact
  def __call__(self, x, train: bool):
    x = nn.Dense(8, name='hidden')(x.reshape(x.shape[0], -1))
    x = nn.Dense(SPEC.num_classes, name='logits')(jnp.tanh(x))
    return x


def _data(steps=5, batch=7):
  rng = np.random.default_rng(0)
  images = rng.uniform(-1, 1, (steps, batch, 6, 4, 1)).astype(np.float32)
  return images, rng.integers(0, 3, (steps, batch)).astype(np.int32)


@pytest.mark.parametrize('optimizer, smoothing, schedule', [
    ('sgd', 0.1, 'constant'), ('sgd', 0.0, 'cosine'), ('adam', 0.1, 'step')])
def test_five_steps_are_those_of_torch(optimizer, smoothing, schedule):
  torch = pytest.importorskip('torch')
  rule = classifier.make(
      SPEC, _Net(), optimizer=optimizer, label_smoothing=smoothing,
      schedule=schedule, learning_rate=0.05, weight_decay=0.01)
  state = rule.init(jax.random.key(0), 5)
  weights = {f'{layer}.{kind}': torch.tensor(
      np.asarray(value, np.float64), requires_grad=True)
      for layer, tree in state.net.params.items()
      for kind, value in tree.items()}
  groups = [
      {'params': [w for n, w in weights.items() if n.endswith('kernel')],
       'weight_decay': 0.01},
      {'params': [w for n, w in weights.items() if n.endswith('bias')],
       'weight_decay': 0.0}]
  if optimizer == 'sgd':
    opt = torch.optim.SGD(groups, 0.05, momentum=0.9, nesterov=True)
  else:
    opt = torch.optim.AdamW(groups, 0.05)
  factor = {'constant': [1] * 5, 'step': [1, 1, .1, .01, .01],
            'cosine': [(1 + math.cos(math.pi * t / 5)) / 2 for t in range(5)]}
  step = jax.jit(rule.step)
  for t, (images, labels) in enumerate(zip(*_data(), strict=True)):
    state, logs = step(state, classifier.plain(images, labels, 3),
                       jax.random.key(1))
    x = torch.tensor(images.reshape(7, -1), dtype=torch.float64)
    x = torch.tanh(x @ weights['hidden.kernel'] + weights['hidden.bias'])
    x = x @ weights['logits.kernel'] + weights['logits.bias']
    target = torch.tensor(labels, dtype=torch.long)
    loss = torch.nn.functional.cross_entropy(x, target,
                                             label_smoothing=smoothing)
    np.testing.assert_allclose(logs['train_loss'], loss.item(), rtol=1e-5)
    wrong = (x.argmax(1) != target).double().mean().item()
    np.testing.assert_allclose(logs['train_error'], wrong, rtol=1e-6)
    for group in opt.param_groups:
      group['lr'] = 0.05 * factor[schedule][t]
    opt.zero_grad()
    loss.backward()
    opt.step()
  assert int(state.step) == 5
  for name, want in weights.items():
    layer, kind = name.split('.')
    np.testing.assert_allclose(state.net.params[layer][kind],
                               want.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_step_is_pure_safe_to_donate_and_keyed_by_the_step():
  class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
      x = nn.Dropout(0.5, deterministic=not train)(x.reshape(x.shape[0], -1))
      return nn.Dense(SPEC.num_classes)(x)
  rule = classifier.make(SPEC, Noisy())
  batch = classifier.plain(*(x[0] for x in _data()), 3)
  state, key = rule.init(jax.random.key(0), 5), jax.random.key(1)
  step = jax.jit(rule.step)
  first, logs = step(state, batch, key)
  again, _ = step(state, batch, key)
  jax.tree.map(np.testing.assert_array_equal, first, again)
  donated, _ = jax.jit(rule.step, donate_argnums=0)(
      jax.tree.map(jnp.copy, state), batch, key)
  jax.tree.map(np.testing.assert_array_equal, first, donated)
  # Other draws of dropout for another step, and for another key.
  for other in ((state._replace(step=jnp.int32(1)), key),
                (state, jax.random.key(2))):
    _, more = step(other[0], batch, other[1])
    assert float(more['train_loss']) != float(logs['train_loss'])
  # Runs of other lengths are the same program.
  step(state._replace(steps=jnp.int32(99)), batch, key)
  assert step._cache_size() == 1


def test_running_statistics_are_learnt_and_used():
  class Norm(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
      x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
      return nn.Dense(SPEC.num_classes)(x.reshape(x.shape[0], -1))
  rule = classifier.make(SPEC, Norm())
  images, labels = (x[0] for x in _data())
  state, _ = rule.step(rule.init(jax.random.key(0), 5),
                       classifier.plain(images, labels, 3), jax.random.key(1))
  stats = classifier.variables(state.net)['batch_stats']['BatchNorm_0']
  np.testing.assert_allclose(stats['mean'], 0.1 * images.mean((0, 1, 2)),
                             atol=1e-6)
  np.testing.assert_allclose(stats['var'], 0.9 + 0.1 * images.var((0, 1, 2)),
                             rtol=1e-5)
  predict = functools.partial(rule.predict, classifier.variables(state.net))
  np.testing.assert_allclose(predict(images)[:2], predict(images[:2]),
                             atol=1e-6)  # Nothing of the batch.


@pytest.mark.parametrize('given, line', [
    ({'optimizer': 'sdg'}, "^optimizer: 'sdg'; .*mean 'sgd'"),
    ({'schedule': 'cos'}, "^schedule: 'cos'; .*cosine"),
    ({'learning_rate': 0.0}, '^learning_rate: 0.0'),
    ({'learning_rate': -1.0}, '^learning_rate: -1.0'),
    ({'label_smoothing': 1.0}, '^label_smoothing: 1.0'),
    ({'label_smoothing': -0.1}, '^label_smoothing: -0.1'),
])
def test_refusals(given, line):
  with pytest.raises(errors.InputError, match=line):
    classifier.make(SPEC, _Net(), **given)


@pytest.mark.parametrize('given', [
    {'learning_rate': math.nan}, {'momentum': 1.5}, {'momentum': -0.1},
    {'weight_decay': -1e-4}, {'warmup': -3}, {'milestones': (0.5, 1.5)},
    {'milestones': (-0.5,)}, {'decay': 0.0}], ids=str)
def test_values_out_of_range_are_refused(given):
  with pytest.raises(errors.InputError, match=f'^{next(iter(given))}'):
    classifier.make_optimizer(**given)


def _count(name, spec, **arguments):
  network = registry.build('classifiers', name, arguments, 'x', spec)
  image = jnp.zeros((1, spec.height, spec.width, spec.channels))
  made = jax.eval_shape(lambda: network.init(jax.random.key(0), image,
                                             train=False))
  return sum(x.size for x in jax.tree.leaves(made['params']))


def test_the_papers_cnn_has_its_number_of_parameters():
  assert _count('cnn', types.ImageSpec(32, 32, 3, 10)) == 258_058
  # 28x28 grey: 24, 12, 8, 4 pixels a side.
  assert _count('cnn', types.ImageSpec(28, 28, 1, 10)) == (
      25 * 16 + 16 + 25 * 16 * 128 + 128 + 4 * 4 * 128 * 64 + 64 + 650)


@pytest.mark.parametrize('parts', [2, 7])
def test_accumulated_gradients_are_those_of_the_whole_batch(parts):
  """Without batch norm, which sees one part at a time."""
  rng = np.random.default_rng(0)
  images = rng.uniform(-1, 1, (14, 6, 4, 1)).astype(np.float32)
  labels = rng.integers(0, 3, 14).astype(np.int32)
  batch = classifier.plain(images, labels, 3)
  batch['weight'] = jnp.array([0.5, 1.0, 2.0])
  ends = []
  for accumulate in (1, parts):
    rule = classifier.make(SPEC, _Net(), accumulate=accumulate)
    state = rule.init(jax.random.key(0), 5)
    for _ in range(3):
      state, logs = jax.jit(rule.step)(state, batch, jax.random.key(1))
    ends.append((state.net.params, logs))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *ends)
  with pytest.raises(errors.InputError, match='^accumulate: 5; .*size, 14'):
    classifier.make(SPEC, _Net(), accumulate=5).step(state, batch,
                                                     jax.random.key(1))


def test_weights_and_adjusted_logits_against_torch():
  torch = pytest.importorskip('torch')
  images, labels = (x[0] for x in _data())
  weight = np.float32([0.5, 1.0, 2.5])
  prior = np.log(np.float32([0.7, 0.2, 0.1]))
  rule = classifier.make(SPEC, _Net(), label_smoothing=0.1)
  state = rule.init(jax.random.key(0), 5)
  logits = np.array(rule.predict(classifier.variables(state.net), images))
  batch = classifier.plain(images, labels, 3) | {'weight': weight,
                                                 'adjustment': prior}
  _, logs = rule.step(state, batch, jax.random.key(1))
  each = torch.nn.functional.cross_entropy(
      torch.tensor(logits + prior), torch.tensor(labels).long(),
      label_smoothing=0.1, reduction='none')
  np.testing.assert_allclose(logs['train_loss'],
                             (each.numpy() * weight[labels]).mean(), rtol=1e-5)


def test_a_mixed_target_is_a_mixed_loss():
  images, labels = (x[0] for x in _data())
  rule = classifier.make(SPEC, _Net())
  state, key = rule.init(jax.random.key(0), 5), jax.random.key(1)
  one, other = (classifier.plain(images, y, 3) for y in
                (labels, (labels + 1) % 3))
  mixed = one | {'target': 0.3 * one['target'] + 0.7 * other['target']}
  a, b, c = (float(rule.step(state, x, key)[1]['train_loss'])
             for x in (one, other, mixed))
  np.testing.assert_allclose(c, 0.3 * a + 0.7 * b, rtol=1e-6)


def test_features_are_what_the_last_layer_sees():
  images, _ = (x[0] for x in _data())
  rule = classifier.make(SPEC, _Net())
  variables = classifier.variables(rule.init(jax.random.key(0), 5).net)
  features = jax.jit(rule.features)(variables, images)
  assert features.shape == (7, 8) and features.dtype == jnp.float32
  last = variables['params']['logits']
  np.testing.assert_allclose(features @ last['kernel'] + last['bias'],
                             rule.predict(variables, images), atol=1e-6)
