"""Arrays in one .npz file, found by their names; it is read whole."""
import collections

import numpy as np

from jaxaug.core import errors, files, types
from jaxaug.data import arrays, images, layout, reading

# What people call the names of the classes.
_NAMES = ('class_names', 'classes', 'label_names', 'categories')


def load(*, path: str, train_images: str = '', train_labels: str = '',
         test_images: str = '', test_labels: str = '', val_images: str = '',
         val_labels: str = '', names_key: str = '',
         train_index: str = 'train_index', test_index: str = 'test_index',
         range: tuple | None = None, **how: reading.how) -> types.Dataset:
  """Reads a data set from an .npz file.

  Args:
    path: the file.
    train_images, test_images, val_images: names of the arrays of images: uint8
      (or other numbers, see `range`) [N, H, W] or [N, H, W, C] with C 1 or 3,
      or [N, C, H, W]; '' finds them, see arrays.find.
    train_labels, test_labels, val_labels: of the labels, as in arrays.labels; a
      test or validation part that the file does not hold is left out.
    names_key: of the class names; '' finds class_names, classes, label_names
      or categories; without any they are '0', '1', ...
    train_index, test_index: of each image's place in its source, if it has one;
      without them 0..N-1.
    range: (black, white) of floats; None for [0, 1] or [0, 255].
    **how: see reading.how.

  Raises:
    InputError: the file is missing or damaged, lacks an array, holds a test or
      validation part that is not read, or an array is not what it should be.
  """
  how = reading.how(**how)
  if range is not None and not (
      len(range) == 2 and all(isinstance(x, (int, float)) for x in range)
      and range[0] < range[1]):
    raise errors.InputError(f'config.data.range: {range!r}; expected (black, '
                            'white), such as (-1, 1).')
  file = layout.file(path, 'config.data.path')
  where = f'config.data.path: {file}'
  every = files.read_npz(file, 'config.data.path', lambda key: False)
  keys = arrays.find(every, where, {
      'train': arrays.Keys(train_images, train_labels),
      'validation': arrays.Keys(val_images, val_labels),
      'test': arrays.Keys(test_images, test_labels)})
  for split, (_, labels) in keys.items():
    if not labels:
      raise errors.InputError(
          f'{where} has no labels of {split} that are known by their name; '
          f'expected y_{split}, or config.data.{arrays.in_keys(split)}_labels.')
  index_keys = {'train': train_index, 'test': test_index}
  if names_key and names_key not in every:
    raise errors.InputError(
        f'config.data.names_key: {file} has no array {names_key!r}; it holds '
        f'{", ".join(every)}.{errors.nearest(names_key, every)}')
  names_key = names_key or next((n for n in _NAMES if n in every), '')
  wanted = {*sum(keys.values(), ()), names_key, *index_keys.values()}
  held = {name: array for name, array in files.read_npz(
      file, 'config.data.path', wanted.__contains__).items()
          if array is not None}
  names = (arrays.class_names(held[names_key]) if names_key in held else None)
  found = arrays.labels({split: held[k.labels] for split, k in keys.items()},
                        names, {split: f'{where}: {k.labels}'
                                for split, k in keys.items()})
  splits, notes, sizes = {}, [*found.notes], collections.Counter()
  if range is None:
    arrays.one_range({k.images: held[k.images] for k in keys.values()}, where)
  for split, (image_key, label_key) in keys.items():
    pixels, more = arrays.images(held[image_key], f'{where}: {image_key}',
                                 span=range, alpha=how.alpha, depth=how.depth)
    arrays.one_each(found.numbers[split], len(pixels), f'{where}: {label_key}')
    index = held.get(index_keys.get(split), np.arange(len(pixels)))
    arrays.one_each(index, len(pixels), f'{where}: {index_keys.get(split)}')
    if index.dtype.kind not in 'ui':
      raise errors.InputError(f'{where}: {index_keys[split]}: {index.dtype}; '
                              'expected whole numbers.')
    notes += more
    sizes['{}x{}'.format(*pixels.shape[1:3])] += len(pixels)
    splits[split] = types.Split(
        images.fit_all(pixels, how.resize, how.crop, str(file)),
        found.numbers[split], index.astype(np.int64))
  names = found.class_names
  if names is None:
    names = tuple(map(str, np.arange(splits['train'].labels.max() + 1)))
  if unread := arrays.unread(every, wanted):
    notes.append(f'arrays that nothing reads: {", ".join(unread)}')
  return types.Dataset(file.stem, names, **splits, about={
      'notes': list(dict.fromkeys(notes)), 'sizes': dict(sizes)})
