"""Image files in folders: DIR/{train,val,test}/CLASS/* or DIR/CLASS/*."""
import collections
import pathlib

import numpy as np

from jaxaug.core import errors, types
from jaxaug.data import reading

_WHERE = 'config.data.path'
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
      every split, images beside the class folders, a file that cannot be used,
      or images that differ in size.
  """
  root = reading.folder(path, _WHERE)
  splits = _find_splits(root)
  found = {split: reading.find(folder, _WHERE)
           for split, folder in splits.items()}
  _check_names(splits, {k: part.class_names for k, part in found.items()})
  files = [file for part in found.values() for file in part.files]
  shape = reading.shape(files, resize, crop, where=str(root))
  pixels = reading.pixels(files, shape, resize, crop)
  parts, start = {}, 0
  for split, part in found.items():
    stop = start + len(part.files)
    parts[split] = types.Split(pixels[start:stop], part.labels,
                               np.arange(stop - start))
    start = stop
  return types.Dataset(root.absolute().name, found['train'].class_names,
                       **parts)


def _find_splits(root: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns the folder of each split: {'train': root} if there are none."""
  found = collections.defaultdict(list)
  for folder in reading.folders(root):
    found[_SPLITS.get(folder.name, '')].append(folder)
  others = found.pop('', [])
  if not found:
    return {'train': root}
  if 'train' not in found:
    raise errors.InputError(
        f'{_WHERE}: {root} has {next(iter(found.values()))[0].name}/ but no '
        'train/; expected DIR/{train,val,test}/CLASS or DIR/CLASS.')
  if len(found['validation']) > 1:
    raise errors.InputError(
        f'{_WHERE}: {root} has several validation folders: '
        f'{", ".join(f.name for f in found["validation"])}; keep one.')
  splits = {split: found[split][0] for split in ('train', 'validation', 'test')
            if found[split]}
  # A misspelt split would otherwise vanish without a word.
  classes = {f.name for f in reading.folders(splits['train'])}
  for other in others:
    if classes & {f.name for f in reading.folders(other)}:
      raise errors.InputError(
          f'{_WHERE}: {other} holds classes but is no split; expected train, '
          f'val or test.{errors.nearest(other.name, _SPLITS)}')
  return splits


def _check_names(splits: dict[str, pathlib.Path],
                 names: dict[str, tuple[str, ...]]):
  """Raises InputError unless every split has the same classes."""
  for split in splits:
    differing = sorted(set(names[split]) ^ set(names['train']))
    if differing:
      here, there = ((split, 'train') if differing[0] in names[split]
                     else ('train', split))
      raise errors.InputError(
          f'{_WHERE}: class {differing[0]!r} of {splits[here]} is not in '
          f'{splits[there]}; every split must have the same classes.'
          f'{errors.nearest(differing[0], names[there])}')
