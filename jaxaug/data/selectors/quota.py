"""Keeps equally many images of each class, the first ones."""
import numpy as np

from jaxaug.core import errors, types


def build(known: types.Known, *, per_class: int = 0):
  """Returns select(images, labels) -> what is dropped.

  Args:
    known: it is not looked at.
    per_class: at most so many of each class; 0 for as many as the rarest has
      of the classes that have images.
  """
  del known
  errors.count('per_class', per_class, 0)

  def select(images, labels):
    del images
    _, each, counts = np.unique(labels, return_inverse=True,
                                return_counts=True)
    if not len(counts):
      return {}
    place = np.zeros(len(labels), np.int64)
    for k in range(len(counts)):
      place[each == k] = np.arange(counts[k])
    return {'more than the quota': place >= (per_class or counts.min())}
  return select
