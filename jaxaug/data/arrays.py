"""Arrays of images and labels, as people save them: found, checked, converted.

`where` is in all errors what the user called the file by, and its path.
"""
import re
import typing

import numpy as np

from jaxaug.core import errors
from jaxaug.data import layout

_IMAGES = {'x', 'image', 'images', 'img', 'imgs', 'arr_0', 'data', 'pixels'}
_LABELS = {'y', 'label', 'labels', 'target', 'targets', 'arr_1', 'cls'}
# Words of arrays that stand beside these and are neither.
_OTHER = {'index', 'indices', 'names', 'name', 'id', 'ids', 'file', 'files'}


class Keys(typing.NamedTuple):
  """Names of the arrays of one split; labels '' for none."""
  images: str
  labels: str


def find(held, where: str, given: dict[str, Keys] | None = None,
         keys: str = 'config.data.{}_images',
         needs=('train',)) -> dict[str, Keys]:
  """Tells which arrays of a file hold the images and labels of which split.

  By their names: x_train, train_images, X_test, testLabels, or image and label,
  arr_0 and arr_1, of a file without splits, whose images are of 'train'.

  Args:
    held: all names of the file.
    where: what the user called it by, and its path.
    given: split -> names that the user says; '' to find one.
    keys: where the user would say so, of a split.
    needs: splits that must be there, beside one at least.

  Raises:
    InputError: there are several for one split, none for one that is needed,
      an array that the user names is not there, or one of a validation or test
      split would not be read.
  """
  given = given or {}
  def key(split):
    return keys.format(in_keys(split))
  roles = {name: _role(name) for name in held}
  out = {}
  for split in ('train', 'validation', 'test'):
    mine = given.get(split, Keys('', ''))
    for name in mine:
      if name and name not in roles:
        raise errors.InputError(
            f'{where} has no array {name!r} ({split}); it holds '
            f'{", ".join(roles) or "nothing"}.{errors.nearest(name, roles)}')
    found = Keys(*(
        name or _only([n for n, role in roles.items() if role == (split, kind)],
                      where, key(split))
        for name, kind in zip(mine, ('images', 'labels'), strict=True)))
    if any(found):
      out[split] = found
  for split, found in out.items():
    if not found.images:
      raise errors.InputError(
          f'{where} has labels {found.labels!r} of {split} and no images of it '
          f'that are known by their name; it holds {", ".join(roles)}; '
          f'expected an array such as x_{split}, or {key(split)}.')
  if not out or set(needs) - out.keys():
    of = 'images of train' if needs else 'images'
    raise errors.InputError(
        f'{where} holds {", ".join(roles) or "nothing"}; expected {of}, such '
        'as an array called x_train, train_images or images, or '
        f'{key("train")}.')
  read = {name for found in out.values() for name in found}
  for name in roles:
    part = _split(name)
    if name not in read and part in ('validation', 'test') and not (
        _words(name) & _OTHER):
      raise errors.InputError(
          f'{where} has an array {name!r} of {part} that nothing reads; '
          f'expected its name in {key(part)}, or in the same key of '
          'labels, or a file without it.')
  return out


def in_keys(split: str) -> str:
  """Returns what a split is called in keys: train, val or test."""
  return 'val' if split == 'validation' else split


def unread(held, read) -> list[str]:
  """Returns the names of a file that sound like images or labels, and are none
  of those that are read."""
  return [name for name in held
          if name not in read and _words(name) & (_IMAGES | _LABELS)]


def _words(name: str) -> set[str]:
  """Returns the words of a name: xTrain and x_train have two."""
  if name in ('arr_0', 'arr_1'):
    return {name}
  return {word.lower() for word in re.findall(
      '[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+', name)}


def _split(name: str) -> str | None:
  """Returns the split that a name says; None for none or several."""
  parts = {layout.SPLITS[w] for w in _words(name) if w in layout.SPLITS}
  return parts.pop() if len(parts) == 1 else None


def _role(name: str) -> tuple[str, str] | None:
  """Returns (split, 'images' or 'labels') of a name, or None."""
  words = {w for w in _words(name) if w not in layout.SPLITS}
  split = _split(name) or 'train'
  if words and words <= _IMAGES:
    return split, 'images'
  if words and words <= _LABELS:
    return split, 'labels'
  return None


def _only(names, where: str, key: str) -> str:
  """Returns the only name, or '' of none."""
  if len(names) > 1:
    raise errors.InputError(
        f'{where} holds {" and ".join(names)}, any of which could be meant; '
        f'say which: {key}, or the same of labels.')
  return names[0] if names else ''


