"""What every test shares: the compilation cache and where large data lies."""
import ctypes
import gc
import os
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Where functools caches hold programs and arrays. Those of nn/cpu hold what XLA
# calls, and stay.
_CACHING = ('jaxaug.data.', 'jaxaug.evaluation.', 'jaxaug.study.',
            'jaxaug.training.', 'tests.')
sys.path.insert(0, str(ROOT))
# Compiled programs outlive a run of the tests; subprocesses inherit this.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR',
                      str(ROOT / '.cache' / 'jax'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# A program is compiled by one thread, for the other core has a worker too, and
# quickly: it computes little.
os.environ['XLA_FLAGS'] = ' '.join([
    os.environ.get('XLA_FLAGS', ''), '--xla_cpu_parallel_codegen_split_count=1',
    '--xla_backend_optimization_level=0',
    '--xla_llvm_disable_expensive_passes=true'])
# What tests see of images stays out of the user's cache.
os.environ.setdefault('JAXAUG_CACHE', str(ROOT / '.cache' / 'jaxaug'))


# Files that take minutes: first, so that no worker begins one while the others
# have nothing left to do.
_LONGEST = ('study/run_test.py', 'study/smoke_test.py', 'zoo_test.py',
            'study/smoke_images_test.py', 'study/arms_test.py',
            'training/devices_test.py', 'generators/biggan_test.py')


def pytest_collection_modifyitems(items):
  def place(item):
    name = item.path.as_posix()
    return next((i for i, file in enumerate(_LONGEST) if name.endswith(file)),
                len(_LONGEST))
  items.sort(key=place)


@pytest.fixture(autouse=True, scope='module')
def nothing_stays_behind():
  """What a file compiled goes with it: gigabytes, in a process of many files.

  Only then, for tests count compilations by what a cache holds.
  """
  yield
  if 'jax' not in sys.modules:
    return
  for name, module in list(sys.modules.items()):
    if name.startswith(_CACHING):
      for value in vars(module).values():
        getattr(value, 'cache_clear', lambda: None)()
  sys.modules['jax'].clear_caches()
  gc.collect()
  # What is free goes back to the system; of glibc alone.
  getattr(ctypes.CDLL(None), 'malloc_trim', lambda keep: None)(0)


@pytest.fixture(scope='module')
def compiled_quickly():
  """For whole studies: what they compile, they compile as quick.steady does."""
  import jax

  from jaxaug.core import registry
  from tests import quick
  for name in registry.names('image_metrics'):
    registry.find('image_metrics', name)  # What is compiled by its decorator.
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, 'jit', quick.steady)
    yield


@pytest.fixture(scope='session')
def shared_data() -> pathlib.Path:
  """The folder of large or unlicensed files beside the project."""
  folder = pathlib.Path(os.environ.get('JAXAUG_DATA',
                                       ROOT.parent / 'shared' / 'data'))
  if not folder.is_dir():
    pytest.skip(f'no data folder {folder}; set JAXAUG_DATA')
  return folder


@pytest.fixture(scope='session')
def garments():
  """The embedded images: types.Dataset of 5,000 and 2,000."""
  from jaxaug.core import registry
  return registry.find('datasets', 'fashion_mnist_small').load()


def part(split, rows):
  """Returns some rows of a types.Split."""
  return type(split)(*(x[rows] for x in split))


def reseal(folder, **changes):
  """Makes a changed folder of a task whole, and its manifest another."""
  from jaxaug.core import files
  value = files.read_json(folder / 'manifest.json')
  del value['sha256']
  files.finish(folder, folder, value | changes)


@pytest.fixture(scope='session')
def train(garments):
  """Twenty training images of each class."""
  import numpy as np
  return part(garments.train, np.concatenate([
      np.flatnonzero(garments.train.labels == k)[:20] for k in range(10)]))


@pytest.fixture(scope='session')
def validation(garments):
  """Images that are not among them."""
  return part(garments.test, slice(0, 300))


@pytest.fixture(scope='module')
def by_pixel():
  """A feature extractor that costs nothing: the pixels themselves."""
  from jaxaug.core import registry
  from jaxaug.evaluation import features
  from jaxaug.training import mesh
  network = registry.find('extractors', 'pixels').build(side=8)
  return features.extractor(network, mesh.make())


@pytest.fixture(scope='session')
def torchvision():
  """torchvision, also beside a torch that its compiled part does not fit.

  pytorch-fid and torch-fidelity import it, and need its Python part only; that
  part declares operators of the compiled one and fails where there are none.
  """
  torch = pytest.importorskip('torch')
  for _ in range(20):
    try:
      import torchvision
      return torchvision
    except RuntimeError as e:
      found = re.fullmatch(r'operator (torchvision::\w+) does not exist',
                           str(e))
      if not found:
        raise
      torch.library.define(found[1], '(Tensor x) -> Tensor')
      for name in [n for n in sys.modules if n.startswith('torchvision')]:
        del sys.modules[name]
    except ImportError as e:
      pytest.skip(f'no torchvision: {e}')
  pytest.skip('torchvision cannot be imported')


@pytest.fixture
def at_the_root(monkeypatch):
  """For tests that launch: configs are named from the project's root."""
  monkeypatch.chdir(ROOT)
