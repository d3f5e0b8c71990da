"""Arrays in one .npz file, found by their keys."""
import pathlib

import numpy as np

from jaxaug.core import errors, files, types
from jaxaug.data import images


def load(*, path, train_images='x_train', train_labels='y_train',
         test_images='x_test', test_labels='y_test', val_images='x_val',
         val_labels='y_val', names_key='class_names',
         train_index='train_index', test_index='test_index',
         resize=None, crop=None) -> types.Dataset:
  """Reads a data set from an .npz file.

  Args:
    path: the file.
    train_images, test_images, val_images: keys of the images: uint8 (or other
      integers in 0..255) [N, H, W] or [N, H, W, C] with C 1 or 3, or floats in
      [0, 1] or [0, 255].
    train_labels, test_labels, val_labels: keys of the labels: integers
      0..K-1, [N] or [N, 1]. A test or validation part that the file does not
      hold is left out.
    names_key: key of the class names; without it they are '0', '1', ...
    train_index, test_index: keys of each image's place in its source, if it
      has one; without them 0..N-1.
    resize, crop: as in `images.fit`.

  Raises:
    InputError: the file is missing or damaged, lacks a key, or an array is not
      what it should be.
  """
  keys = {'train': (train_images, train_labels, train_index),
          'validation': (val_images, val_labels, None),
          'test': (test_images, test_labels, test_index)}
  file = pathlib.Path(path).expanduser()
  wanted = [k for ks in keys.values() for k in ks] + [names_key]
  arrays = files.read_npz(file, 'config.data.path', wanted.__contains__)
  present = {split: ks for split, ks in keys.items()
             if split == 'train' or ks[0] in arrays or ks[1] in arrays}
  for split, pair in present.items():
    for key in pair[:2]:
      if key not in arrays:
        raise errors.InputError(
            f'config.data.path: {file} has no array {key!r} ({split}); it '
            f'holds {", ".join(arrays) or "nothing"}.'
            f'{errors.nearest(key, arrays)}')
  pixels = {split: images.from_array(arrays[ks[0]], f'{file}: {ks[0]}')
            for split, ks in present.items()}
  splits = {}
  for split, (image_key, label_key, index_key) in present.items():
    labels = _labels(arrays[label_key], f'{file}: {label_key}')
    index = arrays.get(index_key, np.arange(len(labels)))
    for key, array in ((label_key, labels), (index_key, index)):
      if len(array) != len(pixels[split]):
        raise errors.InputError(
            f'{file}: {key} has {len(array)} rows, but {image_key} has '
            f'{len(pixels[split])}.')
    splits[split] = types.Split(
        images.fit_all(pixels[split], resize, crop, str(file)), labels,
        index.astype(np.int64))
  return types.Dataset(file.stem, _names(arrays.get(names_key), splits, file),
                       **splits)


def _labels(array: np.ndarray, where: str) -> np.ndarray:
  """Checks labels and returns int32 [N]."""
  if array.ndim == 2 and array.shape[1] == 1:
    array = array[:, 0]
  if array.ndim != 1 or array.dtype.kind not in 'ui':
    raise errors.InputError(
        f'{where}: {array.dtype} {list(array.shape)}; expected whole numbers '
        '[N] or [N, 1].')
  return array.astype(np.int32)


def _names(names, splits, file) -> tuple[str, ...]:
  """Returns the class names and checks that every label has one."""
  if names is None:
    # No more classes than images: garbage labels would make billions.
    train = splits['train'].labels
    names = range(min(int(train.max()) + 1, len(train)))
  else:
    names = [n.decode() if isinstance(n, bytes) else n for n in names.tolist()]
  for split, part in splits.items():
    low, high = int(part.labels.min()), int(part.labels.max())
    if low < 0 or high >= len(names):
      raise errors.InputError(
          f'{file}: {split} labels go from {low} to {high}, but with '
          f'{len(names)} classes they must be in 0..{len(names) - 1}.')
  return tuple(str(n) for n in names)
