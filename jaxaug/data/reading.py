"""Folders of images and labels in arrays, as people bring them: checked.

Studies and `evaluate` read through this. `where` is in all errors what the
user called the set by: the key of a config, or an argument of the command.
"""
import collections
import concurrent.futures
import os
import pathlib
import typing

import numpy as np

from jaxaug.core import errors
from jaxaug.data import images


class Found(typing.NamedTuple):
  """The image files of a folder.

  files: of one class after another, sorted within each.
  labels: int32 [N]; None where the files lie in the folder itself.
  class_names: the sorted names of the class folders; None likewise.
  """
  files: list[pathlib.Path]
  labels: np.ndarray | None
  class_names: tuple[str, ...] | None


def folders(root: pathlib.Path) -> list[pathlib.Path]:
  """Returns the folders in a folder, sorted, without hidden ones."""
  return sorted(f for f in root.iterdir()
                if f.is_dir() and not f.name.startswith('.'))


def folder(path, where: str) -> pathlib.Path:
  """Returns a folder, `~` expanded; InputError where there is none."""
  root = pathlib.Path(os.path.expanduser(path))
  if not str(path) or not root.is_dir():
    near = folders(root.parent) if root.parent.is_dir() else ()
    raise errors.InputError(
        f'{where}: there is no folder {str(path)!r}.'
        f'{errors.nearest(root.name, [f.name for f in near])}')
  return root


def find(root: pathlib.Path, where: str, flat: bool = False) -> Found:
  """Finds the images of a folder: in one folder for each class.

  Hidden files and files with other endings are left out.

  Args:
    root: the folder; it is there.
    where: what the user called it by.
    flat: whether the images may also lie in `root` itself, without classes.

  Raises:
    InputError: no classes, one without images, or images beside the classes.
  """
  classes = {f.name: _files(f) for f in folders(root)}
  loose, endings = _files(root), ', '.join(images.ENDINGS)
  if loose and any(classes.values()):
    name = next(name for name, files in classes.items() if files)
    raise errors.InputError(
        f'{where}: {root} holds images ({loose[0].name}) and also folders of '
        f'images ({name}/); expected one of the two.')
  if loose and flat:
    return Found(loose, None, None)
  if not classes and flat:
    raise errors.InputError(
        f'{where}: {root} holds no image; expected {endings} files in it or in '
        'one folder for each class.')
  if not classes:
    only = ', only loose files' if any(root.iterdir()) else ''
    raise errors.InputError(
        f'{where}: {root} has no class folders{only}; expected one folder of '
        'images for each class.')
  for name, files in classes.items():
    if not files:
      mean = f' Perhaps {root / name} is meant?' if folders(root / name) else ''
      raise errors.InputError(
          f'{where}: class folder {root / name} holds no image; expected '
          f'{endings} files directly in it.{mean}')
  counts = [len(files) for files in classes.values()]
  return Found([f for files in classes.values() for f in files],
               np.repeat(np.arange(len(counts), dtype=np.int32), counts),
               tuple(classes))


def _files(root: pathlib.Path) -> list[pathlib.Path]:
  return sorted(f for f in root.iterdir() if f.name[0] != '.'
                and f.suffix.lower() in images.ENDINGS and f.is_file())


def shape(files, resize=None, crop=None, **words) -> tuple[int, int, int]:
  """Returns the (H, W, C) of all files once they are fitted, by their headers.

  Grey images among RGB ones become RGB.

  Args:
    files: the paths.
    resize, crop: as in images.fit.
    **words: `where` and `mend` of images.one_size.

  Raises:
    InputError: the images differ in size, or a file is none that is taken.
  """
  sizes, channels = collections.Counter(), 1
  for file, (*size, c) in zip(files, _each(images.shape, files), strict=True):
    sizes[images.fitted(tuple(size), resize, crop, str(file))] += 1
    channels = max(channels, c)
  return (*images.one_size(sizes, **words), channels)


def pixels(files, shape: tuple[int, int, int], resize=None,
           crop=None) -> np.ndarray:
  """Returns uint8 [N, H, W, C], the images in the order of the files.

  Args:
    files: the paths.
    shape: what the function `shape` said of them, or of more files.
    resize, crop: as there.

  Raises:
    InputError: a file is damaged, or not what its header said.
  """
  def read(file):
    image = images.fit(images.decode(file), resize, crop, str(file))
    if image.shape[:2] != shape[:2] or image.shape[2] not in (1, shape[2]):
      raise errors.InputError(
          f'{file}: is {list(image.shape)}, but its header said {list(shape)}; '
          'expected a file that nobody changes, without metadata behind its '
          'pixels.')
    return image

  images.check_size(len(files), shape, str(files[0].parent))
  out = np.empty((len(files), *shape), np.uint8)
  for row, image in zip(out, _each(read, files), strict=True):
    row[:] = image
  return out


def _each(function, files):
  """Yields function(file) in order; Pillow decodes outside Python's lock."""
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    try:
      yield from pool.map(function, files)
    finally:
      pool.shutdown(cancel_futures=True)


def labelled(arrays: dict, image_key: str, label_key: str,
             where: str) -> tuple[np.ndarray, np.ndarray | None]:
  """Returns the images and labels of an .npz file, checked.

  Args:
    arrays: those of the file, by name; that of the images is there.
    image_key, label_key: their names.
    where: what the user called the file by, and its path.

  Returns:
    (uint8 [N, H, W, C], whole numbers [N] or None where there are none).

  Raises:
    InputError: an array is not what it should be.
  """
  found = images.from_array(arrays[image_key], f'{where}: {image_key}')
  labels, where = arrays.get(label_key), f'{where}: {label_key}'
  if labels is None:
    return found, None
  if labels.ndim == 2 and labels.shape[1] == 1:
    labels = labels[:, 0]
  if labels.ndim != 1 or labels.dtype.kind not in 'ui':
    raise errors.InputError(
        f'{where}: {labels.dtype} {list(labels.shape)}; expected whole numbers '
        '[N] or [N, 1].')
  one_each(labels, found, where)
  return found, labels


def one_each(array: np.ndarray, found: np.ndarray, where: str):
  """Raises InputError unless an array has a row for each image."""
  if len(array) != len(found):
    raise errors.InputError(f'{where} has {len(array)} rows for {len(found)} '
                            'images; expected one for each.')


def class_names(array: np.ndarray) -> tuple[str, ...]:
  """Returns the class names that an array of texts or bytes holds."""
  return tuple(name.decode(errors='surrogateescape')
               if isinstance(name, bytes) else str(name)
               for name in np.ravel(array).tolist())


def numbered(labels: np.ndarray, classes: int | None,
             where: str) -> np.ndarray:
  """Returns labels as int32 [N].

  Args:
    labels: whole numbers [N].
    classes: how many there are; None where nobody says.
    where: what the user called the file by, its path, and which labels.

  Raises:
    InputError: a label is none of the classes' numbers.
  """
  low, high = int(labels.min()), int(labels.max())
  most, given = 2**31, ''
  if classes is not None:
    most, given = classes, f' with {classes} classes'
  if low < 0 or high >= most:
    raise errors.InputError(
        f'{where}: labels go from {low} to {high}, but{given} they must be in '
        f'0..{most - 1}.')
  return labels.astype(np.int32)
