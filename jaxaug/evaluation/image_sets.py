"""Where a set of images lies: a folder, an npz, a pool, a data set, statistics.

What the user writes is a path or a name, with `@SPLIT` where there are several.
"""
import concurrent.futures
import hashlib
import os
import pathlib
import typing

import numpy as np

from jaxaug.core import errors, files, registry, types
from jaxaug.data import images, pools
from jaxaug.evaluation import features, moments

SPLITS = ('train', 'validation', 'test')
# Arrays that hold images and labels in an npz of someone else's.
_KEYS = (('images', 'labels'), ('arr_0', 'arr_1'), ('x', 'y'))
_BLOCKS = ('folder', 'npz', 'tfds')  # Not data sets themselves.


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
  return np.random.Generator(np.random.Philox(seed)).permutation(source.count)


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


def look(source: Source, eye: features.FeatureExtractor, needs, which: str,
         cache: pathlib.Path | None = None) -> types.ImageSet:
  """Returns what metrics need of a source; of statistics their moments.

  Args:
    source: of `open`.
    eye: what looks.
    needs: fields of types.ImageSet, as of measure.needs.
    which: the side, in errors and on the progress line.
    cache: folder where what was seen is kept by the images' content, or None.

  Raises:
    InputError: statistics of another network, or where more is needed.
  """
  if source.moments is not None:
    _check_statistics(source, eye, set(needs), which)
    return types.ImageSet(source.count, source.moments)
  side = features.extract(
      eye, batches(source, eye.batch_size), source.count, needs,
      title=f'{which} {source.name}', cache=cache, digest=source.digest)
  every = np.arange(source.count)
  return side._replace(
      labels=source.labels,
      images=source.read(every) if 'images' in needs else None)


def _check_statistics(source, eye: features.FeatureExtractor, needs: set, which: str):
  if more := sorted(needs - {'moments'}):
    raise errors.InputError(
        f'{which}: {source.name} holds mean and covariance only; expected '
        f'images for metrics that need {", ".join(more)}, or --metrics=fid.')
  for key, mine in eye.identity.items():
    if source.about.get(key, mine) != mine:
      raise errors.InputError(
          f'{which}: {source.name} holds statistics whose {key} is '
          f'{source.about[key]!r}; expected {mine!r}.')


def _find(spec, resize, where) -> Source:
  if os.path.exists(os.path.expanduser(spec)):
    place, split = pathlib.Path(spec).expanduser(), ''
  else:
    head, _, split = spec.rpartition('@')
    place = pathlib.Path(head or spec).expanduser()
  if place.is_file():
    return _file(spec, place, split, resize, where)
  if place.is_dir() and not (place / 'pool.npz').exists():
    return _folder(spec, place / split, resize, where)
  if place.is_dir() or place.parent.name == 'pools':
    return _pool(spec, place, resize)
  return _data_set(spec, resize, where)


def _in_memory(spec, kind, array, labels, names, resize) -> Source:
  array = images.fit_all(array, resize, where=spec)
  return Source(spec, kind, array.shape[1:], len(array), labels, names,
                array.__getitem__, images.digest(array))


def _file(spec, path, split, resize, where) -> Source:
  if path.suffix != '.npz':
    raise errors.InputError(
        f'{where}: {path} is no .npz file; expected a folder of images, an '
        '.npz, a pool or a data set.')
  arrays = files.read_npz(path, where)
  if {'mu', 'sigma'} <= arrays.keys():
    found, about = moments.load(path)
    count = about.get('count')
    about = {k: np.asarray(v).item() for k, v in about.items()
             if np.ndim(v) == 0}
    return Source(spec, 'statistics', None,
                  None if count is None else int(count), None, None, None,
                  images.digest(*found), found, about)
  image_key, label_key = _keys(arrays, split, path, where)
  pixels = images.from_array(arrays[image_key], f'{path}: {image_key}')
  labels = arrays.get(label_key)
  if labels is not None:
    labels = np.asarray(labels).reshape(-1).astype(np.int32)
    if len(labels) != len(pixels):
      raise errors.InputError(
          f'{where}: {path}: {label_key} has {len(labels)} rows, {image_key} '
          f'has {len(pixels)}.')
  names = arrays.get('class_names')
  return _in_memory(spec, 'npz', pixels, labels, names if names is None else
                    tuple(map(str, names.tolist())), resize)


