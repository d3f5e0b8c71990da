"""Labelled images as people lay them out: all are read, or one line says why.

Images are embedded ones, boots (9) and coats (4).
"""
import csv as csv_file
import importlib.util
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from jaxaug.core import errors, registry
from jaxaug.data import images, splits
from jaxaug.data.datasets import (
  auto,
  csv,
  fashion_mnist_small,
  folder,
  npz,
  parquet,
  webdataset,
)
from jaxaug.data.datasets import zip as zip_set

CASES = pathlib.Path(os.environ.get('JAXAUG_CASES', '../shared/cases'))
TRAIN = fashion_mnist_small.load().train


def pictures(label, count, skip=0):
  rows = np.flatnonzero(TRAIN.labels == label)[skip:skip + count]
  assert len(rows) == count
  return TRAIN.images[rows]


def fill(root, classes=('boot', 'coat'), count=6, skip=0, ending='png'):
  """Writes `count` images a class below root/CLASS/."""
  for name, label in zip(classes, (9, 4), strict=False):
    for i, image in enumerate(pictures(label, count, skip)):
      file = root / name / f'{i:03}.{ending}'
      file.parent.mkdir(parents=True, exist_ok=True)
      images.to_pil(image).save(file)
  return root


def counts(dataset, split='train'):
  part = getattr(dataset, split)
  return np.bincount(part.labels, minlength=len(dataset.class_names)).tolist()


def expect_error(message, load, *args, **settings):
  with pytest.raises(errors.InputError, match=message) as e:
    load(*args, **settings)
  assert '\n' not in str(e.value)


# Folders.


def test_images_of_a_class_may_lie_at_any_depth(tmp_path):
  fill(tmp_path, count=3)
  for i in range(3):
    fill(tmp_path / 'x', count=2, skip=3 + 2 * i)
    for name in ('boot', 'coat'):
      (tmp_path / 'x' / name).rename(tmp_path / name / f'day{i}')
  (tmp_path / 'x').rmdir()
  d = folder.load(path=tmp_path)
  assert d.class_names == ('boot', 'coat') and counts(d) == [9, 9]
  assert d.names['train'][:4] == [
      'boot/000.png', 'boot/001.png', 'boot/002.png', 'boot/day0/000.png']
  np.testing.assert_array_equal(np.asarray(d.train.images)[:9], pictures(9, 9))


@pytest.mark.parametrize('train, validation, test', [
    ('Training', 'Valid', 'Testing'), ('train', 'val', 'test'),
    ('TRAIN', 'dev', 'TEST'), ('seg_train/seg_train', 'seg_val/seg_val',
                               'seg_test/seg_test'),
    ('Fruits/Training Set', 'Fruits/Validation Set', 'Fruits/Test Set'),
    ('archive/v2/train_images', 'archive/v2/val_images',
     'archive/v2/test_images')])
def test_splits_have_many_names(tmp_path, train, validation, test):
  for name, skip in ((train, 0), (validation, 6), (test, 12)):
    fill(tmp_path / name, skip=skip)
  (tmp_path / 'README.md').write_text('words')
  d = folder.load(path=tmp_path)
  assert d.class_names == ('boot', 'coat')
  assert d.about['ignored'] == {'.md': 1}
  for split, skip in (('train', 0), ('validation', 6), ('test', 12)):
    np.testing.assert_array_equal(
        np.asarray(getattr(d, split).images)[6:], pictures(4, 6, skip))


def test_splits_below_each_class(tmp_path):
  for name in ('boot', 'coat'):
    for split, skip in (('train', 0), ('test', 6)):
      fill(tmp_path / 'x', skip=skip)
      (tmp_path / name).mkdir(exist_ok=True)
      (tmp_path / 'x' / name).rename(tmp_path / name / split)
  shutil.rmtree(tmp_path / 'x')
  d = folder.load(path=tmp_path)
  assert d.class_names == ('boot', 'coat')
  assert counts(d) == counts(d, 'test') == [6, 6]
  np.testing.assert_array_equal(np.asarray(d.test.images)[6:],
                                pictures(4, 6, 6))


def test_classes_that_are_called_like_splits(tmp_path):
  fill(tmp_path / 'a', ('train', 'plane'))
  assert folder.load(path=tmp_path / 'a').class_names == ('plane', 'train')
  fill(tmp_path / 'b' / 'train', ('test', 'train'))
  d = folder.load(path=tmp_path / 'b')
  assert d.class_names == ('test', 'train') and counts(d) == [6, 6]
  # A class that holds folders, beside one that does not: nobody can tell.
  fill(tmp_path / 'c' / 'train', ('day0', 'day1'))
  fill(tmp_path / 'c', ('plane',))
  expect_error(r'c/plane lies beside train/, but is no split.*6 images.*if '
               'train is a class like it, give that another name', folder.load,
               path=tmp_path / 'c')


def test_test_images_without_classes_are_named(tmp_path):
  fill(tmp_path / 'train')
  fill(tmp_path / 'x', ('test',))
  (tmp_path / 'x' / 'test').rename(tmp_path / 'test')
  (tmp_path / 'x').rmdir()
  expect_error(r"test is a test folder without class folders.*6 images.*"
               r"config.data.ignore=\('test',\)", folder.load, path=tmp_path)
  d = folder.load(path=tmp_path, ignore=('test',))
  assert d.test is None and counts(d) == [6, 6]
  (tmp_path / 'test').rename(tmp_path / 'holdout')
  expect_error('holdout lies beside train/, but is no split', folder.load,
               path=tmp_path)


