"""Seeded, stratified splits: low-data subsets, long tails, folds, overlaps.

The exponential long tail is that of long-tailed CIFAR (Cui et al. 2019,
"Class-Balanced Loss Based on Effective Number of Samples", section 5.1).
"""
import collections
import hashlib
import itertools
import math
import typing

import numpy as np

from jaxaug.core import errors, randomness, types
from jaxaug.data import images

_SHOWN = 20  # Pairs of equal images that the manifest names.


class Splits(typing.NamedTuple):
  """What a study trains, chooses and tests on; no image is in two of them.

  validation may be empty. unused holds the training images that the low-data
  subset left out: real images that no arm may see. report is a JSON-able
  manifest: counts, hashes, exact duplicates, where test and validation are
  from.
  """
  train: types.Split
  validation: types.Split
  test: types.Split
  unused: types.Split
  class_names: tuple[str, ...]
  report: dict


def pick(split: types.Split, positions) -> types.Split:
  """Returns the images at some places."""
  return types.Split(images.take(split.images, positions),
                     split.labels[positions], split.index[positions])


def some(split: types.Split, most: int) -> types.Split:
  """Returns `most` images, drawn alike where there are more, in their order.
  """
  if len(split.labels) <= most:
    return split
  drawn = randomness.generator(0).permutation(len(split.labels))[:most]
  return pick(split, np.sort(drawn))


def of_classes(split: types.Split, classes) -> types.Split:
  """Returns the images of some classes, by their numbers."""
  rows = np.isin(split.labels, classes)
  return split if rows.all() else pick(split, np.flatnonzero(rows))


def make(dataset: types.Dataset, *, seed: int, per_class=None, fraction=None,
         classes=None, imbalance=None, val_fraction=0.2, test_fraction=0.2,
         folds=0, fold=0, allow_overlap=False,
         allow_contradictions=False) -> Splits:
  """Cuts a data set into the splits of a study.

  In this order: the class subset; the test split; the low-data subset of what
  is left for training; its imbalance; validation. Each draw is stratified, a
  function of (seed, purpose, class name) only, and a smaller subset lies in
  any larger one.

  Args:
    dataset: what a source gave.
    seed: of every draw.
    per_class: training images a class to keep, validation included.
    fraction: share of each class's training images to keep, in (0, 1].
    classes: names or numbers of the classes to keep; labels are renumbered in
      the order given.
    imbalance: training images a class: {class name: count} (others stay),
      a count for each class in order, or ('exponential', ratio), where class
      c of K keeps n_max * ratio^(-c / (K - 1)) and n_max is the largest number
      for which there are enough.
    val_fraction: share of each class carved from train as validation, in
      [0, 1), if the source has no validation split; at least 1 image of a
      class stays on either side.
    test_fraction: the same for test, in (0, 1), if the source has none.
    folds: 2 or more for cross-validation: the source's training images are
      dealt to `folds` parts, and number `fold` is the test split in place of
      the source's own.
    fold: which part, 0..folds-1.
    allow_overlap: accept test images whose exact pixels are in train or
      validation too.
    allow_contradictions: accept images whose exact pixels are of two classes.

  Raises:
    InputError: a value out of its range, an unknown class, fewer than two
      classes, fewer images than asked or than the splits need, test images that
      are in train or validation too, or images of two classes.
  """
  _check_values(per_class, fraction, val_fraction, test_fraction, folds, fold)
  _check_dataset(dataset)
  names, parts = _keep_classes(dataset, classes)
  if len(names) < 2:
    raise errors.InputError(
        f'config.data: {dataset.name} has one class, {names[0]!r}; expected 2 '
        'or more.')
  train, validation, test = parts
  _check_classes(train, names, 'training')
  draw = _Draw(seed, names)
  test_from = validation_from = 'source'
  if folds:
    train, test = draw.fold(train, folds, fold)
    test_from = f'fold {fold} of {folds}'
  elif test is None:
    test, train = draw.carve(train, test_fraction, 'test')
    test_from = f'carved: {test_fraction}'
  if test_from.startswith('carved'):
    _check_enough(test, names, 'test', 2 + bool(val_fraction))
  _check_classes(test, names, 'test')
  left = train
  train = draw.low_data(train, per_class, fraction)
  train = draw.unbalance(train, imbalance or None)
  unused = pick(left, np.flatnonzero(~np.isin(left.index, train.index)))
  if validation is None:
    validation, train = draw.carve(train, val_fraction, 'validation')
    validation_from = f'carved: {val_fraction}'
    if val_fraction:  # A class may be made so small on purpose.
      small = _counts(left, len(names)) < 2
      _check_enough(validation, names, 'validation',
                    2 + test_from.startswith('carved'), small)
  splits = {'train': train, 'validation': validation, 'test': test,
            'unused': unused}
  hashes = {k: images.row_hashes(v.images) for k, v in splits.items()}
  find = Namer(dataset, test_from, validation_from, names)
  groups = _equal(hashes)
  pairs = _contradictions(splits, groups, find)
  twice = _overlap(splits, groups, find)
  _refuse_equal(() if allow_contradictions else pairs,
                () if allow_overlap else twice)
  report = {'source': dataset.name, 'seed': seed, 'test_from': test_from,
            'validation_from': validation_from,
            'contradictions': _counted(pairs), 'overlap': _counted(twice),
            **_manifest(splits, hashes, names)}
  return Splits(**splits, class_names=names, report=report)


