"""DAGAN: its published sizes, pairs, norms, and its step beside PyTorch's."""
import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.core import errors, registry, types
from jaxaug.data.datasets import fashion_mnist_small
from jaxaug.generators import dagan
from jaxaug.generators.gan import penalties, regularisation
from tests import quick

FACE = types.ImageSpec(64, 64, 3, 4)
LETTER = types.ImageSpec(28, 28, 1, 4)
# Halves to 7x5, 4x3 and 2x2: twice one side, a pixel less of the other.
ODD = types.ImageSpec(13, 10, 3, 2)
KEY = jax.random.key(0)
SMALL = dict(z_dim=5, g_widths=(4, 5), d_widths=(4, 5), g_inner=1, d_inner=1,
             d_hidden=6)


@pytest.fixture
def twin():
  pytest.importorskip('torch')
  from tests.torch_twins import dagan as torch_dagan
  return torch_dagan


@pytest.fixture
def layout():
  pytest.importorskip('torch')
  from tests.torch_twins import layout
  return layout


def _flat(tree):
  return flax.traverse_util.flatten_dict(tree, sep='/')


def _hyper(given):
  """The twin's names for both networks; it has the map that nothing uses."""
  widths = given['g_widths']
  assert widths == given['d_widths']
  return dict(z_dim=given['z_dim'], widths=widths, g_inner=given['g_inner'],
              d_inner=given['d_inner'], hidden=given['d_hidden'],
              dropout=given.get('dropout', 0.5), noise_maps=len(widths) - 1)


def _moved(tree, seed):
  """Values about those of a new state's, none of them at its start."""
  rng = np.random.default_rng(seed)
  def move(path, x):
    noise = np.float32(rng.uniform(-1, 1, x.shape))
    kind = path.rpartition('/')[2]
    if kind == 'seen':
      return np.float32(0.4)
    if kind == 'std':
      return 0.4 * (1 + 0.5 * noise)
    return np.asarray(x) + (0.2 if x.ndim == 1 else 0.02) * noise
  flat = _flat(tree)
  return flax.traverse_util.unflatten_dict(
      {path: move(path, x) for path, x in flat.items()}, sep='/')


def _start(model):
  """A state whose every number counts."""
  state = quick.jit(model.init)(KEY)
  g, d = (net._replace(params=_moved(net.params, seed),
                       stats=_moved(net.stats, seed + 2))
          for seed, net in enumerate((state.g, state.d)))
  return state._replace(g=g, d=d)


