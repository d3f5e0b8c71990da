"""The command: numbers with their protocol, or one line and exit code 2."""
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from jaxaug.commands import evaluate
from jaxaug.core import errors, registry
from jaxaug.data import images
from jaxaug.evaluation import features, image_sets, measure, moments

ROOT = pathlib.Path(__file__).parents[2]
QUICK = ('--extractor=pixels', '--cache=', '--extractor.side=8')
SETS = ('fashion_mnist_small@train', 'fashion_mnist_small@test')


def run(*args):
  return evaluate.main([str(a) for a in args])


def refused(capsys, *args) -> str:
  assert run(*args) == 2
  out, err = capsys.readouterr()
  assert err.count('\n') == 1, err
  # Nothing but how far it came before that.
  assert all(re.search(r' image \d+/\d+ ', line) for line in out.splitlines())
  return err


def test_numbers_with_their_protocol(tmp_path, capsys):
  out = tmp_path / 'out.json'
  assert run(*SETS, SETS[0], *QUICK, '--metrics=fid,kid,prdc,diversity',
             '--num_images=500', f'--json={out}', '--kid.subsets=7',
             '--kid.subset_size=200') == 0
  page = capsys.readouterr().out
  found = json.loads(out.read_text())
  for words in ('fd_pixels', 'kd_pixels', '500', 'float32', 'Mean over'):
    assert words in page, page
  first, second = (
      {row['name']: row['measured'] for row in entry['rows']}
      for entry in found['fake'])
  assert first['kd_pixels']['n'] == 7 and first['kd_pixels']['std'] > 0
  # The same 500 images on both sides.
  assert second['fd_pixels']['value'] == pytest.approx(0, abs=1e-9)
  assert first['fd_pixels']['value'] > 0.01
  over = {row['name']: row for row in found['over_sets']}['fd_pixels']
  assert over['n'] == 2
  assert over['mean'] == pytest.approx(first['fd_pixels']['value'] / 2)
  assert found['fake'][0]['rows'][0]['real'] == 500
  assert found['extractor']['protocol'] and found['stamp']['versions']


def test_two_halves_of_the_real_set_are_a_yardstick(tmp_path):
  out = tmp_path / 'out.json'
  assert run(*SETS, *QUICK, '--halves', '--metrics=fid', f'--json={out}') == 0
  halves, = json.loads(out.read_text())['halves']
  assert halves['real'] == halves['fake'] == 2500
  one, other = image_sets.halves(image_sets.open(SETS[0]))
  extractor = registry.find('extractors', 'pixels').build(side=8)
  want = measure.compare(*(half.read(np.arange(2500)) for half in (
      one, other)), extractor, ('fid',))
  assert halves['measured']['value'] == pytest.approx(want['fd_pixels'].value)


def test_two_folders_and_no_network_by_the_stand_in(tmp_path, capsys):
  train = registry.find('datasets', 'fashion_mnist_small').load().train
  for name, part in (('real', slice(0, 60)), ('fake', slice(60, 120))):
    for i, image in enumerate(train.images[part]):
      images.save_png(tmp_path / name / f'{i}.png', image)
  assert run(tmp_path / 'real', tmp_path / 'fake', '--extractor=scattering',
             f'--cache={tmp_path / "cache"}') == 0
  page = capsys.readouterr().out
  assert 'fd_scattering' in page and 'coverage_scattering' in page
  assert 'covariance is singular' in page
  assert len(list((tmp_path / 'cache').iterdir())) == 1  # Of the real ones.


def test_statistics_go_out_and_come_back(tmp_path, capsys):
  file = tmp_path / 's.npz'
  assert run(SETS[0], *QUICK, f'--save_statistics={file}') == 0
  with np.load(file) as arrays:
    assert {'mu', 'sigma'} <= set(arrays.files)
  def value(*args):
    out = tmp_path / f'{len(list(tmp_path.iterdir()))}.json'
    assert run(*args, '--metrics=fid', f'--json={out}') == 0
    return json.loads(out.read_text())['fake'][0]['rows'][0]
  kept = value(file, SETS[1], *QUICK)
  assert kept['measured']['value'] == pytest.approx(
      value(*SETS, *QUICK)['measured']['value'], rel=1e-12)
  assert kept['real'] == 5000 and kept['fake'] == 2000
  capsys.readouterr()
  assert 'need features' in refused(capsys, file, SETS[1], *QUICK)
  assert 'protocol' in refused(capsys, file, SETS[1], '--metrics=fid',
                               '--extractor=pixels', '--extractor.side=4')
  assert 'extractor' in refused(capsys, file, SETS[1], '--metrics=fid',
                                '--extractor=scattering')


