"""A zip of images: in class folders, or with StyleGAN's and EDM's dataset.json.
"""
import functools
import json
import pathlib
import threading
import unicodedata
import zipfile

from jaxaug.core import errors, types
from jaxaug.data import layout, reading

_WHERE = 'config.data.path'
_TABLE = 'dataset.json'


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
    else:
      members[parts] = info
  table = next((p for p in members if p[-1] == _TABLE), None)
  described = table and _described(read(members.pop(table)), where)
  found = layout.tree(str(file), (
      (parts, functools.partial(read, info))
      for parts, info in members.items()), folders, _WHERE)
  if described and described.get('labels'):
    parts, names = _labelled(described, found, table[:-1], where)
  else:
    parts, names = layout.arrange(found, _WHERE), None
  return reading.dataset(
      pathlib.Path(file).stem, parts, reading.how(**how), where,
      class_names=names, ignored=found.ignored)


def _described(data: bytes, where: str) -> dict:
  try:
    value = json.loads(data)
    labels = value.get('labels') or []
    for name, label in labels:
      if not isinstance(name, str) or isinstance(label, bool) or not (
          isinstance(label, int)):
        raise ValueError('its labels are not [name, number]')
  except (ValueError, TypeError, AttributeError) as e:
    raise errors.InputError(f'{where}: {_TABLE}: {e}; expected '
                            '{"labels": [[name, number], ...]}.') from None
  return value


def _labelled(described: dict, found: layout.Tree, base, where: str):
  """Returns the images in the order of dataset.json, and the class names."""
  files = {e.parts[len(base):]: e for e in found.entries}
  listing = layout.Listing([], [], [])
  for name, label in described['labels']:
    entry = files.pop(tuple(unicodedata.normalize('NFC', name).split('/')),
                      None)
    if entry is None:
      raise errors.InputError(
          f'{where}: {_TABLE} names {name!r}, which is not there, or twice.')
    listing.names.append(entry.name)
    listing.files.append(entry.file)
    listing.labels.append(label)
  if files:
    first = next(iter(files.values()))
    raise errors.InputError(
        f'{where}: {len(files)} images stand in no row of {_TABLE} (the first: '
        f'{first.name}); expected a label for each.')
  names = described.get('class_names')
  return {'train': listing}, None if names is None else tuple(map(str, names))


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
