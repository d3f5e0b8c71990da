"""Every config runs to its report."""
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import launch
from tests import quick

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = sorted(f.stem for f in (ROOT / 'configs').glob('*.py')
                 if f.stem not in ('common', 'recipes', '__init__'))

# Thirty trainings each, or several generators, or one whose part in a study is
# that of another's, or half a minute of compiling what others test.
# judge_pool's is what imports_test.py runs.
LONG = ('cifar_biggan', 'cifar_classifiers', 'cow_horse', 'cow_horse_cyclegan',
        'fmnist_acgan', 'fmnist_cgan', 'fmnist_generators', 'fmnist_rare',
        'judge_pool', 'rare_class',
        'tiny_imagenet_bagan', 'tiny_imagenet_dagan', 'tiny_imagenet_singan')
# What judges the pool where that is not what a test is about: the quickstart
# takes what it says.
LIGHT = ('evaluation.extractor=pixels', 'evaluation.metrics=prdc',
         'curve.every=0')

pytestmark = pytest.mark.usefixtures('at_the_root')


def study(workdir, config, *overrides, alone=True) -> dict:
  """Launches a study to its end and returns its results.

  `alone`, in a process of its own, it compiles quickly.
  """
  line = [f'--config={config}', f'--workdir={workdir}',
          *(f'--config.{override}' for override in overrides)]
  if alone:
    subprocess.run([sys.executable, 'launch.py', *line], check=True,
                   env=quick.environment())
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


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=[pytest.mark.slow] * (name in LONG))
    for name in CONFIGS])
def test_every_config_runs_to_its_report(tmp_path, name):
  results = study(tmp_path, f'configs/{name}.py:smoke',
                  *(() if name == 'quickstart' else LIGHT))
  assert results['study'].endswith('_smoke')
  assert results['config']['runs'] == 2
  published = results['config']['published']
  assert [f['arm'] for f in results['published']] == [
      f['arm'] for f in published]
  page = (tmp_path / 'report.html').read_text()
  assert ('Published figures' in page) == bool(published)