def images(array: np.ndarray, where: str, *, span=None, alpha: str = 'refuse',
           depth: str = 'refuse') -> tuple[np.ndarray, list[str]]:
  """Returns images of someone else's array as uint8 [N, H, W, C], and notes.

  Args:
    array: whole numbers or floats [N, H, W], [N, H, W, C] or [N, C, H, W] with
      C 1 or 3, or 4 with transparency.
    where: the array's name for the error.
    span: (black, white) of floats; None for [0, 1] or [0, 255], whichever it
      is.
    alpha, depth: as in reading.how.

  Raises:
    InputError: another shape or type, values out of range, or no image.
  """
  notes = []
  if array.ndim == 3:
    array = array[..., None]
  if array.ndim == 4 and array.shape[-1] not in (1, 3, 4) and (
      array.shape[1] in (1, 3, 4)):
    notes.append(f'channels come first, {list(array.shape)}: moved to the end')
    array = np.moveaxis(array, 1, -1)
  if array.ndim != 4 or array.shape[-1] not in (1, 3, 4) or not array.size:
    raise errors.InputError(
        f'{where}: shape {list(array.shape)}; expected [N, H, W] or '
        '[N, H, W, C] with C 1 or 3, and at least one image.')
  array = _bytes(array, where, span, depth, notes)
  if array.shape[-1] == 4:
    if alpha == 'refuse':
      raise errors.InputError(
          f'{where}: images with transparency, {list(array.shape)}; expected '
          "config.data.alpha='white', 'black' or 'drop'.")
    array = _opaque(array, alpha)
  if array.max() <= 1:
    notes.append(f'values of {where.rpartition(": ")[2]} are 0 and 1 of 255, '
                 'nearly black: expected x * 255, if 1 is meant to be white')
  return array, notes


def _bytes(array, where, span, depth, notes) -> np.ndarray:
  """Returns an array of numbers as uint8."""
  if array.dtype.kind not in 'uif':
    as_white = '; (255 * x).astype("uint8") makes True white' if (
        array.dtype.kind == 'b') else ''
    raise errors.InputError(f'{where}: {array.dtype}; expected uint8, or '
                            f'floats in [0, 1]{as_white}.')
  if array.dtype == np.uint8:
    return array
  low, high = array.min(), array.max()  # Either is NaN if a pixel is.
  if array.dtype == np.uint16 and high > 255:
    if depth == 'refuse':
      raise errors.InputError(
          f'{where}: uint16, values up to {high}; expected uint8, or '
          "config.data.depth='scale', which takes the higher 8 bits.")
    return (array >> 8).astype(np.uint8)
  if span is not None and array.dtype.kind == 'f':
    black, white = span
    if not (low >= black and high <= white):
      raise errors.InputError(
          f'{where}: {_values(low, high)}; expected floats in [{black}, '
          f'{white}], as config.data.range says.')
    return np.rint((array - black) * (255 / (white - black))).astype(np.uint8)
  if not (low >= 0 and high <= 255):
    more = (' If -1 is black, config.data.range=(-1,1) says so.'
            if low >= -1 and high <= 1 else '')
    raise errors.InputError(
        f'{where}: {_values(low, high)}; expected uint8, or floats in [0, 1] '
        f'or [0, 255].{more}')
  if array.dtype.kind == 'f' and 1 < high < 2:
    raise errors.InputError(
        f'{where}: {_values(low, high)}; expected floats in [0, 1], which '
        'x.clip(0, 1) makes of them, or in [0, 255].')
  scale = 255 if array.dtype.kind == 'f' and high <= 1 else 1
  if array.dtype.kind == 'f':
    notes.append(f'floats from {low:g} to {high:g}: taken as [0, '
                 f'{255 // scale}]')
  return np.rint(array * scale).astype(np.uint8)


def _values(low, high) -> str:
  return 'NaN' if np.isnan(low) else f'values from {low} to {high}'


def _opaque(array, alpha: str) -> np.ndarray:
  """Returns [..., 3] of [..., 4]: on white or black, or as the colours stand.
  """
  colours = array[..., :3]
  if alpha == 'drop':
    return colours
  share = array[..., 3:] / np.float32(255)
  ground = 255 if alpha == 'white' else 0
  return np.rint(colours * share + ground * (1 - share)).astype(np.uint8)


class Labels(typing.NamedTuple):
  """Labels of some arrays, of one set.

  numbers: split -> int32 [N]. class_names: None where nobody says. notes: what
  was done to get them.
  """
  numbers: dict[str, np.ndarray]
  class_names: tuple[str, ...] | None
  notes: list[str]


