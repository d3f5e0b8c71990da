"""A pool leaves for other tools and comes back the same, pixel for pixel."""
import csv
import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from jaxaug.commands import export
from jaxaug.core import files
from jaxaug.data import images, splits, writing
from jaxaug.data.datasets import auto, fashion_mnist_small, folder, npz
from jaxaug.study.stages import data as data_stage
from tests import conftest

NAMES = ('b/c', 'ä d', 'a')
NAME = 'cgan-0123456789ab'
FORMATS = tuple(writing.FORMATS)


def make(root, names=NAMES, channels=3, per_class=4):
  """Writes a pool as the pool stage does."""
  rng = np.random.default_rng(0)
  labels = np.repeat(np.arange(len(names), dtype=np.int32), per_class)
  pixels = rng.integers(0, 256, (len(labels), 5, 7, channels), np.uint8)
  place = files.folder(root, NAME)
  files.begin(place.partial)
  files.save_npz(place.partial / 'pool.npz', images=pixels, labels=labels,
                 batch=np.arange(len(labels), dtype=np.int32) // 5,
                 row=np.arange(len(labels), dtype=np.int32) % 5)
  files.finish(place.partial, place.final, {
      'class_names': list(names), 'generator': 'cgan', 'seed': 7,
      'generator_key': 'cgan-key', 'digest': images.digest(pixels, labels)})
  return place.final, pixels, labels


def refused(capsys, *args) -> str:
  assert export.main([str(a) for a in args]) == 2
  out, err = capsys.readouterr()
  assert not out and err.count('\n') == 1, err
  return err


@pytest.mark.parametrize('channels', [1, 3])
def test_a_folder_comes_back_the_same(tmp_path, channels):
  pool, pixels, labels = make(tmp_path, channels=channels)
  out = tmp_path / 'new' / 'out'
  assert export.main([str(pool), str(out)]) == 0
  assert sorted(os.listdir(out)) == ['README.md', 'a', 'b_c', 'labels.csv',
                                     'ä d']
  assert sorted(os.listdir(out / 'a')) == [
      '000001.png', '000002.png', '000003.png', '000004.png']
  back = folder.load(path=str(out))
  assert back.class_names == ('a', 'b_c', 'ä d')  # Sorted, so b/c is 1.
  order = np.concatenate([np.flatnonzero(labels == k) for k in (2, 0, 1)])
  np.testing.assert_array_equal(back.train.images, pixels[order])
  with open(out / 'labels.csv', newline='', encoding='utf-8') as f:
    rows = list(csv.DictReader(f))
  assert list(rows[0]) == ['file', 'label', 'class', 'generator', 'batch',
                           'row']
  assert [int(r['label']) for r in rows] == labels.tolist()
  assert [r['class'] for r in rows] == [NAMES[k] for k in labels]
  assert {r['generator'] for r in rows} == {'cgan-key'}
  assert [5 * int(r['batch']) + int(r['row']) for r in rows] == list(range(12))
  for row, image in zip(rows, pixels, strict=True):
    np.testing.assert_array_equal(images.decode(out / row['file']), image)


def test_an_npz_comes_back_the_same(tmp_path):
  pool, pixels, labels = make(tmp_path)
  out = tmp_path / 'new' / 'out.npz'
  assert export.main([str(pool), str(out), '--format', 'npz']) == 0
  back = npz.load(path=str(out))
  assert back.class_names == NAMES and back.test is None
  np.testing.assert_array_equal(back.train.images, pixels)
  np.testing.assert_array_equal(back.train.labels, labels)
  with np.load(out) as arrays:
    assert arrays['x_train'].dtype == np.uint8
    assert arrays['y_train'].dtype == np.int32
    assert arrays['generator'] == 'cgan-key' and arrays['seed'] == 7
    assert len(arrays['batch']) == len(arrays['row']) == len(labels)


def named(tmp_path, form):
  """Where a format is written, and its labels back in the pool's order."""
  if form == 'parquet':
    pytest.importorskip('pyarrow')
  return tmp_path / (f'out.{form}' if form in ('npz', 'zip') else 'out')


