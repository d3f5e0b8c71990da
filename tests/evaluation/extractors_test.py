"""Frozen networks beside kymatio, PyTorch and what they can tell apart."""
import functools
import io
import math
import re
import tarfile

import jax
import numpy as np
import pytest

from jaxaug.core import errors, registry
from jaxaug.data.datasets import fashion_mnist_small
from jaxaug.evaluation import features
from jaxaug.nn import resize
from jaxaug.training import mesh
from tests import quick

# Name -> (arguments, features of grey and of RGB images of 28x28, logits).
ZOO = {
    'scattering': ({}, 324, 972, 0),
    'pixels': ({}, 784, 2352, 0),
    'squeezenet': ({'side': 64}, 512, 512, 1000),
    'mobilenet': ({'side': 64}, 1280, 1280, 1000),
    'vgg19': ({'side': 64, 'grid': 2}, 2048, 2048, 0),
    'resnet_cifar': ({}, 64, 64, 10)}
# What torchvision calls the networks of its weights.
OF_TORCH = {'squeezenet': 'squeezenet1_1', 'mobilenet': 'mobilenet_v2',
            'vgg19': 'vgg19'}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MEAN_BGR = (103.939, 116.779, 123.68)


def _build(name, **given):
  return registry.build('extractors', name, given, 'x')


def _see(extractor, images):
  out = quick.jit(extractor.apply)(extractor.variables, images)
  return jax.tree.map(np.asarray, out)


def _close(got, want, tolerance=1e-4):
  """Differences beside the largest value."""
  assert got.shape == want.shape
  assert np.std(want) > 0
  assert np.abs(got - want).max() < tolerance * np.abs(want).max()


def _photos(shared_data, n, channels=3):
  """uint8 [n, 32, 32, C] of CIFAR-10."""
  path = shared_data / 'cifar10_lossless_part.npz'
  if not path.is_file():
    pytest.skip(f'no {path}')
  with np.load(path) as file:
    return file['x_test'][:n, :, :, :channels]


def _clothes(n):
  """uint8 [n, 28, 28, 1]."""
  return fashion_mnist_small.load().test.images[:n]


@pytest.fixture(scope='module')
def networks(torchvision, tmp_path_factory):
  """Gives name -> (network of torchvision, its weights' file), of random ones.
  """
  import torch

  @functools.cache
  def network(name):
    # Its own first weights would take seconds.
    more = {'init_weights': False} if name == 'vgg19' else {}
    net = torchvision.models.get_model(OF_TORCH[name], **more)
    draw, norm = torch.Generator().manual_seed(1), torch.nn.BatchNorm2d
    with torch.no_grad():
      for p in net.parameters():
        if p.ndim > 1:
          p.normal_(0, math.sqrt(2 / p[0].numel()), generator=draw)
        else:
          p.uniform_(-0.1, 0.1, generator=draw)
      for m in net.modules():
        if isinstance(m, norm):
          m.weight.uniform_(0.5, 1.5, generator=draw)
          m.running_mean.normal_(0, 0.3, generator=draw)
          m.running_var.uniform_(0.5, 2, generator=draw)
    state = net.state_dict()
    if name == 'vgg19':  # The dense layers are half a gigabyte.
      state = {k: v for k, v in state.items() if k.startswith('features')}
    path = tmp_path_factory.mktemp('networks') / f'{name}.pth'
    torch.save(state, path)
    return net.eval(), path
  return network


def _normalised(images, side, bgr=False):
  """What a network of torchvision, or of Keras, sees: a tensor, NCHW."""
  import torch
  x = torch.tensor(np.array(resize.resize(images, (side, side), 'clean')))
  x = (x.flip(-1) - torch.tensor(MEAN_BGR)) if bgr else (
      (x / 255 - torch.tensor(MEAN)) / torch.tensor(STD))
  return x.permute(0, 3, 1, 2)


# Scattering, beside the reference and beside its definition.

