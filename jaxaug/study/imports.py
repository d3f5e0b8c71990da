"""Pools that somebody else made: read as the study's own images are.

A block of config.pools with a `source` in place of a generator.
"""
import functools
import re
import typing
import unicodedata

import numpy as np

from jaxaug.core import errors, files, registry, types
from jaxaug.data import images
from jaxaug.study import schema, sections

SPLITS = ('train', 'validation', 'test')


class Import(typing.NamedTuple):
  """A pool as its files have it, in the classes of a study.

  labels: int32 [N], of the study's classes.
  read() -> uint8 [N, H, W, C], of the study's size.
  about: what a reader should know of how it was read: see types.Dataset, and
    'source', 'path', and 'split' where it has several.
  """
  labels: np.ndarray
  read: typing.Callable
  about: dict


def is_import(block: dict) -> bool:
  """Whether a pool is brought, not drawn."""
  return bool(block.get('source'))


def key(block: dict) -> list:
  """Names in a hash all that a pool is read from."""
  # What its generator has seen changes no image.
  return [block | {'trained_on': ''}, files.fingerprint(block.get('path'))]


def find(block: dict, spec: types.ImageSpec, class_names,
         where: str) -> Import:
  """Finds a pool's images; they are decoded when they are read.

  Args:
    block: of config.pools.
    spec: of the study's images, whose size those of the pool get.
    class_names: of the study; the pool's are told by their names, or by their
      numbers where it has only these.
    where: of the block in the config.

  Raises:
    InputError: what the source raises, several splits and no word of which, or
      a class that the study does not have.
  """
  load = registry.find('datasets', block['source'], f'{where}.source').load
  takes = registry.arguments(load)
  given = {k: v for k, v in schema.arguments(block, sections.BLOCKS['pools'])
           .items() if v is not None}
  cut = {k: given.pop(k) for k in ('resize', 'crop')
         if k in given and k not in takes}
  if 'resize' in takes:
    given.setdefault('resize', spec[:2])
  else:
    cut.setdefault('resize', spec[:2])
  with errors.renamed('config.data.', f'{where}.'):
    registry.check(load, given, where)
    dataset = load(**given)
    part, split = _part(dataset, block['split'], where)
  number, notes = _numbers(dataset, class_names, where)
  about = {'source': block['source'], 'path': block.get('path') or '',
           'split': split} | dataset.about
  about['notes'] = [*dataset.about.get('notes', ()), *notes,
                    *_fitting(dataset, part, spec)]
  labels = number[part.labels].astype(np.int32)
  return Import(labels, functools.partial(_read, part, cut, spec, where), about)


def _part(dataset: types.Dataset, given: str, where: str):
  """Returns the split that is meant, and its name where there are several."""
  there = {name: part for name in SPLITS
           if (part := getattr(dataset, name)) is not None}
  if len(there) == 1 and not given:
    return dataset.train, ''
  if given not in there:
    raise errors.InputError(
        f'{where}.split: {given!r}; expected one of {", ".join(there)}, which '
        f'{dataset.name} has.{errors.nearest(given, there)}')
  return there[given], given


def _numbers(dataset: types.Dataset, class_names, where: str):
  """Returns (the study's number of each class of a pool, what to say of it)."""
  theirs, notes = dataset.class_names, []
  if not theirs:
    raise errors.InputError(
        f'{where}.path: {dataset.name} has no classes; expected one folder for '
        'each, or labels.')
  if set(theirs) <= set(class_names):
    return np.array([class_names.index(name) for name in theirs]), notes
  if all(name.isdecimal() and str(int(name)) == name for name in theirs):
    return _of_numbers([*map(int, theirs)], class_names, dataset.name, where)
  # As people write them: in another case, or another form of Unicode.
  known = {}
  for i, name in enumerate(class_names):
    known.setdefault(_folded(name), []).append(i)
  out = []
  for name in theirs:
    found = ([class_names.index(name)] if name in class_names else
             known.get(_folded(name), []))
    if len(found) != 1:
      raise errors.InputError(
          f'{where}.path: {dataset.name} has the class {name!r}, and the study '
          f'{", ".join(class_names[:20])}; expected classes of these names: of '
          'an npz, class_names says them.'
          f'{errors.nearest(name, class_names)}')
    if class_names[found[0]] != name:
      notes.append(f'class {name!r} is {class_names[found[0]]!r}')
    out.append(found[0])
  errors.once(f'{where}.path: classes of {dataset.name}', theirs, out)
  return np.array(out), notes


