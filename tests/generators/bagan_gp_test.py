"""BAGAN-GP: its published sizes, its losses by hand, steps beside a twin's."""
import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxaug.core import errors, registry, types
from jaxaug.data import pixels
from jaxaug.generators import bagan_gp
from jaxaug.generators.gan import pretraining
from tests import quick
from tests.torch_twins import pretrained_steps as twin_steps
from tests.torch_twins.pretrained_steps import KEY, SPEC

WIDE = types.ImageSpec(16, 24, 3, 4)
SMALL = dict(z_dim=6, widths=(8, 12), embed_dim=7, hidden=9)
RATE = 1e-3
RATES = dict.fromkeys(('autoencoder_lr', 'g_lr', 'd_lr'), RATE)
# As the twin calls them.
TWINS = {'z_dim': 6, 'widths': (8, 12), 'label_dim': 7, 'hidden': 9}


def test_as_many_parameters_as_the_layers_have():
  """At 64 pixels, written once more layer by layer."""
  model = bagan_gp.build(types.ImageSpec(64, 64, 3, 10))
  def convs(taps, *widths):
    return sum(taps * a * b + b
               for a, b in zip(widths, widths[1:], strict=False))
  trunk = convs(16, 3, 64, 128, 128, 256)
  # G's biases are those of what it gives; batch norm has two of each.
  up = convs(16, 256, 128, 128, 64, 3) + 2 * (128 + 128 + 64)
  assert model.parameters(jax.eval_shape(model.init, KEY)) == {
      'encoder': trunk + convs(1, 4096, 128),
      'g': 10 * 128 + convs(1, 128, 4096) + up,
      'd': trunk + 10 * 512 + convs(1, 512, 4096) + convs(1, 4096, 512, 1)}


@pytest.mark.parametrize('size, given, maps', [
    ((64, 64, 3), None, [(32, 32, 64), (16, 16, 128), (8, 8, 128),
                         (4, 4, 256)]),
    ((32, 32, 3), None, [(16, 16, 64), (8, 8, 128), (4, 4, 256)]),
    ((28, 28, 1), None, [(14, 14, 64), (7, 7, 256)]),
    ((12, 24, 1), None, [(6, 12, 64)]),
    ((24, 8, 3), (5, 6, 7), [(12, 4, 5), (6, 2, 6), (3, 1, 7)])], ids=str)
def test_layers_have_the_published_shapes(size, given, maps):
  found = []
  def look(call, args, kwargs, context):
    out = call(*args, **kwargs)
    if isinstance(context.module, (nn.Conv, nn.Dense)):
      found.append(out.shape[1:])
    return out
  model = bagan_gp.build(types.ImageSpec(*size, 5), widths=given)
  with nn.intercept_methods(look):
    jax.eval_shape(model.init, KEY)
  flat = int(np.prod(maps[-1]))
  up = [(flat,), *maps[-2::-1], size]
  assert sorted(found) == sorted(
      [*maps, (128,), *up, *maps, (flat,), (512,), (1,)])


def _state(model, seed=0):
  """A state whose biases, gains and averages are not those of the start."""
  rng = np.random.default_rng(seed)
  start = quick.jit(model.init)(KEY)
  def other(net):
    def near(x, mean):
      return np.float32(mean + rng.uniform(-0.1, 0.1, x.shape))
    params = {path: near(x, float(path[-1] == 'scale')) if x.ndim == 1 else
              10 * x if path[-1] == 'embedding' else x for path, x in
              flax.traverse_util.flatten_dict(net.params).items()}
    return net._replace(
        params=flax.traverse_util.unflatten_dict(params),
        stats=jax.tree.map(lambda x: near(x, 0.5), net.stats))
  return start._replace(encoder=other(start.encoder), g=other(start.g),
                        d=other(start.d))


def test_weights_start_as_in_the_authors_code():
  """Convolutions normal, dense layers Glorot's, embeddings within 0.05."""
  state = quick.jit(bagan_gp.build(WIDE, widths=(16, 32), hidden=64,
                                   embed_dim=64).init)(KEY)
  for name in ('encoder', 'g', 'd'):
    params = getattr(state, name).params
    for path, x in flax.traverse_util.flatten_dict(params).items():
      if x.ndim == 1:
        np.testing.assert_array_equal(x, float(path[-1] == 'scale'))
        continue
      std = {'conv': 0.02, 'up': 0.02, 'image': 0.02, 'embed': 0.05 / 3**0.5,
             }.get(path[0].split('_')[0]) or (2 / sum(x.shape))**0.5
      assert abs(x.std() / std - 1) < 5 / x.size**0.5, path
      if x.ndim == 4:
        assert np.abs(x).max() > 2 * std
      else:
        assert 0.9 < np.abs(x).max() / (3**0.5 * std) <= 1.001, path


