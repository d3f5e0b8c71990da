"""Which images lie below a folder or in an archive: their classes and splits.

As people lay them out: CLASS/..., {train,val,test}/CLASS/..., or CLASS/{train,
val,test}/..., under the names that these splits usually have, at any depth, and
all of it in one more folder, as archives are unpacked.
"""
import collections
import fnmatch
import json
import os
import pathlib
import re
import typing
import unicodedata

from jaxaug.core import errors
from jaxaug.data import images

SPLITS = {
    'train': 'train', 'training': 'train', 'val': 'validation',
    'valid': 'validation', 'validation': 'validation', 'dev': 'validation',
    'test': 'test', 'testing': 'test'}
# What StyleGAN and EDM keep labels in.
TABLE = 'dataset.json'
# What systems and notebooks leave behind; nobody misses it.
_LITTER = ('__macosx', 'thumbs.db', 'desktop.ini', '$recycle.bin')
# Images that are not read. That of a file is an error: it would be missed.
_UNREAD = (
    '.avif', '.arw', '.cr2', '.cr3', '.dcm', '.dng', '.eps', '.exr', '.hdr',
    '.heic', '.heif', '.ico', '.j2k', '.jp2', '.jpe', '.jxl', '.nef', '.nii',
    '.orf', '.pbm', '.pcx', '.pic', '.psd', '.raw', '.rw2', '.svg', '.tga')


class Entry(typing.NamedTuple):
  """An image file.

  parts: of its name below the root, in NFC. file: its path, or a function that
  returns its bytes.
  """
  parts: tuple[str, ...]
  file: typing.Any

  @property
  def name(self) -> str:
    """What it is called, for people."""
    return '/'.join(self.parts)


class Tree(typing.NamedTuple):
  """What lies below a root.

  root: what the user calls it. entries: the images, in order of their names.
  folders: the parts of every folder. ignored: how many other files there are of
  each ending.
  """
  root: str
  entries: list[Entry]
  folders: set[tuple[str, ...]]
  ignored: dict[str, int]


class Listing(typing.NamedTuple):
  """The images of a split, unread; rows belong together.

  names: for people. files: paths, or functions that return bytes. labels: names
  or numbers of their classes; None where nobody says.
  """
  names: list[str]
  files: list
  labels: list | None


def walk(root: pathlib.Path, where: str, ignore=()) -> Tree:
  """Lists the files below a folder; links are followed.

  Args:
    root: the folder; it is there.
    where: what the user called it by.
    ignore: patterns, such as '*.heic', of names of files and folders, or of
      their paths below the root, that are left out.

  Raises:
    InputError: a folder that is reached twice, such as by a loop of links, or
      images of kinds that are not read.
  """
  found = {}
  folders = _walk(root, (), where, ignore, found, {})
  return tree(str(root), found.items(), folders, where)


def _walk(folder, parts, where, ignore, found: dict, seen: dict) -> set:
  """Puts the files below `folder` into `found`; returns all folders."""
  about = folder.stat()
  if (about.st_dev, about.st_ino) in seen:
    raise errors.InputError(
        f'{where}: {folder} is the same folder as '
        f'{seen[about.st_dev, about.st_ino]}; expected each once: remove the '
        'link.')
  seen[about.st_dev, about.st_ino] = folder
  folders = {parts} if parts else set()
  for each in sorted(folder.iterdir()):
    inner = (*parts, unicodedata.normalize('NFC', each.name))
    if litter(each.name) or ignored(inner, ignore):
      continue
    if inner in found or inner in folders:
      raise errors.InputError(
          f'{where}: {folder} holds {inner[-1]!r} twice, written in two ways '
          'of Unicode; expected one of them, or another name.')
    if each.is_dir():
      folders |= _walk(each, inner, where, ignore, found, seen)
    else:
      found[inner] = each
  return folders