def _paths(images, *given):
  paths = registry.find('extractors', 'scattering').paths
  return np.array(quick.jit(lambda x: paths(x, *given))(images))


@pytest.mark.parametrize('scales, orientations, size', [
    (2, 8, (32, 32)), (1, 6, (20, 28)), (3, 4, (48, 40))])
def test_scattering_is_that_of_kymatio(scales, orientations, size):
  # Its top module needs an older SciPy.
  kymatio = pytest.importorskip('kymatio.scattering2d.frontend.numpy_frontend')
  images = np.array(resize.resize(_clothes(2), size, 'clean')) / 255
  want = kymatio.ScatteringNumPy2D(J=scales, L=orientations, shape=size)(
      images[..., 0])
  # Its pi is 3.1415, once for each filter of a path.
  filters = np.repeat([1, 2, 3], [1, scales * orientations,
                                  orientations**2 * math.comb(scales, 2)])
  want = want * ((3.1415 / math.pi)**filters)[:, None, None]
  got = _paths(images, scales, orientations)
  np.testing.assert_allclose(got[:, 0], want, rtol=2e-5, atol=3e-7)


def _wave(sigma, xi, angle, slant, n=96):
  """The spectrum of a wave under a Gaussian of sum 1, on n x n pixels."""
  y, x = np.mgrid[:n, :n] - n / 2
  along = y * np.cos(angle) + x * np.sin(angle)
  across = x * np.cos(angle) - y * np.sin(angle)
  wave = np.exp(-(along**2 + (slant * across)**2) / (2 * sigma**2)
                + 1j * xi * along) * slant / (2 * np.pi * sigma**2)
  return np.fft.fft2(np.fft.ifftshift(wave))


def test_scattering_is_its_definition():
  """Every step at every pixel; ours skips pixels and has less padding."""
  images = np.pad(_clothes(3), ((0, 0), (2, 2), (2, 2), (0, 0))) / 255
  def convolved(x, spectrum):
    return np.fft.ifft2(np.fft.fft2(x) * spectrum)

  def psi(j, i):
    wave, envelope = (_wave(0.8 * 2**j, xi / 2**j, (3 - i) * np.pi / 8, 0.5)
                      for xi in (0.75 * np.pi, 0))
    return wave - wave[0, 0] / envelope[0, 0] * envelope
  x = np.pad(images[..., 0], ((0, 0), (32, 32), (32, 32)), mode='reflect')
  fine, wide = (
      [np.abs(convolved(x, psi(j, i))) for i in range(8)] for j in (0, 1))
  twice = [np.abs(convolved(u, psi(1, i))) for u in fine for i in range(8)]
  low = _wave(1.6, 0, 0, 1)
  want = np.stack([convolved(u, low).real[:, 32:64:4, 32:64:4]
                   for u in [x, *fine, *wide, *twice]], 1)
  got = _paths(np.float32(images))[:, 0]
  got, want = (a[:, :, 1:-1, 1:-1] for a in (got, want))
  for paths, tolerance in (slice(9), 1e-5), (slice(9, 17), 6e-3), (
      slice(17, 81), 1e-2):
    off = np.abs(got - want)[:, paths].sum()
    assert off < tolerance * want[:, paths].sum()


def test_scattering_features_are_roots_of_means():
  images = _clothes(2)
  got = _see(_build('scattering', side=16, grid=4, resize='clean'), images)
  x = resize.resize(images, (16, 16), 'clean') / 255
  want = np.sqrt(_paths(x) + 1e-4).reshape(2, -1)
  np.testing.assert_allclose(got['features'], want, atol=1e-5)
  # What one cell sees is the mean over all of them.
  got = _see(_build('scattering', side=16, grid=1, resize='clean'), images)
  want = np.square(want).reshape(2, 81, 16).mean(-1)
  np.testing.assert_allclose(np.square(got['features']), want, atol=1e-5)


