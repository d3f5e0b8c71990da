"""Arrays in one .npz file, found by their keys."""
import os
import pathlib

import numpy as np

from jaxaug.core import errors, files, types
from jaxaug.data import images, reading


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
  file = pathlib.Path(os.path.expanduser(path))
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
  where = f'config.data.path: {file}'
  found = {split: reading.labelled(arrays, *ks[:2], where)
           for split, ks in present.items()}
  if names_key in arrays:
    names = reading.class_names(arrays[names_key])
  else:  # No more classes than images: garbage labels would make billions.
    labels = found['train'][1]
    names = tuple(map(str, range(min(int(labels.max()) + 1, len(labels)))))
  splits = {}
  for split, (pixels, labels) in found.items():
    index_key = keys[split][2]
    index = arrays.get(index_key, np.arange(len(labels)))
    reading.one_each(index, pixels, f'{where}: {index_key}')
    splits[split] = types.Split(
        images.fit_all(pixels, resize, crop, str(file)),
        reading.numbered(labels, len(names), f'{where}: {keys[split][1]}'),
        index.astype(np.int64))
  return types.Dataset(file.stem, names, **splits)