def pictures(root: pathlib.Path):
  """Yields the image files below a folder, but for what systems leave behind.
  """
  for each in root.rglob('*'):
    if each.suffix.lower() in images.ENDINGS and not any(
        map(litter, each.relative_to(root).parts)):
      yield each


def litter(name: str) -> bool:
  """Whether a name is one of those that systems leave behind."""
  return name.startswith('.') or name.casefold() in _LITTER


def ignored(parts: tuple[str, ...], patterns) -> bool:
  """Whether a pattern is of a file, or of a folder that it lies in."""
  whole = ['/'.join(parts[:n]) for n in range(1, len(parts) + 1)]
  return any(fnmatch.fnmatchcase(name.casefold(), pattern.casefold())
             for pattern in patterns for name in (*parts, *whole))


def tree(root: str, found, folders, where: str) -> Tree:
  """Sorts files by what they are.

  Args:
    root: what the user calls the place.
    found: pairs of (parts, file) of all files.
    folders: the parts of every folder.
    where: what the user called it by, for errors.

  Raises:
    InputError: there are images of kinds that are not read.
  """
  entries, other, unread = [], collections.Counter(), collections.Counter()
  first = ''
  for parts, file in sorted(found, key=lambda pair: pair[0]):
    ending = os.path.splitext(parts[-1])[1].lower()
    if ending in images.ENDINGS:
      entries.append(Entry(parts, file))
    elif ending in _UNREAD:
      unread[ending] += 1
      first = first or '/'.join(parts)
    else:
      other[ending or 'without ending'] += 1
  if unread:
    raise errors.InputError(
        f'{where}: {root} holds {unread.total()} images of kinds that are not '
        f'read: {counted(unread)} (the first: {first}); convert them, or leave '
        'them out: config.data.ignore=' + repr(tuple(
            f'*{ending}' for ending in sorted(unread))) + '.')
  return Tree(root, entries, set(folders), dict(other))


def described(data: bytes, where: str) -> dict | None:
  """Returns what a dataset.json says; None where it is not StyleGAN's.

  Raises:
    InputError: it is damaged, or says that nothing has a label.
  """
  try:
    value = json.loads(data)
    if 'labels' not in value:
      return None
    labels = value['labels']
    if not labels:
      raise ValueError('it has no labels, as those of sets without classes')
    for name, label in labels:
      if not isinstance(name, str) or isinstance(label, bool) or not (
          isinstance(label, int) and label >= 0):
        raise ValueError('its labels are not [name, number from 0]')
    if not isinstance(value.get('class_names') or [], list):
      raise ValueError('its class_names are no list')
  except (ValueError, TypeError, AttributeError) as e:
    raise errors.InputError(f'{where}: {TABLE}: {e}; expected '
                            '{"labels": [[name, number], ...]}.') from None
  return value


def labelled(about: dict, found: Tree, base, where: str):
  """Returns the images in the order of dataset.json, and the class names.

  Args:
    about: of `described`.
    found: the images.
    base: the parts of the folder that dataset.json lies in.
    where: what the user called it by, and its path.
  """
  files = {e.parts[len(base):]: e for e in found.entries}
  listing = Listing([], [], [])
  for name, label in about['labels']:
    entry = files.pop(tuple(unicodedata.normalize('NFC', name).split('/')),
                      None)
    if entry is None:
      raise errors.InputError(
          f'{where}: {TABLE} names {name!r}, which is not there, or twice.')
    listing.names.append(entry.name)
    listing.files.append(entry.file)
    listing.labels.append(label)
  if files:
    first = next(iter(files.values()))
    raise errors.InputError(
        f'{where}: {len(files)} images stand in no row of {TABLE} (the first: '
        f'{first.name}); expected a label for each.')
  names = about.get('class_names')
  return {'train': listing}, None if names is None else tuple(map(str, names))


def counted(counts: dict) -> str:
  """Returns '20 .txt, 1 .csv' of a count by name, the most first."""
  most = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
  return ', '.join(f'{n} {name}' for name, n in most)