def test_scattering_of_a_flat_image_is_its_brightness():
  got = _see(_build('scattering'), np.full((1, 20, 30, 1), 102, np.uint8))
  want = np.sqrt([0.4 + 1e-4] * 4 + [1e-4] * 320)
  np.testing.assert_allclose(got['features'][0], want, atol=1e-6)


@pytest.mark.parametrize('size, side, want', [
    ((28, 28), 32, (28, 28)), ((64, 64), 32, (32, 32)), ((40, 20), 10, (10, 5)),
    ((5, 64), 32, (2, 32)), ((1, 64), 16, (1, 16))])
def test_pixels_keep_their_ratio(size, side, want):
  from PIL import Image
  images = np.random.default_rng(0).integers(0, 256, (1, *size, 1), np.uint8)
  got = _see(_build('pixels', side=side), images)['features']
  theirs = Image.fromarray(np.float32(images[0, ..., 0])).resize(
      want[::-1], Image.Resampling.BILINEAR)
  np.testing.assert_allclose(got[0], np.ravel(theirs) / 255, atol=1e-5)


# Networks, beside those of torchvision.

@pytest.mark.parametrize('side', [96, 99])
@pytest.mark.parametrize('name', ['squeezenet', 'mobilenet'])
def test_networks_are_those_of_torchvision(name, side, networks, shared_data):
  import torch
  net, file = networks(name)
  images = _photos(shared_data, 4)
  got = _see(_build(name, weights=str(file), side=side), images)
  with torch.no_grad():
    x = _normalised(images, side)
    _close(got['features'], net.features(x).mean((2, 3)).numpy())
    _close(got['logits'], net(x).numpy())


def _save(path, arrays):
  """Writes an .npz file, or an .h5 file as Keras does."""
  if path.suffix == '.npz':
    np.savez(path, **arrays)
    return
  h5py = pytest.importorskip('h5py')
  with h5py.File(path, 'w') as file:
    for name, array in arrays.items():
      file[name] = array


def test_squeezenet_of_keras(networks, shared_data, tmp_path):
  import torch
  net, arrays = networks('squeezenet')[0], {}
  # Its pools drop what is left over, and the names are its own.
  pools = [m for m in net.modules() if isinstance(m, torch.nn.MaxPool2d)]
  for name, value in net.features.state_dict().items():
    i, *part, leaf = name.split('.')
    fire = {3: 2, 4: 3, 6: 4, 7: 5, 9: 6, 10: 7, 11: 8, 12: 9}.get(int(i))
    layer = f'fire{fire}/{part[0]}' if part else 'conv1'
    layer = layer.replace('/squeeze', '/squeeze1x1')
    value = value.numpy()
    arrays[f'{layer}/{"kernel" if leaf == "weight" else "bias"}'] = (
        value.transpose(2, 3, 1, 0) if value.ndim == 4 else value)
  _save(tmp_path / 'a.npz', arrays)
  images = _photos(shared_data, 4)
  extractor = _build('squeezenet', weights=str(tmp_path / 'a.npz'), side=98)
  try:
    for pool in pools:
      pool.ceil_mode = False
    with torch.no_grad():
      want = net.features(_normalised(images, 98, bgr=True)).mean((2, 3))
  finally:
    for pool in pools:
      pool.ceil_mode = True
  got = _see(extractor, images)
  _close(got['features'], want.numpy())
  assert list(got) == ['features']


