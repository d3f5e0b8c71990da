"""Whatever is wrong: the same numbers to the bit, made again, or one line.

Seeded mutations of overrides, of a finished workdir and of what `evaluate` is
given. More of them: FUZZ=2000 python -m pytest -m slow tests/fuzz_test.py.
"""
import os
import random
import shutil
import signal
import string
import warnings
import zipfile

import numpy as np
import pytest

import launch
from jaxaug.commands import evaluate
from jaxaug.core import files, interrupts
from jaxaug.data import images
from jaxaug.training import metrics_log
from tests.study import run_test

pytestmark = pytest.mark.usefixtures('at_the_root')

FEW, MANY = 50, int(os.environ.get('FUZZ', 2000))
COUNTS = [FEW, pytest.param(MANY, marks=pytest.mark.slow)]


class Wrong(list):
  """What ended in another way than is allowed; a with block a mutation."""

  def __call__(self, *what):
    self.what = what
    return self

  def __enter__(self):
    self.caught = warnings.catch_warnings(record=True)
    self.warned = self.caught.__enter__()
    warnings.simplefilter('always')

  def __exit__(self, kind, error, trace):
    self.caught.__exit__(kind, error, trace)
    if error:
      self.append((*self.what, f'{kind.__name__}: {str(error)[:500]}'))
    # What Python shows to a user, before the one line.
    self.extend((*self.what, str(w.message)) for w in self.warned
                if not issubclass(w.category, (
                    DeprecationWarning, PendingDeprecationWarning,
                    ImportWarning, ResourceWarning)))
    return kind is not KeyboardInterrupt


def outcome(capfd, main, *args) -> str:
  """What a command ends in: '' or its one line."""
  capfd.readouterr()
  status = main([*map(str, args)])
  err = capfd.readouterr().err
  if status == 0:
    assert not err, err
    return ''
  assert status == 2 and err.count('\n') == 1 and len(err) < 3000, (status, err)
  return err


# ------------------------------------------------------------------- overrides
OVERRIDES = (
    'runs=3', 'data.per_class=20', 'data.folds=2', 'data.imbalance=(20,10)',
    'data.resize=(8,9)', 'data.classes=0,2', 'data.val_fraction=0.2',
    'data.source=fake', 'data.path=x', 'alpha=0.1', 'name=q', 'seed=3',
    'evaluation.metrics[0]=kid', 'evaluation.extractor=pixels',
    'generators.cgan.g_widths[1]=8', 'generators.cgan.steps=7',
    'generators.cgan.model=dcgan', 'generators.cgan.spectral_norm=True',
    'classifiers.cnn.learning_rate=0.1', 'classifiers.cnn.accumulate=2',
    'classifiers.cnn.model=resnet', 'pools.cgan.per_class=60',
    'pools.cgan.selectors=novelty,quota', 'pools.cgan.draw={"spread": 1.1}',
    'pools.cgan.selectors[0]=near', 'generators.cgan.representatives=kmeans',
    'selectors={"near": {"selector": "k_center"}}', 'arms[2].classes=Coat',
    'selectors.near.share=0.5', 'judge.epochs=1.0', 'judge.steps=0',
    'arms[4].replace=0.3', 'arms[2].add=2.0', 'arms[1].augment=standard',
    'arms[1].add_per_class=3', 'arms[0].class_weights=1.0', 'minority=a,b',
    'augmentations.standard.flip=0.5', 'augmentations.standard.shift=2',
    'metric=error', 'baseline=real', 'curve.every=3', 'budget=epochs',
    'collapse.obedience=0.5', 'audit.allow_leaks=True', 'runs_at_once=yes')
WORDS = ('', '0', '-1', '-5', '0.5', 'nan', 'inf', '1e300', '2**64', str(2**64),
         '10**9', str(10**9), '100000', 'None', 'True', '{}', '()', '[]', '[3]',
         "('a','b')", '{"a": 1}', 'x', "'", '"', '\\', '\n', 'a\nb', 'ä', '\0',
         '.', '..', '/', '~nouser/x', 'x' * 5000, '(1,', '1,2,3', "b'x'", '1j',
         '0x10', '1_000', ' ', 'fid', 'real', '-0.0', '1e-320', '[["a"]]',
         '{1: {}}', '{"a": {"model": "cnn"}}', '{"steps": 1}', '{"source": []}',
         'x ' * 5000, '\x1b[2J', '010', '[' * 5000, '{"model": [], "steps": 1}')
