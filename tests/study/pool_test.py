"""A pool: how much is drawn, what selectors leave, and what is written."""
import re

import jax
import numpy as np
import pytest

from jaxaug.core import errors, files
from jaxaug.data import pools, splits
from jaxaug.study import selection
from jaxaug.study.stages import pool

NAMES = ('a', 'b', 'c')


def _source(bad=None):
  """Images whose first pixel is their label, the others noise."""
  def draw(variables, key, labels):
    images = jax.random.uniform(key, (len(labels), 4, 5, 1), minval=-1)
    images = images.at[:, 0, 0, 0].set(labels / 127.5 - 1)
    return images * (1 if bad is None else bad), labels + 7
  return pool.Source(draw, None, 'gan', 'gan-0123')


def _run(tmp_path, sizes, selects, batch_size=6, seed=3, **more):
  data = splits.Splits(*[None] * 4, NAMES, {'digests': {'train': 'abc'}})
  folder = files.folder(tmp_path, 'p')
  manifest = pool.run(folder, name='p', source=_source(**more), data=data,
                      sizes=np.array(sizes), batch_size=batch_size, seed=seed,
                      selects=selects)
  return manifest, pools.read(folder.final)


def _odd(images, labels):
  """Drops images whose last pixel is odd, and of class 1 the dark too."""
  return {'odd': images[:, -1, -1, 0] % 2 == 1,
          'dark': (labels == 1) & (images[:, 1, 1, 0] < 128)}


def test_without_selectors_the_first_of_each_class_are_taken(tmp_path):
  manifest, made = _run(tmp_path, [5, 5, 5], {})
  assert np.bincount(made.labels).tolist() == [5, 5, 5]
  np.testing.assert_array_equal(made.images[:, 0, 0, 0], made.labels)
  np.testing.assert_array_equal(made.origin, made.labels + 7)
  assert manifest['drawn'] == 18 and manifest['counts'] == [5, 5, 5]
  assert manifest['selectors'] == [] and manifest['from_real'] is True
  # By class, and in a class in the order of the draws.
  order = list(zip(made.labels, made.batch, made.row, strict=True))
  assert order == sorted(order)


def test_labels_are_mixed_anew_in_every_batch(tmp_path):
  _, made = _run(tmp_path, [6, 6, 6], {})
  asked = made.labels[np.lexsort((made.row, made.batch))].reshape(3, 6)
  assert np.sort(asked).tolist() == [[0, 0, 1, 1, 2, 2]] * 3
  assert len(np.unique(asked, axis=0)) == 3


def test_only_some_classes(tmp_path):
  manifest, made = _run(tmp_path, [0, 4, 7], {})
  assert np.bincount(made.labels).tolist() == [0, 4, 7]
  assert manifest['per_class'] == 7 and manifest['counts'] == [0, 4, 7]


def test_selectors_leave_what_they_keep_until_there_is_enough(tmp_path):
  manifest, made = _run(tmp_path, [20, 20, 20], {'parity': _odd})
  assert np.bincount(made.labels).tolist() == [20] * 3
  assert not (made.images[:, -1, -1, 0] % 2).any()
  assert (made.images[made.labels == 1, 1, 1, 0] >= 128).all()
  step, = manifest['selectors']
  assert step['selector'] == 'parity' and step['seen'] == manifest['drawn']
  # A half of the others, a quarter of class 1: it says how many are drawn.
  assert 200 < manifest['drawn'] < 500
  assert 0.35 < step['kept'] / step['seen'] < 0.5
  assert step['reasons'].keys() == {'odd', 'dark'}
  assert 0.4 < step['reasons']['odd'] / step['seen'] < 0.6
  # They are the first that are kept: those of a longer draw begin with them.
  more, longer = _run(tmp_path / 'more', [30, 30, 30], {'parity': _odd})
  for k in range(3):
    np.testing.assert_array_equal(longer.images[longer.labels == k][:20],
                                  made.images[made.labels == k])
  # And the same again.
  _, again = _run(tmp_path / 'again', [20, 20, 20], {'parity': _odd})
  np.testing.assert_array_equal(again.images, made.images)