def _of_tensorflow(net):
  """Gives `net` random 8-bit weights and TensorFlow's padding; returns them."""
  import torch
  rng, arrays, block = np.random.default_rng(0), {}, -1
  net.classifier[1] = torch.nn.Linear(1280, 1001)
  convs = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
  norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
  for conv, norm in zip([*convs, net.classifier[1]], [*norms, None],
                        strict=True):
    out, inputs, *size = conv.weight.shape
    size = tuple(size) or (1, 1)
    depthwise = getattr(conv, 'groups', 1) > 1
    if size == (3, 3) and conv.stride == (2, 2):
      conv.padding = (0, 0)
      conv.register_forward_pre_hook(
          lambda _, x: (torch.nn.functional.pad(x[0], (0, 1, 0, 1)),))
    if norm is None:
      name = 'Logits/Conv2d_1c_1x1'
    elif conv is convs[0] or conv is convs[-1]:
      name = 'Conv' if conv is convs[0] else 'Conv_1'
    else:
      # A block starts where channels grow, the first with its depthwise.
      expand = out > inputs and not depthwise
      block += expand or block < 0
      part = ('depthwise' if depthwise else 'expand' if expand else 'project')
      name = 'expanded_conv' + (f'_{block}' if block else '') + f'/{part}'
    kernel = rng.integers(0, 256, (out, inputs, *size), np.uint8)
    scale, zero = np.float32(0.015 / math.sqrt(kernel[0].size)), np.int32(125)
    bias = np.float32(rng.normal(size=out) / 10)
    arrays |= {f'{name}/kernel_u8': kernel.transpose(2, 3, 1, 0),
               f'{name}/kernel_scale': scale, f'{name}/kernel_zero': zero,
               f'{name}/bias': bias}
    with torch.no_grad():
      weight = torch.tensor((np.float32(kernel) - zero) * scale)
      conv.weight.copy_(weight.reshape(conv.weight.shape))
      if norm is None:
        conv.bias.copy_(torch.tensor(bias))
        continue
      norm.running_mean.zero_()
      norm.running_var.fill_(1 - norm.eps)
      norm.weight.fill_(1)
      norm.bias.copy_(torch.tensor(bias))
  return arrays


def test_mobilenet_of_tensorflow(torchvision, shared_data, tmp_path):
  import torch
  net = torchvision.models.mobilenet_v2().eval()
  _save(tmp_path / 'a.npz', _of_tensorflow(net))
  images = _photos(shared_data, 4)
  got = _see(_build('mobilenet', weights=str(tmp_path / 'a.npz'), side=96),
             images)
  x = np.array(resize.resize(images, (96, 96), 'clean')) / 127.5 - 1
  with torch.no_grad():
    x = torch.tensor(x).permute(0, 3, 1, 2)
    _close(got['features'], net.features(x).mean((2, 3)).numpy())
    _close(got['logits'], net(x).numpy())


def _of_keras(net, pattern):
  """The convolutions of VGG-19 by Keras' names: block2_conv1, ..."""
  import torch
  arrays, block, at = {}, 1, 1
  for m in net.features:
    if isinstance(m, torch.nn.MaxPool2d):
      block, at = block + 1, 1
    if isinstance(m, torch.nn.Conv2d):
      name = pattern.replace('LAYER', f'block{block}_conv{at}')
      kernel, bias = m.weight.detach().numpy(), m.bias.detach().numpy()
      arrays[name.replace('?', 'kernel').replace('!', 'W')] = kernel.transpose(
          2, 3, 1, 0)
      arrays[name.replace('?', 'bias').replace('!', 'b')] = bias
      at += 1
  return arrays


@pytest.mark.parametrize('file, pattern', [
    ('torch', ''), ('keras.h5', 'LAYER/LAYER_!_1:0'),
    ('keras.npz', 'LAYER/LAYER/?:0'), ('plain.npz', 'LAYER/?')])
def test_vgg19_of_every_origin(file, pattern, networks, shared_data, tmp_path):
  import torch
  net, path = networks('vgg19')
  if pattern:
    path = tmp_path / file
    _save(path, _of_keras(net, pattern))
  images = _photos(shared_data, 2)
  with torch.no_grad():
    want = net.features(_normalised(images, 96, bgr=bool(pattern)))
  want = want.permute(0, 2, 3, 1).numpy()
  got = _see(_build('vgg19', weights=str(path), side=96, grid=3), images)
  _close(got['features'], want.reshape(2, -1))
  if not pattern:  # Means, of fields that overlap.
    got = _see(_build('vgg19', weights=str(path), side=96, grid=2), images)
    rows = (want[:, :2] + want[:, 1:]) / 2
    want = (rows[:, :, :2] + rows[:, :, 1:]) / 2
    _close(got['features'], want.reshape(2, -1))