def test_litter_is_not_looked_at(tmp_path):
  fill(tmp_path)
  for name in ('__MACOSX/boot/._000.png', 'boot/._001.png', 'coat/.DS_Store',
               'boot/Thumbs.db', '.ipynb_checkpoints/x.png',
               'boot/.ipynb_checkpoints/000-checkpoint.png', 'desktop.ini'):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(bytes(100))
  d = folder.load(path=tmp_path)
  assert counts(d) == [6, 6] and d.about['ignored'] == {}


def test_what_is_not_read_is_counted(tmp_path):
  fill(tmp_path)
  for i in range(20):
    (tmp_path / 'boot' / f'{i}.HEIC').write_bytes(bytes(100))
  (tmp_path / 'coat' / 'notes.txt').write_text('words')
  (tmp_path / 'coat' / 'LICENSE').write_text('words')
  expect_error(r"20 images of kinds that are not read: 20 .heic \(the first: "
               r"boot/0.HEIC\).*config.data.ignore=\('\*.heic',\)",
               folder.load, path=tmp_path)
  d = folder.load(path=tmp_path, ignore=('*.heic',))
  assert d.about['ignored'] == {'.txt': 1, 'without ending': 1}
  assert counts(d) == [6, 6]


@pytest.mark.parametrize('ending', [
    'png', 'jpg', 'JPEG', 'jfif', 'webp', 'bmp', 'gif', 'tif', 'TIFF', 'pgm'])
def test_every_ending_is_read(tmp_path, ending):
  for name, label in (('boot', 9), ('coat', 4)):
    (tmp_path / name).mkdir()
    for i, image in enumerate(pictures(label, 3)):
      kind = {'jfif': 'JPEG', 'pgm': 'PPM', 'tif': 'TIFF', 'jpg': 'JPEG'}.get(
          ending, ending.upper())
      how = {'quality': 95} if kind == 'JPEG' else (
          {'lossless': True} if kind == 'WEBP' else {})
      images.to_pil(image).save(tmp_path / name / f'{i}.{ending}', kind, **how)
  d = folder.load(path=tmp_path)
  pixels = np.asarray(d.train.images)[..., :1].astype(int)
  expected = np.concatenate([pictures(9, 3), pictures(4, 3)])
  assert abs(pixels - expected).max() <= (
      30 if ending in ('jpg', 'JPEG', 'jfif') else 0)


def test_names_are_normalised(tmp_path):
  fill(tmp_path / 'train', ('e\u0301toile', 'coat'))  # As a Mac writes it,
  fill(tmp_path / 'test', ('\xe9toile', 'coat'), skip=6)  # and Linux.
  d = folder.load(path=tmp_path)
  assert d.class_names == ('coat', '\xe9toile') and counts(d, 'test') == [6, 6]


def test_modes_are_converted_or_refused_by_count(tmp_path):
  root = fill(tmp_path / 'x')
  Image.fromarray(np.zeros((28, 28, 3), np.uint8)).quantize(4).save(
      root / 'boot' / '000.png')
  Image.fromarray(np.zeros((28, 28, 4), np.uint8), 'CMYK').save(
      root / 'boot' / '100.tif')
  assert folder.load(path=root).about['modes'] == {
      'grey': 11, 'palette': 1, 'CMYK': 1}
  for i in range(3):
    Image.fromarray(np.full((28, 28, 4), 40, np.uint8)).save(
        root / 'coat' / f'00{i}.png')
  Image.fromarray(np.zeros((28, 28), np.uint16)).save(root / 'boot' / '5.png')
  expect_error(
      r"of 14 images 1 is an image of 16 bits a channel \(the first: .*boot/5."
      r"png\), see config.data.depth='scale'; 3 are each an image with "
      r"transparent parts \(the first: .*coat/000.png\), see config.data.alpha="
      "'white', 'black' or 'drop'", folder.load, path=root)
  d = folder.load(path=root, alpha='white', depth='scale')
  assert d.about['modes']['transparent'] == 3 and len(d.train.images) == 14
  pixels = np.asarray(d.train.images[d.names['train'].index('coat/000.png')])
  assert abs(pixels.astype(int) - (255 - 215 * 40 / 255)).max() <= 1
  expect_error("config.data.alpha: 'grey'; expected one of refuse, white",
               folder.load, path=root, alpha='grey')


def test_links_are_followed_and_loops_refused(tmp_path):
  fill(tmp_path / 'elsewhere')
  root = tmp_path / 'set'
  root.mkdir()
  (root / 'boot').symlink_to(tmp_path / 'elsewhere' / 'boot')
  (root / 'coat').mkdir()
  for file in (tmp_path / 'elsewhere' / 'coat').iterdir():
    (root / 'coat' / file.name).symlink_to(file)
  assert counts(folder.load(path=root)) == [6, 6]
  (root / 'again').symlink_to(tmp_path / 'elsewhere' / 'boot')
  expect_error('boot is the same folder as .*again', folder.load, path=root)
  (root / 'again').unlink()
  (root / 'coat' / 'loop').symlink_to(root)
  expect_error('coat/loop is the same folder as .*set; expected each once',
               folder.load, path=root)
  (root / 'coat' / 'loop').unlink()
  (root / 'coat' / 'gone.png').symlink_to(root / 'nowhere.png')
  expect_error('coat/gone.png: there is no such file', folder.load, path=root)


