"""The real images that a generative model's samples start from."""
import typing

import jax
import jax.numpy as jnp
import numpy as np

from jaxaug.core import types
from jaxaug.data import pixels


class _Places(typing.NamedTuple):
  """Of each class that is made: its starts are places[first:first + count]."""
  places: np.ndarray     # Positions in the training split, by class.
  first: np.ndarray      # int32 [K].
  count: np.ndarray      # int32 [K], 1 for a class that is not made.


def made(model: types.GenerativeModel, num_classes: int) -> tuple[int, ...]:
  """Returns the classes that a model makes."""
  return (tuple(label for label, _ in model.origins) or model.classes
          or tuple(range(num_classes)))


def sampler(model: types.GenerativeModel, train: types.Split,
            num_classes: int):
  """Returns draw(variables, key, labels) -> (images, origins), jittable.

  Each image of a model with `origins` starts from a training image of the class
  that it names, drawn alike and with replacement.

  Args:
    model: whose sample.
    train: the training split that it learned from.
    num_classes: K.

  Returns:
    draw: labels int32 [B] of classes that the model makes -> images float32
      [B, H, W, C] in [-1, 1] and the places in `train` of what they started
      from, int32 [B]; -1 for noise alone.
  """
  if not model.origins:
    return lambda variables, key, labels: (
        model.sample(variables, key, labels), jnp.full(len(labels), -1))
  table = _places(model.origins, np.asarray(train.labels), num_classes)

  def draw(variables, key, labels):
    pick, key = jax.random.split(key)
    first, count = (jnp.asarray(x)[labels] for x in table[1:])
    place = jnp.asarray(table.places)[
        first + jax.random.randint(pick, labels.shape, 0, count)]
    given = pixels.to_float(jnp.asarray(train.images)[place])
    return model.sample(variables, key, labels, given), place
  return draw


def _places(origins, labels: np.ndarray, num_classes: int) -> _Places:
  first, count = np.zeros(num_classes, np.int32), np.ones(num_classes, np.int32)
  parts, begun = [], 0
  for label, start in origins:
    parts.append(np.flatnonzero(labels == start).astype(np.int32))
    first[label], count[label] = begun, len(parts[-1])
    begun += len(parts[-1])
  return _Places(np.concatenate(parts), first, count)
