"""The plain classifiers: published sizes, and the same networks in PyTorch."""
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.classifiers import alexnet, cnn, mobilenet, small_cnn, vgg
from jaxaug.core import errors, registry, types
from jaxaug.nn import layers
from tests import quick
from tests.torch_twins import classifiers

KEY = jax.random.key(0)
CIFAR = types.ImageSpec(32, 32, 3, 10)
IMAGENET = types.ImageSpec(224, 224, 3, 1000)
SIZES = [(28, 28, 1), (32, 32, 3), (64, 64, 1), (40, 72, 3), (128, 128, 3),
         (224, 224, 3)]


def _shapes(net, batch=2):
  """Returns (variables, logits, features), all of them only shapes."""
  def run(key):
    features = []
    def look(call, args, kwargs, context):
      if context.module.name == 'logits':
        features.append(args[0])
      return call(*args, **kwargs)
    with nn.intercept_methods(look):
      logits, variables = net.init_with_output(
          key, jnp.zeros((batch, *net.spec[:3])), train=False)
    return variables, logits, features[-1]
  return jax.eval_shape(run, KEY)


@pytest.mark.parametrize('name, spec, given, count', [
    ('mobilenet', CIFAR, {}, 3_217_226),
    ('mobilenet', IMAGENET, {}, 3_206_976 + 1000 * 1025),
    ('mobilenet', IMAGENET, {'width': 0.25}, 470_072),
    ('mobilenet', IMAGENET, {'version': 2}, 3_504_872),
    ('alexnet', CIFAR, {}, 2_472_266),
    ('alexnet', IMAGENET, {}, 61_100_840),
    ('vgg', CIFAR, {}, 14_728_266),
    ('vgg', CIFAR, {'batch_norm': False}, 14_719_818),
    ('vgg', CIFAR, {'depth': 19}, 20_040_522),
    ('vgg', IMAGENET, {'batch_norm': False}, 138_357_544),
    ('vgg', IMAGENET, {'batch_norm': False, 'depth': 11}, 132_863_336),
    ('small_cnn', types.ImageSpec(128, 128, 3, 2), {}, 50_417),
    ('cnn', CIFAR, {}, 258_058),
], ids=str)
def test_as_many_parameters_as_published(name, spec, given, count):
  build = registry.find('classifiers', name).build
  params = _shapes(build(spec, **given))[0]['params']
  assert sum(x.size for x in jax.tree.leaves(params)) == count


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('name, given, small, large', [
    ('mobilenet', {}, 1024, 1024), ('mobilenet', {'version': 2}, 1280, 1280),
    ('alexnet', {}, 256, 4096), ('vgg', {'depth': 19}, 512, 4096),
    ('small_cnn', {}, 20, 20)])
def test_any_size_has_logits_of_a_feature_vector(name, given, small, large,
                                                 size):
  build = registry.find('classifiers', name).build
  net = build(types.ImageSpec(*size, 7), **given)
  variables, logits, features = _shapes(net)
  assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
  assert features.shape == (2, large if min(size[:2]) >= 128 else small)
  assert set(variables['params']['logits']) == {'kernel', 'bias'}


@pytest.mark.parametrize('version', [1, 2])
@pytest.mark.parametrize('height, width, strides, total', [
    (28, 28, 'auto', 8), (63, 300, 'auto', 8), (64, 64, 'auto', 16),
    (300, 127, 'auto', 16), (128, 128, 'auto', 32), (32, 32, '16', 16),
    (32, 32, 32, 32)])
def test_strides_that_are_left_out_are_the_first(version, height, width,
                                                 strides, total):
  def build(strides):
    return mobilenet.build(types.ImageSpec(height, width, 3, 10),
                           version=version, strides=strides)
  def all_of(net):
    return [net.stem[1]] + [stride for *_, stride in net.blocks]
  net, whole = all_of(build(strides)), all_of(build('32'))
  assert math.prod(net) == total and math.prod(whole) == 32
  first = next(i for i, stride in enumerate(net) if stride == 2)
  assert net[first:] == whole[first:]


def test_widths_of_v2_are_multiples_of_eight():
  def widths(width):
    net = mobilenet.build(IMAGENET, version=2, width=width)
    return [net.stem[0], *dict.fromkeys(c for _, c, _ in net.blocks), net.last]
  # 0.35 of 24 is 8.4 -> 8; of 32 is 11.2 -> 16, for 8 would lose over a tenth.
  assert widths(1.0) == [32, 16, 24, 32, 64, 96, 160, 320, 1280]
  assert widths(0.35) == [16, 8, 16, 24, 32, 56, 112, 1280]
  assert widths(1.4) == [48, 24, 32, 48, 88, 136, 224, 448, 1792]


def _net(module, size, **fields):
  return module(types.ImageSpec(*size, 3), dropout=0.0, dtype=jnp.float32,
                **fields)


