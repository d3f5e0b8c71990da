"""Real images of other sets run to their report, by overrides alone."""
import tarfile

import pytest

from tests.study import smoke_test

pytestmark = pytest.mark.usefixtures('at_the_root')

FEW_STEPS = (
    'runs=2', 'sample_every=4', 'eval_every=4', *smoke_test.LIGHT,
    'generators.cgan.steps=8',
    'generators.cgan.batch_size=16', 'generators.cgan.g_widths=(16,16,16,16)',
    'generators.cgan.d_widths=(16,16,16,16)', 'pools.cgan.batch_size=40',
    *(f'{block}.{change}' for block in ('classifiers.cnn', 'judge')
      for change in ('steps=8', 'batch_size=16', 'widths=(8,16)')))


@pytest.mark.slow
def test_cow_and_horse(tmp_path, shared_data):
  """A folder of RGB images, 256x256, made 64x64."""
  if not (tar := shared_data / 'cow_horse_256.tar').exists():
    pytest.skip(f'{tar} is not there (JAXAUG_DATA names the folder)')
  with tarfile.open(tar) as file:
    file.extractall(tmp_path / 'images', filter='data')
  results = smoke_test.study(
      tmp_path / 'w', 'configs/quickstart.py', 'data.source=folder',
      f'data.path={tmp_path / "images"}', 'data.resize=64', 'data.per_class=40',
      'pools.cgan.per_class=32', *FEW_STEPS)
  assert results['data']['shape'] == [64, 64, 3]
  assert results['data']['class_names'] == ['cow', 'horse']
  assert results['data']['counts']['train'] == [32, 32]
  assert results['data']['counts']['validation'] == [8, 8]
  assert results['data']['counts']['test'] == [41, 41]


@pytest.mark.slow
def test_exact_cifar10_at_50_a_class(tmp_path, shared_data):
  """An .npz of RGB images, 32x32, 50 a class."""
  if not (file := shared_data / 'cifar10_lossless_part.npz').exists():
    pytest.skip(f'{file} is not there (JAXAUG_DATA names the folder)')
  results = smoke_test.study(
      tmp_path / 'w', 'configs/quickstart.py', 'data.source=npz',
      f'data.path={file}', 'data.per_class=50', 'pools.cgan.per_class=40',
      *FEW_STEPS)
  assert results['data']['shape'] == [32, 32, 3]
  assert results['data']['class_names'][0] == 'airplane'
  assert results['data']['counts']['train'] == [40] * 10
  assert sum(results['data']['counts']['test']) == 1017