def _folded(name: str) -> str:
  return unicodedata.normalize('NFC', name).casefold().strip()


def _of_numbers(numbers: list[int], class_names, name: str, where: str):
  """The same where the pool's classes are numbers, from 0 or from 1."""
  count = len(class_names)
  first = 1 if min(numbers) == 1 and max(numbers) == count else 0
  if max(numbers) - first >= count:
    raise errors.InputError(
        f'{where}.path: labels of {name} go from {min(numbers)} to '
        f'{max(numbers)}, and the study has {count} classes; expected 0 to '
        f'{count - 1}, in the order of its classes, or their names.')
  shown = ', '.join(f'{i + first} is {class_names[i]}' for i in range(
      min(count, 10))) + (', ...' if count > 10 else '')
  return np.array(numbers) - first, [
      f"its labels are numbers, in the order of the study's classes: {shown}"]


def _fitting(dataset: types.Dataset, part: types.Split, spec) -> list[str]:
  """Says what is done to its images to fit those of the study."""
  notes = []
  sizes = dataset.about.get('sizes') or {
      f'{part.images.shape[1]}x{part.images.shape[2]}': len(part.labels)}
  size = f'{spec.height}x{spec.width}'
  if set(sizes) != {size}:
    notes.append(f'resized to {size} pixels, from '
                 + ', '.join(sorted(sizes)[:5]))
  if part.images.shape[3] != spec.channels:
    notes.append('colour made grey' if spec.channels == 1 else
                 'grey made colour')
  return notes


def _read(part: types.Split, cut: dict, spec: types.ImageSpec, where: str):
  """Returns the images, in the study's size and channels."""
  with errors.renamed('config.data.', f'{where}.'):
    pixels = images.fit_all(np.asarray(part.images), **cut)
  if spec.channels == 3 and pixels.shape[3] == 1:
    pixels = pixels.repeat(3, 3)
  elif spec.channels == 1 and pixels.shape[3] == 3:
    pixels = np.stack([np.asarray(images.to_pil(x).convert('L'))
                       for x in pixels])[..., None]
  return pixels


def provenance(block: dict, digests: dict, where: str) -> dict:
  """Returns what is known of what a pool's generator has seen.

  Args:
    block: of config.pools.
    digests: split -> sha256 of its images and labels, of the study.
    where: of the block.

  Returns:
    'trained_on', as the block says it; 'matches', the split of the study that
    this is, or None; 'warning', '' where that is the training split.

  Raises:
    InputError: it is the test split.
  """
  given = block['trained_on'].strip().casefold()
  if given and not re.fullmatch('[0-9a-f]{12,64}', given):
    raise errors.InputError(
        f'{where}.trained_on: {given!r}; expected a sha256 in hex, 64 figures '
        'or the first 12 at least, as a report and an export have it of a '
        'split.')
  matches = next((split for split, digest in digests.items()
                  if given and digest.startswith(given)), None)
  if matches == 'test':
    raise errors.InputError(
        f'{where}.trained_on: the test split of this study; expected a '
        'generator that has not seen it.')
  if matches == 'train':
    warning = ''
  elif matches:
    warning = ('imported: its generator has learned from images of the '
               f'{matches} split')
  else:
    warning = 'imported: what its generator has seen is unknown'
    if given:
      warning += (f' (trained_on, {given[:12]}..., is no split of this study, '
                  f'whose training split is {digests["train"][:12]}...)')
  return {'trained_on': given, 'matches': matches, 'warning': warning}
