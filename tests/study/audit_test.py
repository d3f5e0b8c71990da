"""A pool beside real images: what the stage writes, what its gate refuses."""

import numpy as np
import pytest

from jaxaug.core import errors, files, types
from jaxaug.data.datasets import fashion_mnist_small
from jaxaug.study.stages import audit as stage
from tests.evaluation import copies_test


def _split(pixels):
  n = len(pixels)
  return types.Split(pixels, np.zeros(n, np.int32), np.arange(n))


@pytest.fixture(scope='module')
def audited(tmp_path_factory):
  """An audit of 200 images: 3 test images, 5 changed ones, 7 of train."""
  data = fashion_mnist_small.load()
  train, test = data.train.images[:600], data.test.images[:300]
  pool = np.concatenate([
      data.train.images[-185:], test[:3], copies_test._jpeg(test[3:8]),
      train[:7]])
  folder = files.folder(tmp_path_factory.mktemp('audit'), 'pool-abc')
  manifest = stage.run(folder, name='gan', pool=_split(pool),
                       real={'train': _split(train), 'test': _split(test)},
                       features=lambda x: x[:, ::7, ::7].reshape(len(x), -1) /
                       255)
  return folder, manifest, pool, train, test


def test_stage_writes_what_it_found(audited):
  folder, manifest, pool, train, test = audited
  found, pairs = stage.read(folder)
  assert found == manifest['audit'] and manifest['seconds'] > 0
  assert found['n'] == 200
  assert found['test']['exact'] == 3 and found['train']['exact'] == 7
  assert 5 <= found['test']['near'] <= 6 and found['train']['near'] <= 2
  for side, real in (('train', train), ('test', test)):
    numbers = found[side]
    assert numbers['share'] == pytest.approx(
        (numbers['exact'] + numbers['near']) / 200)
    assert .25 <= numbers['threshold'] <= .45
    assert abs(numbers['median'] - numbers['yardstick_median']) < .1
    assert numbers['yardstick_share'] < .01
    assert numbers['yardstick_n'] == 600
    # Copies are as alike as can be, of the others about one in a hundred.
    copies = numbers['exact'] / 200
    assert copies <= numbers['alike'] <= copies + .05
    index, distance = pairs[f'{side}_index'], pairs[f'{side}_distance']
    assert index.shape == (10, 2) and (np.diff(distance) >= 0).all()
    np.testing.assert_array_equal(pairs[f'{side}_pool'], pool[index[:, 0]])
    np.testing.assert_array_equal(pairs[f'{side}_real'], real[index[:, 1]])
    assert (distance == 0).sum() == numbers['exact']
  assert set(pairs['test_index'][:8, 0]) == set(range(185, 193))


def test_stage_draws_the_nearest_pairs(audited):
  from PIL import Image
  folder, *_ = audited
  _, pairs = stage.read(folder)
  picture = np.asarray(Image.open(folder.final / 'pairs.png'))
  assert picture.shape == (5 * 86 + 2, 4 * 86 + 2)  # 3 times 28, and 2.
  np.testing.assert_array_equal(picture[2:86:3, 2:86:3],
                                pairs['test_pool'][0, ..., 0])
  np.testing.assert_array_equal(picture[2:86:3, 88:172:3],
                                pairs['test_real'][0, ..., 0])


def test_gate_refuses_leaks_in_one_line(audited):
  folder, manifest, *_ = audited
  with pytest.raises(errors.InputError) as info:
    stage.gate(manifest['audit'], 'gan', folder)
  message = str(info.value)
  assert '\n' not in message
  for word in ("pool 'gan'", '3 are exact', str(folder.final / 'pairs.png'),
               'config.audit.allow_leaks=True'):
    assert word in message
  stage.gate(manifest['audit'], 'gan', folder, allow_leaks=True)


@pytest.mark.parametrize('exact, near, base, refused', [
    (0, 0, 0., False), (1, 0, 0., True), (0, 10, 0., False),
    (0, 11, 0., True), (0, 30, .03, False), (0, 60, .03, True)])
def test_gate_allows_what_real_images_do_by_chance(tmp_path, exact, near, base,
                                                   refused):
  numbers = {'n': 1000, 'test': {'exact': exact, 'near': near,
                                 'yardstick_share': base,
                                 'yardstick_n': 2000}}
  folder = files.folder(tmp_path, 'a')
  if refused:
    with pytest.raises(errors.InputError, match='allow_leaks'):
      stage.gate(numbers, 'gan', folder)
  else:
    stage.gate(numbers, 'gan', folder)
  with pytest.raises(errors.InputError, match='max_leaks'):
    stage.gate(numbers, 'gan', folder, max_leaks=2)
