"""Pools on the disk: labelled synthetic images, and where each came from."""
import pathlib
import re
import typing

import numpy as np

from jaxaug.core import errors, files

# What the folder of a study's pools is called, and what it was called before.
PARENTS = ('pool', 'pools')


class Pool(typing.NamedTuple):
  """A pool; rows belong together.

  images: uint8 [N, H, W, C].
  labels: int32 [N], the classes asked for.
  batch, row: int32 [N], which batch of the draw an image is of, and its place
    in it.
  origin: int32 [N], the training image that it was made from; -1 for noise
    alone.
  manifest: what the draw wrote of itself: 'class_names', 'generator', 'seed',
    'digest' of images and labels, and more.
  """
  images: np.ndarray
  labels: np.ndarray
  batch: np.ndarray
  row: np.ndarray
  origin: np.ndarray
  manifest: dict


def find(path) -> pathlib.Path:
  """Returns the folder of a finished pool: WORKDIR/pool/NAME[-HASH].

  Raises:
    InputError: there is no such pool, or several of that name.
  """
  path = pathlib.Path(path)
  if _is_pool(path):
    return path
  parents = [path.parent]
  if path.parent.name in PARENTS:
    parents = [path.parent.with_name(name) for name in PARENTS]
  there = sorted(f.parent for parent in parents
                 for f in parent.glob('*/pool.npz') if _is_pool(f.parent))
  named = [f for f in there if re.fullmatch(
      re.escape(path.name) + '(-[0-9a-f]{12})?', f.name)]
  if len(named) == 1:
    return named[0]
  if named:
    raise errors.InputError(
        f'{path}: several pools have this name; expected one of '
        f'{", ".join(f.name for f in named)}.')
  raise errors.InputError(
      f'{path}: is no finished pool; expected WORKDIR/pool/NAME-HASH.'
      f'{errors.nearest(path.name, [f.name[:-13] for f in there])}')


def _is_pool(folder: pathlib.Path) -> bool:
  return folder.suffix != '.partial' and all(
      (folder / name).is_file() for name in ('pool.npz', 'manifest.json'))


def read(path) -> Pool:
  """Returns a pool by its folder or name; InputError if it is damaged."""
  folder = find(path)
  manifest = files.manifest(folder)
  arrays = files.load_npz(folder / 'pool.npz')
  try:
    # Those of a version that knew noise alone do not say so.
    arrays.setdefault('origin', np.full(len(arrays['labels']), -1, np.int32))
    return Pool(*(arrays[key] for key in Pool._fields[:-1]), manifest)
  except KeyError as e:
    raise errors.InputError(
        f'{folder}: has no {e}; expected a pool of this version.') from None
