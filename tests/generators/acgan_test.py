"""AC-GAN: its published sizes, and its networks and step beside PyTorch's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.core import errors, registry, types
from jaxaug.generators import acgan
from tests import quick
from tests.torch_twins import gan_steps

SPEC = types.ImageSpec(16, 8, 3, 4)
SMALL = {'fashion_mnist': dict(z_dim=6, hidden=8, g_widths=(6, 5, 4),
                               d_widths=(4, 5, 6, 7), dropout=0.0),
         'cifar': dict(network='cifar', z_dim=6, hidden=8, g_widths=(6, 5),
                       d_widths=(4, 5, 6, 7), dropout=0.0)}
KEY = jax.random.key(0)


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


@pytest.mark.parametrize('network, conditioning, g_norm, d_norm', [
    ('fashion_mnist', 'concat', 'batch', 'none'),
    ('fashion_mnist', 'product', 'none', 'batch'),
    ('cifar', 'concat', 'batch', 'batch')])
def test_networks_are_those_of_torch(network, conditioning, g_norm, d_norm):
  given = SMALL[network] | {'conditioning': conditioning, 'g_norm': g_norm,
                            'd_norm': d_norm}
  state = gan_steps.state(acgan.build(SPEC, **given), gain=10)
  g = acgan.Generator(SPEC, network, 8, given['g_widths'], conditioning, g_norm,
                      jnp.float32)
  d = acgan.Discriminator(4, (4, 5, 6, 7), d_norm, 0.0, jnp.float32)
  z, images, labels = gan_steps.inputs(SPEC)
  for module, net, twin, x in zip(
      (g, d), (state.g, state.d), gan_steps.load('acgan', SPEC, state, given),
      (z, images), strict=True):
    for a, b in gan_steps.outputs(module, net, twin, x, labels):
      np.testing.assert_allclose(a, b, atol=3e-6 * max(1, np.abs(b).max()))


@pytest.mark.parametrize('network, given', [
    ('fashion_mnist', {'class_loss': 0.7}),
    ('cifar', {'fresh_fakes': False})], ids=str)
def test_a_step_of_both_players_is_that_of_torch(monkeypatch, network, given):
  given = SMALL[network] | given
  model = acgan.build(SPEC, **given)
  state = gan_steps.state(model, gain=10)
  g, d = gan_steps.load('acgan', SPEC, state, given)
  _, images, labels = gan_steps.inputs(SPEC)
  batch = {'image': images[None], 'label': labels[None]}
  noises, rest = gan_steps.given_noise(
      monkeypatch, 1 + given.get('fresh_fakes', True))
  new, logs = quick.jit(model.step)(state, batch, KEY)
  assert next(rest, None) is None
  want = gan_steps.step(g, d, images, labels, noises,
                    class_loss=given.get('class_loss', 1.0))
  for name, value in want.items():
    np.testing.assert_allclose(logs[name], value.item(), rtol=1e-5)
  gan_steps.check_player(g, new.g, share=0.8)
  gan_steps.check_player(d, new.d, share=0.8)


@pytest.mark.parametrize('given, line', [
    ({'network': 'fashion'}, "network: 'fashion'; expected one of "
     "fashion_mnist, cifar. Did you mean 'fashion_mnist'"),
    ({'network': 'cifar'}, 'g_widths: a grid times 8 cannot be 28x28; expected '
     'a size divisible by 8, see config.data.resize'),
], ids=str)
def test_values_that_cannot_be_are_one_line(given, line):
  with pytest.raises(errors.InputError, match=rf'^x\.{line}') as e:
    registry.build('generators', 'acgan', given, 'x',
                   types.ImageSpec(28, 28, 1, 10))
  assert '\n' not in str(e.value)
