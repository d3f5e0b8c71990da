"""DCGAN: its published sizes, and its networks and step beside PyTorch's."""
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.core import errors, registry, types
from jaxaug.generators import dcgan
from tests import quick
from tests.torch_twins import gan_steps

SPEC = types.ImageSpec(24, 16, 3, 4)
SMALL = dict(z_dim=6, g_width=4, d_width=5)
KEY = jax.random.key(0)


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


@pytest.mark.parametrize('conditioning', ['concat', 'projection', 'none'])
def test_networks_are_those_of_torch(conditioning):
  given = SMALL | {'conditioning': conditioning}
  state = gan_steps.state(dcgan.build(SPEC, **given))
  g = dcgan.Generator(SPEC, (8, 4), conditioning != 'none', jnp.float32)
  d = dcgan.Discriminator(SPEC, (5, 10), conditioning, jnp.float32)
  z, images, labels = gan_steps.inputs(SPEC)
  for module, net, twin, x in zip(
      (g, d), (state.g, state.d), gan_steps.load('dcgan', SPEC, state, given),
      (z, images), strict=True):
    pairs = gan_steps.outputs(module, net, twin, x, labels)
    for a, b in pairs:
      np.testing.assert_allclose(a, b, atol=2e-6)
    (average, _), (train, _) = pairs
    assert np.abs(average - train).max() > 1e-2


@pytest.mark.parametrize('given', [
    {}, {'conditioning': 'projection', 'fresh_fakes': True}], ids=str)
def test_a_step_of_both_players_is_that_of_torch(monkeypatch, given):
  model = dcgan.build(SPEC, **SMALL, **given)
  state = gan_steps.state(model)
  g, d = gan_steps.load('dcgan', SPEC, state, SMALL | given)
  _, images, labels = gan_steps.inputs(SPEC)
  images = np.uint8(127.5 * images + 127.5)
  noises, rest = gan_steps.given_noise(
      monkeypatch, 1 + given.get('fresh_fakes', False))
  new, logs = quick.jit(model.step)(
      state, {'image': images[None], 'label': labels[None]}, KEY)
  assert next(rest, None) is None
  want = gan_steps.step(g, d, images / 127.5 - 1, labels, noises)
  for name in 'd_loss', 'g_loss':
    np.testing.assert_allclose(logs[name], want[name].item(), atol=1e-5)
  gan_steps.check_player(g, new.g, share=0.98)
  gan_steps.check_player(d, new.d, share=0.98)


def test_without_conditioning_labels_are_not_seen():
  for conditioning in 'none', 'concat':
    model = dcgan.build(SPEC, **SMALL, conditioning=conditioning)
    variables = model.variables(quick.jit(model.init)(KEY))
    a, b = (quick.jit(model.sample)(variables, KEY, np.full(3, k, np.int32))
            for k in range(2))
    assert np.array_equal(a, b) == (conditioning == 'none')


@pytest.mark.parametrize('size, given, line', [
    ((28, 28), {'conditioning': 'project'}, "conditioning: 'project'; expected "
     "one of concat, projection, none. Did you mean 'projection'"),
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