def _images(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return np.float32(rng.uniform(-1, 1, shape))


# ---- the networks ----

@pytest.mark.parametrize('spec, inner, g, d', [
    (FACE, (3, 5), 10_707_735, 7_078_987), (FACE, (1, 1), 3_885_975, 1_398_091),
    (LETTER, (3, 5), 10_546_217, None)], ids=str)
def test_as_many_parameters_as_published(spec, inner, g, d):
  model = dagan.build(spec, g_inner=inner[0], d_inner=inner[1])
  count = model.parameters(jax.eval_shape(model.init, KEY))
  # The code has weights of a fourth map of the noise, which nothing reads.
  unused = (100 + 1) * (spec.height // 2) * (spec.width // 2)
  assert count['g'] + unused == g
  assert d in (count['d'], None)


def test_layers_see_what_the_codes_see():
  state = jax.eval_shape(dagan.build(FACE).init, KEY)
  kernels = {path.removesuffix('/kernel'): x.shape
             for path, x in _flat(state.g.params).items()
             if path.endswith('kernel') and x.ndim == 4}
  assert len(kernels) == 50 and {x[:2] for x in kernels.values()} == {(3, 3)}
  for name, seen in (
      ('down_0', [67, 128, 192, 256]), ('down_1', [128, 192, 320, 448]),
      ('down_2', [256, 256, 384, 512]), ('up_0', [136, 264, 392, 520]),
      ('up_1', [388, 516, 644, 644]), ('up_2', [322, 386, 450, 386]),
      ('up_3', [192, 256, 320, 320]), ('up_4', [131, 195, 259])):
    inner = [kernels[f'{name}_conv_{i}'][2] for i in range(3)]
    last = kernels.get(f'{name}_conv_3', kernels.get(name))
    assert inner + ([last[2]] if last else []) == seen, name
  assert [kernels[f'tail_{i}'] for i in range(2)] == 2 * [(3, 3, 64, 64)]
  assert kernels['stem'] == (3, 3, 3, 64) and kernels['image'][2:] == (64, 3)
  noises = [state.g.params[f'noise_{i}']['bias'].size for i in range(3)]
  assert noises == [4 * 4 * 8, 8 * 8 * 4, 16 * 16 * 2]
  assert state.d.params['stem']['kernel'].shape == (3, 3, 6, 64)
  assert state.d.params['score']['kernel'].shape == (1024 + 2048, 1)


@pytest.mark.parametrize('spec', [ODD, types.ImageSpec(16, 8, 1, 2)], ids=str)
def test_networks_are_those_of_torch(twin, layout, spec):
  torch = pytest.importorskip('torch')
  widths = (4, 5, 6)
  given = dict(SMALL, g_widths=widths, d_widths=widths, g_inner=2, d_inner=2)
  state = _start(dagan.build(spec, **given))
  x, other = _images(2, 3, *spec[:3])
  z, labels = _images(3, 5, seed=1), np.zeros(3, np.int32)
  g = dagan.Generator(widths, 2, 0.99, 0.0, jnp.float32)
  d = dagan.Discriminator(widths, 2, 6, 0.0, jnp.float32)
  def generate(train):
    out, new = g.apply({'params': state.g.params,
                        'batch_stats': state.g.stats}, z, labels, x,
                       train=train, mutable=['batch_stats'])
    return out, new['batch_stats']
  trained, applied, scores = quick.jit(lambda: (
      generate(True), generate(False)[0],
      d.apply({'params': state.d.params}, other, labels, x, train=True)))()
  hyper = _hyper(given)
  theirs_g = layout.load(twin.Generator(spec, hyper), *state.g[:2]).double()
  theirs_d = layout.load(twin.Discriminator(spec, hyper), *state.d[:2]).double()
  x, other = (torch.tensor(v).double().permute(0, 3, 1, 2) for v in (x, other))
  z = torch.tensor(z).double()
  for train, got in (False, applied), (True, trained[0]):
    want = theirs_g.train(train)(x, z).permute(0, 2, 3, 1).detach()
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.abs(got).mean() > 0.05
  for path, want, got in layout.pairs(theirs_g, trained[1]):
    np.testing.assert_allclose(got, want, atol=1e-5, err_msg=str(path))
  np.testing.assert_allclose(scores, theirs_d(other, x).detach(), atol=1e-5)


@pytest.mark.parametrize('decay', [0.99, 0.7])
def test_batch_renorm_is_its_formula_and_so_is_its_gradient(decay):
  rng = np.random.default_rng(0)
  norm, spread = dagan.BatchRenorm(decay), 1e-3
  batches = rng.normal(1, 2, (3, 4, 2, 3, 2))
  pull = rng.normal(size=batches.shape[1:])
  variables = norm.init(KEY, np.float32(batches[0]), False)
  # Nothing has been seen: values as they are.
  np.testing.assert_array_equal(
      norm.apply(variables, np.float32(batches[0]), False),
      np.float32(batches[0]))
  def moments(x):
    return x.mean((0, 1, 2)), np.sqrt(x.var((0, 1, 2)) + spread)
  apply = quick.jit(lambda stats, x: jax.value_and_grad(
      lambda x: (lambda out, new: ((out * pull).sum(), (out, new)))(
          *norm.apply(variables | stats, x, True, mutable=['batch_stats'])),
      has_aux=True)(x))
  stats, seen = {'batch_stats': variables['batch_stats']}, []
  for x in batches:
    seen.append(moments(x))
    (_, (out, stats)), slope = apply(stats, np.float32(x))
    # By an average of all seen so far, the newest counting what is left of 1.
    factors = [(1 - decay) * decay ** (len(seen) - 2 - i)
               for i in range(len(seen) - 1)]
    factors.append(1 - sum(factors))
    mean, std = (sum(f * m[k] for f, m in zip(factors, seen, strict=True))
                 for k in range(2))
    np.testing.assert_allclose(out, (x - mean) / std, atol=1e-5)
    # The gradient is that of the batch's own norm, with constants.
    m, s = seen[-1]
    r, d = s / std, (m - mean) / std
    def value(x, r=r, d=d):
      m, s = moments(x)
      return (((x - m) / s * r + d) * pull).sum()
    want = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
      step = np.zeros(x.shape)
      step[at] = 1e-5
      want[at] = (value(x + step) - value(x - step)) / 2e-5
    np.testing.assert_allclose(slope, want, atol=1e-5)
  out = norm.apply(variables | stats, np.float32(batches[0]), False)
  factors = decay ** np.arange(2, -1, -1) / (1 + decay + decay**2)
  mean, std = (sum(f * m[k] for f, m in zip(factors, seen, strict=True))
               for k in range(2))
  np.testing.assert_allclose(out, (batches[0] - mean) / std, atol=1e-5)
  np.testing.assert_allclose(stats['batch_stats']['seen'], 1 - decay**3,
                             rtol=1e-5)


def test_a_score_is_of_its_own_pair_and_all_of_it():
  d = dagan.Discriminator((4, 5), 1, 6, 0.0, jnp.float32)
  x, given = _images(2, 4, 12, 12, 1)
  labels = np.zeros(4, np.int32)
  params = quick.jit(functools.partial(d.init, train=False))(
      KEY, x, labels, given)
  score = quick.jit(lambda x, given, labels: d.apply(params, x, labels, given,
                                                     train=True))
  plain = score(x, given, labels)
  for other in (score(x.copy(), np.concatenate([given[:1], -given[1:]]),
                      labels + 1),
                score(np.concatenate([x[:1], -x[1:]]), given, labels)):
    np.testing.assert_allclose(other[0], plain[0], rtol=1e-5)
    assert (np.abs(other[1:] - plain[1:]) > 1e-4).all()


# ---- the training ----

def _unrolled(body, carry, xs):
  """`jax.lax.scan`, whose body is traced for every x."""
  for i in range(len(jax.tree.leaves(xs)[0])):
    carry, y = body(carry, jax.tree.map(lambda x, i=i: x[i], xs))
  return carry, jax.tree.map(lambda y: y[None], y)


class _Draws:
  """Numbers in place of jax's, kept in the order in which they are asked for.

  normals: noise. uniforms: places between real and fake. masks: of dropout.
  """

  def __init__(self, monkeypatch):
    rng = np.random.default_rng(2)
    self.normals, self.uniforms, self.masks = [], [], []
    def of(kept, draw):
      def numbers(key, *args, shape=None, p=None):
        kept.append(draw(shape or args[0]))
        return jnp.asarray(kept[-1])
      return numbers
    for name, kept, draw in (
        ('normal', self.normals, lambda s: np.float32(rng.normal(size=s))),
        ('uniform', self.uniforms, lambda s: np.float32(rng.uniform(size=s))),
        ('bernoulli', self.masks, lambda s: rng.random(s) < 0.5)):
      monkeypatch.setattr(jax.random, name, of(kept, draw))
    monkeypatch.setattr(jax.lax, 'scan', _unrolled)


def test_a_step_of_both_players_is_that_of_torch(monkeypatch, twin, layout):
  """Two updates of D and one of G, each with its pairs, noise and dropout."""
  torch = pytest.importorskip('torch')
  spec, size = types.ImageSpec(9, 8, 2, 3), 4
  model = dagan.build(spec, **SMALL, d_steps=2)
  state = _start(model)
  rng = np.random.default_rng(3)
  batch = {'image': rng.integers(0, 256, (3, 2, size, *spec[:3]), np.uint8),
           'label': np.zeros((3, 2, size), np.int32)}
  draws = _Draws(monkeypatch)
  new, logs = quick.jit(model.step)(state, batch, KEY)

  hyper = _hyper(SMALL)
  g = layout.load(twin.Generator(spec, hyper), *state.g[:2]).double()
  d = layout.load(twin.Discriminator(spec, hyper), *state.d[:2]).double()
  def double(x):
    x = torch.tensor(np.float64(x))
    return x.permute(0, 3, 1, 2) if x.ndim == 4 else x
  masks = iter(draws.masks)
  def take(net):
    return [next(masks) for _ in net.mask_shapes]
  d_draws = []
  for i, images in enumerate(batch['image']):
    given = {'x_i': double(images[0] / 127.5 - 1),
             'z': double(draws.normals[i]),
             'g_masks': list(map(double, take(g)))}
    if i < 2:
      both, between = take(d), take(d)
      real, fake = ([double(x) for x in half] for half in zip(
          *(np.split(x, 2) for x in both), strict=True))
      # Our share is that of the real image.
      d_draws.append(given | {
          'x_j': double(images[1] / 127.5 - 1),
          'alpha': 1 - double(draws.uniforms[i].ravel()),
          'd_masks': (fake, real, list(map(double, between)))})
    else:
      g_draw = given | {'d_masks': list(map(double, take(d)))}
  assert next(masks, None) is None
  assert [len(draws.normals), len(draws.uniforms)] == [3, 2]
  adams = [torch.optim.Adam(net.parameters(), 1e-4, (0.0, 0.9))
           for net in (g, d)]
  want = twin.step(g, d, *adams, d_draws, g_draw)
  np.testing.assert_allclose(logs['d_loss'], want['d_loss'][-1], rtol=1e-5)
  np.testing.assert_allclose(logs['g_loss'], want['g_loss'], atol=1e-5)
  for net, mine in (g, new.g), (d, new.d):
    for path, weight, value in layout.pairs(net, mine.opt[0].mu):
      grad = weight.grad.numpy()
      np.testing.assert_allclose(
          value, grad, err_msg=str(path),
          atol=2e-5 * max(0.1, np.abs(grad).max()))
    shares = []
    for path, weight, value in layout.pairs(net, mine.params):
      # Adam goes by the gradient's sign, which may be rounding's.
      known = weight.grad.numpy()
      known = np.abs(known) > max(1e-3 * np.abs(known).max(), 1e-7)
      np.testing.assert_allclose(value[known], weight.detach().numpy()[known],
                                 atol=2e-6, err_msg=str(path))
      shares.append(known.ravel())
    assert np.concatenate(shares).mean() > 0.98
  for path, average, value in layout.pairs(g, new.g.stats):
    np.testing.assert_allclose(value, average, atol=1e-5, err_msg=str(path))
  # Nothing is averaged over the training, by default.
  jax.tree.map(np.testing.assert_array_equal, new.ema, {
      'params': new.g.params, 'batch_stats': new.g.stats})


def test_the_penalty_is_that_of_finite_differences(twin, layout):
  """Of D in float64: a norm for an image, for a pixel or for a column."""
  torch = pytest.importorskip('torch')
  spec, size = types.ImageSpec(7, 6, 2, 2), 3
  net = dagan.Discriminator((4, 5), 1, 6, 0.0, jnp.float32)
  real, fake, given = _images(3, size, *spec[:3])
  labels = np.zeros(size, np.int32)
  params = _moved(quick.jit(functools.partial(net.init, train=False))(
      KEY, real, labels, given)['params'], 0)
  share = np.float64(jax.random.uniform(KEY, (size, 1, 1, 1)))
  between = share * real + (1 - share) * fake
  theirs = layout.load(twin.Discriminator(spec, _hyper(SMALL)), params).double()
  @torch.no_grad()
  def score(x):
    x, c = (torch.tensor(np.float64(v)).permute(0, 3, 1, 2)
            for v in (x, given))
    return theirs(x, c).numpy()
  slopes = np.zeros(between.shape)
  for at in np.ndindex(between.shape[1:]):
    step = np.zeros(between.shape)
    step[(slice(None), *at)] = 1e-5
    slopes[(slice(None), *at)] = (score(between + step)
                                  - score(between - step)) / 2e-5
  got = quick.jit(lambda: {per: penalties.gradient_penalty(
      KEY, lambda x: net.apply({'params': params}, x, labels, given,
                               train=False), real, fake, axes)
                           for per, axes in regularisation.NORMS.items()})()
  want = {per: np.square(np.sqrt(np.square(slopes).sum(axes)) - 1).mean()
          for per, axes in (('image', (1, 2, 3)), ('pixel', 3), ('column', 1))}
  assert got.keys() == want.keys() and len({*want.values()}) == 3
  for per in want:
    np.testing.assert_allclose(got[per], want[per], rtol=1e-4)


# ---- pairs ----

NAMES = 'shirt', 'boot', 'bag', 'coat'


def _unequal():
  """Labels of 4 classes of 2, 40, 7 and 300 images, mixed."""
  labels = np.repeat(np.arange(4), (2, 40, 7, 300))
  return np.random.default_rng(0).permutation(labels).astype(np.int32)


@pytest.mark.parametrize('given, updates', [
    ({}, 6), ({'d_steps': 2}, 3), ({'d_steps': 2, 'fresh_fakes': False}, 2)])
def test_every_update_has_pairs_of_its_own(given, updates):
  labels = _unequal()
  feed = dagan.build(LETTER, **SMALL, **given).feed
  batch = feed(labels, NAMES, 32, 5)
  first = batch(7)
  assert first.shape == (updates, 2, 32) and first.dtype == np.int32
  np.testing.assert_array_equal(labels[first[:, 0]], labels[first[:, 1]])
  # A function of seed and step alone.
  np.testing.assert_array_equal(first, feed(labels, NAMES, 32, 5)(7))
  every = [*batch(6), *first, *batch(8), *feed(labels, NAMES, 32, 6)(7)]
  assert len({x.tobytes() for x in every}) == 4 * updates


@pytest.mark.parametrize('balanced', [True, False])
def test_pairs_are_of_all_classes_alike_or_of_all_images(balanced):
  labels = _unequal()
  batch = dagan.build(LETTER, **SMALL, balanced=balanced).feed(
      labels, NAMES, 500, 0)
  pairs = np.concatenate([batch(i) for i in range(10)]).swapaxes(
      0, 1).reshape(2, -1)
  count = np.bincount(labels)
  share = np.full(4, 0.25) if balanced else count / count.sum()
  n = pairs.shape[1]
  got = np.bincount(labels[pairs[0]], minlength=4) / n
  assert (np.abs(got - share) < 5 * np.sqrt(share * (1 - share) / n)).all()
  # Every image of a class as often, on both sides, each by itself: so often
  # are the two the same.
  want = n * (share / count)[labels]
  for side in pairs:
    seen = np.bincount(side, minlength=len(labels))
    assert (np.abs(seen - want) < 6 * np.sqrt(want) + 1).all()
  for k in range(4):
    own = pairs[:, labels[pairs[0]] == k]
    p = 1 / count[k]
    assert abs((own[0] == own[1]).mean() - p) <= 5 * np.sqrt(
        p * (1 - p) / own.shape[1])


@pytest.mark.parametrize('labels, line', [
    ([0, 0, 1, 2, 2, 3, 3], "'boot' has 1 in"),
    ([0, 0, 1, 1, 2, 2], "'coat' has 0 in")])
def test_a_class_without_pairs_is_refused_by_name(labels, line):
  feed = dagan.build(LETTER, **SMALL).feed
  with pytest.raises(errors.InputError, match=(
      r'^model: dagan learns from pairs of images of a class; ' + line)) as e:
    feed(np.array(labels), NAMES, 2, 0)
  assert '\n' not in str(e.value)


# ---- samples ----

def test_a_sample_starts_from_its_given_image_and_without_dropout():
  train = fashion_mnist_small.load().train
  model = dagan.build(LETTER, **dict(SMALL, dropout=0.9))
  assert model.origins == ((0, 0), (1, 1), (2, 2), (3, 3))
  assert model.decode is None
  state = _start(model)
  variables = {'params': state.g.params, 'batch_stats': state.g.stats}
  given = np.float32(train.images[:6] / 127.5 - 1)
  sample = quick.jit(model.sample)
  labels = np.arange(6, dtype=np.int32) % 4
  images = sample(variables, KEY, labels, given)
  # As by the network without any dropout at all.
  z = jax.random.normal(KEY, (6, 5))
  plain = dagan.Generator((4, 5), 1, 0.99, 0.0, jnp.float32)
  np.testing.assert_allclose(images, quick.jit(lambda: plain.apply(
      variables, z, labels, given, train=False))(), atol=2e-6)
  # Each from its own image and noise, and from nothing else.
  other = sample(variables, KEY, labels[::-1],
                 np.concatenate([given[:3], given[:3]]))
  np.testing.assert_allclose(other[:3], images[:3], atol=1e-6)
  assert (np.abs(other[3:] - images[3:]).max((1, 2, 3)) > 1e-2).all()
  other = sample(variables, jax.random.key(1), labels, given)
  assert (np.abs(other - images).max((1, 2, 3)) > 1e-3).all()


@pytest.mark.slow
def test_real_images_become_others_of_their_class():
  """What it makes of an image is nearest to the mean of its class, of ten.

  Of real images 68 %; of these, after 300 steps of a small network, 53 %.
  """
  data = fashion_mnist_small.load()
  train = data.train
  model = dagan.build(
      LETTER._replace(num_classes=10), z_dim=32, g_widths=(16, 32, 64),
      d_widths=(32, 64, 64), g_inner=1, d_inner=1, d_hidden=128, d_steps=2,
      norm_decay=0.9, dropout=0.2, g_lr=5e-4, d_lr=5e-4, ema_decay=0.95)
  feed = model.feed(train.labels, data.class_names, 16, 0)
  state, step = jax.jit(model.init)(KEY), jax.jit(model.step, donate_argnums=0)
  for i in range(300):
    index = feed(i)
    state, _ = step(state, {'image': train.images[index],
                            'label': train.labels[index]}, KEY)
  given, labels = train.images[::25] / 127.5 - 1, train.labels[::25]
  made = jax.jit(model.sample)(model.variables(state), KEY, labels,
                               np.float32(given))
  means = np.stack([train.images[train.labels == k].mean(0) / 127.5 - 1
                    for k in range(10)])
  def own(images):
    far = np.square(images[:, None] - means).sum((2, 3, 4))
    return (far.argmin(1) == labels).mean()
  assert own(given) > 0.6 and own(np.asarray(made)) > 0.4
  assert (np.abs(made - given).mean((1, 2, 3)) > 0.02).all()  # No copies.


def test_defaults_are_the_published():
  known = registry.arguments(dagan.build)
  published = dict(
      z_dim=100, g_widths=(64, 64, 128, 128), d_widths=(64, 64, 128, 128),
      g_inner=3, d_inner=5, norm_decay=0.99, dropout=0.5, loss='wasserstein',
      gradient_penalty=10.0, gradient_penalty_per='image', d_steps=5,
      fresh_fakes=True, optimizer='adam', g_lr=1e-4, d_lr=1e-4, b1=0.0, b2=0.9,
      ema_decay=0.0, noise='normal', truncation=0.0)
  assert {name: known[name] for name in published} == published


@pytest.mark.parametrize('size, given, line', [
    ((28, 28), {'dtype': 'float16'}, "dtype: 'float16'; expected one of "),
    ((28, 28), {'balanced': 1.5}, 'balanced: 1.5; expected one of False, True'),
    ((28, 28), {'g_inner': 0}, 'g_inner: 0; expected a whole number of at '),
    ((28, 28), {'d_widths': ()}, r'd_widths: \(\); expected some whole num'),
    ((28, 28), {'g_widths': (8,)}, r'g_widths: \(8,\); expected two or more'),
    ((28, 28), {'norm_decay': 1.0}, 'norm_decay: 1.0; expected a number from'),
    ((28, 28), {'statistics': 'batch'},
     "statistics: 'batch'; expected 'running', for dagan's norms go by"),
    ((28, 24), {'quarter_turns': True},
     'quarter_turns: True; expected False for images of 28x24'),
    ((8, 30), {}, 'model: dagan needs images of at least 9x9 pixels to halve 4 '
     'times; the data is 8x30'),
    ((9, 9), {'g_widths': (8,) * 5}, 'model: dagan needs images of at least '
     '17x17 pixels to halve 5 times'),
], ids=str)
def test_values_that_cannot_be_are_one_line(size, given, line):
  spec = types.ImageSpec(*size, 3, 10)
  with pytest.raises(errors.InputError, match=rf'^x\.{line}') as e:
    registry.build('generators', 'dagan', given, 'x', spec)
  assert '\n' not in str(e.value)
