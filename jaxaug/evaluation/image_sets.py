"""Where a set of images lies: a folder, an npz, a pool, a data set, statistics.

What the user writes is a path or a name, with `@SPLIT` where there are several.
"""
import concurrent.futures
import hashlib
import inspect
import os
import pathlib
import typing

import numpy as np

from jaxaug.core import errors, files, randomness, registry, types
from jaxaug.data import arrays, images, layout, pools, reading
from jaxaug.evaluation import features, moments

SPLITS = ('train', 'validation', 'test')


class Source(typing.NamedTuple):
  """A set of images that can be read row by row, or its statistics.

  name: as the user wrote it.
  kind: 'folder', 'npz', 'pool', 'data set' or 'statistics'.
  shape: (H, W, C) of every image; None of statistics.
  count: how many images; None where statistics do not say.
  labels: int32 [N], or None.
  class_names: names of the labels, or None where they have none.
  read(rows) -> uint8 [len(rows), H, W, C].
  digest: sha256 of the content, in hex; what a cache is keyed by.
  moments: types.Moments of statistics, else None.
  about: what statistics say of themselves, such as {'extractor': ...}.
  """
  name: str
  kind: str
  shape: tuple[int, int, int] | None
  count: int | None
  labels: np.ndarray | None
  class_names: tuple[str, ...] | None
  read: typing.Callable | None
  digest: str
  moments: types.Moments | None = None
  about: dict = {}


def open(spec: str, *, resize=None, num_images: int = 0, seed: int = 0,
         where: str = 'the set') -> Source:
  """Finds what `spec` means; decodes only what is asked for later.

  Args:
    spec: a folder of images (flat, or one folder a class), an .npz of images
      or of statistics (`mu`, `sigma`), a pool of a study, or a data set of
      TFDS or of `datasets/`; `@train`, `@test` or `@validation` behind it (any
      TFDS split) says which part.
    resize: None, pixels, or (height, width), as in images.fit.
    num_images: takes so many of them, drawn by `seed`; 0 for all.
    where: the argument's name, for errors.

  Raises:
    InputError: there is no such thing, or it is not images of one size.
  """
  source = _find(str(spec), resize, where)
  if not num_images or source.moments is not None:
    return source
  if num_images > source.count:
    raise errors.InputError(
        f'--num_images: {num_images}, but {where} ({spec}) holds '
        f'{source.count}; expected at most that.')
  return _part(source, _shuffled(source, seed)[:num_images])


def halves(source: Source, seed: int = 0) -> tuple[Source, Source]:
  """Returns two halves of a set of images, drawn by `seed`.

  Raises:
    InputError: fewer than 2 images, or statistics.
  """
  if source.moments is not None or source.count < 2:
    raise errors.InputError(
        f'{source.name}: has no halves; expected 2 images or more.')
  rows = _shuffled(source, seed)
  middle = source.count // 2
  first, second = rows[:middle], rows[middle:2 * middle]
  return (_part(source, first)._replace(name=f'half of {source.name}'),
          _part(source, second)._replace(name=f'other half of {source.name}'))


def _shuffled(source: Source, seed: int) -> np.ndarray:
  return randomness.generator(seed).permutation(source.count)


def _part(source: Source, rows) -> Source:
  """Returns some rows of a source, in its order."""
  rows = np.sort(rows)
  return source._replace(
      count=len(rows), read=lambda some: source.read(rows[some]),
      labels=None if source.labels is None else source.labels[rows],
      digest=files.digest([source.digest, images.digest(rows)]))


def batches(source: Source, size: int):
  """Yields uint8 [B, H, W, C], the next being read while one is in use."""
  parts = [np.arange(start, min(start + size, source.count))
           for start in range(0, source.count, size)]
  with concurrent.futures.ThreadPoolExecutor(1) as reader:
    waiting = [reader.submit(source.read, rows) for rows in parts[:1]]
    for rows in [*parts[1:], None]:
      now = waiting.pop().result()
      if rows is not None:
        waiting.append(reader.submit(source.read, rows))
      yield now


def extract(source: Source, extractor: features.FeatureExtractor, needs,
            which: str, cache: pathlib.Path | None = None) -> types.ImageSet:
  """Returns what metrics need of a source; of statistics their moments.

  Args:
    source: of `open`.
    extractor: the network on its devices.
    needs: fields of types.ImageSet, as of measure.needs.
    which: the side, in errors and on the progress line.
    cache: folder where what was extracted is kept by the images' content, or
      None.

  Raises:
    InputError: statistics of another network, or where more is needed.
  """
  if source.moments is not None:
    _check_statistics(source, extractor.identity, set(needs), which)
    return types.ImageSet(source.count, source.moments)
  found = features.extract(
      extractor, batches(source, extractor.batch_size), source.count, needs,
      title=f'{which} {source.name}', cache=cache, digest=source.digest)
  every = np.arange(source.count)
  return found._replace(
      labels=source.labels,
      images=source.read(every) if 'images' in needs else None)


def _check_statistics(source: Source, identity: dict, needs: set, which: str):
  if more := sorted(needs - {'moments'}):
    raise errors.InputError(
        f'{which}: {source.name} holds mean and covariance only; expected '
        f'images for metrics that need {", ".join(more)}, or --metrics=fid.')
  for key, mine in identity.items():
    if source.about.get(key, mine) != mine:
      raise errors.InputError(
          f'{which}: {source.name} holds statistics whose {key} is '
          f'{source.about[key]!r}; expected {mine!r}.')


