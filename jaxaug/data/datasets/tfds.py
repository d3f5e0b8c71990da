"""Any TFDS image classification set, decoded once to cached uint8 arrays."""
import collections
import contextlib
import hashlib
import importlib.util
import io
import json
import os
import pathlib
import re
import shlex
import shutil
import struct
import tempfile

import numpy as np

from jaxaug.core import console, errors, files, types
from jaxaug.data import images

# gzip header times of the four Fashion-MNIST files as first published; TFDS
# knows the sums of those, and a distribution may have rewritten the headers.
_FASHION_MNIST_TIMES = {
    'train-images-idx3-ubyte': 1504176606,
    'train-labels-idx1-ubyte': 1504176606,
    't10k-images-idx3-ubyte': 1504176627,
    't10k-labels-idx1-ubyte': 1504176627}


def load(*, name, data_dir='', train_split='train', test_split='test',
         validation_split='', image_key='image', label_key='label',
         resize=None, crop=None, cache_dir='') -> types.Dataset:
  """Loads a set, which is prepared first where it is not.

  The first call decodes it into `cache_dir`; later ones map those arrays into
  memory and import neither TFDS nor TensorFlow.

  Args:
    name: 'cifar10', 'cifar10:3.0.2', 'set/config'.
    data_dir: where TFDS prepared it; '' for $TFDS_DATA_DIR or
      ~/tensorflow_datasets.
    train_split, test_split, validation_split: TFDS split expressions, such as
      'train[:80%]'; '' for a test or validation split that there is not.
    image_key, label_key: names of the two features.
    resize, crop: as in `images.fit`; needed if the images differ in size.
    cache_dir: '' for $JAXAUG_CACHE or ~/.cache/jaxaug.

  Raises:
    InputError: the set is unknown, cannot be prepared here, or has no such
      split or key.
  """
  data_dir = _data_dir(data_dir)
  asked = {
      'name': name, 'data_dir': str(data_dir), 'image': image_key,
      'label': label_key, 'resize': resize, 'crop': crop,
      'splits': {'train': train_split, 'validation': validation_split,
                 'test': test_split}}
  key = hashlib.sha256(json.dumps(asked, default=list).encode()).hexdigest()
  root = pathlib.Path(os.path.expanduser(cache_dir)) if cache_dir else (
      files.cache())
  folder = root / f'tfds-{re.sub("[^a-zA-Z0-9._-]", "_", name)}-{key[:12]}'
  dataset = _read_cache(folder)
  if dataset is None:
    _write_cache(folder, asked)
    dataset = _read_cache(folder)
  return dataset


def _data_dir(data_dir) -> pathlib.Path:
  return pathlib.Path(os.path.expanduser(
      data_dir or os.environ.get('TFDS_DATA_DIR')
      or '~/tensorflow_datasets')).absolute()


def _read_cache(folder: pathlib.Path) -> types.Dataset | None:
  """Opens a cached set; None if there is none, or it is out of date or damaged.
  """
  try:
    about = files.manifest(folder)
    arrays = {f.stem: np.load(f, mmap_mode='r') for f in folder.glob('*.npy')}
    splits = {
        split: types.Split(arrays[f'{split}_images'],
                           np.asarray(arrays[f'{split}_labels']),
                           np.arange(len(arrays[f'{split}_images'])))
        for split in about['splits']}
  except (errors.InputError, OSError, EOFError, ValueError, KeyError):
    return None
  now = _fingerprint(pathlib.Path(about['prepared']))
  # The prepared copy may be deleted, but not replaced, behind the cache.
  if now and now != about['fingerprint']:
    return None
  return types.Dataset(
      about['full_name'], tuple(about['class_names']), **splits,
      about={'sizes': about['sizes']} if 'sizes' in about else {})


def _fingerprint(prepared: pathlib.Path) -> str:
  """Hashes what all prepared versions beside this one say of themselves."""
  found = sorted(prepared.parent.glob('*/dataset_info.json'))
  sha = hashlib.sha256()
  for file in found:
    sha.update(file.parent.name.encode() + file.read_bytes())
  return sha.hexdigest() if found else ''


def _write_cache(folder: pathlib.Path, asked: dict):
  """Decodes beside `folder` and renames the arrays into place whole."""
  builder = _prepared(asked)
  try:
    with files.writing(folder):
      folder.parent.mkdir(parents=True, exist_ok=True)
      with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        whole = pathlib.Path(scratch, 'new')
        whole.mkdir()
        about = _decode(builder, asked, whole)
        shutil.rmtree(folder, ignore_errors=True)
        files.finish(whole, folder, about)
  except errors.InputError as e:
    if not str(e).startswith(str(folder.parent)):
      raise
    raise errors.InputError(
        f'{e} Another place for the decoded images is config.data.cache_dir.'
    ) from None


