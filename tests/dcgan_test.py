"""DCGAN: its published sizes, and its networks and step beside PyTorch's."""
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug import errors, registry, types
from jaxaug.generators import dcgan

SPEC = types.ImageSpec(24, 16, 3, 4)
SMALL = dict(z_dim=6, g_width=4, d_width=5)
KEY = jax.random.key(0)
# What takes time here is to compile.
_jit = functools.partial(jax.jit, compiler_options={
    'xla_backend_optimization_level': 0})


def _parameters(spec, **given):
  model = dcgan.build(spec, **given)
  return model.parameters(jax.eval_shape(model.init, KEY))


def test_as_many_parameters_as_published():
  count = functools.partial(_parameters, types.ImageSpec(64, 64, 3, 10))
  g, d = 3_576_704, 2_765_568
  assert count(conditioning='none') == {'g': g, 'd': d}
  # One row of G's first layer for each class; D's is one channel, or weights of
  # the last layer.
  g += 10 * 4 * 4 * 512
  assert count() == {'g': g, 'd': d + 10 * 64 * 64 + 4 * 4 * 64}
  assert count(conditioning='projection') == {'g': g, 'd': d + 10 * 8192}


@pytest.mark.parametrize('size, grid, widths', [
    ((64, 64, 3), (4, 4), (512, 256, 128, 64)),  # The paper's figure 1.
    ((128, 128, 3), (4, 4), (1024, 512, 256, 128, 64)),
    ((32, 32, 3), (4, 4), (256, 128, 64)), ((28, 28, 1), (7, 7), (128, 64)),
    ((16, 24, 3), (4, 6), (128, 64)), ((6, 10, 3), (3, 5), (64,)),
    ((96, 64, 1), (6, 4), (512, 256, 128, 64))], ids=str)
def test_layers_have_the_published_shapes(size, grid, widths):
  maps = []
  def look(call, args, kwargs, context):
    out = call(*args, **kwargs)
    if isinstance(context.module, (nn.Conv, nn.Dense)):
      maps.append(out.shape[1:])
    return out
  model = dcgan.build(types.ImageSpec(*size, 5))
  with nn.intercept_methods(look):
    jax.eval_shape(model.init, KEY)
  def at(i):
    return grid[0] << i, grid[1] << i
  up = [(*at(i), width) for i, width in enumerate(widths)]
  assert maps == [(grid[0] * grid[1] * widths[0],), *up[1:], size,
                  *reversed(up), (1,)]


def _state(model):
  """A state whose averages are not those of the start."""
  state = _jit(model.init)(KEY)
  def other(net, seed):
    rng = np.random.default_rng(seed)
    return net._replace(stats=jax.tree.map(
        lambda x: np.float32(rng.uniform(0.2, 1, x.shape)), net.stats))
  return state._replace(g=other(state.g, 0), d=other(state.d, 1))


