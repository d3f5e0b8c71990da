"""Tasks: pieces of a study's work, each with a folder that is whole or absent.

A folder is named by a hash of all that its work reads, so that a second launch
skips what is done and a changed setting redoes what depends on it.
"""
import functools
import pathlib
import typing

import numpy as np

from jaxaug.core import files, registry, types
from jaxaug.data import splits
from jaxaug.evaluation import features
from jaxaug.training import checkpoint, fit

# Bytes of the logs, grids and manifest of a task, and of results and report.
_LOGS, _REPORT = 2**17, 2**21


class Size(typing.NamedTuple):
  """Bytes on the disk: those that a task leaves, and those that it needs beside
  them while it works."""
  left: int = 0
  meanwhile: int = 0


class Task(typing.NamedTuple):
  """One piece of work.

  stage: a file of stages/, and the folder of the workdir that it lies in.
  name: among the tasks of its stage and fold.
  folder: where what it makes stands.
  work(): fills the folder, and may fill those of its siblings.
  read(): what the folder holds, as the stage's `read` says.
  steps: of its training; 0 for none.
  needs: the tasks that it reads, but for the data.
  site: where it works with its siblings; None for a place of its own.
  title: its name among those of all folds; its own for only one.
  where: the part of the config that says how it is done.
  size() -> Size, but for logs and pictures; a guess, from shapes alone.
  """
  stage: str
  name: str
  folder: files.Folder
  work: typing.Callable[[], typing.Any]
  read: typing.Callable[[], typing.Any]
  steps: int = 0
  needs: tuple = ()
  site: files.Folder | None = None
  title: str = ''
  where: str = ''
  size: typing.Callable[[], Size] = Size

  @property
  def key(self) -> str:
    """What a task that reads this one has in its own hash."""
    return self.folder.final.name

  @property
  def place(self) -> files.Folder:
    """Where it works until it is done."""
    return self.site or self.folder

  @property
  def done(self) -> bool:
    """Whether the folder is whole; InputError if it was damaged since."""
    return files.is_done(self.folder.final)

  def manifest(self) -> dict:
    """Returns what is written down of the finished work."""
    return files.manifest(self.folder.final)


class Machine(typing.NamedTuple):
  """How work is done; no number depends on it but by rounding.

  devices: mesh. steps_per_call: steps of one dispatch, at most. together:
  whether the runs of an arm train in one program. save_every, sample_every:
  steps between checkpoints, and between grids of samples.
  """
  devices: typing.Any
  steps_per_call: int
  together: bool
  save_every: int
  sample_every: int


class Fold(typing.NamedTuple):
  """One split of the data; the only one without cross-validation.

  number: its place, or None for the only one.
  pool_sizes: pool -> images of each class in it, int64 [K], at least.
  brought: pool -> imports.Import, of those that are not drawn.
  """
  number: int | None
  data: Task
  splits: splits.Splits
  pool_sizes: dict[str, np.ndarray] = {}
  brought: dict = {}

  def digests(self, *parts: str) -> list[str]:
    """Names the contents of some splits in a hash."""
    return [self.splits.report['digests'][part] for part in parts]

  def label(self, name: str) -> str:
    """What a task is called among those of all folds, in logs and folders."""
    return name if self.number is None else f'{name}.fold{self.number}'

  def title(self, name: str) -> str:
    """The same for a reader of the report."""
    return name if self.number is None else f'{name}, fold {self.number}'

  @property
  def labels(self) -> np.ndarray:
    """Labels of the training split, int32 [N]."""
    return np.asarray(self.splits.train.labels)


class Study(typing.NamedTuple):
  """What every stage knows: the config, the images, the machine.

  models: generator -> types.GenerativeModel.
  tasks: for each fold, stage -> its tasks by name, in the order of the work.
  """
  config: dict
  workdir: pathlib.Path
  spec: types.ImageSpec
  arms: tuple
  models: dict
  machine: Machine
  folds: tuple[Fold, ...]
  tasks: tuple[dict[str, dict[str, Task]], ...] = ()

  def seed(self, *purpose) -> int:
    """A seed of its own for everything that has a name."""
    return int(files.digest([self.config['seed'], *purpose])[:7], 16)

  @property
  def extractor(self) -> features.FeatureExtractor:
    """The frozen network that looks at generated images."""
    block = self.config['evaluation']
    return extractor(block['extractor'], block['weights'],
                     block['batch_size'], self.machine.devices)

  def folder(self, stage: str, name: str, reads) -> files.Folder:
    """Names the folder of a task by all that its work reads, a JSON value."""
    return files.folder(self.workdir / stage, f'{name}-{files.digest(reads)}')

  def room(self) -> int:
    """Bytes on the disk that the study still needs, about."""
    sizes = [task.size() for task in self.all_tasks() if not task.done]
    return sum(size.left + _LOGS for size in sizes) + max(
        (size.meanwhile for size in sizes), default=0) + _REPORT

  def all_tasks(self):
    """Yields every task of every fold, in the order of the work."""
    for stages in self.tasks:
      for tasks in stages.values():
        yield from tasks.values()


def of_training(net: fit.Network, fold: Fold, runs: int = 1) -> Size:
  """The size of a classifier's task, of which so many train in one program."""
  weights, state = fit.sizes(net)
  predictions = 4 * len(fold.splits.test.labels) * (net.spec.num_classes + 1)
  return Size(weights + predictions, checkpoint.room(runs * state))


@functools.lru_cache(8)  # Each selector may have one of its own.
def extractor(name, weights, batch_size, devices,
              where: str = 'config.evaluation') -> features.FeatureExtractor:
  """Returns a frozen network on the devices; `where` the config names it."""
  given = {'weights': weights} if weights else {}
  network = registry.build('extractors', name, given, where, key='extractor')
  return features.extractor(network, devices, batch_size)
