"""Tasks that did not end: what became of them, and what that leaves open.

A task fails where its training diverges, its selector keeps too little or the
memory is used up; all that does not need it goes on. Beside its folder stand
then NAME.failed, which says what happened; and, while it is at work,
NAME.begun, which a process that is killed leaves behind.
"""
import datetime
import pathlib
import re

from jaxaug.core import console, errors, files
from jaxaug.study import tasks

# A task in which so many processes ended in a row, none of them a checkpoint
# further than the one before, waits until all that does not need it is done.
_DEADLY = 2


def _beside(task: tasks.Task, ending: str) -> pathlib.Path:
  final = task.place.final
  return final.with_name(f'{final.name}.{ending}')


def _write(path: pathlib.Path, value: dict):
  with files.writing(path.parent):
    path.parent.mkdir(parents=True, exist_ok=True)
  files.write_sealed(path, value | {'of': path.name})


def _read(path: pathlib.Path) -> dict | None:
  """Returns what `_write` wrote; None where it is missing, damaged or another
  task's: then the task is tried again, and nothing is lost."""
  value = files.read_sealed(path)
  return value if value and value['of'] == path.name else None


def _saved(task: tasks.Task) -> int:
  """Steps of a task that its newest checkpoint has."""
  try:
    return max((int(f.name) for f in
                (task.place.partial / 'checkpoints').iterdir()
                if f.name.isdecimal()), default=0)
  except OSError:
    return 0


def _now() -> str:
  return datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%dT%H:%M:%SZ')


def attempt(task: tasks.Task):
  """Does a task's work; that it fails is written down, and said.

  Raises:
    InputError: anything that is not the task's own, such as a full disk.
  """
  begun, failed = _beside(task, 'begun'), _beside(task, 'failed')
  deaths = _deaths(task)
  _write(begun, {'deaths': deaths + 1, 'step': _saved(task), 'time': _now()})
  try:
    with errors.net():
      task.work()
    files.remove(failed)
  except errors.InputError as e:
    if not e.failure:
      raise
    why, step, again = e.failure
    _write(failed, {'why': why, 'step': _saved(task) if step is None else step,
                    'time': _now(), 'again': again})
    console.say(f'failed: {e}')
  finally:  # But for a kill: what Python can end is no death.
    files.remove(begun)


def _deaths(task: tasks.Task) -> int:
  """How many processes in a row ended in this task at the same step."""
  found = _read(_beside(task, 'begun'))
  return found['deaths'] if found and found['step'] == _saved(task) else 0


def clear(task: tasks.Task):
  """Removes what a kill after the end of a task's work has left."""
  for ending in ('begun', 'failed'):
    files.remove(_beside(task, ending))


def of(task: tasks.Task) -> dict | None:
  """Returns why a task that is not done is not tried again by itself, or late.

  'unit', its name; 'phase', its stage; 'step', its steps until then; 'time',
  UTC; 'why'; 'advice', what to do; 'file', which says it. None for any other
  task.
  """
  path = _beside(task, 'failed')
  found = _read(path)
  if found and found['again']:
    found['advice'] = (f'it is tried again at every launch; {task.where} may '
                       'ask for less')
  elif found:
    found['advice'] = (
        f'with another setting in {task.where} it is another task; to try this '
        f'one again as it is, delete {path}')
  elif _deaths(task) >= _DEADLY:
    path = _beside(task, 'begun')
    found = _read(path)
    found |= {'why': f'{found["deaths"]} processes in a row were killed in it '
                     'before they saved a step',
              'advice': 'it comes after all others; to have it in its place, '
                        f'delete {path}'}
  keep = 'step', 'time', 'why', 'advice'
  # Of runs together it is not said whose: 'why' may.
  unit = re.sub(r'\.\d+(?=,|$)', '', task.title) if task.site else task.title
  return found and {'unit': unit, 'phase': task.stage, 'file': str(path),
                    **{key: found[key] for key in keep}}


def settled(task: tasks.Task) -> bool:
  """Whether a task has failed in a way that another attempt would repeat."""
  found = _read(_beside(task, 'failed'))
  return found is not None and not found['again']


def deadly(task: tasks.Task) -> bool:
  """Whether a task ends processes, so that others come before it."""
  return _deaths(task) >= _DEADLY


def words(failure: dict) -> str:
  """Returns a failure in a line."""
  at = f', step {failure["step"]:,}' if failure['step'] else ''
  return f'{failure["phase"]} {failure["unit"]}{at}: {failure["why"]}'


def told(failures: list[dict]) -> list[tuple[str, str]]:
  """Returns failures as (what, advice); many of one kind by their first."""
  kinds = {}
  for failure in failures:
    network = failure['unit'].partition('.')[0]
    kinds.setdefault((failure['phase'], network, failure['why']),
                     []).append(failure)
  return [(words(first) + (
      f'; so did {len(more)} more of {kind[0]} {kind[1]}' if more else ''),
           first['advice']) for kind, (first, *more) in kinds.items()]


def of_study(study: tasks.Study) -> list[dict]:
  """Returns the failures of all tasks that are not done."""
  found = {}
  for task in study.all_tasks():
    if not task.done and (failure := of(task)):
      found.setdefault(failure['file'], failure)  # One, of runs together.
  return list(found.values())


def failed(task: tasks.Task) -> bool:
  """Whether a task, or one that it needs, has failed."""
  return bool(not task.done and of(task) or any(map(failed, task.needs)))


def cause(task: tasks.Task) -> str | None:
  """Returns why a task's result does not count, in a line; None where it does.

  That is that it failed, or that something failed which it needs: images that
  nobody can hold against the test split any more teach no one.
  """
  for needed in task.needs:
    if found := cause(needed):
      return found
  if task.done:
    return None
  failure = of(task)
  return words(failure) if failure else f'{task.stage} {task.title}: not done'
