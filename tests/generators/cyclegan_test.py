"""CycleGAN: its published sizes and losses, and its step beside PyTorch's."""
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxaug.core import errors, registry, types
from jaxaug.data import origins, pixels
from jaxaug.generators import cyclegan
from tests import quick

KEY = jax.random.key(0)
SPEC = types.ImageSpec(32, 40, 3, 4)
SMALL = dict(g_width=4, d_width=4, blocks=1)
F32 = jnp.dtype('float32')


def _parameters(size, **given):
  model = cyclegan.build(types.ImageSpec(*size, 2), **given)
  return model.parameters(jax.eval_shape(model.init, KEY))


def test_as_many_parameters_as_published():
  def both(g, d):
    return {'g_to_a': g, 'g_to_b': g, 'd_of_a': d, 'd_of_b': d}
  large, small = (256, 256, 3), (128, 128, 3)
  assert _parameters(large) == both(11_378_179, 2_764_737)
  assert _parameters(small) == both(7_837_699, 2_764_737)
  assert _parameters((255, 300, 3)) == _parameters(small)
  # Two channels fewer at the 7x7 ends, and one bias; at D's 4x4 start.
  assert _parameters((64, 64, 1)) == both(
      7_837_699 - 2 * (2 * 49 * 64) - 2, 2_764_737 - 2 * 16 * 64)
  # The Keras example's.
  assert _parameters(large, norm='affine') == both(11_383_427, 2_765_633)


def _maps(size, **given):
  """The shapes of what the layers of one G and one D give."""
  maps = []
  def look(call, args, kwargs, context):
    out = call(*args, **kwargs)
    if isinstance(context.module, nn.Conv):
      maps.append(out.shape[1:])
    return out
  model = cyclegan.build(types.ImageSpec(*size, 2), **given)
  with nn.intercept_methods(look):
    jax.eval_shape(model.init, KEY)
  ends = [i + 1 for i, shape in enumerate(maps) if shape == size]
  g, d = maps[:ends[0]], maps[ends[1]:]
  return g, d[:len(d) // 2]


def test_layers_have_the_published_shapes():
  g, d = _maps((256, 256, 3))
  at = [(256 >> i, 256 >> i, 64 << i) for i in range(3)]
  assert g == [*at, *[at[2]] * 18, at[1], at[0], (256, 256, 3)]
  assert d == [(128, 128, 64), (64, 64, 128), (32, 32, 256), (31, 31, 512),
               (30, 30, 1)]


@pytest.mark.parametrize('size, given, layers, scores', [
    ((64, 64, 3), {}, 3, (6, 6)), ((48, 80, 3), {}, 3, (4, 8)),
    ((47, 80, 3), {}, 2, (9, 18)), ((28, 28, 1), {}, 2, (5, 5)),
    ((23, 31, 1), {}, 1, (9, 13)), ((16, 24, 3), {}, 1, (6, 10)),
    ((8, 9, 1), {}, 1, (2, 2)), ((28, 28, 1), {'d_layers': 3}, 3, (1, 1)),
    ((96, 96, 3), {'d_layers': 5}, 5, (1, 1)),
    ((64, 64, 3), {'d_layers': 1}, 1, (30, 30))], ids=str)
def test_small_images_have_fewer_layers_of_d(size, given, layers, scores):
  g, d = _maps(size, **given)
  assert d[-1] == (*scores, 1) and len(d) == layers + 2
  assert [width for *_, width in d[:-1]] == [
      64 * min(1 << i, 8) for i in range(layers + 1)]
  assert g[-1] == size
  for a, b in zip(g[:2], (g[-2], g[-3]), strict=True):
    assert a == b  # Also of an odd side.


# ---------------------------------------------------------- beside the twin's
@pytest.fixture
def twin():
  pytest.importorskip('torch')
  from tests.torch_twins import cyclegan as twin
  return twin


def _torch(x):
  """[B, H, W, C] as PyTorch has it, in float64."""
  torch = pytest.importorskip('torch')
  return torch.tensor(np.moveaxis(np.asarray(x), -1, 1)).double()


def _nets(twin, spec, state, given):
  """Its four players with our weights, in float64."""
  from tests.torch_twins import layout
  def g(name):
    return layout.load(twin.Generator(
        spec.channels, given['g_width'], given['blocks']).double(),
                       state.g.params[name])
  def d(name):
    return layout.load(twin.Discriminator(
        spec.channels, given['d_width']).double(), state.d.params[name])
  # It calls a discriminator by the generator that it teaches.
  return twin.Nets(g('to_b'), g('to_a'), d('of_b'), d('of_a'))


def _state(model):
  """A start whose images are not grey; none of its numbers is drawn by it."""
  rng = np.random.default_rng(0)
  def other(x):
    return np.float32(rng.normal(0, 0.06 if x.ndim > 1 else 0.1, x.shape))
  state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype),
                       jax.eval_shape(model.init, KEY))
  g, d = (net._replace(params=jax.tree.map(other, net.params))
          for net in (state.g, state.d))
  return state._replace(g=g, d=d)


