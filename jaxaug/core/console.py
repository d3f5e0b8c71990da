"""What a run says on the terminal: lines, and how far it is."""
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
  show = _bar(title, total, start) if terminal else _lines(title, every)
  with show as show:
    begun, first, last = clock(), None, None

    def update(step, text=''):
      nonlocal first, last
      now = clock()
      if first is None:
        first = step, now  # The rate leaves out the first step: it compiles.
      last = step, text
      if step < total:
        show(step, _status(step, total, first, now, text, unit=unit),
             now - begun, False)

    try:
      yield update
    finally:
      if last:
        now = clock()
        status = _status(last[0], total, first, now, last[1], now - begun,
                         unit)
        show(last[0], status, now - begun, True)


def _status(step, total, first, now, text, spent=None, unit='step') -> str:
  parts = [f'{unit} {step}/{total}']
  if step > first[0] and now > first[1]:
    rate = (step - first[0]) / (now - first[1])
    parts.append(f'{rate:{".3g" if rate < 100 else ".0f"}} {unit}s/s')
    if spent is None:
      parts.append(f'{_time((total - step) / rate)} left')
  if spent is not None:
    parts.append(f'in {_time(spent)}')
  return '  '.join(parts + [text] * bool(text))


def _time(seconds: float) -> str:
  seconds = round(seconds)
  if seconds < 100:
    return f'{seconds} s'
  if seconds < 6000:
    return f'{seconds // 60} min {seconds % 60:02d} s'
  return f'{seconds // 3600} h {seconds % 3600 // 60:02d} min'


@contextlib.contextmanager
def _lines(title, every):
  due = every

  def show(step, status, seconds, end):
    nonlocal due
    if end or seconds >= due:
      due = seconds + every
      print(f'{title}  {status}', flush=True)
  yield show


@contextlib.contextmanager
def _bar(title, total, start):
  import rich.progress as rich
  columns = (rich.TextColumn('{task.description}', markup=False),
             rich.BarColumn(),
             rich.TextColumn('{task.fields[status]}', markup=False))
  with rich.Progress(*columns, console=_console(),
                     refresh_per_second=4) as bar:
    task = bar.add_task(title, total=total, completed=start,
                        status=f'step {start}/{total}')
    yield lambda step, status, seconds, end: bar.update(
        task, completed=step, status=status)
