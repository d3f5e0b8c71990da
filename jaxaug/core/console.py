"""What a run says on the terminal: lines, durations, how far it is."""
import contextlib
import functools
import sys
import time


@functools.cache
def _console():
  import rich.console
  return rich.console.Console()


def say(line: str):
  """Prints a line, above the progress bar where there is one."""
  if sys.stdout.isatty():
    _console().print(line, markup=False, highlight=False, soft_wrap=True)
  else:
    print(line, flush=True)


def duration(seconds: float) -> str:
  """Returns seconds in the units that a person would use: '3 min 20 s'."""
  if seconds < 10:
    return f'{seconds:.1f} s'
  whole = round(seconds)
  if whole < 60:
    return f'{whole} s'
  if whole < 3600:
    return f'{whole // 60} min {whole % 60:02d} s'
  minutes = round(seconds / 60)
  return f'{minutes // 60} h {minutes % 60:02d} min'


@contextlib.contextmanager
def progress(title: str, total: int, start: int = 0, *,
             clock=time.monotonic, every: float = 10.,
             terminal: bool | None = None, unit: str = 'step'):
  """Shows how far a loop is: a bar on a terminal, else a line now and then.

  Args:
    title: names the loop.
    total: its steps.
    start: steps that were done before.
    clock: seconds.
    every: seconds between lines when there is no terminal.
    terminal: whether stdout is one; None to look.
    unit: what a step is called.

  Yields:
    update(step, text=''): `step` steps are done; `text` is shown after them.
  """
  if terminal is None:
    terminal = sys.stdout.isatty()
  show = (_bar(title, total, start, unit) if terminal else
          _lines(title, every))
  with show as show:
    begun, first, last = clock(), None, None

    def update(step, text=''):
      nonlocal first, last
      now = clock()
      if first is None:
        first = step, now  # The rate leaves out the first step: it compiles.
      last = step, text
      if step < total:
        show(step, _status(step, total, unit, first, now, text),
             now - begun, False)

    try:
      yield update
    finally:
      if last:
        (step, text), now = last, clock()
        show(step, _status(step, total, unit, first, now, text, now - begun),
             now - begun, True)


def _status(step: int, total: int, unit: str, first: tuple, now: float,
            text: str, spent: float | None = None) -> str:
  """Returns how far a loop is.

  first: the first step that was done, and when. spent: seconds in all, where
  the loop is over.
  """
  parts = [f'{unit} {step}/{total}']
  if step > first[0] and now > first[1]:
    rate = (step - first[0]) / (now - first[1])
    number = f'{rate:.3g}' if rate < 100 else f'{rate:.0f}'
    parts.append(f'{number} {unit}s/s')
    if spent is None:
      parts.append(f'{duration((total - step) / rate)} left')
  if spent is not None:
    parts.append(f'in {duration(spent)}')
  if text:
    parts.append(text)
  return '  '.join(parts)


@contextlib.contextmanager
def _lines(title, every):
  due = every

  def show(step, status, seconds, end):
    nonlocal due
    if end or seconds >= due:
      due = seconds + every
      say(f'{title}  {status}')
  yield show


@contextlib.contextmanager
def _bar(title, total, start, unit):
  import rich.progress as rich
  columns = (rich.TextColumn('{task.description}', markup=False),
             rich.BarColumn(),
             rich.TextColumn('{task.fields[status]}', markup=False))
  with rich.Progress(*columns, console=_console(),
                     refresh_per_second=4) as bar:
    task = bar.add_task(title, total=total, completed=start,
                        status=f'{unit} {start}/{total}')
    yield lambda step, status, seconds, end: bar.update(
        task, completed=step, status=status)