def test_an_empty_split_is_no_split(tmp_path):
  fill(tmp_path / 'train')
  (tmp_path / 'test').mkdir()
  expect_error('test holds no image; expected .* or no such folder',
               folder.load, path=tmp_path)


def test_files_look_like_an_array(tmp_path):
  d = folder.load(path=fill(tmp_path))
  pixels = d.train.images
  whole = np.concatenate([pictures(9, 6), pictures(4, 6)])
  assert pixels.shape == (12, 28, 28, 1) and len(pixels) == 12
  np.testing.assert_array_equal(np.asarray(pixels), whole)
  np.testing.assert_array_equal(pixels[3], whole[3])
  np.testing.assert_array_equal(pixels[2:7:2], whole[2:7:2])
  np.testing.assert_array_equal(pixels[np.array([7, 1])], whole[[7, 1]])
  some = pixels.take([5, 2, 9])
  assert some.shape == (3, 28, 28, 1)
  np.testing.assert_array_equal(some[1:], whole[[2, 9]])


# Arrays.


def save(path, **arrays):
  np.savez(path, **arrays)
  return path


X = np.concatenate([pictures(9, 6), pictures(4, 6)])[..., 0]
Y = np.repeat([0, 1], 6)


@pytest.mark.parametrize('names', [
    ('train_images', 'train_labels', 'test_images', 'test_labels'),  # MedMNIST.
    ('X_train', 'y_train', 'X_test', 'y_test'),
    ('trainImages', 'trainLabels', 'testImages', 'testLabels'),
    ('train_x', 'train_y', 'test_x', 'test_y'),
    ('images_training', 'targets_training', 'images_testing',
     'targets_testing')])
def test_npz_keys_of_many_tools(tmp_path, names):
  a, b, c, e = names
  file = save(tmp_path / 'x.npz', **{
      a: X, b: Y[:, None], c: X[::-1], e: Y[::-1, None]})
  d = npz.load(path=file)
  np.testing.assert_array_equal(d.train.images[..., 0], X)
  np.testing.assert_array_equal(d.test.labels, Y[::-1])
  assert d.class_names == ('0', '1') and d.validation is None


def test_npz_names_the_keys_that_there_are(tmp_path):
  arrays = {'x_train': X, 'y_train': Y}
  for more, key in (({'x_val': X}, 'config.data.val_labels'),
                    ({'y_val': Y}, 'config.data.val_images'),
                    ({'x_val': X, 'images_val': X, 'y_val': Y},
                     'say which: config.data.val_images')):
    expect_error(key, npz.load,
                 path=save(tmp_path / 'x.npz', **arrays, **more))
  expect_error("names_key: .* no array 'clases'.*mean 'classes'", npz.load,
               names_key='clases', path=save(
                   tmp_path / 'x.npz', **arrays, classes=['a', 'b']))


def test_npz_says_what_it_does_not_read_and_what_there_is(tmp_path):
  d = npz.load(path=save(tmp_path / 'x.npz', x_train=X, y_train=Y, X_holdout=X,
                         classes=np.array(['a', 'b']), row=Y), resize=14)
  assert d.class_names == ('a', 'b')
  assert d.about['notes'] == ['arrays that nothing reads: X_holdout']
  assert d.about['sizes'] == {'28x28': 12}


@pytest.mark.parametrize('index', [np.arange(12) / 2, list('abcdefghijkl')])
def test_npz_places_are_whole_numbers(tmp_path, index):
  expect_error('train_index: .*; expected whole numbers', npz.load, path=save(
      tmp_path / 'x.npz', x_train=X, y_train=Y, train_index=index))


def test_npz_range_and_names_that_are_none(tmp_path):
  file = save(tmp_path / 'x.npz', x_train=X, y_train=Y, classes=['a', 'a'])
  expect_error('config.data.range', npz.load, path=file, range='ab')
  expect_error('config.data.resize', npz.load, path=file, resize=True)
  expect_error('names of the classes.*each once', splits.make,
               npz.load(path=file), seed=0)


@pytest.mark.parametrize('train, test, message', [
    (1., 1.001, r'values from 0.0 to 1.00.*x.clip\(0, 1\)'),
    (1., 255., 'x_train goes up to 1, x_test goes up to 255; expected floats')])
def test_npz_floats_have_one_range(tmp_path, train, test, message):
  x = np.float32(X) / X.max()
  expect_error(message, npz.load, path=save(
      tmp_path / 'x.npz', x_train=x * np.float32(train), y_train=Y,
      x_test=x * np.float32(test), y_test=Y))


@pytest.mark.parametrize('names', [
    ('image', 'label'), ('images', 'labels'), ('x', 'y'), ('data', 'target'),
    ('arr_0', 'arr_1')])
def test_npz_without_splits_is_all_train(tmp_path, names):
  d = npz.load(path=save(tmp_path / 'x.npz', **dict(zip(names, (X, Y),
                                                       strict=True))))
  np.testing.assert_array_equal(d.train.images[..., 0], X)
  assert d.test is None and counts(d) == [6, 6]


@pytest.mark.parametrize('labels, names, note', [
    (Y + 1, ('1', '2'), 'labels start at 1: taken as classes 1..2'),
    (Y.astype(np.float32), ('0', '1'), None),
    (Y.astype(bool), ('0', '1'), None),
    (np.eye(2)[Y], ('0', '1'), 'labels are rows of one 1 among 0s'),
    (np.array(['boot', 'coat'])[Y], ('boot', 'coat'), None),
    (np.array([b'boot', b'coat'])[Y], ('boot', 'coat'), None)])
