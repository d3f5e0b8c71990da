"""Every config runs to its report, and so do real images by overrides alone."""
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile

import numpy as np
import pytest

import launch

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted(f.stem for f in (ROOT / 'configs').glob('*.py')
                 if f.stem not in ('common', 'recipes', '__init__'))


pytestmark = pytest.mark.usefixtures('at_the_root')


def study(workdir, config, *overrides, alone=True) -> dict:
  """Launches a study to its end and returns its results.

  `alone`, in a process of its own, it compiles at a lower level, in half the
  time.
  """
  line = [f'--config={config}', f'--workdir={workdir}',
          *(f'--config.{override}' for override in overrides)]
  if alone:
    flags = os.environ.get('XLA_FLAGS', '')
    subprocess.run(
        [sys.executable, 'launch.py', *line], check=True, env=os.environ | {
            'XLA_FLAGS': f'{flags} --xla_backend_optimization_level=0'})
  else:
    assert launch.main(line) == 0
  page = (workdir / 'report.html').read_text()
  assert 'verdict' in page.lower()
  assert not re.search(r'(src|href)\s*=\s*["\']?(https?:)?//', page)
  results = json.loads((workdir / 'results.json').read_text())
  for name, classifier in results['classifiers'].items():
    assert set(classifier['arms']) == {
        arm['name'] for arm in results['config']['arms']}, name
    for arm in classifier['arms'].values():
      assert len(arm['values']) == results['config']['runs']
      assert np.isfinite(arm['values']).all()
  return results


@pytest.mark.parametrize('name', CONFIGS)
def test_every_config_runs_to_its_report(tmp_path, name):
  results = study(tmp_path, f'configs/{name}.py:smoke')
  assert results['study'].endswith('_smoke')
  assert results['config']['runs'] == 2
  published = results['config']['published']
  assert [f['arm'] for f in results['published']] == [
      f['arm'] for f in published]
  page = (tmp_path / 'report.html').read_text()
  assert ('Published figures' in page) == bool(published)


FEW_STEPS = (
    'runs=2', 'sample_every=4', 'eval_every=4', 'generators.cgan.steps=8',
    'generators.cgan.batch_size=16', 'generators.cgan.g_widths=(16,16,16,16)',
    'generators.cgan.d_widths=(16,16,16,16)', 'pools.cgan.batch_size=40',
    *(f'{block}.{change}' for block in ('classifiers.cnn', 'judge')
      for change in ('steps=8', 'batch_size=16', 'widths=(8,16)')))


def test_cow_and_horse(tmp_path, shared_data):
  """A folder of RGB images, 256x256, made 64x64."""
  if not (tar := shared_data / 'cow_horse_256.tar').exists():
    pytest.skip(f'{tar} is not there (JAXAUG_DATA names the folder)')
  with tarfile.open(tar) as file:
    file.extractall(tmp_path / 'images', filter='data')
  results = study(
      tmp_path / 'w', 'configs/quickstart.py', 'data.source=folder',
      f'data.path={tmp_path / "images"}', 'data.resize=64', 'data.per_class=40',
      'pools.cgan.per_class=32', *FEW_STEPS)
  assert results['data']['shape'] == [64, 64, 3]
  assert results['data']['class_names'] == ['cow', 'horse']
  assert results['data']['counts']['train'] == [32, 32]
  assert results['data']['counts']['validation'] == [8, 8]
  assert results['data']['counts']['test'] == [41, 41]


def test_exact_cifar10_at_50_a_class(tmp_path, shared_data):
  """An .npz of RGB images, 32x32, 50 a class."""
  if not (file := shared_data / 'cifar10_lossless_part.npz').exists():
    pytest.skip(f'{file} is not there (JAXAUG_DATA names the folder)')
  results = study(
      tmp_path / 'w', 'configs/quickstart.py', 'data.source=npz',
      f'data.path={file}', 'data.per_class=50', 'pools.cgan.per_class=40',
      *FEW_STEPS)
  assert results['data']['shape'] == [32, 32, 3]
  assert results['data']['class_names'][0] == 'airplane'
  assert results['data']['counts']['train'] == [40] * 10
  assert sum(results['data']['counts']['test']) == 1017
