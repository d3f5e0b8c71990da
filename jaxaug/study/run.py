"""A study from its config to its report; what is done is skipped."""
import contextlib
import os
import pathlib
import tempfile

import numpy as np

from jaxaug.core import console, errors, files, interrupts
from jaxaug.study import plan as planning
from jaxaug.study import results as found
from jaxaug.study import schema, tasks
from jaxaug.study.report import page
from jaxaug.study.stages import audit

STAGES = ('data', *planning.STAGES, 'results', 'report')


def _pictures(study: tasks.Study, most: int = 8) -> tuple[dict, dict, dict]:
  """Returns, of every pool, (real, fake) uint8 [K, M, H, W, C] and the pairs
  of its audit; and of every generator with a latent space its interpolation."""
  def rows(split):
    per = [np.flatnonzero(split.labels == k) for k in
           range(study.spec.num_classes)]
    count = min(most, *map(len, per))
    return np.stack([split.images[p[:count]] for p in per])
  grids, pairs, between = {}, {}, {}
  for fold, made in zip(study.folds, study.tasks, strict=True):
    for name, task in made['generate'].items():
      picture = task.read().interpolation()
      if picture is not None:
        between[fold.title(name)] = picture
    for name, task in made['pool'].items():
      grids[fold.title(name)] = rows(fold.splits.train), rows(task.read())
      pairs[fold.title(name)] = made['audit'][name].read()[1]
  return grids, pairs, between


def _work(study: tasks.Study, last: str):
  """Does every task up to the stage `last` that is not done."""
  stages = STAGES[:STAGES.index(last) + 1]
  for task in study.all_tasks():
    interrupts.check()
    if task.stage not in stages:
      continue
    if not task.done:
      task.work()
    if task.stage == 'audit':  # A gate: also where it was done before.
      audit.gate(task.read()[0], task.name, task.folder,
                 **study.config['audit'])


def _is_whole(final: pathlib.Path) -> bool:
  """Whether results are there; damaged ones are made anew."""
  try:
    return files.is_done(final)
  except errors.InputError:
    return False


def _conclude(study: tasks.Study, command: str, stage: str) -> dict:
  """Writes results.json and report.html where their inputs have changed."""
  place = found.folder(study)
  if not _is_whole(place.final):
    made = found.collect(study, command)
    if os.path.lexists(place.final):
      console.say(f'{place.final}: is damaged, and made again')
      files.remove(place.final)
    found.write(place, made)
  results = files.read_json(place.final / 'results.json')
  if stage == 'report' and not files.intact(place.final, 'report.html'):
    grids, pairs, between = _pictures(study)
    page.write(results, grids, place.final / 'report.html', pairs, between)
    files.include(place.final, 'report.html')
  # What the user looks for stands at the top, of the latest launch.
  for file in ('results.json', 'report.html'):
    if (place.final / file).exists():
      files.copy(place.final / file, study.workdir / file)
    else:  # That of an earlier launch would mislead.
      (study.workdir / file).unlink(missing_ok=True)
  return results


@contextlib.contextmanager
def plan(config: dict, workdir: pathlib.Path):
  """Yields the study of a launch, nothing done; new data in a scratch."""
  schema.check(config)
  files.check_owner(workdir, config['name'])
  with tempfile.TemporaryDirectory() as scratch:
    yield planning.open_study(config, workdir, pathlib.Path(scratch))


def overview(study: tasks.Study) -> list[tuple[str, str, int, list[bool]]]:
  """Returns (stage, what, steps, whether each part is done), in order.

  Parts are the runs of an arm; data that a dry run made is not done.
  """
  rows = {}
  for task in study.all_tasks():
    name, dot, _ = task.name.rpartition('.')  # Without the run's number.
    done = task.done and task.folder.final.is_relative_to(study.workdir)
    rows.setdefault((task.stage, name if dot else task.name, task.steps),
                    []).append(done)
  place = found.folder(study).final
  whole = _is_whole(place)
  rows['results', 'results.json', 0] = [whole]
  rows['report', 'report.html', 0] = [
      whole and files.intact(place, 'report.html')]
  return [(*row, done) for row, done in rows.items()]


def run(config: dict, workdir, *, stage: str = 'all', command: str = ''):
  """Runs a study up to `stage` and returns its results, or None before them.

  Args:
    config: plain dict; see configs/common.py.
    workdir: made if absent; holds every artefact.
    stage: one of STAGES, or 'all'; earlier stages that are not done come first.
    command: the line that launched it, for the report.

  Raises:
    InputError: something in the config, the data or the workdir is wrong, or
      a pool leaks the test split.
    interrupts.Interrupted: asked to stop; all is saved.
  """
  last = 'report' if stage == 'all' else stage
  schema.check(config)
  workdir = pathlib.Path(workdir)
  with files.lock(workdir, config['name']):
    study = planning.open_study(config, workdir)
    files.write_json(workdir / 'config.json', config)
    _work(study, last)
    if last in ('results', 'report'):
      return _conclude(study, command, last)
  return None
