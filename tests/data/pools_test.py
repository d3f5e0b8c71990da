"""A pool is found by its folder or its name, and read as it was drawn."""
import numpy as np
import pytest

from jaxaug.core import errors, files
from jaxaug.data import images, pools

NAME = 'cgan-0123456789ab'


def make(parent, name=NAME, grey=7):
  """Writes a pool as the pool stage does."""
  pixels, labels = np.full((4, 2, 3, 1), grey, np.uint8), np.arange(4) % 2
  place = files.folder(parent, name)
  files.begin(place.partial)
  files.save_npz(place.partial / 'pool.npz', images=pixels, labels=labels,
                 batch=np.zeros(4, int), row=np.arange(4))
  files.finish(place.partial, place.final, {
      'class_names': ['a', 'b'], 'digest': images.digest(pixels, labels)})
  return place.final


@pytest.mark.parametrize('asked', ['pool', 'pools'])
@pytest.mark.parametrize('lies', ['pool', 'pools'])
def test_a_pool_is_found_under_both_names_of_its_parent(tmp_path, lies, asked):
  folder = make(tmp_path / lies)
  for name in ('cgan', NAME):
    assert pools.find(tmp_path / asked / name) == folder
  pool = pools.read(tmp_path / asked / 'cgan')
  assert pool.images.shape == (4, 2, 3, 1) and (pool.images == 7).all()
  assert pool.labels.tolist() == [0, 1, 0, 1]
  assert pool.row.tolist() == [0, 1, 2, 3] and not pool.batch.any()
  assert pool.manifest['class_names'] == ['a', 'b']


def test_elsewhere_its_own_folder_is_enough(tmp_path):
  folder = make(tmp_path / 'mine')
  assert pools.find(folder) == pools.find(tmp_path / 'mine' / 'cgan') == folder
  with pytest.raises(errors.InputError, match='is no finished pool'):
    pools.find(tmp_path / 'pool' / 'cgan')


def test_two_of_one_name(tmp_path):
  make(tmp_path / 'pool')
  make(tmp_path / 'pools', 'cgan-aaaaaaaaaaaa', grey=9)
  with pytest.raises(errors.InputError, match=f'several.*{NAME}, cgan-aaaa'):
    pools.read(tmp_path / 'pool' / 'cgan')
  assert (pools.read(tmp_path / 'pool' / NAME).images == 7).all()
  assert (pools.read(tmp_path / 'pool' / 'cgan-aaaaaaaaaaaa').images == 9).all()
