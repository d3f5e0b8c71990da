"""Residual networks beside the papers' sizes and plain PyTorch."""
import functools
import re

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.core import errors, registry, types
from jaxaug.nn import residual
from tests import quick

CIFAR = types.ImageSpec(32, 32, 3, 10)
TINY = types.ImageSpec(8, 10, 3, 5)
KEY = jax.random.key(0)
NETS = (('resnet', {'depth': 8}),
        ('resnet', {'depth': 8, 'preactivation': True, 'attention': 'se'}),
        ('resnet', {'depth': 11, 'block': 'bottleneck'}),
        ('wideresnet', {'depth': 10, 'dropout': 0.3}),
        ('resnext', {'depth': 11, 'width': 4}),
        ('dianet', {'depth': 11}))


def _build(name, spec=CIFAR, **given):
  return registry.build('classifiers', name, given, 'x', spec)


def _shapes(network, spec=CIFAR):
  image = jnp.zeros((1, *spec[:3]))
  return jax.eval_shape(lambda: network.init(KEY, image, train=False))


def _variables(network, spec):
  """Random values, nothing at its first; without a compilation."""
  rng = np.random.default_rng(0)
  def draw(s):
    if len(s.shape) > 1:
      return np.float32(rng.normal(size=s.shape)
                        * np.prod(s.shape[:-1]) ** -0.5)
    return np.float32(rng.uniform(0.5, 1.5, s.shape))
  return jax.tree.map(draw, _shapes(network, spec))