def _images(spec, count, seed=0):
  """Smooth images uint8 [count, H, W, C], no two alike."""
  rng = np.random.default_rng(seed)
  low = rng.integers(0, 256, (count, 4, 5, spec.channels), np.uint8)
  x = np.asarray(jax.image.resize(low.astype(np.float32), (count, *spec[:3]),
                                  'linear'))
  return np.uint8(np.clip(x + rng.normal(0, 8, x.shape), 0, 255))


@pytest.mark.parametrize('size', [(32, 40, 3), (33, 26, 1), (24, 31, 3)],
                         ids=str)
def test_images_and_scores_are_the_twins(twin, size):
  spec = types.ImageSpec(*size, 2)
  given = SMALL | {'d_layers': 3}
  state = _state(cyclegan.build(spec, **given))
  nets = _nets(twin, spec, state, given)
  # A side that is odd before a halving is one less than twice after it.
  sides = spec.height, spec.width
  for i in 1, 0:
    nets.g_a[f'up_{i}'].output_padding = tuple(1 - n % 2 for n in sides)
    sides = [-(-n // 2) for n in sides]
  images = np.float32(_images(spec, 2) / 127.5 - 1)
  for module, params, theirs in (
      (cyclegan.Generator(4, 1, False, F32), state.g.params['to_b'], nets.g_a),
      (cyclegan.Discriminator(4, 3, False, F32), state.d.params['of_b'],
       nets.d_a)):
    got = quick.jit(module.apply)({'params': params}, images)
    want = theirs(_torch(images)).detach().numpy()
    want = np.moveaxis(want, 1, -1) if got.ndim == 4 else want[:, 0]
    assert want.std() > 0.02
    np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())


def _heard(monkeypatch, model):
  """model.step as run(state, batch) -> (state, logs, choices of the pools)."""
  def run(state, batch):
    heard = []
    def spoken(draw):
      def drawn(*args, **more):
        heard.append(draw(*args, **more))
        return heard[-1]
      return drawn
    with monkeypatch.context() as m:
      for name in 'bernoulli', 'randint':
        m.setattr(jax.random, name, spoken(getattr(jax.random, name)))
      state, logs = model.step(state, batch, KEY)
    return state, logs, heard
  return quick.steady(run)


def _same(twin, theirs, mine, names):
  """Gradients and weights of both players of a kind, but for rounding.

  Adam goes by a gradient's sign where it is rounding, of biases before a norm;
  elsewhere these agree to some millionths.
  """
  from tests.torch_twins import layout
  for net, name in zip(theirs, names, strict=True):
    mu, params = mine.opt[0].mu[name], mine.params[name]
    for (path, weight, slope), (_, _, value) in zip(
        layout.pairs(net, mu), layout.pairs(net, params), strict=True):
      grad = weight.grad.numpy()
      before_a_norm = np.abs(grad).max() < 1e-12
      assert before_a_norm == (path[1] == 'bias' and path[0] not in (
          'image', 'conv_0', 'score')), path
      if not before_a_norm:
        yield path, slope, grad, value, weight.detach().numpy()


@pytest.mark.parametrize('given', [
    {'pool': 3, 'ema_decay': 0.9},
    {'pool': 0, 'identity': 0.0, 'cycle': 4.0, 'steps': 2, 'decay': 1.0}],
                         ids=['pools', 'other weights'])
def test_steps_are_the_twins(monkeypatch, twin, given):
  """Losses, gradients, weights, pools and the learning rate, of three steps."""
  options = SMALL | {'d_layers': 3} | given
  model = cyclegan.build(SPEC, classes=(3, 1), **options)
  state, run = _state(model), _heard(monkeypatch, model)
  nets = _nets(twin, SPEC, state, options)
  opts, pools = twin.optimizers(nets), [twin.Pool(given['pool']),
                                        twin.Pool(given['pool'])]
  means = {'g': 0, 'd': 0}
  for i in range(3):
    a, b = _images(SPEC, 4, seed=i).reshape(2, 2, *SPEC[:3])
    rate = 2e-4 * max(0, 1 - i / 2) if 'decay' in given else 2e-4
    for opt in opts:
      opt.param_groups[0]['lr'] = rate
    before = state
    state, logs, heard = run(state, {'image': np.stack([a, b])[None],
                                     'label': np.zeros((1, 2, 2), np.int32)})
    assert len(heard) == (4 if given['pool'] else 0)
    choices = [[*zip(*map(np.asarray, heard[n:n + 2]), strict=True)]
               or [(False, 0)] * 2 for n in (0, 2)]
    want = twin.step(
        nets, opts, _torch(a / 127.5 - 1), _torch(b / 127.5 - 1), *pools,
        twin.Draws(pool_b=choices[1], pool_a=choices[0]), **{
            name: options[name] for name in ('cycle', 'identity')
            if name in options})
    for mine, theirs in {
        'g_loss': 'g_loss', 'adversarial_a': 'adversarial_b',
        'adversarial_b': 'adversarial_a', 'cycle_a': 'cycle_a',
        'cycle_b': 'cycle_b', 'identity_a': 'identity_b',
        'identity_b': 'identity_a'}.items():
      np.testing.assert_allclose(logs[mine], want[theirs], rtol=2e-5,
                                 atol=1e-6, err_msg=mine)
    np.testing.assert_allclose(
        logs['d_loss'], want['d_loss_a'] + want['d_loss_b'], rtol=2e-5)
    for player, theirs, names in (
        ('g', (nets.g_b, nets.g_a), ('to_a', 'to_b')),
        ('d', (nets.d_b, nets.d_a), ('of_a', 'of_b'))):
      count = 0
      for path, mu, grad, value, weight in _same(
          twin, theirs, getattr(state, player), names):
        count += 1
        if not i:  # The first mean of gradients is half of one.
          np.testing.assert_allclose(mu / 0.5, grad, err_msg=str(path),
                                     atol=3e-5 * np.abs(grad).max())
        np.testing.assert_allclose(value, weight, atol=2e-5, err_msg=str(path))
      means[player] = count
    moved = max(np.abs(x - y).max() for x, y in zip(*map(
        jax.tree.leaves, (before.g.params, state.g.params)), strict=True))
    np.testing.assert_allclose(moved, rate, rtol=0.3, atol=1e-9)
  assert means == {'g': 2 * (8 + 1), 'd': 2 * (5 + 2)}
  for name, theirs in zip('ba', pools, strict=True):
    if given['pool']:
      assert state.pools[name].count == len(theirs.images) == 3
      np.testing.assert_allclose(
          state.pools[name].images,
          [np.moveaxis(x.numpy(), 0, -1) for x in theirs.images], atol=2e-4)
  assert bool(state.pools) == bool(given['pool'])
  variables = model.variables(state)['params']
  if 'ema_decay' not in given:
    assert not state.ema and variables is state.g.params
    return
  # The average's share of the last step is 1 - min(0.9, 3 / 12).
  assert variables is state.ema['params']
  old, new, average = (jax.tree.leaves(x) for x in (
      before.ema['params'], state.g.params, variables))
  for x, y, z in zip(old, new, average, strict=True):
    np.testing.assert_allclose(z, 0.25 * x + 0.75 * y, atol=1e-6)


def test_the_learning_rate_is_constant_and_then_falls_to_nothing(twin):
  rate = cyclegan.learning_rate(2e-4, 200, 0.5)
  got = np.array([rate(t) for t in (0, 99, 100, 101, 150, 199, 200, 999)])
  np.testing.assert_allclose(
      got, 2e-4 * np.array([1, 1, 1, 0.99, 0.5, 0.01, 0, 0]), atol=1e-10)
  # Of epochs, as the published code has it, up to two of a hundred.
  theirs = [twin.linear_decay(t) for t in range(200)]
  assert np.abs([rate(t) / 2e-4 for t in range(200)]
                - np.array(theirs)).max() < 2.01 / 101
  assert cyclegan.learning_rate(2e-4, 200, 0.0) == 2e-4
  np.testing.assert_allclose([cyclegan.learning_rate(1.0, 4, 1.0)(t)
                              for t in range(5)], [1, 0.75, 0.5, 0.25, 0])
  # A fifth of a hundred steps.
  np.testing.assert_allclose([cyclegan.learning_rate(1.0, 100, 0.2)(t)
                              for t in (80, 90, 99)], [1, 0.5, 0.05],
                             atol=1e-6)


# --------------------------------------------------------- formulas by hand
def test_losses_by_hand():
  """Generators and discriminators that are lines."""
  with jax.enable_x64():
    a, b = (jnp.full((2, 4, 4, 3), x, jnp.float64) for x in (0.2, -0.5))
    def loss(p, q, weights):
      return cyclegan.g_loss(
          lambda x: q * x + 0.1, lambda x: p * x, lambda x: 2 * x[..., 0],
          lambda x: 1 - x[..., 0], a, b, weights)
    def grads(weights):
      return jax.value_and_grad(loss, (0, 1), has_aux=True)(0.5, 3.0, weights)

    # Fakes: a 3 (-0.5) + 0.1 = -1.4, b 0.5 0.2 = 0.1. Scores of them: -2.8 and
    # 0.9. There and back: a 3 0.1 + 0.1 = 0.4, b 0.5 (-1.4) = -0.7. What is
    # there: a 3 0.2 + 0.1 = 0.7, b 0.5 (-0.5) = -0.25.
    want = {'adversarial_a': 3.8**2, 'adversarial_b': 0.1**2, 'cycle_a': 0.2,
            'cycle_b': 0.2, 'identity_a': 0.5, 'identity_b': 0.25}
    total = 3.8**2 + 0.1**2 + 10 * 0.4 + 5 * 0.75
    (value, ((fake_a, fake_b), logs)), slopes = grads(
        cyclegan.Weights(10.0, 0.5, False))
    np.testing.assert_allclose(value, total)
    assert logs.pop('g_loss') == value and logs.keys() == want.keys()
    for name in want:
      np.testing.assert_allclose(logs[name], want[name], err_msg=name)
    np.testing.assert_allclose(fake_a, np.full(a.shape, -1.4))
    np.testing.assert_allclose(fake_b, np.full(b.shape, 0.1))
    # By p, of b: adversarial 2 (0.9 - 1) (-0.2); cycles |q p 0.2 + 0.1 - 0.2|
    # with slope 3 0.2, |p (-1.4) + 0.5| with 1.4; identity |0.5 - 0.5 p|
    # with -0.5. By q, of a: 2 (-3.8) 2 (-0.5); 0.1; p 0.5; 0.2.
    of_p, of_q = (0.04, 0.6, 1.4, -0.5), (7.6, 0.1, 0.25, 0.2)
    np.testing.assert_allclose(slopes, [
        np.dot(x, (1, 10, 10, 5)) for x in (of_p, of_q)])

    # Split: each learns from the way that it ends alone.
    (value, _), slopes = grads(cyclegan.Weights(10.0, 0.5, True))
    np.testing.assert_allclose(value, total)
    np.testing.assert_allclose(slopes, [
        np.dot(of_p, (1, 0, 10, 5)), np.dot(of_q, (1, 10, 0, 5))])
    (value, (_, logs)), _ = grads(cyclegan.Weights(10.0, 0.0, False))
    np.testing.assert_allclose(value, total - 5 * 0.75)
    assert logs['identity_a'] == logs['identity_b'] == 0

    # D: ((0.4 - 1)^2 + 2.8^2) / 2 of a, ((1.5 - 1)^2 + 0.9^2) / 2 of b.
    value, logs = cyclegan.d_loss(
        lambda x: 2 * x[..., 0], lambda x: 1 - x[..., 0], a, b, fake_a, fake_b)
    np.testing.assert_allclose(
        value, (0.36 + 7.84) / 2 + (0.25 + 0.81) / 2)
    assert logs['d_loss'] == value
    # A score above a half is one of real images: 0.4 is not, nor 0.9 of fakes.
    assert logs['d_accuracy_real'] == logs['d_accuracy_fake'] == 0.5


def _numbers(*values):
  return np.float32(values).reshape(-1, 1, 1, 1)


def test_a_pool_hands_on_and_keeps_as_it_should():
  pool = cyclegan.Pool(jnp.zeros((3, 1, 1, 1)), jnp.int32(0))
  def put(pool, *given):
    """(fake, swap, place) ... -> the pool and what came out."""
    values, swaps, places = zip(*given, strict=True)
    pool, out = quick.jit(cyclegan.exchange)(
        pool, _numbers(*values), np.array(swaps), np.int32(places))
    return pool, out.ravel().tolist()
  # Until full: kept and handed on, whatever is drawn.
  pool, out = put(pool, (1, True, 2), (2, True, 0))
  assert out == [1, 2] and pool.count == 2
  pool, out = put(pool, (3, True, 0), (4, True, 0))
  assert out == [3, 1] and pool.count == 3
  assert pool.images.ravel().tolist() == [4, 2, 3]
  # Full: handed on and not kept, or in the place of another.
  pool, out = put(pool, (5, False, 1), (6, True, 1))
  assert out == [5, 2] and pool.images.ravel().tolist() == [4, 6, 3]
  # One of a batch may take another of it out.
  pool, out = put(pool, (7, True, 2), (8, True, 2))
  assert out == [3, 7] and pool.images.ravel().tolist() == [4, 6, 8]
  assert pool.count == 3


def test_half_of_the_fakes_are_swapped_for_any_alike():
  """Of 40,000: shares within five standard deviations."""
  def one(pool, i):
    images = (4 * i + jnp.arange(4.)).reshape(4, 1, 1, 1)
    before = pool.images
    pool, out = cyclegan.refresh(pool, jax.random.fold_in(KEY, i), images)
    return pool, (out.ravel(), pool.images.ravel() != before.ravel())
  pool = cyclegan.Pool(jnp.full((10, 1, 1, 1), -1.), jnp.int32(0))
  pool, (out, changed) = jax.jit(lambda pool: jax.lax.scan(
      one, pool, jnp.arange(10_000)))(pool)
  out = np.asarray(out).ravel()
  new = out == np.arange(40_000)
  assert new[:10].all()
  assert abs(new[10:].mean() - 0.5) < 5 * 0.5 / 200
  # Nothing goes out more than twice, and old ones wait 2 x 10 on average.
  assert np.bincount(out.astype(int)).max() == 2
  waited = np.flatnonzero(~new) - out[~new]
  assert abs(waited.mean() - 20) < 5 * 20 / 141
  # Four draws of a half for one of ten: a place changes in 1 - 0.95^4.
  share = 1 - 0.95**4
  assert np.abs(changed[3:].mean(0) - share).max() < 5 * np.sqrt(
      share * (1 - share) / 10_000)


# ------------------------------------------------------------- from the data
def _feed(labels, batch_size=2, classes=(2, 0), seed=5):
  model = cyclegan.build(SPEC, classes=classes, **SMALL)
  return model.feed(np.array(labels), ('ape', 'bat', 'cat', 'dog'), batch_size,
                    seed)


def test_each_class_runs_through_epochs_of_its_own():
  labels = [0, 1, 2, 3, 2, 0, 2, 2, 0, 2, 1, 0]
  batch = _feed(labels)
  index = np.stack([batch(i) for i in range(10)])
  assert index.shape == (10, 1, 2, 2) and index.dtype == np.int32
  a, b = index[:, 0, 0].ravel(), index[:, 0, 1].ravel()
  for side, k in (a, 2), (b, 0):
    own = np.flatnonzero(np.equal(labels, k)).tolist()
    epochs = side.reshape(-1, len(own))
    assert all(sorted(epoch) == own for epoch in epochs.tolist())
    assert len(np.unique(epochs, axis=0)) > 1
  np.testing.assert_array_equal(batch(3), index[3])
  assert not np.array_equal(index, [_feed(labels, seed=6)(i)
                                    for i in range(10)])


def test_no_image_has_a_partner_of_the_other_class():
  """Of classes of one size, image by image beside each other in the data."""
  batch = _feed([2, 0] * 6)
  a, b = np.stack([batch(i) for i in range(3)])[:, 0].swapaxes(0, 1)
  assert (b != a + 1).any()


@pytest.mark.parametrize('labels, batch_size, line', [
    ([1, 0, 3], 1, "classes: 'cat' has no training images; expected some of "
     'both classes.'),
    ([2, 2, 3], 1, "classes: 'ape' has no training images; expected some of "
     'both classes.'),
    ([2, 0, 2, 3, 3], 2, 'batch_size: 2; expected at most 1, the number of '
     "training images of class 'ape'.")], ids=str)
def test_what_cannot_be_learned_from_is_one_line(labels, batch_size, line):
  with pytest.raises(errors.InputError, match=f'^{re.escape(line)}$'):
    _feed(labels, batch_size)


def test_each_class_is_made_from_the_other():
  """By the generator that makes it, from images that are of the other."""
  model = cyclegan.build(SPEC, classes=(3, 1), **SMALL)
  assert model.origins == ((1, 3), (3, 1))
  assert origins.made(model, 4) == (1, 3)
  labels = np.arange(12, dtype=np.int32) % 4
  train = types.Split(_images(SPEC, 12), labels, np.arange(12))
  state, asked = _state(model), np.int32([1, 3, 3, 1, 1])
  variables = model.variables(state)
  images, starts = quick.jit(origins.sampler(model, train, 4))(
      variables, KEY, asked)
  assert labels[starts].tolist() == [3, 1, 1, 3, 3]
  g = quick.jit(cyclegan.Generator(4, 1, False, F32).apply)
  given = pixels.to_float(train.images[starts])
  for i, name in enumerate(('to_b', 'to_a', 'to_a', 'to_b', 'to_b')):
    want = g({'params': variables['params'][name]}, given)[i]
    np.testing.assert_allclose(images[i], want, atol=1e-5)
  assert np.abs(images[0] - g({'params': variables['params']['to_a']},
                              given)[0]).max() > 0.1
  # The key has no part in what becomes of an image.
  a, b = (quick.jit(model.sample)(variables, jax.random.key(k), asked, given)
          for k in range(2))
  np.testing.assert_array_equal(a, b)


# ------------------------------------------------------------------- options
def _shown(monkeypatch, spec, images, **given):
  """The real images float [2, B, H, W, C] that a step sees."""
  def seen(to_a, to_b, of_a, of_b, a, b, weights):
    return 0 * sum(jnp.sum(of(x)) for of in (to_a, to_b) for x in (a, b)), (
        (a, b), {'seen': jnp.stack([a, b])})
  monkeypatch.setattr(cyclegan, 'g_loss', seen)
  model = cyclegan.build(spec, **SMALL, **given)
  batch = {'image': images[None],
           'label': np.zeros((1, *images.shape[:2]), np.int32)}
  # Nothing else of the step is asked for, nor compiled.
  return np.asarray(quick.jit(lambda: model.step(
      model.init(KEY), batch, KEY)[1]['seen'])())


def test_images_are_seen_as_they_are_or_mirrored(monkeypatch):
  spec = types.ImageSpec(8, 12, 3, 2)
  images = _images(spec, 32).reshape(2, 16, *spec[:3])
  want = np.float32(images) / 127.5 - 1
  seen = _shown(monkeypatch, spec, images)
  np.testing.assert_allclose(seen, want, atol=1e-6)
  seen = _shown(monkeypatch, spec, images, mirror=True)
  as_is, turned = (np.isclose(seen, x, atol=1e-6).all((2, 3, 4))
                   for x in (want, want[:, :, :, ::-1]))
  assert (as_is ^ turned).all() and 8 < turned.sum() < 24
  assert not np.array_equal(*turned)  # Each class by draws of its own.


def test_jitter_cuts_a_part_of_the_enlarged_image(monkeypatch):
  """Of 10x15 pixels that Pillow makes of 8x12."""
  spec = types.ImageSpec(8, 12, 3, 2)
  # No overshoot that an edge of the range would cut.
  images = _images(spec, 32) // 2 + 64
  seen = _shown(monkeypatch, spec, images.reshape(2, 16, *spec[:3]),
                jitter=0.25).reshape(images.shape)
  found = []
  for image, part in zip(images, seen, strict=True):
    large = np.stack([np.asarray(Image.fromarray(np.float32(x)).resize(
        (15, 10), Image.Resampling.BICUBIC)) for x in np.moveaxis(
            image, -1, 0)], -1) / 127.5 - 1
    off = {(i, j): np.abs(part - large[i:i + 8, j:j + 12]).max()
           for i in range(3) for j in range(4)}
    found.append(min(off, key=off.get))
    assert off[found[-1]] < 1e-4
  assert len({i for i, _ in found}) == 3 and len({j for _, j in found}) == 4
  assert found[:16] != found[16:]


def test_gains_and_biases_of_an_affine_norm():
  net = cyclegan.Generator(64, 1, True, F32)
  x = np.float32(np.random.default_rng(0).uniform(-1, 1, (1, 8, 8, 3)))
  params = quick.jit(net.init)(KEY, x)['params']
  norms = {k: v for k, v in params.items() if k.endswith('_norm')}
  gains = np.concatenate([v['scale'] for v in norms.values()])
  assert len(norms) == 7 and abs(gains.std() - 0.02) < 0.002
  assert abs(gains.mean()) < 0.003
  assert not any(v['bias'].any() for v in norms.values())
  assert [k for k, v in params.items() if k not in norms
          and 'bias' in v] == ['image']
  # With gains of 1 it is what the norm without them is.
  plain = cyclegan.Generator(64, 1, False, F32)
  bare = {k: {'bias': np.zeros(v['kernel'].shape[-1:], np.float32)} | v
          for k, v in params.items() if k not in norms}
  params |= {k: v | {'scale': np.ones_like(v['scale'])}
             for k, v in norms.items()}
  a, b = quick.jit(lambda: (net.apply({'params': params}, x),
                            plain.apply({'params': bare}, x)))()
  np.testing.assert_allclose(a, b, atol=1e-5)


def test_weights_start_as_published():
  model = cyclegan.build(types.ImageSpec(8, 8, 3, 2), g_width=16, d_width=16,
                         blocks=1)
  state = quick.jit(model.init)(KEY)
  first = {}
  for path, x in jax.tree.leaves_with_path((state.g.params, state.d.params)):
    *_, name = path
    if name.key == 'bias':
      assert not x.any()
      continue
    assert abs(x.std() - 0.02) < 4 * 0.02 / np.sqrt(2 * x.size)
    first.setdefault(x.shape, []).append(x)
  for several in first.values():  # No two are drawn alike.
    assert len(np.unique(np.stack(several)[:, 0, 0, 0, 0])) == len(several)


@pytest.mark.parametrize('size, given, line', [
    ((7, 9, 3, 2), {}, 'model: cyclegan needs images of at least 8x8 pixels; '
     'the data is 7x9'),
    ((32, 32, 3, 1), {}, 'model: cyclegan goes from one class to another; the '
     'data has 1, expected two at least.'),
    ((32, 32, 3, 4), {'classes': (1, 1)}, 'classes: (1, 1); expected two '
     'different classes by their numbers, 0 to 3.'),
    ((32, 32, 3, 4), {'classes': (0, 4)}, 'classes: (0, 4); expected two'),
    ((32, 32, 3, 4), {'classes': (0, 1, 2)}, 'classes: (0, 1, 2); expected'),
    ((32, 32, 3, 4), {'classes': ('cow', 'horse')}, "classes: ('cow', 'horse')"
     '; expected two'),
    ((32, 32, 3, 4), {'classes': (True, 0)}, 'classes: (True, 0); expected'),
    ((32, 32, 3, 4), {'d_layers': 4}, 'd_layers: 4; of 32x32 pixels no scores '
     'are left, expected 3 at most, or larger images, see config.data.resize'),
    ((32, 32, 3, 4), {'norm': 'batch'}, "norm: 'batch'; expected one of"),
], ids=str)
def test_values_that_cannot_be_are_one_line(size, given, line):
  with pytest.raises(errors.InputError, match=rf'^x\.{re.escape(line)}') as e:
    registry.build('generators', 'cyclegan', given, 'x', types.ImageSpec(*size))
  assert '\n' not in str(e.value)


@pytest.mark.slow
def test_boots_become_sandals_and_sandals_boots(garments):
  """By the nearer of the two mean images, of images that were not learned.

  Of real ones 91 %; untouched, 9 % would pass for the other.
  """
  pair, train, test = (5, 9), garments.train, garments.test
  model = cyclegan.build(types.ImageSpec(28, 28, 1, 10), classes=pair,
                         steps=300, g_width=16, d_width=32, blocks=3, lr=4e-4)
  feed = model.feed(train.labels, garments.class_names, 4, 0)
  state = jax.jit(model.init)(KEY)
  step = jax.jit(model.step, donate_argnums=0)
  for i in range(300):
    state, _ = step(state, {'image': train.images[feed(i)],
                            'label': train.labels[feed(i)]}, KEY)
  means = [train.images[train.labels == k].mean(0) / 127.5 - 1 for k in pair]
  def as_first(images):
    a, b = (np.square(images - mean).sum((1, 2, 3)) for mean in means)
    return (a < b).mean()
  for k, to in pair, pair[::-1]:
    real = pixels.to_float(test.images[test.labels == k])
    drawn = jax.jit(model.sample)(
        model.variables(state), KEY, np.full(len(real), to, np.int32), real)
    share = [abs(as_first(x) - (label == 9))
             for x, label in ((np.asarray(real), k), (np.asarray(drawn), to))]
    assert share[0] > 0.85 and share[1] > 0.6
