"""The commands are found by name, and the package holds all that they read."""
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import tomllib

import numpy as np
import pytest
from PIL import Image

import jaxaug
from jaxaug import __main__ as front
from jaxaug.data.datasets import fashion_mnist_small

ROOT = pathlib.Path(__file__).parents[2]
COMMANDS = sorted(f.stem for f in (ROOT / 'jaxaug' / 'commands').glob('[!_]*'))
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())


@pytest.mark.parametrize('argv', [[], ['-h'], ['--help']], ids=str)
def test_help_lists_every_command(capsys, argv):
  assert front.main(argv) == 0
  out = capsys.readouterr().out
  for name in COMMANDS:
    assert re.search(f'^  {name} +[A-Z]', out, re.M), out


@pytest.mark.parametrize('name', ['', 'run', 'export', 'prepare'])
def test_help_is_quick_and_needs_no_jax(name):
  program = ('import sys\nfrom jaxaug import __main__ as front\n'
             f'try: front.main([*{name.split()}, "--help"])\n'
             'except SystemExit as e: assert e.code == 0\n'
             'assert not {"jax", "tensorflow", "ml_collections", "flax"}'
             '  & set(sys.modules)\n')
  begun = time.monotonic()
  done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, text=True,
                        capture_output=True)
  assert time.monotonic() - begun < 2
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith('usage: jaxaug')


def test_an_unknown_command_is_one_line(capsys):
  assert front.main(['evalate', 'A', 'B']) == 2
  assert capsys.readouterr().err == (
      "jaxaug: there is no command 'evalate'; expected one of evaluate, export,"
      " prepare, run. Did you mean 'evaluate'?\n")


def test_a_command_gets_what_follows_its_name(capsys):
  assert front.main(['run', '--config=nothing.py']) == 2
  assert capsys.readouterr().err.startswith('jaxaug run: --config: there is no')


@pytest.mark.parametrize('name', COMMANDS)
def test_commands_are_modules_of_the_package_too(name):
  """`python -m jaxaug.evaluate` is what older notes say."""
  assert importlib.util.find_spec(f'jaxaug.{name}').origin == str(
      ROOT / 'jaxaug' / 'commands' / f'{name}.py')


def test_every_file_that_is_no_module_is_package_data():
  listed = PROJECT['tool']['setuptools']['package-data']
  data = {f for package, patterns in listed.items() for pattern in patterns
          for f in ROOT.joinpath(*package.split('.')).glob(pattern)}
  others = {f for f in (ROOT / 'jaxaug').rglob('*') if f.is_file()
            and f.suffix != '.py' and '__pycache__' not in f.parts}
  assert others <= data and others


def test_the_version_and_the_requirements_stand_in_one_place():
  assert set(PROJECT['project']['dynamic']) == {'version', 'dependencies'}
  assert PROJECT['tool']['setuptools']['dynamic'] == {
      'version': {'attr': 'jaxaug.__version__'},
      'dependencies': {'file': 'requirements.txt'}}
  assert re.fullmatch(r'\d+\.\d+\.\d+', jaxaug.__version__)


@pytest.mark.slow
def test_an_installed_package_works_from_another_folder(tmp_path):
  """Without the requirements, which are those of this Python."""
  copy = tmp_path / 'copy'  # The build leaves folders in its source.
  shutil.copytree(ROOT / 'jaxaug', copy / 'jaxaug')
  for file in ('pyproject.toml', 'requirements.txt', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / file, copy / file)
  subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--no-deps',
                  '--target', tmp_path / 'site', copy], check=True)
  images = fashion_mnist_small.load().train.images[:60, ..., 0]
  for name, some in (('A', images[:30]), ('B', images[30:])):
    (tmp_path / name).mkdir()
    for i, image in enumerate(np.asarray(some)):
      Image.fromarray(image).save(tmp_path / name / f'{i}.png')
  for line in ('evaluate A B --extractor=scattering',
               f'run --config={ROOT}/configs/quickstart.py:smoke'):
    program = ('import jaxaug, sys; from jaxaug import __main__ as front\n'
               f'assert jaxaug.__file__.startswith("{tmp_path}/site")\n'
               'sys.exit(front.main(sys.argv[1:]))')
    done = subprocess.run(
        [sys.executable, '-c', program, *line.split()], cwd=tmp_path, text=True,
        capture_output=True,
        env=os.environ | {'PYTHONPATH': str(tmp_path / 'site')})
    assert done.returncode == 0, done.stderr
  assert (tmp_path / 'runs' / 'quickstart_smoke' / 'report.html').exists()
