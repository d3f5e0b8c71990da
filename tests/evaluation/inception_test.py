"""Inception against pytorch-fid, torch-fidelity and clean-fid themselves.

The published weights cannot be part of a test; drawn ones of the same names
and shapes go through the same files and the same networks.
"""
import io
import tarfile

import numpy as np
import pytest

from jaxaug.core import errors, registry
from jaxaug.nn import pretrained, resize
from tests import quick

BLOCKS = ('64', '192', '768', '2048')
# Made larger, and as they are.
SIDES = pytest.mark.parametrize('side', [
    32, pytest.param(64, marks=pytest.mark.slow), 299])


def block():
  return registry.find('extractors', 'inception')


@pytest.fixture(scope='module')
def pictures(shared_data):
  """Real images uint8 [3, S, S, 3] by side: 32, 64, and 256 cut to 299."""
  from PIL import Image
  with np.load(shared_data / 'cifar10_lossless_part.npz') as file:
    found = {32: file['x_test'][:3]}
  for side, name in ((64, 'tiny_imagenet_22.tar.xz'),
                     (299, 'cow_horse_256.tar')):
    images = []
    with tarfile.open(shared_data / name) as tar:
      for member in tar:
        if member.name.lower().endswith(('.png', '.jpeg', '.jpg')):
          with Image.open(io.BytesIO(tar.extractfile(member).read())) as image:
            images.append(np.asarray(image.convert('RGB').resize((side, side))))
        if len(images) == 3:
          break
    found[side] = np.stack(images)
  return found


@pytest.fixture(scope='module')
def drawn(torchvision, pictures, tmp_path_factory):
  """pytorch-fid's network of drawn weights, and their file.

  Its batch norms have the averages of real images, so that values neither
  vanish nor explode on their way.
  """
  import torch
  fid = pytest.importorskip('pytorch_fid.inception')
  torch.manual_seed(0)
  saved = {}
  def no_download(url, progress=True):
    raise LookupError
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(fid, 'load_state_dict_from_url', no_download)
    # Everything of fid_inception_v3 but its last two lines.
    def keep(module, *args, **kwargs):
      saved['net'] = module
    patch.setattr(fid, 'load_state_dict_from_url', lambda *a, **k: {})
    patch.setattr(torch.nn.Module, 'load_state_dict', keep)
    theirs = fid.InceptionV3((0, 1, 2, 3)).eval()
  net = saved['net']
  for module in net.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
      torch.nn.init.uniform_(module.weight, .5, 1.5)
      torch.nn.init.normal_(module.bias, 0, .3)
      module.momentum = None  # The plain mean over all batches.
      module.reset_running_stats()
  whole = torch.nn.Sequential(*theirs.blocks).train()
  images = torch.tensor(pictures[299].transpose(0, 3, 1, 2) / 255. * 2 - 1,
                        dtype=torch.float32)
  with torch.no_grad():
    whole(images)
  whole.eval()
  net.fc.eval()
  folder = tmp_path_factory.mktemp('inception')
  state = net.state_dict()
  torch.save(state, folder / 'new.pth')
  torch.save(state, folder / 'old.pth', _use_new_zipfile_serialization=False)
  np.savez(folder / 'own.npz', **{k: v.numpy() for k, v in state.items()})
  return theirs, net, folder


def see(extractor, images, *resize):
  return quick.jit(lambda params, images: block().blocks(
      params, images, *resize))(extractor.variables, images)


def error(got, want):
  got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
  assert got.shape == want.shape
  return np.linalg.norm(got - want) / np.linalg.norm(want)


def nhwc(tensor):
  return tensor.numpy().transpose(0, 2, 3, 1)


@SIDES
@pytest.mark.parametrize('resize', ['pytorch', 'clean'])
def test_all_blocks_and_logits_are_theirs(side, resize, drawn, pictures):
  """'pytorch' by the whole of pytorch-fid, 'clean' by clean-fid's resizing."""
  import torch
  theirs, net, folder = drawn
  x = pictures[side]
  extractor = block().build(weights=str(folder / 'old.pth'), resize=resize)
  found = see(extractor, x, resize)
  with torch.no_grad():
    if resize == 'pytorch':
      want = theirs(torch.tensor(x.transpose(0, 3, 1, 2) / 255.).float())
    else:
      from cleanfid import resize as clean
      big = np.stack([clean.make_resizer('PIL', False, 'bicubic', (299, 299))(
          image) for image in x])
      theirs.resize_input, theirs.normalize_input = False, False
      want = theirs(torch.tensor((big.transpose(0, 3, 1, 2) - 128) / 128))
      theirs.resize_input, theirs.normalize_input = True, True
    pooled = want[3][:, :, 0, 0]
    logits = net.fc(pooled).numpy()
    unbiased = (pooled @ net.fc.weight.T).numpy()
  for name, value in zip(BLOCKS[:3], want[:3], strict=True):
    assert error(found[name], nhwc(value)) < 1e-4
  assert error(found['2048'], pooled) < 1e-4
  assert error(found['logits'], logits) < 1e-4
  assert error(found['logits_unbiased'], unbiased) < 1e-4
  if side == 32:  # What is not asked for is not computed.
    got = quick.jit(extractor.apply)(extractor.variables, x)
    assert error(got['features'], pooled) < 1e-4
    assert error(got['logits'], unbiased) < 1e-4


