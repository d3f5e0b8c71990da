"""BigGAN against PyTorch: its networks, and whole steps of its training."""

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.core import errors, registry, types
from jaxaug.data.datasets import fashion_mnist_small
from jaxaug.generators import biggan
from jaxaug.generators.gan import gan
from jaxaug.nn import layers
from tests import quick

CIFAR = types.ImageSpec(32, 32, 3, 10)
GREY = types.ImageSpec(32, 32, 1, 5)
WIDE = types.ImageSpec(16, 24, 3, 4)
SMALL = dict(width=2, z_dim=6)
# Every option that changes the networks.
OPTIONS = dict(embed_dim=5, hierarchical=True, attention=8)
# The paper's at 128 pixels.
LARGE = dict(width=96, z_dim=120, embed_dim=128, hierarchical=True,
             attention=64)
KEY = jax.random.key(0)


@pytest.fixture
def twin():
  pytest.importorskip('torch')
  from tests.torch_twins import biggan as torch_biggan
  return torch_biggan


@pytest.fixture
def layout():
  pytest.importorskip('torch')
  from tests.torch_twins import layout
  return layout


@pytest.fixture
def networks(monkeypatch):
  """build(spec, **arguments) -> the flax modules (G, D)."""
  def build(*args, **given):
    with monkeypatch.context() as m:
      m.setattr(gan, 'make', lambda spec, g, d, **rule: (g, d))
      return biggan.build(*args, **given)
  return build


def _flat(tree):
  return flax.traverse_util.flatten_dict(tree)


def _inputs(spec, z_dim, size=5):
  """Noise, images and labels."""
  rng = np.random.default_rng(0)
  return (np.float32(rng.normal(size=(size, z_dim))),
          np.float32(rng.uniform(-1, 1, (size, *spec[:3]))),
          np.arange(size) % spec.num_classes)


def _batch(spec, size, d_steps, seed):
  rng = np.random.default_rng(seed)
  shape = (d_steps, size, *spec[:3])
  return {'image': rng.integers(0, 256, shape, np.uint8),
          'label': rng.integers(0, spec.num_classes, shape[:2], np.int32)}


def _filled(shapes):
  """Numbers in place of shapes, none of them at its start; quicker than init.

  Attention's gain starts at 0, which would hide it.
  """
  rng = np.random.default_rng(1)
  def fill(path, x):
    scale = 0.2 * np.float32(rng.normal(size=x.shape))
    return jnp.asarray(scale + (path[-1] in ('var', 'scale', 'gain')
                                or 'gain' in path and 'embedding' in path))
  return flax.traverse_util.unflatten_dict(
      {path: fill(path, x) for path, x in _flat(shapes).items()})


def _variables(net, x, labels):
  return _filled(jax.eval_shape(
      lambda: net.init(KEY, x, labels, train=False)))


def _state(model):
  """A state of `model` with every weight in motion."""
  shapes = jax.eval_shape(model.init, KEY)
  g, d = (net._replace(params=_filled(net.params), stats=_filled(net.stats))
          for net in (shapes.g, shapes.d))
  state = shapes._replace(g=g, d=d, ema={'params': g.params,
                                         'batch_stats': g.stats})
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype) if isinstance(
      x, jax.ShapeDtypeStruct) else x, state)


# 128 pixels: google/compare_gan, resnet_biggan_test.py.
@pytest.mark.parametrize('spec, given, g, d', [
    (CIFAR, {}, 4_304_387, 4_207_361),
    (types.ImageSpec(128, 128, 3, 1000), LARGE, 70_433_988, 87_982_370),
], ids=['32', '128'])
def test_published_numbers_of_parameters(spec, given, g, d):
  model = biggan.build(spec, **given)
  state = jax.eval_shape(model.init, KEY)
  assert model.parameters(state) == {'g': g, 'd': d}


