"""What the stage does that no smaller part can show."""
import numpy as np
import pytest

from jaxaug.core import errors, files
from jaxaug.data import images, records
from jaxaug.data.datasets import fake, fashion_mnist_small
from jaxaug.study.report import words
from jaxaug.study.stages import data

RNG = np.random.default_rng(0)


@pytest.mark.parametrize('crop, resize', [(48, 32), (32, 48), (None, 24),
                                          (40, None)])
def test_crop_and_resize_happen_once(tmp_path, crop, resize):
  pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8)
  labels = np.arange(40) % 2
  np.savez(tmp_path / 'a.npz', x_train=pixels, y_train=labels)
  folder = files.folder(tmp_path / 'data', 'x')
  data.run(folder, seed=0, source='npz', path=str(tmp_path / 'a.npz'),
           crop=crop, resize=resize)
  made = data.read(folder)
  expected = images.fit_all(pixels, resize, crop)
  np.testing.assert_array_equal(made.train.images, expected[made.train.index])
  np.testing.assert_array_equal(made.test.images, expected[made.test.index])


def test_near_duplicates_of_a_low_data_set_have_their_own_names(tmp_path):
  """Of validation images too, where places in a split are no longer those in
  the source."""
  found = fashion_mnist_small.load()
  train, val = found.train.images[:600], found.test.images[:300].copy()
  labels = found.train.labels[:600]
  val[11] = train[40, :, ::-1]
  val[12] = train[41, :, ::-1]
  np.savez(tmp_path / 'a.npz', x_train=train, y_train=labels, x_val=val,
           y_val=found.test.labels[:300], x_test=found.test.images[300:600],
           y_test=found.test.labels[300:600])
  folder = files.folder(tmp_path / 'data', 'x')
  manifest = data.run(folder, seed=1, source='npz', per_class=40,
                      path=str(tmp_path / 'a.npz'))
  made = data.read(folder)
  kept = [i for i in (40, 41) if i in made.train.index]
  assert kept and made.train.index.tolist() != list(range(400))
  pairs = manifest['near']['validation']['pairs']
  for i in kept:
    assert [f'validation image {i - 29} ({found.test.labels[i - 29]})',
            f'train image {i} ({labels[i]})'] in pairs