def labels(arrays: dict[str, np.ndarray], class_names,
           where: dict[str, str]) -> Labels:
  """Returns the labels that arrays hold, as numbers from 0.

  Whole numbers from 0 or from 1 (also as floats or bool), [N] or [N, 1]; texts;
  or rows of one 1 among 0s, [N, K].

  Args:
    arrays: of each split, that of 'train' first: its labels say how many
      classes there are, where no names do.
    class_names: in the order of the labels, or None.
    where: of each split, what the user called the file by, and which array.

  Raises:
    InputError: something else.
  """
  flat, notes = {}, []
  for split, array in arrays.items():
    flat[split] = _flat(array, where[split], notes)
  kinds = {values.dtype.kind in 'US' for values in flat.values()}
  if len(kinds) > 1:
    raise errors.InputError(
        f'{where["train"]}: labels are texts in one split and numbers '
        'in another; expected one of the two.')
  if kinds == {True}:
    return _of_texts(flat, class_names, where, notes)
  low = min(int(values.min()) for values in flat.values())
  high = max(int(values.max()) for values in flat.values())
  count = None if class_names is None else len(class_names)
  train = next(iter(flat.values()))
  if low == 1 and high <= len(train) and count in (None, high):
    notes.append(f'labels start at 1: taken as classes 1..{high}')
    flat = {split: values - 1 for split, values in flat.items()}
    class_names = class_names or tuple(str(c + 1) for c in range(high))
    train, count = train - 1, high
  if count is None:
    # No more classes than images: garbage labels would make billions.
    count = min(int(train.max()) + 1, len(train))
  out = {split: numbered(values, count, where[split])
         for split, values in flat.items()}
  return Labels(out, class_names, list(dict.fromkeys(notes)))


def _flat(array: np.ndarray, where: str, notes: list) -> np.ndarray:
  """Returns [N], whole numbers or texts."""
  if not array.size:
    raise errors.InputError(f'{where}: {list(array.shape)}; expected at least '
                            'one label.')
  if array.ndim == 2 and array.shape[1] == 1:
    array = array[:, 0]
  if array.ndim == 2 and array.dtype.kind in 'uifb':
    if not (np.isin(array, (0, 1)).all() and (array.sum(1) == 1).all()):
      raise errors.InputError(
          f'{where}: {array.dtype} {list(array.shape)}, whose rows are not one '
          '1 among 0s; expected one label an image: y.argmax(1) takes the '
          'largest of a row.')
    notes.append('labels are rows of one 1 among 0s')
    array = array.argmax(1)
  if array.dtype.kind == 'S':
    array = np.array([x.decode(errors='surrogateescape') for x in array])
  if array.ndim == 1 and array.dtype.kind == 'b':
    array = array.astype(np.int64)
  if array.ndim == 1 and array.dtype.kind == 'f' and (
      np.isfinite(array).all() and (array == np.rint(array)).all()
      and abs(array).max() < 2**53):
    array = array.astype(np.int64)
  if array.ndim != 1 or array.dtype.kind not in 'uiU':
    raise errors.InputError(
        f'{where}: {array.dtype} {list(array.shape)}; expected whole numbers '
        'or texts [N] or [N, 1], or rows of one 1 among 0s.')
  return array


def _of_texts(flat, class_names, where, notes) -> Labels:
  """The same of labels that are texts."""
  if class_names is None:
    names = tuple(sorted({str(x) for values in flat.values() for x in values}))
  else:
    names = tuple(class_names)
  number, out = {name: i for i, name in enumerate(names)}, {}
  for split, values in flat.items():
    for value in values.tolist():
      if value not in number:
        raise no_class(value, names, where[split])
    out[split] = np.array([number[x] for x in values.tolist()], np.int32)
  return Labels(out, names, notes)


def one_range(arrays: dict[str, np.ndarray], where: str):
  """Raises InputError where floats of one split end at 1, of another above.

  Args:
    arrays: name -> images.
    where: what the user called the file by, and its path.
  """
  highs = {name: float(array.max()) for name, array in arrays.items()
           if array.dtype.kind == 'f' and array.size}
  if highs and min(highs.values()) <= 1 and max(highs.values()) >= 2:
    raise errors.InputError(
        f'{where}: ' + ', '.join(f'{name} goes up to {high:g}'
                                 for name, high in highs.items())
        + '; expected floats in [0, 1], or in [0, 255], in all of them.')


def no_class(label, names, where: str) -> errors.InputError:
  """Refuses a label that is the name of no class."""
  listed = ', '.join(names[:10]) + (', ...' if len(names) > 10 else '')
  return errors.InputError(f'{where}: label {label!r} is none of the classes '
                           f'{listed}.{errors.nearest(label, names)}')


def one_each(array: np.ndarray, count: int, where: str):
  """Raises InputError unless an array has a row for each image."""
  if len(array) != count:
    raise errors.InputError(f'{where} has {len(array)} rows for {count} '
                            'images; expected one for each.')


def class_names(array: np.ndarray) -> tuple[str, ...]:
  """Returns the class names that an array of texts or bytes holds."""
  return tuple(name.decode(errors='surrogateescape')
               if isinstance(name, bytes) else str(name)
               for name in np.ravel(array).tolist())


def numbered(labels: np.ndarray, classes: int, where: str) -> np.ndarray:
  """Returns labels as int32 [N].

  Args:
    labels: whole numbers [N].
    classes: how many there are.
    where: what the user called the file by, its path, and which labels.

  Raises:
    InputError: a label is none of the classes' numbers.
  """
  low, high = int(labels.min()), int(labels.max())
  if low < 0 or high >= classes:
    raise errors.InputError(
        f'{where}: labels go from {low} to {high}, but with {classes} classes '
        f'they must be in 0..{classes - 1}.')
  return labels.astype(np.int32)
