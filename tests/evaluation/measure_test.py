"""Extraction and metrics: order, padding and devices change no moment."""
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from jaxaug.core import errors, registry, types
from jaxaug.evaluation import features, measure, moments
from jaxaug.training import mesh

ROOT = pathlib.Path(__file__).parents[2]
DEVICES = mesh.make()


@pytest.fixture(scope='module')
def real():
  return registry.find('datasets', 'fashion_mnist_small').load()


def extractor(name='pixels', **given):
  return registry.find('extractors', name).build(**given)


@pytest.mark.parametrize('name', ['pixels', 'scattering'])
@pytest.mark.parametrize('batch_size', [1, 7, 64, 100])
def test_the_batch_size_changes_nothing(name, batch_size, real):
  """100 images: the last batch of 7 and of 64 is padded."""
  x = real.train.images[:100]
  parts, whole = (features.of_array(
      features.extractor(extractor(name), DEVICES, size), x,
      {'moments', 'features'}) for size in (batch_size, 100))
  assert parts.count == len(parts.features) == 100
  scale = np.abs(whole.features).max()
  np.testing.assert_allclose(parts.features, whole.features, 0, 1e-6 * scale)
  want = moments.of(parts.features)
  for got, of_all in zip(parts.moments, want, strict=True):
    np.testing.assert_allclose(got, of_all, 0, 1e-9 * np.abs(of_all).max())


def test_order_changes_no_moment(real):
  x = real.train.images[:200]
  placed = features.extractor(extractor(), DEVICES, 64)
  one, other = (features.of_array(placed, some, {'moments'}).moments
                for some in (x, x[np.random.default_rng(0).permutation(200)]))
  for a, b in zip(one, other, strict=True):
    np.testing.assert_allclose(a, b, 0, 1e-9 * np.abs(a).max())


_EIGHT = """
import numpy as np, sys
from jaxaug.core import registry
from jaxaug.evaluation import features
from jaxaug.training import mesh
x = registry.find('datasets', 'fashion_mnist_small').load().train.images[:100]
placed = features.extractor(
    registry.find('extractors', sys.argv[1]).build(), mesh.make(), 12)
assert placed.devices.size == 8 and placed.batch_size == 16
found = features.of_array(placed, x, {'moments', 'features'})
np.savez(sys.argv[2], features=found.features, **found.moments._asdict())
"""


@pytest.mark.parametrize('name', ['pixels', 'scattering'])
def test_eight_devices_are_as_one(name, tmp_path, real, monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '--xla_force_host_platform_device_count=8')
  out = tmp_path / 'eight.npz'
  subprocess.run([sys.executable, '-c', _EIGHT, name, str(out)], cwd=ROOT,
                 check=True, timeout=300)
  one = features.of_array(features.extractor(extractor(name), DEVICES, 12),
                         real.train.images[:100], {'moments', 'features'})
  with np.load(out) as eight:
    scale = np.abs(one.features).max()
    np.testing.assert_allclose(eight['features'], one.features, 0, 1e-6 * scale)
    # Float64 sums of the same features, whatever the devices.
    want = moments.of(eight['features'])
    for name, value in want._asdict().items():
      np.testing.assert_allclose(eight[name], value, 0,
                                 1e-9 * np.abs(value).max())


def test_arrays_in_numbers_out(real):
  x, y = real.train.images[:600], real.train.labels[:600]
  same = measure.compare(x, x, extractor(), ('fid', 'kid', 'prdc', 'intra_fd'),
                         real_labels=y, fake_labels=y,
                         knobs={'prdc': {'k': 3}})
  assert same['fd_pixels'].value == pytest.approx(0, abs=1e-6)
  assert same['precision_pixels'].value == same['recall_pixels'].value == 1
  other = measure.compare(x, 255 - x, extractor(), ('fid',))
  halves = measure.compare(x[::2], x[1::2], extractor(), ('fid',))
  assert other['fd_pixels'].value > 10 * halves['fd_pixels'].value > 0


HEADERS = [(kind, name) for kind in ('metrics', 'image_metrics')
           for name in registry.names(kind)]


@pytest.mark.parametrize('kind, name', HEADERS)
def test_every_metric_has_a_header(kind, name):
  assert [*measure.blocks([name], kind=kind)] == [name]


NUMBER = types.Number('some words', '%', True)
WRONG_HEADERS = [
    ('NEEDS', None, 'NEEDS is None'), ('NEEDS', (), 'NEEDS is'),
    ('NEEDS', ('featurse',), r"'featurse'.*expected a tuple of some of"),
    ('VALUES', {}, 'VALUES is {}; expected'),
    ('VALUES', {'NAME': ('some words', True)}, r'types\.Number\(label'),
    ('VALUES', {'NAME': NUMBER._replace(label='')}, 'expected a label'),
    ('VALUES', {'NAME': NUMBER._replace(unit=None)}, 'a unit'),
    ('VALUES', {'NAME': NUMBER._replace(lower_is_better='yes')}, 'True, False'),
    ('compute', None, r'a function compute\('),
    ('compute', lambda images: {}, r'a function compute\(')]