@pytest.mark.slow  # Half a gigabyte of weights, several times over.
def test_vgg19_up_to_its_logits(networks, shared_data, monkeypatch):
  import torch
  net, path = networks('vgg19')
  # Not by a file: it would be of half a gigabyte.
  arrays = {k: v.numpy() for k, v in net.state_dict().items()}
  monkeypatch.setattr('jaxaug.nn.pretrained.read', lambda *_, **__: arrays)
  images = _photos(shared_data, 2)
  got = _see(_build('vgg19', weights=str(path), layer='fc2'), images)
  with torch.no_grad():
    x = _normalised(images, 224)
    _close(got['features'],
           net.classifier[:5](net.features(x).flatten(1)).numpy())
    _close(got['logits'], net(x).numpy())


@pytest.mark.parametrize('file, name, accuracy', [
    ('cifar10_resnet20-12fca82f.npz', 'resnet20', 91.64),
    pytest.param('cifar10_resnet56-4bfd9763.npz', 'resnet56', 92.72,
                 marks=pytest.mark.slow)])
def test_trained_networks_of_cifar_keep_their_accuracy(file, name, accuracy,
                                                       shared_data):
  extractor = _build('resnet_cifar', weights=str(
      _weights(shared_data, file)))
  images = _photos(shared_data, None)
  with np.load(shared_data / 'cifar10_lossless_part.npz') as data:
    labels = data['y_test']
  see = quick.jit(extractor.apply)  # All at once would be a gigabyte.
  got = jax.tree.map(lambda *parts: np.concatenate(parts), *(
      see(extractor.variables, part) for part in np.split(images, 9)))
  right = int((got['logits'].argmax(1) == labels).sum())
  assert abs(right - accuracy / 100 * 1017) < 1.5
  # The logits are of these features, and the name is of this file.
  with np.load(_weights(shared_data, file)) as arrays:
    want = (got['features'] @ arrays['linear.weight'].T
            + arrays['linear.bias'])
  _close(got['logits'], want, 1e-5)
  assert extractor.name == name


def _weights(shared_data, file):
  path = shared_data / 'weights' / file
  if not path.is_file():
    pytest.skip(f'no {path}')
  return path


# What holds for all.

def test_the_table_names_extractors_that_there_are():
  assert ZOO.keys() <= {*registry.names('extractors')}


@pytest.fixture(scope='module')
def zoo(request):
  """Gives an extractor, where it needs weights of random ones or of real ones.
  """
  @functools.cache
  def get(name, **more):
    given = ZOO[name][0] | more
    if name in OF_TORCH:
      given['weights'] = str(request.getfixturevalue('networks')(name)[1])
    elif name == 'resnet_cifar':
      given['weights'] = str(_weights(request.getfixturevalue('shared_data'),
                                      'cifar10_resnet20-12fca82f.npz'))
    return _build(name, **given)
  return get


@pytest.mark.parametrize('name, colour', [
    *((name, 'RGB') for name in ZOO),
    *(pytest.param(name, 'grey', marks=[pytest.mark.slow] if name in (
        'mobilenet', 'vgg19', 'resnet_cifar') else []) for name in ZOO)])
