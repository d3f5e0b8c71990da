"""WebDataset shards: tar files whose members are images and their labels."""
import functools
import json
import os
import pathlib
import re
import tarfile
import threading

from jaxaug.core import errors, types
from jaxaug.data import images, layout, reading

_WHERE = 'config.data.path'


def load(*, path: str, **how: reading.how) -> types.Dataset:
  """Reads tar files in which KEY.png or .jpg stands beside KEY.cls or .json.

  Args:
    path: a .tar file, or a folder of them, each named after its split
      (train-000000.tar); without split names all is 'train'. A label is the
      number or name in .cls, or 'label' (or 'cls', 'class') of .json; names of
      numbers are 'class' of .json, or the lines of classnames.txt beside the
      shards.
    **how: see reading.how.

  Raises:
    InputError: no such file, a damaged one, an image without a label or with
      two, or images that cannot be used or differ in size.
  """
  root = pathlib.Path(os.path.expanduser(path))
  parts, names, ignored = {}, {}, {}
  for split, shards in layout.shards(path, '.tar', _WHERE).items():
    listing = layout.Listing([], [], [])
    for shard in shards:
      _read(shard, listing, names, ignored)
    if not listing.files:
      raise errors.InputError(f'{_WHERE}: {shards[0]} holds no image; expected '
                              'KEY.png or KEY.jpg beside KEY.cls.')
    parts[split] = listing
  return reading.dataset(
      root.absolute().name.removesuffix('.tar'), parts, reading.how(**how),
      f'{_WHERE}: {path}', class_names=_names(root, names, parts),
      ignored=ignored)


def _read(shard, listing, names: dict, ignored: dict):
  """Adds the samples of a shard, in its order."""
  members, read = _open(shard)
  said, pictures = {}, []
  for member in members:
    base = os.path.basename(member.name)
    if not member.isfile() or layout.litter(base):
      continue
    # WebDataset: the key ends at the first dot of the file's name.
    key = member.name[:len(member.name) - len(base)] + base.partition('.')[0]
    ending = '.' + base.partition('.')[2].lower()
    if ending in images.ENDINGS:
      pictures.append((key, member))
    elif ending in ('.cls', '.json'):
      _label(read(member), ending, f'{shard.name}: {member.name}',
             said.setdefault(key, {}))
    else:
      ignored[ending] = ignored.get(ending, 0) + 1
  keys = [key for key, _ in pictures]
  for key in {key for key in keys if keys.count(key) > 1} if len(
      set(keys)) < len(keys) else ():
    raise errors.InputError(
        f'{_WHERE}: {shard}: two images have the key {key!r}; expected one.')
  for key, member in pictures:
    number, name = (said.get(key, {}).get(k) for k in ('number', 'name'))
    if number is None and name is None:
      raise errors.InputError(
          f'{_WHERE}: {shard}: image {member.name} has no label; expected '
          f'{key}.cls, or {key}.json with "label".')
    if number is not None and name is not None and (
        names.setdefault(number, name) != name):
      raise errors.InputError(
          f'{_WHERE}: {shard}: {member.name}: label {number} is class {name!r},'
          f' and {names[number]!r} before; expected one name a number.')
    listing.names.append(f'{shard.name}: {member.name}')
    listing.files.append(functools.partial(read, member))
    listing.labels.append(name if number is None else number)


def _label(data: bytes, ending: str, where: str, said: dict):
  """Notes what a member says of its key: the class's 'number', its 'name'."""
  try:
    text = data.decode('utf-8-sig').strip()
    if ending == '.json':
      value = json.loads(text)
      found = [value.get(k) for k in ('label', 'cls', 'class', 'class_name')]
    else:
      found = [text]
  except (ValueError, AttributeError):
    raise errors.InputError(
        f'{_WHERE}: {where}: no text, or no JSON object; expected a label.'
        ) from None
  for each in found:
    if each is None or each == '':
      continue
    if isinstance(each, (list, dict)):
      raise errors.InputError(f'{_WHERE}: {where}: label {each!r}; expected a '
                              'number or a name.')
    if isinstance(each, float) and each.is_integer():
      each = int(each)
    kind, value = (('number', int(each))
                   if re.fullmatch('[0-9]{1,9}', str(each)) else
                   ('name', str(each)))
    if said.setdefault(kind, value) != value:
      raise errors.InputError(
          f'{_WHERE}: {where}: label {value!r}, but {said[kind]!r} elsewhere '
          'for that key; expected the same.')


def _names(root, names: dict, parts) -> tuple[str, ...] | None:
  """Returns the class names in the order of the numbers, or None."""
  numbers = [label for p in parts.values() for label in p.labels]
  if not all(isinstance(n, int) for n in numbers):
    return None
  beside = (root if root.is_dir() else root.parent) / 'classnames.txt'
  if beside.is_file():
    return tuple(line.strip() for line in beside.read_text(
        encoding='utf-8').splitlines() if line.strip())
  if set(names) >= set(numbers) == set(range(len(set(numbers)))):
    return tuple(names[i] for i in range(len(set(numbers))))
  return None


def _open(path):
  """Returns the members of a tar file, in order, and read(member) -> bytes.

  Nothing is unpacked; `read` serves any thread.
  """
  lock = threading.Lock()
  try:
    tar = tarfile.open(path)
    members = tar.getmembers()
  except (OSError, tarfile.TarError, EOFError) as e:
    raise errors.InputError(
        f'{_WHERE}: {path}: damaged, or no tar file ({e}).') from None

  def read(member: tarfile.TarInfo) -> bytes:
    try:
      with lock:
        return tar.extractfile(member).read()
    except (OSError, tarfile.TarError, EOFError, AttributeError) as e:
      raise errors.InputError(
          f'{_WHERE}: {path}: {member.name}: damaged ({e}).') from None
  return members, read
