"""Image files with labels, as people bring them: checked, and read when asked.

Studies, pools and `evaluate` read through this. `where` is in all errors what
the user called the set by: the key of a config, or an argument of the command.
"""
import collections
import concurrent.futures
import os
import pathlib
import typing

import numpy as np

from jaxaug.core import errors, types
from jaxaug.data import arrays, images, layout


class How(typing.NamedTuple):
  """How image files become arrays: see `how`."""
  resize: int | tuple | None = None
  crop: int | str | tuple | None = None
  alpha: str = 'refuse'
  depth: str = 'refuse'


def how(*, resize: int | tuple | None = None,
        crop: int | str | tuple | None = None, alpha: str = 'refuse',
        depth: str = 'refuse') -> How:
  """Returns how images are read, checked; what every source of files takes.

  Args:
    resize, crop: as in images.fit; needed if the images differ in size.
    alpha: what becomes of images with transparent parts: 'refuse', 'white' or
      'black' behind them, or 'drop', their colours as they stand there.
    depth: of images of 16 bits a channel: 'refuse', or 'scale', their higher 8.

  Raises:
    InputError: another word.
  """
  errors.one_of('config.data.alpha', alpha, images.ALPHAS)
  errors.one_of('config.data.depth', depth, images.DEPTHS)
  return How(resize, crop, alpha, depth)


class Files:
  """Image files that look like an array uint8 [N, H, W, C].

  Places in brackets, a slice or an array, decode those images; `take` names
  some of them, and reads nothing.
  """
  dtype, ndim = np.dtype(np.uint8), 4

  def __init__(self, names, files, size: tuple[int, int, int], how: How):
    self.names, self.files, self.size, self.how = names, files, size, how

  @property
  def shape(self) -> tuple[int, int, int, int]:
    """As of an array."""
    return (len(self.files), *self.size)

  def __len__(self) -> int:
    return len(self.files)

  def take(self, rows) -> 'Files':
    """Returns the images at some places, unread."""
    return Files([self.names[i] for i in rows], [self.files[i] for i in rows],
                 self.size, self.how)

  def encoded(self):
    """Yields the bytes of the files, one after the other."""
    for each in self.files:
      yield each() if callable(each) else pathlib.Path(each).read_bytes()

  def __getitem__(self, rows) -> np.ndarray:
    if np.ndim(rows) == 0 and not isinstance(rows, slice):
      return self._one(rows)
    every = np.arange(len(self))[rows]
    out = np.empty((len(every), *self.size), np.uint8)
    for row, image in zip(out, _each(self._one, every), strict=True):
      row[:] = image
    return out

  def _one(self, i) -> np.ndarray:
    """Decodes one; InputError for what is damaged, or not as its header said.
    """
    name, how = _called(self.names[i], self.files[i]), self.how
    image = images.fit(
        images.decode(_opened(self.files[i]), how.alpha, how.depth, name),
        how.resize, how.crop, name)
    if image.shape[:2] != self.size[:2] or image.shape[2] not in (
        1, self.size[2]):
      raise errors.InputError(
          f'{name}: is {list(image.shape)}, but its header said '
          f'{list(self.size)}; expected a file that nobody changes, without '
          'metadata behind its pixels.')
    return image

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    images.check_size(len(self), self.size, self.names[0] if self.names else '')
    return self[:]


def _called(name: str, file) -> str:
  """Returns what errors call a file: its path, if it has one."""
  return name if callable(file) else str(file)


def _opened(file):
  """Returns a path, or the bytes of what is no file of its own."""
  return file() if callable(file) else file


def _each(function, values):
  """Yields function(value) in order; Pillow decodes outside Python's lock."""
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    try:
      yield from pool.map(function, values)
    finally:
      pool.shutdown(cancel_futures=True)