def test_npz_labels_of_many_kinds(tmp_path, labels, names, note):
  d = npz.load(path=save(tmp_path / 'x.npz', images=X, labels=labels))
  np.testing.assert_array_equal(d.train.labels, Y)
  assert d.class_names == names
  assert (note is None) == (d.about['notes'] == []) and (
      note is None or note in d.about['notes'])


def test_npz_names_of_classes_from_1(tmp_path):
  names = ['boot', 'coat']
  d = npz.load(path=save(tmp_path / 'x.npz', images=X, labels=Y + 1,
                         class_names=names))
  assert d.class_names == ('boot', 'coat') and counts(d) == [6, 6]
  # With a name for 0 they are what they say, and 0 has no image.
  d = npz.load(path=save(tmp_path / 'x.npz', images=X, labels=Y + 1,
                         class_names=['none', *names]))
  assert counts(d) == [0, 6, 6]


def test_npz_images_of_many_kinds(tmp_path):
  def read(x, **more):
    d = npz.load(path=save(tmp_path / 'x.npz', images=x, labels=Y), **more)
    return d.train.images, d.about['notes']
  colour = np.stack([X, X[:, ::-1], 255 - X], -1)
  pixels, notes = read(colour.transpose(0, 3, 1, 2))
  np.testing.assert_array_equal(pixels, colour)
  assert 'channels come first, [12, 3, 28, 28]: moved to the end' in notes
  np.testing.assert_array_equal(
      read(X / 127.5 - 1, range=(-1, 1))[0][..., 0], X)
  expect_error(r'values from -1.0 to 1.0.*config.data.range=\(-1,1\)', read,
               X / 127.5 - 1)
  expect_error(r'expected floats in \[0, 1\], as config.data.range', read,
               X / 127.5, range=(0, 1))
  expect_error(r'config.data.range: \(1, 0\)', read, X, range=(1, 0))
  np.testing.assert_array_equal(
      read(X.astype(np.uint16) * 257, depth='scale')[0][..., 0], X)
  alpha = np.concatenate([colour, np.full((12, 28, 28, 1), 255, np.uint8)], -1)
  np.testing.assert_array_equal(read(alpha, alpha='white')[0], colour)
  alpha[..., 3] = 0
  np.testing.assert_array_equal(read(alpha, alpha='drop')[0], colour)
  assert (read(alpha, alpha='black')[0] == 0).all()
  _, notes = read((X > 99).astype(np.uint8))
  assert notes == ['values of images are 0 and 1 of 255, nearly black: '
                   'expected x * 255, if 1 is meant to be white']


# Tables.


def table(root, rows, name='metadata.csv', head='file_name,label,split'):
  fill(root / 'images')
  (root / name).write_text('\n'.join([head, *rows]) + '\n')
  return root / name


ROWS = [f'images/{c}/{i:03}.png,{c},{"train" if i < 4 else "Testing"}'
        for c in ('boot', 'coat') for i in range(6)]


def test_csv_tsv_and_json_lines(tmp_path):
  file = table(tmp_path, ROWS)
  tabs = tmp_path / 'set.tsv'
  tabs.write_text(file.read_text().replace(',', '\t'))
  lines = tmp_path / 'set.jsonl'
  lines.write_text('\n'.join(json.dumps(row) for row in csv_file.DictReader(
      io.StringIO(file.read_text()))))
  for path in (file, tabs, lines, tmp_path):
    d = csv.load(path=str(path))
    assert d.class_names == ('boot', 'coat')
    assert counts(d) == [4, 4] and counts(d, 'test') == [2, 2]
    np.testing.assert_array_equal(np.asarray(d.train.images)[4:],
                                  pictures(4, 4))
  assert csv.load(path=tabs).name == 'set'


def test_csv_columns_by_name_and_numbers_in_order(tmp_path):
  rows = [f'images/boot/{i:03}.png;{n}' for i, n in enumerate(
      (9, 10, 9, 10, 100, 100))]
  file = table(tmp_path, rows, 'x.csv', 'bild;art')
  expect_error('columns bild, art; expected one of the files.*config.data.'
               'file_column', csv.load, path=file)
  d = csv.load(path=file, file_column='bild', label_column='art')
  assert d.class_names == ('9', '10', '100') and counts(d) == [2, 2, 2]
  expect_error("no column 'arrt'.*mean 'art'", csv.load, path=file,
               file_column='bild', label_column='arrt')


def test_a_table_in_each_split_as_the_hub_has_it(tmp_path):
  for split, skip in (('train', 0), ('test', 6)):
    (tmp_path / split).mkdir()
    rows = []
    for name, label in (('boot', 9), ('coat', 4)):
      for i, image in enumerate(pictures(label, 4, skip)):
        images.save_png(tmp_path / split / f'{name}{i}.png', image)
        rows.append({'file_name': f'{name}{i}.png', 'label': name})
    (tmp_path / split / 'metadata.jsonl').write_text(
        '\n'.join(map(json.dumps, rows)))
  for load in auto.load, csv.load:
    d = load(path=tmp_path)
    assert d.class_names == ('boot', 'coat') and d.name == tmp_path.name
    assert counts(d) == [4, 4] and counts(d, 'test') == [4, 4]
    np.testing.assert_array_equal(np.asarray(d.test.images)[4:],
                                  pictures(4, 4, 6))
    assert d.names['test'][0] == 'test/boot0.png'
  (tmp_path / 'testing').mkdir()
  shutil.copy(tmp_path / 'test' / 'metadata.jsonl', tmp_path / 'testing')
  expect_error("splits of its tables.*'test'", csv.load, path=tmp_path)
  for split in 'train', 'test', 'testing':
    (tmp_path / split / 'metadata.jsonl').unlink()
  shutil.rmtree(tmp_path / 'testing')
  expect_error('test/, train/ of images without class folders; expected '
               'DIR/.*/CLASS, or a table', folder.load, path=tmp_path)


