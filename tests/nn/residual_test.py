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
from tests.torch_twins import classifiers

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


def _count(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


DEEP = {'depth': 164, 'block': 'bottleneck'}
PRE = DEEP | {'preactivation': True}
DIA = {'attention': 'dia'}


@pytest.mark.parametrize('name, given, classes, want', [
    ('resnet', {}, 10, 269_722), ('resnet', {'depth': 56}, 10, 853_018),
    ('dianet', {'base': 'resnet164'}, 100, 1_946_132),
    ('dianet', {'base': 'preresnet164'}, 100, 1_961_364),
    ('dianet', {'base': 'wrn52_4'}, 100, 12_298_516),
    ('wideresnet', {'depth': 28, 'widen': 10}, 10, 36_479_194),
    ('dianet', {'base': 'resnext101'}, 100, 33_006_020),
    ('wideresnet', {}, 10, 12_049_370), ('resnext', {}, 10, 32_092_074),
    ('resnet', DEEP | {'depth': 56}, 10, 591_322), ('dianet', {}, 10, 810_170),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in [
        ('resnet', {'depth': 32}, 10, 464_154),
        ('resnet', DEEP, 10, 1_704_154), ('resnet', PRE, 100, 1_726_388),
        ('resnet', DEEP, 100, 1_727_284), ('resnet', DEEP | DIA, 10, 1_923_002),
        ('resnet', PRE, 10, 1_703_258), ('resnet', PRE | DIA, 10, 1_938_234),
        ('wideresnet', {}, 100, 12_072_500),
        ('wideresnet', DIA, 10, 12_275_386),
        ('resnext', {}, 100, 32_138_244), ('resnext', DIA, 10, 32_959_850)])
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


SIZES = ((28, 28, 1, 10), (224, 224, 3, 1000), (21, 9, 1, 3),
         (32, 32, 3, 100), (64, 64, 3, 22), (128, 128, 3, 2))


@pytest.mark.parametrize('name, given, sizes', [
    (*NETS[0], SIZES), *((*net, SIZES[:3]) for net in NETS[1:])], ids=str)
def test_any_size_and_the_features_before_the_last_layer(name, given, sizes):
  for height, width, channels, classes in sizes:
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


def _agree(got, want, tolerance=1e-5):
  scale = max(np.abs(np.asarray(x)).max() for x in jax.tree.leaves(want))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0,
                                 atol=tolerance * scale), got, want)


@pytest.mark.parametrize('name, given', [
    ('resnet', {'depth': 8, 'width': 8, 'attention': 'se', 'reduction': 2}),
    ('resnext', {'depth': 20, 'cardinality': 2, 'width': 4, **DIA}),
    ('resnet', {'depth': 11, 'block': 'bottleneck', 'width': 4,
                'preactivation': True, 'attention': 'se', 'reduction': 4}),
    ('wideresnet', {'depth': 10, 'widen': 2})],
    ids=['se', 'resnext_dia', 'preactivation_se', 'wide'])
def test_networks_and_their_gradients_are_those_of_pytorch(name, given):
  network = _build(name, TINY, **given)
  images = np.random.default_rng(0).uniform(-1, 1, (6, *TINY[:3]))
  classifiers.check(network, classifiers.variables(network)['params'],
                    np.float32(images))


def test_dia_unit_over_several_blocks_is_that_of_pytorch():
  torch = pytest.importorskip('torch')
  from tests.torch_twins import layout
  from tests.torch_twins import residual as torch_residual
  rng = np.random.default_rng(0)
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
  net = layout.load(torch_residual.DiaUnit(24, 4).double(), params)
  inputs = torch.tensor(np.float64(xs), requires_grad=True)
  state, want = None, []
  for x in inputs:
    _, state = net(x[:, :, None, None], state)
    want.append(state[0])
  want = torch.stack(want)
  _agree(out, want.detach().numpy())
  (want * torch.from_numpy(weigh)).sum().backward()
  pairs = list(layout.pairs(net, grads[0]))
  _agree([*(value for *_, value in pairs), grads[1]],
         [*(w.grad.numpy() for _, w, _ in pairs), inputs.grad.numpy()])


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
  variables = classifiers.variables(network)
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
    ('resnet', {'weights': 'a.npz', 'attention': 'se'}, "weights: 'a.npz'; "),
    ('resnet', {'weights': 'a.npz', 'preactivation': True}, 'weights: '),
    ('resnet', {'weights': 'a.npz', 'depth': 11, 'block': 'bottleneck'},
     'weights: '),
    ('resnet', {'weights': 'none.npz'},
     'weights: none.npz: there is no such file'),
    ('wideresnet', {'depth': 20}, r'depth: 20; expected 6 n \+ 4'),
    ('dianet', {'base': 'resnet'}, "base: 'resnet'; expected one of resnet56"),
    ('dianet', {'dropout': 0.3}, r'dropout: 0\.3; '),
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


def test_pretrained_weights_give_the_logits_of_pytorch(tmp_path):
  torch = pytest.importorskip('torch')
  arrays, path = _arrays(), str(tmp_path / 'a.npz')
  np.savez(path, **arrays)
  given = {'depth': 8, 'width': 4, 'weights': path}
  network = _build('resnet', TINY, **given)
  # Of fixed values here, which are left where there is no file.
  fresh = classifiers.variables(network)
  variables = network.pretrained(fresh)
  assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, variables)
  plain = _build('resnet', TINY, **(given | {'weights': ''}))
  assert plain.pretrained(fresh) is fresh

  x = np.random.default_rng(1).uniform(-1, 1, (2, *TINY[:3]))
  logits = quick.jit(functools.partial(network.apply, train=False))(
      variables, np.float32(x))
  net = classifiers.twin(network, variables['params'],
                         variables['batch_stats']).eval()
  want = net(torch.tensor(x).permute(0, 3, 1, 2))
  _agree(logits, want.detach().numpy())
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
  fresh = classifiers.variables(network)
  variables = network.pretrained(fresh)
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


@pytest.mark.slow  # The extractor's tests have the smaller one.
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
  predict = quick.jit(lambda v, x: network.apply(v, x / 127.5 - 1, train=False))
  variables = network.pretrained(classifiers.variables(network))
  logits = np.concatenate([predict(variables, np.float32(part))
                           for part in np.split(images, 9)])
  right = logits.argmax(1) == labels
  assert abs(int(right.sum()) - accuracy / 100 * 1017) < 1.5
  with pytest.raises(errors.InputError, match=rf'expected .* depth {other} '):
    _build('resnet', depth=other, weights=str(path))
