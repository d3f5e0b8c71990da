"""Batches of a bank on the devices and of one on the disk are the same."""
import jax
import numpy as np
import pytest

from jaxaug.core import errors
from jaxaug.data import images, records
from jaxaug.training import bank, mesh

RNG = np.random.default_rng(0)


def split(count):
  return (RNG.integers(0, 256, (count, 4, 6, 3), np.uint8),
          RNG.integers(0, 9, count).astype(np.int32))


@pytest.fixture
def devices():
  return mesh.make(jax.devices()[:1])


@pytest.fixture
def both(devices, tmp_path):
  """Real images in memory or on the disk, and a pool behind them."""
  (real, labels), pool = split(50), split(20)
  stored = records.write(tmp_path / 'a.array_record', images.blocks(real),
                         real.shape[1:], 10)
  return (bank.make(devices, (real, labels), pool),
          bank.make(devices, (stored, labels), pool))


def test_only_what_fits_lies_on_the_devices(both):
  assert [one.placed for one in both] == [True, False]
  for one in both:
    assert np.shape(one.labels) == (70,)


@pytest.mark.parametrize('shape', [(8,), (3, 8), (2, 3, 8)])
def test_batches_are_the_same_to_the_bit(both, devices, shape):
  """Of steps and runs, with partners; from the middle on, as on a resume."""
  where = {i: (RNG.integers(0, 70, shape), RNG.integers(0, 70, shape))
           for i in range(0, 20, 2)}
  held, streamed = (bank.batches(one, where.get, devices, stop=20, stride=2)
                    for one in both)
  for i in (0, 2, 4, 12, 14, 16, 18):
    for a, b, index in zip(held(i), streamed(i), where[i], strict=True):
      for x, y, whole in zip(a, b, both[0], strict=True):
        assert x.sharding.is_equivalent_to(y.sharding, x.ndim)
        np.testing.assert_array_equal(x, y, strict=True)
        np.testing.assert_array_equal(x, np.asarray(whole)[index])


def test_the_whole_bank_is_had_where_memory_holds_it(both, devices):
  assert bank.whole(both[0], devices) is both[0]
  with pytest.raises(errors.InputError, match='config.data.memory'):
    bank.whole(both[1], devices)
  for piece in both[1].images.pieces[:1]:
    piece.limit = piece.nbytes
  for x, y in zip(bank.whole(both[1], devices), both[0], strict=True):
    np.testing.assert_array_equal(x, y, strict=True)