# Small ones of the same code, by what is told apart in it.
SMALL = {
    'v1': _net(mobilenet.MobileNet, (11, 12, 3), stem=(6, 2),
               blocks=((0, 8, 1), (0, 10, 2)), last=0),
    'v2': _net(mobilenet.MobileNet, (10, 9, 1), stem=(6, 1),
               blocks=((1, 4, 1), (6, 8, 2), (6, 8, 1)), last=9),
    'alexnet': _net(alexnet.AlexNet, (32, 41, 3), widths=(5, 6, 7, 6, 4),
                    hidden=0),
    'alexnet_imagenet': _net(alexnet.AlexNet, (64, 70, 1),
                             widths=(5, 6, 7, 6, 4), hidden=11),
    'vgg': _net(vgg.Vgg, (9, 7, 3), stages=(2, 1, 1), widths=(4, 5, 6),
                hidden=0, batch_norm=True),
    'vgg_imagenet': _net(vgg.Vgg, (17, 37, 1), stages=(1, 2), widths=(4, 5),
                         hidden=8, batch_norm=False),
    'small_cnn': small_cnn.SmallCnn(
        types.ImageSpec(17, 24, 3, 3), widths=(6, 5, 4), hidden=(9, 7),
        dtype=jnp.float32),
    'cnn': cnn.Cnn(types.ImageSpec(17, 24, 3, 3), widths=(6, 5), hidden=9,
                   dtype=jnp.float32),
}


@pytest.mark.parametrize('name', SMALL)
def test_outputs_and_gradients_are_those_of_pytorch(name):
  net = SMALL[name]
  # ReLU6 cuts some.
  params = classifiers.variables(net, high=3)['params']
  images = np.random.default_rng(1).uniform(-1, 1, (5, *net.spec[:3]))
  classifiers.check(net, params, np.float32(images))


@pytest.mark.parametrize('size', [6, 7])
@pytest.mark.parametrize('shape', [(1, 2), (6, 7), (5, 13), (9, 27)])
def test_adaptive_mean_is_the_one_of_pytorch(size, shape):
  torch = pytest.importorskip('torch')
  x = np.float32(np.random.default_rng(0).normal(size=(2, *shape, 3)))
  want = torch.nn.functional.adaptive_avg_pool2d(
      torch.from_numpy(x).permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
  np.testing.assert_allclose(layers.adaptive_mean(jnp.asarray(x), size), want,
                             atol=1e-6)


@pytest.mark.parametrize('name', ['v2', 'vgg'])
def test_half_precision_is_near_in_training(name):
  """By the norms of the batch, which are float32."""
  net = SMALL[name]
  variables = classifiers.variables(net)
  x = np.float32(np.random.default_rng(1).uniform(-1, 1, (5, *net.spec[:3])))
  a, b = (quick.jit(lambda v, m=m: m.apply(
      v, x, train=True, mutable=['batch_stats'])[0])(variables)
          for m in (net, net.clone(dtype=jnp.bfloat16)))
  assert b.dtype == jnp.float32 and not np.array_equal(a, b)
  np.testing.assert_allclose(a, b, atol=0.03 * np.abs(a).max())


@pytest.mark.parametrize('name', ['v1', 'alexnet_imagenet', 'vgg_imagenet'])
def test_dropout_is_drawn_in_training_only(name):
  net = SMALL[name].clone(dropout=0.5)
  variables = classifiers.variables(net)
  x = np.float32(np.random.default_rng(1).uniform(-1, 1, (5, *net.spec[:3])))
  train = quick.jit(lambda key: net.apply(
      variables, x, train=True, mutable=['batch_stats'],
      rngs={'dropout': key})[0])
  one, other = train(KEY), train(jax.random.key(1))
  assert not np.array_equal(one, other)
  np.testing.assert_array_equal(one, train(KEY))
  # Without training it asks for no key.
  jax.eval_shape(lambda x: net.apply(variables, x, train=False), x)


@pytest.mark.parametrize('name, given, size, start', [
    ('vgg', {}, (15, 40), 'model: vgg needs images of at least 16x16 pixels'),
    ('alexnet', {}, (40, 15),
     'model: alexnet needs images of at least 16x16 pixels for head .cifar'),
    ('alexnet', {'head': 'imagenet'}, (62, 80),
     'model: alexnet needs images of at least 63x63 pixels for head .imagenet'),
    ('small_cnn', {}, (7, 9), 'model: small_cnn needs images of at least 8x8'),
    ('vgg', {'depth': 17}, (32, 32), 'depth: 17; expected one of 11, 13, 16'),
    ('vgg', {'head': 'imagenett'}, (32, 32), 'head: .* Did you mean .imagenet'),
    ('mobilenet', {'version': 3}, (32, 32), 'version: 3; expected one of 1, 2'),
])
def test_what_cannot_be_is_refused_in_one_line(name, given, size, start):
  spec = types.ImageSpec(*size, 3, 10)
  with pytest.raises(errors.InputError, match=rf'^config\.x\.{start}') as e:
    registry.build('classifiers', name, given, 'config.x', spec)
  assert '\n' not in str(e.value)
