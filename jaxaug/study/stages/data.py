"""A source becomes seeded splits on the disk, with their hashes."""
import functools
import pathlib
import time

import numpy as np

from jaxaug.core import console, files, types
from jaxaug.data import images, splits
from jaxaug.study import schema
from jaxaug.study import tasks as study_tasks

# A change of what this stage computes belongs into its key.
VERSION = 4
_PARTS = ('train', 'validation', 'test', 'unused')


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


def run(folder: files.Folder, *, seed: int, **config) -> dict:
  """Loads, splits and writes the data; returns the manifest."""
  begun = time.monotonic()
  load, load_args, split_args = schema.data_arguments(**config)
  dataset = load(**load_args)
  # A source that takes these keys has cut its images already.
  fit = {key: config[key] for key in ('resize', 'crop')
         if config.get(key) is not None and key not in load_args}
  dataset = dataset._replace(**{
      part: split._replace(images=images.fit_all(
          np.asarray(split.images), **fit))
      for part in ('train', 'validation', 'test')
      if (split := getattr(dataset, part)) is not None})
  made = splits.make(dataset, seed=seed, **split_args)
  # Here, as numpy does not say that the disk is full.
  files.check_space(folder.partial, sum(
      array.nbytes for part in _PARTS for array in getattr(made, part)))
  files.begin(folder.partial)
  for part in _PARTS:
    split = getattr(made, part)
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
      'checks': dataset.about, **report, 'seconds': time.monotonic() - begun}
  files.finish(folder.partial, folder.final, manifest)
  sizes = ', '.join(f'{len(getattr(made, part).labels)} {part}'
                    for part in _PARTS)
  console.say(f'data: {dataset.name}, {len(made.class_names)} classes, '
              f'{sizes} images')
  return manifest


def read(folder: files.Folder) -> splits.Splits:
  """Returns what `run` wrote; images are mapped from the disk.

  `report` is the manifest: 'shape', 'digests', 'counts', 'overlaps' and more.
  """
  manifest = files.manifest(folder.final)

  def split(part):
    return types.Split(*(
        np.load(folder.final / f'{part}_{field}.npy', mmap_mode='r')
        for field in types.Split._fields))
  report = {k: v for k, v in manifest.items() if k not in ('folder', 'files')}
  return splits.Splits(*map(split, _PARTS), tuple(report['class_names']),
                       report)
