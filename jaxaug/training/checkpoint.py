"""Asynchronous checkpoints that outlive kills and damage; all of orbax is here.

A checkpoint also carries a checksum of its arrays: orbax itself reads back
many a changed byte without complaint.
"""
import errno
import functools
import logging
import math
import os
import pathlib
import time
import typing
import zlib

import jax
import numpy as np

from jaxaug.core import console, errors, files


class Checkpoints(typing.NamedTuple):
  """The checkpoints of one training run.

  save(step, state, extra): starts to save and returns; `state` may be donated
    right after. `extra` is a JSON dict. A failure, such as of a full disk,
    raises InputError here or in the next call.
  restore(like) -> (step, state, extra) or None: the latest that is whole.
    `like` is a pytree of arrays or `jax.ShapeDtypeStruct`; their shardings are
    used where they have one.
  wait(): returns when the last save is on the disk.
  close(): waits and ends.
  """
  save: typing.Callable
  restore: typing.Callable
  wait: typing.Callable
  close: typing.Callable


# How many of a run's latest checkpoints stay; a new one is written beside them.
_KEEP = 2


def size(tree) -> int:
  """Bytes of the arrays of a pytree, or of their shapes."""
  return sum(math.prod(x.shape) * x.dtype.itemsize
             for x in jax.tree.leaves(tree))


def room(tree_size: int) -> int:
  """Bytes on the disk of a run's checkpoints of so many bytes each."""
  return (_KEEP + 1) * tree_size


def open(folder, keep: int = _KEEP) -> Checkpoints:
  """Opens a folder of checkpoints; costs nothing before the first save.

  Args:
    folder: made at the first save; one process may use it at a time.
    keep: how many of the latest to keep.
  """
  folder = pathlib.Path(folder).absolute()
  manager = None

  def guarded(act):
    nonlocal manager
    try:
      return act()
    except Exception as e:
      manager = None  # It would raise the same for ever.
      _raise_friendly(e, folder)
      raise

  def save(step, state, extra):
    nonlocal manager
    wait()
    # Before orbax meets a full disk, which it reports by many tracebacks.
    files.check_space(folder, size(state) + 2**20)
    manager = manager or guarded(lambda: _manager(folder, keep))
    if not guarded(lambda: _save(manager, step, state, extra)):
      raise ValueError(f'{folder}: step {step} is not after the last save')

  def restore(like):
    wait()
    return _restore(folder, like)

  def wait():
    if manager:
      guarded(manager.wait_until_finished)

  def close():
    nonlocal manager
    wait()
    if manager:
      manager.close()
      manager = None

  return Checkpoints(save, restore, wait, close)


@functools.cache
def _orbax():
  import orbax.checkpoint as ocp
  # It logs what it then raises, and much that says nothing to a user.
  logging.getLogger('absl').addFilter(
      lambda record: f'{os.sep}orbax{os.sep}' not in record.pathname)
  return ocp


def _manager(folder, keep):
  ocp = _orbax()
  from orbax.checkpoint.checkpoint_managers import preservation_policy
  folder.mkdir(parents=True, exist_ok=True)
  return ocp.CheckpointManager(
      folder, item_names=('state', 'extra', 'checksum'),
      options=ocp.CheckpointManagerOptions(
          preservation_policy=preservation_policy.LatestN(keep),
          cleanup_tmp_directories=True))


def _save(manager, step, state, extra):
  args = _orbax().args
  # Orbax reads from its own host copies; on CPU they are views, which keep jax
  # from reusing a donated buffer.
  return manager.save(step, args=args.Composite(
      state=args.StandardSave(state), extra=args.JsonSave(extra),
      checksum=args.JsonSave({'crc32': _checksum(state),
                              'extra': files.digest(extra)})))


def _checksum(state) -> int | None:
  crc = 0
  for x in jax.tree.leaves(state):
    if isinstance(x, jax.Array) and not (
        x.is_fully_addressable or x.is_fully_replicated):
      return None  # Spread over hosts: none of them can see it all.
    crc = zlib.crc32(np.ascontiguousarray(x).reshape(-1).view(np.uint8), crc)
  return crc


def _restore(folder, like):
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=getattr(x, 'sharding', None) or here), like)
  names = os.listdir(folder) if folder.exists() else []
  bad = {}
  for step in sorted((int(n) for n in names if n.isdecimal()), reverse=True):
    try:
      state, extra = _read(folder / str(step), like)
    except Exception as e:
      # TensorStore says much of itself behind these words.
      bad[step] = f'{type(e).__name__}: {e}'.splitlines()[0].partition(
          ' See full')[0][:200]
      continue
    _set_aside(folder, bad, step)
    return step, state, extra
  if bad:
    step, why = next(iter(bad.items()))
    raise errors.InputError(
        f'{folder}: no checkpoint here can be read; delete this folder to '
        f'train from the start. (step {step}: {why})')
  return None


def _set_aside(folder, bad, step):
  """Clears the names of damaged steps, which will be saved anew."""
  if bad and jax.process_count() > 1:
    from jax.experimental import multihost_utils
    multihost_utils.sync_global_devices('restored')  # All have looked.
  if jax.process_index() == 0:
    for old, why in bad.items():
      console.say(f'{folder / str(old)}: this checkpoint cannot be read; going '
                  f'back to step {step}. ({why})')
      os.replace(folder / str(old),
                 folder / f'{old}.damaged-{time.time_ns()}')


def _read(path, like):
  args = _orbax().args
  with _orbax().Checkpointer(_orbax().CompositeCheckpointHandler()) as reader:
    item = reader.restore(path, args=args.Composite(
        state=args.StandardRestore(like), extra=args.JsonRestore(),
        checksum=args.JsonRestore()))
  expected = item.checksum['crc32']
  if expected is not None and expected != _checksum(item.state):
    raise ValueError('its arrays are not those that were saved')
  if item.checksum['extra'] != files.digest(item.extra):
    raise ValueError('its numbers are not those that were saved')
  return item.state, item.extra


def _raise_friendly(error, folder):
  """Raises one line if the disk is to blame, in whatever orbax wrapped it."""
  for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES,
               errno.EROFS):
    if os.strerror(code) in str(error):
      raise files.friendly(OSError(code, ''), folder) from error


def write_tree(path, tree):
  """Writes a pytree of host arrays, such as finished weights, as one .npz."""
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  files.save_npz(path, **{
      jax.tree_util.keystr(place, simple=True, separator='/'): np.asarray(leaf)
      for place, leaf in flat})


def read_tree(path, like):
  """Reads what `write_tree` wrote into the structure of `like`.

  Raises:
    InputError: the file is missing, damaged, or of another network.
  """
  arrays = files.load_npz(path)
  flat, structure = jax.tree_util.tree_flatten_with_path(like)
  leaves = []
  for place, leaf in flat:
    name = jax.tree_util.keystr(place, simple=True, separator='/')
    if name not in arrays or arrays[name].shape != leaf.shape:
      found = arrays[name].shape if name in arrays else 'nothing'
      raise errors.InputError(
          f'{path}: holds {found} for {name}; expected {leaf.shape}.')
    leaves.append(arrays[name])
  return jax.tree.unflatten(structure, leaves)
