"""A pool that somebody else made: matched, fitted, screened, warned of."""
import numpy as np
import pytest
from PIL import Image

from jaxaug.core import errors, files, types
from jaxaug.data import images, pools, splits
from jaxaug.data.datasets import fashion_mnist_small
from jaxaug.study import config_file, imports, run
from jaxaug.study.report import table
from jaxaug.study.stages import pool

SET = fashion_mnist_small.load()
NAMES = ('Coat', 'Ankle boot', 'Bag')
SPEC = types.ImageSpec(28, 28, 1, 3)
DIGESTS = {'train': 'a' * 64, 'validation': 'b' * 64, 'test': 'c' * 64,
           'unused': 'd' * 64}


def pictures(name, count, skip=0):
  rows = np.flatnonzero(SET.train.labels == SET.class_names.index(name))
  return SET.train.images[rows[skip:skip + count]]


def fill(root, names=NAMES, count=4, change=lambda x: x):
  for name, real in zip(names, NAMES, strict=False):
    for i, image in enumerate(pictures(real, count)):
      images.save_png(root / name / f'{i}.png', change(image))
  return root


def block(path, **more):
  return {'source': 'auto', 'path': str(path), 'split': '', 'trained_on': '',
          'generator': '', 'per_class': 0, 'batch_size': 100, 'selectors': (),
          'draw': {}} | more


def find(path, spec=SPEC, names=NAMES, **more):
  return imports.find(block(path, **more), spec, names, 'config.pools.mine')


def expect_error(message, path, **more):
  with pytest.raises(errors.InputError, match=message) as e:
    find(path, **more)
  assert '\n' not in str(e.value)


def test_classes_are_told_by_their_names_not_their_order(tmp_path):
  found = find(fill(tmp_path))
  assert found.labels.tolist() == [1] * 4 + [2] * 4 + [0] * 4
  np.testing.assert_array_equal(found.read()[:4], pictures('Ankle boot', 4))
  np.testing.assert_array_equal(found.read()[8:], pictures('Coat', 4))


def test_names_in_another_case_are_said(tmp_path):
  found = find(fill(tmp_path, ('coat', 'ankle boot')))
  assert found.labels.tolist() == [1] * 4 + [0] * 4
  assert found.about['notes'] == ["class 'ankle boot' is 'Ankle boot'",
                                  "class 'coat' is 'Coat'"]


def test_numbers_stand_for_the_classes_in_their_order(tmp_path):
  x = np.concatenate([pictures(name, 2) for name in NAMES])
  for first in (0, 1):
    np.savez(tmp_path / 'x.npz', image=x, label=np.repeat([0, 1, 2], 2) + first)
    found = find(tmp_path / 'x.npz')
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert any(f'{first} is Coat, {1 + first} is Ankle boot' in note
               for note in found.about['notes'])
  # Of 1 and 2 among three classes nobody knows whether 0 is missing, or 3.
  np.savez(tmp_path / 'x.npz', image=x[:4], label=np.repeat([1, 2], 2))
  assert find(tmp_path / 'x.npz').labels.tolist() == [1, 1, 2, 2]
  np.savez(tmp_path / 'x.npz', image=x, label=np.arange(6))
  expect_error('labels of x go from 0 to 5, and the study has 3 classes',
               tmp_path / 'x.npz')


def test_a_class_that_the_study_has_not(tmp_path):
  expect_error('config.pools.mine.path: .* has the class .Ankel boot., and the '
               "study Coat, Ankle boot, Bag.*mean 'Ankle boot'",
               fill(tmp_path, ('Coat', 'Ankel boot')))


def test_images_get_the_size_and_channels_of_the_study(tmp_path):
  colour = fill(tmp_path / 'a', change=lambda x: np.repeat(x, 3, 2))
  found = find(colour)
  assert found.about['notes'] == ['colour made grey']
  np.testing.assert_array_equal(found.read()[:4], pictures('Ankle boot', 4))
  found = find(fill(tmp_path / 'b'), types.ImageSpec(14, 20, 3, 3))
  assert found.read().shape == (12, 14, 20, 3)
  assert found.about['notes'] == ['resized to 14x20 pixels, from 28x28',
                                  'grey made colour']
  expected = images.fit(pictures('Ankle boot', 1)[0], (14, 20))
  np.testing.assert_array_equal(found.read()[0], expected.repeat(3, 2))


def test_one_of_several_splits(tmp_path):
  fill(tmp_path / 'train')
  fill(tmp_path / 'test', count=2)
  expect_error("config.pools.mine.split: ''; expected one of train, test",
               tmp_path)
  assert len(find(tmp_path, split='test').labels) == 6
  expect_error("split: 'tset'.*mean 'test'", tmp_path, split='tset')


