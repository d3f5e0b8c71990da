"""What is written down of tasks that did not end."""
import datetime
import pathlib

import pytest

from jaxaug.core import errors, files
from jaxaug.study import failures, tasks


def _task(root, work=lambda: None, name='cnn.real.0', **more) -> tasks.Task:
  folder = files.folder(root / 'classify', f'{name}-0123')
  def whole():
    files.begin(folder.partial, resume=True)
    work()
    files.finish(folder.partial, folder.final, {'seconds': 1.})
  return tasks.Task('classify', name, folder, whole, lambda: None, 9,
                    title=f'{name}, fold 1', **more)


_BAD = errors.InputError('x', errors.Failure('bad', 5))


def _raising(error):
  def work():
    raise error
  return work


def _left(root) -> list[str]:
  return sorted(f.name for f in root.rglob('*') if not f.is_dir() and
                'manifest' not in f.name)


def test_work_that_ends_leaves_nothing_beside_its_folder(tmp_path):
  task = _task(tmp_path)
  failures.attempt(task)
  assert task.done and not failures.of(task) and not _left(tmp_path)


def test_a_failure_says_what_where_and_when(tmp_path, capsys):
  task = _task(tmp_path, _raising(
      errors.InputError('step 7: d_loss is nan; stopped.',
                        errors.Failure('d_loss is nan', 7))))
  failures.attempt(task)
  assert capsys.readouterr().out == 'failed: step 7: d_loss is nan; stopped.\n'
  found = failures.of(task)
  when = datetime.datetime.fromisoformat(found['time'])  # With its zone.
  assert abs((datetime.datetime.now(datetime.UTC) - when).total_seconds()) < 60
  assert {k: found[k] for k in ('unit', 'phase', 'step', 'why')} == {
      'unit': 'cnn.real.0, fold 1', 'phase': 'classify', 'step': 7,
      'why': 'd_loss is nan'}
  assert failures.words(found) == (
      'classify cnn.real.0, fold 1, step 7: d_loss is nan')
  assert failures.settled(task) and not failures.deadly(task)
  pathlib.Path(found['file']).unlink()
  assert not failures.of(task) and not failures.settled(task)


@pytest.mark.parametrize('error, why', [
    (MemoryError('3 GB'), 'the memory is used up'),
    (RuntimeError('RESOURCE_EXHAUSTED: Out of memory while trying to allocate '
                  '1.53GiB'), 'the memory of the device is used up'),  # CUDA
    (RuntimeError('INTERNAL: Error dispatching computation: Out of memory '
                  'allocating 9 bytes.'),  # CPU
     'the memory of the device is used up')])
def test_memory_may_be_there_another_time(tmp_path, error, why):
  task = _task(tmp_path, _raising(error))
  (task.folder.partial / 'checkpoints' / '40').mkdir(parents=True)
  (task.folder.partial / 'checkpoints' / '40.damaged-1').mkdir()
  failures.attempt(task)
  found = failures.of(task)
  assert (found['why'], found['step']) == (why, 40)
  assert not failures.settled(task)
  failures.attempt(_task(tmp_path))  # There is.
  assert not failures.of(task) and not _left(tmp_path)


@pytest.mark.parametrize('error', [
    errors.InputError('full', full=True), errors.InputError('wrong'),
    KeyboardInterrupt()])
def test_what_is_not_the_tasks_own_ends_the_study(tmp_path, error):
  task = _task(tmp_path, _raising(error))
  with pytest.raises(type(error)):
    failures.attempt(task)
  assert not failures.of(task) and not _left(tmp_path)


class _Kill(Exception):
  """Stands for the end of the process: what comes after it is undone."""


def _killed(task, monkeypatch):
  with monkeypatch.context() as patch:
    patch.setattr(files, 'remove', lambda path: None)
    with pytest.raises(_Kill):
      failures.attempt(task._replace(work=_raising(_Kill())))


def test_kills_count_while_no_step_is_saved(tmp_path, monkeypatch):
  task = _task(tmp_path)
  _killed(task, monkeypatch)
  assert not failures.deadly(task) and not failures.of(task)
  # A step further: it was not the task.
  (task.folder.partial / 'checkpoints' / '3').mkdir(parents=True)
  _killed(task, monkeypatch)
  assert not failures.deadly(task)
  _killed(task, monkeypatch)
  assert failures.deadly(task) and not failures.settled(task)
  assert failures.of(task)['step'] == 3
  assert failures.of(task)['why'].startswith('2 processes in a row were killed')
  (task.folder.partial / 'checkpoints' / '4').mkdir()
  assert not failures.deadly(task)
  failures.attempt(task)
  assert task.done and not list(task.folder.final.parent.glob('*.begun'))


@pytest.mark.parametrize('text', ['', '[]', '{}', '{"why": 1}', '\xff', '{"a"'])
def test_a_damaged_record_is_none(tmp_path, text):
  task = _task(tmp_path, _raising(_BAD))
  failures.attempt(task)
  path = pathlib.Path(failures.of(task)['file'])
  value = files.read_json(path)
  path.write_text(text, 'latin-1')
  assert failures.of(task) is None and not failures.settled(task)
  files.write_json(path, value | {'again': True})  # Sealed no more.
  assert failures.of(task) is None


def test_a_result_counts_with_all_that_it_needs(tmp_path):
  pool = _task(tmp_path, name='pool')
  audit = _task(tmp_path, _raising(_BAD),
                name='audit', needs=(pool,))
  run = _task(tmp_path, name='run', needs=(pool, audit))
  for task in (pool, audit, run):
    failures.attempt(task)
  assert failures.cause(pool) is None
  assert failures.cause(run) == failures.cause(audit) == (
      'classify audit, fold 1, step 5: bad')
  other = _task(tmp_path, name='other')
  assert failures.cause(other) == 'classify other, fold 1: not done'


def test_runs_that_train_together_fail_together(tmp_path):
  site = files.folder(tmp_path / 'classify', 'together-9')
  one, two = (_task(tmp_path, _raising(_BAD),
                    name=name, site=site) for name in ('a.0', 'a.1'))
  failures.attempt(one)
  assert failures.settled(two)
  found = failures.of(two)
  assert found['file'] == str(tmp_path / 'classify' / 'together-9.failed')
  assert found['unit'] == 'a, fold 1'  # Of no single run.


def test_a_record_of_another_task_or_kind_is_none(tmp_path):
  task, other = _task(tmp_path, _raising(_BAD)), _task(tmp_path, name='other')
  failures.attempt(task)
  path = pathlib.Path(failures.of(task)['file'])
  for place in (path.with_suffix('.begun'),
                path.with_name(f'{other.folder.final.name}.failed')):
    place.write_bytes(path.read_bytes())
  assert failures.of(other) is None and not failures.settled(other)
  path.unlink()
  assert failures.of(task) is None and not failures.deadly(task)
  path.mkdir()  # As somebody may.
  failures.attempt(_task(tmp_path))
  assert not list(tmp_path.rglob('cnn.*ed'))