# ---- Steps ----

class _Given(nn.Module):
  """(z, labels) -> images of two pixels, 0.25 and -0.75."""

  @nn.compact
  def __call__(self, z, labels, train):
    row = self.param('row', lambda key: jnp.array([0.25, -0.75]))
    return jnp.tile(row, (len(z), 1)).reshape(-1, 1, 2, 1)


class _Linear(nn.Module):
  """(images of two pixels, labels) -> 3 x + 4 y + 2 * label - 1.

  Its gradient is (3, 4), whatever the place.
  """

  def setup(self):
    self.weights = self.param('weights', lambda key: jnp.array([3.0, 4.0]))
    self.of_label = self.param('of_label', lambda key: jnp.float32(2))

  def __call__(self, images, labels, train):
    return self.judge(self.features(images), labels)

  def features(self, images):
    return images.reshape(-1, 2) @ self.weights

  def judge(self, features, labels):
    return features + self.of_label * labels - 1

  three = bagan_gp.Discriminator.three


@pytest.mark.parametrize('d_steps', [1, 2])
def test_losses_by_hand(d_steps):
  import optax
  sgd = optax.sgd(0.01)
  spec = types.ImageSpec(1, 2, 1, 2)
  rule = pretraining.Rule(
      spec, 4, None, _Given(), _Linear(), 0,
      pretraining.Optimizers(sgd, sgd, sgd), None,
      lambda ema, net, step: {'params': net.params, 'batch_stats': {}})
  # Fakes are asked to be of class 0 or 1, by chance; what they cost hangs on
  # it. With two classes the wrong label is the other.
  draws = bagan_gp.Draws(bagan_gp.WRONG['other'](2), None, 10.0, d_steps)
  g = {'row': jnp.array([0.25, -0.75])}
  d = {'weights': jnp.array([3.0, 4.0]), 'of_label': jnp.float32(2)}
  state = pretraining.State(
      jnp.int32(3), types.Net({}, {}, ()), types.Net(g, {}, sgd.init(g)),
      types.Net(d, {}, sgd.init(d)), {}, {})
  image = np.uint8([[255, 0], [0, 0], [255, 255]])
  labels = np.array([0, 1, 1])
  batch = {'image': image.reshape(1, 3, 1, 2, 1), 'label': labels[None]}
  asked = []
  def fakes(rule, g, count, *keys):
    images, own, stats = drawn(rule, g, count, *keys)
    asked.append(own)
    return images, own, stats
  drawn = bagan_gp._fakes
  with pytest.MonkeyPatch.context() as m:
    m.setattr(bagan_gp, '_fakes', fakes)
    m.setattr(jax.lax, 'scan', twin_steps.unrolled)
    new, logs = bagan_gp.adversarial(rule, draws, state, batch, KEY)
  assert len(asked) == d_steps + 1

  def score(x, labels, w):
    return x @ w[:2] + w[2] * np.float64(labels) - 1
  def softplus(x):
    return np.log1p(np.exp(x))
  real, row, w = image / 127.5 - 1, np.array([[0.25, -0.75]]), np.array(
      [3.0, 4.0, 2.0])
  def parts(w, asked):
    return (softplus(-score(real, labels, w)).mean()
            + softplus(score(row, asked, w)).mean(),
            softplus(score(real, 1 - labels, w)).mean(),
            (np.hypot(*w[:2]) - 1)**2)  # At first (5 - 1)^2.
  def total(w, asked):
    players, wrong, penalty = parts(w, asked)
    return players + wrong + 10 * penalty
  for k in range(d_steps):
    players, wrong, penalty = parts(w, asked[k])
    want = players + wrong + 10 * penalty
    w = w - 0.01 * np.array([
        (total(w + 1e-6 * unit, asked[k]) - total(w - 1e-6 * unit, asked[k]))
        / 2e-6 for unit in np.eye(3)])
  np.testing.assert_allclose(logs['d_loss'], want, rtol=1e-6)
  np.testing.assert_allclose(logs['d_wrong_loss'], wrong, rtol=1e-5)
  np.testing.assert_allclose(logs['d_penalty'], penalty, rtol=1e-5)
  assert d_steps > 1 or penalty == 16
  np.testing.assert_allclose(new.d.params['weights'], w[:2], rtol=1e-5)
  np.testing.assert_allclose(new.d.params['of_label'], w[2], rtol=1e-5)
  np.testing.assert_allclose(
      logs['g_loss'], softplus(-score(row, asked[-1], w)).mean(), rtol=1e-5)
  assert new.step == 4