def folder(path, where: str) -> pathlib.Path:
  """Returns a folder, `~` expanded; InputError where there is none."""
  root = pathlib.Path(os.path.expanduser(path))
  if not str(path) or not root.is_dir():
    near = ([f.name for f in root.parent.iterdir() if f.is_dir()]
            if root.parent.is_dir() else ())
    raise errors.InputError(
        f'{where}: there is no folder {str(path)!r}.'
        f'{errors.nearest(root.name, near)}')
  return root


def file(path, where: str) -> pathlib.Path:
  """Returns a file, `~` expanded; InputError where there is none."""
  found = pathlib.Path(os.path.expanduser(path))
  if not str(path) or not found.is_file():
    near = ([f.name for f in found.parent.iterdir()]
            if found.parent.is_dir() else ())
    raise errors.InputError(
        f'{where}: there is no file {str(path)!r}.'
        f'{errors.nearest(found.name, near)}')
  return found


def shards(path, ending: str, where: str) -> dict[str, list[pathlib.Path]]:
  """Returns the files of each split, told by their names, 'train' first.

  Args:
    path: a file, all of it 'train', or a folder of files such as
      train-00000-of-00003.parquet at any depth; 'train' too without such names.
    ending: of the files.
    where: what the user called it by.

  Raises:
    InputError: there is none, some are named after no split while others are,
      or none is of train.
  """
  root = pathlib.Path(os.path.expanduser(path))
  if not str(path) or not root.is_dir():
    return {'train': [file(path, where)]}
  splits, sets = collections.defaultdict(list), {}
  for each in sorted(root.rglob(f'*{ending}')):
    inner = each.relative_to(root).parts
    if not any(map(litter, inner)):
      stem = re.sub('([-_.]?[0-9]+(-of-[0-9]+)?(-[0-9a-f]+)?)$', '', each.stem)
      split = split_of(stem) or (split_of(inner[-2]) if inner[1:] else None)
      splits[split].append(each)
      # data/train-0.parquet, NAME/train/0.parquet: the folder of the set.
      sets[inner[:-1] if not inner[1:] or not split_of(inner[-2])
           else inner[:-2]] = each
  if not splits:
    raise errors.InputError(f'{where}: {root} holds no {ending} file.')
  if len(sets) > 1:
    raise errors.InputError(
        f'{where}: {root} holds {ending} files of several sets: '
        f'{", ".join("/".join(s) + "/" for s in sorted(sets)[:5])}; expected '
        'one of these folders.')
  if None in splits and len(splits) > 1:
    raise errors.InputError(
        f'{where}: {root}: {splits[None][0].name} is named after no split, but '
        'others are; expected train, val or test in every name.')
  splits = {split or 'train': files for split, files in splits.items()}
  if 'train' not in splits:
    raise errors.InputError(f'{where}: {root} has files of '
                            f'{", ".join(splits)} and none of train.')
  return {s: splits[s] for s in ('train', 'validation', 'test') if s in splits}


def arrange(found: Tree, where: str, flat: bool = False) -> dict[str, Listing]:
  """Tells classes and splits by the folders that images lie in.

  Args:
    found: what there is.
    where: what the user called it by.
    flat: whether the images may also lie beside each other, without classes.

  Returns:
    Split -> its images, those of a class together, sorted; 'train' alone where
    there are no split folders. Labels are the names of the class folders.

  Raises:
    InputError: no classes, one without images, images beside the classes, or
      folders that are neither classes nor splits.
  """
  if flat and found.entries and all(len(e.parts) == 1 for e in found.entries):
    return {'train': _listing(found.entries, None)}
  if not found.entries:
    raise _nothing(found, where, flat)
  base = _top(found.entries)
  return {split: _classes(found, of, where)
          for split, of in _splits(found, base, where).items()}