@pytest.mark.parametrize('spec, given', [
    (WIDE, {}), (types.ImageSpec(8, 12, 1, 2), {}), (GREY, OPTIONS),
    (types.ImageSpec(28, 28, 1, 10), {'attention': 14}),
    (CIFAR._replace(num_classes=100), {'embed_dim': 128}),
    (types.ImageSpec(64, 64, 3, 2), {'attention': 32}),
    (types.ImageSpec(96, 128, 3, 7), dict(embed_dim=20, hierarchical=True)),
    (types.ImageSpec(256, 320, 1, 3), {'width': 8}),
], ids=str)
def test_parameters_are_as_many_as_the_twins(twin, spec, given):
  torch = pytest.importorskip('torch')
  given = {'z_dim': 120} | given
  model = biggan.build(spec, **given)
  hyper = registry.arguments(biggan.build) | given
  with torch.device('meta'):
    nets = {'g': twin.Generator(spec, hyper), 'd': twin.Discriminator(
        spec, hyper)}
  state = jax.eval_shape(model.init, KEY)
  assert model.parameters(state) == {
      name: sum(p.numel() for p in net.parameters())
      for name, net in nets.items()}


def _block(i, before, side):
  """What a block of G gives at 32 pixels, layer by layer."""
  def layer(name, side):
    return {f'block_{i}_{name}': (side, side, 256)}
  return (layer('norm_0', before) | layer('conv_0', side)
          | layer('norm_1', side) | layer('conv_1', side)
          | layer('shortcut', before))


MAPS = {
    'g': {'noise_map': (4096,), **_block(0, 4, 8), **_block(1, 8, 16),
          **_block(2, 16, 32), 'norm': (32, 32, 256), 'image': (32, 32, 3)},
    # Where a block halves, its second convolution does.
    'd': {'block_0_conv_0': (32, 32, 256), 'block_0_conv_1': (16, 16, 256),
          'block_0_shortcut': (16, 16, 256),
          'block_1_conv_0': (16, 16, 256), 'block_1_conv_1': (8, 8, 256),
          'block_1_shortcut': (8, 8, 256),
          'block_2_conv_0': (8, 8, 256), 'block_2_conv_1': (8, 8, 256),
          'block_3_conv_0': (8, 8, 256), 'block_3_conv_1': (8, 8, 256),
          'score': (1,), 'projection': (256,)},
}


@pytest.mark.parametrize('player', MAPS)
def test_layers_are_the_scripts(networks, player):
  z, images, labels = _inputs(CIFAR, 128, 2)
  net = dict(zip('gd', networks(CIFAR), strict=True))[player]
  args = z if player == 'g' else images, labels
  def run():
    variables = net.init(KEY, *args, train=False)
    return net.apply(variables, *args, train=False, capture_intermediates=True,
                     mutable=['intermediates'])[1]['intermediates']
  found = {path[0]: value[0].shape[1:]
           for path, value in _flat(jax.eval_shape(run)).items()
           if len(path) == 2 and not path[0].endswith('_sigma')}
  assert found == MAPS[player]


def test_defaults_are_the_scripts():
  known = registry.arguments(biggan.build)
  assert known['statistics'] == 'standing'  # Theirs is 'batch'.
  scripts = dict(z_dim=128, d_steps=4, ema_decay=0.9999, ema_start=1000,
                 diff_augment='translation,cutout', mirror=True, loss='hinge',
                 optimizer='adam', g_lr=2e-4, d_lr=2e-4, b1=0.0, b2=0.999,
                 truncation=0.0, fresh_fakes=True, noise='normal')
  assert {k: known[k] for k in scripts} == scripts
  assert biggan.build(CIFAR).d_steps == 4


def test_weights_start_as_the_scripts_have_them(networks):
  spec = types.ImageSpec(8, 8, 3, 50)
  z, images, labels = _inputs(spec, 20)
  shared, d = networks(spec, width=16, embed_dim=30)
  tables, _ = networks(spec, width=16)
  seen = set()
  for net, x in (shared, z), (tables, z), (d, images):
    flat = _flat(quick.jit(lambda x, net=net: net.init(
        KEY, x, labels, train=False))(x)['params'])
    for path, x in flat.items():
      kind = path[-1] if path[0] != 'norm' else f'norm_{path[-1]}'
      seen.add(kind)
      if kind in ('kernel', 'embedding'):
        error = 5 / x.size**0.5  # Five standard errors.
        mean = float(path[-2:] == ('gain', 'embedding'))
        assert abs(x.mean() - mean) < 0.02 * error, path
        assert abs(x.std() / 0.02 - 1) < error, path
      elif kind == 'bias':
        *_, outputs = kernel = flat[(*path[:-1], 'kernel')].shape
        edge = (np.prod(kernel) / outputs) ** -0.5
        assert np.abs(x).max() <= edge
        assert outputs < 50 or np.abs(x).max() > 0.9 * edge
      else:
        np.testing.assert_array_equal(x, float(kind == 'norm_scale'))
  assert seen == {'kernel', 'embedding', 'bias', 'norm_scale', 'norm_bias'}


