"""oneDNN in XLA's programs: what goes wrong, who calls at once, and bits."""
import ctypes
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.core import errors
from jaxaug.nn.cpu import convolution, onednn
from tests import quick

ROOT = pathlib.Path(__file__).parents[3]
NHWC = ('NHWC', 'HWIO', 'NHWC')
SIDES = (6, 5)


@pytest.fixture(autouse=True)
def there():
  try:
    onednn.library()
  except onednn.Unavailable as e:
    pytest.skip(f'no oneDNN: {e}')


@pytest.fixture
def fresh(monkeypatch):
  """Loads the library anew."""
  monkeypatch.setattr(onednn, 'library', onednn.library.__wrapped__)
  monkeypatch.delenv('JAXAUG_CONVOLUTIONS', raising=False)
  return convolution.way.__wrapped__


def _window():
  return convolution.Window(SIDES, (3, 3), SIDES, (1, 1), (1, 1), (1, 1), 1,
                            False)


def _target(channels):
  """A function of images of so many channels, which no other test has."""
  return onednn._target.__wrapped__(
      'y', _window(), (2, *SIDES, channels), (3, 3, channels, 4),
      (2, *SIDES, 4), 'float32')


def _call(target, channels, batch=2):
  return jax.block_until_ready(jax.ffi.ffi_call(target.name, (
      jax.ShapeDtypeStruct((batch, *SIDES, 4), jnp.float32),
      jax.ShapeDtypeStruct((target.scratch,), jnp.uint8)))(
          jnp.ones((batch, *SIDES, channels)), jnp.ones((3, 3, channels, 4))))


def test_the_line_at_start_names_the_library(fresh):
  name, line = fresh()
  assert name == 'onednn' and line.startswith('convolutions: oneDNN 3.')


@pytest.mark.parametrize('paths, words', [
    ([], 'pip install onednn-cpu-gomp'),
    (['libm.so.6'], 'another library: .*dnnl_version'),
    ([__file__], 'invalid ELF header'),
    (['no/libdnnl.so.3'], 'pip install onednn-cpu-gomp')])
def test_without_the_library_it_is_plain_jax_and_says_why(
    fresh, monkeypatch, paths, words):
  monkeypatch.setattr(onednn, '_paths', lambda: paths)
  name, line = fresh()
  assert name == 'products' and re.search(words, line) and '\n' not in line
  monkeypatch.setenv('JAXAUG_CONVOLUTIONS', 'onednn')
  with pytest.raises(errors.InputError, match=words):
    fresh()


def test_a_damaged_library_is_not_loaded(fresh, monkeypatch, tmp_path):
  """Half of one ends the process where it is loaded."""
  whole, half = next(onednn._paths()), tmp_path / 'libdnnl.so.3'
  half.write_bytes(pathlib.Path(whole).read_bytes()[:10**6])

  class File(pathlib.PurePosixPath):
    size = pathlib.Path(whole).stat().st_size
    locate = staticmethod(lambda: half)
  monkeypatch.setattr(onednn.importlib.metadata, 'files',
                      lambda _: [File('libdnnl.so.3')])
  name, line = fresh()
  assert name == 'products' and f'{half} is damaged' in line


_THREADS = """
import os
import jax.numpy as jnp
from jaxaug.nn.cpu import convolution, onednn
for setting in {settings}:  # In a process each, before anything has begun.
  if not os.fork():
    os.environ.update([setting])
    x, w = jnp.ones((16, 16, 16, 32)), jnp.ones((3, 3, 32, 32))
    y = convolution.conv_general_dilated(
        x, w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    assert float(y[0, 1, 1, 0]) == 9 * 32
    print(onednn.library().threads, onednn.library().words, flush=True)
    os._exit(0)
  os.wait()
"""


def test_threads_are_no_more_than_there_will_be():
  """oneDNN waits without end for one that does not come."""
  settings = [('OMP_NUM_THREADS', '1'), ('OMP_NUM_THREADS', '1000'),
              ('OMP_THREAD_LIMIT', '1'), ('OMP_DYNAMIC', 'true'),
              ('OMP_MAX_ACTIVE_LEVELS', '0')]
  out = _child(_THREADS.format(settings=settings))
  lines = out.stdout.splitlines()
  assert len(lines) == len(settings), out.stderr
  for (_, value), line in zip(settings, lines, strict=True):
    threads, words = line.split(maxsplit=1)
    most = 1000 if value == '1000' else 1
    assert int(threads) == min(most, len(os.sched_getaffinity(0))), out.stderr
    assert words.endswith('1 thread' if threads == '1' else 'threads')


