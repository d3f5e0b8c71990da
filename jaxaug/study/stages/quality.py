"""How good a pool is: every metric, beside the real splits and as they are."""
import functools
import pathlib
import time

import numpy as np

from jaxaug.core import errors, files, types
from jaxaug.data import images, splits
from jaxaug.evaluation import features, measure
from jaxaug.study import tasks as study_tasks
from jaxaug.study.stages import judge

# A change of what this stage computes belongs into its key.
VERSION = 2
# Real images of a split that are looked at; of more, so many drawn alike.
_MOST = 50_000
# (what the pool is held against, its column); the last is the yardstick: real
# training images in the place of the pool.
PAIRS = {'train': ('train', 'pool'), 'test': ('test', 'pool'),
         'real': ('test', 'train')}


def tasks(study: study_tasks.Study, fold: study_tasks.Fold,
          made: dict) -> list[study_tasks.Task]:
  """Returns a task for each pool."""
  return [_task(study, fold, pool) for pool in made['pool'].values()]


def _task(study, fold, pool: study_tasks.Task) -> study_tasks.Task:
  metrics, fit, trains = study.config['evaluation']['metrics'], None, None
  needs = measure.needs(measure.blocks(metrics))
  features.check(study.extractor.network, study.spec[:3], needs,
                 'config.evaluation.extractor')
  if 'fit' in needs:
    fit, trains = judge.fitter(study, fold)
  folder = study.folder('quality', pool.name, [
      VERSION, pool.key, study.extractor.identity, metrics, trains,
      fold.digests('train', 'test')])

  def work():
    run(folder, name=fold.label(pool.name), extractor=study.extractor, fit=fit,
        sets={'pool': pool.read(), 'train': fold.splits.train,
              'test': fold.splits.test},
        metrics=metrics, cache=features.cache())
  return study_tasks.Task('quality', pool.name, folder, work,
                          functools.partial(read, folder), needs=(pool,),
                          where='config.evaluation')


def run(folder: files.Folder, *, name: str, sets: dict,
        extractor: features.FeatureExtractor, metrics: tuple[str, ...],
        cache: pathlib.Path | None = None, fit=None) -> dict:
  """Computes every metric of a pool beside the training and the test images.

  Beside a pool of some classes stand real images of these. Nothing is chosen by
  what is found here.

  Args:
    folder: where to; all is in the manifest, see `read`.
    name: the pool's.
    sets: 'pool', 'train' and 'test' -> types.Split.
    extractor: what looks.
    metrics: files of image_metrics/.
    cache: folder that keeps what was seen of the real splits.
    fit: for metrics that train a classifier.
  """
  begun, blocks = time.monotonic(), measure.blocks(metrics)
  classes = np.unique(sets['pool'].labels)
  sets = {which: splits.of_classes(split, classes)
          for which, split in sets.items()}
  notes = []
  for which in ('train', 'test'):
    if (count := len(sets[which].labels)) > _MOST:
      notes.append(f'{which}: {_MOST:,} of {count:,} images, drawn alike')
      sets[which] = splits.some(sets[which], _MOST)
  seen = {which: _extract(extractor, split, measure.needs(blocks),
                          f'quality {name}: {which} images',
                          cache if which != 'pool' else None)
          for which, split in sets.items()}
  rows = {}
  for against, (real, fake) in PAIRS.items():
    for metric, block in blocks.items():
      try:
        found = measure.rows({metric: block}, seen[real], seen[fake],
                             extractor.network, fit=fit)
      except errors.InputError as e:  # Too few images for one is no disaster.
        if str(e) not in notes:
          notes.append(str(e))
        continue
      for row in found:
        entry = rows.setdefault(row.name, {
            'label': row.label, 'lower_is_better': row.lower_is_better})
        entry[against] = row.measured._asdict() | {
            'real': row.real, 'fake': row.fake}
  notes += [note for note in measure.notes(seen['test'], seen['pool'])
            if note not in notes]
  manifest = {'quality': extractor.identity | {'rows': rows, 'notes': notes},
              'seconds': time.monotonic() - begun}
  files.begin(folder.partial)
  files.finish(folder.partial, folder.final, manifest)
  return manifest


def _extract(extractor, split: types.Split, needs, title,
             cache) -> types.ImageSet:
  return features.of_array(
      extractor, split.images, needs, split.labels, title, cache=cache,
      digest=images.digest(split.images) if cache else '')


def read(folder: files.Folder) -> dict:
  """Returns what `run` found.

  'extractor', 'weights', 'protocol' of the network; 'notes', a line each;
  'rows': name -> 'label', 'lower_is_better', and for each of PAIRS that could
  be computed a types.Measured as a dict, with the counts 'real' and 'fake'.
  """
  return files.manifest(folder.final)['quality']
