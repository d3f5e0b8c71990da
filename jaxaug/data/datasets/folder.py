"""Image files in folders: DIR/{train,val,test}/CLASS/* or DIR/CLASS/*."""
import collections
import concurrent.futures
import os
import pathlib

import numpy as np

from jaxaug.core import errors, types
from jaxaug.data import images

_SPLITS = {'train': 'train', 'val': 'validation', 'valid': 'validation',
           'validation': 'validation', 'test': 'test'}


def load(*, path, resize=None, crop=None) -> types.Dataset:
  """Reads every image of a folder; without split folders all is 'train'.

  Classes are the sorted folder names, images are in sorted order of their
  names. Hidden files and files with other endings are left out. Grey images
  among RGB ones become RGB.

  Args:
    path: the folder.
    resize, crop: as in `images.fit`; needed if the images differ in size.

  Raises:
    InputError: no such folder, an empty one, a class without images or not in
      every split, a file that cannot be used, or images that differ in size.
  """
  root = pathlib.Path(path).expanduser()
  if not path or not root.is_dir():
    near = _folders(root.parent) if root.parent.is_dir() else ()
    raise errors.InputError(
        f'config.data.path: there is no folder {str(path)!r}.'
        f'{errors.nearest(root.name, [f.name for f in near])}')
  splits = _find_splits(root)
  names = _class_names(splits)
  files = {split: [_files(folder / name) for name in names]
           for split, folder in splits.items()}
  flat = [file for groups in files.values() for group in groups
          for file in group]
  pixels = _read(flat, resize, crop, str(root))
  parts, start = {}, 0
  for split, groups in files.items():
    counts = [len(group) for group in groups]
    stop = start + sum(counts)
    labels = np.repeat(np.arange(len(names), dtype=np.int32), counts)
    parts[split] = types.Split(pixels[start:stop], labels,
                               np.arange(stop - start))
    start = stop
  return types.Dataset(root.absolute().name, names, **parts)


def _folders(root: pathlib.Path) -> list[pathlib.Path]:
  return sorted(f for f in root.iterdir()
                if f.is_dir() and not f.name.startswith('.'))


def _find_splits(root: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns the folder of each split: {'train': root} if there are none."""
  found = collections.defaultdict(list)
  for folder in _folders(root):
    found[_SPLITS.get(folder.name, '')].append(folder)
  others = found.pop('', [])
  if not found:
    return {'train': root}
  if 'train' not in found:
    raise errors.InputError(
        f'config.data.path: {root} has {next(iter(found.values()))[0].name}/ '
        'but no train/; expected DIR/{train,val,test}/CLASS or DIR/CLASS.')
  if len(found['validation']) > 1:
    raise errors.InputError(
        f'config.data.path: {root} has several validation folders: '
        f'{", ".join(f.name for f in found["validation"])}; keep one.')
  splits = {split: found[split][0] for split in ('train', 'validation', 'test')
            if found[split]}
  # A misspelt split would otherwise vanish without a word.
  classes = {f.name for f in _folders(splits['train'])}
  for other in others:
    if classes & {f.name for f in _folders(other)}:
      raise errors.InputError(
          f'config.data.path: {other} holds classes but is no split; expected '
          f'train, val or test.{errors.nearest(other.name, _SPLITS)}')
  return splits


def _class_names(splits: dict[str, pathlib.Path]) -> tuple[str, ...]:
  """Returns the class names, which must be the same in every split."""
  names = {split: [f.name for f in _folders(folder)]
           for split, folder in splits.items()}
  for split, folder in splits.items():
    if not names[split]:
      loose = ', only loose files' if any(folder.iterdir()) else ''
      raise errors.InputError(
          f'config.data.path: {folder} has no class folders{loose}; expected '
          'one folder of images for each class.')
    differing = sorted(set(names[split]) ^ set(names['train']))
    if differing:
      here, there = ((split, 'train') if differing[0] in names[split]
                     else ('train', split))
      raise errors.InputError(
          f'config.data.path: class {differing[0]!r} of {splits[here]} is not '
          f'in {splits[there]}; every split must have the same classes.'
          f'{errors.nearest(differing[0], names[there])}')
  return tuple(names['train'])


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  files = sorted(f for f in folder.iterdir()
                 if f.suffix.lower() in images.ENDINGS and f.name[0] != '.')
  if not files:
    raise errors.InputError(
        f'config.data.path: class folder {folder} holds no image; expected '
        f'{", ".join(images.ENDINGS)} files directly in it.')
  return files


def _read(files, resize, crop, where: str) -> np.ndarray:
  """Decodes files in parallel: uint8 [N, H, W, C] in the order given."""
  def read(file):
    return images.fit(images.decode(file), resize, crop, str(file))

  # Pillow decodes outside Python's lock, so threads do run side by side.
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    try:
      return images.fit_all(pool.map(read, files), where=where)
    finally:
      pool.shutdown(cancel_futures=True)