# What the ones above lie in.
SECTIONS = ('data', 'evaluation', 'selectors', 'generators', 'generators.cgan',
            'pools', 'pools.cgan', 'classifiers', 'classifiers.cnn', 'judge',
            'arms', 'arms[4]', 'augmentations', 'curve')


def other_override(draw: random.Random) -> str:
  """Returns an override with something else in it, often wrong."""
  key, _, value = draw.choice(OVERRIDES).partition('=')
  kind = draw.randrange(6)
  if draw.random() < 0.1:
    key, kind = draw.choice(SECTIONS), 0
  if kind <= 2:
    return f'{key}={draw.choice(WORDS)}'
  if kind == 3:  # Another value of another key.
    return f'{key}={draw.choice(OVERRIDES).partition("=")[2]}'
  word = list(f'{key}={value}')
  for _ in range(draw.randint(1, 3)):
    at = draw.randrange(len(word) + 1)
    if kind == 4:
      word[at:at + draw.randint(0, 3)] = draw.choice(
          string.printable + '[].=[].=')
    else:
      word[at:at] = draw.choice(('[0]', '[]', '.', '.x', '[-1]', '[99]', '='))
  return ''.join(word)


@pytest.mark.parametrize('count', COUNTS)
def test_overrides(tmp_path, capfd, count):
  draw, refused, wrong = random.Random(count), 0, Wrong()
  for _ in range(count):
    changes = [other_override(draw) for _ in range(draw.choice((1, 2, 4)))]
    with wrong(changes):
      refused += bool(outcome(
          capfd, launch.main, *run_test.TINY, *(
              f'--config.{change}' for change in changes),
          f'--workdir={tmp_path / "w"}', '--dry_run'))
      assert not (tmp_path / 'w').exists()
  assert not wrong, wrong
  assert count // 3 < refused < count  # Both happen.


# --------------------------------------------------------------------- damages
def flip(draw, path, others):
  data = bytearray(path.read_bytes()) or bytearray(b'x')
  data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
  path.write_bytes(data)


def truncate(draw, path, others):
  data = path.read_bytes()
  path.write_bytes(data[:draw.randrange(len(data) or 1)])


def delete(draw, path, others):
  path.unlink()


def empty(draw, path, others):
  path.write_bytes(b'')


def swap(draw, path, others):
  other = draw.choice(others)
  data = path.read_bytes()
  path.write_bytes(other.read_bytes())
  other.write_bytes(data)


def become_a_folder(draw, path, others):
  path.unlink()
  path.mkdir()


DAMAGES = flip, truncate, delete, empty, swap, become_a_folder


def kind(path) -> str:
  """What a file is: its place, without hashes and numbers."""
  return ''.join(c for c in path.as_posix() if c not in '0123456789abcdef')


def damage(draw: random.Random, folder) -> str:
  """Damages one file; each kind is as likely. Returns what was done."""
  kinds, found = {}, sorted(folder.rglob('*'))
  if folder.is_file():
    folder, found = folder.parent, [folder]
  for path in found:
    if path.is_file():
      kinds.setdefault(kind(path.relative_to(folder)), []).append(path)
  path = draw.choice(draw.choice(sorted(kinds.values())))
  # Another of its kind, or whatever.
  others = draw.choice((kinds[kind(path.relative_to(folder))],
                        sum(kinds.values(), [])))
  how = draw.choice(DAMAGES)
  how(draw, path, others)
  return f'{how.__name__} {path.relative_to(folder)}'


