"""Keeps random images of each class: what other representatives must beat."""
from jaxaug.core import errors, types
from jaxaug.data import picking


def build(known: types.Known, *, count: int = 5):
  """Returns select(images, labels) -> what is dropped.

  Args:
    known: its seed draws.
    count: images kept of each class that has any.
  """
  errors.count('count', count)

  def draw(rows, most, rng):
    return rng.permutation(len(rows))[:most]
  return lambda images, labels: picking.picked(known, labels, draw,
                                               count=count)