@pytest.mark.parametrize('layer, x', [
    (nn.Dense(4, use_bias=False), jnp.eye(6)), (nn.Embed(6, 4), jnp.arange(6)),
    (layers.Conv(4, (1, 1), use_bias=False), jnp.eye(6)[:, None, None]),
    (layers.Conv(4, (3, 2), use_bias=False, padding='VALID'),
     jnp.eye(30).reshape(30, 3, 2, 5)),
], ids=['dense', 'embed', '1x1', '3x2'])
def test_spectral_norm_divides_by_the_largest_singular_value(layer, x):
  layer = layers.SpectralNorm(layer.clone(name='layer'), name='layer_sigma')
  variables = layer.init(KEY, x, False)
  weight, = jax.tree.leaves(variables['params'])
  weight = np.float64(weight).reshape(-1, 4)
  stats = variables['batch_stats']
  moved = jax.jit(lambda stats: jax.lax.fori_loop(
      0, 100, lambda i, stats: layer.apply(
          variables | {'batch_stats': stats}, x, True,
          mutable=['batch_stats'])[1]['batch_stats'], stats))(stats)
  out = layer.apply(variables | {'batch_stats': moved}, x, False)
  want = weight / np.linalg.svd(weight, compute_uv=False)[0]
  np.testing.assert_allclose(out.reshape(-1, 4), want, atol=1e-6)
  # One step is not enough, and none is kept where nothing is trained.
  out, kept = layer.apply(variables, x, False, mutable=['batch_stats'])
  assert np.abs(out.reshape(-1, 4) - want).max() > 1e-3
  np.testing.assert_array_equal(*map(jax.tree.leaves, (
      kept['batch_stats'], stats)))


def test_largest_singular_value_is_one(networks):
  """Of every layer of both networks but the embeddings of G."""
  z, images, labels = _inputs(WIDE, 6)
  for net, x in zip(networks(WIDE, **SMALL, **OPTIONS), (z, images),
                    strict=True):
    variables = _variables(net, x, labels)
    params, stats = variables['params'], _flat(variables['batch_stats'])
    def step(i, vectors, net=net, x=x, params=params, stats=stats):
      rest = flax.traverse_util.unflatten_dict(stats | vectors)
      _, new = net.apply({'params': params, 'batch_stats': rest}, x, labels,
                         train=True, mutable=['batch_stats'])
      return {path: _flat(new['batch_stats'])[path] for path in vectors}
    vectors = quick.jit(lambda vectors, step=step: jax.lax.fori_loop(
        0, 500, step, vectors))({path: u for path, u in stats.items()
                                 if path[-1] == 'u'})
    matrices = {(*path[:-2], f'{path[-2]}_sigma', 'u'): w
                for path, w in _flat(params).items()
                if w.ndim > 1 and path != ('shared', 'embedding')}
    assert vectors.keys() == matrices.keys() and len(vectors) > 15
    for path, u in vectors.items():
      matrix = np.float64(matrices[path]).reshape(-1, len(u))
      top = np.linalg.svd(matrix / np.linalg.norm(matrix @ u),
                          compute_uv=False)[0]
      np.testing.assert_allclose(top, 1, atol=1e-5, err_msg=str(path))