def test_a_table_says_what_it_leaves_out(tmp_path):
  d = csv.load(path=table(tmp_path, ROWS[:4] + ROWS[6:10]).parent)
  assert d.about['ignored'] == {'images that no row of the table names': 4}


def test_a_column_that_some_lines_lack(tmp_path):
  fill(tmp_path / 'images')
  rows = [{'file': f'images/{c}/{i:03}.png', 'label': c, 'split': 'test'}
          for c in ('boot', 'coat') for i in range(6)]
  del rows[0]['split']
  (tmp_path / 'x.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  expect_error('row 1 has no split', csv.load, path=tmp_path / 'x.jsonl')
  file = table(tmp_path, ['images/boot/000.png,a,b'], 'y.csv',
               'file,label,label')
  expect_error("two columns are called 'label'", csv.load, path=file)


def test_labels_of_json_lines_have_types(tmp_path):
  fill(tmp_path / 'images')
  for values, names in (((0., 1.), ('0', '1')), ((False, True), (
      'false', 'true')), ((0, 1), ('0', '1'))):
    (tmp_path / 'x.jsonl').write_text('\n'.join(
        json.dumps({'file': f'images/{c}/{i:03}.png', 'label': value})
        for c, value in zip(('boot', 'coat'), values, strict=True)
        for i in range(6)))
    d = csv.load(path=tmp_path / 'x.jsonl')
    assert d.class_names == names and counts(d) == [6, 6]


def test_csv_numbers_with_their_names(tmp_path):
  rows = [f'images/{c}/{i:03}.png,{n},{c}' for n, c in ((1, 'boot'),
                                                        (0, 'coat'))
          for i in range(6)]
  d = csv.load(path=table(tmp_path, rows, 'labels.csv', 'file,label,class'))
  assert d.class_names == ('coat', 'boot')
  np.testing.assert_array_equal(np.asarray(d.train.images)[d.train.labels == 1],
                                pictures(9, 6))


@pytest.mark.parametrize('change, message', [
    (lambda rows: rows + ['images/boot/77.png,boot,train'],
     'names 1 files that are not there .the first: images/boot/77.png'),
    (lambda rows: rows + ['images/boot/000.png,,train'], 'row 14 has no label'),
    (lambda rows: rows + ['images/boot/000.png,boot,tran'],
     "row 14: split 'tran'.*mean 'train'"),
    (lambda rows: rows + ['images/boot/000.png,shoe,train'],
     "class 'shoe' of train is not in test"),
    (lambda rows: rows + ['a,b,c,d,e'], 'line 14 has more values'),
    (lambda rows: [], 'has no rows'),
    (lambda rows: [r for r in rows if 'train' not in r], 'none of train')])
def test_csv_refuses(tmp_path, change, message):
  expect_error(message, csv.load, path=table(tmp_path, change(ROWS)))


# Parquet.


def parquet_file(path, x, y, names=None, group=5, label='label'):
  pyarrow = pytest.importorskip('pyarrow')
  importlib.import_module('pyarrow.parquet')
  rows = []
  for image in x:
    buffer = io.BytesIO()
    images.write_png(buffer, image)
    rows.append({'bytes': buffer.getvalue(), 'path': None})
  made = pyarrow.table({'image': rows, label: y})
  if names:  # As the library `datasets` writes it.
    about = {'info': {'features': {
        'image': {'_type': 'Image'},
        label: {'names': names, '_type': 'ClassLabel'}}}}
    made = made.replace_schema_metadata({'huggingface': json.dumps(about)})
  path.parent.mkdir(parents=True, exist_ok=True)
  pyarrow.parquet.write_table(made, path, row_group_size=group)
  return path


def test_parquet_of_the_hub(tmp_path):
  x = X[..., None]
  for name, rows in (('train-00000-of-00002', slice(0, 7)),
                     ('train-00001-of-00002', slice(7, 12)),
                     ('test-00000-of-00001', slice(None, None, -1))):
    parquet_file(tmp_path / 'data' / f'{name}.parquet', x[rows],
                 Y[rows].tolist(), ['boot', 'coat'])
  d = parquet.load(path=tmp_path)
  assert d.class_names == ('boot', 'coat') and d.validation is None
  np.testing.assert_array_equal(np.asarray(d.train.images), x)
  np.testing.assert_array_equal(d.train.labels, Y)
  np.testing.assert_array_equal(np.asarray(d.test.images), x[::-1])
  np.testing.assert_array_equal(d.train.images[np.array([11, 0, 6])],
                                x[[11, 0, 6]])


def test_parquet_labels_that_are_names(tmp_path):
  file = parquet_file(tmp_path / 'x.parquet', X[..., None],
                      np.array(['coat', 'boot'])[Y].tolist(),
                      label='fine_label')
  d = parquet.load(path=file)
  assert d.class_names == ('boot', 'coat')
  np.testing.assert_array_equal(d.train.labels, 1 - Y)


@pytest.mark.parametrize('labels, message', [
    ([[0, 1]] * 12, "labels in 'label' are list<"),
    ([0.5] * 12, "labels in 'label' are double; expected whole numbers")])
def test_parquet_labels_that_are_none(tmp_path, labels, message):
  file = parquet_file(tmp_path / 'x.parquet', X[..., None], labels)
  expect_error(message, parquet.load, path=file)


def test_parquet_files_that_do_not_agree(tmp_path):
  x = X[..., None]
  parquet_file(tmp_path / 'train-0.parquet', x, Y.tolist(), ['boot', 'coat'])
  parquet_file(tmp_path / 'test-0.parquet', x, Y.tolist(), ['coat', 'boot'])
  expect_error('its classes are coat, boot, and boot, coat in another',
               parquet.load, path=tmp_path)
  parquet_file(tmp_path / 'train-0.parquet', x, Y.tolist())
  parquet_file(tmp_path / 'test-0.parquet', x, ['a', 'b'] * 6)
  expect_error('some labels are numbers and others texts', parquet.load,
               path=tmp_path)
  from pyarrow import parquet as arrow
  arrow.write_table(arrow.read_table(tmp_path / 'train-0.parquet').slice(0, 0),
                    tmp_path / 'test-0.parquet')
  expect_error('test has no row', parquet.load, path=tmp_path)


def test_parquet_of_several_sets_or_without_labels(tmp_path):
  x = X[..., None]
  for where in 'a/train/0000', 'b/train/0000':
    parquet_file(tmp_path / 'two' / f'{where}.parquet', x, Y.tolist())
  expect_error('files of several sets: a/, b/; expected one of', parquet.load,
               path=tmp_path / 'two')
  assert counts(parquet.load(path=tmp_path / 'two' / 'a')) == [6, 6]
  parquet_file(tmp_path / 'one' / 'train-0.parquet', x, Y.tolist())
  parquet_file(tmp_path / 'one' / 'test-0.parquet', x, [-1] * 12)
  d = parquet.load(path=tmp_path / 'one')
  assert d.test is None and counts(d) == [6, 6]
  assert d.about['notes'] == ['test: its 12 images have no labels (-1, as the '
                              'Hub has it): left out']


def test_parquet_refuses(tmp_path):
  pytest.importorskip('pyarrow')
  file = parquet_file(tmp_path / 'x.parquet', X[..., None], Y.tolist(),
                      label='kind')
  expect_error('columns image, kind; expected one called label', parquet.load,
               path=file)
  expect_error("no column 'kid'.*mean 'kind'", parquet.load, path=file,
               label_key='kid')
  assert counts(parquet.load(path=file, label_key='kind')) == [6, 6]
  file.write_bytes(file.read_bytes()[:-20])
  expect_error('damaged, or no parquet', parquet.load, path=file)
  expect_error('holds no .parquet', parquet.load, path=fill(tmp_path / 'y'))


def test_parquet_without_pyarrow_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'pyarrow', None)
  monkeypatch.setitem(sys.modules, 'pyarrow.parquet', None)
  expect_error('needs the package pyarrow', parquet.load, path=tmp_path)


