"""A study ends in the same numbers, whatever happens to it on the way."""
import json
import os
import pathlib
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

import launch
from jaxaug.commands import run as commands_run
from jaxaug.core import files
from jaxaug.study import config_file, failures, tasks
from jaxaug.study import run as study
from jaxaug.study.stages import audit, data, quality
from jaxaug.training import loop, mesh, metrics_log
from tests import quick

ROOT = pathlib.Path(__file__).parents[2]
# The quickstart, made tiny: every stage in a second or two.
TINY = ['--config=configs/quickstart.py', *(f'--config.{change}' for change in (
    'data.source=fake', 'data.per_class=20', 'runs=2', 'log_every=4',
    'save_every=6', 'sample_every=10', 'eval_every=5', 'curve.every=6',
    'curve.images=100', 'evaluation.extractor=pixels',
    "evaluation.metrics=('prdc',)",
    'generators.cgan.steps=24', 'generators.cgan.batch_size=16',
    'generators.cgan.z_dim=8', 'generators.cgan.g_widths=(8,8,8)',
    'generators.cgan.d_widths=(8,8,8)', 'pools.cgan.per_class=16',
    'pools.cgan.batch_size=24', 'classifiers.cnn.steps=12',
    'classifiers.cnn.batch_size=16', 'classifiers.cnn.widths=(4,8)',
    'classifiers.cnn.hidden=8', 'judge.steps=12', 'judge.batch_size=16',
    'judge.widths=(4,8)', 'judge.hidden=8'))]
# Launches, and gets a signal before it touches its n-th file of a kind; counts
# the files where n is 0.
HOOKED = """
import collections, json, os, re, sys
import launch
pattern, at, signum, counts = sys.argv[1:5]
seen, left = collections.Counter(), [int(at)]
def hook(event, args):
  if event not in ('open', 'os.mkdir', 'os.rename', 'os.remove', 'os.rmdir'):
    return
  for kind in pattern.split('|'):
    if re.search(kind, str(args[0])):
      seen[kind] += 1
      left[0] -= 1
      if left[0] == 0:
        os.kill(os.getpid(), int(signum))
sys.addaudithook(hook)
status = launch.main(sys.argv[5:])
if counts:
  with open(counts, 'w') as f:
    json.dump(seen, f)
sys.exit(status)
"""
# Parts of a study by the files that they touch.
TRAINING = 'generate/.*/checkpoints/'
SAMPLES = 'generate/.*/samples/'
POOL = 'pool/.*partial'
CLASSIFYING = 'classify/.*/checkpoints/'
CLASSIFY = 'classify/'
RESULTS = 'results/'
VARYING = {'seconds', 'created', 'stamp', 'command', 'stages'}
# And where images are read from, and what differs by that alone.
PLACED = {'memory', 'records', 'limit'}


def hooked(workdir, pattern, at=0, signum=signal.SIGKILL, counts='', args=()):
  return subprocess.run(
      [sys.executable, '-c', HOOKED, pattern, str(at), str(int(signum)),
       str(counts), *TINY, f'--workdir={workdir}', *args], cwd=ROOT, text=True,
      capture_output=True, env=quick.environment())


def ends(workdir, undisturbed) -> str:
  """The same command, left alone, ends in the same numbers."""
  done = hooked(workdir, '$none')
  assert done.returncode == 0, done.stderr
  same(undisturbed, workdir)
  return done.stdout


def numbers(value):
  """What must be equal in two results."""
  if isinstance(value, dict):
    return {k: numbers(v) for k, v in value.items()
            if k not in VARYING | PLACED}
  return [numbers(v) for v in value] if isinstance(value, list) else value


def results(workdir) -> dict:
  return numbers(json.loads((workdir / 'results.json').read_text()))


def stages(workdir) -> list[pathlib.Path]:
  """The folders of all stages, finished or not."""
  return sorted(f for stage in workdir.iterdir() if stage.is_dir()
                for f in stage.iterdir())


def snapshot(workdir) -> dict:
  return {f: f.stat().st_mtime_ns for f in sorted(workdir.rglob('*'))
          if f.name not in ('.lock', 'config.json')}


