"""A study from its config to its report; what is done is skipped."""
import contextlib
import os
import pathlib
import tempfile
import typing

import numpy as np

from jaxaug.core import console, errors, files, interrupts
from jaxaug.study import failures, schema, tasks
from jaxaug.study import plan as planning
from jaxaug.study import results as found
from jaxaug.study.report import page
from jaxaug.study.stages import audit

STAGES = ('data', *planning.STAGES, 'results', 'report')


def _pictures(study: tasks.Study, most: int = 8) -> page.Pictures:
  """Returns what the report shows of pools, audits and generators."""
  def rows(split, classes):
    per = [np.flatnonzero(split.labels == k) for k in classes]
    count = min(most, *map(len, per))
    return np.stack([split.images[p[:count]] for p in per])
  grids, pairs, between, chosen = {}, {}, {}, {}
  for fold, made in zip(study.folds, study.tasks, strict=True):
    for task in made['represent'].values():
      if task.done:
        chosen[task.title] = task.read().picture()
    for task in made['generate'].values():
      if task.done and (picture := task.read().interpolation()) is not None:
        between[task.title] = picture
    for task in made['pool'].values():
      if task.done:
        pool = task.read()
        classes = np.unique(pool.labels)
        grids[task.title] = (rows(fold.splits.train, classes),
                             rows(pool, classes), classes)
    for task in made['audit'].values():
      if task.done:
        pairs[task.title] = task.read()[1]
  return page.Pictures(grids, pairs, between, chosen)


def _work(study: tasks.Study, last: str, deadly: bool = False) -> list[dict]:
  """Does every task up to the stage `last` that is not done and can be.

  Args:
    study: whose tasks.
    last: one of STAGES.
    deadly: those too that have killed their processes.

  Returns:
    What failed, now or before, see failures.of_study.
  """
  stages, tried = STAGES[:STAGES.index(last) + 1], set()
  for task in study.all_tasks():
    interrupts.check()
    if task.stage not in stages:
      continue
    if task.done:
      failures.clear(task)
    elif task.place not in tried and not failures.settled(task) and all(
        needed.done for needed in task.needs):
      tried.add(task.place)
      if failures.deadly(task) and not deadly:
        failure = failures.of(task)
        console.say(f'{failures.words(failure)}: {failure["advice"]}')
      else:
        failures.attempt(task)
    if task.stage == 'audit' and task.done:  # A gate: also of earlier ones.
      audit.gate(task.read()[0], task.name, task.folder,
                 **study.config['audit'])
  return failures.of_study(study)


def _check(study: tasks.Study):
  """Refuses folders that were damaged, all of them in one line."""
  damaged = {}
  for task in study.all_tasks():
    try:
      files.is_done(task.folder.final)
    except errors.InputError as e:
      damaged[str(task.folder.final)] = e
  if damaged:
    (_, first), *more = damaged.items()
    also = ', '.join(folder for folder, _ in more)
    raise errors.InputError(f'{first} So it is with {also}.' if more else
                            str(first)) from first


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
  found.forget(place)
  results = files.read_json(place.final / 'results.json')
  if stage == 'report' and not files.intact(place.final, 'report.html'):
    page.write(results, _pictures(study), place.final / 'report.html')
    files.include(place.final, 'report.html')
  # What the user looks for stands at the top, of the latest launch.
  for file in ('results.json', 'report.html'):
    if (place.final / file).exists():
      files.copy(place.final / file, study.workdir / file)
    else:
      (study.workdir / file).unlink(missing_ok=True)
  return results


def _forget(workdir: pathlib.Path):
  """Removes what an earlier launch has put at the top: it would mislead, where
  this one stops on its way. Each stays in its folder of results/."""
  for file in ('results.json', 'report.html'):
    (workdir / file).unlink(missing_ok=True)


@contextlib.contextmanager
def plan(config: dict, workdir: pathlib.Path):
  """Yields the study of a launch, nothing done; new data in a scratch."""
  schema.check(config)
  files.check_owner(workdir, config['name'])
  with tempfile.TemporaryDirectory() as scratch:
    study = planning.open_study(config, workdir, pathlib.Path(scratch))
    _check(study)
    yield study


def overview(study: tasks.Study) -> list[tuple[str, str, int, list[str]]]:
  """Returns (stage, what, steps, the state of each part), in order.

  Parts are the runs of an arm: 'done', 'failed', 'to do' (so is data that a dry
  run made), or 'waits' for what failed.
  """
  rows = {}
  for task in study.all_tasks():
    name, dot, _ = task.name.rpartition('.')  # Without the run's number.
    done = task.done and task.folder.final.is_relative_to(study.workdir)
    state = ('done' if done else 'failed' if failures.of(task) else 'waits' if
             any(map(failures.failed, task.needs)) else 'to do')
    rows.setdefault((task.stage, name if dot else task.name, task.steps),
                    []).append(state)
  place = found.folder(study).final
  whole = _is_whole(place)
  rows['results', 'results.json', 0] = ['done' if whole else 'to do']
  rows['report', 'report.html', 0] = [
      'done' if whole and files.intact(place, 'report.html') else 'to do']
  return [(*row, parts) for row, parts in rows.items()]


class Outcome(typing.NamedTuple):
  """results: of the study, None before them. failures: see failures.of_study.
  """
  results: dict | None
  failures: list[dict]


def run(config: dict, workdir, *, stage: str = 'all',
        command: str = '') -> Outcome:
  """Runs a study up to `stage`, as far as its tasks can be done.

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
    _check(study)
    if not _is_whole(found.folder(study).final):
      _forget(workdir)
    files.write_json(workdir / 'config.json', config)
    try:
      out = _go(study, last, command)
      if any(map(failures.deadly, study.all_tasks())):
        # With the rest on the disk, whatever becomes of them.
        out = _go(study, last, command, deadly=True)
    except errors.InputError as e:
      if not e.full or not str(e).startswith(str(workdir.absolute())):
        raise
      raise errors.InputError(
          f'{e} This study still needs about {study.room() / 2**20:,.0f} MB.'
      ) from e
  return out


def _go(study: tasks.Study, last: str, command: str, **how) -> Outcome:
  failed = _work(study, last, **how)
  if last in ('results', 'report'):
    return Outcome(_conclude(study, command, last), failed)
  return Outcome(None, failed)