def test_what_pytorch_fid_wrote_is_read_and_said(tmp_path, capsys):
  train = registry.find('datasets', 'fashion_mnist_small').load().train
  of = moments.of(train.images[:, ::4, ::4].reshape(5000, -1) / 255.)
  np.savez(tmp_path / 'theirs.npz', mu=of.mean, sigma=of.covariance)
  assert run(tmp_path / 'theirs.npz', SETS[1], '--metrics=fid', '--cache=',
             '--extractor=pixels', '--extractor.side=7') == 0
  assert 'does not say which network' in capsys.readouterr().out
  assert '64' in refused(capsys, tmp_path / 'theirs.npz', SETS[1],
                         '--metrics=fid', *QUICK)


@pytest.mark.slow
def test_classification_accuracy_score(tmp_path, capsys):
  """Trained on half of the real images, it knows the others well."""
  out = tmp_path / 'o.json'
  assert run(*SETS, '--extractor=pixels', '--metrics=cas', '--cache=',
             f'--json={out}', '--cas.runs=2', '--classifier.steps=100',
             '--classifier.widths=(8,32)') == 0
  rows = {row['name']: row['measured']
          for row in json.loads(out.read_text())['fake'][0]['rows']}
  for name in ('cas_fake_to_real', 'cas_real_to_fake'):
    assert 0.7 < rows[name]['value'] < 0.9 and rows[name]['n'] == 2


def test_classes_meet_by_their_names(tmp_path, capsys):
  train = registry.find('datasets', 'fashion_mnist_small').load().train
  for side, names in (('a', 'xy'), ('b', 'yz'), ('c', 'y')):
    for name in names:
      for i in range(12):
        label = {'x': 0, 'y': 1, 'z': 2}[name]
        images.save_png(tmp_path / side / name / f'{i}.png', train.images[
            np.flatnonzero(train.labels == label)[i]])
  real, fake = (image_sets.open(tmp_path / name) for name in 'ac')
  assert set(fake.labels) == {0}  # Its own number of y, which real calls 1.
  np.testing.assert_array_equal(evaluate._match(fake.labels, real, fake),
                                np.ones(12))
  assert "class 'z'" in refused(capsys, tmp_path / 'a', tmp_path / 'b', *QUICK)


@pytest.mark.parametrize('args, message', [
    (('x', 'y'), 'REAL: there is no file'),
    (SETS[:1], 'FAKE: none'),
    ((), 'required'),
    ((*SETS, '--metrics=fdi'), "'fdi'.*Did you mean 'fid'"),
    ((*SETS, '--metrics='), 'none; expected some of'),
    ((*SETS, '--extractor=inceptoin'), "Did you mean 'inception'"),
    ((*SETS, '--extractor=pixels', '--extractor.sdie=3'), "mean 'side'"),
    ((*SETS, '--kid.subset=3'), 'unknown key'),
    ((*SETS, '--kdi.subsets=3'), 'unknown argument'),
    ((*SETS, '--metric=fid'), "Did you mean '--metrics'"),
    ((*SETS, '--batch_size=0'), '--batch_size: 0'),
    ((*SETS, '--batch_size=x'), 'invalid int'),
    ((*SETS, *QUICK, '--resize=3x'), '--resize: '),
    ((*SETS, *QUICK, '--num_images=3000'), 'holds 2000'),
    ((*SETS, *QUICK, '--num_images=1', '--metrics=fid'), 'one image'),
    ((*SETS, *QUICK, '--num_images=4', '--metrics=prdc'), 'prdc'),
    ((*SETS, *QUICK, '--metrics=is'), 'knows no classes'),
    ((*SETS, *QUICK, '--json=launch.py'), 'is there already'),
    ((*SETS, *QUICK, '--metrics=cas', '--classifier.steps=0'),
     '--classifier.steps: 0'),
    ((*SETS, *QUICK, '--metrics=cas', '--classifier.model=cn'),
     "Did you mean 'cnn'"),
    ((*SETS, '--extractor=classifier'), 'no finished run'),
    ((*SETS, '--extractor=resnet_cifar:x.npz'), 'x.npz'),
])
def test_mistakes_are_one_line(args, message, capsys):
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(ROOT)
    err = refused(capsys, *args)
  assert re.search(message, err), err