@contextlib.contextmanager
def _quiet():
  """Silences TFDS, which prints a banner where TensorFlow is missing."""
  from absl import logging
  before = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    logging.set_verbosity(before)


def _builder(name: str, data_dir, **options):
  """Makes the TFDS builder of a set, prepared or not."""
  try:
    with _quiet():
      import tensorflow_datasets as tfds
      return tfds.builder(name, data_dir=str(data_dir), try_gcs=False,
                          **options)
  except ModuleNotFoundError as e:
    raise errors.InputError(
        f'config.data.source: tfds needs the package {e.name or e}, which is '
        'not installed.') from None
  except tfds.core.DatasetNotFoundError as e:
    known = re.findall(r'- (\w+)', str(e))
    raise errors.InputError(
        f'config.data.name: TFDS knows no set {name!r}.'
        f'{errors.nearest(name, known)}') from None
  except (ValueError, AssertionError, RuntimeError) as e:
    raise errors.InputError(
        f'config.data.name: {name!r}: {_one_line(e)}') from None


def _one_line(error: Exception) -> str:
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  return ' '.join(lines or [type(error).__name__])[:300]


def _has_tensorflow() -> bool:
  return importlib.util.find_spec('tensorflow') is not None


def _prepared(asked: dict):
  """Returns the builder of a set that is prepared, by now if not before."""
  name, data_dir = asked['name'], asked['data_dir']
  builder = _builder(name, data_dir)
  with _quiet():
    if builder.is_prepared():
      return builder
  command = shlex.join(['python', '-m', 'jaxaug', 'prepare', name,
                        f'--data_dir={data_dir}'])
  if builder.name == 'fashion_mnist':
    command += (' (or, without a network, with --fashion_mnist_files=DIR)')
  not_yet = f'config.data.name: the TFDS set {name!r} is not prepared in ' + (
      f'{data_dir}')
  if not _has_tensorflow():
    raise errors.InputError(
        f'{not_yet}, and to prepare it needs tensorflow, which is not '
        'installed; run once: python -m pip install -r requirements-tfds.txt, '
        f'and: {command}')
  size = sum(each.size or 0 for each in (builder.url_infos or {}).values())
  # What is known is of all kinds of the set together.
  most = 'at most ' if len(builder.builder_configs) > 1 else ''
  console.say(f'data: prepares {name} in {data_dir}, once; ' + (
      f'{most}{size / 2**20:,.0f} MB to download' if size else
      'nobody says how much there is to download'))
  try:
    prepare(name, data_dir)
  except errors.InputError as e:
    raise errors.InputError(
        f'{not_yet}; {e} Run once, where that is mended: {command}') from None
  return _builder(name, data_dir)


def _decode(builder, asked: dict, folder: pathlib.Path) -> dict:
  """Writes the arrays of a set; returns what _read_cache needs to know."""
  name, keys = asked['name'], (asked['image'], asked['label'])
  for key, feature in zip(('image_key', 'label_key'), keys, strict=True):
    if feature not in (known := builder.info.features):
      raise errors.InputError(
          f'config.data.{key}: {name} has no feature {feature!r}; expected one '
          f'of {", ".join(known)}.{errors.nearest(feature, known)}')
  splits = {k: v for k, v in asked['splits'].items() if v}
  labels, sizes = {}, collections.Counter()
  for split, expression in splits.items():
    labels[split] = _decode_split(builder, split, expression, keys, asked,
                                  folder / f'{split}_images.npy', sizes)
  for split, numbers in labels.items():
    np.save(folder / f'{split}_labels.npy', numbers)
  label = builder.info.features[asked['label']]
  names = getattr(label, 'names', None)
  if not names:
    # No more classes than images: numbers that are no labels would make many.
    train = labels['train']
    names = [str(c) for c in range(min(int(train.max()) + 1, len(train)))]
  return {'full_name': builder.info.full_name, 'class_names': list(names),
          'sizes': dict(sizes.most_common(20)),
          'splits': list(splits), 'prepared': str(builder.data_path),
          'fingerprint': _fingerprint(pathlib.Path(builder.data_path))}