@SIDES
def test_by_tensorflows_resizing_it_is_that_of_torch_fidelity(
    side, drawn, pictures):
  import torch
  fidelity = pytest.importorskip(
      'torch_fidelity.feature_extractor_inceptionv3')
  _, _, folder = drawn
  wanted = ['64', '192', '768', '2048', 'logits_unbiased', 'logits']
  theirs = fidelity.FeatureExtractorInceptionV3(
      'inception-v3-compat', wanted,
      feature_extractor_weights_path=str(folder / 'new.pth'))
  x = pictures[side]
  with torch.no_grad():
    want = theirs(torch.tensor(x.transpose(0, 3, 1, 2)))
  extractor = block().build(weights=str(folder / 'new.pth'))
  found = see(extractor, x)
  # Of the maps it gives the means.
  for name, value in zip(wanted, want, strict=True):
    got = np.asarray(found[name])
    got = got.mean((1, 2)) if got.ndim == 4 else got
    assert error(got, value.reshape(got.shape).numpy()) < 1e-4


def test_accelerators_see_the_same(drawn, pictures, monkeypatch):
  """The stock convolution and all images at once, here on the CPU too."""
  extractor = block().build(weights=str(drawn[2] / 'new.pth'))
  want = see(extractor, pictures[32])
  monkeypatch.setattr('jax.default_backend', lambda: 'gpu')
  got = see(extractor, pictures[32])
  assert got.keys() == want.keys()
  for name, value in want.items():
    assert error(got[name], value) < 3e-5


def test_files_of_every_kind_hold_the_same(drawn):
  _, _, folder = drawn
  one, *others = (block().build(weights=str(folder / name)).variables
                  for name in ('new.pth', 'old.pth', 'own.npz'))
  for other in others:
    assert one.keys() == other.keys()
    for name, arrays in one.items():
      for a, b in zip(arrays, other[name], strict=True):
        np.testing.assert_array_equal(a, b)


def test_only_published_weights_are_called_fid(drawn, monkeypatch):
  _, _, folder = drawn
  file = folder / 'own.npz'
  extractor = block().build(weights=str(file), resize='clean')
  assert not extractor.fid and extractor.digest == pretrained.digest(file)
  assert extractor.name == 'inception_clean'
  monkeypatch.setattr(block(), '_PUBLISHED', block()._PUBLISHED._replace(
      sha256=pretrained.digest(file)))
  assert block().build(weights=str(file)).fid


def test_what_is_no_inception_is_one_line(drawn, tmp_path, monkeypatch):
  _, _, folder = drawn
  arrays = pretrained.read(folder / 'new.pth')
  for name, change in (
      ('fc.weight', None),
      ('Mixed_5b.branch1x1.conv.weight', arrays['fc.bias']),
      ('Mixed_7c.branch_pool.bn.running_var', arrays['fc.bias'])):
    bad = dict(arrays)
    del bad[name]
    if change is not None:
      bad[name] = change
    np.savez(tmp_path / 'bad.npz', **bad)
    with pytest.raises(errors.InputError, match=f'{name}.*expected') as e:
      block().build(weights=str(tmp_path / 'bad.npz'))
    assert '\n' not in str(e.value)
  with pytest.raises(errors.InputError, match='resize.*tf1'):
    block().build(weights=str(folder / 'own.npz'), resize='tf')
  monkeypatch.setenv('JAXAUG_CACHE', str(tmp_path))
  with pytest.raises(errors.InputError, match='6726825d.*scattering'):
    block().build(download=False)


def test_the_rules_of_resizing_differ(pictures):
  """So that a mixed-up rule cannot pass the tests above."""
  made = [np.asarray(resize.resize(pictures[32], (299, 299), rule))
          for rule in ('tf1', 'pytorch', 'clean')]
  for i, one in enumerate(made):
    for other in made[:i]:
      assert np.abs(one - other).mean() > 0.5