def _count(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


DEEP = {'depth': 164, 'block': 'bottleneck'}
PRE = DEEP | {'preactivation': True}
DIA = {'attention': 'dia'}


@pytest.mark.parametrize('name, given, classes, want', [
    ('resnet', {}, 10, 269_722), ('resnet', {'depth': 32}, 10, 464_154),
    ('resnet', {'depth': 56}, 10, 853_018),
    ('resnet', DEEP, 10, 1_704_154), ('resnet', DEEP, 100, 1_727_284),
    ('resnet', DEEP | DIA, 10, 1_923_002),
    ('dianet', {'base': 'resnet164'}, 100, 1_946_132),
    ('resnet', PRE, 10, 1_703_258), ('resnet', PRE, 100, 1_726_388),
    ('resnet', PRE | DIA, 10, 1_938_234),
    ('dianet', {'base': 'preresnet164'}, 100, 1_961_364),
    ('wideresnet', {}, 10, 12_049_370), ('wideresnet', {}, 100, 12_072_500),
    ('wideresnet', DIA, 10, 12_275_386),
    ('dianet', {'base': 'wrn52_4'}, 100, 12_298_516),
    ('wideresnet', {'depth': 28, 'widen': 10}, 10, 36_479_194),
    ('resnext', {}, 10, 32_092_074), ('resnext', {}, 100, 32_138_244),
    ('resnext', DIA, 10, 32_959_850),
    ('dianet', {'base': 'resnext101'}, 100, 33_006_020),
    ('resnet', DEEP | {'depth': 56}, 10, 591_322), ('dianet', {}, 10, 810_170),
], ids=str)
def test_parameters_are_the_papers_to_the_digit(name, given, classes, want):
  spec = CIFAR._replace(num_classes=classes)
  assert _count(_shapes(_build(name, spec, **given), spec)['params']) == want


@pytest.mark.parametrize('reduction, want', [
    (1, 864_640), (2, 434_112), (4, 218_848), (8, 111_216), (16, 57_400)])
def test_parameters_of_the_three_units(reduction, want):
  params = _shapes(_build('dianet', depth=11, reduction=reduction))['params']
  units = {k: v for k, v in params.items() if k.endswith('dia')}
  assert sorted(units) == [f'stage_{s}_dia' for s in range(3)]
  assert _count(units) == want


def test_squeeze_and_excitation_is_in_every_block():
  for base, extra in (({}, 0), ({'preactivation': True}, 2)):
    given = base | {'depth': 20, 'block': 'bottleneck'}
    plain, se = (_count(_shapes(_build('resnet', **given, **more))['params'])
                 for more in ({}, {'attention': 'se'}))
    each = [2 * c * (c // 16) + c // 16 + c + extra * c for c in (64, 128, 256)]
    assert se - plain == 2 * sum(each)


@pytest.mark.parametrize('name, given', NETS, ids=str)
def test_any_size_and_the_features_before_the_last_layer(name, given):
  for height, width, channels, classes in (
      (28, 28, 1, 10), (32, 32, 3, 100), (64, 64, 3, 22), (128, 128, 3, 2),
      (224, 224, 3, 1000), (21, 9, 1, 3)):
    spec = types.ImageSpec(height, width, channels, classes)
    network, seen = _build(name, spec, **given), []
    def catch(call, args, kwargs, context, seen=seen):
      if context.module.name == 'logits':
        assert isinstance(context.module, nn.Dense)
        seen.append(args[0].shape)
      return call(*args, **kwargs)
    def run(x, network=network, catch=catch):
      with nn.intercept_methods(catch):
        return network.init_with_output({'params': KEY, 'dropout': KEY}, x,
                                        train=True)[0]
    logits = jax.eval_shape(run, jax.ShapeDtypeStruct((2, *spec[:3]), 'f4'))
    assert (logits.shape, logits.dtype) == ((2, classes), jnp.float32)
    assert seen == [(2, network.widths[-1])]


# The same in PyTorch, out of the parameters of flax; float64.

def _torch():
  torch = pytest.importorskip('torch')
  torch.set_num_threads(1)
  return torch


class Theirs:
  """Layers by the names of their parameters; norms by the batch."""

  def __init__(self, params, stats=None):
    self.torch = torch = _torch()
    self.f = torch.nn.functional
    self.params = jax.tree.map(
        lambda x: torch.tensor(np.array(x), dtype=torch.float64,
                               requires_grad=True), params)
    self.stats = stats

  def conv(self, name, x, stride=1, groups=1):
    kernel = self.params[name]['kernel'].permute(3, 2, 0, 1)
    return self.f.conv2d(x, kernel, None, stride, kernel.shape[-1] // 2,
                         groups=groups)

  def norm(self, name, x, act=True):
    p, fixed = self.params[name], (None, None)
    if self.stats:
      fixed = (self.torch.tensor(np.float64(self.stats[name][k]))
               for k in ('mean', 'var'))
    y = self.f.batch_norm(x, *fixed, p['scale'], p['bias'], not self.stats)
    return self.f.relu(y) if act else y

  def dense(self, layer, x):
    return x @ layer['kernel'] + layer['bias']

  def lstm(self, p, s, h, c):
    """One step on [B, N]; gates in the order input, forget, cell, output."""
    gates = 0
    for side, v in (('input', s), ('hidden', h)):
      v = self.dense(p[f'{side}_reduce'], v).clamp(min=0)
      gates = gates + self.dense(p[f'{side}_expand'], v)
    n = s.shape[1]
    i, f, g, o = (gates[:, k * n:(k + 1) * n] for k in range(4))
    sigmoid = self.torch.sigmoid
    c = sigmoid(f) * c + sigmoid(i) * self.torch.tanh(g)
    return sigmoid(o) * sigmoid(c), c

  def excite(self, p, x):
    s = self.dense(p['reduce'], x.mean((2, 3))).clamp(min=0)
    s = self.torch.sigmoid(self.dense(p['expand'], s))
    return x * s[:, :, None, None]

  def head(self, x):
    return self.dense(self.params['logits'], x.mean((2, 3)))


def _basic(net, x):
  """ResNet with squeeze-and-excitation or without, shortcut A."""
  x = net.norm('stem_norm', net.conv('stem', x))
  for stage in range(3):
    name, stride = f'stage_{stage}_block_0', 1 + (stage > 0)
    h = net.norm(f'{name}_norm_0', net.conv(f'{name}_conv_0', x, stride))
    h = net.norm(f'{name}_norm_1', net.conv(f'{name}_conv_1', h), act=False)
    if f'{name}_se' in net.params:
      h = net.excite(net.params[f'{name}_se'], h)
    if stage:
      x = x[:, :, ::2, ::2]
      zeros = net.torch.zeros_like(x[:, :x.shape[1] // 2])
      x = net.torch.cat([zeros, x, zeros], 1)
    x = net.f.relu(h + x)
  return net.head(x)


def _resnext(net, x):
  """Two blocks a stage, two groups, DIA."""
  x = net.norm('stem_norm', net.conv('stem', x))
  for stage in range(3):
    h_state = c_state = 0 * net.params['logits']['kernel'][:, 0][
        None, :16 << stage].repeat(len(x), 1)
    for block in range(2):
      name = f'stage_{stage}_block_{block}'
      stride = 2 if stage and not block else 1
      h = net.norm(f'{name}_norm_0', net.conv(f'{name}_conv_0', x))
      h = net.norm(f'{name}_norm_1',
                   net.conv(f'{name}_conv_1', h, stride, groups=2))
      h = net.norm(f'{name}_norm_2', net.conv(f'{name}_conv_2', h), act=False)
      h_state, c_state = net.lstm(net.params[f'stage_{stage}_dia'],
                                  h.mean((2, 3)), h_state, c_state)
      if not block:
        x = net.norm(f'{name}_shortcut_norm',
                     net.conv(f'{name}_shortcut', x, stride), act=False)
      x = net.f.relu(h * h_state[:, :, None, None] + x)
  return net.head(x)


def _preactivation(net, x):
  """Bottlenecks with squeeze-and-excitation."""
  x = net.conv('stem', x)
  for stage in range(3):
    name, h, stride = f'stage_{stage}_block_0', x, 1 + (stage > 0)
    for i in range(3):
      h = net.norm(f'{name}_norm_{i}', h)
      h = net.conv(f'{name}_conv_{i}', h, stride if i == 1 else 1)
    h = net.norm(f'{name}_attention_norm', h, act=False)
    h = net.excite(net.params[f'{name}_se'], h)
    x = h + net.conv(f'{name}_shortcut', x, stride)
  return net.head(net.norm('norm', x))


def _wide(net, x):
  x = net.conv('stem', x)
  for stage in range(3):
    name, stride = f'stage_{stage}_block_0', 1 + (stage > 0)
    first = net.norm(f'{name}_norm_0', x)
    h = net.norm(f'{name}_norm_1', net.conv(f'{name}_conv_0', first, stride))
    x = net.conv(f'{name}_conv_1', h) + (
        net.conv(f'{name}_shortcut', first, stride))
  return net.head(net.norm('norm', x))


def _agree(got, want, tolerance=1e-5):
  scale = max(np.abs(np.asarray(x)).max() for x in jax.tree.leaves(want))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0,
                                 atol=tolerance * scale), got, want)


@pytest.mark.parametrize('name, given, theirs', [
    ('resnet', {'depth': 8, 'width': 8, 'attention': 'se', 'reduction': 2},
     _basic),
    ('resnext', {'depth': 20, 'cardinality': 2, 'width': 4, **DIA}, _resnext),
    ('resnet', {'depth': 11, 'block': 'bottleneck', 'width': 4,
                'preactivation': True, 'attention': 'se', 'reduction': 4},
     _preactivation),
    ('wideresnet', {'depth': 10, 'widen': 2}, _wide)],
    ids=['se', 'resnext_dia', 'preactivation_se', 'wide'])
def test_networks_and_their_gradients_are_those_of_pytorch(name, given, theirs):
  torch, rng = _torch(), np.random.default_rng(0)
  network = _build(name, TINY, **given)
  x = rng.uniform(-1, 1, (6, *TINY[:3])).astype(np.float32)
  weigh = rng.normal(size=(6, TINY.num_classes)).astype(np.float32)
  params = _variables(network, TINY)['params']

  @quick.jit
  def ours(params, x):
    def loss(params, x):
      logits = network.apply({'params': params}, x, train=True,
                             mutable=['batch_stats'])[0]
      return (logits * weigh).sum(), logits
    return jax.grad(loss, (0, 1), has_aux=True)(params, x)
  (grads, dx), logits = ours(params, x)
  net = Theirs(params)
  image = torch.tensor(np.float64(x), requires_grad=True)
  want = theirs(net, image.permute(0, 3, 1, 2))
  _agree(logits, want.detach().numpy())
  (want * torch.from_numpy(weigh)).sum().backward()
  _agree(dx, image.grad.numpy())
  _agree(grads, jax.tree.map(lambda p: p.grad.numpy(), net.params))


def test_dia_unit_over_several_blocks_is_that_of_pytorch():
  torch, rng = _torch(), np.random.default_rng(0)
  unit, xs = residual.DiaUnit(4), np.float32(rng.normal(size=(4, 3, 24)))
  params = jax.tree.map(
      lambda s: jnp.float32(rng.normal(size=s.shape) * 0.5),
      jax.eval_shape(lambda: unit.init(KEY, xs[0]))['params'])
  weigh = rng.normal(size=xs.shape)

  def ours(params, xs):
    state, out = None, []
    for x in xs:
      state = unit.apply({'params': params}, x, state)
      out.append(state[0])
    return (jnp.stack(out) * weigh).sum(), jnp.stack(out)
  grads, out = quick.jit(jax.grad(ours, (0, 1), has_aux=True))(params, xs)
  assert (out > 0).all() and (out < 1).all()
  net = Theirs(params)
  inputs = torch.tensor(np.float64(xs), requires_grad=True)
  h = c = torch.zeros(3, 24, dtype=torch.float64)
  want = []
  for x in inputs:
    h, c = net.lstm(net.params, x, h, c)
    want.append(h)
  want = torch.stack(want)
  _agree(out, want.detach().numpy())
  (want * torch.from_numpy(weigh)).sum().backward()
  _agree(grads, (jax.tree.map(lambda p: p.grad.numpy(), net.params),
                 inputs.grad.numpy()))


def test_convolutions_start_as_he_et_al_say():
  network = _build('resnext', TINY, depth=11, cardinality=4, width=8)
  taps = {'stage_2_block_0_conv_1': 9, 'stage_2_block_0_conv_2': 1,
          'stage_2_block_0_shortcut': 1}
  @quick.jit
  def kernels():
    params = network.init(KEY, jnp.zeros((1, *TINY[:3])), train=False)['params']
    return {name: params[name]['kernel'] for name in taps}
  for name, kernel in kernels().items():
    assert kernel.shape[-1] == 128
    np.testing.assert_allclose(kernel.std(), (2 / taps[name] / 128) ** 0.5,
                               rtol=0.03)


def test_half_precision_computes_alike():
  images = np.random.default_rng(0).uniform(-1, 1, (4, *TINY[:3]))
  nets = [_build('resnet', TINY, depth=11, block='bottleneck', width=8,
                 preactivation=True, attention='dia', dtype=dtype)
          for dtype in ('float32', 'bfloat16')]
  variables = _variables(nets[0], TINY)
  a, b = (quick.jit(functools.partial(n.apply, train=False))(
      variables, np.float32(images)) for n in nets)
  assert a.dtype == b.dtype == jnp.float32 and not np.array_equal(a, b)
  np.testing.assert_allclose(a, b, atol=0.02 * np.abs(a).max())


@pytest.mark.parametrize('attention', ['none', 'se', 'dia'])
@pytest.mark.parametrize('family', [0, 1], ids=['resnet', 'wide'])
def test_norms_and_the_stream_between_blocks_are_float32(family, attention):
  name, given = (('resnet', {'depth': 20, 'block': 'bottleneck',
                             'preactivation': True}),
                 ('wideresnet', {'depth': 16}))[family]
  network, seen = _build(name, TINY, attention=attention, dtype='bfloat16',
                         **given), {}
  def catch(call, args, kwargs, context):
    y = call(*args, **kwargs)
    if context.method_name == '__call__' and context.module.name:
      seen[context.module.name] = (args[0].dtype, jax.tree.leaves(y)[0].dtype)
    return y
  with nn.intercept_methods(catch):
    assert {x.dtype for x in jax.tree.leaves(_shapes(network, TINY))} == {
        jnp.dtype('float32')}
  for name, (into, out) in seen.items():
    half = re.search('stem|conv|shortcut', name)
    assert out == (jnp.bfloat16 if half else jnp.float32), name
    if re.search('block_._norm_0|^norm', name):  # What the stream runs into.
      assert into == jnp.float32, name


def test_dropout_is_of_training_alone_and_by_its_key():
  network = _build('wideresnet', TINY, depth=10, widen=1, dropout=0.5)
  x = np.random.default_rng(0).uniform(-1, 1, (2, *TINY[:3]))
  variables = _variables(network, TINY)
  train = quick.jit(lambda key: network.apply(
      variables, x, train=True, mutable=['batch_stats'],
      rngs={'dropout': key})[0])
  one, again, other = map(train, jax.random.split(KEY, 3)[jnp.array([0, 0, 1])])
  np.testing.assert_array_equal(one, again)
  assert not np.array_equal(one, other)
  # Without a key.
  jax.eval_shape(functools.partial(network.apply, train=False), variables, x)


@pytest.mark.parametrize('name, given, line', [
    ('resnet', {'depth': 22}, r'depth: 22; expected 6 n \+ 2'),
    ('resnet', {'depth': 20, 'block': 'bottlenek'},
     "block: 'bottlenek'; .* Did you mean 'bottleneck'"),
    ('resnet', {'depth': 18, 'block': 'bottleneck'},
     r'depth: 18; expected 9 n \+ 2'),
    ('resnet', {'depth': 2}, 'depth: 2; '),
    ('resnet', {'preactivation': 'yes'}, "preactivation: 'yes'; "),
    ('resnet', {'attention': 'lstm'}, "attention: 'lstm'; expected one of"),
    ('resnet', {'reduction': -1}, 'reduction: -1; '),
    ('resnet', {'weights': 'a.npz', 'attention': 'se'}, "weights: 'a.npz'; "),
    ('resnet', {'weights': 'a.npz', 'preactivation': True}, 'weights: '),
    ('resnet', {'weights': 'a.npz', 'depth': 11, 'block': 'bottleneck'},
     'weights: '),
    ('resnet', {'weights': 'none.npz'},
     'weights: none.npz: there is no such file'),
    ('wideresnet', {'depth': 20}, r'depth: 20; expected 6 n \+ 4'),
    ('wideresnet', {'widen': 0}, 'widen: 0; '),
    ('wideresnet', {'dropout': 1.0}, r'dropout: 1\.0; '),
    ('resnext', {'cardinality': 0}, 'cardinality: 0; '),
    ('resnext', {'width': 1.5}, r'width: 1\.5; '),
    ('resnext', {'dtype': 'float16'}, "dtype: 'float16'; "),
    ('dianet', {'base': 'resnet'}, "base: 'resnet'; expected one of resnet56"),
    ('dianet', {'reduction': 0}, 'reduction: 0; '),
    ('dianet', {'depth': -9}, 'depth: -9; '),
    ('dianet', {'dropout': 0.3}, r'dropout: 0\.3; '),
    ('dianet', {'stem_stride': 0}, 'stem_stride: 0; '),
], ids=str)
def test_values_that_cannot_be_are_one_line(name, given, line):
  with pytest.raises(errors.InputError, match=rf'^x\.{line}') as e:
    _build(name, **given)
  assert '\n' not in str(e.value)


def _arrays(classes=5):
  """A file of depth 8 and width 4, as PyTorch names and lays out arrays."""
  rng = np.random.default_rng(0)
  def norm(name, width):
    return {f'{name}.{key}': rng.uniform(0.5, 1.5, width).astype(np.float32)
            for key in ('weight', 'bias', 'running_mean', 'running_var')} | {
                f'{name}.num_batches_tracked': np.int64(7)}
  def conv(name, inputs, width):
    return {name: rng.normal(size=(width, inputs, 3, 3)).astype(np.float32)}
  out = conv('conv1.weight', 3, 4) | norm('bn1', 4)
  for stage, width in enumerate((4, 8, 16), 1):
    inputs = width if stage == 1 else width // 2
    for i, channels in ((1, inputs), (2, width)):
      out |= conv(f'layer{stage}.0.conv{i}.weight', channels, width)
      out |= norm(f'layer{stage}.0.bn{i}', width)
  return out | {
      'linear.weight': rng.normal(size=(classes, 16)).astype(np.float32),
      'linear.bias': rng.normal(size=classes).astype(np.float32)}


def _start(network, spec):
  """Returns (pretrained, fresh) variables."""
  @quick.jit
  def both(key):
    fresh = network.init(key, jnp.zeros((1, *spec[:3])), train=False)
    return network.pretrained(fresh), fresh
  return both(KEY)


def test_pretrained_weights_give_the_logits_of_pytorch(tmp_path):
  torch, arrays, path = _torch(), _arrays(), str(tmp_path / 'a.npz')
  np.savez(path, **arrays)
  given = {'depth': 8, 'width': 4, 'weights': path}
  network = _build('resnet', TINY, **given)
  # Of fixed values here, which are left where there is no file.
  fresh = _variables(network, TINY)
  variables = network.pretrained(fresh)
  assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, variables)
  plain = _build('resnet', TINY, **(given | {'weights': ''}))
  assert plain.pretrained(fresh) is fresh

  x = np.random.default_rng(1).uniform(-1, 1, (2, *TINY[:3]))
  rgb = (torch.tensor(x) + 1) / 2
  rgb = ((rgb - torch.tensor([0.485, 0.456, 0.406]))
         / torch.tensor([0.229, 0.224, 0.225])).permute(0, 3, 1, 2)
  logits = quick.jit(functools.partial(network.apply, train=False))(
      variables, np.float32(x))
  net = Theirs(variables['params'], variables['batch_stats'])
  _agree(logits, _basic(net, rgb).detach().numpy())
  # Not by our own names: what the file says stands where it belongs.
  named = {
      'stem/kernel': arrays['conv1.weight'].transpose(2, 3, 1, 0),
      'stage_1_block_0_conv_0/kernel':
          arrays['layer2.0.conv1.weight'].transpose(2, 3, 1, 0),
      'stage_2_block_0_norm_1/scale': arrays['layer3.0.bn2.weight'],
      'stage_2_block_0_norm_1/bias': arrays['layer3.0.bn2.bias'],
      'stage_2_block_0_norm_1/mean': arrays['layer3.0.bn2.running_mean'],
      'stem_norm/var': arrays['bn1.running_var'],
      'logits/kernel': arrays['linear.weight'].T,
      'logits/bias': arrays['linear.bias']}
  flat = {}
  for part in variables.values():
    flat |= flax.traverse_util.flatten_dict(part, sep='/')
  for name, want in named.items():
    np.testing.assert_array_equal(flat[name], want)


def test_another_number_of_classes_and_grey_images(tmp_path):
  path = str(tmp_path / 'a.npz')
  np.savez(path, **_arrays(classes=7))
  spec = TINY._replace(channels=1)
  network = _build('resnet', spec, depth=8, width=4, weights=path)
  variables, fresh = _start(network, spec)
  same = jax.tree.map(np.array_equal, variables['params'], fresh['params'])
  assert all(same.pop('logits').values()) and not any(jax.tree.leaves(same))
  grey = np.random.default_rng(0).uniform(-1, 1, (2, *spec[:3]))
  apply = quick.jit(functools.partial(network.apply, train=False))
  np.testing.assert_array_equal(apply(variables, np.float32(grey)),
                                apply(variables, np.float32(grey).repeat(3, 3)))


@pytest.mark.parametrize('edit, line', [
    ({'bn1.bias': None}, "array 'bn1.bias' is missing; expected those of depth "
     '8 and width 4'),
    ({'linear.bias': None}, "array 'linear.bias' is missing"),
    ({'layer1.1.conv1.weight': np.ones(3)},
     "array 'layer1.1.conv1.weight' is not one of this network"),
    ({'bn1.bias': np.ones((4, 1))}, r"array 'bn1.bias' is \[4, 1\], not \[4\]"),
    ({'linear.bias': np.float32(1)}, r"array 'linear\.\w+' is \["),
    ({'linear.bias': np.ones(7)},
     r"array 'linear.weight' is \[5, 16\], not \[7, 16\]"),
    ({'conv1.weight': np.ones((4, 3, 3, 3), int)},
     "array 'conv1.weight' is not of finite floats"),
    ({'bn1.bias': np.full(4, np.nan)}, "'bn1.bias' is not of finite floats"),
], ids=str)
def test_files_that_do_not_fit_are_one_line(edit, line, tmp_path):
  path = tmp_path / 'a.npz'
  arrays = {k: v for k, v in (_arrays() | edit).items() if v is not None}
  np.savez(path, **arrays)
  where = re.escape(f'x.weights: {path}: ')
  with pytest.raises(errors.InputError, match=rf'^{where}.*{line}') as e:
    _build('resnet', TINY, depth=8, width=4, weights=str(path))
  assert '\n' not in str(e.value)


@pytest.mark.parametrize('content', [b'', b'PK\x03\x04 no', b'text'])
def test_damaged_files_are_one_line(content, tmp_path):
  path = tmp_path / 'a.npz'
  path.write_bytes(content)
  with pytest.raises(errors.InputError, match='damaged or not an .npz') as e:
    _build('resnet', TINY, depth=8, width=4, weights=str(path))
  assert '\n' not in str(e.value)
  np.save(tmp_path / 'b.npy', np.ones(3))
  with pytest.raises(errors.InputError, match='not an .npz file'):
    _build('resnet', TINY, depth=8, width=4, weights=str(tmp_path / 'b.npy'))


@pytest.mark.parametrize('file, depth, other, accuracy', [
    ('cifar10_resnet20-12fca82f.npz', 20, 56, 91.64),
    ('cifar10_resnet56-4bfd9763.npz', 56, 20, 92.72)])
def test_trained_networks_keep_their_accuracy(file, depth, other, accuracy,
                                              shared_data):
  path = shared_data / 'weights' / file
  pixels = shared_data / 'cifar10_lossless_part.npz'
  for needed in (path, pixels):
    if not needed.is_file():
      pytest.skip(f'no {needed}')
  with np.load(pixels) as data:
    images, labels = data['x_test'], data['y_test']
  assert len(images) == 1017
  network = _build('resnet', depth=depth, weights=str(path))
  predict = jax.jit(lambda v, x: network.apply(v, x / 127.5 - 1, train=False))
  variables = network.pretrained(_variables(network, CIFAR))
  logits = predict(variables, np.float32(images))
  right = logits.argmax(1) == labels
  assert abs(int(right.sum()) - accuracy / 100 * 1017) < 1.5
  with pytest.raises(errors.InputError, match=rf'expected .* depth {other} '):
    _build('resnet', depth=other, weights=str(path))