def test_wrong_labels_are_of_other_classes_or_of_any():
  labels = jnp.tile(jnp.arange(4), 500)
  other = bagan_gp.WRONG['other'](4)(KEY, labels)
  away = np.bincount((other - labels) % 4, minlength=4)
  assert away[0] == 0 and stats.chisquare(away[1:]).pvalue > 1e-3
  some = bagan_gp.WRONG['any'](4)(KEY, labels)
  assert stats.chisquare(np.bincount((some - labels) % 4)).pvalue > 1e-3
  for drawn in other, some:
    assert drawn.min() == 0 and drawn.max() == 3


def test_the_penalty_looks_between_images_or_beyond():
  """From a real image at 0 to a fake one at 1."""
  from jaxaug.generators.gan import penalties
  real, fake = np.zeros((2000, 1, 1, 1)), np.ones((2000, 1, 1, 1))
  for name, known in ('uniform', stats.uniform), ('normal', stats.norm):
    seen = []
    def score(images, seen=seen):
      jax.debug.callback(lambda x: seen.append(np.ravel(x)), images)
      return images.sum((1, 2, 3))
    penalties.gradient_penalty(KEY, score, real, fake,
                               draw=bagan_gp.INTERPOLATIONS[name])
    jax.effects_barrier()
    assert stats.kstest(seen[0], known.cdf).pvalue > 1e-3


def _twins(state):
  twin, layout = twin_steps.twins()
  return [layout.load(getattr(twin, f'Gp{kind}')(SPEC, TWINS), net.params,
                      net.stats).double() for kind, net in (
      ('Encoder', state.encoder), ('Generator', state.g),
      ('Discriminator', state.d))]


def test_networks_are_the_twins():
  state = _state(bagan_gp.build(SPEC, **SMALL))
  encoder, g, d = _twins(state)
  rng = np.random.default_rng(0)
  x = np.float32(rng.uniform(-1, 1, (4, *SPEC[:3])))
  z, labels = np.float32(rng.normal(size=(4, 6))), np.array([0, 2, 1, 1])
  as_torch = twin_steps.as_torch
  for net, theirs, module, given in (
      (state.encoder, encoder, bagan_gp.Encoder(6, (8, 12), jnp.float32),
       (x,)),
      (state.g, g, bagan_gp.Generator(SPEC, (8, 12), jnp.float32),
       (z, labels)),
      (state.d, d, bagan_gp.Discriminator(SPEC, (8, 12), 7, 9, jnp.float32),
       (x, labels))):
    variables = {'params': net.params, 'batch_stats': net.stats}
    for train in (False, True):
      got = quick.jit(lambda variables, module=module, given=given, train=train:
                      module.apply(variables, *given, train=train,
                                   mutable=['batch_stats'])[0])(variables)
      want = theirs.train(train)(*map(as_torch, given)).detach().numpy()
      want = np.moveaxis(want, 1, -1) if want.ndim == 4 else want
      assert np.std(want) > 1e-3
      np.testing.assert_allclose(got, want, atol=2e-6)


@pytest.mark.parametrize('given', [
    {}, {'interpolation': 'normal', 'wrong_labels': 'any',
         'share_trunk': True}], ids=['paper', 'code'])
def test_a_step_of_each_phase_is_the_twins(monkeypatch, train, given):
  """A step of the autoencoder; two of D, one of G."""
  torch = pytest.importorskip('torch')
  twin, _ = twin_steps.twins()
  as_torch = twin_steps.as_torch
  images, labels = twin_steps.garments(train)
  model = bagan_gp.build(SPEC, **SMALL, **RATES, d_steps=2, **given)
  state = _state(model)
  encoder, decoder, d = _twins(state)
  g = _twins(state)[1]
  def adam(*nets):
    return torch.optim.Adam([p for net in nets for p in net.parameters()],
                            RATE, (0.5, 0.9))
  rows = np.random.default_rng(0).permutation(len(labels))[:7]
  batch = {'image': images[rows][None], 'label': labels[rows][None]}
  real, own = as_torch(pixels.to_float(images[rows])), as_torch(labels[rows])

  new, logs, draws = quick.steady(twin_steps.heard(monkeypatch, model.step))(
      state, batch, KEY)
  assert not draws
  opt = adam(encoder, decoder)
  loss = twin.gp_autoencoder_step(encoder, decoder, opt, real, own)
  np.testing.assert_allclose(logs['ae_loss'], loss, rtol=1e-5)
  before_norms = {('up_0', 'bias')}
  assert not twin_steps.check(encoder, opt, new.encoder, RATE)
  assert twin_steps.check(decoder, opt, new.g, RATE) == before_norms

  phase, = model.phases
  state = quick.jit(phase.begin)(new, images, labels)
  assert not any(np.any(x) for x in jax.tree.leaves(state.g.opt))
  jax.tree.map(np.testing.assert_array_equal, state.ema, {
      'params': new.g.params, 'batch_stats': new.g.stats})
  twin.gp_begin(g, d, encoder, decoder, given.get('share_trunk', False))
  # As exactly as ours: rounding of the first phase is not what is tried here.
  for net, mine in (g, state.g), (d, state.d):
    twin_steps.twins()[1].load(net, mine.params, mine.stats)
  if given:
    for name in 'conv_0', 'conv_1':
      jax.tree.map(np.testing.assert_array_equal, state.d.params[name],
                   state.encoder.params[name])

  new, logs, draws = quick.steady(twin_steps.heard(monkeypatch, phase.step))(
      state, batch, KEY)
  normals, whole = list(draws['normal']), list(draws['randint'])
  shares = draws.get('uniform')
  d_draws = []
  for _ in range(2):
    fake_labels, z, wrong = whole.pop(0), normals.pop(0), whole.pop(0)
    if not given:  # What was drawn is how far from the own label.
      wrong = (labels[rows] + wrong) % 3
    alpha = normals.pop(0) if given else 1 - shares.pop(0)
    d_draws.append(dict(
        real=real, labels=own, wrong=as_torch(wrong), z=as_torch(z).double(),
        fake_labels=as_torch(fake_labels),
        alpha=as_torch(np.float64(alpha)).ravel()))
  g_labels, = whole
  g_z, = normals
  assert not shares
  opts = adam(g), adam(d)
  want = twin.gp_step(g, d, *opts, d_draws, as_torch(g_z).double(),
                      as_torch(g_labels))
  np.testing.assert_allclose(logs['g_loss'], want['g_loss'], rtol=1e-5)
  for name, key in ('d_loss', 'd_loss'), ('d_penalty', 'penalty'):
    np.testing.assert_allclose(logs[name], want[key][-1], rtol=1e-5)
  assert twin_steps.check(g, opts[0], new.g, RATE) == before_norms
  twin_steps.check(d, opts[1], new.d, RATE)
  assert int(new.step) == 2