# WebDataset.


def shard(path, x, y, ending='cls', say=str):
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, 'w') as tar:
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
      buffer = io.BytesIO()
      images.write_png(buffer, image)
      for name, data in ((f'{i:04}.png', buffer.getvalue()),
                         (f'{i:04}.{ending}', say(label).encode()),
                         (f'{i:04}.txt', b'a caption')):
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
  return path


def test_webdataset_shards(tmp_path):
  x = X[..., None]
  shard(tmp_path / 'train-000000.tar', x[:7], Y[:7])
  shard(tmp_path / 'train-000001.tar', x[7:], Y[7:])
  shard(tmp_path / 'test-000000.tar', x[::-1], Y[::-1])
  d = webdataset.load(path=tmp_path)
  assert d.class_names == ('0', '1') and d.about['ignored'] == {'.txt': 24}
  np.testing.assert_array_equal(np.asarray(d.train.images), x)
  np.testing.assert_array_equal(d.test.labels, Y[::-1])
  (tmp_path / 'classnames.txt').write_text('boot\ncoat\n')
  assert webdataset.load(path=tmp_path).class_names == ('boot', 'coat')


def test_webdataset_labels_in_json(tmp_path):
  names = ['coat', 'boot']
  file = shard(tmp_path / 'x.tar', X[..., None], Y, 'json',
               lambda y: json.dumps({'label': int(y), 'class': names[y]}))
  assert webdataset.load(path=file).class_names == ('coat', 'boot')


@pytest.mark.parametrize('described', [
    {'class': 'boot'}, {'label': 'boot'}, {'label': 0, 'class_name': 'boot'}])
def test_webdataset_numbers_and_names_in_two_members(tmp_path, described):
  with tarfile.open(tmp_path / 'x.tar', 'w') as tar:
    for i, image in enumerate(X):
      buffer = io.BytesIO()
      images.write_png(buffer, image[..., None])
      said = described if i < 6 else {
          k: {0: 1, 'boot': 'coat'}[v] for k, v in described.items()}
      for name, data in (('json', json.dumps(said).encode()),
                         ('png', buffer.getvalue()),
                         ('cls', str(Y[i]).encode())):
        info = tarfile.TarInfo(f'{i:04}.{name}')
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
  d = webdataset.load(path=tmp_path / 'x.tar')
  assert d.class_names == ('boot', 'coat') and counts(d) == [6, 6]
  np.testing.assert_array_equal(d.train.labels, Y)


