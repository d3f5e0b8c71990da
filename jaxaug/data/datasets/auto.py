"""Whatever labelled images lie at a path: the other sources, told by its kind.
"""
import os
import pathlib

from jaxaug.core import errors, registry, types
from jaxaug.data import layout, reading

_WHERE = 'config.data.path'
_ENDINGS = {'.npz': 'npz', '.csv': 'csv', '.tsv': 'csv', '.jsonl': 'csv',
            '.ndjson': 'csv', '.parquet': 'parquet', '.tar': 'webdataset',
            '.zip': 'zip'}


def load(*, path: str, ignore: tuple = (), **how: reading.how) -> types.Dataset:
  """Reads a folder of images, an npz, a table, parquet, shards or a zip.

  A folder is read as a table of labels where one is in it or in its train/
  (metadata.csv, labels.csv), as parquet files or shards where it has these, and
  else by its class folders. What else a source takes, such as the names of
  arrays, is said to that source by its own name.

  Args:
    path: a folder or a file.
    ignore: patterns of names to leave out, of folders and zip files.
    **how: see reading.how.

  Raises:
    InputError: there is nothing, or nothing of these kinds; and what that
      source raises.
  """
  name = kind(path)
  source = registry.find('datasets', name)
  if not ignore:
    return source.load(path=path, **how)
  if 'ignore' not in registry.arguments(source.load):
    raise errors.InputError(
        f'config.data.ignore: the source {name}, which reads {path}, leaves '
        'nothing out; expected a folder or a zip file.')
  return source.load(path=path, ignore=ignore, **how)


def kind(path, where: str = _WHERE) -> str:
  """Returns the name of the source that reads what lies at a path.

  Raises:
    InputError: there is nothing, or nothing of these kinds.
  """
  root = pathlib.Path(os.path.expanduser(path))
  if root.is_dir() and str(path):
    for ending in ('parquet', 'tar'):
      found = root.rglob if ending == 'parquet' else root.glob
      if file := next(found(f'*.{ending}'), None):
        source = _ENDINGS[f'.{ending}']
        if image := next(layout.pictures(root), None):
          raise errors.InputError(
              f'{where}: {root} holds images ({image.relative_to(root)}) and '
              'also '
              f"{file.relative_to(root)}; expected the source 'folder' or "
              f'{source!r} in the place of auto, or one of the two.')
        return source
    return ('csv' if registry.find('datasets', 'csv').kept_in(root) else
            'folder')
  if not str(path):
    raise errors.InputError(f"{where}: ''; expected where the images lie.")
  file = layout.file(path, where)
  if file.suffix.lower() not in _ENDINGS:
    raise errors.InputError(
        f'{where}: {file} is no file of labelled images; expected a folder, or '
        f'one of {", ".join(_ENDINGS)}.')
  return _ENDINGS[file.suffix.lower()]
