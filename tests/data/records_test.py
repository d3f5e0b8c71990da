"""Images on the disk look like an array; batches come as they were asked."""
import time

import numpy as np
import pytest

from jaxaug.core import errors
from jaxaug.data import images, records

RNG = np.random.default_rng(0)


@pytest.fixture(scope='module')
def both(tmp_path_factory):
  """The same images in memory and on the disk."""
  pixels = RNG.integers(0, 256, (2500, 5, 7, 3), np.uint8)
  path = tmp_path_factory.mktemp('records') / 'a.array_record'
  return pixels, records.write(path, images.blocks(pixels, 999), (5, 7, 3),
                               pixels.nbytes)


@pytest.mark.parametrize('rows', [
    3, -1, slice(None), slice(10, 2400, 7), slice(5, 5), [7], [3, 1, 3],
    np.array([[1, 2], [2499, 0]]), np.arange(2500) % 2 == 0])
def test_brackets_are_those_of_an_array(both, rows):
  pixels, stored = both
  np.testing.assert_array_equal(stored[rows], pixels[rows])


def test_it_looks_like_an_array(both):
  pixels, stored = both
  assert (stored.shape, stored.dtype, stored.ndim, len(stored), stored.nbytes
          ) == (pixels.shape, pixels.dtype, 4, 2500, pixels.nbytes)
  np.testing.assert_array_equal(np.asarray(stored), pixels)
  np.testing.assert_array_equal(np.stack(list(stored)), pixels)


def test_what_is_taken_is_read_when_asked(both, monkeypatch):
  pixels, stored = both
  order = RNG.permutation(2500)
  with monkeypatch.context() as patch:
    patch.setattr(records.Records, '_records', None)
    some = stored.take(order).take(slice(100, 200))
    assert some.shape == (100, 5, 7, 3)
  np.testing.assert_array_equal(some[:], pixels[order][100:200])
  assert images.digest(some) == images.digest(pixels[order][100:200])
  np.testing.assert_array_equal(images.row_hashes(stored),
                                images.row_hashes(pixels))


def test_more_than_memory_may_hold_is_refused(both):
  pixels, stored = both
  small = records.Records(stored.path, stored.size, stored.rows,
                          pixels.nbytes - 1)
  with pytest.raises(errors.InputError, match='config.data.memory: .* expected '
                     '.* for what looks at all 2,500 images'):
    np.asarray(small)
  np.testing.assert_array_equal(small.take(slice(2))[:], pixels[:2])
  np.asarray(small.take(slice(1, None)))


def test_sets_are_joined_on_the_disk_and_in_memory(both):
  pixels, stored = both
  more = RNG.integers(0, 256, (300, 5, 7, 3), np.uint8)
  joined = records.Joined([more, stored, more[:10]])
  flat = np.concatenate([more, pixels, more[:10]])
  rows = RNG.integers(0, len(flat), (4, 50))
  np.testing.assert_array_equal(joined[rows], flat[rows])
  np.testing.assert_array_equal(np.asarray(joined), flat)


def test_batches_come_ahead_in_their_order_and_from_anywhere():
  asked = []
  def square(i):
    asked.append(i)
    return i * i
  at = records.ahead(square, 30, 3)
  at(0)
  for _ in range(100):  # What is not asked for yet is under way.
    if len(asked) > 3:
      break
    time.sleep(.05)
  assert len(asked) > 3
  at(3)
  assert asked.count(0) == asked.count(3) == 1
  assert [at(i) for i in (0, 3, 6)] == [0, 9, 36]
  assert [at(i) for i in (15, 18, 21, 24, 27)] == [
      225, 324, 441, 576, 729]
  assert at(6) == 36
  assert all(i % 3 == 0 and i < 30 for i in asked)


def test_what_fails_ahead_fails_where_it_is_asked():
  def bad(i):
    if i == 2:
      raise errors.InputError('the third one')
    return i
  at = records.ahead(bad, 5)
  assert [at(0), at(1)] == [0, 1]
  with pytest.raises(errors.InputError, match='the third one'):
    at(2)
