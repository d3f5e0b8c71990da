import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from jaxaug.core import errors, registry
from jaxaug.data import splits
from jaxaug.data.datasets import fake, fashion_mnist_small, folder, npz

DATA = pathlib.Path(os.environ.get('JAXAUG_DATA', '../shared/data'))


def noise(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def needed(name):
  if not (file := DATA / name).exists():
    pytest.skip(f'{file} is not there (JAXAUG_DATA names the folder)')
  return file


def check(dataset):
  """What every source promises."""
  k = len(dataset.class_names)
  for part in (dataset.train, dataset.validation, dataset.test):
    if part is not None:
      assert np.asarray(part.images).shape == part.images.shape
      assert part.images.dtype == np.uint8 and part.images.ndim == 4
      assert part.images.shape[1:] == dataset.train.images.shape[1:]
      assert part.labels.dtype == np.int32 and part.index.dtype == np.int64
      assert part.labels.min() >= 0 and part.labels.max() < k
      assert len(part.images) == len(part.labels) == len(set(part.index))


def test_the_registry_lists_the_sources_only():
  assert {'fake', 'fashion_mnist_small', 'folder', 'npz', 'tfds'} <= {
      *registry.names('datasets')}
  for name in registry.names('datasets'):
    load = registry.find('datasets', name).load
    assert load.__code__.co_argcount == 0 and load.__doc__


def test_embedded_images_are_the_first_of_each_class():
  d = fashion_mnist_small.load()
  check(d)
  assert d.train.images.shape == (5000, 28, 28, 1)
  assert np.bincount(d.train.labels).tolist() == [500] * 10
  assert np.bincount(d.test.labels).tolist() == [200] * 10
  assert (np.diff(d.train.index) > 0).all() and d.train.index[-1] == 5402
  # The well-known first labels of the official training file.
  assert d.train.index[:5].tolist() == [0, 1, 2, 3, 4]
  assert d.train.labels[:5].tolist() == [9, 0, 0, 3, 0]
  assert d.class_names[9] == 'Ankle boot'


def test_the_embedded_file_is_small_and_has_its_licence():
  home = pathlib.Path(fashion_mnist_small.__file__).parent / 'embedded'
  assert (home / 'fashion_mnist_small.npz').stat().st_size < 4e6
  assert 'MIT License' in (home / 'LICENSE').read_text()


def test_the_embedded_file_can_be_made_again(tmp_path):
  files = pathlib.Path(os.environ.get('FASHION_MNIST_FILES',
                                      '/usr/share/datasets/fashion-mnist'))
  if not files.is_dir():
    pytest.skip(f'{files} is not there (FASHION_MNIST_FILES names the folder)')
  home = pathlib.Path(fashion_mnist_small.__file__).parent / 'embedded'
  program = shutil.copy(home / 'make_fashion_mnist_small.py', tmp_path)
  subprocess.run([sys.executable, program, str(files)], check=True)
  new = np.load(tmp_path / 'fashion_mnist_small.npz')
  old = np.load(home / 'fashion_mnist_small.npz')
  assert sorted(new) == sorted(old)
  for key in old:
    np.testing.assert_array_equal(new[key], old[key])


def test_fake_is_seeded_learnable_and_of_any_size():
  d = fake.load(height=6, width=9, channels=3, num_classes=4)
  check(d)
  assert d.train.images.shape == (80, 6, 9, 3) and len(d.test.labels) == 40
  again = fake.load(height=6, width=9, channels=3, num_classes=4)
  np.testing.assert_array_equal(d.test.images, again.test.images)
  means = np.stack([d.train.images[d.train.labels == c].mean(0)
                    for c in range(4)])
  distance = ((d.test.images[:, None] - means) ** 2).sum((2, 3, 4))
  assert (distance.argmin(1) == d.test.labels).all()
  splits.make(d, seed=0)


@pytest.mark.parametrize('settings', [
    {'channels': 2}, {'height': 0}, {'per_class': 0}, {'num_classes': -1}])
def test_fake_refuses(settings):
  with pytest.raises(errors.InputError, match='config.data.'):
    fake.load(**settings)


# folder


def tree(root, names, shape=(6, 8, 3), ending='png', count=2):
  """Writes `count` images into each folder `root/name`."""
  for i, name in enumerate(names):
    (root / name).mkdir(parents=True)
    for j in range(count):
      pixels = noise(*shape, seed=10 * i + j).squeeze()
      Image.fromarray(pixels).save(root / name / f'{j}.{ending}')
  return root


def expect_error(message, **settings):
  with pytest.raises(errors.InputError, match=message) as e:
    folder.load(**settings)
  assert '\n' not in str(e.value)


def test_folder_reads_cow_and_horse(tmp_path):
  with tarfile.open(needed('cow_horse_256.tar')) as tar:
    tar.extractall(tmp_path, filter='data')
  d = folder.load(path=str(tmp_path), resize=64)
  check(d)
  assert d.class_names == ('cow', 'horse') and d.validation is None
  for part in (d.train, d.test):
    assert part.images.shape == (82, 64, 64, 3)
    assert np.bincount(part.labels).tolist() == [41, 41]
  first = sorted((tmp_path / 'train' / 'cow').iterdir())[0]
  with Image.open(first) as image:
    np.testing.assert_array_equal(
        d.train.images[0], image.resize((64, 64), Image.Resampling.LANCZOS))
  report = splits.make(d, seed=0).report
  assert report['duplicates']['test in train'] == 0


def test_folder_reads_part_of_tiny_imagenet_grey_among_rgb(tmp_path):
  with tarfile.open(needed('tiny_imagenet_22.tar.xz')) as tar:
    members = [m for m in tar if '/n01443537/' in m.name
               or '/n01629819/' in m.name]
    tar.extractall(tmp_path, members, filter='data')
  d = folder.load(path=str(tmp_path))
  check(d)
  assert d.train.images.shape == (1000, 64, 64, 3)
  assert d.validation.images.shape == (100, 64, 64, 3) and d.test is None
  s = splits.make(d, seed=0, per_class=50)
  assert s.report['counts']['validation'] == {'n01443537': 50, 'n01629819': 50}
  assert s.report['counts']['test'] == {'n01443537': 100, 'n01629819': 100}


@pytest.mark.parametrize('validation', ['val', 'valid', 'validation'])
def test_folder_splits_endings_and_hidden_files(tmp_path, validation):
  tree(tmp_path / 'train', ['b', 'a'], ending='PNG')
  tree(tmp_path / validation, ['a', 'b'], ending='bmp')
  tree(tmp_path / 'test', ['a', 'b'], ending='webp', count=3)
  (tmp_path / 'README.txt').write_text('words')
  (tmp_path / 'train' / 'a' / 'notes.txt').write_text('words')
  (tmp_path / 'train' / 'a' / '.hidden.png').write_text('not an image')
  (tmp_path / '.git').mkdir()
  d = folder.load(path=str(tmp_path))
  check(d)
  assert d.class_names == ('a', 'b') and d.train.labels.tolist() == [0, 0, 1, 1]
  assert len(d.validation.labels) == 4 and len(d.test.labels) == 6
  np.testing.assert_array_equal(d.train.images[0], noise(6, 8, 3, seed=10))


def test_folder_without_splits_is_all_train(tmp_path):
  d = folder.load(path=tree(tmp_path, ['x', 'y'], shape=(5, 7, 1), count=10))
  assert d.train.images.shape == (20, 5, 7, 1)
  assert d.test is None and d.validation is None
  s = splits.make(d, seed=0)
  assert np.bincount(s.test.labels).tolist() == [2, 2]


def test_folder_makes_grey_rgb_over_all_splits(tmp_path):
  tree(tmp_path / 'train', ['a'], shape=(6, 8, 1))
  tree(tmp_path / 'test', ['a'])
  d = folder.load(path=tmp_path)
  assert d.train.images.shape == (2, 6, 8, 3)
  pixels = np.asarray(d.train.images)
  assert (pixels[..., 0] == pixels[..., 2]).all()


def test_folder_lists_differing_sizes_and_fits_them(tmp_path):
  tree(tmp_path, ['a', 'b'])
  tree(tmp_path, ['c'], shape=(9, 7, 3), count=3)
  expect_error(r'6x8 \(4\), 9x7 \(3\); set config.data.resize', path=tmp_path)
  assert folder.load(path=tmp_path, crop=(6, 7)).train.images.shape == (
      7, 6, 7, 3)
  assert folder.load(path=tmp_path, crop='square', resize=4
                     ).train.images.shape == (7, 4, 4, 3)
  expect_error(r'config.data.crop: 7x7 is larger than .*/a/0.png.*6x8',
               path=tmp_path, crop=7)


def test_folder_refuses_bad_trees(tmp_path):
  expect_error('config.data.path: there is no folder', path='')
  (tmp_path / 'images').mkdir()
  expect_error("no folder.*Did you mean 'images'", path=tmp_path / 'image')
  expect_error('no class folders', path=tmp_path / 'images')
  (tmp_path / 'images' / 'cat').mkdir()
  expect_error('images/cat holds no image', path=tmp_path / 'images')
  (tmp_path / 'images' / 'cat' / 'notes.txt').write_bytes(b'')
  expect_error('images/cat holds no image, only other files .1 .txt',
               path=tmp_path / 'images')
  tree(tmp_path / 'images', ['dog'])
  expect_error(r"images/cat holds no image.*leave it out by config.data.ignore="
               r"\('cat',\)", path=tmp_path / 'images')
  (tmp_path / 'images' / '0.png').write_bytes(b'')
  expect_error(r'images \(0.png\) and also folders of images \(dog/\)',
               path=tmp_path / 'images')
  shutil.rmtree(tmp_path / 'images' / 'dog')
  expect_error('only loose files', path=tmp_path / 'images')


def test_folder_refuses_bad_splits(tmp_path):
  tree(tmp_path / 'test', ['cat', 'dog'])
  expect_error('has test/ but no train/', path=tmp_path)
  tree(tmp_path / 'train', ['cat', 'dogs'])
  expect_error(r"class 'dog' of .*test is not in .*train.*'dogs'",
               path=tmp_path)
  (tmp_path / 'train' / 'dogs').rename(tmp_path / 'train' / 'dog')
  tree(tmp_path / 'tset', ['cat', 'dog'])
  expect_error("tset holds classes but is no split.*mean 'test'",
               path=tmp_path)
  (tmp_path / 'tset').rename(tmp_path / 'val')
  assert folder.load(path=tmp_path).validation
  tree(tmp_path / 'valid', ['cat', 'dog'])
  expect_error('several validation folders: val, valid', path=tmp_path)


def test_folder_names_the_damaged_file(tmp_path):
  tree(tmp_path, ['a', 'b'], count=20)
  bad = tmp_path / 'b' / '7.png'
  bad.write_bytes(bad.read_bytes()[:-40])
  found = folder.load(path=tmp_path)
  with pytest.raises(errors.InputError,
                     match=f'{bad}: cannot be decoded .*[Tt]runcated'):
    np.asarray(found.train.images)


# npz


def write(tmp_path, **arrays):
  given = {'x_train': noise(6, 4, 5), 'y_train': np.arange(6) % 3,
           'x_test': noise(3, 4, 5, seed=1), 'y_test': np.arange(3), **arrays}
  np.savez(tmp_path / 'x.npz',
           **{k: v for k, v in given.items() if v is not None})
  return tmp_path / 'x.npz'


def test_npz_reads_exact_cifar_by_default_keys():
  file = needed('cifar10_lossless_part.npz')
  d = npz.load(path=str(file))
  check(d)
  assert d.train.images.shape == (8068, 32, 32, 3) and d.validation is None
  assert len(d.test.images) == 1017 and d.class_names[3] == 'cat'
  with np.load(file) as raw:
    assert (hashlib.sha256(raw['x_test']).digest()
            == hashlib.sha256(d.test.images).digest())
    np.testing.assert_array_equal(d.train.index, raw['train_index'])


def test_npz_shapes_names_and_keys(tmp_path):
  d = npz.load(path=write(tmp_path, y_train=np.arange(6)[:, None] % 3))
  check(d)
  assert d.train.images.shape == (6, 4, 5, 1)
  assert d.class_names == ('0', '1', '2') and d.name == 'x'
  assert d.train.index.tolist() == list(range(6))
  file = write(tmp_path, a=noise(9, 4, 5, 3), b=np.arange(9) % 3,
               x_test=None, y_test=None, x_val=noise(3, 4, 5, 3),
               y_val=np.arange(3), class_names=np.array([b'p', b'q', b'r']))
  d = npz.load(path=file, train_images='a', train_labels='b', resize=8)
  check(d)
  assert d.test is None and d.validation.images.shape == (3, 8, 8, 3)
  assert d.class_names == ('p', 'q', 'r')


@pytest.mark.parametrize('scale, dtype', [
    (255, np.float32), (255, np.float64), (1, np.float32), (1, np.int64)])
def test_npz_turns_other_numbers_into_the_same_uint8(tmp_path, scale, dtype):
  pixels = noise(6, 4, 5)
  d = npz.load(path=write(tmp_path, x_train=(pixels / scale).astype(dtype)))
  np.testing.assert_array_equal(d.train.images[..., 0], pixels)


def with_nan(*shape):
  pixels = np.zeros(shape, np.float32)
  pixels.flat[7] = np.nan
  return pixels


@pytest.mark.parametrize('arrays, message', [
    ({'x_train': None}, "labels 'y_train' of train and no images of it"),
    ({'y_test': None}, 'no labels of test.*expected y_test'),
    ({'x_train': None, 'x_tain': noise(6, 4, 5), 'y_train': None},
     'holds x_test, y_test, x_tain; expected images of train'),
    ({'images': noise(6, 4, 5)}, 'holds x_train and images, any of which'),
    ({'test_pixels_2': noise(3, 4, 5)}, "an array 'test_pixels_2' of test "
     'that nothing reads'),
    ({'x_train': with_nan(6, 4, 5)}, 'x_train: NaN'),
    ({'x_test': np.full((3, 4, 5), np.inf)}, 'x_test: values from inf'),
    ({'x_train': np.full((6, 4, 5), -1.)}, 'values from -1'),
    ({'x_train': np.full((6, 4, 5), 256)}, 'values from 256'),
    ({'x_train': np.zeros((6, 4, 5), bool)}, 'bool'),
    ({'x_train': noise(6, 2, 4, 5)}, r'shape \[6, 2, 4, 5\]'),
    ({'x_train': noise(6, 4, 5, 4)}, "transparency.*config.data.alpha='white'"),
    ({'x_train': noise(6, 4, 5).astype(np.uint16) * 257},
     "uint16, values up to 6.*config.data.depth='scale'"),
    ({'x_train': noise(6, 20)}, r'shape \[6, 20\]'),
    ({'x_train': noise(0, 4, 5), 'y_train': np.zeros(0, int)}, 'at least one'),
    ({'y_train': np.arange(5)}, 'y_train has 5 rows'),
    ({'y_train': np.arange(6) / 2}, 'y_train: float64'),
    ({'y_train': np.eye(6, dtype=int) * 2}, r'y_train: int64 \[6, 6\]'),
    ({'y_train': np.ones((6, 3))}, r'float64 \[6, 3\], whose rows.*argmax'),
    ({'y_train': np.array(list('abcabc'))}, 'texts in one split and numbers'),
    ({'y_train': np.arange(6) - 1}, r'y_train: labels go from -1 to 4'),
    ({'y_test': np.arange(3) + 1}, r'y_test: labels go from 1 to 3.*0\.\.2'),
    ({'y_train': np.array([0, 1, 2, 0, 1, 2_000_000_000])},
     r'0 to 2000000000, but with 6 classes'),
    ({'y_train': np.arange(6) * 2**32}, r'to 21474836480, but with 6 classes'),
    ({'class_names': np.array(['a', 'b'])}, r'0 to 2, but with 2 classes'),
    ({'train_index': np.arange(5)}, 'train_index has 5 rows'),
    ({'y_train': np.array([None] * 6)}, 'plain arrays'),
])
def test_npz_refuses(tmp_path, arrays, message):
  with pytest.raises(errors.InputError, match=message) as e:
    npz.load(path=str(write(tmp_path, **arrays)))
  assert 'x.npz' in str(e.value) and '\n' not in str(e.value)


def test_npz_refuses_what_is_no_npz(tmp_path):
  file = tmp_path / 'x.npz'
  cases = [(lambda: None, 'there is no file'),
           (lambda: file.write_text('words'), 'damaged or not an .npz'),
           (lambda: file.write_bytes(b''), 'damaged or not an .npz'),
           (lambda: np.save(file.open('wb'), noise(3)),
            'damaged or not an .npz'),
           (lambda: file.write_bytes(write(tmp_path).read_bytes()[:-300]),
            'damaged')]
  for make, message in cases:
    make()
    with pytest.raises(errors.InputError, match=f'config.data.path.*{message}'):
      npz.load(path=str(file))


def test_npz_notices_a_changed_byte(tmp_path):
  file = write(tmp_path, x_train=noise(600, 8, 8),
               y_train=np.arange(600) % 3)
  data = bytearray(file.read_bytes())
  data[9000] ^= 1
  file.write_bytes(data)
  with pytest.raises(errors.InputError, match='damaged.*CRC'):
    npz.load(path=str(file))