def same(one, two):
  """Two finished workdirs hold the same."""
  assert results(one) == results(two)
  names = [f.relative_to(one) for f in stages(one)]
  assert names == [f.relative_to(two) for f in stages(two)]
  for name in names:
    assert name.suffix != '.partial'
    assert metrics_log.read(one / name) == metrics_log.read(two / name)
    for file in (one / name).glob('*.np[yz]'):
      assert not (one / name / 'checkpoints').exists()
      a, b = np.load(file), np.load(two / name / file.name)
      for key in a.files if file.suffix == '.npz' else [()]:
        np.testing.assert_array_equal(a[key], b[key], strict=True)


pytestmark = pytest.mark.usefixtures('at_the_root')


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
  """A finished workdir, and how often each part touched its files."""
  root = tmp_path_factory.mktemp('undisturbed')
  kinds = '|'.join((TRAINING, POOL, CLASSIFYING, CLASSIFY, RESULTS))
  done = hooked(root / 'w', kinds, counts=root / 'counts.json')
  assert done.returncode == 0, done.stderr
  assert not done.stderr
  return root / 'w', json.loads((root / 'counts.json').read_text())


@pytest.fixture
def finished(undisturbed, tmp_path):
  """A copy of it that a test may change."""
  return shutil.copytree(undisturbed[0], tmp_path / 'w')


def refused(workdir, *args) -> str:
  done = hooked(workdir, '$none', args=args)
  assert done.returncode == 2 and done.stderr.count('\n') == 1, done.stderr
  return done.stderr


def test_the_workdir_of_a_finished_study(undisturbed):
  workdir, _ = undisturbed
  found = json.loads((workdir / 'results.json').read_text())
  assert found['study'] == 'quickstart'
  arms = found['classifiers']['cnn']['arms']
  assert list(arms) == ['real', 'standard', 'add_100', 'standard_add_100',
                        'replace_50']
  assert [a['real'] for a in arms.values()] == [48, 48, 48, 48, 24]
  assert [a['synthetic'] for a in arms.values()] == [0, 0, 48, 48, 24]
  assert arms['real']['verdict'] == 'baseline'
  assert all(len(a['values']) == 2 for a in arms.values())
  assert 0 <= found['pools']['cgan']['obedience']['mean'] <= 1
  generator = found['generators']['cgan']
  assert generator['collapsed_at'] is generator['collapsed'] is None
  made, = (workdir / 'generate').iterdir()
  assert (made / 'interpolation.png').exists()
  assert 'From one noise to another' in (workdir / 'report.html').read_text()
  assert (workdir / 'report.html').stat().st_size > 10_000
  kinds = [f.parent.name for f in stages(workdir)]
  assert {k: kinds.count(k) for k in set(kinds)} == {
      'data': 1, 'generate': 1, 'pool': 1, 'judge': 1, 'audit': 1,
      'classify': 10, 'quality': 1, 'results': 1}
  assert all((f / 'manifest.json').exists() for f in stages(workdir))


def test_images_that_stay_on_the_disk_give_the_same_numbers(undisturbed,
                                                            tmp_path):
  """Where memory holds the test images, but not those of train."""
  workdir = tmp_path / 'w'
  done = hooked(workdir, '$none', args=[f'--config.data.memory={2500 / 2**30}'])
  assert done.returncode == 0, done.stderr
  assert 'they stay on the disk' in done.stdout
  held, = (undisturbed[0] / 'data').iterdir()
  streamed, = (workdir / 'data').iterdir()
  assert not (held / 'train.array_record').exists()
  assert (streamed / 'train.array_record').exists()
  # What is read of them is the same: only the results know where it was.
  read = [data.read(files.folder(f.parent, f.name)) for f in (held, streamed)]
  for part in ('train', 'validation', 'test', 'unused'):
    for a, b in zip(*(getattr(x, part) for x in read), strict=True):
      np.testing.assert_array_equal(a[:], b[:])
  shutil.rmtree(streamed)
  shutil.copytree(held, workdir / 'data' / held.name)
  result, = (workdir / 'results').iterdir()
  result.rename(result.with_name(
      next((undisturbed[0] / 'results').iterdir()).name))
  same(undisturbed[0], workdir)


def test_the_room_that_a_study_needs_is_known_from_shapes(undisturbed,
                                                         tmp_path):
  config = config_file.load('configs/quickstart.py', TINY[1:])
  with study.plan(config, tmp_path / 'new') as planned:
    room = planned.room()
  taken = sum(f.stat().st_size for f in undisturbed[0].rglob('*')
              if f.is_file() and f.parent.parent.name != 'data')
  assert taken < room < 2 * taken + 2**22
  with study.plan(config, undisturbed[0]) as planned:
    assert planned.room() < 2**22  # Results and report alone.


