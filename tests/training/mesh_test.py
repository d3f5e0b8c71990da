"""A step over 8 devices is the step over one; hosts join when asked to."""
import os
import pathlib
import platform
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxaug.core import errors
from jaxaug.training import mesh

_EIGHT = """
import jax, numpy as np, jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec as P
from jaxaug.core import errors
from jaxaug.training import mesh
m = mesh.make()
assert m.shape == {'batch': 8} and m.axis_types == (AxisType.Auto,)
assert mesh.make(batch_sizes=[64, 48]).size == 8
rng = np.random.default_rng(0)
params = {'w': rng.normal(size=(12, 5)).astype('f')}
batch = {'x': rng.normal(size=(16, 12)).astype('f')}
two = mesh.shard(m, {'x': np.zeros((2, 16, 3), 'f')}, axis=1)
assert two['x'].addressable_shards[0].data.shape == (2, 2, 3)

@jax.jit
def step(params, batch):
  def loss(params):
    y = batch['x'] @ params['w']
    y = (y - y.mean(0)) / (y.std(0) + 1)  # Statistics of the whole batch.
    return jnp.sum(jnp.tanh(y) ** 3) / len(y)
  value, grads = jax.value_and_grad(loss)(params)
  return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

def run(m):
  p, b, losses = mesh.replicate(m, params), mesh.shard(m, batch), []
  assert b['x'].sharding.spec == P('batch')
  assert len(b['x'].addressable_shards) == m.size
  for _ in range(10):
    p, value = step(p, b)
    losses.append(float(value))
  assert p['w'].sharding.is_fully_replicated
  return np.array(losses + p['w'].sum(1).tolist())

np.testing.assert_allclose(
    run(m), run(mesh.make(jax.devices()[:1])), rtol=0, atol=1e-5)
try:
  mesh.shard(m, {'x': np.zeros((12, 3))})
except errors.InputError as e:
  print(e)
"""


def test_eight_devices_give_what_one_gives():
  root = pathlib.Path(__file__).parents[2]
  env = os.environ | {
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': '--xla_force_host_platform_device_count=8'}
  out = subprocess.run([sys.executable, '-c', _EIGHT], cwd=root, env=env,
                       capture_output=True, text=True, timeout=120)
  assert out.returncode == 0, out.stderr
  assert out.stdout == ('batch_size: 12 cannot be split evenly over 8 devices; '
                        'expected a multiple of 8\n')


def test_one_device():
  m = mesh.make(jax.devices()[:1])
  x = np.arange(6).reshape(3, 2)
  for y in mesh.shard(m, x), mesh.replicate(m, x):
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize('env, given', [
    ({}, None),
    ({'SLURM_JOB_ID': '1', 'SLURM_NTASKS': '4'}, None),  # No srun.
    ({'SLURM_STEP_NUM_TASKS': '1'}, None),
    ({'SLURM_STEP_NUM_TASKS': '2'}, {}),
    ({'OMPI_COMM_WORLD_SIZE': '2'}, {}),
    ({'TPU_WORKER_HOSTNAMES': 'localhost'}, None),
    ({'TPU_WORKER_HOSTNAMES': 'a,b'}, {}),
    ({'JAX_COORDINATOR_ADDRESS': 'a:1'}, {}),
    ({'JAX_COORDINATOR_ADDRESS': 'a:1', 'JAX_NUM_PROCESSES': '2',
      'JAX_PROCESS_ID': '1'}, {'num_processes': 2, 'process_id': 1}),
])
def test_initialize_only_when_asked(monkeypatch, env, given):
  monkeypatch.setattr(os, 'environ', env)
  calls = []
  monkeypatch.setattr(jax.distributed, 'initialize',
                      lambda **kw: calls.append(kw))
  assert mesh.initialize() == (given is not None)
  assert calls == ([] if given is None else [given])


@pytest.mark.parametrize('env', [
    {'JAX_COORDINATOR_ADDRESS': 'a:1', 'JAX_NUM_PROCESSES': 'two'},
    {'SLURM_STEP_NUM_TASKS': 'x'}])
def test_a_wrong_environment_is_one_line(monkeypatch, env):
  monkeypatch.setattr(os, 'environ', env)
  with pytest.raises(errors.InputError, match='several hosts') as info:
    mesh.initialize()
  assert '\n' not in str(info.value)


_FAULTS = """
import resource, sys
import numpy as np
from jaxaug.core import memory
if sys.argv[1] == 'keep':
  memory.keep()
def faults():
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  np.ones(2**23, np.float32)  # 32 MB: 8,192 pages.
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(max(faults() for _ in range(3)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='needs glibc')
def test_memory_that_is_kept_is_not_faulted_in_again():
  def run(how):
    return int(subprocess.run([sys.executable, '-c', _FAULTS, how], text=True,
                              check=True, stdout=subprocess.PIPE,
                              cwd=pathlib.Path(__file__).parents[2]).stdout)
  assert run('keep') < 100 < run('give')
