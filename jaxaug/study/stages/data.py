"""A source becomes seeded splits on the disk, with their hashes.

What does not fit in memory becomes records, and a split names some of them.
"""
import functools
import math
import pathlib
import time

import numpy as np

from jaxaug.core import console, errors, files, types
from jaxaug.data import images, records, splits
from jaxaug.evaluation import copies
from jaxaug.study import schema
from jaxaug.study import tasks as study_tasks

# A change of what this stage computes belongs into its key.
VERSION = 5
_PARTS = ('train', 'validation', 'test', 'unused')
# Pairs of images in which near duplicates are looked for, at most.
_PAIRS = 10**7
_NAMED = 20      # Of these, pairs that the manifest names.


def folds(config: dict) -> int:
  """How many folds a study goes through; 1 without cross-validation."""
  given = config['data']
  return given['folds'] if given.get('folds') and given.get(
      'fold') is None else 1


def tasks(config: dict, workdir: pathlib.Path) -> list[study_tasks.Task]:
  """Returns the task of each fold; no study is known before they are done."""
  out = []
  for number in range(count := folds(config)):
    given = config['data'] | ({'fold': number} if count > 1 else {})
    key = files.digest([VERSION, config['seed'], given,
                        files.fingerprint(given.get('path'))])
    folder = files.folder(workdir / 'data', key)
    out.append(study_tasks.Task(
        'data', given['source'], folder,
        functools.partial(run, folder, seed=config['seed'], **given),
        functools.partial(read, folder)))
  return out


def run(folder: files.Folder, *, seed: int, memory: float = math.inf,
        **config) -> dict:
  """Loads, splits and writes the data; returns the manifest.

  Args:
    folder: where to.
    seed: of the splits.
    memory: GiB; images that take more stay on the disk.
    **config: the other keys of config.data.
  """
  begun = time.monotonic()
  load, load_args, split_args = schema.data_arguments(**config)
  dataset = load(**load_args)
  # A source that takes these keys has cut its images already.
  fit = {key: config[key] for key in ('resize', 'crop')
         if config.get(key) is not None and key not in load_args}
  files.remove(folder.partial)
  try:
    dataset = _fitted(dataset, fit, memory, folder.partial)
    made = splits.make(dataset, seed=seed, **split_args)
    # Here, as numpy does not say that the disk is full.
    files.check_space(folder.partial, sum(
        array.nbytes for part in _PARTS for array in getattr(made, part)
        if isinstance(array, np.ndarray)))
  except errors.InputError:  # Nobody comes back for what is half done.
    files.remove(folder.partial)
    raise
  files.begin(folder.partial, resume=True)
  kept = {}
  for part in _PARTS:
    split = getattr(made, part)
    if not isinstance(split.images, np.ndarray):
      kept[part] = split.images.path.name
      split = split._replace(images=split.images.rows)
    with files.writing(folder.partial):
      for field, array in split._asdict().items():
        np.save(folder.partial / f'{part}_{field}.npy', array)
  report = dict(made.report)
  manifest = {
      'name': dataset.name, 'class_names': list(made.class_names),
      'shape': list(made.train.images.shape[1:]),
      'counts': {part: list(counts.values())
                 for part, counts in report.pop('counts').items()},
      'digests': report.pop('sha256'), 'overlaps': report.pop('duplicates'),
      'checks': _seen(dataset) | dataset.about, 'near': _near(dataset, made),
      'records': kept, 'limit': int(memory * 2**30) if kept else 0,
      **report, 'seconds': time.monotonic() - begun}
  files.finish(folder.partial, folder.final, manifest)
  sizes = ', '.join(f'{len(getattr(made, part).labels)} {part}'
                    for part in _PARTS)
  console.say(f'data: {dataset.name}, {len(made.class_names)} classes, '
              f'{sizes} images')
  return manifest


def _fitted(dataset: types.Dataset, fit: dict, memory: float,
            folder: pathlib.Path) -> types.Dataset:
  """Cuts the images of a data set; those that are too many go to the disk."""
  parts = {part: split for part in ('train', 'validation', 'test')
           if (split := getattr(dataset, part)) is not None}
  shape = dataset.train.images.shape
  size = (*images.fitted(shape[1:3], **fit), shape[3])
  count = sum(len(split.labels) for split in parts.values())
  took = count * math.prod(size)
  if took <= memory * 2**30:  # GiB.
    return dataset._replace(**{
        part: split._replace(images=images.fit_all(
            np.asarray(split.images), **fit)) for part, split in parts.items()})
  console.say(f'data: {count:,} images take {took / 2**30:.3g} GiB, above '
              f'config.data.memory ({memory:g}): they stay on the disk')
  files.check_space(folder, took)
  files.begin(folder)
  return dataset._replace(**{
      part: split._replace(images=records.write(
          folder / f'{part}.array_record', (
              images.fit_all(np.asarray(block), **fit)
              for block in images.blocks(split.images)), size,
          int(memory * 2**30))) for part, split in parts.items()})


def _seen(dataset: types.Dataset) -> dict:
  """What there is to say of images whose source says nothing of them."""
  height, width, channels = dataset.train.images.shape[1:]
  count = sum(len(split.labels) for split in (
      dataset.train, dataset.validation, dataset.test) if split is not None)
  return {'sizes': {f'{height}x{width}': count},
          'modes': {'grey' if channels == 1 else 'RGB': count}}


def _near(dataset: types.Dataset, made: splits.Splits) -> dict:
  """Looks for test and validation images that are nearly training images.

  Returns:
    For 'test' and 'validation', where they have images: 'looked', how many were
    looked at, drawn alike; 'count' of near duplicates, without equal images;
    'usual', the share of training images that are so near to each other; and
    'pairs' of names, the nearest first.
  """
  name = splits.Namer(dataset, made.report['test_from'],
                      made.report['validation_from'], made.class_names)
  train, out = made.train, {}
  for part in ('test', 'validation'):
    split = splits.some(getattr(made, part), _PAIRS // len(train.labels))
    if not len(split.labels):
      continue
    try:
      found = copies.compare(copies.Side(split.images),
                             copies.Side(train.images), moved=False)
    except errors.InputError:  # All of one class may be the same image.
      continue
    near = np.flatnonzero(found.near)
    near = near[np.argsort(found.distance[near], kind='stable')]
    pairs = [[name(part, int(split.index[i]), int(split.labels[i])),
              name('train', int(train.index[j]), int(train.labels[j]))]
             for i, j in zip(near[:_NAMED], found.index[near[:_NAMED]],
                             strict=True)]
    out[part] = {'looked': len(split.labels), 'count': len(near),
                 'usual': float(found.yardstick_found.mean()), 'pairs': pairs}
  return out


def read(folder: files.Folder) -> splits.Splits:
  """Returns what `run` wrote; images are mapped from the disk, or records.

  `report` is the manifest: 'shape', 'digests', 'counts', 'overlaps' and more.
  """
  manifest = files.manifest(folder.final)

  def split(part):
    found = types.Split(*(
        np.load(folder.final / f'{part}_{field}.npy', mmap_mode='r')
        for field in types.Split._fields))
    name = manifest.get('records', {}).get(part)
    return found if name is None else found._replace(images=records.Records(
        folder.final / name, manifest['shape'], found.images,
        manifest['limit']))
  report = {k: v for k, v in manifest.items() if k not in ('folder', 'files')}
  return splits.Splits(*map(split, _PARTS), tuple(report['class_names']),
                       report)