def test_all_alike_are_no_reason_to_stop(tmp_path):
  pixels = np.full((40, 8, 8, 1), 7, np.uint8)
  pixels[:20, 0, 0] = np.arange(20)[:, None] // 10
  np.savez(tmp_path / 'a.npz', x_train=pixels[:20], y_train=np.arange(20) // 10,
           x_test=pixels[20:], y_test=np.arange(20) // 10)
  folder = files.folder(tmp_path / 'data', 'x')
  manifest = data.run(folder, seed=0, source='npz', val_fraction=0.,
                      path=str(tmp_path / 'a.npz'), allow_contradictions=True)
  said = dict(words.data_checks(data.read(folder).report))
  if 'test' in manifest['near']:
    assert 'this tells nothing here' in said[
        'near duplicates of training images, test']


@pytest.mark.parametrize('how', [{}, {'crop': 20, 'resize': (12, 16)}])
def test_on_the_disk_as_in_memory(tmp_path, how):
  pixels = RNG.integers(0, 256, (60, 24, 24, 3), np.uint8)
  np.savez(tmp_path / 'a.npz', x_train=pixels[:40], y_train=np.arange(40) % 2,
           x_test=pixels[40:], y_test=np.arange(20) % 2)
  made = []
  for memory in (1., 1e-6):
    folder = files.folder(tmp_path / 'data', str(memory))
    data.run(folder, seed=0, source='npz', path=str(tmp_path / 'a.npz'),
             memory=memory, per_class=12, **how)
    made.append(data.read(folder))
  assert sorted(f.name for f in folder.final.glob('*.array_record')) == [
      'test.array_record', 'train.array_record']
  for part in ('train', 'validation', 'test', 'unused'):
    held, streamed = (getattr(each, part) for each in made)
    assert isinstance(streamed.images, records.Records)
    for a, b in zip(held, streamed, strict=True):
      np.testing.assert_array_equal(a, b[:], strict=True)
  held, streamed = ({k: v for k, v in each.report.items() if k not in (
      'seconds', 'records', 'limit', 'commit')} for each in made)
  assert held == streamed


def test_a_source_that_cuts_nothing_is_cut_in_memory_too(tmp_path):
  for memory in (1., 1e-6):
    folder = files.folder(tmp_path / 'data', str(memory))
    data.run(folder, seed=0, source='fake', memory=memory, resize=5, crop=6)
    made = data.read(folder)
    want = images.fit_all(fake.load().train.images, 5, 6)
    np.testing.assert_array_equal(made.train.images[:], want[made.train.index])


def test_all_splits_count_for_the_memory_and_it_stays_a_limit(tmp_path):
  pixels = RNG.integers(0, 256, (60, 24, 24, 1), np.uint8)
  np.savez(tmp_path / 'a.npz', x_train=pixels[:20], y_train=np.arange(20) % 2,
           x_test=pixels[20:], y_test=np.arange(40) % 2)
  folder = files.folder(tmp_path / 'data', 'x')
  data.run(folder, seed=0, source='npz', path=str(tmp_path / 'a.npz'),
           memory=30 * 576 / 2**30)
  made = data.read(folder)
  assert len(np.asarray(made.train.images)) == 16
  with pytest.raises(errors.InputError, match='config.data.memory'):
    np.asarray(made.test.images)


def test_what_is_refused_leaves_nothing(tmp_path):
  pixels = RNG.integers(0, 256, (40, 24, 24, 1), np.uint8)
  pixels[20] = pixels[3]
  np.savez(tmp_path / 'a.npz', x_train=pixels, y_train=np.arange(40) // 20)
  folder = files.folder(tmp_path / 'data', 'x')
  with pytest.raises(errors.InputError, match='of different classes'):
    data.run(folder, seed=0, source='npz', path=str(tmp_path / 'a.npz'),
             memory=1e-6)
  assert not list((tmp_path / 'data').iterdir())


def test_near_duplicates_across_splits_are_named(tmp_path):
  """Mirrored, shifted, darker: of them, and hardly of any other."""
  found = fashion_mnist_small.load()
  train, test = found.train.images[:400], found.test.images[:200].copy()
  test[7], test[50] = train[3, :, ::-1], train[8] // 2 + 20
  test[90, 2:], test[90, :2] = train[20, :-2], train[20, :1]
  np.savez(tmp_path / 'a.npz', x_train=train, y_train=found.train.labels[:400],
           x_test=test, y_test=found.test.labels[:200],
           class_names=np.array(found.class_names))
  folder = files.folder(tmp_path / 'data', 'x')
  manifest = data.run(folder, seed=0, source='npz',
                      path=str(tmp_path / 'a.npz'), val_fraction=0.)
  near = manifest['near']['test']
  assert near['looked'] == 200 and 'validation' not in manifest['near']
  def pair(i, j):
    names = [found.class_names[k] for k in (found.test.labels[i],
                                            found.train.labels[j])]
    return [f'test image {i} ({names[0]})', f'train image {j} ({names[1]})']
  for planted in ((7, 3), (50, 8), (90, 20)):
    assert pair(*planted) in near['pairs']
  assert 3 <= near['count'] <= 5 and near['usual'] < .02
  pairs = [pair_ for pair_ in near['pairs'] if pair_ in (
      pair(7, 3), pair(50, 8), pair(90, 20))]
  assert pairs[0] in (pair(7, 3), pair(50, 8))  # The exact ones come first.
  said = dict(words.data_checks(data.read(folder).report))[
      'near duplicates of training images, test']
  assert said.startswith(f'{near["count"]} of all 200 (of training images, ')
  assert ' and '.join(near['pairs'][0]) in said