def test_without_weights_it_says_what_works(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv('JAXAUG_CACHE', str(tmp_path))
  err = refused(capsys, *SETS, '--extractor.download=False')
  for words in ('pt_inception-2015-12-05-6726825d.pth', '6726825d0af5f729',
                str(tmp_path), 'scattering'):
    assert words in err


def test_constant_images_are_defined_or_refused(tmp_path, capsys):
  x = np.full((20, 8, 8, 3), 7, np.uint8)
  np.savez(tmp_path / 'a.npz', images=x)
  np.savez(tmp_path / 'b.npz', images=x + np.uint8(9))
  out = tmp_path / 'o.json'
  assert run(tmp_path / 'a.npz', tmp_path / 'b.npz', *QUICK, '--metrics=fid',
             f'--json={out}') == 0
  value = json.loads(out.read_text())['fake'][0]['rows'][0]['measured']['value']
  # Only the means differ: 192 features, each by 9 of 255.
  assert value == pytest.approx(192 * (9 / 255)**2, rel=1e-4)


def test_help_is_quick():
  env = os.environ | {'PYTHONPATH': str(ROOT)}
  out = subprocess.run(
      [sys.executable, '-m', 'jaxaug.evaluate', '--help'], env=env,
      text=True, capture_output=True, timeout=60)
  assert out.returncode == 0
  for words in ('--metrics', 'scattering', 'improved_pr', '--cache'):
    assert words in out.stdout


def test_a_refusal_is_an_error_of_the_library_too():
  with pytest.raises(errors.InputError, match='REAL'):
    evaluate.run(evaluate.parse(['nothing', 'here', '--extractor=pixels']))


@pytest.fixture(scope='module')
def small(tmp_path_factory):
  """Two files of labelled images, of 2 and of 12 classes; statistics."""
  root = tmp_path_factory.mktemp('small')
  pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
  np.savez(root / 'two.npz', images=pixels, labels=np.arange(40) % 2)
  np.savez(root / 'twelve.npz', images=pixels, labels=np.arange(40) % 12)
  for name, count in (('many', 'many'), ('negative', -3)):
    np.savez(root / f'{name}.npz', mu=np.zeros(64), sigma=np.eye(64),
             count=count)
  for name, scale in (('huge', 1e308), ('zero', 0)):
    np.savez(root / f'{name}.npz', mu=np.zeros(64), sigma=scale * np.eye(64))
  (root / 'odd').mkdir()
  with open(os.fsencode(root / 'odd') + b'/\xff.png', 'wb') as f:
    f.write(b'x')
  return root


@pytest.mark.parametrize('real, fake, more, words', [
    ('~nouser/x', 'two.npz', (), 'there is no file'),
    ('x' * 5000, 'two.npz', (), 'File name too long'),
    ('two.npz', 'odd', (), 'damaged, or none of PNG'),
    ('two.npz', 'many.npz', (), "count: 'many'; expected a whole number"),
    ('two.npz', 'negative.npz', (), 'count: -3; expected a whole number'),
    ('two.npz', 'two.npz', ('--resize=100000',), 'MB of memory'),
    ('two.npz', 'two.npz', ('--resize=' + '9' * 400,), 'MB of memory'),
    ('two.npz', 'two.npz', ('--batch_size=99999999999',), 'below 2**31'),
    ('two.npz', 'two.npz', ('--cache=~nouser/x',), 'no such user'),
    ('two.npz', 'two.npz', ('--json=/nonexistent/x',), 'is no folder that'),
    ('huge.npz', 'huge.npz', (), 'too large for float64'),
    ('huge.npz', 'zero.npz', (), 'too large for float64'),
    ('two.npz', 'twelve.npz', ('--metrics=cas',), 'has the label 11, but'),
])
def test_inputs_that_are_none(small, capsys, monkeypatch, real, fake, more,
                              words):
  monkeypatch.chdir(small)
  assert words in refused(capsys, real, fake, '--extractor=pixels', '--cache=',
                          '--metrics=fid', *more)


def test_names_that_are_no_text(tmp_path, small, capsys):
  """Of a folder, of its classes, and of the classes in a file."""
  folder = os.fsencode(tmp_path) + b'/\xfe'
  for name in (b'/\xff', b'/b'):
    os.makedirs(folder + name)
    for k in range(2):
      images.save_png(os.fsdecode(folder + name) + f'/{k}.png',
                      np.full((8, 8, 1), 9 * k, np.uint8))
  np.savez(tmp_path / 'c.npz', class_names=np.array([b'\xff', b'b']),
           **np.load(small / 'two.npz'))
  done = subprocess.run(
      [sys.executable, '-m', 'jaxaug', 'evaluate', os.fsdecode(folder),
       tmp_path / 'c.npz', '--extractor=pixels', '--cache=', '--metrics=fid'],
      cwd=ROOT, capture_output=True, encoding='latin-1',
      env=os.environ | {'PYTHONIOENCODING': 'latin-1:strict'})
  assert done.returncode == 0, done.stderr
  assert '\\udcfe' in done.stdout and not done.stderr


def test_memory_that_there_is_not(small, capsys, monkeypatch):
  monkeypatch.setattr(features, 'extract',
                      lambda *_, **more: np.empty(2**60, np.uint8))
  assert 'the memory is used up' in refused(
      capsys, small / 'two.npz', small / 'two.npz', '--extractor=pixels',
      '--cache=')
