"""Every image that a training may see: on the devices, or on the disk.

What fits lies on the devices once, and batches are gathered there. Else they
are read ahead of the training. Both give it the same bits.
"""
import functools
import typing

import jax
import numpy as np

from jaxaug.data import records
from jaxaug.training import mesh


class Bank(typing.NamedTuple):
  """Labelled images, by their places.

  images: uint8 [N, H, W, C] on the devices, or records.Joined.
  labels: int32 [N].
  """
  images: typing.Any
  labels: typing.Any

  @property
  def placed(self) -> bool:
    """Whether they lie on the devices."""
    return isinstance(self.images, jax.Array)


def make(devices, *pieces) -> Bank:
  """Lays sets of images end to end.

  Args:
    devices: mesh.
    *pieces: (images, labels): uint8 [N, H, W, C], or records.Records, one of
      which makes the bank stay on the host; and int32 [N].
  """
  images, labels = zip(*pieces, strict=True)
  labels = np.concatenate(labels)
  if all(isinstance(x, np.ndarray) for x in images):
    return Bank(*mesh.replicate(devices, (np.concatenate(images), labels)))
  return Bank(records.Joined(images), labels)


def whole(bank: Bank, devices) -> Bank:
  """Returns it on the devices; InputError where memory may not hold it."""
  return bank if bank.placed else Bank(
      *mesh.replicate(devices, (np.asarray(bank.images), bank.labels)))


@functools.partial(jax.jit, static_argnames='devices')
def _gather(bank: Bank, index, devices):
  # Each device gathers its own part.
  return jax.lax.with_sharding_constraint(
      (bank.images[index], bank.labels[index]),
      mesh.along(devices, index.ndim - 1))


def batches(bank: Bank, positions, devices, *, stop: int, stride: int = 1):
  """Returns batches(i) -> a tuple of (images uint8 [..., B, H, W, C], labels
  int32 [..., B]) on the devices, split along B.

  Args:
    bank: where they are from.
    positions(i) -> a tuple of int [..., B], places in the bank. Pure.
    devices: mesh.
    stop, stride: i will be `stride` more from one batch to the next, and below
      `stop`.
  """
  def put(x, like):
    return mesh.shard(devices, x, axis=like.ndim - 1)
  if bank.placed:
    return lambda i: tuple(_gather(bank, put(index, index), devices)
                           for index in positions(i))

  def fetch(i):
    return tuple((bank.images[index], bank.labels[index])
                 for index in positions(i))
  ahead = records.ahead(fetch, stop, stride)
  return lambda i: tuple((put(images, labels), put(labels, labels))
                         for images, labels in ahead(i))