def _find(spec, resize, where) -> Source:
  if os.path.exists(os.path.expanduser(spec)):
    place, split = pathlib.Path(os.path.expanduser(spec)), ''
  else:
    head, _, split = spec.rpartition('@')
    place = pathlib.Path(os.path.expanduser(head or spec))
  if place.is_file() and place.suffix == '.npz':
    return _npz(spec, place, split, resize, where)
  if place.is_file() or place.is_dir() and not (place / 'pool.npz').exists():
    return _files(spec, place, split, resize, where)
  if place.is_dir() or place.parent.name in pools.PARENTS:
    return _pool(spec, place, resize)
  return _data_set(spec, resize, where)


def _in_memory(spec, kind, array, labels, names, resize) -> Source:
  array = images.fit_all(array, resize, where=spec)
  return Source(spec, kind, array.shape[1:], len(array), labels, names,
                array.__getitem__, images.digest(array))


def _npz(spec, path, split, resize, where) -> Source:
  held = files.read_npz(path, where, lambda key: False).keys()
  if {'mu', 'sigma'} <= held:
    return _statistics(spec, path, where)
  place = f'{where}: {path}'
  found = arrays.find(held, place, keys='a name such as x_{}', needs=())
  keys = found[_split_of(found, path.name, split, where)]
  held = files.read_npz(path, where, {*keys, 'class_names'}.__contains__)
  pixels, _ = arrays.images(held[keys.images], f'{place}: {keys.images}')
  names, labels = held.get('class_names'), None
  if names is not None:
    names = arrays.class_names(names)
  if keys.labels:
    array = f'{place}: {keys.labels}'
    given = arrays.labels({'train': held[keys.labels]}, names,
                          {'train': array})
    labels, names = given.numbers['train'], given.class_names
    arrays.one_each(labels, len(pixels), array)
  return _in_memory(spec, 'npz', pixels, labels, names, resize)


def _split_of(there, name: str, given: str, where: str) -> str:
  """Returns which of the splits that there are is meant."""
  if not given and len(there) == 1:
    return next(iter(there))
  split = layout.SPLITS.get(given.casefold(), given)
  if split not in there:
    raise errors.InputError(
        f'{where}: {name} has the splits {", ".join(there)}, got '
        f'{given or "none of them"}; expected one, such as {name}@'
        f'{next(iter(there))}.{errors.nearest(given, there)}')
  return split


def _statistics(spec, path, where) -> Source:
  found, about = moments.load(path, where)
  about = {k: np.asarray(v).item() for k, v in about.items() if np.ndim(v) == 0}
  count = about.get('count')
  if count is not None:
    errors.count(f'{where}: {path}: count', count, least=0)
  return Source(spec, 'statistics', None, None if count is None else int(count),
                None, None, None, images.digest(*found), found, about)


def _pool(spec, path, resize) -> Source:
  pool = pools.read(path)
  return _in_memory(spec, 'pool', pool.images, pool.labels,
                    tuple(pool.manifest['class_names']), resize)


def _data_set(spec, resize, where) -> Source:
  """A block of datasets/ by its name, or else a set of TFDS."""
  name, _, split = spec.partition('@')
  own = _own_sets()
  if not split:
    raise errors.InputError(
        f'{where}: there is no file, folder or pool {spec!r}; a data set wants '
        f'its split, such as {name}@test.{errors.nearest(name, own)}')
  if name in own:
    dataset = own[name].load()
    errors.one_of(f'{where}: the split of {name}', split, SPLITS)
    part = getattr(dataset, split)
    if part is None:
      raise errors.InputError(f'{where}: {name} has no split {split!r}.')
  else:
    dataset = registry.find('datasets', 'tfds').load(
        name=name, train_split=split, test_split='')
    part = dataset.train
  labels = arrays.numbered(np.asarray(part.labels), len(dataset.class_names),
                            f'{where}: {spec}')
  return _in_memory(spec, 'data set', np.asarray(part.images), labels,
                    dataset.class_names, resize)


def _own_sets() -> dict:
  """Returns the blocks of datasets/ that need no argument, by name."""
  blocks = {name: registry.find('datasets', name)
            for name in registry.names('datasets')}
  return {name: block for name, block in blocks.items()
          if inspect.Parameter.empty not in registry.arguments(
              block.load).values()}


def _files(spec, place, split, resize, where) -> Source:
  """Images in folders, with or without classes, or whatever auto.py knows."""
  auto = registry.find('datasets', 'auto')
  try:
    kind = auto.kind(place, where)
    if kind == 'folder':
      if split and (place / split).is_dir():  # The others may be what they are.
        place, split = place / split, ''
      found = layout.walk(place, where)
      dataset = reading.dataset(
          place.name, layout.arrange(found, where, flat=True),
          reading.How(resize), f'{where}: {place}', same_classes=False)
    else:
      dataset = registry.find('datasets', kind).load(path=str(place),
                                                     resize=resize)
  except errors.InputError as e:  # As this command calls these.
    said = str(e).replace('config.data.path', where).replace(
        'set config.data.resize, or config.data.crop',
        '--resize=PIXELS gives them one size')
    raise errors.InputError(said) from e
  parts = {name: part for name in SPLITS
           if (part := getattr(dataset, name)) is not None}
  part = parts[_split_of(parts, place.name, split, where)]
  sha = hashlib.sha256(repr(resize).encode())
  for name, data in zip(part.images.names, part.images.encoded(), strict=True):
    sha.update(os.fsencode(name) + data)
  labels = part.labels if dataset.class_names else None
  return Source(spec, 'folder' if place.is_dir() else 'files',
                part.images.size, len(part.images), labels,
                dataset.class_names, part.images.__getitem__, sha.hexdigest())