@pytest.mark.parametrize('key, value, message', WRONG_HEADERS)
@pytest.mark.parametrize('kind, name', [('metrics', 'mse'),
                                        ('image_metrics', 'kid')])
def test_a_wrong_header_is_one_line(kind, name, key, value, message,
                                    monkeypatch):
  if value and key == 'VALUES':
    value = dict.fromkeys([name], *value.values())
  monkeypatch.setattr(registry.find(kind, name), key, value)
  with pytest.raises(errors.InputError, match=message) as e:
    measure.blocks([name], kind=kind)
  assert str(e.value).startswith(f'{kind}/{name}.py: ')
  assert '\n' not in str(e.value)


@pytest.mark.parametrize('values', [
    {'other': NUMBER}, {'mse': NUMBER, 'other': NUMBER},
    {'mse': NUMBER._replace(lower_is_better=None)}])
def test_a_study_judges_by_one_number_of_a_file(values, monkeypatch):
  monkeypatch.setattr(registry.find('metrics', 'mse'), 'VALUES', values)
  with pytest.raises(errors.InputError, match="expected one number, 'mse'"):
    measure.blocks(['mse'], kind='metrics')


def test_only_the_published_inception_gives_an_fid():
  fid = registry.find('image_metrics', 'fid')
  cas = registry.find('image_metrics', 'cas')
  def name(which, fid_allowed, value='fid', block=fid):
    return measure.named(value, block, types.Extractor(
        which, None, None, fid=fid_allowed))
  assert name('inception', True) == 'fid'
  assert name('inception_clean', True) == 'fid_clean'
  assert name('inception', False) == 'fd_inception'
  assert name('resnet56', False) == 'fd_resnet56'
  assert name('resnet56', False, 'coverage') == 'coverage_resnet56'
  assert name('resnet56', False, 'cas_fake_to_real', cas) == 'cas_fake_to_real'


def test_grey_images_are_repeated_for_a_network_that_wants_colour(real):
  def apply(variables, images):
    assert images.shape[-1] == 3
    return {'features': images.reshape(len(images), -1).astype(np.float32)}
  found = features.of_array(
      features.extractor(types.Extractor('three', apply, {}), DEVICES, 4),
      real.train.images[:4], {'features'})
  np.testing.assert_array_equal(
      found.features, real.train.images[:4].repeat(3, 3).reshape(4, -1))


def test_what_was_extracted_is_kept_by_content(tmp_path, real):
  placed = features.extractor(extractor(), DEVICES, 64)
  def extract(x, digest, placed=placed):
    return features.of_array(placed, x, ('moments', 'features'),
                             cache=tmp_path, digest=digest)
  one = extract(real.train.images[:50], 'a')
  files = sorted(tmp_path.iterdir())
  assert len(files) == 1
  broken = placed._replace(apply=None)  # Would fail if it had to compute.
  again = extract(real.train.images[:50], 'a', broken)
  np.testing.assert_array_equal(again.features, one.features)
  np.testing.assert_array_equal(again.moments.covariance,
                                one.moments.covariance)
  with pytest.raises(TypeError):
    extract(real.train.images[:50], 'b', broken)
  files[0].write_bytes(files[0].read_bytes()[:100])  # A damaged one is redone.
  np.testing.assert_array_equal(extract(real.train.images[:50], 'a').features,
                                one.features)


def test_nan_features_and_missing_logits(real):
  def apply(variables, images):
    x = images.reshape(len(images), -1).astype(np.float32)
    return {'features': x / (x.sum(1, keepdims=True) > 0)}
  placed = features.extractor(types.Extractor('bad', apply, {}), DEVICES, 4)
  with pytest.raises(errors.InputError, match='images 4 to 7 are not finite'):
    features.of_array(placed, np.concatenate([
        real.train.images[:4], np.zeros((4, 28, 28, 1), np.uint8)]),
                      {'moments'}, title='fake')
  with pytest.raises(errors.InputError, match='knows no classes'):
    features.of_array(features.extractor(extractor(), DEVICES),
                      real.train.images[:4], {'logits'})


def test_sides_must_be_alike(real):
  x = real.train.images[:4]
  with pytest.raises(errors.InputError, match='28x28x1.*14x28x1.*--resize'):
    measure.compare(x, x[:, ::2], extractor())
  with pytest.raises(errors.InputError, match='both grey or both RGB'):
    measure.compare(x, x.repeat(3, 3), extractor())
  with pytest.raises(errors.InputError, match="Did you mean 'fid'"):
    measure.compare(x, x, extractor(), ('fidd',))
  with pytest.raises(errors.InputError, match='labels of real images: none'):
    measure.compare(x, x, extractor(), ('intra_fd',))
  with pytest.raises(errors.InputError, match='kid.*subset'):
    measure.compare(x, x, extractor(), ('kid',), knobs={'kid': {'subst': 3}})