@pytest.mark.parametrize('cores, threads', [(1, 1), (16, 16), (64, 8),
                                            (1024, 1)])
def test_threads_of_many_cores_are_not_too_many_together(monkeypatch, cores,
                                                         threads):
  class OpenMP:
    omp_get_dynamic = staticmethod(lambda: 0)
    omp_get_max_active_levels = staticmethod(lambda: 1)
    omp_get_thread_limit = staticmethod(lambda: 2**31 - 1)
    omp_get_max_threads = staticmethod(lambda: cores)
  monkeypatch.setattr(os, 'sched_getaffinity', lambda _: range(cores))
  assert onednn._threads(OpenMP) == threads


def test_only_a_question_for_the_version_is_answered_by_it():
  """An extension of another type is not written to, and the work is done."""
  target = _target(9)
  program = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(
      onednn._placed(onednn._program([], [], 'nothing')))
  metadata = (ctypes.c_uint64 * 4)()
  extension = (ctypes.c_uint64 * 4)(32, 1, 0, ctypes.addressof(metadata))
  frame = (ctypes.c_uint64 * 24)(0, ctypes.addressof(extension))
  assert program(ctypes.addressof(frame)) is None
  major, minor = onednn._ffi_version()
  assert metadata[3] == major + (minor << 32)
  metadata[3], extension[1] = 0, 2
  assert program(ctypes.addressof(frame)) is None
  assert not any(metadata) and target.scratch > 0


def test_the_package_named_is_the_one_that_is_pinned():
  assert f'\n{onednn.PACKAGE}=={onednn.PACKAGE_VERSION};' in (
      ROOT / 'requirements.txt').read_text()


def test_a_library_that_lacks_a_function_is_plain_jax(monkeypatch):
  class Lacking(ctypes.CDLL):
    def __getattr__(self, name):
      return super().__getattr__(name.replace('memory_create', 'no_such'))
  library = onednn.library()
  functions = Lacking(library.functions._name)
  monkeypatch.setattr(onednn, 'library',
                      lambda: library._replace(functions=functions))
  with pytest.raises(onednn.Unavailable, match='symbol: dnnl_no_such'):
    onednn.target('y', _window(), (2, *SIDES, 5), (3, 3, 5, 4), (2, *SIDES, 4),
                  'float32')


def test_another_version_of_the_interface_is_refused(fresh, monkeypatch):
  monkeypatch.setattr(onednn, '_ffi_version', lambda: (1, 0))
  name, line = fresh()
  assert name == 'products' and '(1, 0)' in line


def test_another_version_of_the_library_is_refused(fresh, monkeypatch):
  monkeypatch.setattr(onednn, '_OPENMP', 4)
  name, line = fresh()
  assert name == 'products' and 'runtime 2' in line


@pytest.mark.parametrize('asked', ['products', 'xla'])
def test_the_variable_chooses(fresh, monkeypatch, asked):
  monkeypatch.setenv('JAXAUG_CONVOLUTIONS', asked)
  assert fresh()[0] == asked


def test_a_choice_that_is_none_is_one_line_and_status_2():
  out = subprocess.run(
      [sys.executable, 'launch.py', '--config=configs/quickstart.py:smoke'],
      cwd=ROOT, text=True, capture_output=True, timeout=120,
      env=os.environ | {'JAXAUG_CONVOLUTIONS': 'onedn'})
  assert out.returncode == 2
  assert out.stderr.startswith('launch.py: JAXAUG_CONVOLUTIONS: ')
  assert "Did you mean 'onednn'?" in out.stderr
  assert out.stderr.count('\n') == 1


@pytest.mark.parametrize('failing', [0, 1])
def test_what_fails_inside_is_an_error_of_xla(monkeypatch, failing):
  """Either primitive: the kernel's new layout, and the convolution."""
  kind = ctypes.CFUNCTYPE(ctypes.c_int, *(ctypes.c_void_p,) * 4)
  calls, address, before = [], onednn._address, (
      onednn.library().functions.omp_get_max_threads())
  def execute(*args):
    calls.append(args)
    return 5 * (len(calls) == failing + 1)
  execute = kind(execute)
  monkeypatch.setattr(onednn, '_address', lambda name: (
      ctypes.cast(execute, ctypes.c_void_p).value
      if name == 'dnnl_primitive_execute' else address(name)))
  target = _target(7 + failing)
  with pytest.raises(jax.errors.JaxRuntimeError, match='oneDNN failed: jaxaug'):
    _call(target, 7 + failing)
  assert len(calls) == failing + 1
  monkeypatch.undo()
  more = 20 + failing  # As before: no lock is held.
  assert (_call(_target(more), more)[0][:, 1:-1, 1:-1] == 9 * more).all()
  assert onednn.library().functions.omp_get_max_threads() == before