def _decode_split(builder, split, expression, keys, asked, file,
                  sizes) -> np.ndarray:
  """Decodes the images of one split to the disk; returns the labels.

  sizes: counts 'HxW' as they were.
  """
  labels, fitted, array = [], collections.Counter(), None
  try:
    with _quiet():
      count = builder.info.splits[expression].num_examples
      for example in _examples(builder, expression):
        image, label = (np.asarray(example[key]) for key in keys)
        sizes['x'.join(map(str, image.shape[:2]))] += 1
        image = _fit(image, f'{builder.name} {keys[0]!r}', asked,
                     f'image {len(labels)} of {expression}')
        if array is None:
          # As numpy does not say that the disk is full.
          files.check_space(file, count * image.size)
          array = np.lib.format.open_memmap(
              file, 'w+', np.uint8, (count, *image.shape))
        fitted[image.shape[:2]] += 1
        if len(fitted) == 1:  # A second size ends in an error.
          array[len(labels)] = image
        labels.append(label)
  except (ValueError, AssertionError, KeyError) as e:
    none = '' if split == 'train' else ", or '' for none"
    raise errors.InputError(
        f'config.data.{split}_split: cannot read {expression!r} of '
        f'{builder.name}: {_one_line(e)} It has '
        f'{", ".join(builder.info.splits)}{none}.') from None
  images.one_size(fitted, f'{builder.name} {expression}')
  if array is None:
    np.save(file, np.zeros((0, 1, 1, 1), np.uint8))
  else:
    array.flush()
  return np.array(labels, np.int32)


def _fit(image: np.ndarray, feature: str, asked: dict, name: str):
  """Returns an image, cut; InputError for what is none."""
  if image.dtype != np.uint8 or image.shape[2:] not in ((1,), (3,)):
    raise errors.InputError(
        f'config.data.image_key: {feature} is {image.dtype} '
        f'{list(image.shape)}; expected uint8 [H, W, 1 or 3].')
  return images.fit(image, asked['resize'], asked['crop'], name)


def _examples(builder, expression: str):
  """Yields the examples of a split in their stored order."""
  if builder.info.file_format.value == 'array_record':
    source = builder.as_data_source(split=expression)
    for start in range(0, len(source), 500):
      stop = min(start + 500, len(source))
      yield from source.__getitems__(range(start, stop))
    return
  try:
    import tensorflow  # noqa: F401
  except ImportError:
    raise errors.InputError(
        f'config.data.data_dir: {builder.data_path} holds tfrecord files; they '
        'need tensorflow, unless python -m jaxaug prepare prepares the set '
        'anew in another data_dir.') from None
  import tensorflow_datasets as tfds
  yield from tfds.as_numpy(builder.as_dataset(
      split=expression, shuffle_files=False,
      read_config=tfds.ReadConfig(interleave_cycle_length=1)))


def prepare(name: str, data_dir='', fashion_mnist_files='') -> pathlib.Path:
  """Downloads and prepares a TFDS set as array_record; needs TensorFlow.

  Args:
    name: as in `load`.
    data_dir: as in `load`.
    fashion_mnist_files: a folder with the four {train,t10k}-*-ubyte.gz files,
      to prepare 'fashion_mnist' without a network. TFDS checks their sums.

  Returns:
    The folder of the prepared set.

  Raises:
    InputError: the set is unknown, a file is missing or not the published
      one, or the download failed.
  """
  builder = _builder(name, _data_dir(data_dir), file_format='array_record')
  if fashion_mnist_files and builder.name != 'fashion_mnist':
    raise errors.InputError(
        f'--fashion_mnist_files: serves fashion_mnist only, not {name!r}.')
  if builder.is_prepared():
    return pathlib.Path(builder.data_path)
  import tensorflow_datasets as tfds
  with tempfile.TemporaryDirectory() as manual:
    options = {}
    if fashion_mnist_files:
      restore_fashion_mnist(fashion_mnist_files, manual)
      options['manual_dir'] = manual
    if not _has_tensorflow():
      raise errors.InputError(
          f'{name}: preparing a TFDS set needs the package tensorflow, which '
          'is not installed.')
    try:
      builder.download_and_prepare(
          download_config=tfds.download.DownloadConfig(**options))
    except Exception as e:  # Whatever network, disk or checksum may do.
      raise errors.InputError(
          f'{name}: TFDS cannot prepare it: {type(e).__name__}: '
          f'{_one_line(e)}') from e
  return pathlib.Path(builder.data_path)


def restore_fashion_mnist(source, target):
  """Copies the four Fashion-MNIST files with their published gzip headers.

  Debian's package dataset-fashion-mnist holds the published streams, but
  without file name and time in the header, so that their sums differ.
  """
  for name, time in _FASHION_MNIST_TIMES.items():
    file = pathlib.Path(os.path.expanduser(source)) / f'{name}.gz'
    if not file.is_file():
      raise errors.InputError(
          f'--fashion_mnist_files: {file} is missing; expected '
          f'{", ".join(f"{n}.gz" for n in _FASHION_MNIST_TIMES)}.')
    data = file.read_bytes()
    if data[:4] == b'\x1f\x8b\x08\x00':  # gzip, deflate, no optional field.
      data = (b'\x1f\x8b\x08\x08' + struct.pack('<I', time) + data[8:10]
              + name.encode() + b'\0' + data[10:])
    pathlib.Path(target, f'{name}.gz').write_bytes(data)