@pytest.mark.parametrize('form', FORMATS)
@pytest.mark.parametrize('channels', [1, 3])
def test_every_format_comes_back_to_equal_arrays(tmp_path, form, channels):
  pool, pixels, labels = make(tmp_path, channels=channels)
  shuffled = np.random.default_rng(1).permutation(len(labels))
  given = export.pool(pool)
  given = given._replace(
      images=pixels[shuffled], labels=labels[shuffled], columns={
          k: [v[i] for i in shuffled] for k, v in given.columns.items()})
  out = named(tmp_path, form)
  export.write(given, out, form)
  back = auto.load(path=str(out))
  assert back.class_names == NAMES and back.test is None
  np.testing.assert_array_equal(np.asarray(back.train.images), pixels[shuffled])
  np.testing.assert_array_equal(back.train.labels, labels[shuffled])


@pytest.mark.parametrize('form', FORMATS)
def test_every_format_has_a_card(tmp_path, form):
  pool, _, _ = make(tmp_path)
  out = named(tmp_path, form)
  assert export.main([str(pool), str(out), '--format', form]) == 0
  if form == 'npz':
    card = str(np.load(out)['card'])
  elif form == 'zip':
    card = zipfile.ZipFile(out).read('README.md').decode()
  else:
    card = (out / 'README.md').read_text()
  assert card.startswith('---\nlicense: unknown\n') and 'cgan' in card
  assert 'Classes, in the order of the labels: 0 b/c, 1 ä d, 2 a.' in card


def test_usual_readers_read_them(tmp_path):
  """numpy, csv, json and zipfile; others in the parity tests."""
  pool, pixels, labels = make(tmp_path)
  for form in 'csv', 'zip', 'npz':
    assert export.main([str(pool), str(named(tmp_path, form)), '--format',
                        form]) == 0
  with open(tmp_path / 'out' / 'metadata.csv', newline='') as f:
    rows = list(csv.DictReader(f))
  for row, image, label in zip(rows, pixels, labels, strict=True):
    with Image.open(tmp_path / 'out' / row['file_name']) as found:
      np.testing.assert_array_equal(np.asarray(found), image)
    assert int(row['label']) == label and row['class'] == NAMES[label]
  with zipfile.ZipFile(tmp_path / 'out.zip') as archive:
    told = json.loads(archive.read('dataset.json'))['labels']
    assert [label for _, label in told] == labels.tolist()
    with Image.open(archive.open(told[5][0])) as found:
      np.testing.assert_array_equal(np.asarray(found), pixels[5])


def test_the_reader_of_torchvision(tmp_path, torchvision):
  pool, pixels, labels = make(tmp_path)
  assert export.main([str(pool), str(tmp_path / 'out')]) == 0
  read = torchvision.datasets.ImageFolder(tmp_path / 'out')
  assert read.classes == ['a', 'b_c', 'ä d']
  order = np.concatenate([np.flatnonzero(labels == k) for k in (2, 0, 1)])
  for (image, label), i in zip(read, order, strict=True):
    np.testing.assert_array_equal(np.asarray(image), pixels[i])
    assert read.classes[label] == NAMES[labels[i]].replace('/', '_')


def test_the_reader_of_the_hub(tmp_path, monkeypatch):
  monkeypatch.setenv('HF_HUB_OFFLINE', '1')
  datasets = pytest.importorskip('datasets')
  pytest.importorskip('pyarrow')
  pool, pixels, labels = make(tmp_path)
  for form in 'parquet', 'csv':
    out = tmp_path / form
    assert export.main([str(pool), str(out), '--format', form]) == 0
    read = datasets.load_dataset(str(out), split='train',
                                 cache_dir=str(tmp_path / 'cache'))
    assert [row['label'] for row in read] == labels.tolist()
    for row, image in zip(read, pixels, strict=True):
      np.testing.assert_array_equal(np.asarray(row['image']), image)
    if form == 'parquet':
      assert read.features['label'].names == list(NAMES)