def test_every_extractor(name, colour, zoo):
  extractor = zoo(name)
  images = _clothes(6)
  if colour == 'RGB':
    images = np.concatenate([images, images[::-1], 255 - images], 3)
  apply = features.extractor(extractor, mesh.make(), batch_size=6).apply
  got = jax.tree.map(np.asarray, apply(images))
  _, grey, rgb, classes = ZOO[name]
  want = {'features': (6, rgb if colour == 'RGB' else grey)}
  if classes:
    want['logits'] = 6, classes
  assert {k: v.shape for k, v in got.items()} == want
  assert all(v.dtype == np.float32 and np.isfinite(v).all()
             for v in got.values())
  assert np.ptp(got['features'], 0).max() > 0
  again = apply(images)
  for field, value in got.items():
    np.testing.assert_array_equal(value, again[field])
  if colour == 'RGB':
    shape = jax.eval_shape(extractor.apply, extractor.variables, _clothes(6))
    assert shape['features'].shape == (6, grey)
    alone = features.extractor(extractor, mesh.make(), batch_size=1)
    one = alone.apply(images[2:3])
    for field, value in got.items():
      _close(one[field], value[2:3], 1e-5)
  assert extractor.protocol and '\n' not in extractor.protocol
  assert not extractor.fid
  assert len(extractor.digest) == (64 if 'weights' in registry.arguments(
      registry.find('extractors', name).build) else 0)


@pytest.mark.parametrize('name, given', [
    ('scattering', {'side': 16}), ('scattering', {'scales': 1}),
    ('scattering', {'orientations': 4}), ('scattering', {'grid': 4}),
    ('scattering', {'resize': 'clean'}), ('pixels', {'side': 16}),
    ('squeezenet', {'side': 96}), ('mobilenet', {'side': 96}),
    ('vgg19', {'side': 96}), ('vgg19', {'grid': 1}), ('vgg19', {'side': 0})],
    ids=str)
def test_protocols_tell_arguments_apart(name, given, zoo):
  assert zoo(name).protocol != zoo(name, **given).protocol
  assert zoo(name).digest == zoo(name, **given).digest


@pytest.mark.parametrize('name, given, line', [
    ('scattering', {'side': 34}, r'side: 34; expected a multiple of 4, '),
    ('scattering', {'side': 4}, r'side: 4; expected .* of at least 8'),
    ('scattering', {'grid': 3}, r'grid: 3; expected a divisor of 8'),
    ('scattering', {'scales': 0}, r'scales: 0; expected a whole number'),
    ('scattering', {'orientations': 0}, r'orientations: 0; expected'),
    ('scattering', {'resize': 'tf1'}, r"resize: 'tf1'; expected one of"),
    ('pixels', {'side': 0}, r'side: 0; expected a whole number'),
    ('squeezenet', {'side': 20}, r'side: 20; expected .* at least 32'),
    ('mobilenet', {'side': 0}, r'side: 0; expected .* at least 32'),
    ('vgg19', {'layer': 'pool4'}, r"layer: 'pool4'; expected one of"),
    ('vgg19', {'side': 64, 'grid': 3}, r'side: 64; expected .* at least 96'),
    ('vgg19', {'layer': 'fc2', 'side': 64, 'grid': 1}, r'layer: fc2 of side'),
    ('vgg19', {'grid': 0}, r'grid: 0; expected'),
], ids=str)
def test_wrong_arguments_are_one_line(name, given, line):
  with pytest.raises(errors.InputError, match=rf'^x\.{line}') as e:
    _build(name, **given)
  assert '\n' not in str(e.value)


def test_vgg19_of_images_too_small_for_its_grid(zoo):
  extractor = zoo('vgg19', side=0)
  with pytest.raises(errors.InputError, match='^grid: 2 of images of 48x70'):
    extractor.apply(extractor.variables, np.zeros((1, 48, 70, 3), np.uint8))


@pytest.mark.parametrize('edit, line', [
    ('drop', r"array '{}' is missing; expected \["),
    ('cut', r"array '{}' is of shape \[.*\]; expected \[")])
@pytest.mark.parametrize('name, array', [
    ('squeezenet', 'features.10.expand3x3.weight'),
    ('squeezenet', 'classifier.1.bias'),
    ('mobilenet', 'features.4.conv.1.1.running_var'),
    ('mobilenet', 'classifier.1.weight'), ('vgg19', 'features.34.bias')])
