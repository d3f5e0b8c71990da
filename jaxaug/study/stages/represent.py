"""Representatives: the training images that stand for their class.

Models that learn from one image learn from these.
"""
import functools
import time
import typing

import numpy as np

from jaxaug.core import console, files, types
from jaxaug.data import images
from jaxaug.study import selection
from jaxaug.study import tasks as study_tasks

# A change of what this stage computes belongs into its key.
VERSION = 1


class Representatives(typing.NamedTuple):
  """What was picked.

  places: int64 [R], in the training split, by class. labels: int32 [R].
  picture() -> uint8 [H, W, C], a class to a row.
  """
  places: np.ndarray
  labels: np.ndarray
  picture: typing.Callable


def tasks(study: study_tasks.Study, fold: study_tasks.Fold,
          made: dict) -> list[study_tasks.Task]:
  """Returns a task for each selector that a generator has its images from."""
  del made
  used = dict.fromkeys(block['representatives'] for block in
                       study.config['generators'].values())
  return [_task(study, fold, name) for name in used if name]


def _task(study, fold, name: str) -> study_tasks.Task:
  selector = selection.of_representatives(study.config, name)
  labels = selection.labels(study, fold, name)
  select = selection.build(study, fold, selector)
  folder = study.folder('represent', name, [
      VERSION, fold.digests('train'),
      selection.reads(study, fold, selector)])

  def work():
    run(folder, name=fold.label(name), select=select, train=fold.splits.train,
        labels=labels, seen_by=selection.extractor(
            study, selector).identity['extractor']
        if 'features' in selector.needs else None)
  return study_tasks.Task('represent', name, folder, work,
                          functools.partial(read, folder),
                          where=selector.where)


def run(folder: files.Folder, *, name: str, select, train: types.Split,
        labels: np.ndarray, seen_by: str | None = None) -> dict:
  """Picks the representatives and writes them with a picture of each.

  Args:
    folder: where to; representatives.npz, representatives.png, the manifest.
    name: of the selector.
    select: see selection.build.
    train: the training split.
    labels: int32 [R], what classes they will be of.
    seen_by: the extractor that tells images apart, if one does.
  """
  begun, classes = time.monotonic(), np.unique(labels)
  rows = np.flatnonzero(np.isin(train.labels, classes))
  kept = rows[selection.screen(
      {name: select}, np.asarray(images.take(train.images, rows)),
      train.labels[rows]).keep]
  places = np.concatenate([kept[train.labels[kept] == k] for k in classes])
  np.testing.assert_array_equal(train.labels[places], labels)
  files.begin(folder.partial)
  files.save_npz(folder.partial / 'representatives.npz', places=places,
                 labels=labels)
  with files.writing(folder.partial):
    images.save_png(folder.partial / 'representatives.png', images.grid(
        train.images[places], len(labels) // len(classes)))
  manifest = {'extractor': seen_by, 'seconds': time.monotonic() - begun}
  files.finish(folder.partial, folder.final, manifest)
  console.say(f'represent {name}: {len(places)} images of {len(classes)} '
              f'classes' + (f', seen by {seen_by}' if seen_by else ''))
  return manifest


def read(folder: files.Folder) -> Representatives:
  """Returns what `run` wrote."""
  found = files.load_npz(folder.final / 'representatives.npz')
  return Representatives(
      found['places'], found['labels'], functools.partial(
          images.decode, folder.final / 'representatives.png'))