def test_samples_are_of_normal_noise_by_the_averages():
  model = bagan_gp.build(SPEC, **SMALL)
  state = _state(model)
  variables = {'params': state.g.params, 'batch_stats': state.g.stats}
  labels = np.int32([0, 1, 2, 1])
  images = quick.jit(model.sample)(variables, KEY, labels)
  z = jax.random.normal(KEY, (4, 6))
  decode = quick.jit(model.decode)
  np.testing.assert_array_equal(images, decode(variables, z, labels))
  # One by one as all at once: not by their batch's statistics.
  np.testing.assert_allclose(images[:1], decode(variables, z[:1], labels[:1]),
                             atol=1e-6)
  assert np.abs(decode(variables, z, labels[::-1]) - images).max() > 1e-3


# ---- At the door ----

@pytest.mark.parametrize('spec, given, line', [
    (types.ImageSpec(28, 28, 1, 10), {'widths': (8, 8, 8)}, 'model: bagan_gp '
     'halves 28x28 images 3 times, by its widths; expected a size divisible by '
     '8, see config.data.resize.'),
    (types.ImageSpec(30, 30, 1, 10), {}, 'model: bagan_gp halves 30x30 images '
     '2 times, by its widths; expected a size divisible by 4'),
    (types.ImageSpec(4, 4, 1, 10), {}, 'model: bagan_gp needs images of at '
     'least 6x6 pixels'),
    (types.ImageSpec(28, 28, 1, 1), {}, 'model: bagan_gp learns from wrong '
     'labels, and the data has one class; expected two or more.'),
    (SPEC, {'interpolation': 'norm'}, "interpolation: 'norm'; expected one of "
     'uniform, normal'),
    (SPEC, {'steps': 9, 'autoencoder_steps': 10}, 'autoencoder_steps: 10; '
     'expected fewer than the 9 steps')], ids=str)
def test_values_that_cannot_be_are_one_line(spec, given, line):
  with pytest.raises(errors.InputError) as e:
    registry.build('generators', 'bagan_gp', given, 'x', spec)
  assert str(e.value).startswith(f'x.{line}') and '\n' not in str(e.value)


def test_a_class_without_images_is_refused_by_name():
  model = bagan_gp.build(WIDE, **SMALL)
  labels = np.array([0, 1, 3] * 3)
  with pytest.raises(errors.InputError, match="^model: training images of "
                     "class 'c': 0; expected at least 1 of each class"):
    model.feed(labels, tuple('abcd'), 4, 0)
  assert model.feed(np.array([2, 0, 1, 3]), tuple('abcd'), 4, 0)(0).shape == (
      1, 4)


@pytest.mark.parametrize('steps, given, first', [
    (13, None, 3), (130, None, 30), (2, None, 1), (13, 12, 12)])
def test_the_autoencoder_has_3_steps_of_13(steps, given, first):
  model = bagan_gp.build(WIDE, **SMALL, steps=steps, autoencoder_steps=given)
  assert [phase.first for phase in model.phases] == [first]
