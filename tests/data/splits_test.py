import json
import os
import pathlib
import re

import numpy as np
import pytest

from jaxaug.core import errors, types
from jaxaug.data import splits
from jaxaug.data.datasets import fake, fashion_mnist_small, npz

DATA = pathlib.Path(os.environ.get('JAXAUG_DATA', '../shared/data'))
NAMES = ('ant', 'bee', 'cat')


def split(*counts, seed=0):
  """A split with that many different 4x4 images of each class, in disorder."""
  random = np.random.default_rng(seed)
  labels = random.permutation(np.repeat(np.arange(len(counts)), counts))
  pixels = random.integers(0, 256, (len(labels), 4, 4, 1), np.uint8)
  return types.Split(pixels, labels.astype(np.int32),
                     np.arange(len(labels)) + 100)


def dataset(train=(30, 30, 30), validation=None, test=(10, 10, 10)):
  parts = [part and split(*part, seed=seed)
           for seed, part in enumerate((train, validation, test))]
  return types.Dataset('made_up', NAMES, *parts)


def counts(part, k=3):
  return np.bincount(part.labels, minlength=k).tolist()


def test_low_data_subset_and_validation_on_the_embedded_images():
  source = fashion_mnist_small.load()
  s = splits.make(source, seed=0, per_class=50)
  assert counts(s.train, 10) == [40] * 10
  assert counts(s.validation, 10) == [10] * 10
  assert counts(s.test, 10) == [200] * 10
  assert counts(s.unused, 10) == [450] * 10
  where = {index: i for i, index in enumerate(source.train.index)}
  for part in (s.train, s.validation, s.unused):
    rows = [where[index] for index in part.index]
    assert rows == sorted(rows)
    np.testing.assert_array_equal(part.images, source.train.images[rows])
    np.testing.assert_array_equal(part.labels, source.train.labels[rows])
  together = np.concatenate(
      [s.train.index, s.validation.index, s.unused.index])
  np.testing.assert_array_equal(np.sort(together), source.train.index)
  assert not any(s.report['duplicates'].values())


def test_exact_cifar_has_no_duplicates():
  file = DATA / 'cifar10_lossless_part.npz'
  if not file.exists():
    pytest.skip(f'{file} is not there')
  s = splits.make(npz.load(path=str(file)), seed=1, per_class=500)
  assert counts(s.train, 10) == [400] * 10
  assert len(s.test.labels) == 1017 and s.class_names[0] == 'airplane'
  assert not any(s.report['duplicates'].values())


def test_the_seed_alone_decides():
  a, b, c = (splits.make(dataset(), seed=seed, per_class=9)
             for seed in (0, 0, 1))
  assert a.report == b.report
  np.testing.assert_array_equal(a.train.images, b.train.images)
  assert a.report['sha256']['train'] != c.report['sha256']['train']
  assert a.report['sha256']['test'] == c.report['sha256']['test']


def test_draws_are_pinned():
  # A change here changes every study: it must be meant.
  s = splits.make(fake.load(), seed=0, per_class=5)
  assert s.train.index.tolist() == [
      1, 10, 13, 15, 20, 21, 22, 32, 38, 39, 41, 51]


def test_a_smaller_subset_lies_in_a_larger_one():
  small, large = (splits.make(dataset(), seed=3, per_class=n, val_fraction=0)
                  for n in (4, 11))
  assert set(small.train.index) < set(large.train.index)


def test_leaving_a_class_out_changes_no_other():
  all_three = splits.make(dataset(), seed=3, per_class=6)
  two = splits.make(dataset(), seed=3, per_class=6, classes=('cat', 'ant'))
  assert two.class_names == ('cat', 'ant')
  for new, old in enumerate((2, 0)):
    for part in ('train', 'validation', 'test', 'unused'):
      np.testing.assert_array_equal(
          getattr(two, part).index[getattr(two, part).labels == new],
          getattr(all_three, part).index[
              getattr(all_three, part).labels == old])


@pytest.mark.parametrize('classes', [('cat', 'ant'), (2, 0), ['2', 'ant'],
                                     'cat,ant'])
def test_classes_by_name_or_number(classes):
  s = splits.make(dataset(), seed=0, classes=classes)
  assert s.class_names == ('cat', 'ant')
  assert s.report['counts']['test'] == {'cat': 10, 'ant': 10}


def test_a_missing_test_split_is_carved_stratified():
  source = dataset((30, 20, 10), test=None)
  s = splits.make(source, seed=0, test_fraction=0.1, val_fraction=0)
  assert counts(s.test) == [3, 2, 1] and counts(s.train) == [27, 18, 9]
  assert s.validation.images.shape == (0, 4, 4, 1)
  assert s.report['test_from'] == 'carved: 0.1'
  per_class = splits.make(source, seed=0, test_fraction=0.1, per_class=5)
  np.testing.assert_array_equal(per_class.test.index, s.test.index)


