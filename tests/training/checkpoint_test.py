"""What is saved comes back bit for bit, after kills, damage and full disks."""
import errno
import gc
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxaug.core import errors, files, types
from jaxaug.training import checkpoint

_KILLED = """
import os, signal, sys
import jax, jax.numpy as jnp
from jaxaug.training import checkpoint
state = {'w': jax.random.normal(jax.random.key(0), (40, 2 ** 18))}
saver = checkpoint.open(sys.argv[1])
saver.save(1, state, {'epoch': 0.5})
saver.wait()
saver.save(2, jax.tree.map(lambda x: x + 1, state), {})
while not os.path.exists(f'{sys.argv[1]}/2.orbax-checkpoint-tmp'):
  pass  # Orbax makes it behind our back, and then writes 40 MB.
os.kill(os.getpid(), signal.SIGKILL)
"""


def _net(seed, n=30):
  params = {'dense': {'kernel': jax.random.normal(jax.random.key(seed), (n, n)),
                      'half': jnp.full((5,), 1 / 3, jnp.bfloat16)}}
  optimizer = optax.adam(1e-3)
  grads = jax.tree.map(jnp.sin, params)
  _, opt = optimizer.update(grads, optimizer.init(params), params)
  return types.Net(params, {}, opt)


def _gan(step, n=30):
  g = _net(step, n)
  return types.GanState(jnp.int32(step), g, _net(step + 1, n), {
      'params': g.params, 'batch_stats': {'mean': jnp.array([jnp.nan, -0.])}})


def _same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.dtype == y.dtype and x.shape == y.shape
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def _fill(folder, steps, n=30):
  saver = checkpoint.open(folder)
  for step in steps:
    saver.save(step, _gan(step, n), {'seen': step * 64, 'best': 0.1})
  saver.close()


@pytest.fixture
def noisy():
  """For a test in which tensorstore's threads complain on stderr."""


@pytest.fixture(autouse=True)
def silent(capfd, recwarn, request):
  yield
  if 'noisy' not in request.fixturenames:
    assert capfd.readouterr().err == ''
    # What orbax began to read of damaged arrays may be collected here.
    assert not [str(w.message) for w in recwarn
                if 'coroutine object _read_array' not in str(w.message)]


def test_round_trip_is_exact_and_keeps_the_types(tmp_path):
  _fill(tmp_path / 'new' / 'ck', [1, 2, 5])
  saver = checkpoint.open(tmp_path / 'new' / 'ck')
  for like in _gan(0), jax.eval_shape(lambda: _gan(0)):
    step, state, extra = saver.restore(like)
    assert (step, extra) == (5, {'seen': 320, 'best': 0.1})
    assert type(state) is types.GanState and type(state.g) is types.Net
    _same(state, _gan(5))
  assert sorted(os.listdir(tmp_path / 'new' / 'ck')) == ['2', '5']
  saver.close()


def test_restored_state_trains_on_and_is_saved_again(tmp_path):
  _fill(tmp_path, [1])
  saver = checkpoint.open(tmp_path, keep=1)
  _, state, _ = saver.restore(_gan(0))
  state = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s),
                  donate_argnums=0)(state)
  saver.save(2, state, {})
  assert saver.restore(state)[0] == 2  # It waits for the save by itself.
  with pytest.raises(ValueError, match='step 2 is not after the last save'):
    saver.save(2, state, {})
  saver.close()
  assert os.listdir(tmp_path) == ['2']


def test_nothing_to_restore_costs_nothing(tmp_path):
  started = time.perf_counter()
  saver = checkpoint.open(tmp_path / 'ck')
  assert saver.restore(_gan(0)) is None
  saver.wait()
  saver.close()
  assert time.perf_counter() - started < 0.1
  assert os.listdir(tmp_path) == []


def test_state_may_be_donated_while_it_is_saved(tmp_path):
  step = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 7, s),
                 donate_argnums=0)
  saver = checkpoint.open(tmp_path)
  for i in range(3):
    state = {'w': jax.random.normal(jax.random.key(i), (1000, 2000)),
             'b': jnp.arange(7.)}
    expected = jax.tree.map(lambda x: np.array(x, copy=True), state)
    saver.save(i, state, {})
    for _ in range(5):
      state = step(state)
    jax.block_until_ready(state)
    _same(saver.restore(state)[1], expected)
  saver.close()


