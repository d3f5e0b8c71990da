"""AC-GAN: its published sizes, and its networks and step beside PyTorch's."""
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug import errors, registry, types
from jaxaug.generators import acgan

SPEC = types.ImageSpec(16, 8, 3, 4)
SMALL = {'fashion_mnist': dict(z_dim=6, hidden=8, g_widths=(6, 5, 4),
                               d_widths=(4, 5, 6, 7), dropout=0.0),
         'cifar': dict(network='cifar', z_dim=6, hidden=8, g_widths=(6, 5),
                       d_widths=(4, 5, 6, 7), dropout=0.0)}
KEY = jax.random.key(0)
# What takes time here is to compile.
_jit = functools.partial(jax.jit, compiler_options={
    'xla_backend_optimization_level': 0})


@pytest.mark.parametrize('size, given, g, d', [
    ((32, 32, 3), {'network': 'cifar'}, 1_593_888, 1_663_867),
    # keras-acgan has no batch norm in G.
    ((28, 28, 1), {'conditioning': 'product', 'g_norm': 'none'}, 8_172_521,
     525_835),
    # Ten more inputs for a table of ten classes; for the bias of each channel
    # two of batch norm, and for those of 7x7x128 dense units two a channel.
    ((28, 28, 1), {}, 8_172_521 - 1000 + 10 * 1024 + 128 + 256 - 49 * 128
     + 2 * 128, 525_835)], ids=str)
def test_as_many_parameters_as_published(size, given, g, d):
  model = acgan.build(types.ImageSpec(*size, 10), **given)
  state = jax.eval_shape(model.init, KEY)
  assert model.parameters(state) == {'g': g, 'd': d}


@pytest.mark.parametrize('size, given, g, d', [
    ((28, 28, 1), {}, [(1024,), (6272,), (14, 14, 256), (28, 28, 128),
                       (28, 28, 1)],
     [(14, 14, 32), (14, 14, 64), (7, 7, 128), (7, 7, 256), (1,), (10,)]),
    ((16, 24, 3), {}, [(1024,), (3072,), (8, 12, 256), (16, 24, 128),
                       (16, 24, 3)],
     [(8, 12, 32), (8, 12, 64), (4, 6, 128), (4, 6, 256), (1,), (10,)]),
    ((32, 32, 3), {'network': 'cifar'}, [
        (384,), (3072,), (8, 8, 96), (16, 16, 48), (32, 32, 3)],
     [(16, 16, 16), (16, 16, 32), (8, 8, 64), (8, 8, 128), (4, 4, 256),
      (4, 4, 512), (1,), (10,)])], ids=str)
def test_layers_have_the_published_shapes(size, given, g, d):
  maps = []
  def look(call, args, kwargs, context):
    out = call(*args, **kwargs)
    if isinstance(context.module, (nn.Conv, nn.Dense)):
      maps.append(out.shape[1:])
    return out
  model = acgan.build(types.ImageSpec(*size, 10), **given)
  with nn.intercept_methods(look):
    jax.eval_shape(model.init, KEY)
  assert maps == g + d


def _state(model):
  """A state whose averages are not those of the start, nor D's scores 0."""
  state = _jit(model.init)(KEY)
  def other(net, seed, gain):
    rng = np.random.default_rng(seed)
    return net._replace(
        params=jax.tree.map(lambda x: gain * x if x.ndim > 1 else x,
                            net.params),
        stats=jax.tree.map(lambda x: np.float32(rng.uniform(0.2, 1, x.shape)),
                           net.stats))
  return state._replace(g=other(state.g, 0, 10), d=other(state.d, 1, 10))


def _twins(state, given):
  torch_gans = pytest.importorskip('benchmarks.torch_gans')
  hyper = registry.arguments(acgan.build) | given
  return [torch_gans.load(make(SPEC, hyper), net.params, net.stats)
          for make, net in zip(torch_gans.NETWORKS['acgan'],
                               (state.g, state.d), strict=True)]


def _inputs(size=6):
  rng = np.random.default_rng(0)
  return (np.float32(rng.normal(size=(size, 6))),
          np.float32(rng.uniform(-1, 1, (size, *SPEC[:3]))),
          np.arange(size, dtype=np.int32) % SPEC.num_classes)


def _torch(x):
  """[B, H, W, C] or [B, Z] as PyTorch has it, in float64."""
  torch = pytest.importorskip('torch')
  return torch.tensor(np.moveaxis(x, -1, 1) if x.ndim == 4 else x).double()


def _as_flax(x):
  x = x.detach().numpy()
  return np.moveaxis(x, 1, -1) if x.ndim == 4 else x


@pytest.mark.parametrize('network, conditioning, g_norm, d_norm', [
    ('fashion_mnist', 'concat', 'batch', 'none'),
    ('fashion_mnist', 'product', 'none', 'batch'),
    ('cifar', 'concat', 'batch', 'batch')])