def _real(value) -> bool:
  return (isinstance(value, (int, float, np.number))
          and not isinstance(value, bool))


def _whole(value, least: int) -> bool:
  return (isinstance(value, (int, np.integer)) and not isinstance(value, bool)
          and value >= least)


def _check_values(per_class, fraction, val_fraction, test_fraction, folds,
                  fold):
  """Raises InputError for a value out of its range, naming its key."""
  if per_class is not None and fraction is not None:
    raise errors.InputError(
        'config.data.per_class: set it or config.data.fraction, not both.')
  for key, value, valid, expected in (
      ('per_class', per_class, per_class is None or _whole(per_class, 1),
       'a whole number of 1 or more'),
      ('fraction', fraction,
       fraction is None or _real(fraction) and 0 < fraction <= 1,
       'a number in (0, 1]'),
      ('val_fraction', val_fraction,
       _real(val_fraction) and 0 <= val_fraction < 1, 'a number in [0, 1)'),
      ('test_fraction', test_fraction,
       _real(test_fraction) and 0 < test_fraction < 1, 'a number in (0, 1)'),
      ('folds', folds, _whole(folds, 0) and folds != 1, '0, or 2 or more'),
      ('fold', fold, _whole(fold, 0) and fold < max(folds, 1),
       f'a whole number in 0..{max(folds, 1) - 1}')):
    if not valid:
      raise errors.InputError(
          f'config.data.{key}: expected {expected}, got {value!r}.')


def _check_dataset(dataset: types.Dataset):
  """Raises InputError if a source's arrays are not what types.Split says."""
  where = f'config.data: {dataset.name}: names of the classes'
  errors.once(where, dataset.class_names)
  for name in dataset.class_names:
    if any('\ud800' <= letter <= '\udfff' for letter in name):
      raise errors.InputError(
          f'{where}: {name!r} is no text in UTF-8; expected names that are.')
  for name in ('train', 'validation', 'test'):
    split = getattr(dataset, name)
    if split is None:
      continue
    pixels, labels, index = split
    where, k = f'{dataset.name}: {name}', len(dataset.class_names)
    if (pixels.dtype != np.uint8 or pixels.ndim != 4
        or pixels.shape[-1] not in (1, 3)):
      raise errors.InputError(
          f'{where}: images are {pixels.dtype} {list(pixels.shape)}; expected '
          'uint8 [N, H, W, 1 or 3].')
    if pixels.shape[1:] != dataset.train.images.shape[1:]:
      raise errors.InputError(
          f'{where}: images are {list(pixels.shape[1:])}, but those of train '
          f'{list(dataset.train.images.shape[1:])} (height, width, channels).')
    if not len(pixels) == len(labels) == len(index) == len(np.unique(index)):
      raise errors.InputError(
          f'{where}: {len(pixels)} images, {len(labels)} labels and '
          f'{len(np.unique(index))} different indices; expected equal numbers.')
    if len(labels) and (labels.min() < 0 or labels.max() >= k):
      raise errors.InputError(
          f'{where}: labels go from {labels.min()} to {labels.max()}, but with '
          f'{k} classes they must be in 0..{k - 1}.')


def _check_classes(split: types.Split, names, what: str):
  """Raises InputError if a class has no image."""
  for name, count in zip(names, _counts(split, len(names)), strict=True):
    if not count:
      raise errors.InputError(
          f'config.data: class {name!r} has no {what} image; add some, or '
          'leave the class out with config.data.classes.')


def _check_enough(split: types.Split, names, what: str, parts: int,
                  which=None):
  """Raises InputError if a class had no image to spare for a split.

  which: bool [K], the classes to look at; None for all.
  """
  for c, count in enumerate(_counts(split, len(names))):
    if not count and (which is None or which[c]):
      name = names[c]
      raise errors.InputError(
          f'config.data: class {name!r} has too few images for {parts} splits, '
          f'none is left for {what}; expected {parts} or more of each class: '
          'add some, leave the class out (config.data.classes)'
          + (', or do without validation (config.data.val_fraction=0).'
             if what == 'validation' else '.'))


