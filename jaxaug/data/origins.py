"""What samples start from: noise, real images, or a model of one image each."""
import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np

from jaxaug.core import types
from jaxaug.data import pixels


class _Places(typing.NamedTuple):
  """Of each class that is made: its starts are places[first:first + count]."""
  places: np.ndarray     # Int32, by class.
  first: np.ndarray      # Int32 [K].
  count: np.ndarray      # Int32 [K], 1 for a class that is not made.


def made(model: types.GenerativeModel, num_classes: int) -> tuple[int, ...]:
  """Returns the classes that a model makes."""
  return (tuple(label for label, _ in model.origins) or
          tuple(range(num_classes)))


def sampler(model: types.GenerativeModel, train: types.Split, num_classes: int,
            **how):
  """Returns draw(variables, key, labels) -> (images, origins), jittable.

  Each image of a model with `origins` starts from a training image of the class
  that it names, drawn alike and with replacement.

  Args:
    model: whose sample.
    train: the training split that it learned from.
    num_classes: K.
    **how: what else `model.sample` takes.

  Returns:
    draw: labels int32 [B] of classes that the model makes -> images float32
      [B, H, W, C] in [-1, 1] and the places in `train` of what they started
      from, int32 [B]; -1 for noise alone.
  """
  if not model.origins:
    return _from_noise(model, tuple(sorted(how.items())))
  table = _places({label: np.flatnonzero(train.labels == start)
                   for label, start in model.origins}, num_classes)

  def draw(variables, key, labels):
    pick, key = jax.random.split(key)
    first, count = (jnp.asarray(x)[labels] for x in table[1:])
    place = jnp.asarray(table.places)[
        first + jax.random.randint(pick, labels.shape, 0, count)]
    given = pixels.to_float(jnp.asarray(np.asarray(train.images))[place])
    return model.sample(variables, key, labels, given, **how), place
  return draw


@functools.lru_cache(8)
def _from_noise(model, how):
  """The same function for the same model, so that it is compiled once."""
  def draw(variables, key, labels):
    images = model.sample(variables, key, labels, **dict(how))
    return images, jnp.full(labels.shape, -1)
  return draw


def sampler_of_images(model: types.GenerativeModel, labels, places,
                      num_classes: int, **how):
  """The same as `sampler` of many models, each of one image.

  In every batch the images of a class come from its models in turn, beginning
  anywhere.

  Args:
    model: of one image.
    labels, places: int [R], of those images: their classes, and their places in
      the training split.
    num_classes, **how: as of `sampler`.

  Returns:
    draw, which takes the variables of all models, stacked.
  """
  labels, places = np.asarray(labels), np.asarray(places, np.int32)
  table = _places({label: np.flatnonzero(labels == label)
                   for label in np.unique(labels)}, num_classes)

  def draw(variables, key, asked):
    shift, key = jax.random.split(key)
    # How many of its class stand before each.
    before = jnp.tril(asked[:, None] == asked[None, :], -1).sum(1)
    first, count = (jnp.asarray(x)[asked] for x in table[1:])
    begin = jax.random.randint(shift, (num_classes,), 0,
                               jnp.asarray(table.count))
    which = jnp.asarray(table.places)[first + (before + begin[asked]) % count]

    def one(given):
      key, which, label = given
      own = jax.tree.map(lambda x: x[which], variables)
      return model.sample(own, key, label[None], **how)[0]
    # One by one: a batch of networks is slow everywhere.
    images = jax.lax.map(one, (jax.random.split(key, len(asked)), which, asked))
    return images, jnp.asarray(places)[which]
  return draw


def _places(starts: dict[int, np.ndarray], num_classes: int) -> _Places:
  first, count = np.zeros(num_classes, np.int32), np.ones(num_classes, np.int32)
  parts, begun = [], 0
  for label, places in starts.items():
    parts.append(places.astype(np.int32))
    first[label], count[label] = begun, len(places)
    begun += len(places)
  return _Places(np.concatenate(parts), first, count)