@pytest.mark.parametrize('spec, given', [
    (types.ImageSpec(28, 28, 1, 10), {'embed_dim': 5, 'attention': 14}),
    (types.ImageSpec(64, 64, 3, 2), {'width': 1, 'attention': 16}),
], ids=str)
def test_images_and_scores_are_the_twins(networks, twin, layout, spec, given):
  torch = pytest.importorskip('torch')
  given = SMALL | given
  z, images, labels = _inputs(spec, 6)
  hyper = registry.arguments(biggan.build) | given
  for net, make, x in zip(networks(spec, **given),
                          (twin.Generator, twin.Discriminator), (z, images),
                          strict=True):
    variables = _variables(net, x, labels)
    theirs = layout.load(make(spec, hyper), variables['params'],
                         variables['batch_stats']).double()
    got, _ = quick.jit(lambda v, x, net=net: net.apply(
        v, x, labels, train=True, mutable=['batch_stats']))(variables, x)
    x = torch.from_numpy(np.float64(x))
    if x.ndim == 4:
      want = theirs(x.permute(0, 3, 1, 2), torch.from_numpy(labels))
    else:
      want = theirs(x, torch.from_numpy(labels)).permute(0, 2, 3, 1)
    want = want.detach().numpy()
    np.testing.assert_allclose(got, want, atol=1e-4 * max(
        1, np.abs(want).max()))


def _unrolled(body, carry, xs):
  """`jax.lax.scan`, whose body is traced for every x."""
  out = []
  for i in range(len(jax.tree.leaves(xs)[0])):
    carry, y = body(carry, jax.tree.map(lambda x, i=i: x[i], xs))
    out.append(y)
  return carry, jax.tree.map(lambda *ys: jnp.stack(ys), *out)


def _heard(monkeypatch, model):
  """model.step as run(state, batch) -> (state, logs, the noise it drew)."""
  normal = jax.random.normal

  def run(state, batch):
    heard = []
    def spoken(*args, **more):
      heard.append(normal(*args, **more))
      return heard[-1]
    with monkeypatch.context() as m:
      m.setattr(jax.random, 'normal', spoken)
      m.setattr(jax.lax, 'scan', _unrolled)
      state, logs = model.step(state, batch, KEY)
    return state, logs, jnp.stack(heard)
  return quick.steady(run)


def _same_state(layout, first, net, theirs):
  """Weights, gradients and statistics of a player after a step.

  Adam's first steps go by the sign of the gradient, which is rounding noise
  where the gradient is zero: of biases in front of a batch norm.
  """
  noise = set()
  for path, weight, mu in layout.pairs(theirs, net.opt[0].mu):
    grad = weight.grad.numpy()
    np.testing.assert_allclose(mu, grad, err_msg=str(path),
                               atol=5e-5 * max(0.1, np.abs(grad).max()))
    if np.abs(grad).max() < 1e-12:
      noise.add(path)
  for path, weight, x in layout.pairs(theirs, net.params):
    if path not in noise:
      np.testing.assert_allclose(x, weight.detach().numpy(), atol=2e-5,
                                 err_msg=str(path))
  for path, mean, x in layout.pairs(theirs, net.stats):
    # PyTorch divides variances by n - 1; means move with the noise.
    atol = 2e-3 if path[-1] == 'var' or not first else 1e-5
    np.testing.assert_allclose(x, mean, atol=atol, rtol=1e-5,
                               err_msg=str(path))
  return noise


@pytest.mark.parametrize('spec, d_steps, given', [
    (GREY, 1, {}), (WIDE, 2, OPTIONS)], ids=['plain', 'every option'])
def test_steps_are_the_twins(monkeypatch, twin, layout, spec, d_steps, given):
  """Losses, gradients, weights, singular vectors and the average."""
  torch = pytest.importorskip('torch')
  given = dict(SMALL, d_steps=d_steps, ema_start=1, diff_augment='',
               mirror=False, g_lr=1e-3, d_lr=2e-3) | given
  model = biggan.build(spec, **given)
  hyper = registry.arguments(biggan.build) | given
  state = _state(model)
  g = layout.load(twin.Generator(spec, hyper), *state.g[:2]).double()
  d = layout.load(twin.Discriminator(spec, hyper), *state.d[:2]).double()
  theirs, average = twin.training(g, d, hyper)
  ours = _heard(monkeypatch, model)
  for i in range(2):
    batch = _batch(spec, 6, d_steps, seed=i)
    before = state.ema['params']
    state, logs, noises = ours(state, batch)
    noises = np.float64(noises)
    assert noises.shape == (d_steps + 1, 6, 6)
    assert len(np.unique(noises)) == noises.size
    want = theirs(torch.from_numpy(batch['image']),
                  torch.from_numpy(batch['label']).long(),
                  torch.from_numpy(noises))
    for name, value in want.items():
      np.testing.assert_allclose(logs[name], value.item(), rtol=2e-5,
                                 atol=5e-5)
    noise = _same_state(layout, not i, state.g, g)
    assert noise and {path[-1] for path in noise} == {'bias'}
    assert not _same_state(layout, not i, state.d, d)
    for path, weight, x in layout.pairs(average, state.ema['params']):
      if path not in noise:
        np.testing.assert_allclose(x, weight.detach().numpy(), atol=2e-5)
    # A copy until ema_start, then hardly a move.
    for path, x in _flat(state.ema['params']).items():
      if i:
        assert np.abs(x - _flat(before)[path]).max() < 1e-6, path
      else:
        np.testing.assert_array_equal(x, _flat(state.g.params)[path])


