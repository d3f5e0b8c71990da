"""A zip of images: in class folders, or with StyleGAN's and EDM's dataset.json.
"""
import functools
import pathlib
import threading
import unicodedata
import zipfile

from jaxaug.core import errors, types
from jaxaug.data import layout, reading

_WHERE = 'config.data.path'


def load(*, path: str, ignore: tuple = (), **how: reading.how) -> types.Dataset:
  """Reads the images of a zip file, which is not unpacked.

  Args:
    path: the file. With a dataset.json of {"labels": [[name, number], ...]} its
      labels count (and "class_names", if it has them); else the folders do, as
      in the source folder.
    ignore: patterns of names to leave out, such as '*.heic'.
    **how: see reading.how.

  Raises:
    InputError: no such file, a damaged one, no labels, or what a folder of
      these images would raise.
  """
  file = layout.file(path, _WHERE)
  where = f'{_WHERE}: {file}'
  every, read = _open(file)
  members, folders = {}, set()
  for info in every:
    parts = tuple(p for p in unicodedata.normalize(
        'NFC', info.filename).split('/') if p)
    if not parts or any(map(layout.litter, parts)) or layout.ignored(
        parts, ignore):
      continue
    folders |= {parts[:n] for n in range(1, len(parts))}
    if info.is_dir():
      folders.add(parts)
    elif parts in members:
      raise errors.InputError(
          f'{where}: holds {info.filename!r} twice; expected it once.')
    else:
      members[parts] = info
  table = next((p for p in members if p[-1] == layout.TABLE), None)
  described = table and layout.described(read(members.pop(table)), where)
  found = layout.tree(str(file), (
      (parts, functools.partial(read, info))
      for parts, info in members.items()), folders, _WHERE)
  if described:
    parts, names = layout.labelled(described, found, table[:-1], where)
  else:
    parts, names = layout.arrange(found, _WHERE), None
  return reading.dataset(
      pathlib.Path(file).stem, parts, reading.how(**how), where,
      class_names=names, ignored=found.ignored)


def _open(path):
  """Returns the members of a zip file and read(member) -> bytes.

  Nothing is unpacked; `read` serves any thread.
  """
  lock = threading.Lock()
  try:
    archive = zipfile.ZipFile(path)
  except (OSError, zipfile.BadZipFile) as e:
    raise errors.InputError(f'{_WHERE}: {path}: no zip file ({e}).') from None

  def read(info: zipfile.ZipInfo) -> bytes:
    try:
      with lock:
        return archive.read(info)
    except Exception as e:  # Damage, a password, an unknown packing.
      raise errors.InputError(
          f'{_WHERE}: {path}: {info.filename}: cannot be read ({e}).'
          ) from None
  return archive.infolist(), read