def test_sharding_of_the_like_is_used(tmp_path):
  mesh = jax.make_mesh((1,), ('batch',),
                       axis_types=(jax.sharding.AxisType.Auto,))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  saver = checkpoint.open(tmp_path)
  saver.save(1, {'w': jnp.arange(6.)}, {})
  state = saver.restore({'w': jax.ShapeDtypeStruct(
      (6,), jnp.float32, sharding=sharding)})[1]
  assert state['w'].sharding == sharding
  saver.close()


def _files(folder):
  return [f for f in folder.rglob('*') if f.is_file()]


def _change_bytes(folder):
  path = max(_files(folder), key=lambda f: f.stat().st_size)
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def _overwrite(folder):
  for f in _files(folder):
    f.write_bytes(b'garbage')


def _empty(folder):
  shutil.rmtree(folder)
  folder.mkdir()


def _delete_state(folder):
  shutil.rmtree(folder / 'state')


def _file_instead(folder):
  shutil.rmtree(folder)
  folder.write_text('')


@pytest.mark.parametrize('damage', [
    _change_bytes, _overwrite, _empty, _delete_state, _file_instead])
def test_damage_goes_back_one_step_then_gives_up(tmp_path, damage, capfd):
  _fill(tmp_path, [1, 2], 90)
  damage(tmp_path / '2')
  saver = checkpoint.open(tmp_path)
  step, state, _ = saver.restore(_gan(0, 90))
  assert step == 1
  _same(state, _gan(1, 90))
  line, = capfd.readouterr().out.splitlines()
  assert str(tmp_path / '2') in line and 'going back to step 1' in line
  saver.save(2, _gan(2, 90), {})
  assert saver.restore(_gan(0, 90))[0] == 2
  saver.close()
  damage(tmp_path / '1')
  damage(tmp_path / '2')
  before = sorted(os.listdir(tmp_path))
  with pytest.raises(errors.InputError, match='delete this folder') as info:
    checkpoint.open(tmp_path).restore(_gan(0, 90))
  assert str(tmp_path) in str(info.value) and '\n' not in str(info.value)
  assert sorted(os.listdir(tmp_path)) == before


def test_kill_while_saving_leaves_the_step_before(tmp_path):
  root = pathlib.Path(__file__).parents[2]
  job = subprocess.run([sys.executable, '-c', _KILLED, tmp_path], cwd=root,
                       timeout=60)
  assert job.returncode == -signal.SIGKILL
  assert (tmp_path / '2.orbax-checkpoint-tmp').exists()
  like = {'w': jax.ShapeDtypeStruct((40, 2 ** 18), jnp.float32)}
  saver = checkpoint.open(tmp_path)
  step, state, extra = saver.restore(like)
  assert (step, extra) == (1, {'epoch': 0.5})
  saver.save(2, state, {})
  saver.close()
  assert sorted(os.listdir(tmp_path)) == ['1', '2']


def test_a_full_disk_is_seen_before_the_save(tmp_path, monkeypatch):
  _fill(tmp_path, [1])
  usage = shutil.disk_usage(tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(shutil, 'disk_usage', lambda _: usage._replace(free=999))
    saver = checkpoint.open(tmp_path)
    with pytest.raises(errors.InputError, match='disk is full'):
      saver.save(2, _gan(2), {})
    saver.close()
  assert checkpoint.open(tmp_path).restore(_gan(0))[0] == 1


def test_an_unwritable_folder_is_one_line(tmp_path, monkeypatch):
  def refuse(*_, **__):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
  monkeypatch.setattr(files, 'check_space', lambda *_: None)
  monkeypatch.setattr(pathlib.Path, 'mkdir', refuse)
  with pytest.raises(errors.InputError, match='no permission'):
    checkpoint.open(tmp_path / 'ck').save(1, _gan(1), {})


@pytest.mark.filterwarnings('ignore')
def test_a_failed_background_write_surfaces_once(tmp_path, noisy):
  _fill(tmp_path, [1])
  saver = checkpoint.open(tmp_path)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  try:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 ** 16, hard))
    saver.save(2, _gan(2, 300), {})
    with pytest.raises(errors.InputError) as info:
      saver.wait()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert str(tmp_path) in str(info.value) and '\n' not in str(info.value)
  saver.wait()
  saver.save(3, _gan(3), {})
  assert saver.restore(_gan(0))[0] == 3
  saver.close()
  assert sorted(os.listdir(tmp_path)) == ['1', '3']
  del saver, info
  gc.collect()  # What orbax left unawaited warns here, not in another test.