@pytest.mark.parametrize('say, message', [
    (lambda y: json.dumps({'label': ['a', int(y)]}), 'expected a number or a'),
    (lambda y: '5', 'no text, or no JSON object'),
    (lambda y: json.dumps({'label': 'x' if y else 0}), 'some labels are num'),
    (lambda y: json.dumps({'label': ''}), 'has no label')])
def test_webdataset_labels_that_are_none(tmp_path, say, message):
  expect_error(message, webdataset.load, path=shard(
      tmp_path / 'x.tar', X[..., None], Y, 'json', say))


def test_webdataset_texts_may_begin_with_a_mark(tmp_path):
  d = webdataset.load(path=shard(tmp_path / 'x.tar', X[..., None], Y, 'cls',
                                 lambda y: '\ufeff' + 'ab'[y]))
  assert d.class_names == ('a', 'b')


def test_webdataset_refuses(tmp_path):
  file = shard(tmp_path / 'x.tar', X[..., None], Y, 'seg')
  expect_error('image 0000.png has no label; expected 0000.cls',
               webdataset.load, path=file)
  file.write_bytes(b'words')
  expect_error('x.tar: damaged, or no tar file', webdataset.load, path=file)
  shard(file, X[..., None], Y)
  file.write_bytes(file.read_bytes()[:5000])
  expect_error('damaged', lambda: np.asarray(webdataset.load(
      path=file).train.images))
  expect_error('holds no .tar', webdataset.load, path=fill(tmp_path / 'y'))
  shard(tmp_path / 'z' / 'train-0.tar', X[..., None], Y)
  shard(tmp_path / 'z' / 'more-0.tar', X[..., None], Y)
  expect_error('more-0.tar is named after no split', webdataset.load,
               path=tmp_path / 'z')


# Zips.


def test_zip_of_class_folders_is_not_unpacked(tmp_path):
  fill(tmp_path / 'x' / 'Training')
  fill(tmp_path / 'x' / 'Testing', skip=6)
  with zipfile.ZipFile(tmp_path / 'x.zip', 'w') as file:
    for each in (tmp_path / 'x').rglob('*.png'):
      file.write(each, f'Shapes/{each.relative_to(tmp_path / "x")}')
    file.writestr('__MACOSX/Shapes/Training/boot/._000.png', b'x')
    file.writestr('Shapes/notes.txt', b'x')
    file.writestr('../../evil.txt', b'x')
  before = {*tmp_path.rglob('*')}
  d = zip_set.load(path=tmp_path / 'x.zip')
  assert d.class_names == ('boot', 'coat')
  assert d.about['ignored'] == {'.txt': 1}
  np.testing.assert_array_equal(np.asarray(d.test.images)[:6],
                                pictures(9, 6, 6))
  assert {*tmp_path.rglob('*')} == before


def test_zip_of_stylegan(tmp_path):
  labels = [[f'00000/img{i:08}.png', int(y)] for i, y in enumerate(Y)]
  def make(described):
    with zipfile.ZipFile(tmp_path / 'x.zip', 'w') as file:
      for (name, _), image in zip(labels, X, strict=True):
        buffer = io.BytesIO()
        images.write_png(buffer, image[..., None])
        file.writestr(name, buffer.getvalue())
      file.writestr('dataset.json', json.dumps(described))
    return tmp_path / 'x.zip'
  d = zip_set.load(path=make({'labels': labels}))
  assert d.class_names == ('0', '1')
  np.testing.assert_array_equal(d.train.images[:][..., 0], X)
  np.testing.assert_array_equal(d.train.labels, Y)
  d = zip_set.load(path=make({'labels': labels, 'class_names': ['a', 'b']}))
  assert d.class_names == ('a', 'b')
  expect_error('1 images stand in no row', zip_set.load,
               path=make({'labels': labels[1:]}))
  expect_error("names '00000/x.png'", zip_set.load,
               path=make({'labels': [*labels, ['00000/x.png', 0]]}))
  expect_error('its labels are not', zip_set.load,
               path=make({'labels': [[1, 2]]}))
  expect_error('number from 0', zip_set.load, path=make({
      'labels': [[name, label - 1] for name, label in labels]}))
  expect_error('its class_names are no list', zip_set.load,
               path=make({'labels': labels, 'class_names': 5}))
  expect_error('dataset.json: it has no labels', zip_set.load,
               path=make({'labels': None}))
  make({'other': 1})  # Somebody else's: the folders say the classes.
  expect_error('data has one class', splits.make, zip_set.load(
      path=tmp_path / 'x.zip')._replace(name='data'), seed=0)


def test_a_folder_of_stylegan(tmp_path):
  labels = [[f'0000{i % 2}/img{i:08}.png', int(y)] for i, y in enumerate(Y)]
  for (name, _), image in zip(labels, X, strict=True):
    images.save_png(tmp_path / name, image[..., None])
  (tmp_path / 'dataset.json').write_text(json.dumps({'labels': labels}))
  d = auto.load(path=tmp_path)
  assert d.class_names == ('0', '1') and d.about['ignored'] == {}
  np.testing.assert_array_equal(d.train.images[:][..., 0], X)
  np.testing.assert_array_equal(d.train.labels, Y)


def test_zip_refuses(tmp_path):
  (tmp_path / 'x.zip').write_bytes(b'words')
  expect_error('no zip file', zip_set.load, path=tmp_path / 'x.zip')
  with pytest.warns(UserWarning, match='Duplicate name'):
    with zipfile.ZipFile(tmp_path / 'x.zip', 'w') as file:
      for name in ('a/0.png', 'b/0.png', 'a/0.png'):
        file.writestr(name, b'words')
  expect_error("holds 'a/0.png' twice", zip_set.load, path=tmp_path / 'x.zip')


