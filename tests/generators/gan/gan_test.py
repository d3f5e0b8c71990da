"""Two players as a generative model: averages, samples, starts, refusals."""
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.core import errors, registry, types
from jaxaug.generators import cgan
from jaxaug.generators.gan import gan
from tests import quick
from tests.generators.gan import stubs


def test_average_is_its_formula_with_the_warm_up():
  # 1/10 and 2/11 by the warm-up, then 0.2 by the ceiling.
  model, state = stubs.model(ema_decay=0.2, g_lr=0.1)
  def now(state):
    return stubs.flat({'params': state.g.params, 'batch_stats': state.g.stats})
  want, seen, step = now(state), set(), quick.jit(model.step)
  for t in range(4):
    state, _ = step(state, stubs.batch(t), stubs.KEY)
    decay = (1 / 10, 2 / 11, 0.2, 0.2)[t]
    want = {k: decay * np.asarray(v, np.float64) + (1 - decay) * now(state)[k]
            for k, v in want.items()}
    got = stubs.flat(model.variables(state))
    assert got.keys() == want.keys()
    for k in want:
      np.testing.assert_allclose(got[k], want[k], rtol=1e-5, atol=1e-6)
    seen.add(float(got['params/gain'][0]))
  assert int(state.step) == 4 and len(seen) == 4


def test_sampling_uses_the_average_and_leaves_it_alone():
  model, state = stubs.model()
  labels = jnp.arange(6) % 3
  far = {**state.ema, 'params': {'gain': jnp.full(8, 0.5)}}
  sample = quick.jit(model.sample)
  near, half = (sample(v, stubs.KEY, labels) for v in (state.ema, far))
  assert np.abs(near).max() > 0.5
  np.testing.assert_allclose(half, 0.5 * near, rtol=1e-6)
  np.testing.assert_array_equal(
      near, sample(model.variables(state), stubs.KEY, labels))


def test_the_average_is_a_copy_and_then_an_average_without_warm_up():
  model, state = stubs.model(ema_start=3, ema_decay=0.9, g_lr=0.2, d_lr=0.05)
  seen, step = set(), quick.steady(model.step)
  for i, before, after, _, _ in stubs.run(model, state, 6, step):
    now = {'params': after.g.params, 'batch_stats': after.g.stats}
    if i < 3:
      jax.tree.map(np.testing.assert_array_equal, after.ema, now)
    else:
      jax.tree.map(lambda new, old, g: np.testing.assert_allclose(
          new, 0.9 * np.float64(old) + 0.1 * np.float64(g), rtol=1e-5,
          atol=1e-6), after.ema, before.ema, now)
    seen.add(float(after.ema['params']['gain'][0]))
  assert len(seen) == 6


@pytest.mark.parametrize('statistics', ['running', 'batch', 'standing'])
def test_decoded_noise_is_the_sample_of_it(monkeypatch, statistics):
  model = cgan.build(types.ImageSpec(8, 8, 1, 3), z_dim=5, embed_dim=3,
                     g_widths=(6, 5), d_widths=(5,), g_norm='batch',
                     statistics=statistics)
  assert model.z_dim == 5
  variables = quick.jit(lambda: model.variables(model.init(stubs.KEY)))()
  labels = jnp.arange(6) % 3
  z = np.float32(np.random.default_rng(3).normal(size=(6, 5)))
  decode = quick.steady(model.decode)
  got = decode(variables, z, labels)
  assert got.shape == (6, 8, 8, 1) and got.dtype == jnp.float32
  monkeypatch.setattr(jax.random, 'normal', lambda key, shape: z)
  np.testing.assert_array_equal(got, quick.steady(model.sample)(
      variables, stubs.KEY, labels))
  other = decode(variables, -z, labels)
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
  spec = stubs.SPEC._replace(num_classes=classes)
  build = {name: gan.make(spec, _Normed(classes), stubs.D(), z_dim=8,
                          statistics=name)
           for name in ('running', 'standing')}
  state = quick.jit(build['running'].init)(stubs.KEY)
  rng = np.random.default_rng(0)
  w = {'map': {'kernel': rng.normal(size=(8, 8)), 'bias': rng.normal(size=8)},
       'class': {'embedding': np.linspace(-1, 3, classes)[:, None]}}
  ema = {'params': jax.tree.map(jnp.float32, w), 'batch_stats': {
      'norm': {'mean': jnp.full(8, 4.0), 'var': jnp.full(8, 50.0)}}}
  kept = jax.tree.map(np.array, ema)
  state = state._replace(ema=ema)
  assert build['running'].variables(state) is ema
  standing = quick.jit(build['standing'].variables)
  variables = standing(state)
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
  jax.tree.map(np.testing.assert_array_equal, variables, standing(state))
  images = quick.jit(build['standing'].sample)(
      variables, stubs.KEY, np.arange(4000) % classes)
  flat = np.asarray(images).reshape(-1, 8)
  assert np.abs(flat.mean(0)).max() < 0.3 and np.abs(flat.std(0) - 1).max() < .3