def test_logs_can_be_read_with_the_stock_reader(undisturbed):
  from tensorboard.backend.event_processing import event_accumulator
  generator, = (undisturbed[0] / 'generate').iterdir()
  looks = [r['step'] for r in metrics_log.read(generator) if 'fd_pixels' in r]
  assert looks == [6, 12, 18, 24]
  records = [r for r in metrics_log.read(generator) if 'fd_pixels' not in r]
  assert [r['step'] for r in records] == [4, 8, 12, 16, 20, 24]
  found = event_accumulator.EventAccumulator(str(generator / 'tensorboard'))
  found.Reload()
  assert {'d_loss', 'g_loss', 'fd_pixels'} <= set(found.Tags()['scalars'])
  assert [e.value for e in found.Scalars('d_loss')] == pytest.approx(
      [r['d_loss'] for r in records])
  assert [e.step for e in found.Images('samples/cgan')] == [10, 20, 24]
  assert len(list((generator / 'samples').glob('*.png'))) == 3


def test_a_second_launch_recomputes_nothing(undisturbed, capsys, monkeypatch):
  workdir, _ = undisturbed
  before, begun = snapshot(workdir), time.monotonic()
  done = subprocess.run([sys.executable, 'launch.py', *TINY,
                         f'--workdir={workdir}'], text=True,
                        capture_output=True)
  assert done.returncode == 0 and not done.stderr
  assert time.monotonic() - begun < 20
  assert snapshot(workdir) == before
  assert 'Verdicts of quickstart' in done.stdout
  assert str(workdir / 'report.html') in done.stdout.replace('\n', '')
  monkeypatch.setenv('COLUMNS', '100')
  assert launch.main([*TINY, f'--workdir={workdir}', '--dry_run']) == 0
  out = capsys.readouterr().out
  assert 'to do' not in out and out.count('done') >= 10
  assert snapshot(workdir) == before


def kill_and_finish(undisturbed, workdir, moments):
  """Kills the same command at each moment, then lets it end."""
  said = []
  for kind, at in moments:
    done = hooked(workdir, kind, at)
    assert done.returncode == -signal.SIGKILL, (kind, at, done.stderr)
    said.append(done.stdout)
  return ''.join([*said, ends(workdir, undisturbed)])