def _keys(arrays, split, path, where) -> tuple[str, str]:
  """Returns the names of the arrays that hold the images and their labels."""
  parts = [name for name in ('train', 'val', 'test') if f'x_{name}' in arrays]
  split = {'validation': 'val'}.get(split, split) or (
      parts[0] if len(parts) == 1 else '')
  if split:
    if split in parts:
      return f'x_{split}', f'y_{split}'
  elif not parts:
    for image_key, label_key in _KEYS:
      if image_key in arrays:
        return image_key, label_key
  expected = (' or '.join(f'{path.name}@{name}' for name in parts) if parts
              else 'an array called images, arr_0, x or x_train, or mu and '
              'sigma')
  raise errors.InputError(
      f'{where}: {path} holds {", ".join(arrays) or "nothing"}; expected '
      f'{expected}.')


def _pool(spec, path, resize) -> Source:
  arrays, manifest = pools.read(path)
  return _in_memory(spec, 'pool', arrays['images'], arrays['labels'],
                    tuple(manifest['class_names']), resize)


def _data_set(spec, resize, where) -> Source:
  """A block of datasets/ by its name, or else a set of TFDS."""
  name, _, split = spec.partition('@')
  own = [n for n in registry.names('datasets') if n not in _BLOCKS]
  if not split:
    raise errors.InputError(
        f'{where}: there is no file, folder or pool {spec!r}; a data set wants '
        f'its split, such as {name}@test.{errors.nearest(name, own)}')
  if name in own:
    dataset = registry.find('datasets', name).load()
    errors.one_of(f'{where}: the split of {name}', split, SPLITS)
    part = getattr(dataset, split)
    if part is None:
      raise errors.InputError(f'{where}: {name} has no split {split!r}.')
  else:
    dataset = registry.find('datasets', 'tfds').load(
        name=name, train_split=split, test_split='')
    part = dataset.train
  return _in_memory(spec, 'data set', np.asarray(part.images),
                    np.asarray(part.labels), dataset.class_names, resize)


def _image_files(folder) -> list[pathlib.Path]:
  return sorted(f for f in folder.iterdir() if f.name[0] != '.'
                and f.suffix.lower() in images.ENDINGS and f.is_file())


def _folder(spec, root, resize, where) -> Source:
  """Images of a folder, each class in one of its own or all beside another."""
  if not root.is_dir():
    near = [f.name for f in root.parent.iterdir() if f.is_dir()]
    raise errors.InputError(f'{where}: there is no folder {root}.'
                            f'{errors.nearest(root.name, near)}')
  folders = sorted(f for f in root.iterdir()
                   if f.is_dir() and f.name[0] != '.')
  classes = {f.name: found for f in folders if (found := _image_files(f))}
  loose = _image_files(root)
  if loose and classes:
    raise errors.InputError(
        f'{where}: {root} holds images and also folders of images '
        f'({next(iter(classes))}/); expected one of the two.')
  files = loose or [f for found in classes.values() for f in found]
  if not files:
    inner = [f'{root / f.name}' for f in folders]
    raise errors.InputError(
        f'{where}: {root} holds no image; expected '
        f'{", ".join(images.ENDINGS)} files in it or in one folder a class' + (
            f'. Perhaps {" or ".join(inner[:3])}?' if inner else '.'))
  labels = None if loose else np.repeat(
      np.arange(len(classes), dtype=np.int32),
      [len(found) for found in classes.values()])
  return _of_files(spec, root, files, labels,
                   None if loose else tuple(classes), resize)


def _of_files(spec, root, files, labels, names, resize) -> Source:
  first = images.fit(images.decode(files[0]), resize)
  files = np.array(files, object)

  def one(file):
    image = images.fit(images.decode(file), resize, where=str(file))
    if image.shape[2] == 1 and first.shape[2] == 3:
      image = image.repeat(3, 2)
    if image.shape != first.shape:
      raise errors.InputError(
          f'{file}: is {_size(image.shape)}, but {files[0]} is '
          f'{_size(first.shape)}; expected images of one kind: '
          '--resize=PIXELS gives them one size.')
    return image

  def read(rows):
    # Pillow decodes outside Python's lock, so threads do run side by side.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
      try:
        return np.stack(list(pool.map(one, files[rows])))
      finally:
        pool.shutdown(cancel_futures=True)

  sha = hashlib.sha256(repr(resize).encode())
  for file in files:
    sha.update(str(file.relative_to(root)).encode() + file.read_bytes())
  return Source(spec, 'folder', first.shape, len(files), labels, names, read,
                sha.hexdigest())


def _size(shape) -> str:
  height, width, channels = shape
  return f'{height}x{width} {"grey" if channels == 1 else "RGB"}'