# All of them.


@pytest.mark.parametrize('name', ['more.tar', 'index.parquet'])
def test_auto_refuses_two_kinds_at_once(tmp_path, name):
  fill(tmp_path)
  (tmp_path / name).write_bytes(b'')
  expect_error(f"holds images .* and also {name}; expected the source 'folder'",
               auto.load, path=tmp_path)
  assert counts(folder.load(path=tmp_path)) == [6, 6]


def test_names_that_differ_by_their_unicode_alone(tmp_path):
  for name in 'c\u0327', '\u00e7':
    fill(tmp_path, classes=(name, 'coat'), count=2)
  if len(list(tmp_path.iterdir())) < 3:
    pytest.skip('this file system takes them for one name')
  expect_error('twice, written in two ways of Unicode', folder.load,
               path=tmp_path)


@pytest.mark.skipif(sys.platform != 'linux', reason='names are bytes there')
def test_names_that_are_no_text(tmp_path):
  fill(tmp_path / 'x')
  os.rename(tmp_path / 'x' / 'coat', os.fsencode(tmp_path) + b'/x/\xff\xfe')
  expect_error('names of the classes: .* is no text in UTF-8', splits.make,
               folder.load(path=tmp_path / 'x'), seed=0)


def test_auto_tells_them_apart(tmp_path):
  x = X[..., None]
  paths = {'npz': save(tmp_path / 'x.npz', images=X, labels=Y),
           'folder': fill(tmp_path / 'f'),
           'csv': table(tmp_path / 'c', ROWS).parent,
           'webdataset': shard(tmp_path / 'w' / 'train-0.tar', x, Y).parent}
  if importlib.util.find_spec('pyarrow'):
    paths['parquet'] = parquet_file(tmp_path / 'p' / 'x.parquet', x, Y.tolist())
  for name, path in paths.items():
    assert auto.kind(path) == name
    d = auto.load(path=path, resize=14)
    assert d.train.images.shape[1:] == (14, 14, 1)
    assert len(d.train.images) in (8, 12)
  expect_error("no file '.*/y.npz'.*mean 'x.npz'", auto.load,
               path=tmp_path / 'y.npz')
  (tmp_path / 'x.rar').write_bytes(b'')
  expect_error('x.rar is no file of labelled images; expected a folder, or one '
               'of .npz', auto.load, path=tmp_path / 'x.rar')
  expect_error('config.data.ignore: the source npz', auto.load,
               path=tmp_path / 'x.npz', ignore=('x',))


def test_all_sources_of_files_take_the_same_options():
  for name in ('auto', 'folder', 'npz', 'csv', 'parquet', 'webdataset', 'zip'):
    takes = registry.arguments(registry.find('datasets', name).load)
    assert {'path', 'resize', 'crop', 'alpha', 'depth'} <= set(takes), name


# The inputs that came with the design, where they are.


@pytest.fixture(scope='module')
def cases(tmp_path_factory):
  if not (CASES / 'make.py').exists():
    pytest.skip(f'{CASES} is not there (JAXAUG_CASES names the folder)')
  root = tmp_path_factory.mktemp('cases')
  subprocess.run([sys.executable, CASES / 'make.py', root], check=True)
  return root


@pytest.mark.parametrize('name, ignore, train, test', [
    ('nested', (), [30, 30], None), ('macos', (), [30, 30], None),
    ('endings', ('*.heic',), [30, 30], None),
    ('kaggle', (), [30, 30], [10, 10]),
    ('table', (), [30, 30], [10, 10]),
    ('medmnist/shapes.npz', (), [30, 30, 30], [10, 10, 10]),
    ('aliases/pool.npz', (), [20, 20, 20], None),
    ('aliases/keras.npz', (), [20, 20, 20], [10, 10, 10])])
def test_cases_that_are_read(cases, name, ignore, train, test):
  d = auto.load(path=cases / name, ignore=ignore)
  assert counts(d) == train
  assert test is None and d.test is None or counts(d, 'test') == test
  splits.make(d, seed=0)


def test_cases_that_are_refused(cases):
  def whole(name, load=None, **cut):
    return splits.make(auto.load(path=cases / name, **(load or {})), seed=0,
                       **cut)
  expect_error(r'2 images of kinds that are not read: 2 .heic', whole,
               'endings')
  expect_error(r"1 is an image with transparent parts .*config.data.alpha.*"
               r"1 is an image of 16 bits.*config.data.depth='scale'", whole,
               'modes')
  d = auto.load(path=cases / 'modes', alpha='white', depth='scale')
  assert counts(d) == [30, 31]
  line = ('allow_contradictions: 3 pairs of images are equal.*disc/000.png '
          r'\(disc\) and .*copy0.png \(square\).*allow_overlap: 1 test images '
          r'.*disc/000.png \(disc\) and .*again.png')
  expect_error(line, whole, 'twice')
  expect_error('allow_overlap', whole, 'twice', allow_contradictions=True)
  whole('twice', allow_contradictions=True, allow_overlap=True)
  expect_error("class 'square' has too few images for 3 splits.*add some, "
               'leave the class out', whole, 'rare')
  expect_error("class 'disc' has too few images for 3 splits.*validation",
               whole, 'tiny')