def test_networks_are_those_of_torch(network, conditioning, g_norm, d_norm):
  given = SMALL[network] | {'conditioning': conditioning, 'g_norm': g_norm,
                            'd_norm': d_norm}
  state = _state(acgan.build(SPEC, **given))
  g = acgan.Generator(SPEC, network, 8, given['g_widths'], conditioning, g_norm,
                      jnp.float32)
  d = acgan.Discriminator(4, (4, 5, 6, 7), d_norm, 0.0, jnp.float32)
  z, images, labels = _inputs()
  for module, net, twin, x in zip((g, d), (state.g, state.d),
                                  _twins(state, given), (z, images),
                                  strict=True):
    @_jit
    def both(variables, module=module, x=x):
      train, _ = module.apply(variables, x, labels, train=True,
                              mutable=['batch_stats'])
      return module.apply(variables, x, labels, train=False), train
    outs = both({'params': net.params, 'batch_stats': net.stats})
    # The averages first: a pass in training moves them.
    for train, got in zip((False, True), outs, strict=True):
      want = twin.train(train)(_torch(x), _torch(labels).long())
      for a, b in zip(jax.tree.leaves(got), want if module is d else [want],
                      strict=True):
        b = _as_flax(b)
        np.testing.assert_allclose(a, b, atol=3e-6 * max(1, np.abs(b).max()))


@pytest.mark.parametrize('network, given', [
    ('fashion_mnist', {'class_loss': 0.7}),
    ('cifar', {'fresh_fakes': False})], ids=str)
def test_a_step_of_both_players_is_that_of_torch(monkeypatch, network, given):
  torch = pytest.importorskip('torch')
  torch_gans = pytest.importorskip('benchmarks.torch_gans')
  given = SMALL[network] | given
  model = acgan.build(SPEC, **given)
  state = _state(model)
  g, d = _twins(state, given)
  _, images, labels = _inputs()
  batch = {'image': images[None], 'label': labels[None]}
  fresh = given.get('fresh_fakes', True)
  noises = np.random.default_rng(1).normal(size=(1 + fresh, 6, 6))
  draws = iter(noises)
  monkeypatch.setattr(jax.random, 'normal', lambda key, shape: jnp.asarray(
      next(draws), jnp.float32).reshape(shape))
  new, logs = _jit(model.step)(state, batch, KEY)
  assert next(draws, None) is None
  want = torch_gans.step(
      g, d, *(torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999))
              for net in (g, d)), _torch(images), _torch(labels).long(),
      _torch(noises[0]), class_loss=given.get('class_loss', 1.0),
      fresh_noise=_torch(noises[1]) if fresh else None)
  for name, value in want.items():
    np.testing.assert_allclose(logs[name], value.item(), rtol=1e-5)
  for net, mine in (g, new.g), (d, new.d):
    for path, weight, value in torch_gans.pairs(net, mine.params):
      # Adam's first step is the gradient's sign, which may be rounding's.
      known = weight.grad.abs() > 1e-5 * weight.grad.abs().max()
      assert known.double().mean() > 0.8, path
      assert (weight - value).abs()[known].max() < 1e-5, path
    for path, weight, value in torch_gans.pairs(net, mine.opt[0].mu):
      np.testing.assert_allclose(value / 0.5, weight.grad, err_msg=path,
                                 atol=1e-4 * weight.grad.abs().max())


def test_half_precision_looks_alike():
  d, half = (acgan.Discriminator(4, (4, 5, 6, 7), 'batch', 0.0, dtype)
             for dtype in (jnp.float32, jnp.bfloat16))
  _, images, labels = _inputs()
  variables = _jit(lambda: d.init(KEY, images, labels, train=False))()
  outs = (_jit(lambda x, m=m: m.apply(variables, x, labels, train=True,
                                      mutable=['batch_stats'])[0])(images)
          for m in (d, half))
  for a, b in zip(*outs, strict=True):
    assert a.dtype == b.dtype == jnp.float32
    assert not np.array_equal(a, b)
    np.testing.assert_allclose(a, b, atol=0.02 * np.abs(a).max())


@pytest.mark.parametrize('given, line', [
    ({'z_dim': 0}, 'z_dim: 0; expected a whole number of at least 1'),
    ({'network': 'fashion'}, "network: 'fashion'; expected one of "
     "fashion_mnist, cifar. Did you mean 'fashion_mnist'"),
    ({'conditioning': 'projection'}, "conditioning: 'projection'; "),
    ({'g_norm': 'layer'}, "g_norm: 'layer'; expected one of batch, none"),
    ({'d_norm': 'group'}, "d_norm: 'group'; expected one of batch, none"),
    ({'hidden': 0}, 'hidden: 0; '), ({'g_widths': ()}, r'g_widths: \(\); '),
    ({'d_widths': (8, 0)}, 'd_widths: 0; '), ({'dropout': 1}, 'dropout: 1; '),
    ({'dtype': 'float16'}, "dtype: 'float16'; "),
    ({'class_loss': -1.0}, 'class_loss: -1.0; '),
    ({'balance': 'ahead'}, "balance: 'ahead'; "),
    ({'d_steps': 0}, 'd_steps: 0; '), ({'width': 3}, 'width: unknown key'),
    ({'network': 'cifar'}, 'g_widths: a grid times 8 cannot be 28x28; expected '
     'a size divisible by 8, see config.data.resize'),
], ids=str)
def test_values_that_cannot_be_are_one_line(given, line):
  with pytest.raises(errors.InputError, match=rf'^x\.{line}') as e:
    registry.build('generators', 'acgan', given, 'x',
                   types.ImageSpec(28, 28, 1, 10))
  assert '\n' not in str(e.value)