def _counts(split: types.Split, k: int) -> np.ndarray:
  return np.bincount(split.labels, minlength=k)


def _keep_classes(dataset: types.Dataset, classes):
  """Returns (names, (train, validation, test)) of the classes asked for."""
  parts = dataset.train, dataset.validation, dataset.test
  known = dataset.class_names
  if not classes:
    return known, parts
  chosen = [_class_number(c, known, 'classes') for c in (
      classes.split(',') if isinstance(classes, str) else classes)]
  if len(set(chosen)) != len(chosen) or len(chosen) < 2:
    raise errors.InputError(
        'config.data.classes: expected at least 2 different classes, got '
        f'{", ".join(known[c] for c in chosen)}.')
  renumber = np.full(len(known), -1, np.int32)
  renumber[chosen] = np.arange(len(chosen))

  def subset(split):
    if split is None:
      return None
    kept = pick(split, np.flatnonzero(np.isin(split.labels, chosen)))
    return kept._replace(labels=renumber[kept.labels])

  return tuple(known[c] for c in chosen), tuple(map(subset, parts))


def _class_number(given, names, key: str) -> int:
  """Finds a class by name or by number."""
  if str(given) in names:
    return names.index(str(given))
  if str(given).isdecimal() and int(given) < len(names):
    return int(given)
  listed = ', '.join(names[:10]) + (', ...' if len(names) > 10 else '')
  raise errors.InputError(
      f'config.data.{key}: there is no class {given!r}; expected one of '
      f'{listed}.{errors.nearest(given, names)}')


class _Draw(typing.NamedTuple):
  """The stratified draws of one seed."""
  seed: int
  names: tuple[str, ...]

  def shuffled(self, split: types.Split, purpose: str) -> list[np.ndarray]:
    """Returns for each class its positions in `split`, shuffled."""
    orders = []
    for c, name in enumerate(self.names):
      key = hashlib.blake2b(f'{self.seed}/{purpose}/{name}'.encode(),
                            digest_size=16).digest()
      random = np.random.Generator(
          np.random.Philox(key=int.from_bytes(key, 'little')))
      orders.append(random.permutation(np.flatnonzero(split.labels == c)))
    return orders

  def take(self, split: types.Split, counts, purpose: str):
    """Returns (that many images of each class, the rest), in source order."""
    orders = self.shuffled(split, purpose)
    taken = np.zeros(len(split.labels), bool)
    for order, count in zip(orders, counts, strict=True):
      taken[order[:count]] = True
    return (pick(split, np.flatnonzero(taken)),
            pick(split, np.flatnonzero(~taken)))

  def carve(self, split: types.Split, fraction: float, purpose: str):
    """Returns (a share of each class, the rest)."""
    there = _counts(split, len(self.names))
    counts = np.floor(there * fraction + 0.5).astype(int)
    if fraction:
      # At least 1 on either side, and a single image stays where it is.
      counts = np.clip(counts, 1, np.maximum(there - 1, 0))
    return self.take(split, counts, purpose)

  def fold(self, split: types.Split, folds: int, fold: int):
    """Returns (the other folds, this fold)."""
    orders = self.shuffled(split, 'folds')
    number, start = np.zeros(len(split.labels), int), 0
    for name, order in zip(self.names, orders, strict=True):
      if len(order) < folds:
        raise errors.InputError(
            f'config.data.folds: {folds} folds, but class {name!r} has only '
            f'{len(order)} training images.')
      # Dealt like cards, so that the folds' sizes differ by 1 at most.
      number[order] = (start + np.arange(len(order))) % folds
      start += len(order)
    return (pick(split, np.flatnonzero(number != fold)),
            pick(split, np.flatnonzero(number == fold)))

  def low_data(self, split: types.Split, per_class, fraction) -> types.Split:
    """Keeps `per_class` images, or a `fraction`, of each class."""
    there = _counts(split, len(self.names))
    if per_class is not None:
      counts = np.full(len(there), per_class)
      self.check(counts, there, 'per_class')
    elif fraction is not None:
      counts = np.maximum(np.floor(there * fraction + 0.5).astype(int), 1)
    else:
      return split
    return self.take(split, counts, 'low_data')[0]

  def unbalance(self, split: types.Split, imbalance) -> types.Split:
    """Keeps the number of images of each class that `imbalance` asks for."""
    if imbalance is None:
      return split
    there = _counts(split, len(self.names))
    if hasattr(imbalance, 'items'):
      counts = there.tolist()
      for name, count in imbalance.items():
        counts[_class_number(name, self.names, 'imbalance')] = count
    elif imbalance[0] == 'exponential':
      counts = _long_tail(there, imbalance)
    else:
      counts = list(imbalance)
      if len(counts) != len(there):
        raise errors.InputError(
            f'config.data.imbalance: {len(counts)} counts for {len(there)} '
            'classes; expected one count for each class.')
    self.check(counts, there, 'imbalance')
    return self.take(split, counts, 'low_data')[0]

  def check(self, counts, there, key: str):
    """Raises InputError if a class should keep more than it has, or none."""
    for name, count, has in zip(self.names, counts, there, strict=True):
      if not _whole(count, 1) or count > has:
        raise errors.InputError(
            f'config.data.{key}: {count} training images asked of class '
            f'{name!r}, which has {has}; expected a whole number in 1..{has}.')