def test_kills_leave_no_trace(undisturbed, tmp_path):
  whole, counts = undisturbed
  draw = random.Random(1)
  said = kill_and_finish(whole, tmp_path / 'w', [
      # In training, at or after the second checkpoint, so that it resumes.
      (TRAINING, draw.randint(counts[TRAINING] // 2, counts[TRAINING])),
      (CLASSIFYING, draw.randint(1, counts[CLASSIFYING] // 2)),
      (RESULTS, draw.randint(1, counts[RESULTS]))])
  assert re.search(r'generate cgan: continues after step (6|12|18) of 24', said)


@pytest.mark.slow
def test_ten_kills_leave_no_trace(undisturbed, tmp_path):
  whole, counts = undisturbed
  draw = random.Random(2)
  kill_and_finish(whole, tmp_path / 'w', [
      (kind, draw.randint(1, counts[kind] // parts)) for kind, parts in (
          (TRAINING, 2), (TRAINING, 3), (TRAINING, 4), (POOL, 1), (POOL, 1),
          (CLASSIFY, 4), (CLASSIFYING, 4), (CLASSIFY, 4), (CLASSIFYING, 8),
          (RESULTS, 1))])


def damage(checkpoints):
  for file in checkpoints.rglob('*'):
    if file.is_file():
      file.write_bytes(file.read_bytes()[:-1][:20])


def test_signals_and_damage(undisturbed, tmp_path):
  """SIGTERM in the generator, then damage, then Ctrl-C and a rival."""
  workdir = tmp_path / 'w'
  # At the first grid of samples: checkpoints are written behind the steps.
  done = hooked(workdir, SAMPLES, 1, signal.SIGTERM)
  assert done.returncode == 143
  line = done.stderr.splitlines()[-1]
  chosen = [f'{name}={value}' for name, value in os.environ.items()
            if name == 'JAXAUG_CONVOLUTIONS']
  words = ['launch.py', *TINY, f'--workdir={workdir}']
  assert shlex.split(line) == [*chosen, 'python', *words]
  partial, = (workdir / 'generate').glob('*.partial')
  steps = sorted(int(f.name) for f in (partial / 'checkpoints').iterdir())
  assert len(steps) == 2 and steps[-1] < 24

  # All checkpoints damaged: one line, and they stay for whoever can mend them.
  shutil.copytree(workdir, tmp_path / 'damaged')
  broken = tmp_path / 'damaged' / partial.relative_to(workdir) / 'checkpoints'
  damage(broken)
  before = snapshot(tmp_path / 'damaged')
  assert f'{broken}: no checkpoint here can be read' in refused(
      tmp_path / 'damaged')
  after = snapshot(tmp_path / 'damaged')
  assert {f: t for f, t in after.items() if f in before and f.is_file()
          and 'checkpoints' in f.parts} == {
      f: t for f, t in before.items() if f.is_file()
      and 'checkpoints' in f.parts}

  # The newest damaged: the one before serves. Then Ctrl-C.
  damage(partial / 'checkpoints' / str(steps[-1]))
  with subprocess.Popen(
      [sys.executable, *words], text=True, env=quick.environment(),
      stdout=subprocess.PIPE, stderr=subprocess.PIPE) as first:
    while first.poll() is None and not list((workdir / 'classify').glob('*')):
      time.sleep(0.01)
    # Two launches at once: the second leaves the first alone.
    assert f'another launch (process {first.pid})' in refused(workdir)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate()
  assert first.returncode == 130, err
  assert err.splitlines()[-1] == line
  assert f'going back to step {steps[0]}' in out
  assert f'generate cgan: continues after step {steps[0]} of 24' in out
  ends(workdir, undisturbed[0])


def test_a_changed_knob_redoes_what_depends_on_it(undisturbed, finished,
                                                  monkeypatch):
  before = snapshot(finished)
  with monkeypatch.context() as patch:
    patch.setattr(mesh, 'describe', lambda _: 'another device')
    assert launch.main([*TINY, f'--workdir={finished}',
                        '--config.arms[4].replace=0.25']) == 0
  after = snapshot(finished)
  assert {f for f in before if f.is_file() and after[f] != before[f]} == {
      finished / 'results.json', finished / 'report.html'}
  new = {f.parent.name + '/' + f.name.rpartition('-')[0]
         for f in set(stages(finished)) - {finished / f.relative_to(
             undisturbed[0]) for f in stages(undisturbed[0])}}
  assert new == {'classify/cnn.replace_50.0', 'classify/cnn.replace_50.1',
                 'results/'}
  old, now = results(undisturbed[0]), results(finished)
  assert old['devices'].startswith('1 x cpu, convolutions: ')
  assert now['devices'] == f'{old["devices"]} and another device'
  for arm, row in now['classifiers']['cnn']['arms'].items():
    was = old['classifiers']['cnn']['arms'][arm]
    assert (row['values'] == was['values']) or arm == 'replace_50'
  assert now['classifiers']['cnn']['arms']['replace_50']['synthetic'] == 12
  # And back: all of it is still there.
  assert launch.main([*TINY, f'--workdir={finished}']) == 0
  assert results(finished) == old


@pytest.fixture
def diverging(monkeypatch):
  """A set of titles: the second loss of a training named so is no number."""
  titles, run = set(), loop.run

  def patched(step, batches, state, hook_state, **how):
    seen = []
    def bad(state, batch):
      state, logs = step(state, batch)
      seen.append(batch)
      if len(seen) == 2:
        logs = {name: value * (np.nan if name.endswith('loss') else 1)
                for name, value in logs.items()}
      return state, logs
    return run(bad if how['title'] in titles else step, batches, state,
               hook_state, **how)
  monkeypatch.setattr(loop, 'run', patched)
  return titles


@pytest.mark.usefixtures('compiled_quickly')
def test_a_run_that_diverges_leaves_a_hole(finished, diverging, capsys):
  old = results(finished)
  folder, = (finished / 'classify').glob('cnn.add_100.1-*')
  shutil.rmtree(folder)
  diverging.add('classify cnn.add_100.1')
  command = [*TINY, f'--workdir={finished}']
  assert launch.main(command) == 3
  said = capsys.readouterr()
  failed = folder.with_name(f'{folder.name}.failed')
  assert said.err.splitlines() == [
      'launch.py: classify cnn.add_100.1, step 2: train_loss is nan. All that '
      'does not need it is done. What to do: with another setting in '
      'config.classifiers.cnn it is another task; to try this one again as it '
      f'is, delete {failed}.', 'launch.py: no verdict on add_100 of cnn.']
  assert 'lower the learning rate. No checkpoint was due' in said.out
  now = results(finished)
  hole, = now['failures']
  assert re.fullmatch(r'\d{4}(-\d\d){2}T\d\d(:\d\d){2}Z', hole.pop('time'))
  assert hole == {'phase': 'classify', 'unit': 'cnn.add_100.1', 'step': 2,
                  'why': 'train_loss is nan'}
  whole, after = (r['classifiers']['cnn']['arms'] for r in (old, now))
  assert list(after) == ['real', 'standard', 'standard_add_100', 'replace_50']
  assert all(after[arm] == whole[arm] for arm in after)
  report = (finished / 'report.html').read_text()
  assert 'Classify cnn.add_100.1 failed in step 2' in report
  # It is not tried again by itself: what is dealt is played.
  before = snapshot(finished)
  assert launch.main(command) == 3 and snapshot(finished) == before
  assert launch.main([*command, '--dry_run']) == 0
  out = ' '.join(capsys.readouterr().out.split())
  assert '1 of 2 failed' in out and f'again as it is, delete {failed}' in out
  failed.unlink()
  diverging.clear()
  assert launch.main(command) == 0
  entry = results(finished)['classifiers']['cnn']
  assert list(entry['arms']) == list(whole) and not entry['missing']
  assert len(list((finished / 'results').iterdir())) == 1


def test_a_generator_that_diverges_leaves_real_images(finished, diverging,
                                                      capsys):
  folders = {}
  for stage in ('generate', 'pool', 'audit', 'quality'):
    folders[stage], = (finished / stage).iterdir()
    shutil.rmtree(folders[stage])
  diverging.add('generate cgan')
  assert launch.main([*TINY, f'--workdir={finished}', '--stage=pool']) == 3
  # What hangs on the images of a pool that no longer is cannot be looked at.
  assert not any(folder.exists() for folder in folders.values())
  assert 'generate cgan, step 2: d_loss is nan' in capsys.readouterr().err
  launch.main([*TINY, f'--workdir={finished}', '--dry_run'])
  assert capsys.readouterr().out.count(' waits ') == 3
  assert launch.main([*TINY, f'--workdir={finished}']) == 3
  now = results(finished)
  entry = now['classifiers']['cnn']
  # Also what was trained on them before: nobody can audit them any more.
  assert list(entry['arms']) == ['real', 'standard']
  assert entry['missing'] == dict.fromkeys(
      ('add_100', 'standard_add_100', 'replace_50'),
      {'generated': True, 'why': 'lacks 2 of 2 runs: generate cgan, step 2: '
                                 'd_loss is nan'})
  assert now['pools'] == now['generators'] == {}


@pytest.mark.usefixtures('compiled_quickly')
def test_a_baseline_that_diverges(finished, capsys):
  """All arms do here, and the report says that nothing can be compared."""
  before = snapshot(finished)
  assert launch.main([
      *TINY, f'--workdir={finished}', '--config.save_every=1',
      '--config.classifiers.cnn.learning_rate=1e30']) == 3
  said = capsys.readouterr()
  found = re.search(r'classify cnn\.real\.0, step (\d+): train_loss is '
                    r'(nan|inf); so did \d more of classify cnn', said.err)
  partial, = (finished / 'classify').glob('cnn.real.0-*.partial')
  assert f'stays in {partial / "checkpoints"}' in said.out
  kept = [int(f.name) for f in (partial / 'checkpoints').iterdir()]
  assert max(kept) == int(found[1]) - 1
  after = snapshot(finished)
  assert all(after[f] == before[f] for f in before
             if f.is_file() and f.parent != finished)
  entry = results(finished)['classifiers']['cnn']
  assert entry['arms'] == {} and len(entry['missing']) == 5
  assert len(results(finished)['failures']) == 10
  assert 'No arm with generated images has a verdict' in (
      finished / 'report.html').read_text()


@pytest.mark.usefixtures('compiled_quickly')
def test_a_task_without_memory_is_tried_again(finished, monkeypatch, capsys):
  old = results(finished)
  folder, = (finished / 'quality').iterdir()
  shutil.rmtree(folder)
  def greedy(*args, **how):
    raise MemoryError('of 3 PB')
  with monkeypatch.context() as patch:
    patch.setattr(quality, 'run', greedy)
    assert launch.main([*TINY, f'--workdir={finished}']) == 3
  assert ('quality cgan: the memory is used up. All that does not need it is '
          'done. What to do: it is tried again at every launch') in (
              capsys.readouterr().err)
  now = results(finished)
  assert now['pools']['cgan'].pop('quality') is None
  assert now['classifiers'] == old['classifiers']
  assert launch.main([*TINY, f'--workdir={finished}']) == 0
  assert results(finished) == old and not list(
      (finished / 'quality').glob('*.failed'))


@pytest.mark.usefixtures('compiled_quickly')
@pytest.mark.parametrize('part, rate, steps, failed, whole', [
    ('classifiers.cnn', 'learning_rate=1e30', 2, 10 * [
        ('classify', 2, 'the weights are not finite')], []),
    ('judge', 'learning_rate=1e30', 2, [
        ('judge', 2, 'the weights are not finite')], ['real', 'standard']),
    ('generators.cgan', 'g_lr=1e38', 1, [  # Numbers still, but too large.
        ('pool', 0, 'images are not finite')], ['real', 'standard'])])
def test_weights_that_the_last_step_ruined(finished, part, rate, steps, failed,
                                           whole):
  """No loss tells: that of a step is computed before its update."""
  changes = [f'--config.{part}.{rate}', f'--config.{part}.steps={steps}']
  assert launch.main([*TINY, *changes, f'--workdir={finished}']) == 3
  now = results(finished)
  assert [(f['phase'], f['step'], f['why'])
          for f in now['failures']] == failed
  assert list(now['classifiers']['cnn']['arms']) == whole


@pytest.mark.usefixtures('compiled_quickly')
def test_images_that_nobody_audited_teach_no_one(finished, monkeypatch):
  for folder in (*(finished / 'audit').iterdir(),
                 *(finished / 'classify').glob('cnn.add_100.0-*')):
    shutil.rmtree(folder)
  def greedy(*args, **how):
    raise RuntimeError('INTERNAL: Error dispatching computation: Out of memory '
                       'allocating 618452228 bytes.')
  monkeypatch.setattr(audit, 'run', greedy)
  assert launch.main([*TINY, f'--workdir={finished}']) == 3
  assert not list((finished / 'classify').glob('cnn.add_100.0-*'))
  now = results(finished)
  assert list(now['classifiers']['cnn']['missing']) == [
      'add_100', 'standard_add_100', 'replace_50']
  assert now['pools']['cgan']['audit'] is None


def test_what_failed_is_tried_once_a_launch_and_forgotten_when_done(tmp_path):
  tries = []
  site = files.folder(tmp_path / 'classify', 'together-1')
  def work():
    tries.append(1)
    raise MemoryError
  failing = [tasks.Task('classify', f'cnn.real.{k}', files.folder(
      tmp_path / 'classify', f'cnn.real.{k}-0'), work, None, site=site)
             for k in range(3)]
  place = files.folder(tmp_path / 'judge', 'judge-0')
  def end():
    files.begin(place.partial)
    files.finish(place.partial, place.final, {})
  done = tasks.Task('judge', 'judge', place, end, None)
  made = types.SimpleNamespace(all_tasks=lambda: [done, *failing])
  study._work(made, 'report')
  assert len(tries) == 1 and done.done
  # As where a kill comes between the last rename and the end.
  for ending in ('begun', 'failed'):
    place.final.with_name(f'judge-0.{ending}').write_text('{}')
  study._work(made, 'report')
  assert len(tries) == 2
  assert sorted(f.name for f in (tmp_path / 'judge').iterdir()) == ['judge-0']


def test_a_metric_that_is_no_number_is_a_hole_too(capsys):
  entry = {'missing': {'a': {'why': 'mse of run 1 is not a number',
                             'generated': False}}, 'arms': {}}
  whole = entry | {'missing': {}}
  out = study.Outcome({'classifiers': {'cnn': entry}}, [])
  assert commands_run._holes(out, 'launch.py')
  assert capsys.readouterr().err == 'launch.py: no verdict on a of cnn.\n'
  assert not commands_run._holes(
      study.Outcome({'classifiers': {'cnn': whole}}, []), 'launch.py')
  assert not commands_run._holes(study.Outcome(None, []), 'launch.py')


@pytest.mark.parametrize('stage, file, again', [
    ('data', 'test_labels.npy', False), ('classify', 'metrics.jsonl', False),
    ('pool', 'pool.npz', False), ('quality', 'manifest.json', False),
    ('generate', 'interpolation.png', True), ('results', 'results.json', True),
    ('results', 'report.html', True)])
def test_one_flipped_bit(finished, undisturbed, capsys, stage, file, again):
  folder = sorted((finished / stage).iterdir())[0]
  data = bytearray((folder / file).read_bytes())
  data[len(data) // 2] ^= 1
  (folder / file).write_bytes(data)
  shutil.rmtree(next((finished / 'results').iterdir()), stage != 'results')
  status = launch.main([*TINY, f'--workdir={finished}'])
  if again:
    assert status == 0 and results(finished) == results(undisturbed[0])
  else:
    assert status == 2
    assert f'delete the folder {folder}' in capsys.readouterr().err


def test_all_that_is_damaged_is_named_at_once(finished, capsys):
  folders = [next((finished / stage).iterdir())
             for stage in ('generate', 'audit', 'classify')]
  for folder in folders:
    (folder / 'manifest.json').write_text('{}')
  assert launch.main([*TINY, f'--workdir={finished}']) == 2
  err = capsys.readouterr().err
  assert err.count('\n') == 1 and all(str(folder) in err for folder in folders)
  for folder in folders:
    shutil.rmtree(folder)
  assert launch.main([*TINY, f'--workdir={finished}', '--dry_run']) == 0


def test_what_kills_its_process_comes_last(undisturbed, finished):
  for folder in (finished / 'classify').glob('cnn.standard.*'):
    shutil.rmtree(folder)
  (finished / 'results.json').unlink()
  deadly = r'classify/cnn\.standard\.0-[^/]*\.partial/metrics'
  assert hooked(finished, deadly, 1).returncode == -signal.SIGKILL
  assert not (finished / 'results.json').exists()
  begun, = (finished / 'classify').glob('*.begun')
  assert files.read_json(begun)['deaths'] == 1
  # And as another would leave it.
  failures._write(begun, {'deaths': 2, 'step': 0, 'time': 'now'})
  # Now all that does not need it is done first, the report too.
  done = hooked(finished, deadly, 1)
  assert done.returncode == -signal.SIGKILL
  assert 'it comes after all others; to have it in its place' in done.stdout
  now = results(finished)
  hole, = now['failures']
  assert hole['why'] == ('2 processes in a row were killed in it before they '
                         'saved a step')
  assert now['classifiers']['cnn']['missing'] == {
      'standard': {'generated': False, 'why': 'lacks 1 of 2 runs: classify '
                   f'cnn.standard.0: {hole["why"]}'}}
  assert now['classifiers']['cnn']['arms']['standard_add_100']['verdict'] == (
      'not compared')
  assert 'Classify cnn.standard.0 failed' in (
      finished / 'report.html').read_text()
  # Whoever did that may have gone: it is tried again, and leaves no trace.
  ends(finished, undisturbed[0])


@pytest.mark.slow  # Of parts: core/files_test, training/checkpoint_test.
def test_a_disk_that_fills_in_training(undisturbed, tmp_path):
  disk = tmp_path / 'disk'
  disk.mkdir()
  if not shutil.which('mount') or subprocess.run(
      ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', str(disk)],
      capture_output=True).returncode:
    pytest.skip('cannot mount a small disk to fill; that needs root')
  try:
    line = refused(disk)
    assert str(disk / 'generate') in line and 'the disk is full' in line
    # With so much room as it says, the same command goes on to the same end.
    needed = re.search(r'This study still needs about (\d+) MB', line)[1]
    subprocess.run(['mount', '-o', f'remount,size={1 + int(needed)}m',
                    str(disk)], check=True)
    ends(disk, undisturbed[0])
  finally:
    subprocess.run(['umount', str(disk)], check=True)