def test_half_precision_is_of_the_layers_alone(networks):
  """Also of attention and a shared embedding."""
  z, images, labels = _inputs(WIDE, 6)
  nets = networks(WIDE, **SMALL, **OPTIONS, dtype='bfloat16')
  for net, x in zip(nets, (z, images), strict=True):
    def run(x, net=net):
      variables = net.init(KEY, x, labels, train=False)
      return net.apply(variables, x, labels, train=True, mutable=[
          'batch_stats', 'intermediates'], capture_intermediates=True)
    out, new = jax.eval_shape(run, x)
    dtypes = {path[0]: value[0].dtype
              for path, value in _flat(new['intermediates']).items()}
    assert dtypes['attention'] == dtypes['block_1_conv_0'] == jnp.bfloat16
    assert out.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(new['batch_stats'])} == {
        jnp.dtype('float32')}


@pytest.mark.parametrize('spec, given, message', [
    (WIDE, {'attention': 12}, 'attention: 12; expected one of 0, 8.'),
    (CIFAR, {'attention': 32}, 'attention: 32; expected one of 0, 16, 8.'),
    (WIDE, {'hierarchical': True}, 'hierarchical: True; expected False, or'),
    (WIDE, dict(OPTIONS, z_dim=128), 'z_dim: 128; expected a multiple of 3'),
    (types.ImageSpec(7, 9, 3, 2), {},
     'model: biggan needs images of at least 8x8 pixels; the data is 7x9'),
    (types.ImageSpec(30, 30, 3, 2), {}, 'model: biggan needs a smaller side'),
    (types.ImageSpec(32, 36, 3, 2), {}, 'model: biggan needs a smaller side'),
    (types.ImageSpec(512, 512, 3, 2), {}, 'model: biggan needs a smaller side'),
], ids=lambda x: '' if isinstance(x, str) else str(x))
def test_what_cannot_be_is_one_line(spec, given, message):
  with pytest.raises(errors.InputError) as e:
    biggan.build(spec, **given)
  assert str(e.value).startswith(message) and '\n' not in str(e.value)


@pytest.mark.slow
def test_classes_of_real_images_are_learned():
  """What it draws is nearest to its own class's mean image, of ten.

  Of real images 70 %; of these, after 400 steps of a small network, 44 %.
  """
  train = fashion_mnist_small.load().train
  spec = types.ImageSpec(28, 28, 1, 10)
  model = biggan.build(spec, width=8, z_dim=32, d_steps=2, g_lr=1e-3,
                       d_lr=1e-3, ema_decay=0.99, ema_start=50,
                       diff_augment='translation')
  state = jax.jit(model.init)(KEY)
  step = jax.jit(model.step, donate_argnums=0)
  rng = np.random.default_rng(0)
  for _ in range(400):
    pick = rng.integers(0, len(train.labels), (2, 32))
    state, _ = step(state, {'image': train.images[pick],
                            'label': train.labels[pick]}, KEY)
  labels = np.arange(200, dtype=np.int32) % 10
  drawn = jax.jit(model.sample)(model.variables(state), KEY, labels)
  means = np.stack([train.images[train.labels == k].mean(0) / 127.5 - 1
                    for k in range(10)])
  def nearest(images):
    return np.square(images[:, None] - means).sum((2, 3, 4)).argmin(1)
  real = nearest(train.images / 127.5 - 1) == train.labels
  assert real.mean() > 0.65
  assert (nearest(np.asarray(drawn)) == labels).mean() > 0.3