def test_the_sources_own_validation_is_kept():
  s = splits.make(dataset(validation=(7, 5, 6)), seed=0, per_class=10)
  assert counts(s.validation) == [7, 5, 6] and counts(s.train) == [10] * 3
  assert s.report['validation_from'] == 'source'


def test_a_single_image_stays_in_train():
  s = splits.make(dataset(), seed=0, imbalance=(20, 2, 1))
  assert counts(s.train) == [16, 1, 1] and counts(s.validation) == [4, 1, 0]


def test_fraction_is_rounded_by_class():
  s = splits.make(dataset((30, 20, 3)), seed=0, fraction=0.1, val_fraction=0)
  assert counts(s.train) == [3, 2, 1]


@pytest.mark.parametrize('imbalance, expected', [
    ({'bee': 7}, [30, 7, 30]),
    ((3, 30, 9), [3, 30, 9]),
    (('exponential', 9), [30, 10, 3]),
    (('exponential', 1), [30, 30, 30])])
def test_imbalance(imbalance, expected):
  s = splits.make(dataset(), seed=0, imbalance=imbalance, val_fraction=0)
  assert counts(s.train) == expected
  assert counts(s.unused) == [30 - n for n in expected]


def test_exponential_tail_is_that_of_long_tailed_cifar():
  # Class sizes of CIFAR-10-LT with ratio 100, as published.
  assert splits._long_tail(np.full(10, 5000), ('exponential', 100)) == [
      5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


def test_the_tail_starts_where_every_class_has_enough():
  s = splits.make(dataset((30, 5, 30)), seed=0, val_fraction=0,
                  imbalance=('exponential', 4))
  assert counts(s.train) == [10, 5, 2]


def test_folds_are_stratified_and_cover_everything_once():
  source = dataset((11, 10, 9))
  tests = [splits.make(source, seed=0, folds=3, fold=k) for k in range(3)]
  together = np.concatenate([s.test.index for s in tests])
  np.testing.assert_array_equal(np.sort(together), source.train.index)
  for k, s in enumerate(tests):
    assert len(s.test.index) == 10
    assert not set(s.test.index) & (set(s.train.index)
                                    | set(s.validation.index))
    assert all(n in (3, 4) for n in counts(s.test))
    assert s.report['test_from'] == f'fold {k} of 3'


def test_the_report_is_json_and_its_hashes_see_order_and_labels():
  s = splits.make(dataset(), seed=0)
  assert json.loads(json.dumps(s.report)) == s.report
  source = dataset()
  swapped = source._replace(test=source.test._replace(
      labels=(source.test.labels + 1) % 3))
  other = splits.make(swapped, seed=0).report['sha256']
  assert other['train'] == s.report['sha256']['train']
  assert other['test'] != s.report['sha256']['test']


def with_copies(n):
  source = dataset(validation=(5, 5, 5))
  for row, (part, twin) in enumerate(
      [('train', r) for r in range(10, 10 + n)] + [('validation', 0)]):
    twin = np.flatnonzero(
        source.train.labels == source.test.labels[row])[twin] if (
            part == 'train') else np.flatnonzero(
                source.validation.labels == source.test.labels[row])[0]
    source.test.images[row] = getattr(source, part).images[twin]
  return source


def test_test_images_in_train_are_refused_or_counted():
  source = with_copies(2)
  with pytest.raises(errors.InputError, match=(
      'config.data.allow_overlap: 3 test images.*: test image 101 .cat. and '
      r'train image 132 \(cat\); .*set it to True')) as e:
    splits.make(source, seed=0)
  assert '\n' not in str(e.value)
  found = splits.make(source, seed=0, allow_overlap=True).report['duplicates']
  assert found['test in train'] == 2 and found['test in validation'] == 1
  kept_out = splits.make(source._replace(validation=None), seed=0, per_class=1,
                         allow_overlap=True).report['duplicates']
  assert kept_out['unused in test'] + kept_out['test in train'] == 2


def test_copies_within_train_are_counted():
  source = dataset()
  same = np.flatnonzero(source.train.labels == 1)
  source.train.images[same[1:4]] = source.train.images[same[0]]
  found = splits.make(source, seed=0, val_fraction=0).report['duplicates']
  assert found['within train'] == 3 and found['test in train'] == 0


def test_equal_images_of_two_classes_are_refused_or_named():
  source = dataset()
  one, other = (np.flatnonzero(source.train.labels == k)[0] for k in (0, 1))
  source.train.images[other] = source.train.images[one]
  source = source._replace(names={'train': [f'{i}.png' for i in range(300)]})
  pair = sorted((f'{100 + one}.png (ant)', f'{100 + other}.png (bee)'),
                key=lambda name: int(name.split('.')[0]))
  with pytest.raises(errors.InputError, match=(
      'config.data.allow_contradictions: 1 pairs of images are equal, .*: '
      + ' and '.join(map(re.escape, pair)) + '. Remove')):
    splits.make(source, seed=0)
  found = splits.make(source, seed=0, allow_contradictions=True).report
  assert found['contradictions'] == {'count': 1, 'pairs': [pair]}
  assert found['overlap'] == {'count': 0, 'pairs': []}


@pytest.mark.parametrize('settings, message', [
    ({'per_class': 31}, r"config.data.per_class: 31 .*'ant', which has 30"),
    ({'per_class': 0}, 'config.data.per_class'),
    ({'per_class': -5}, 'config.data.per_class'),
    ({'per_class': 2.5}, 'config.data.per_class'),
    ({'per_class': 5, 'fraction': 0.5}, 'not both'),
    ({'fraction': 0}, 'config.data.fraction'),
    ({'fraction': 1.5}, 'config.data.fraction'),
    ({'fraction': float('nan')}, 'config.data.fraction'),
    ({'val_fraction': 1}, 'config.data.val_fraction'),
    ({'val_fraction': -0.1}, 'config.data.val_fraction'),
    ({'test_fraction': 0}, 'config.data.test_fraction'),
    ({'test_fraction': 1}, 'config.data.test_fraction'),
    ({'classes': ('ant', 'bees')}, "config.data.classes.*'bees'.*mean 'bee'"),
    ({'classes': (0, 3)}, 'config.data.classes'),
    ({'classes': ('ant',)}, 'at least 2'),
    ({'classes': ('ant', 0)}, 'different'),
    ({'imbalance': {'cats': 5}}, "config.data.imbalance.*'cats'.*mean 'cat'"),
    ({'imbalance': {'cat': 31}}, "config.data.imbalance: 31 .*'cat'"),
    ({'imbalance': (1, 2)}, '2 counts for 3 classes'),
    ({'imbalance': (1, 2, 0)}, "config.data.imbalance: 0 .*'cat'"),
    ({'imbalance': ('exponential',)}, 'ratio'),
    ({'imbalance': ('exponential', 0.1)}, 'ratio'),
    ({'imbalance': ('exponential', 1000)}, "imbalance: 0 .*'bee'"),
    ({'folds': 1}, 'config.data.folds'),
    ({'folds': -2}, 'config.data.folds'),
    ({'folds': 31}, "config.data.folds.*'ant' has only 30"),
    ({'folds': 3, 'fold': 3}, r'config.data.fold: .*0\.\.2'),
    ({'fold': 1}, 'config.data.fold')])
def test_bad_settings_are_one_line(settings, message):
  with pytest.raises(errors.InputError, match=message) as e:
    splits.make(dataset(), seed=0, **settings)
  assert '\n' not in str(e.value)


def bad(**changes):
  source = dataset()
  return source._replace(test=source.test._replace(**changes))


@pytest.mark.parametrize('source, message', [
    (dataset((30, 0, 30)), "'bee' has no training image"),
    (dataset(test=(5, 0, 5)), "'bee' has no test image"),
    (dataset((30, 1, 30), test=None), "'bee' has too few images for 3 splits, "
     'none is left for test; expected 3 or more.*config.data.classes'),
    (dataset((30, 2, 30), test=None), "'bee' has too few images for 3 splits, "
     'none is left for validation.*or do without'),
    (dataset((30, 1, 30)), "'bee' has too few images for 2 splits, none is "
     'left for validation'),
    (types.Dataset('ants', ('ant',), dataset().train._replace(
        labels=np.zeros(90, np.int32))), "ants has one class, 'ant'"),
    (bad(labels=np.full(30, 3, np.int32)), r'labels go from 3 .*0\.\.2'),
    (bad(labels=np.full(30, -1, np.int32)), 'labels go from -1'),
    (bad(labels=np.zeros(29, np.int32)), '30 images, 29 labels'),
    (bad(index=np.zeros(30, np.int64)), '1 different indices'),
    (bad(images=np.zeros((30, 4, 4, 1), np.float32)), 'float32'),
    (bad(images=np.zeros((30, 4, 5, 1), np.uint8)), r'\[4, 5, 1\]')])
def test_bad_sources_are_one_line(source, message):
  with pytest.raises(errors.InputError, match=message) as e:
    splits.make(source, seed=0)
  assert '\n' not in str(e.value)


def test_some_are_drawn_alike_and_stay_in_their_order():
  labels = np.repeat(np.arange(10, dtype=np.int32), 100)
  split = types.Split(np.arange(1000).astype(np.uint8)[:, None, None, None],
                      labels, np.arange(1000))
  assert splits.some(split, 1000) is split
  few = splits.some(split, 300)
  assert len(few.labels) == 300 and (np.diff(few.index) > 0).all()
  assert (np.bincount(few.labels) > 10).all()
  np.testing.assert_array_equal(few.images[:, 0, 0, 0],
                                few.index.astype(np.uint8))
