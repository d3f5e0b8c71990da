"""A pool beside real images, and the checkpoint that the curve chooses."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.core import files, types
from jaxaug.data import pixels
from jaxaug.evaluation import curve as curves
from jaxaug.evaluation import measure
from jaxaug.study import results
from jaxaug.study.stages import generate, quality
from jaxaug.training import mesh, metrics_log
from tests.conftest import part

DEVICES = mesh.make()


def test_a_pool_of_real_images_is_like_them(tmp_path, garments, by_pixel):
  """A pool of other training images, and one of noise, by the same table."""
  rng = np.random.default_rng(0)
  rows = rng.permutation(5000)
  sets = {'train': part(garments.train, rows[:400]), 'test': part(
      garments.test, rng.permutation(2000)[:400])}
  pools = {'good': part(garments.train, rows[400:800]),
           'copies': sets['train'],
           'noise': sets['train']._replace(images=rng.integers(
               0, 256, (400, 28, 28, 1), np.uint8))}
  found = {}
  for name, pool in pools.items():
    folder = files.folder(tmp_path, name)
    quality.run(folder, name=name, sets=sets | {'pool': pool},
                extractor=by_pixel,
                metrics=('fid', 'kid', 'prdc', 'copying', 'authenticity'),
                cache=tmp_path / 'features')
    found[name] = quality.read(folder)
  def value(name, number, against='test'):
    return found[name]['rows'][f'{number}_pixels'][against]['value']
  assert value('noise', 'fd') > 20 * value('good', 'fd') > 0
  assert value('noise', 'coverage') < 0.1 < 0.8 < value('good', 'coverage')
  assert value('copies', 'fd', 'train') == pytest.approx(0, abs=1e-9)
  assert value('copies', 'authenticity', 'train') == 0
  assert value('good', 'authenticity', 'train') > 0.4
  # The yardstick knows nothing of the pool.
  yardsticks = {name: value(name, 'fd', 'real') for name in pools}
  assert len(set(yardsticks.values())) == 1
  assert len(list((tmp_path / 'features').iterdir())) == 2  # Not of pools.
  row = found['good']['rows']['kd_pixels']['test']
  assert (row['real'], row['fake'], row['over']) == (
      400, 400, 'subsets of 400')


def test_a_pool_of_some_classes_is_held_against_these(tmp_path, garments,
                                                      by_pixel):
  """Not against all: real coats and bags would be unlike real garments."""
  rows = np.isin(garments.train.labels, (4, 8))
  pool = part(garments.train, np.flatnonzero(rows)[:100])
  sets = {'pool': pool, 'train': garments.train, 'test': garments.test}
  alone = sets | {name: part(split, np.isin(split.labels, (4, 8)))
                  for name, split in list(sets.items())[1:]}
  found = []
  for name, given in ('all', sets), ('some', alone):
    folder = files.folder(tmp_path, name)
    quality.run(folder, name='p', sets=given, extractor=by_pixel,
                metrics=('fid', 'prdc'))
    found.append(quality.read(folder)['rows'])
  assert found[0] == found[1]
  row = found[0]['fd_pixels']
  assert row['train']['real'] == 1000 and row['test']['fake'] == 100


def test_what_cannot_be_computed_is_a_note(tmp_path, garments, by_pixel):
  few = part(garments.train, slice(0, 4))
  folder = files.folder(tmp_path, 'few')
  quality.run(folder, name='few', sets=dict.fromkeys(
      ('pool', 'train', 'test'), few), extractor=by_pixel,
              metrics=('fid', 'prdc'))
  found = quality.read(folder)
  assert list(found['rows']) == ['fd_pixels']
  assert any('prdc' in note for note in found['notes'])
  assert any('singular' in note for note in found['notes'])


def model(garments):
  """Shows real images ever more, then ever less: step 6 is the best."""
  bank = jnp.asarray(garments.train.images[:200] / 127.5 - 1, jnp.float32)
  def sample(variables, key, labels, given=None):
    clean = bank[jax.random.randint(key, (len(labels),), 0, 200)]
    noise = jax.random.uniform(jax.random.fold_in(key, 1), clean.shape,
                               minval=-1)
    share = jnp.abs(variables['step'] - 6) / 12
    return clean * (1 - share) + noise * share
  return types.GenerativeModel(
      lambda key: {'step': jnp.float32(0)},
      lambda state, batch, key: ({'step': state['step'] + 1},
                                 {'g_loss': state['step']}),
      lambda state: state, sample, lambda state: {'g': 1})


@pytest.mark.parametrize('metric', ['fid', 'kid'])
def test_the_lowest_point_of_the_curve_is_kept(tmp_path, garments, by_pixel,
                                               metric):
  made, folder = model(garments), files.folder(tmp_path, 'g')
  curve = curves.make(by_pixel, part(garments.test, slice(0, 150)), range(10),
                         metric=metric, every=2, images=150)
  assert len(curve.labels) == 200  # Whole batches.
  assert (np.bincount(curve.labels) == 20).all()
  generate.run(folder, name='g', spec=types.ImageSpec(28, 28, 1, 10),
               train=part(garments.train, slice(0, 64)), train_digest='',
               model=made, steps=10, batch_size=8, seed=0, devices=DEVICES,
               log_every=1, save_every=4, sample_every=10, curve=curve)
  assert generate.read(folder, made, None, 0).variables() == {'step': 6}
  manifest = files.manifest(folder.final)
  assert manifest['chosen_step'] == 6
  entry = results.generator(generate.read(folder, made, None, 0), 'model')
  assert [p['step'] for p in entry['choice']] == [2, 4, 6, 8, 10]
  values = [p[curve.name] for p in entry['choice']]
  assert min(values) == values[2]
  names = {k for record in metrics_log.read(folder.final) for k in record}
  assert curve.name in names


def test_without_validation_or_without_a_curve_the_last_weights_stay(
    tmp_path, garments, by_pixel):
  given = {'metric': 'fid', 'images': 100}
  none = part(garments.test, slice(0, 0))
  assert curves.make(by_pixel, none, range(10), every=2, **given) is None
  assert curves.make(by_pixel, garments.test, range(10), every=0,
                     **given) is None
  made, folder = model(garments), files.folder(tmp_path, 'g')
  generate.run(folder, name='g', spec=types.ImageSpec(28, 28, 1, 10),
               train=part(garments.train, slice(0, 64)), train_digest='',
               model=made, steps=10, batch_size=8, seed=0, devices=DEVICES,
               log_every=1, save_every=4, sample_every=10)
  assert generate.read(folder, made, None, 0).variables() == {'step': 10}
  assert files.manifest(folder.final)['chosen_step'] == 10


def test_the_curve_sees_what_the_model_draws(garments, by_pixel):
  """The score is the metric of exactly these images."""
  some = part(garments.test, slice(0, 150))
  curve = curves.make(by_pixel, some, range(10), metric='fid', every=2,
                      images=100)
  drawn = pixels.to_uint8(garments.train.images[:100] / 127.5 - 1)
  want = measure.compare(some.images, drawn, by_pixel.network, ('fid',))
  assert curve.score(drawn) == (pytest.approx(want['fd_pixels'].value), {})
