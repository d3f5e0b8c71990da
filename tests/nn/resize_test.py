"""Every resizing rule against the package whose rule it is."""
import functools
import io
import tarfile

import jax
import numpy as np
import pytest

from jaxaug.core import errors
from jaxaug.nn import resize

# Old (height, width), new (height, width).
SIZES = (((32, 32), (299, 299)), ((256, 256), (299, 299)),
         ((256, 256), (64, 64)), ((45, 67), (31, 90)), ((67, 33), (23, 7)),
         ((32, 20), (32, 33)), ((17, 32), (50, 32)), ((1, 5), (9, 9)),
         ((64, 64), (1, 2)), ((32, 32), (32, 32)))


@pytest.fixture(scope='module')
def photos(shared_data):
  """Four real photos, uint8 [4, 256, 256, 3]."""
  Image = pytest.importorskip('PIL.Image')
  path = shared_data / 'cow_horse_256.tar'
  if not path.is_file():
    pytest.skip(f'no {path}')
  with tarfile.open(path) as tar:
    names = sorted(n for n in tar.getnames() if n.endswith('.png'))[::40][:4]
    return np.stack([np.asarray(Image.open(
        io.BytesIO(tar.extractfile(name).read())).convert('RGB'))
        for name in names])


def _tf1(images, size):
  torch = pytest.importorskip('torch')
  compat = pytest.importorskip('torch_fidelity.interpolate_compat_tensorflow')
  x = torch.tensor(np.moveaxis(images, 3, 1)).float()
  y = compat.interpolate_bilinear_2d_like_tensorflow1x(
      x, size=size, align_corners=False)
  return np.moveaxis(y.numpy(), 1, 3)


def _pytorch(images, size):
  torch = pytest.importorskip('torch')
  x = torch.tensor(np.moveaxis(images, 3, 1)).float()
  y = torch.nn.functional.interpolate(x, size=size, mode='bilinear',
                                      align_corners=False)
  return np.moveaxis(y.numpy(), 1, 3)


def _clean(images, size):
  cleanfid = pytest.importorskip('cleanfid.resize')
  resizer = cleanfid.make_resizer('PIL', False, 'bicubic', size[::-1])
  return np.stack([resizer(image) for image in images])


def _pillow(images, size):
  Image = pytest.importorskip('PIL.Image')
  def one(plane):
    return np.asarray(Image.fromarray(plane.astype(np.float32)).resize(
        size[::-1], Image.Resampling.BILINEAR))
  return np.stack([np.stack([one(image[..., c]) for c in range(3)], -1)
                   for image in images])


THEIRS = {'tf1': _tf1, 'pytorch': _pytorch, 'clean': _clean,
          'bilinear_aa': _pillow, 'area': _pillow}


def _resize(images, size, rule):
  return np.asarray(jax.jit(functools.partial(
      resize.resize, size=size, rule=rule))(images))


@pytest.mark.parametrize('rule', THEIRS)
@pytest.mark.parametrize('old, new', SIZES, ids=str)
def test_rules_are_those_of_the_references(rule, old, new, photos, torchvision):
  # Every 5th pixel, so that small images have edges and not one colour.
  step = 5 if max(old) * 5 <= 256 else 1
  images = np.ascontiguousarray(
      photos[:, :old[0] * step:step, :old[1] * step:step])
  got = _resize(images, new, rule)
  assert got.dtype == np.float32 and got.shape == (4, *new, 3)
  want = THEIRS[rule](images, new)
  # PyTorch computes places in float32: so many pixels times one ulp.
  atol = 2e-3 if rule == 'pytorch' else 2e-4
  np.testing.assert_allclose(got, want, rtol=0, atol=atol)
  np.testing.assert_array_equal(_resize(np.float32(images), new, rule), got)


def test_rules_differ_and_clean_cuts_overshoots(photos):
  images = photos[:, ::8, ::8]
  every = {rule: _resize(images, (299, 299), rule)
           for rule in ('tf1', 'pytorch', 'clean')}
  for a, b in (('tf1', 'pytorch'), ('tf1', 'clean'), ('pytorch', 'clean')):
    assert np.abs(every[a] - every[b]).max() > 3
  edge = np.zeros((1, 8, 8, 1), np.uint8)
  edge[:, :, 4:] = 255
  got = _resize(edge, (20, 20), 'clean')
  assert got.min() == 0 and got.max() == 255
  # Only shrinking by an antialiased rule keeps the mean of a checkerboard.
  board = np.indices((64, 64)).sum(0)[None, ..., None] % 2 * np.float32(255)
  for rule, worst in (('clean', 8), ('bilinear_aa', 8)):
    assert np.abs(_resize(board, (16, 16), rule) - 127.5).max() < worst
  assert np.abs(_resize(board, (16, 16), 'tf1') - 127.5).min() > 127


def test_unknown_rules_are_one_line():
  with pytest.raises(errors.InputError, match="^resize: 'bicubik'; expected "
                     'one of tf1, pytorch, clean, bilinear_aa') as e:
    resize.resize(np.zeros((1, 2, 2, 3)), (4, 4), 'bicubik')
  assert '\n' not in str(e.value)


@pytest.mark.parametrize('factor', [
    0.8286, 1 / 0.8286, 0.75, 2.0, 0.2, 1.0, 3.7])
@pytest.mark.parametrize('size', [(64, 64), (25, 31), (5, 40)])
def test_by_factor_is_matlabs_imresize(factor, size):
  """Beside a twin that somebody else wrote from the same rule."""
  pytest.importorskip('torch')
  import torch

  from tests.torch_twins import singan
  images = np.random.default_rng(0).uniform(-1, 1, (2, *size, 3)).astype('f')
  got = np.asarray(jax.jit(resize.by_factor, static_argnums=1)(images, factor))
  want = singan.resize(torch.tensor(np.moveaxis(images, 3, 1)).double(), factor,
                       eight_bit=False)
  assert got.dtype == np.float32
  np.testing.assert_allclose(np.moveaxis(got, 3, 1), want.numpy(), rtol=0,
                             atol=2e-6)


def test_by_factor_by_hand():
  """Twice as large: new pixels lie at -1/4, 1/4, 3/4, ... of the old ones.

  Keys' kernel at 1/4, 3/4, 5/4, 7/4: 111/128, 29/128, -9/128, -3/128.
  """
  row = np.array([0, 1, 0, 0], np.float32)[None, None, :, None]
  got = np.asarray(resize.by_factor(row.repeat(4, 1), 2.0))[0, 3, :, 0]
  # What pixel 1 gives, and its image at -2 beyond the left edge.
  want = np.array([-9 - 3, 29, 111, 111, 29, -9, -3, 0]) / 128
  np.testing.assert_allclose(got, want, atol=1e-6)
  with pytest.raises(errors.InputError, match='^factor: 0'):
    resize.by_factor(row, 0)
