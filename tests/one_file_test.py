"""A new block is one file in its folder: nothing else has to be touched."""
import os
import pathlib
import re
import shutil
import subprocess
import sys

from jaxaug.core import registry

ROOT = pathlib.Path(__file__).parents[1]
NAME = 'one_more'
# kind -> the block that the new one is a copy of, small and quick.
COPIED = {'datasets': 'fake', 'selectors': 'not_copies', 'generators': 'ccgan',
          'classifiers': 'small_cnn', 'extractors': 'pixels',
          'image_metrics': 'fid', 'metrics': 'error'}
# The tests that iterate over blocks, or look at all files.
FILES = ('architecture_test.py', 'benchmarks_test.py', 'refusals_test.py',
         'zoo_test.py', 'core/registry_test.py', 'data/datasets_test.py',
         'evaluation/extractors_test.py', 'evaluation/image_metrics_test.py',
         'evaluation/metrics_test.py', 'study/verdicts_test.py',
         'docs_test.py')
# Of those: the new blocks, and what is about all of them at once.
PICKED = (NAME, 'architecture', 'benchmarks', 'registry', 'docs_test',
          'that_there_are', 'among_them', 'number_of_a_classifier')


def _write(root, kind, name):
  """Writes the new block of a kind: `name` under another name."""
  folder = root / 'jaxaug' / registry.FOLDERS[kind].replace('.', '/')
  text = re.sub(rf'\b{name}\b', NAME, (folder / f'{name}.py').read_text())
  for wide in '8000', '1600':  # Of the generator.
    text = text.replace(wide, '16')
  (folder / f'{NAME}.py').write_text(text)


def test_the_tests_are_green_with_a_new_file_of_every_kind(tmp_path):
  assert COPIED.keys() == registry.FOLDERS.keys()
  root = tmp_path / 'jaxaug'
  shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns('.*', '__pycache__',
                                                            'runs'))
  for kind, name in COPIED.items():
    _write(root, kind, name)
  out = subprocess.run(
      [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider',
       '-k', ' or '.join(PICKED), *(f'tests/{file}' for file in FILES)],
      cwd=root, capture_output=True, text=True, timeout=600,
      env=os.environ | {'PYTEST_ADDOPTS': ''})
  assert out.returncode == 0, out.stdout[-5000:] + out.stderr[-1000:]
  assert int(re.search(r'(\d+) passed', out.stdout)[1]) > 300