def test_errors_name_the_pool_and_not_the_data(tmp_path):
  expect_error("config.pools.mine.path: there is no file 'x'", 'x')
  expect_error("config.pools.mine.path: ''; expected where", '')
  rgba = np.full((28, 28, 4), 9, np.uint8)
  fill(tmp_path)
  Image.fromarray(rgba).save(tmp_path / 'Coat' / '0.png')
  expect_error("or config.pools.mine.alpha='white', 'black' or 'drop'",
               tmp_path)
  assert find(tmp_path, alpha='drop').read().shape == (12, 28, 28, 1)
  expect_error('config.pools.mine.alhpa: unknown key', tmp_path, alhpa='drop')


def test_only_the_hash_of_the_training_split_removes_the_warning():
  def say(given):
    return imports.provenance(block('', trained_on=given), DIGESTS, 'here')
  unknown = 'imported: what its generator has seen is unknown'
  assert say('')['warning'] == unknown and say('')['matches'] is None
  assert say('a' * 64) == {'trained_on': 'a' * 64, 'matches': 'train',
                           'warning': ''}
  assert say('A' * 12)['warning'] == ''
  for short in ('a' * 11, 'g' * 64, 'a' * 65):
    with pytest.raises(errors.InputError, match='here.trained_on: .* sha256'):
      say(short)
  assert say('e' * 64)['warning'] == (
      unknown + ' (trained_on, eeeeeeeeeeee..., is no split of this study, '
      'whose training split is aaaaaaaaaaaa...)')
  assert 'learned from images of the unused split' in say('d' * 64)['warning']
  with pytest.raises(errors.InputError, match='here.trained_on: the test'):
    say('c' * 64)


def brought(tmp_path, selects=None, least=(0, 0, 0), per_class=0, found=None):
  data = splits.Splits(*[None] * 4, NAMES, {'digests': DIGESTS})
  place = files.folder(tmp_path, 'pool')
  found = found or find(fill(tmp_path / 'images'))
  pool.bring(place, name='mine', found=found, data=data,
             least=np.array(least), per_class=per_class, selects=selects or {})
  return found, pools.read(place.final)


def test_a_brought_pool_is_a_pool_like_any_other(tmp_path):
  found, made = brought(tmp_path)
  order = np.argsort(found.labels, kind='stable')
  np.testing.assert_array_equal(made.images, found.read()[order])
  assert made.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
  assert made.row.tolist() == order.tolist() and (made.origin == -1).all()
  m = made.manifest
  assert m['counts'] == [4, 4, 4] and m['drawn'] == 12 and not m['from_real']
  assert m['imported']['path'].endswith('images') and m['generator'] == ''
  assert m['digest'] == images.digest(made.images, made.labels)
  assert m['generator_key'] == 'imported:' + images.digest(
      found.read(), found.labels)[:12]


def test_the_first_of_a_class_and_those_that_selectors_leave(tmp_path):
  _, made = brought(tmp_path, per_class=3)
  assert made.manifest['counts'] == [3, 3, 3]
  np.testing.assert_array_equal(made.images[:3], pictures('Coat', 3))


def test_selectors_that_leave_too_few(tmp_path):
  def odd(images_, labels):
    return {'odd': np.arange(len(labels)) % 2 == 1}
  _, made = brought(tmp_path, {'odd': odd}, least=(2, 2, 2))
  assert made.manifest['counts'] == [2, 2, 2]
  assert made.manifest['selectors'][0]['kept'] == 6
  files.remove(tmp_path / 'pool')
  with pytest.raises(errors.InputError, match=(
      r'odd 6 of 12, 6 odd\): 1 of a class are missing after 12')):
    brought(tmp_path, {'odd': odd}, least=(3, 2, 2))


# Whole studies, of few steps.


def study(tmp_path, pool_path, *more, stage='all'):
  if not (tmp_path / 'real').exists():
    fill(tmp_path / 'real', count=30)
  config = config_file.load('configs/judge_pool.py', [
      f'--config.data.path={tmp_path / "real"}',
      f'--config.pools.mine.path={pool_path}', '--config.runs=2',
      '--config.classifiers.cnn.steps=2', '--config.classifiers.cnn.epochs=0',
      '--config.classifiers.cnn.batch_size=8', '--config.judge.steps=2',
      '--config.eval_every=2', '--config.evaluation.metrics=fid',
      '--config.judge.batch_size=8', *more])
  out = run.run(config, tmp_path / 'work', stage=stage)
  assert not out.failures
  return out.results


def gaussian(path, count=12, leak=()):
  """Draws a pool as somebody else would: a Gaussian in each class's PCA."""
  from sklearn import decomposition
  x, y = [*leak], [0] * len(leak)
  for k, name in enumerate(NAMES):
    real = pictures(name, 60, skip=100).reshape(60, -1)
    pca = decomposition.PCA(20, random_state=0).fit(real)
    z = np.random.default_rng(k).normal(size=(count, 20))
    drawn = pca.inverse_transform(z * pca.explained_variance_**.5)
    x += [*np.clip(np.rint(drawn), 0, 255).astype(np.uint8).reshape(
        -1, 28, 28, 1)]
    y += [k] * count
  np.savez(path, image=np.stack(x), label=np.array(NAMES)[y])
  return path