def test_a_selector_sees_what_the_one_before_left(tmp_path):
  seen = []
  def watch(images, labels):
    seen.append(images[:, -1, -1, 0] % 2)
    return {'late': np.arange(len(labels)) >= 60}
  manifest, _ = _run(tmp_path, [5, 5, 5], {'parity': _odd, 'watch': watch})
  assert seen and not np.concatenate(seen).any()
  first, second = manifest['selectors']
  assert first['kept'] == second['seen']
  assert second['kept'] == min(60, second['seen'])


def test_selectors_that_leave_nothing_are_one_line(tmp_path):
  def all_(images, labels):
    return {'wrong': labels == 2}
  with pytest.raises(errors.InputError, match=(
      r'^config\.pools\.p\.selectors: selectors keep too few images \(parity '
      r'\d+ of \d+, \d+ odd, \d+ dark, all \d+ of \d+, \d+ wrong\): 4 of '
      r'a class are missing after \d+\.$'
      )) as e:
    _run(tmp_path, [4, 4, 4], {'parity': _odd, 'all': all_})
  assert e.value.failure and '\n' not in str(e.value)
  # Not before 20 for each of the 12 and a batch; each time at most doubled.
  assert 360 <= int(re.search(r'(\d+)\.$', str(e.value))[1]) < 3 * 360
  assert not (tmp_path / 'p').exists()


def test_images_that_are_not_finite_are_one_line(tmp_path):
  with pytest.raises(errors.InputError, match='^pool p: images are not finite'):
    _run(tmp_path, [4, 4, 4], {}, bad=float('nan'))


# ------------------------------------------------------------------- selection
def test_screening_counts_an_image_once_for_each_reason():
  images = np.arange(10, dtype=np.uint8)[:, None, None, None]
  labels = np.zeros(10, np.int32)
  def twice(images, labels):
    x = images[:, 0, 0, 0]
    return {'large': x > 7, 'even': x % 2 == 0}
  def none(images, labels):
    return {}
  got = selection.screen({'twice': twice, 'none': none}, images, labels)
  assert np.flatnonzero(got.keep).tolist() == [1, 3, 5, 7]
  assert got.steps == [
      {'selector': 'twice', 'seen': 10, 'kept': 4,
       'reasons': {'large': 2, 'even': 5}},
      {'selector': 'none', 'seen': 4, 'kept': 4, 'reasons': {}}]


def test_classes_by_name_or_number():
  numbers = selection.numbers
  assert numbers(('c', 0), NAMES, 'x') == (2, 0)
  with pytest.raises(errors.InputError, match='^x: .* expected each once'):
    numbers(('c', 0, 2), NAMES, 'x')
  assert numbers((), NAMES, 'x') == numbers(None, NAMES, 'x') == ()
  for wrong, said in (('bb', "'bb' is no class; expected some of a, b, c. Did "
                       "you mean 'b'"), (3, '3 is no class'),
                      (True, 'True is no class')):
    with pytest.raises(errors.InputError, match=f'^x: {said}') as e:
      numbers((wrong,), NAMES, 'x')
    assert '\n' not in str(e.value)


def test_names_mean_blocks_or_files():
  config = {'selectors': {'close': {'selector': 'novelty', 'classes': ('a',)}}}
  mine = selection.named(config, 'close', 'x')
  assert mine.where == 'config.selectors.close'
  assert mine.block['selector'] == 'novelty'
  plain = selection.named(config, 'not_copies', 'x')
  assert plain.block == {'selector': 'not_copies', 'classes': (),
                         'extractor': '', 'weights': ''}
  with pytest.raises(errors.InputError, match="^x: there is no selector "
                     "'novelti'; expected a name of config.selectors or a file "
                     "of data/selectors/, such as close, "):
    selection.named(config, 'novelti', 'x')


def test_pools_of_this_version_have_origins(tmp_path):
  _run(tmp_path, [2, 2, 2], {})
  arrays = files.load_npz(tmp_path / 'p' / 'pool.npz')
  assert arrays.keys() == {'images', 'labels', 'batch', 'row', 'origin'}
