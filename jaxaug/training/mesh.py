"""One mesh over all devices of all hosts, with the one axis 'batch'.

Several hosts can meet and place arrays here, but a launch refuses them: stages
do not yet write from one host alone.
"""
import os

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxaug.core import console, errors
from jaxaug.nn.cpu import convolution

# How many processes a launcher started, by the launcher's own variable.
_PROCESS_COUNTS = ('SLURM_STEP_NUM_TASKS', 'OMPI_COMM_WORLD_SIZE')

def initialize() -> bool:
  """Joins the other hosts if the environment says that there are some.

  That is JAX_COORDINATOR_ADDRESS (with JAX_NUM_PROCESSES and JAX_PROCESS_ID,
  unless jax can find these itself), more than one Slurm or Open MPI task, or
  more than one host of a TPU slice. To be called before anything else of jax.

  Returns:
    Whether there are others.

  Raises:
    InputError: a variable is no number or the hosts do not meet.
  """
  env = os.environ
  try:
    if 'JAX_COORDINATOR_ADDRESS' in env:
      given = {argument: int(env[name]) for argument, name in (
          ('num_processes', 'JAX_NUM_PROCESSES'),
          ('process_id', 'JAX_PROCESS_ID')) if name in env}
    elif (any(int(env.get(name, 1)) > 1 for name in _PROCESS_COUNTS)
          or ',' in env.get('TPU_WORKER_HOSTNAMES', '')):
      given = {}
    else:
      return False
    jax.distributed.initialize(**given)
  except (ValueError, RuntimeError) as e:
    raise errors.InputError(
        'the environment asks for several hosts (JAX_COORDINATOR_ADDRESS, '
        'Slurm, Open MPI or TPU), and that failed: '
        f'{str(e).partition(chr(10))[0]}') from e
  return True


def make(devices=None, batch_sizes=()) -> Mesh:
  """Returns the mesh over `devices`, by default all.

  With `batch_sizes`, over as many of them as divide every batch evenly.
  """
  devices = jax.devices() if devices is None else devices
  count = max(n for n in range(1, len(devices) + 1)
              if not any(size % n for size in batch_sizes))
  if count < len(devices):
    console.say(f'{count} of {len(devices)} devices are used: batch sizes '
                f'{sorted(set(batch_sizes))} divide no further')
  return jax.make_mesh((count,), ('batch',), devices=devices[:count],
                       axis_types=(AxisType.Auto,))


def describe(mesh: Mesh) -> str:
  """Returns the devices in words, such as '1 x cpu, convolutions: onednn'."""
  device = mesh.devices.flat[0]
  words = f'{mesh.size} x {device.device_kind}'
  if device.platform == 'cpu':
    words += f', convolutions: {convolution.way(mesh.size)[0]}'
  return words


def replicate(mesh: Mesh, tree):
  """Places a pytree of arrays whole on every device."""
  return _place(tree, NamedSharding(mesh, PartitionSpec()))


def shard(mesh: Mesh, batch, axis: int = 0):
  """Splits a pytree of arrays over the devices along one axis.

  On several hosts each gives the whole batch and keeps its part.

  Raises:
    InputError: an axis is no multiple of the number of devices.
  """
  for x in jax.tree.leaves(batch):
    if x.shape[axis] % mesh.size:
      raise errors.InputError(
          f'batch_size: {x.shape[axis]} cannot be split evenly over '
          f'{mesh.size} devices; expected a multiple of {mesh.size}')
  return _place(batch, along(mesh, axis))


def along(mesh: Mesh, axis: int) -> NamedSharding:
  """Returns how an array lies that is split over the devices along an axis."""
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, 'batch'))


def _place(tree, sharding):
  if jax.process_count() == 1:
    return jax.device_put(tree, sharding)
  return jax.tree.map(
      lambda x: jax.make_array_from_callback(
          x.shape, sharding, np.asarray(x).__getitem__), tree)