def test_what_onednn_refuses_is_plain_jax(monkeypatch):
  def refuse(*args, **kwargs):
    raise onednn.Unavailable('no')
  monkeypatch.setattr(onednn, 'target', refuse)
  monkeypatch.setattr(convolution, 'way', lambda *_: ('onednn', ''))
  jax.clear_caches()
  f = jax.jit(lambda x, w: convolution.conv_general_dilated(
      x, w, (1, 1), 'SAME', dimension_numbers=NHWC))
  x, w = jnp.ones((2, 4, 4, 8)), jnp.ones((3, 3, 8, 8))
  with pytest.warns(UserWarning, match='plain JAX computes y .*: no'):
    assert 'jaxaug_onednn' not in f.lower(x, w).as_text()
  assert f(x, w)[0, 1, 1, 0] == 72
  jax.clear_caches()


def _steps():
  """Gradients of three layers: kernels wide, strided and narrow."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(16, 16, 16, 24)), jnp.float32)
  ws = [jnp.asarray(rng.normal(size=s) / 9, jnp.float32)
        for s in ((3, 3, 24, 64), (4, 4, 64, 64), (5, 5, 64, 1))]
  def loss(x, ws):
    for w, stride in zip(ws, (1, 2, 1), strict=True):
      x = jnp.tanh(convolution.conv_general_dilated(
          x, w, (stride,) * 2, 'SAME', dimension_numbers=NHWC))
    return x.sum()
  step = quick.jit(jax.grad(loss, (0, 1)))
  return lambda: [np.asarray(a) for a in jax.tree.leaves(step(x, ws))]


def _same(a, b):
  return all(np.array_equal(v, w) for v, w in zip(a, b, strict=True))


@pytest.mark.parametrize('busy', [False, True], ids=['idle', 'under load'])
def test_a_step_is_the_same_to_the_bit_20_times(busy):
  step, over = _steps(), threading.Event()
  def burn():
    a = np.ones((200, 200))
    while not over.is_set():
      a @ a
      sum(range(1000))
  threads = [threading.Thread(target=burn) for _ in range(3 * busy)]
  for t in threads:
    t.start()
  try:
    first = step()
    assert all(_same(step(), first) for _ in range(20))
  finally:
    over.set()
    for t in threads:
      t.join()


def _four_threads(seconds):
  steps = [_steps() for _ in range(4)]  # Programs of their own.
  first, wrong, counts = steps[0](), [], [0] * 4
  end = time.monotonic() + seconds
  def run(i):
    try:
      while time.monotonic() < end:
        counts[i] += 1
        if not _same(steps[i](), first):
          wrong.append('other bits')
    except Exception as e:  # noqa: BLE001, a thread's is not the test's.
      wrong.append(e)
  threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
  for t in threads:
    t.start()
  for t in threads:
    t.join()
  assert not wrong and min(counts) > 1


def test_four_threads_at_once_get_the_same_bits():
  _four_threads(1)


@pytest.mark.parametrize('side', range(4, 8))
def test_four_threads_may_compile_at_once(side):
  found, x, w = [], jnp.ones((3, 4, side, 8)), jnp.ones((3, 3, 8, 8))
  def run(i):
    f = quick.jit(lambda x, w: convolution.conv_general_dilated(
        x, w, (1, 1), 'SAME', dimension_numbers=NHWC) + i)
    found.append(int(f(x, w)[0, 1, 1, 0]))
  threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
  for t in threads:
    t.start()
  for t in threads:
    t.join()
  assert sorted(found) == [72, 73, 74, 75]


@pytest.mark.slow
def test_four_threads_at_once_for_a_minute():
  _four_threads(60)


_DEVICES = """
import functools, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jaxaug.nn.cpu import convolution
assert jax.device_count() == 8 and convolution.way()[0] == 'onednn'
rng = np.random.default_rng(0)
x = np.float32(rng.normal(size=(16, 8, 8, 6)))
w = np.float32(rng.normal(size=(3, 3, 6, 8)))
def loss(x, w):
  y = convolution.conv_general_dilated(
      x, w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  return jnp.sin(y).sum()
grad = jax.grad(loss, (0, 1))
one = jax.jit(grad)(x, w)
mesh = jax.make_mesh((8,), ('batch',), axis_types=(AxisType.Auto,))
split, whole = (NamedSharding(mesh, p) for p in (P('batch'), P()))
args = jax.device_put(x, split), jax.device_put(w, whole)
many = jax.jit(grad)(*args)
assert many[0].sharding.is_equivalent_to(split, 4), many[0].sharding
assert many[1].sharding.is_equivalent_to(whole, 4), many[1].sharding
@functools.partial(jax.shard_map, mesh=mesh, in_specs=(P('batch'), P()),
                   out_specs=(P('batch'), P()), check_vma=False)
def manual(x, w):
  dx, dw = grad(x, w)
  return dx, jax.lax.psum(dw, 'batch')
by_hand = jax.jit(manual)
assert 'jaxaug_onednn' in by_hand.lower(*args).as_text()
for found in many, by_hand(*args):
  for a, b in zip(found, one):
    np.testing.assert_allclose(a, b, atol=1e-5 * abs(b).max())
"""


def _child(code, tmp_path=None, **more):
  env = os.environ | {'JAXAUG_CONVOLUTIONS': 'onednn'} | more
  if tmp_path:
    env['JAX_COMPILATION_CACHE_DIR'] = str(tmp_path)
  return subprocess.run([sys.executable, '-c', code], cwd=ROOT, text=True,
                        capture_output=True, timeout=300, env=env)


def test_eight_devices_equal_one():
  out = _child(_DEVICES,
               XLA_FLAGS='--xla_force_host_platform_device_count=8')
  assert out.returncode == 0, out.stderr


_LEAVING = """
import signal
import jax, jax.numpy as jnp
from jaxaug.nn.cpu import convolution
signal.signal(signal.SIGINT, signal.default_int_handler)  # Also of a job.
f = jax.jit(lambda x, w: convolution.conv_general_dilated(
    x, w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')) / 99)
x, w = jnp.ones((64, 32, 32, 32)), jnp.ones((3, 3, 32, 32))
print(f(x, w)[0, 0, 0, 0], flush=True)
for _ in range({steps}):
  x = f(x, w)
"""


def test_a_process_may_end_while_it_computes_and_kept_programs_serve(tmp_path):
  """Twice: the second takes the program from the compilation cache."""
  for _ in range(2):
    out = _child(_LEAVING.format(steps=20), tmp_path)
    assert out.returncode == 0 and not out.stderr, out.stderr
    assert np.isclose(float(out.stdout), 4 * 32 / 99)
  assert len(list(tmp_path.glob('*-cache'))) > 0


_INTERRUPTED = """
import os, signal, threading, time
import jax, jax.numpy as jnp, numpy as np
from jaxaug.nn.cpu import convolution
def f(x, w):
  return convolution.conv_general_dilated(
      x, w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
x, w = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 8))
want, over, wrong, calls, armed = np.asarray(f(x, w)), False, 0, 0, False
def interrupt(*_):
  global armed
  if armed:  # Not while the one before is caught.
    armed = False
    raise KeyboardInterrupt
signal.signal(signal.SIGINT, interrupt)
def send():
  global over
  sent = 0
  while sent < 300 or calls <= 100:  # Of a busy machine, more.
    time.sleep(0.002)
    os.kill(os.getpid(), signal.SIGINT)
    sent += 1
  time.sleep(0.5)  # Until the last one has been caught.
  over = True
threading.Thread(target=send).start()
def run():
  global calls, wrong
  while not over:
    wrong += not np.array_equal(f(x, w), want)
    calls += 1
while not over:
  try:
    armed = True
    run()
  except KeyboardInterrupt:
    pass
assert calls > 100 and not wrong, (calls, wrong)
"""


def test_interrupts_in_the_thread_that_computes_change_nothing():
  """Small programs run in the thread that asks, here the main one."""
  out = _child(_INTERRUPTED)
  assert out.returncode == 0, (out.returncode, out.stderr)


def test_an_interrupted_process_is_interrupted(tmp_path):
  child = subprocess.Popen(
      [sys.executable, '-c', _LEAVING.format(steps=10**6)], cwd=ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      env=os.environ | {'JAXAUG_CONVOLUTIONS': 'onednn'})
  try:
    child.stdout.readline()  # It computes.
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    _, stderr = child.communicate(timeout=60)
  finally:
    child.kill()
  assert child.returncode == -signal.SIGINT
  assert stderr.rstrip().endswith('KeyboardInterrupt')