def test_the_reader_of_webdataset(tmp_path):
  webdataset = pytest.importorskip('webdataset')
  pool, pixels, labels = make(tmp_path)
  assert export.main([str(pool), str(tmp_path / 'out'), '--format',
                      'webdataset']) == 0
  read = webdataset.WebDataset(
      str(tmp_path / 'out' / 'train-000000.tar'), shardshuffle=False).decode(
          'rgb8').to_tuple('png', 'cls')
  for (image, label), expected, k in zip(read, pixels, labels, strict=True):
    np.testing.assert_array_equal(image, expected)
    assert int(label) == k


def test_a_split_leaves_too_and_says_its_hash(tmp_path, capsys):
  source = fashion_mnist_small.load()
  made = splits.make(source, seed=0, per_class=6, classes=(4, 9))
  folder_ = files.folder(tmp_path / 'data', '0123456789ab')
  data_stage.run(folder_, seed=0, source='fashion_mnist_small', per_class=6,
                 classes=(4, 9))
  out = tmp_path / 'out.npz'
  capsys.readouterr()
  assert export.main([str(tmp_path / 'data'), str(out), '--split', 'train',
                      '--format', 'npz']) == 0
  back = npz.load(path=str(out))
  np.testing.assert_array_equal(back.train.images, made.train.images)
  np.testing.assert_array_equal(back.train.labels, made.train.labels)
  sha = made.report['sha256']['train']
  with np.load(out) as arrays:
    assert arrays['sha256'] == sha == images.digest(back.train.images,
                                                    back.train.labels)
    assert f'trained_on={sha}' in str(arrays['card'])
    assert 'license: mit' in str(arrays['card'])
  assert capsys.readouterr().out == f'10 images of train: {out}\n'
  assert 'holds no test split' in refused(
      capsys, tmp_path, tmp_path / 'x', '--split', 'test')


def test_a_split_that_stays_on_the_disk_leaves_likewise(tmp_path):
  source = {'source': 'fashion_mnist_small', 'per_class': 6, 'classes': (4, 9)}
  outs = []
  for memory in 1., 1e-6:
    folder_ = files.folder(tmp_path / str(memory) / 'data', '0123456789ab')
    data_stage.run(folder_, seed=0, memory=memory, **source)
    outs.append(tmp_path / str(memory) / 'out')
    assert export.main([str(folder_.final), str(outs[-1]), '--split', 'train',
                        '--format', 'csv']) == 0
  held, streamed = (auto.load(path=str(out)).train for out in outs)
  np.testing.assert_array_equal(held.images[:], streamed.images[:])
  np.testing.assert_array_equal(held.labels, streamed.labels)


def test_export_refuses_names_that_nothing_reads_and_empty_splits(tmp_path,
                                                                  capsys):
  pool, _, _ = make(tmp_path)
  for form in 'npz', 'zip':
    assert f'expected a name that ends in .{form}' in refused(
        capsys, pool, tmp_path / 'out', '--format', form)
  data_stage.run(files.folder(tmp_path / 'data', '0123456789ab'), seed=0,
                 source='fake')
  capsys.readouterr()
  assert 'its unused split has no images' in refused(
      capsys, tmp_path / 'data', tmp_path / 'out', '--split', 'unused')


def test_a_title_is_quoted_on_the_card(tmp_path):
  title = 'my: set #1 "x"'
  card = export._card(title, 'Images.', {}, ('a',), {})
  line, = (line for line in card.splitlines() if 'pretty_name' in line)
  assert json.loads(line.partition(': ')[2]) == title


def test_the_command_takes_a_name_without_its_hash(tmp_path):
  make(tmp_path / 'pool')
  done = subprocess.run(
      [sys.executable, '-m', 'jaxaug.export',
       tmp_path / 'pool' / 'cgan', tmp_path / 'out', '--format', 'folder'],
      text=True, capture_output=True, cwd=pathlib.Path(__file__).parents[2])
  assert done.returncode == 0 and not done.stderr
  assert done.stdout == f'12 images of cgan-key: {tmp_path / "out"}\n'
  (tmp_path / 'empty').mkdir()
  assert export.main([str(tmp_path / 'pool' / 'cgan'),
                      str(tmp_path / 'empty')]) == 0
  assert len(os.listdir(tmp_path / 'empty')) == 5