# --------------------------------------------------------------------- workdir
@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A finished workdir, by the commands themselves."""
  workdir = tmp_path_factory.mktemp('finished') / 'w'
  done = run_test.hooked(workdir, '$none')
  assert done.returncode == 0, done.stderr
  return workdir


@pytest.mark.parametrize('count', COUNTS)
def test_a_finished_workdir(finished, tmp_path, capfd, count):
  draw, wrong = random.Random(count), Wrong()
  seen = {'same': 0, 'refused': 0}
  want = run_test.results(finished)
  for i in range(count):
    workdir = shutil.copytree(finished, tmp_path / str(i))
    what = damage(draw, workdir)
    with wrong(what):
      line = outcome(capfd, launch.main, *run_test.TINY,
                     f'--workdir={workdir}')
      seen['refused' if line else 'same'] += 1
      if not line:
        assert run_test.results(workdir) == want
        place, = (workdir / 'results').iterdir()
        assert files.intact(place, 'report.html')
        for name in ('results.json', 'report.html'):
          assert (workdir / name).read_bytes() == (place / name).read_bytes()
    shutil.rmtree(workdir)
  assert not wrong, wrong
  assert min(seen.values()) > count // 10, seen


# ------------------------------------------------------------------- under way
def trained(workdir) -> tuple:
  """What the one generator of a workdir has learned, and its records."""
  place, = (workdir / 'generate').iterdir()
  return files.load_npz(place / 'variables.npz'), metrics_log.read(place)


@pytest.fixture(scope='module')
def under_way(tmp_path_factory):
  """A workdir whose generator was stopped at a checkpoint, with the command
  that goes on, and what that then has learned."""
  root = tmp_path_factory.mktemp('under_way')
  go = [*run_test.TINY, '--stage=generate']
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(run_test.ROOT)
    looks = iter(range(20))
    patch.setattr(interrupts, 'asked', lambda: signal.SIGTERM if next(
        looks) == 14 else None)
    assert launch.main([*go, f'--workdir={root / "w"}']) == 143
    patch.undo()
    patch.chdir(run_test.ROOT)
    shutil.copytree(root / 'w', root / 'whole')
    assert launch.main([*go, f'--workdir={root / "whole"}']) == 0
  return root / 'w', go, trained(root / 'whole')


@pytest.mark.slow
@pytest.mark.parametrize('count', [MANY // 5])
def test_a_training_under_way(under_way, tmp_path, capfd, count):
  first, go, want = under_way
  draw, wrong = random.Random(count), Wrong()
  seen = {'same': 0, 'refused': 0}
  for i in range(count):
    workdir = shutil.copytree(first, tmp_path / str(i))
    what = damage(draw, workdir)
    with wrong(what):
      line = outcome(capfd, launch.main, *go, f'--workdir={workdir}')
      seen['refused' if line else 'same'] += 1
      if not line:
        found = trained(workdir)
        for name, value in want[0].items():
          np.testing.assert_array_equal(found[0][name], value, name)
        assert found[1] == want[1]
    shutil.rmtree(workdir)
  assert not wrong, wrong
  assert min(seen.values()) > count // 10, seen


# -------------------------------------------------------------------- evaluate
BAD_LABELS = (
    lambda x: x - 1, lambda x: x + 1, lambda x: -x, lambda x: x + .5,
    lambda x: x * np.nan, lambda x: x.astype(str), lambda x: x[:-1],
    lambda x: x[:, None, None], lambda x: x.astype(object), lambda x: x > 3,
    lambda x: x.astype(np.uint64) + 2**63, lambda x: x.astype('M8[s]'),
    lambda x: x.astype('S'), lambda x: np.int64(3), lambda x: x * 1j)
BAD_IMAGES = (
    lambda x: x[:0], lambda x: x[..., :0], lambda x: x[0], lambda x: x / 2 - 3.,
    lambda x: x * np.nan, lambda x: x.astype(str), lambda x: x.astype(object),
    lambda x: x[:, :, :, None, None], lambda x: x.repeat(2, 3),
    lambda x: x.astype(np.int64) * 9, lambda x: x[:, :20], lambda x: x * 1j)


def other_arrays(draw: random.Random, file):
  """Writes an .npz whose arrays, or whose packing, are not what they should
  be."""
  arrays = dict(np.load(file))
  key, bad = draw.choice((('labels', BAD_LABELS), ('images', BAD_IMAGES)))
  number = draw.randrange(len(bad) + 4)
  if number < len(bad):
    arrays[key] = bad[number](arrays[key])
  np.savez(file, **arrays)
  if number < len(bad):
    return f'{key} {number}'
  data = bytearray(file.read_bytes())
  if number == len(bad):  # A header that claims more than there is.
    at = data.index(b'(40,')
    data[at:at + 4] = draw.choice((b'(4e9', b'(10**9', b'(41,', b'(9**99,'))
  elif number == len(bad) + 1:  # Encrypted, or of another compression.
    at = data.rindex(b'PK\1\2')
    field, value = draw.choice(((8, 1), (10, 14), (10, 99)))
    local = data.index(b'PK\3\4')
    data[at + field], data[local + field - 2] = value, value
  elif number == len(bad) + 2:
    with zipfile.ZipFile(file, 'a') as archive:
      archive.writestr('labels.txt', 'no array')
    return 'a member that is no array'
  else:
    data = data.replace(b'NUMPY', b'NOMPY')
  file.write_bytes(data)
  return f'packing {number - len(bad)}'


@pytest.fixture(scope='module')
def sets(finished, garments, tmp_path_factory):
  """Two sets of each kind that is read with a checksum."""
  root = tmp_path_factory.mktemp('sets')
  for i, name in enumerate('ab'):
    rows = np.arange(40) + 40 * i
    np.savez(root / f'{name}.npz', images=garments.test.images[rows],
             labels=garments.test.labels[rows],
             class_names=np.array(garments.class_names))
    np.savez_compressed(root / f'{name}_packed.npz',
                        images=garments.test.images[rows],
                        labels=garments.test.labels[rows])
    for row in rows[:12]:
      images.save_png(root / f'{name}_folder' / str(row % 2) / f'{row}.png',
                      garments.test.images[row])
    pool, = (finished / 'pool').iterdir()
    shutil.copytree(pool, root / f'{name}_pool' / 'pool' / pool.name)
  return root


@pytest.mark.parametrize('count', COUNTS)
def test_what_evaluate_is_given(sets, tmp_path, capfd, count):
  draw, wrong = random.Random(count), Wrong()
  seen = {'same': 0, 'refused': 0}
  def asked(root, what):
    pair = [root / f'{name}{what}' for name in 'ab']
    if what == '_pool':
      pair = [next((place / 'pool').iterdir()) for place in pair]
    return [*pair, '--extractor=pixels', '--extractor.side=8', '--cache=',
            '--metrics=prdc', '--prdc.k=3']
  def numbers(root, what):
    out = tmp_path / 'out.json'
    out.unlink(missing_ok=True)
    line = outcome(capfd, evaluate.main, *asked(root, what), f'--json={out}')
    return line or [e['rows'] for e in files.read_json(out)['fake']]
  whats = '.npz', '_packed.npz', '_folder', '_pool'
  want = {what: numbers(sets, what) for what in whats}
  assert not any(isinstance(found, str) for found in want.values()), want
  for i in range(count):
    what = draw.choice(whats)
    root = shutil.copytree(sets, tmp_path / str(i))
    # What is asked for, one of the two.
    side = root / f'{draw.choice("ab")}{what}'
    rewrite = side.suffix == '.npz' and draw.random() < 0.7
    done = (other_arrays if rewrite else damage)(draw, side)
    with wrong(done):
      found = numbers(root, what)
      seen['refused' if isinstance(found, str) else 'same'] += 1
      # A folder with other images in it is another set.
      other = what == '_folder' and done.split()[0] in (
          'delete', 'swap', 'become_a_folder')
      # Labels from 1 are labels where no names are beside them.
      fine = not rewrite or done == 'a member that is no array' or (
          done == 'labels 1' and what == '_packed.npz')
      assert isinstance(found, str) or fine and (other or found == want[what])
    shutil.rmtree(root)
  assert not wrong, wrong
  assert seen['refused'] > count // 3, seen
