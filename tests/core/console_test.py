"""What a run says of itself: few lines, rates, durations."""
import io

import pytest

from jaxaug.core import console


def _run(total, seconds, texts=('',), start=0, **kw):
  now = [0.]
  with console.progress('train cgan', total, start, clock=lambda: now[0],
                        **kw) as update:
    for step in range(start, total):
      now[0] += seconds
      update(step + 1, texts[step % len(texts)])


def test_progress_prints_few_lines(capsys):
  _run(900, 0.125, ['loss 0.3'], terminal=False)
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 12
  assert lines[0] == ('train cgan  step 80/900  8 steps/s  1 min 42 s left  '
                      'loss 0.3')
  assert lines[-1] == ('train cgan  step 900/900  8 steps/s  in 1 min 52 s  '
                       'loss 0.3')


def test_progress_counts_the_rate_from_where_it_resumed(capsys):
  _run(1000, 2, start=990, terminal=False)
  lines = capsys.readouterr().out.splitlines()
  assert lines == ['train cgan  step 995/1000  0.5 steps/s  10 s left',
                   'train cgan  step 1000/1000  0.5 steps/s  in 20 s']


def test_progress_ends_with_a_line_when_interrupted(capsys):
  with pytest.raises(KeyboardInterrupt):
    with console.progress('train', 9, clock=lambda: 0.,
                          terminal=False) as update:
      update(3)
      console.say('sample [grid] written')
      raise KeyboardInterrupt
  assert capsys.readouterr().out.splitlines() == [
      'sample [grid] written', 'train  step 3/9  in 0.0 s']


def test_progress_without_a_step_says_nothing(capsys):
  with console.progress('train', 9, 9, terminal=False):
    pass
  assert capsys.readouterr().out == ''


def test_progress_bar(capsys, monkeypatch):
  import rich.console
  out = io.StringIO()
  terminal = rich.console.Console(file=out, force_terminal=True, width=100)
  monkeypatch.setattr(console, '_console', lambda: terminal)
  _run(20, 0.5, ['loss [0.3]'], terminal=True, unit='image')
  for word in 'train cgan', 'image 20/20', '2 images/s', 'loss [0.3]':
    assert word in out.getvalue()
  assert 'step' not in out.getvalue()


@pytest.mark.parametrize('seconds, text', [
    (0.4, '0.4 s'), (4.21, '4.2 s'), (10, '10 s'), (59.4, '59 s'),
    (59.6, '1 min 00 s'), (200, '3 min 20 s'), (3599, '59 min 59 s'),
    (3599.9, '1 h 00 min'), (3725, '1 h 02 min'), (7199, '2 h 00 min')])
def test_duration(seconds, text):
  assert console.duration(seconds) == text