def _twins(state, given, spec=SPEC):
  torch_gans = pytest.importorskip('benchmarks.torch_gans')
  hyper = registry.arguments(dcgan.build) | given
  return [torch_gans.load(make(spec, hyper), net.params, net.stats)
          for make, net in zip(torch_gans.NETWORKS['dcgan'],
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


@pytest.mark.parametrize('conditioning', ['concat', 'projection', 'none'])
def test_networks_are_those_of_torch(conditioning):
  given = SMALL | {'conditioning': conditioning}
  state = _state(dcgan.build(SPEC, **given))
  g = dcgan.Generator(SPEC, (8, 4), conditioning != 'none', jnp.float32)
  d = dcgan.Discriminator(SPEC, (5, 10), conditioning, jnp.float32)
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
      want = want.detach().numpy()
      np.testing.assert_allclose(
          got, np.moveaxis(want, 1, -1) if want.ndim == 4 else want, atol=2e-6)
    assert np.abs(outs[0] - outs[1]).max() > 1e-2


@pytest.mark.parametrize('given', [
    {}, {'conditioning': 'projection', 'fresh_fakes': True}], ids=str)
def test_a_step_of_both_players_is_that_of_torch(monkeypatch, given):
  torch = pytest.importorskip('torch')
  torch_gans = pytest.importorskip('benchmarks.torch_gans')
  model = dcgan.build(SPEC, **SMALL, **given)
  state = _state(model)
  g, d = _twins(state, SMALL | given)
  _, images, labels = _inputs()
  batch = {'image': np.uint8(127.5 * images + 127.5)[None],
           'label': labels[None]}
  noises = np.random.default_rng(1).normal(size=(2, 6, 6))
  draws = iter(noises)
  monkeypatch.setattr(jax.random, 'normal', lambda key, shape: jnp.asarray(
      next(draws), jnp.float32).reshape(shape))
  new, logs = _jit(model.step)(state, batch, KEY)
  fresh = noises[1] if given.get('fresh_fakes') else None
  assert next(draws, None) is None or fresh is None
  real = _torch(batch['image'][0] / 127.5 - 1)
  want = torch_gans.step(
      g, d, *(torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999))
              for net in (g, d)), real, _torch(labels).long(),
      _torch(noises[0]), fresh_noise=None if fresh is None else _torch(fresh))
  for name in 'd_loss', 'g_loss':
    np.testing.assert_allclose(logs[name], want[name].item(), atol=1e-5)
  for net, mine in (g, new.g), (d, new.d):
    for path, weight, value in torch_gans.pairs(net, mine.params):
      # Adam's first step is the gradient's sign, which may be rounding's.
      known = weight.grad.abs() > 1e-5 * weight.grad.abs().max()
      error = (weight - value).abs()
      assert known.double().mean() > 0.98, path
      assert error[known].max() < 1e-5, path
    for path, weight, value in torch_gans.pairs(net, mine.opt[0].mu):
      np.testing.assert_allclose(value / 0.5, weight.grad, err_msg=path,
                                 atol=1e-4 * weight.grad.abs().max())


def test_half_precision_looks_alike():
  d, half = (dcgan.Discriminator(SPEC, (5, 10), 'projection', dtype)
             for dtype in (jnp.float32, jnp.bfloat16))
  _, images, labels = _inputs()
  variables = _jit(lambda: d.init(KEY, images, labels, train=False))()
  a, b = (_jit(lambda x, m=m: m.apply(variables, x, labels, train=True,
                                      mutable=['batch_stats'])[0])(images)
          for m in (d, half))
  assert a.dtype == b.dtype == jnp.float32
  assert not np.array_equal(a, b)
  np.testing.assert_allclose(a, b, atol=0.02 * np.abs(a).max())


def test_without_conditioning_labels_are_not_seen():
  for conditioning in 'none', 'concat':
    model = dcgan.build(SPEC, **SMALL, conditioning=conditioning)
    variables = model.variables(_jit(model.init)(KEY))
    a, b = (_jit(model.sample)(variables, KEY, np.full(3, k, np.int32))
            for k in range(2))
    assert np.array_equal(a, b) == (conditioning == 'none')


@pytest.mark.parametrize('size, given, line', [
    ((28, 28), {'z_dim': 0}, 'z_dim: 0; expected a whole number of at least 1'),
    ((28, 28), {'g_width': 1.5}, 'g_width: 1.5; '),
    ((28, 28), {'d_width': -2}, 'd_width: -2; '),
    ((28, 28), {'conditioning': 'project'}, "conditioning: 'project'; expected "
     "one of concat, projection, none. Did you mean 'projection'"),
    ((28, 28), {'dtype': 'float16'}, "dtype: 'float16'; "),
    ((28, 28), {'loss': 'hing'}, "loss: 'hing'; "),
    ((28, 28), {'b1': 1.0}, 'b1: 1.0; '),
    ((28, 28), {'widths': 3}, 'widths: unknown key'),
    ((64, 60), {}, 'model: dcgan halves images to 7 pixels or fewer, 64x60 in '
     '3 steps; expected a size divisible by 8, see config.data.resize'),
    ((5, 8), {}, 'model: dcgan needs images of at least 6x6 pixels'),
    ((7, 7), {}, 'model: dcgan halves images to 7 pixels or fewer, 7x7 in 1'),
], ids=str)
def test_values_that_cannot_be_are_one_line(size, given, line):
  spec = types.ImageSpec(*size, 3, 10)
  with pytest.raises(errors.InputError, match=rf'^x\.{line}') as e:
    registry.build('generators', 'dcgan', given, 'x', spec)
  assert '\n' not in str(e.value)
