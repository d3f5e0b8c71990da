"""What samples start from: the right real images, and the right models."""
import jax
import jax.numpy as jnp
import numpy as np

from jaxaug.core import types
from jaxaug.data import origins, pixels
from tests import quick

KEY = jax.random.key(0)


def _train(counts=(5, 3, 4)):
  labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
  labels = np.random.default_rng(0).permutation(labels)
  images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
  return types.Split(np.tile(images, (1, 2, 3, 1)), labels,
                     np.arange(len(labels)))


def _model(**more):
  """Shows the given image, or the label, as it is."""
  def sample(variables, key, labels, given=None, *, by: float = 0.0):
    if given is None:
      given = jnp.broadcast_to(
          (labels + variables)[:, None, None, None] / 100, (len(labels), 2, 3,
                                                            1))
    return given + by
  return types.GenerativeModel(None, None, None, sample, None, **more)


def test_samples_start_from_images_of_the_class_that_is_named():
  """Any alike: each of 4 images in 1,000 draws, within 5 deviations."""
  train = _train()
  model = _model(origins=((0, 2), (2, 1)))
  assert origins.made(model, 3) == (0, 2)
  draw = quick.jit(origins.sampler(model, train, 3))
  labels = np.tile(np.array([0, 2], np.int32), 1000)
  images, places = map(np.asarray, draw(0, KEY, labels))
  np.testing.assert_array_equal(train.labels[places],
                                np.where(labels == 0, 2, 1))
  np.testing.assert_array_equal(pixels.to_uint8(images), train.images[places])
  for label, count in (0, 4), (2, 3):
    seen = np.bincount(places[labels == label])
    seen = seen[seen > 0]
    assert len(seen) == count
    spread = np.sqrt(1000 / count * (1 - 1 / count))
    assert np.abs(seen - 1000 / count).max() < 5 * spread
  _, again = draw(0, KEY, labels)
  np.testing.assert_array_equal(again, places)
  _, other = draw(0, jax.random.key(1), labels)
  assert not np.array_equal(other, places)


def test_noise_does_not_go_with_the_image_that_is_drawn():
  """The model draws one of 4 places as the sampler does: alike by chance."""
  def sample(variables, key, labels, given):
    return jax.random.randint(key, labels.shape, 0, 4)
  train, model = _train(), _model(origins=((0, 2),))._replace(sample=sample)
  noise, places = quick.jit(origins.sampler(model, train, 3))(
      0, KEY, np.zeros(1000, np.int32))
  alike = np.flatnonzero(train.labels == 2)[noise] == places
  assert abs(alike.mean() - 1 / 4) < 5 * np.sqrt(1 / 4 * 3 / 4 / 1000)


def test_noise_alone_starts_from_nothing():
  model = _model()
  assert origins.made(model, 3) == (0, 1, 2)
  draw = origins.sampler(model, _train(), 3, by=0.5)
  images, places = draw(1, KEY, np.array([0, 2], np.int32))
  np.testing.assert_allclose(images[:, 0, 0, 0], [0.51, 0.53])
  assert places.tolist() == [-1, -1]
  # One function, so that what is jitted of it is compiled once.
  assert origins.sampler(model, _train(), 3, by=0.5) is draw
  assert origins.sampler(model, _train(), 3) is not draw


def test_models_of_one_image_each_draw_in_turn():
  """Of five models of class 2 and two of class 0."""
  model = _model(per_image=True)
  labels, places = [0, 0, 2, 2, 2, 2, 2], [4, 9, 1, 3, 5, 7, 8]
  draw = quick.jit(origins.sampler_of_images(model, labels, places, 3))
  asked = np.array([0, 2, 2, 2, 0, 2, 2, 2, 2, 2, 2, 2], np.int32)
  variables = np.arange(7) * 10
  begun = set()
  for seed in range(100):
    images, found = map(np.asarray, draw(
        variables, jax.random.key(seed), asked))
    which = np.array([places.index(place) for place in found])
    np.testing.assert_array_equal(np.array(labels)[which], asked)
    np.testing.assert_allclose(images[:, 0, 0, 0],
                               (asked + 10 * which) / 100, atol=1e-6)
    assert sorted(np.bincount(which, minlength=7)) == [1, 1, 2, 2, 2, 2, 2]
    begun.add((int(which[0]), int(which[1])))
  # Each class anywhere, whatever the other.
  assert begun == {(a, b) for a in (0, 1) for b in (2, 3, 4, 5, 6)}


def test_every_image_of_one_model_has_noise_of_its_own():
  def sample(variables, key, labels):
    return jax.random.uniform(key, (len(labels), 1, 1, 1))
  draw = quick.jit(origins.sampler_of_images(
      _model(per_image=True)._replace(sample=sample), [0], [4], 1))
  images, _ = draw(np.zeros(1), KEY, np.zeros(6, np.int32))
  assert len(np.unique(images)) == 6
