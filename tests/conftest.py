"""What every test shares: the compilation cache and where large data lies."""
import os
import pathlib
import signal
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
# Compiled programs outlive a run of the tests; subprocesses inherit this.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR',
                      str(ROOT / '.cache' / 'jax'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')


@pytest.fixture(scope='session')
def shared_data() -> pathlib.Path:
  """The folder of large or unlicensed files beside the project."""
  folder = pathlib.Path(os.environ.get('JAXAUG_DATA',
                                       ROOT.parent / 'shared' / 'data'))
  if not folder.is_dir():
    pytest.skip(f'no data folder {folder}; set JAXAUG_DATA')
  return folder


@pytest.fixture
def at_the_root(monkeypatch):
  """For tests that launch: configs are named from the project's root."""
  from jaxaug import signals
  monkeypatch.chdir(ROOT)
  before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
  yield
  signals._asked.clear()  # launch.main sets handlers of its own.
  for signum, handler in before.items():
    signal.signal(signum, handler)