def test_sample_by_running_statistics_or_by_those_of_the_batch():
  labels = jnp.arange(6) % 4
  for statistics, alone in ('running', True), ('batch', False):
    model = cgan.build(types.ImageSpec(12, 8, 3, 4), z_dim=5, embed_dim=3,
                       g_widths=(6, 5, 4), d_widths=(5, 7), g_norm='batch',
                       statistics=statistics)
    variables = model.variables(quick.jit(model.init)(stubs.KEY))
    sample = quick.jit(model.sample)
    images = sample(variables, stubs.KEY, labels)
    assert images.shape == (6, 12, 8, 3) and images.dtype == jnp.float32
    assert (np.abs(images) <= 1).all()
    np.testing.assert_array_equal(
        images, sample(variables, stubs.KEY, labels))
    # Another class of the last image; the first ones feel it through the batch.
    other = sample(variables, stubs.KEY, labels.at[-1].set(3))
    same = np.allclose(images[:-1], other[:-1], atol=1e-7)
    assert same == alone
    assert not np.allclose(images[-1], other[-1], atol=1e-3)


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
    ({'gradient_penalty_per': 'pixels'},
     "^gradient_penalty_per: 'pixels'; .*Did you mean 'pixel'"),
    ({'quarter_turns': True}, '^quarter_turns: True; .* of 4x2, which are not'),
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
    ({'diff_augment': 'colour'}, "^diff_augment: 'colour'; .*mean 'color'"),
    ({'diff_augment_fill': 2.0}, '^diff_augment_fill: 2.0'),
    ({'d_steps': 0}, '^d_steps: 0; expected a whole number of at least 1'),
    ({'loss': 'hinges'}, "^loss: 'hinges'; .*mean 'hinge'"),
    ({'label_smoothing': 0.9}, "^label_smoothing: loss 'hinge'"),
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
    ({'statistics': 'moving'}, "^statistics: 'moving'; expected one of run"),
    ({'statistics': 'standings'}, "^statistics: 'standings'; .* 'standing'"),
])
def test_refusals(given, line):
  with pytest.raises(errors.InputError, match=line) as e:
    gan.make(stubs.SPEC, stubs.G(), stubs.D(), z_dim=8, **given)
  assert '\n' not in str(e.value)


def test_every_key_is_of_one_part_and_of_no_other():
  keys = [key for part in gan.PARTS for key in registry.arguments(part)]
  assert len(keys) == len({*keys}) and {*keys} < {*registry.arguments(gan.make)}
  with pytest.raises(TypeError, match='takes no r2, r3'):
    gan.make(stubs.SPEC, stubs.G(), stubs.D(), z_dim=8, r3=1.0, r2=1.0, r1=1.0)


def test_a_class_loss_wants_a_d_that_knows_classes():
  model, state = stubs.model(class_loss=1.0)
  with pytest.raises(errors.InputError, match='^class_loss: 1.0; ') as e:
    jax.eval_shape(model.step, state, stubs.batch(), stubs.KEY)
  assert '\n' not in str(e.value)