def _long_tail(there: np.ndarray, imbalance) -> list[int]:
  """Returns n_max * ratio^(-c / (K - 1)), rounded down, for each class c."""
  ratio = imbalance[1] if len(imbalance) == 2 else None
  if not isinstance(ratio, (int, float)) or not 1 <= ratio < math.inf:
    raise errors.InputError(
        "config.data.imbalance: expected ('exponential', ratio) with a ratio "
        f'of 1 or more, got {tuple(imbalance)!r}.')
  share = float(ratio) ** -(np.arange(len(there)) / max(len(there) - 1, 1))
  n_max = min(there / share)
  # The small term undoes float noise just below a whole number.
  return np.floor(n_max * share + 1e-6).astype(int).tolist()


def _manifest(splits: dict[str, types.Split], hashes, names) -> dict:
  """Returns counts, hashes and exact duplicates of the splits, for JSON."""
  duplicates = {'within train': len(hashes['train'])
                - len(np.unique(hashes['train']))}
  for a, b in itertools.combinations(hashes, 2):
    duplicates[f'{b} in {a}'] = int(np.isin(hashes[b], hashes[a]).sum())
  return {
      'counts': {name: dict(zip(names, _counts(split, len(names)).tolist(),
                                strict=True))
                 for name, split in splits.items()},
      'sha256': {name: images.digest(split.images, split.labels)
                 for name, split in splits.items()},
      'duplicates': duplicates}


class Namer(typing.NamedTuple):
  """Says which image one is, for people."""
  dataset: types.Dataset
  test_from: str
  validation_from: str
  class_names: tuple[str, ...]

  def __call__(self, split: str, index: int, label: int) -> str:
    source = {'test': self.test_from, 'validation': self.validation_from}.get(
        split, 'train')
    source = split if source == 'source' else 'train'
    known = self.dataset.names.get(source)
    name = known[index] if known else f'{source} image {index}'
    return f'{name} ({self.class_names[label]})'


def _equal(hashes) -> list[list[tuple[str, int]]]:
  """Returns groups of images of the same pixels: [(split, row), ...]."""
  groups = collections.defaultdict(list)
  for name, found in hashes.items():
    for row, digest in enumerate(found.tolist()):
      groups[digest].append((name, row))
  return [group for group in groups.values() if len(group) > 1]


def _contradictions(splits, groups, find: Namer) -> list[list[str]]:
  """Returns pairs of names of equal images in different classes."""
  pairs = []
  for group in groups:
    first = {}
    for name, row in group:
      first.setdefault(int(splits[name].labels[row]), (name, row))
    (one, (split, row)), *others = first.items()
    for label, (other, at) in others:
      pairs.append([find(split, int(splits[split].index[row]), one),
                    find(other, int(splits[other].index[at]), label)])
  return pairs


def _overlap(splits, groups, find: Namer) -> list[list[str]]:
  """Returns pairs of names: test images, and their twins in train or
  validation."""
  pairs = []
  for group in groups:
    seen = [(n, row) for n, row in group if n in ('validation', 'train')]
    test = [(n, row) for n, row in group if n == 'test']
    if seen and test:
      pairs += [[find(n, int(splits[n].index[row]), int(splits[n].labels[row]))
                 for n, row in (one, seen[0])] for one in test]
  return pairs


def _counted(pairs) -> dict:
  return {'count': len(pairs), 'pairs': pairs[:_SHOWN]}


def _refuse_equal(contradictions, overlap):
  """Raises InputError for equal images, those of both kinds in one line."""
  said = []
  for pairs, what, key in (
      (contradictions, 'pairs of images are equal, pixel for pixel, but of '
       'different classes', 'allow_contradictions'),
      (overlap, 'test images are in train or validation too, pixel for pixel',
       'allow_overlap')):
    if pairs:
      shown = '; '.join(f'{a} and {b}' for a, b in pairs[:3])
      more = f'; and {len(pairs) - 3} more' if len(pairs) > 3 else ''
      said.append(f'config.data.{key}: {len(pairs)} {what}: {shown}{more}')
  if said:
    raise errors.InputError(
        f'{". ".join(said)}. Remove them from the source, or set '
        f'{"it" if len(said) == 1 else "each"} to True.')