def _nothing(found: Tree, where: str, flat: bool) -> errors.InputError:
  """Says that there is no image."""
  endings = ', '.join(images.ENDINGS)
  if flat:
    return errors.InputError(
        f'{where}: {found.root} holds no image; expected {endings} files in it '
        'or in one folder for each class.')
  only = (f', only other files ({counted(found.ignored)})' if found.ignored
          else '')
  if found.folders:
    first = '/'.join(sorted(found.folders)[0])
    return errors.InputError(
        f'{where}: class folder {found.root}/{first} holds no image{only}; '
        f'expected {endings} files in it.')
  return errors.InputError(
      f'{where}: {found.root} has no class folders{only}; expected one folder '
      'of images for each class.')


def _listing(entries, labels) -> Listing:
  return Listing([e.name for e in entries], [e.file for e in entries], labels)


def _top(entries: list[Entry]) -> tuple[str, ...]:
  """Returns the folders that hold all else, one in the other; () for none."""
  base = ()
  while True:
    below = [e.parts[len(base):] for e in entries]
    first, least = below[0][0], min(map(len, below))
    if least < 3 or split_of(first) or any(p[0] != first for p in below):
      return base
    inner = {p[1] for p in below}
    if len(inner) == 1 and least < 4 and not split_of(*inner):
      return base  # One class, in a folder of which the images lie.
    base += first,


def split_of(name: str) -> str | None:
  """Returns the split that a folder is called after: Training, seg_test, ..."""
  words = re.findall('[a-z]+', name.casefold())
  named = {SPLITS[word] for word in (words[:1] + words[-1:]) if word in SPLITS}
  return named.pop() if len(named) == 1 else None


class _Part(typing.NamedTuple):
  """Where the classes of a split lie: below folders of these parts."""
  roots: list[tuple[str, ...]]
  entries: list[tuple[tuple[str, ...], Entry]]  # With parts from the class on.


def _splits(found: Tree, base, where: str) -> dict[str, _Part]:
  """Finds the folders of the splits, or takes all for 'train'."""
  start = len(base)
  tops = collections.defaultdict(list)
  for entry in found.entries:
    if len(entry.parts) > start + 1:
      tops[entry.parts[start]].append(entry)
  named = collections.defaultdict(list)
  for top, entries in tops.items():
    deep = any(len(e.parts) > start + 2 for e in entries)
    named[split_of(top) if deep else None].append(top)
  # Those beside them have no class folders: they are classes, or unlabelled.
  others = named.pop(None, [])
  if not named and len({split_of(top) for top in others} - {None}) == len(
      others) > 1:
    raise errors.InputError(
        f'{where}: {found.root} has {", ".join(f"{top}/" for top in others)} '
        'of images without class folders; expected DIR/{train,val,test}/CLASS, '
        'or a table of labels in each, see the source csv.')
  if 'train' not in named:
    inner = _inner(found, base)
    if inner:
      return inner
    if named and not others:
      raise errors.InputError(
          f'{where}: {found.root} has {next(iter(named.values()))[0]}/ but no '
          'train/; expected DIR/{train,val,test}/CLASS or DIR/CLASS.')
    return {'train': _part(found.entries, [base])}
  for split, folders in named.items():
    if len(folders) > 1:
      raise errors.InputError(
          f'{where}: {found.root} has several {split} folders: '
          f'{", ".join(folders)}; keep one, or leave the others out by '
          'config.data.ignore.')
  _check_others(found, base, named, others, where)
  order = [split for split in ('train', 'validation', 'test') if split in named]
  return {split: _part(
      tops[named[split][0]], [_below(tops, base, named[split][0])])
          for split in order}


def _below(tops, base, top: str) -> tuple[str, ...]:
  """Returns where the classes of a split folder begin: seg_train/seg_train."""
  cut = len(base) + 1
  inner = [Entry(e.parts[cut:], e.file) for e in tops[top]]
  if all(len(e.parts) > 2 for e in inner) and split_of(inner[0].parts[0]):
    first = {e.parts[0] for e in inner}
    if len(first) == 1:
      return (*base, top, *first)
  return (*base, top)


