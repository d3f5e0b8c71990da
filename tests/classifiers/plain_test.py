"""The plain classifiers: published sizes, and the same networks in PyTorch."""
import math

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.classifiers import alexnet, mobilenet, small_cnn, vgg
from jaxaug.core import errors, registry, types
from jaxaug.nn import layers

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


# The same networks by hand, in float64; weights stay in the layout of flax.


def _conv(x, p, name, stride=1, padding=None, groups=1):
  functional = pytest.importorskip('torch').nn.functional
  kernel = p[name, 'kernel'].permute(3, 2, 0, 1)
  if padding is None:  # TensorFlow's: at even sizes a stride of 2 pads one end.
    low = [0 if stride == 2 and n % 2 == 0 else k // 2
           for n, k in zip(x.shape[2:], kernel.shape[2:], strict=True)]
    high = [k // 2 for k in kernel.shape[2:]]
    x, padding = functional.pad(x, (low[1], high[1], low[0], high[0])), 0
  return functional.conv2d(x, kernel, p.get((name, 'bias')), stride, padding,
                           groups=groups)


def _norm(x, p, name, epsilon):
  functional = pytest.importorskip('torch').nn.functional
  return functional.batch_norm(x, None, None, p[name, 'scale'],
                               p[name, 'bias'], training=True, eps=epsilon)


def _dense(x, p, name):
  return x @ p[name, 'kernel'] + p[name, 'bias']


def _flat(x):
  return x.permute(0, 2, 3, 1).reshape(len(x), -1)


def _mobilenet(stem, blocks, last):
  def forward(x, p):
    def unit(x, name, *how, act=True):
      x = _norm(_conv(x, p, name, *how), p, f'{name}_norm', 1e-3)
      return x.clamp(0, 6) if act else x
    x = unit(x, 'stem', stem[1])
    for i, (expansion, channels, stride) in enumerate(blocks):
      h, name = x, f'block_{i}'
      if expansion > 1:
        h = unit(h, f'{name}_expand')
      h = unit(h, f'{name}_depthwise', stride, None, h.shape[1])
      h = unit(h, f'{name}_project', act=not expansion)
      residual = expansion and stride == 1 and channels == x.shape[1]
      x = x + h if residual else h
    if last:
      x = unit(x, 'last')
    return _dense(x.mean((2, 3)), p, 'logits')
  return mobilenet.MobileNet, dict(stem=stem, blocks=blocks, last=last,
                                   dropout=0.0), forward


def _head(x, p, side):
  """Two hidden layers of `side` x `side` means; 0: a mean and none."""
  functional = pytest.importorskip('torch').nn.functional
  if not side:
    return _dense(x.mean((2, 3)), p, 'logits')
  x = _flat(functional.adaptive_avg_pool2d(x, side))
  x = _dense(_dense(x, p, 'dense_0').relu(), p, 'dense_1').relu()
  return _dense(x, p, 'logits')


def _alexnet(hidden):
  def forward(x, p):
    functional = pytest.importorskip('torch').nn.functional
    for i, (stride, padding) in enumerate(
        [(4, 2 if hidden else 5), (1, 2), (1, 1), (1, 1), (1, 1)]):
      x = _conv(x, p, f'conv_{i}', stride, padding).relu()
      if i in (0, 1, 4):
        x = functional.max_pool2d(x, 3 if hidden else 2, 2)
    return _head(x, p, 6 if hidden else 0)
  return alexnet.AlexNet, dict(widths=(5, 6, 7, 6, 4), hidden=hidden,
                               dropout=0.0), forward


def _vgg(stages, batch_norm, hidden):
  def forward(x, p):
    functional = pytest.importorskip('torch').nn.functional
    for stage, n in enumerate(stages):
      for i in range(n):
        x = _conv(x, p, f'conv_{stage}_{i}')
        if batch_norm:
          x = _norm(x, p, f'norm_{stage}_{i}', 1e-5)
        x = x.relu()
      if min(x.shape[2:]) > 1:
        x = functional.max_pool2d(x, 2)
    return _head(x, p, 7 if hidden else 0)
  return vgg.Vgg, dict(stages=stages, widths=(4, 5, 6)[:len(stages)],
                       hidden=hidden, batch_norm=batch_norm,
                       dropout=0.0), forward


def _small_cnn():
  def forward(x, p):
    functional = pytest.importorskip('torch').nn.functional
    for i in range(3):
      x = functional.max_pool2d(_conv(x, p, f'conv_{i}').relu(), 2)
    x = _dense(_dense(_flat(x), p, 'dense_0').relu(), p, 'dense_1').relu()
    return _dense(x, p, 'logits')
  return small_cnn.SmallCnn, dict(widths=(6, 5, 4), hidden=(9, 7)), forward


def _numbers(network, given, size, dtype=jnp.float32):
  """Returns (module, variables, images); no weight is 0 or 1."""
  net = network(types.ImageSpec(*size, 3), dtype=dtype, **given)
  rng = np.random.default_rng(0)

  def draw(x):
    if x.ndim > 1:
      return np.float32(rng.normal(0, (2 / math.prod(x.shape[:-1])) ** 0.5,
                                   x.shape))
    return np.float32(rng.uniform(0.5, 3, x.shape))  # ReLU6 cuts some.
  shapes = _shapes(net)[0]
  variables = {'params': jax.tree.map(draw, shapes['params'])}
  if 'batch_stats' in shapes:
    variables['batch_stats'] = jax.tree.map(
        lambda x: np.ones(x.shape, np.float32), shapes['batch_stats'])
  return net, variables, np.float32(rng.uniform(-1, 1, (5, *size)))


@pytest.mark.parametrize('case, size', [
    (_mobilenet((6, 2), ((0, 8, 1), (0, 10, 2)), 0), (11, 12, 3)),
    (_mobilenet((6, 1), ((1, 4, 1), (6, 8, 2), (6, 8, 1)), 9), (10, 9, 1)),
    (_alexnet(0), (32, 41, 3)), (_alexnet(11), (64, 70, 1)),
    (_vgg((2, 1, 1), True, 0), (9, 7, 3)),
    (_vgg((1, 2), False, 8), (17, 37, 1)),
    (_small_cnn(), (17, 24, 3)),
], ids=['v1', 'v2', 'alexnet', 'alexnet_imagenet', 'vgg', 'vgg_imagenet',
        'small_cnn'])
def test_outputs_and_gradients_are_those_of_pytorch(case, size):
  torch = pytest.importorskip('torch')
  torch.set_num_threads(1)
  network, given, forward = case
  net, variables, images = _numbers(network, given, size)
  weigh = np.random.default_rng(2).normal(size=(5, 3))

  def loss(params, x):
    logits, _ = net.apply({**variables, 'params': params}, x, train=True,
                          mutable=['batch_stats'])
    return (logits * weigh).sum(), logits
  (_, logits), (grads, dx) = jax.jit(jax.value_and_grad(
      loss, (0, 1), has_aux=True))(variables['params'], images)

  def tensor(x):
    return torch.tensor(np.asarray(x), dtype=torch.float64, requires_grad=True)
  flat = flax.traverse_util.flatten_dict(variables['params'])
  p, x = {k: tensor(v) for k, v in flat.items()}, tensor(images)
  want = forward(x.permute(0, 3, 1, 2), p)
  (want * torch.from_numpy(weigh)).sum().backward()
  pairs = [(logits, want.detach()), (dx, x.grad)] + [
      (v, p[k].grad) for k, v in
      flax.traverse_util.flatten_dict(grads).items()]
  # A bias in front of a norm has no gradient but rounding.
  floor = 0.3 * max(np.abs(w.numpy()).max() for _, w in pairs[2:])
  for got, w in pairs:
    scale = max(np.abs(w.numpy()).max(), floor)
    assert np.abs(np.asarray(got) - w.numpy()).max() < 1e-5 * scale


@pytest.mark.parametrize('size', [6, 7])
@pytest.mark.parametrize('shape', [(1, 2), (6, 7), (5, 13), (9, 27)])
def test_adaptive_mean_is_the_one_of_pytorch(size, shape):
  torch = pytest.importorskip('torch')
  x = np.float32(np.random.default_rng(0).normal(size=(2, *shape, 3)))
  want = torch.nn.functional.adaptive_avg_pool2d(
      torch.from_numpy(x).permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
  np.testing.assert_allclose(layers.adaptive_mean(jnp.asarray(x), size), want,
                             atol=1e-6)


@pytest.mark.parametrize('case, size', [
    (_mobilenet((6, 1), ((1, 4, 1), (6, 8, 2), (6, 8, 1)), 9), (10, 9, 1)),
    (_alexnet(0), (16, 24, 3)), (_vgg((1, 1), True, 8), (16, 16, 3)),
    (_small_cnn(), (8, 9, 1)),
], ids=['mobilenet', 'alexnet', 'vgg', 'small_cnn'])
def test_half_precision_is_close(case, size):
  network, given, _ = case
  (wide, variables, x), (half, *_) = (
      _numbers(network, given, size, dtype)
      for dtype in (jnp.float32, jnp.bfloat16))
  a, b = (jax.jit(lambda v, m=m: m.apply(v, x, train=True,
                                         mutable=['batch_stats'])[0])(variables)
          for m in (wide, half))
  assert b.dtype == jnp.float32 and not np.array_equal(a, b)
  np.testing.assert_allclose(a, b, atol=0.03 * np.abs(a).max())


@pytest.mark.parametrize('case, size', [
    (_mobilenet((6, 1), ((0, 8, 1),), 0), (8, 8, 1)),
    (_alexnet(16), (64, 64, 1)), (_vgg((1,), True, 16), (16, 16, 1)),
], ids=['mobilenet', 'alexnet', 'vgg'])
def test_dropout_is_drawn_in_training_only(case, size):
  network, given, _ = case
  net, variables, x = _numbers(network, given | {'dropout': 0.5}, size)
  train = jax.jit(lambda key: net.apply(
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
    ('small_cnn', {'widths': ()}, (32, 32), 'widths: '),
    ('small_cnn', {'hidden': (30, 0)}, (32, 32), 'hidden: '),
    ('vgg', {'depth': 17}, (32, 32), 'depth: 17; expected one of 11, 13, 16'),
    ('vgg', {'batch_norm': 'yes'}, (32, 32), 'batch_norm: '),
    ('vgg', {'head': 'imagenett'}, (32, 32), 'head: .* Did you mean .imagenet'),
    ('alexnet', {'dropout': 1.0}, (32, 32), 'dropout: '),
    ('mobilenet', {'version': 3}, (32, 32), 'version: 3; expected one of 1, 2'),
    ('mobilenet', {'width': 0}, (32, 32), 'width: '),
    ('mobilenet', {'strides': '4'}, (32, 32), 'strides: '),
    ('mobilenet', {'dropout': -0.1}, (32, 32), 'dropout: '),
    *((name, {'dtype': 'float16'}, (32, 32), 'dtype: ')
      for name in ('alexnet', 'mobilenet', 'small_cnn', 'vgg')),
])
def test_what_cannot_be_is_refused_in_one_line(name, given, size, start):
  spec = types.ImageSpec(*size, 3, 10)
  with pytest.raises(errors.InputError, match=rf'^config\.x\.{start}') as e:
    registry.build('classifiers', name, given, 'config.x', spec)
  assert '\n' not in str(e.value)
