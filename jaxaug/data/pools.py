"""Pools on the disk: labelled synthetic images, and where each came from."""
import pathlib
import re

from jaxaug.core import errors, files
from jaxaug.data import images


def find(path) -> pathlib.Path:
  """Returns the folder of a finished pool: WORKDIR/pools/NAME[-HASH].

  Raises:
    InputError: there is no such pool, or several of that name.
  """
  path = pathlib.Path(path)
  if (path / 'pool.npz').is_file() and (path / 'manifest.json').is_file():
    return path
  there = sorted(f.parent for f in path.parent.glob('*/pool.npz')
                 if not f.parent.name.endswith('.partial'))
  named = [f for f in there
           if re.fullmatch(re.escape(path.name) + '-[0-9a-f]{12}', f.name)]
  if len(named) == 1:
    return named[0]
  if named:
    raise errors.InputError(
        f'{path}: several pools have this name; expected one of '
        f'{", ".join(f.name for f in named)}.')
  raise errors.InputError(
      f'{path}: is no finished pool; expected WORKDIR/pools/NAME-HASH.'
      f'{errors.nearest(path.name, [f.name[:-13] for f in there])}')


def read(path) -> tuple[dict, dict]:
  """Returns (arrays, manifest) of a pool; InputError if it is damaged."""
  folder = find(path)
  manifest = files.manifest(folder)
  arrays = files.load_npz(folder / 'pool.npz')
  if images.digest(arrays['images'], arrays['labels']) != manifest['digest']:
    raise errors.InputError(
        f'{folder}: pool.npz is not what was drawn; delete this folder and '
        'launch its study again.')
  return arrays, manifest