def test_export_refuses_what_is_no_pool(tmp_path, capsys):
  pool, _, _ = make(tmp_path / 'pools')
  out = tmp_path / 'out'
  assert 'is no finished pool' in refused(capsys, tmp_path, out)
  assert "mean 'cgan'?" in refused(capsys, tmp_path / 'pools' / 'gan', out)
  shutil.copytree(pool, pool.with_name('cgan-aaaaaaaaaaaa'))
  assert 'several pools' in refused(capsys, tmp_path / 'pools' / 'cgan', out)
  shutil.copytree(pool, pool.with_name(NAME + '.partial'))
  (pool.with_name(NAME + '.partial') / 'manifest.json').unlink()
  assert 'is no finished pool' in refused(
      capsys, pool.with_name(NAME + '.partial'), out)
  whole = (pool / 'pool.npz').read_bytes()
  arrays = files.load_npz(pool / 'pool.npz')
  files.save_npz(pool / 'pool.npz', **arrays | {
      'images': 255 - arrays['images']})
  assert 'pool.npz: is missing or damaged' in refused(capsys, pool, out)
  files.save_npz(pool / 'pool.npz', images=arrays['images'])
  conftest.reseal(pool)
  assert "has no 'labels'" in refused(capsys, pool, out)
  (pool / 'pool.npz').write_bytes(whole[:500])
  assert 'is missing or damaged' in refused(capsys, pool, out)
  (pool / 'pool.npz').write_bytes(whole)
  (pool / 'manifest.json').write_text('{')
  assert 'manifest.json: is missing or damaged' in refused(capsys, pool, out)
  assert not out.exists()


def test_export_overwrites_nothing(tmp_path, capsys):
  pool, _, _ = make(tmp_path)
  out = tmp_path / 'out'
  out.mkdir()
  (out / 'mine.txt').write_text('mine')
  assert 'is not empty' in refused(capsys, pool, out)
  for form in 'npz', 'zip':
    assert 'is there already' in refused(capsys, pool, out, '--format', form)
  assert 'is not empty' in refused(capsys, pool, out / 'mine.txt')
  assert 'is there already' in refused(capsys, pool, out / 'mine.txt',
                                       '--format', 'npz')
  for form in FORMATS:
    assert 'cannot write' in refused(
        capsys, pool, named(out / 'mine.txt', form), '--format', form)
  assert os.listdir(out) == ['mine.txt']
  assert (out / 'mine.txt').read_text() == 'mine'


@pytest.mark.parametrize('names', [
    ('a', ''), ('a', '.'), ('a', '..'), ('a', '.hidden'), ('a/b', 'a_b'),
    ('a', 'x' * 256)])
def test_class_names_that_cannot_be_folders(tmp_path, capsys, names):
  pool, pixels, _ = make(tmp_path, names=names)
  assert 'npz' in refused(capsys, pool, tmp_path / 'out')
  assert os.listdir(tmp_path) == [NAME]
  assert export.main([str(pool), str(tmp_path / 'x.npz'), '--format',
                      'npz']) == 0
  back = npz.load(path=str(tmp_path / 'x.npz'))
  assert back.class_names == names
  np.testing.assert_array_equal(back.train.images, pixels)


@pytest.mark.parametrize('form', FORMATS)
def test_a_full_disk_leaves_nothing_behind(tmp_path, capsys, monkeypatch,
                                           form):
  pool, _, _ = make(tmp_path)
  calls = []

  def fail(*args, **kw):
    calls.append(args)
    if len(calls) > 3 or form == 'npz':
      raise OSError(errno.ENOSPC, 'No space left on device')
    return real(*args, **kw)
  real = images.write_png
  monkeypatch.setattr(images, 'write_png', fail)
  monkeypatch.setattr(np, 'savez', fail)
  assert 'the disk is full' in refused(
      capsys, pool, named(tmp_path, form), '--format', form)
  assert calls and os.listdir(tmp_path) == [NAME]