def dataset(name: str, parts: dict[str, layout.Listing], how: How, where: str,
            *, class_names=None, ignored=None, notes=(),
            mend: str = 'set config.data.resize, or config.data.crop',
            same_classes: bool = True) -> types.Dataset:
  """Returns a set of image files; their headers are read, not their pixels.

  Grey images among RGB ones become RGB.

  Args:
    name: what it is called.
    parts: split -> its images; 'train' is there.
    how: they are read.
    where: what the user called it by, and where it lies.
    class_names: in the order of the labels, where these are numbers; None takes
      the sorted labels.
    ignored: files that were left out, by their ending.
    notes: what else is worth a word.
    mend: what gives the images one size, for the error.
    same_classes: whether every split must have images of the same classes.

  Raises:
    InputError: files that cannot be used, all of them in one line; images that
      differ in size; or a class that only some of the splits have.
  """
  listed = [*parts.values()]
  looks = _looks([n for p in listed for n in p.names],
                 [f for p in listed for f in p.files], how, where)
  sizes, modes, channels = collections.Counter(), collections.Counter(), 1
  fitted = collections.Counter()
  for (height, width, c, mode, *_), each in zip(
      looks, (_called(*pair) for p in listed
              for pair in zip(p.names, p.files, strict=True)), strict=True):
    sizes[f'{height}x{width}'] += 1
    modes[mode] += 1
    fitted[images.fitted((height, width), how.resize, how.crop, each)] += 1
    channels = max(channels, c)
  notes = list(notes)
  grey = sum(look[2] == 1 for look in looks)
  if channels == 3 and grey:
    notes.append(f'{grey} grey images made colour, as the others are')
  size = (*images.one_size(fitted, where, mend), channels)
  labels, names = _numbered(parts, class_names, where, same_classes)
  splits = {split: types.Split(
      Files(part.names, part.files, size, how), labels[split],
      np.arange(len(part.files))) for split, part in parts.items()}
  about = {'sizes': dict(sizes.most_common(20)), 'modes': dict(modes),
           'ignored': dict(ignored or {}), 'notes': notes}
  if len(sizes) > 20:
    about['notes'].append(f'{len(sizes) - 20} more sizes')
  return types.Dataset(name, names, **splits, about=about,
                       names={k: p.names for k, p in parts.items()})


def _looks(names, files, how: How, where: str) -> list[images.Look]:
  """Returns what the headers say; all refusals are one line."""
  looks = list(_each(
      lambda file: images.look(_opened(file), how.alpha, how.depth), files))
  refused = collections.defaultdict(list)
  for name, file, look in zip(names, files, looks, strict=True):
    if look.wrong:
      refused[look.wrong, look.option].append(_called(name, file))
  if sum(map(len, refused.values())) == 1:
    ((wrong, option), (name,)), = refused.items()
    raise images.refusal(name, wrong, option)
  if refused:
    said = '; '.join(
        f'{len(which)} {"are each" if len(which) > 1 else "is"} {wrong} (the '
        f'first: {which[0]})' + (f', see {option}' if option else '')
        for (wrong, option), which in refused.items())
    raise errors.InputError(
        f'{where}: of {len(names)} images {said}; expected 8-bit grey or RGB '
        'images, or an option that says what to do, or config.data.ignore, '
        'which leaves files out.')
  return looks


def _numbered(parts, class_names, where, same_classes):
  """Returns ({split: labels int32 [N]}, class names)."""
  if parts['train'].labels is None:
    return {split: np.full(len(p.files), -1, np.int32)
            for split, p in parts.items()}, None
  there = {split: set(part.labels) for split, part in parts.items()}
  if class_names is not None:
    names = tuple(class_names)
    number = {i: i for i in range(len(names))} | {
        n: i for i, n in enumerate(names)}
    for split, labels in there.items():
      for label in labels - number.keys():
        raise arrays.no_class(label, names, f'{where}: {split}')
  else:
    every = set().union(*there.values())
    texts = [x for x in every if not isinstance(x, int)]
    if 0 < len(texts) < len(every):
      raise errors.InputError(
          f'{where}: some labels are numbers and others texts, such as '
          f'{texts[0]!r}; expected one of the two.')
    if same_classes:
      _check_classes(there, where)
    labels = sorted(every)
    names = tuple(map(str, labels))
    number = {label: i for i, label in enumerate(labels)}
  return {split: np.array([number[label] for label in part.labels], np.int32)
          for split, part in parts.items()}, names


def _check_classes(there: dict[str, set], where: str):
  """Raises InputError unless every split has the same classes."""
  for split in there:
    differing = sorted(there[split] ^ there['train'])
    if differing:
      has, lacks = ((split, 'train') if differing[0] in there[split]
                    else ('train', split))
      raise errors.InputError(
          f'{where}: class {str(differing[0])!r} of {has} is not in {lacks}; '
          'every split must have the same classes.'
          f'{errors.nearest(differing[0], map(str, there[lacks]))}')