def _part(entries, roots) -> _Part:
  cut = len(roots[0])
  return _Part(roots, [(e.parts[cut:], e) for e in entries])


def _inner(found: Tree, base) -> dict[str, _Part] | None:
  """Returns CLASS/SPLIT as splits, where every class has a train folder."""
  start, parts = len(base), collections.defaultdict(list)
  classes, trained = set(), set()
  for entry in found.entries:
    rest = entry.parts[start:]
    split = split_of(rest[1]) if len(rest) > 2 else None
    if split is None:
      return None
    classes.add(rest[0])
    if split == 'train':
      trained.add(rest[0])
    parts[split].append(((rest[0], *rest[2:]), entry))
  if classes != trained:
    return None
  return {split: _Part([], parts[split])
          for split in ('train', 'validation', 'test') if split in parts}


def _check_others(found, base, named, others, where):
  """Refuses folders of images beside split folders: they would vanish."""
  start = len(base)
  classes = {e.parts[start + 1] for e in found.entries
             if e.parts[start] == named['train'][0]}
  loose = [e.name for e in found.entries if len(e.parts) == start + 1]
  if loose:
    raise errors.InputError(
        f'{where}: {found.root} holds images ({loose[0]}) and also folders of '
        f'images ({named["train"][0]}/); expected one of the two.')
  for top in others:
    inside = {e.parts[start + 1] for e in found.entries
              if e.parts[start] == top}
    if classes & inside:
      raise errors.InputError(
          f'{where}: {found.root}/{top} holds classes but is no split, as '
          f'{named["train"][0]}/ is by its name; expected train, val or test, '
          f'or classes of other names.{errors.nearest(top, SPLITS)}')
    kind = split_of(top)
    what = (f'is a {kind} folder without class folders' if kind else
            f'lies beside {named["train"][0]}/, but is no split')
    raise errors.InputError(
        f'{where}: {found.root}/{top} {what}, and holds {len(inside)} images '
        f'or folders; leave it out by config.data.ignore={(top,)!r}, or, if '
        f'{named["train"][0]} is a class like it, give that another name.')
  # A split folder without a single image.
  for folder in found.folders:
    if (len(folder) == start + 1 and folder[:start] == base
        and split_of(folder[-1]) and not any(
            e.parts[:start + 1] == folder for e in found.entries)):
      raise errors.InputError(
          f'{where}: {found.root}/{"/".join(folder)} holds no image; expected '
          'one folder of images for each class, or no such folder.')


def _classes(found: Tree, part: _Part, where: str) -> Listing:
  """Returns the images of a split, by class."""
  loose = [entry for parts, entry in part.entries if len(parts) == 1]
  deep = [(parts, entry) for parts, entry in part.entries if len(parts) > 1]
  if loose and deep:
    raise errors.InputError(
        f'{where}: {found.root} holds images ({loose[0].name}) and also '
        f'folders of images ({deep[0][0][0]}/); expected one of the two.')
  if loose:
    raise errors.InputError(
        f'{where}: {found.root} has no class folders, only loose files '
        f'({loose[0].name}, ...); expected one folder of images for each '
        "class, or a table of labels (config.data.source='csv').")
  classes = {parts[0] for parts, _ in deep}
  for root in part.roots:
    for folder in sorted(found.folders):
      if (len(folder) == len(root) + 1 and folder[:-1] == root
          and folder[-1] not in classes):
        raise errors.InputError(
            f'{where}: class folder {found.root}/{"/".join(folder)} holds no '
            f'image; expected {", ".join(images.ENDINGS)} files in it. If it '
            'is no class, leave it out by config.data.ignore='
            f'{(folder[-1],)!r}.')
  deep.sort(key=lambda pair: pair[0])
  return _listing([entry for _, entry in deep], [parts[0] for parts, _ in deep])