def test_files_that_do_not_fit_are_one_line(name, array, edit, line, networks,
                                            monkeypatch):
  net, path = networks(name)
  arrays = {k: v.numpy() for k, v in net.state_dict().items()}
  arrays[array] = arrays[array][1:]
  if edit == 'drop':
    del arrays[array]
  monkeypatch.setattr('jaxaug.nn.pretrained.read', lambda *_, **__: arrays)
  line = line.format(re.escape(array))
  where = re.escape(f'x.weights: {path}: ')
  with pytest.raises(errors.InputError, match=rf'^{where}{line}') as e:
    _build(name, weights=str(path))
  assert '\n' not in str(e.value)


@pytest.mark.parametrize('download', [True, False])
@pytest.mark.parametrize('name', OF_TORCH)
def test_absent_weights_name_what_needs_none(name, download, monkeypatch,
                                             tmp_path):
  asked = []
  def refuse(url, *_, **__):
    asked.append(url)
    raise OSError('no network')
  monkeypatch.setenv('JAXAUG_CACHE', str(tmp_path))
  monkeypatch.setattr('urllib.request.urlopen', refuse)
  with pytest.raises(errors.InputError, match=(
      r'^x\.weights: .*scattering and pixels')) as e:
    _build(name, download=download)
  assert '\n' not in str(e.value) and len(asked) == download


def test_a_file_of_no_resnet_is_one_line(tmp_path):
  with pytest.raises(errors.InputError, match='scattering and pixels'):
    _build('resnet_cifar')
  np.savez(tmp_path / 'a.npz', a=np.ones(3))
  with pytest.raises(errors.InputError, match='not a ResNet of CIFAR') as e:
    _build('resnet_cifar', weights=str(tmp_path / 'a.npz'))
  assert '\n' not in str(e.value)


# What features are worth: a linear probe, chosen on a part of the training.

def _probe(train, labels, test, test_labels, alpha):
  linear = pytest.importorskip('sklearn.linear_model')
  mean, std = train.mean(0), train.std(0) + 1e-6
  fitted = linear.RidgeClassifier(alpha=alpha).fit((train - mean) / std, labels)
  return fitted.score((test - mean) / std, test_labels)


def _features(extractor, images, batch=50):
  apply, variables = jax.jit(extractor.apply), jax.device_put(
      extractor.variables)
  return np.concatenate([apply(variables, images[i:i + batch])['features']
                         for i in range(0, len(images), batch)])


def test_scattering_tells_more_than_pixels():
  data = fashion_mnist_small.load()
  accuracy = {}
  for name, alpha in ('pixels', 1000), ('scattering', 10):
    train, test = (_features(_build(name), split.images[:4000])
                   for split in (data.train, data.test))
    accuracy[name] = _probe(train, data.train.labels[:4000], test,
                            data.test.labels, alpha)
  assert accuracy['pixels'] > 0.81
  assert accuracy['scattering'] > accuracy['pixels'] + 0.01


@pytest.mark.slow
@pytest.mark.parametrize('name, file, alpha, least', [
    ('squeezenet', 'squeezenet1_1_imagenet_notop_hwio.npz', 100, 0.80),
    ('mobilenet', 'mobilenet_v2_1.0_224_imagenet_folded_u8.npz', 1000, 0.85)])
def test_networks_of_imagenet_tell_22_classes_apart(name, file, alpha, least,
                                                    shared_data):
  from PIL import Image
  extractor = _build(name, weights=str(_weights(shared_data, file)))
  found = {'train': ([], []), 'val': ([], [])}
  with tarfile.open(shared_data / 'tiny_imagenet_22.tar.xz') as tar:
    for member in tar:
      if member.name.endswith('.JPEG'):
        split, label, _ = member.name.split('/')
        image = Image.open(io.BytesIO(tar.extractfile(member).read()))
        found[split][0].append(np.asarray(image.convert('RGB')))
        found[split][1].append(label)
  (x, y), (x_val, y_val) = found.values()
  assert (len(x), len(x_val)) == (11_000, 1_100)
  accuracy = _probe(_features(extractor, np.stack(x)), y,
                    _features(extractor, np.stack(x_val)), y_val, alpha)
  assert accuracy > least