def test_a_pool_of_somebody_else_is_judged_and_warned_of(tmp_path):
  results = study(tmp_path, gaussian(tmp_path / 'pool.npz'))
  warning = 'imported: what its generator has seen is unknown'
  rows = results['classifiers']['cnn']['arms']
  assert rows['mine']['synthetic'] == 36 and rows['real']['synthetic'] == 0
  for arm in ('mine', 'standard_mine'):
    assert rows[arm]['copies']['warning'] == warning
  assert results['pools']['mine']['obedience']['n'] == 36
  assert set(results['pools']['mine']['audit']) == {'n', 'train', 'validation',
                                                    'test'}
  report = (tmp_path / 'work' / 'report.html').read_text()
  assert report.count(warning) >= 3 and 'Data checks' in report
  # The hash of the training split, which a report and an export have.
  sha = results['data']['digests']['train']
  again = study(tmp_path, tmp_path / 'pool.npz',
                f'--config.pools.mine.trained_on={sha}')
  assert again['classifiers']['cnn']['arms']['mine']['copies']['warning'] == ''
  assert warning not in (tmp_path / 'work' / 'report.html').read_text()
  wrong = study(tmp_path, tmp_path / 'pool.npz',
                f'--config.pools.mine.trained_on={sha[::-1]}')
  assert wrong['classifiers']['cnn']['arms']['mine']['copies'][
      'warning'].startswith(warning + ' (trained_on, ')
  with pytest.raises(errors.InputError, match='trained_on: the test split'):
    study(tmp_path, tmp_path / 'pool.npz', '--config.pools.mine.trained_on='
          + results['data']['digests']['test'])


def test_a_pool_with_test_images_stops_the_study(tmp_path):
  study(tmp_path, gaussian(tmp_path / 'clean.npz'), stage='data')
  data, = (tmp_path / 'work' / 'data').iterdir()
  for split in ('test', 'validation'):
    leak = np.load(data / f'{split}_images.npy')[:5]
    with pytest.raises(errors.InputError, match=(
        f"pool 'mine', 5 are exact .* copies of {split} images.*"
        'config.audit.allow_leaks=True')):
      study(tmp_path, gaussian(tmp_path / f'{split}.npz', leak=leak))


def test_a_leak_that_is_allowed_is_said_at_its_verdict(tmp_path):
  study(tmp_path, gaussian(tmp_path / 'clean.npz'), stage='data')
  data, = (tmp_path / 'work' / 'data').iterdir()
  leak = np.load(data / 'test_images.npy')[:5]
  results = study(tmp_path, gaussian(tmp_path / 'leak.npz', leak=leak),
                  '--config.audit.allow_leaks=True')
  said = '5 of its images are test images'
  row = results['classifiers']['cnn']['arms']['mine']
  assert row['copies']['warning'].endswith(f'is unknown; {said}')
  assert said in table.verdict_table(results).caption
  assert said in (tmp_path / 'work' / 'report.html').read_text()
  # Another pool stops: what stood at the top was not of it.
  with pytest.raises(errors.InputError, match='5 are exact'):
    study(tmp_path, tmp_path / 'leak.npz')
  assert not (tmp_path / 'work' / 'report.html').exists()
  assert not (tmp_path / 'work' / 'results.json').exists()
  kept, = (tmp_path / 'work' / 'results').iterdir()
  assert (kept / 'report.html').exists()


def test_all_of_a_pool_that_is_screened_is_refused(tmp_path):
  with pytest.raises(errors.InputError, match=(
      r"config.arms\[2\].add_per_class: 'all', and how many images pool 'mine' "
      'has is known only when it is made; expected a count')):
    study(tmp_path, gaussian(tmp_path / 'pool.npz'),
          '--config.pools.mine.selectors=novelty')


@pytest.mark.parametrize('override, message', [
    ('pools.mine.source=folders', "no dataset 'folders'.*mean 'folder'"),
    ('pools.mine.generator=cgan', 'has a source, and also a generator'),
    ('pools.mine.alpha=grey', 'config.pools.mine.alpha'),
    ('pools.mine.per_class=-1', 'config.pools.mine.per_class'),
    ('arms[2].add_per_class=al', "'al'; expected one of all")])
def test_bad_imports_are_one_line(tmp_path, override, message):
  with pytest.raises(errors.InputError, match=message) as e:
    study(tmp_path, gaussian(tmp_path / 'pool.npz'), f'--config.{override}')
  assert '\n' not in str(e.value)
