"""Every kind of source gives the same pixels; wrong ones give one line."""
import zipfile

import numpy as np
import pytest

from jaxaug.core import errors, files, registry
from jaxaug.data import images
from jaxaug.evaluation import image_sets, moments

NAMES = ('boot', 'coat')


@pytest.fixture(scope='module')
def pixels():
  """Real images, and their labels, class by class."""
  train = registry.find('datasets', 'fashion_mnist_small').load().train
  rows = np.concatenate([np.flatnonzero(train.labels == k)[:6] for k in (9, 4)])
  return train.images[rows], np.repeat(np.arange(2, dtype=np.int32), 6)


def folder(root, pixels, labels=None):
  for i, image in enumerate(pixels):
    under = root if labels is None else root / NAMES[labels[i]]
    images.save_png(under / f'{i:03d}.png', image)
  return root


def pool(root, pixels, labels):
  place, rows = files.folder(root / 'pool', 'cgan-0123456789ab'), np.arange(12)
  files.begin(place.partial)
  files.save_npz(place.partial / 'pool.npz', images=pixels, labels=labels,
                 batch=rows // 5, row=rows % 5)
  files.finish(place.partial, place.final, {
      'class_names': list(NAMES), 'digest': images.digest(pixels, labels)})
  return place.final


def npz(path, **arrays):
  np.savez(path, **arrays)
  return path


MAKE = {
    'flat folder': lambda root, x, y: folder(root / 'flat', x),
    'folder a class': lambda root, x, y: folder(root / 'classes', x, y),
    'folder@split': lambda root, x, y: (folder(root / 'a' / 'test', x, y),
                                        f'{root / "a"}@test')[1],
    'images and labels': lambda root, x, y: npz(
        root / 'a.npz', images=x, labels=y, class_names=list(NAMES)),
    'arr_0': lambda root, x, y: npz(root / 'a.npz', arr_0=x),
    'floats': lambda root, x, y: npz(root / 'a.npz', x=x[..., 0] / 255., y=y),
    'x_test alone': lambda root, x, y: npz(root / 'a.npz', x_test=x, y_test=y),
    'npz@split': lambda root, x, y: str(npz(
        root / 'a.npz', x_train=x[:1], x_val=x, y_val=y[:, None])) + '@val',
    'pool': pool,
    'pool by its name': lambda root, x, y: pool(root, x, y).parent / 'cgan'}
UNLABELLED = {'flat folder', 'arr_0'}


@pytest.mark.parametrize('kind', MAKE)
def test_every_kind_gives_the_same_images(kind, tmp_path, pixels):
  x, y = pixels
  source = image_sets.open(MAKE[kind](tmp_path, x, y))
  assert source.count == 12 and source.shape == (28, 28, 1)
  np.testing.assert_array_equal(source.read(np.arange(12)), x)
  np.testing.assert_array_equal(source.read(np.array([7, 2])), x[[7, 2]])
  np.testing.assert_array_equal(
      np.concatenate(list(image_sets.batches(source, 5))), x)
  assert [len(b) for b in image_sets.batches(source, 5)] == [5, 5, 2]
  if kind in UNLABELLED:
    assert source.labels is None
  else:
    np.testing.assert_array_equal(source.labels, y)


def test_a_data_set_by_name():
  train = registry.find('datasets', 'fashion_mnist_small').load().train
  source = image_sets.open('fashion_mnist_small@train')
  np.testing.assert_array_equal(source.read(np.arange(5)), train.images[:5])
  np.testing.assert_array_equal(source.labels, train.labels)
  assert source.class_names[9] == 'Ankle boot'


def test_a_drawn_part_is_seeded_and_without_repetition(tmp_path, pixels):
  x, y = pixels
  path = MAKE['images and labels'](tmp_path, x, y)
  def draw(seed):
    return image_sets.open(path, num_images=5, seed=seed)
  one, again, other = draw(0), draw(0), draw(1)
  rows = one.read(np.arange(5))
  np.testing.assert_array_equal(rows, again.read(np.arange(5)))
  assert len(np.unique(images.row_hashes(rows))) == 5
  assert not np.array_equal(rows, other.read(np.arange(5)))
  assert one.digest == again.digest != other.digest
  for image, label in zip(rows, one.labels, strict=True):
    match = (x == image).all((1, 2, 3))
    assert y[match].tolist() == [label]


def test_halves_share_nothing_and_are_equally_large(tmp_path, pixels):
  x, y = pixels
  source = image_sets.open(MAKE['images and labels'](tmp_path, x[:11], y[:11]))
  one, other = image_sets.halves(source)
  assert one.count == other.count == 5 and one.digest != other.digest
  rows = np.concatenate([half.read(np.arange(5)) for half in (one, other)])
  assert len(np.unique(images.row_hashes(rows))) == 10
  with pytest.raises(errors.InputError, match='no halves'):
    image_sets.halves(one._replace(count=1))


def test_the_digest_follows_the_content(tmp_path, pixels):
  x, _ = pixels
  one = image_sets.open(folder(tmp_path / 'a', x))
  assert image_sets.open(folder(tmp_path / 'b', x)).digest == one.digest
  x = x.copy()
  x[3, 5, 5] ^= 1
  assert image_sets.open(folder(tmp_path / 'c', x)).digest != one.digest
  assert image_sets.open(tmp_path / 'a', resize=14).digest != one.digest


def test_resizing_makes_one_size(tmp_path, pixels):
  x, _ = pixels
  folder(tmp_path, x)
  images.save_png(tmp_path / 'wide.png', np.zeros((20, 50, 1), np.uint8))
  source = image_sets.open(tmp_path, resize=(16, 8))
  assert source.read(np.arange(13)).shape == (13, 16, 8, 1)


def test_grey_images_among_colour_become_colour(tmp_path, pixels):
  for colour, grey in (('a', 'b'), ('b', 'a')):  # Whichever comes first.
    images.save_png(tmp_path / f'{colour}.png', pixels[0][0].repeat(3, 2))
    images.save_png(tmp_path / f'{grey}.png', pixels[0][1])
    found = image_sets.open(tmp_path).read(np.arange(2))
    np.testing.assert_array_equal(
        found if colour == 'a' else found[::-1], pixels[0][:2].repeat(3, 3))


def test_names_in_bytes_are_those_of_a_study(tmp_path, pixels):
  x, y = pixels
  source = image_sets.open(npz(tmp_path / 'a.npz', x_train=x, y_train=y,
                               class_names=np.array([b'boot', b'coat'])))
  assert source.class_names == NAMES
  dataset = registry.find('datasets', 'npz').load(path=tmp_path / 'a.npz')
  assert dataset.class_names == NAMES
  np.testing.assert_array_equal(source.labels, dataset.train.labels)


def test_statistics(tmp_path):
  found = moments.of(np.random.default_rng(0).normal(size=(9, 4)))
  moments.save(tmp_path / 's.npz', found, count=9, extractor='pixels')
  source = image_sets.open(tmp_path / 's.npz')
  assert source.kind == 'statistics' and source.count == 9
  assert source.about == {'count': 9, 'extractor': 'pixels'}
  np.testing.assert_array_equal(source.moments.covariance, found.covariance)


def spoilt(path):
  images.save_png(path / 'a.png', np.zeros((4, 4, 1), np.uint8))
  (path / 'b.png').write_bytes((path / 'a.png').read_bytes()[:40])
  return path


def two_sizes(path):
  for side in (4, 5):
    images.save_png(path / f'{side}.png', np.zeros((side, 4, 1), np.uint8))
  return path


def mixed(path):
  for name in ('a.png', 'c/b.png'):
    images.save_png(path / name, np.zeros((4, 4, 1), np.uint8))
  return path


def empty_class(path):
  (path / 'd').mkdir()
  return folder_of(path)


def text(path):
  path = path / 'a.txt'
  path.write_text('no image')
  return path


def folder_of(path):
  images.save_png(path / 'c' / 'b.png', np.zeros((4, 4, 1), np.uint8))
  return path


def packed(change=None, method=zipfile.ZIP_STORED, header=(
    "{'descr': '|u1', 'fortran_order': False, 'shape': (4, 4, 4), }"),
           magic=b'\x93NUMPY\1\0'):
  """Writes 64 bytes of an array, under a header; `change`s the file's bytes."""
  def make(root):
    text = header.ljust(117).encode() + b'\n'
    with zipfile.ZipFile(root / 'a.npz', 'w', method) as file:
      file.writestr('images.npy', magic + len(text).to_bytes(2, 'little') +
                    text + bytes(range(64)))
    data = bytearray((root / 'a.npz').read_bytes())
    if change:
      change(data)
    (root / 'a.npz').write_bytes(data)
    return root / 'a.npz'
  return make


def field(at: int, value: int):
  """Sets a field in both headers of a member (APPNOTE.TXT, 4.3.7, 4.3.12)."""
  def change(data):
    data[data.index(b'PK\3\4') + at - 2] = value
    data[data.index(b'PK\1\2') + at] = value
  return change


def middle(data):
  """Damages what lies behind the headers."""
  at = data.index(b'images.npy') + 30
  data[at:at + 8] = bytes(8)


DAMAGED = 'a.npz: damaged or not an .npz file'
WRONG = {
    'an encrypted member': (packed(field(8, 1)), DAMAGED),
    'an unknown compression': (packed(field(10, 99)), DAMAGED),
    'a damaged LZMA member': (packed(middle, zipfile.ZIP_LZMA), DAMAGED),
    'a damaged deflated member': (packed(middle, zipfile.ZIP_DEFLATED),
                                  DAMAGED),
    'a header that ends too soon': (packed(header="{'descr': ("), DAMAGED),
    'a header of 10^12 rows': (packed(header=(
        "{'descr': '|u1', 'fortran_order': False, "
        "'shape': (1000000000000, 4, 4), }")), DAMAGED),
    'a member that is no array': (packed(magic=b'\x93NOMPY\1\0'), DAMAGED),
    'no such thing': (lambda root: root / 'x', 'no file, folder or pool'),
    'no such split': (lambda root: f'{folder_of(root)}@tset',
                      'has the splits train, got tset.*@train'),
    'an empty folder': (lambda root: root, 'holds no image'),
    'a file of another kind': (text, 'REAL: .*is no file of labelled images'),
    'a damaged image': (spoilt, 'b.png: '),
    'two sizes': (two_sizes, r'REAL: .*4x4 \(1\), 5x4 \(1\); --resize'),
    'an empty class': (empty_class, 'REAL: class folder .*/d holds no image'),
    'loose and in folders': (mixed, 'also folders of images'),
    'an npz without images': (
        lambda root: npz(root / 'a.npz', z=np.zeros(3)), 'holds z; expected'),
    'an npz of several splits': (
        lambda root: npz(root / 'a.npz', x_train=np.zeros((1, 4, 4)),
                         x_test=np.zeros((1, 4, 4))),
        'a.npz has the splits train, test.*a.npz@train'),
    'fewer labels': (
        lambda root: npz(root / 'a.npz', images=np.zeros((2, 4, 4)),
                         labels=np.zeros(1, int)),
        'REAL: .*labels has 1 rows for 2 images'),
    'labels that are no whole numbers': (
        lambda root: npz(root / 'a.npz', images=np.zeros((2, 4, 4)),
                         labels=np.ones(2) / 2),
        r'REAL: .*labels: float64 \[2\]'),
    'labels below 0': (
        lambda root: npz(root / 'a.npz', images=np.zeros((2, 4, 4)),
                         labels=np.array([0, -1])), 'labels go from -1 to 0'),
    'labels without a class': (
        lambda root: npz(root / 'a.npz', images=np.zeros((2, 4, 4)),
                         labels=np.array([0, 2]), class_names=list(NAMES)),
        r'labels go from 0 to 2, but with 2 classes they must be in 0\.\.1'),
    'NaN': (lambda root: npz(root / 'a.npz', arr_0=np.full((1, 4, 4), np.nan)),
            'NaN'),
    'a data set without its split': (
        lambda root: 'fashion_mnist_smal', 'wants its split.*Did you mean'),
    'a split that a data set has not': (
        lambda root: 'fashion_mnist_small@validation', 'no split'),
}


@pytest.mark.parametrize('case', WRONG)
def test_what_is_wrong_is_one_line(case, tmp_path):
  make, message = WRONG[case]
  with pytest.raises(errors.InputError, match=message) as e:
    source = image_sets.open(make(tmp_path), where='REAL')
    source.read(np.arange(source.count))
  assert '\n' not in str(e.value)


def test_a_pool_whose_manifest_lacks_the_digest(tmp_path, pixels):
  """Its files have theirs."""
  made = pool(tmp_path, *pixels)
  value = files.read_json(made / 'manifest.json')
  whole = image_sets.open(made)
  del value['sha256'], value['digest']
  files.finish(made, made, value)
  source = image_sets.open(made)
  np.testing.assert_array_equal(source.read(np.arange(12)), pixels[0])
  assert source.digest == whole.digest


def test_more_images_than_there_are(tmp_path, pixels):
  with pytest.raises(errors.InputError, match='--num_images: 13.* holds 12'):
    image_sets.open(folder(tmp_path, pixels[0]), num_images=13)
