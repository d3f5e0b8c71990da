"""Representatives, and what selectors of a study are told."""
import numpy as np
import pytest

from jaxaug.core import errors, files, types
from jaxaug.data import images
from jaxaug.study import plan, selection
from jaxaug.study.stages import judge, represent
from tests.study import plan_test


@pytest.fixture(scope='module')
def study(tmp_path_factory):
  return plan.open_study(plan_test.one_image(),
                         tmp_path_factory.mktemp('represent'))


def test_representatives_and_their_picture(study):
  """Two of each of two classes, by class; seen by the study's extractor."""
  task, = study.tasks[0]['represent'].values()
  task.work()
  train = study.folds[0].splits.train
  found = task.read()
  assert found.labels.tolist() == [0, 0, 2, 2]
  np.testing.assert_array_equal(train.labels[found.places], found.labels)
  assert len(set(found.places.tolist())) == 4
  assert task.manifest()['extractor'] == 'pixels'
  np.testing.assert_array_equal(
      found.picture(), images.grid(train.images[found.places], 2))
  # They are those of k-means on what the extractor sees of that class.
  from sklearn import cluster
  own = np.flatnonzero(train.labels == 2)
  x = study.extractor.apply(train.images[own])['features']
  x = np.asarray(x, float)
  inertia = min(((x - x[list(pair)][:, None])**2).sum(-1).min(0).sum()
                for pair in [(np.searchsorted(own, a), np.searchsorted(own, b))
                             for a, b in [found.places[2:]]])
  best = cluster.KMeans(2, n_init=10, random_state=0).fit(x)
  nearest = [((x - c)**2).sum(1).argmin() for c in best.cluster_centers_]
  want = ((x - x[nearest][:, None])**2).sum(-1).min(0).sum()
  assert inertia <= 1.3 * want


def test_another_training_split_has_other_representatives(study):
  def key(split):
    task, = represent.tasks(*plan_test.replaced(study, digest=split), {})
    return task.key
  now, = study.tasks[0]['represent'].values()
  moved = {split for split in ('train', 'validation', 'test', 'unused')
           if key(split) != now.key}
  assert moved == {'train'}


def test_representatives_may_be_a_whole_class_and_stand_by_class(study):
  """In whatever order the config names classes."""
  fold = study.folds[0]
  most = int(np.bincount(fold.labels)[[0, 2]].min())
  def labels(count):
    kept = study.config['selectors']['kept'] | {
        'count': count, 'classes': ('class_2', 'class_0')}
    return selection.labels(study._replace(config=study.config | {
        'selectors': {'kept': kept}}), fold, 'kept').tolist()
  assert labels(most) == [0] * most + [2] * most
  with pytest.raises(errors.InputError, match=f'; expected {most} at most'):
    labels(most + 1)


def test_a_class_alone_is_looked_at(study):
  """The others are kept whatever the selector says."""
  fold = study.folds[0]
  def block(**more):
    return {'selector': 'quota', 'per_class': 1, 'classes': (),
            'extractor': '', 'weights': ''} | more
  config = study.config | {'selectors': {
      'all': block(), 'some': block(classes=('class_1', 2))}}
  other = study._replace(config=config)
  labels = np.array([0, 0, 1, 1, 1, 2], np.int32)
  some = np.zeros((6, 12, 12, 1), np.uint8)
  for name, kept in (('all', [0, 2, 5]), ('some', [0, 1, 2, 5])):
    select = selection.build(other, fold, selection.named(config, name, 'x'))
    assert np.flatnonzero(
        selection.screen({name: select}, some, labels).keep).tolist() == kept


def test_what_a_selector_is_told(study, monkeypatch):
  """The training split, features by the network that it names, a classifier
  like the judge's, the critic's scores, and a seed of its own."""
  told = []
  def build(known):
    told.append(known)
    return lambda images, labels: {}
  module = selection.registry.find('selectors', 'quota')
  monkeypatch.setattr(module, 'build', build)
  block = {'selector': 'quota', 'classes': (), 'extractor': 'scattering',
           'weights': ''}
  config = study.config | {'selectors': {'mine': block}}
  other, fold = study._replace(config=config), study.folds[0]
  mine = selection.named(config, 'mine', 'x')
  selection.build(other, fold, mine, score='the critic')
  known, = told
  assert known.train is fold.splits.train
  assert known.class_names == ('class_0', 'class_1', 'class_2')
  assert known.score == 'the critic' and known.seed == study.seed(
      'selector', 'quota')
  own, theirs = known.features(known.train.images[:3]), study.extractor.apply(
      known.train.images[:3])['features']
  assert own.shape != theirs.shape  # Of another network.
  fits = []
  monkeypatch.setattr(judge, 'fitter', lambda study, fold: (
      lambda *given: fits.append(given), 'key'))
  known.fit('images', 'labels', 3)
  assert fits == [('images', 'labels', 3)]
  monkeypatch.setattr(module, 'NEEDS', ('features', 'fit'), raising=False)
  _, given, _, identity, key = selection.reads(other, fold, mine)
  assert given == block and key == 'key'
  assert identity['extractor'] == 'scattering'


def test_a_refusal_of_a_selector_has_its_path(study):
  config = study.config | {'selectors': {'mine': {
      'selector': 'random', 'count': 4, 'classes': (), 'extractor': '',
      'weights': ''}}}
  select = selection.build(study._replace(config=config), study.folds[0],
                           selection.named(config, 'mine', 'x'))
  with pytest.raises(errors.InputError, match=(
      r"^config\.selectors\.mine\.count: 4 representatives of class 'class_0', "
      'which has 2 images')):
    select(np.zeros((2, 12, 12, 1), np.uint8), np.zeros(2, np.int32))


def test_run_writes_what_read_reads(tmp_path):
  train = types.Split(np.arange(8, dtype=np.uint8)[:, None, None, None],
                      np.tile(np.arange(2, dtype=np.int32), 4), np.arange(8))
  folder = files.folder(tmp_path, 'r')
  def select(images, labels):
    return {'late': images[:, 0, 0, 0] > 5}
  represent.run(folder, name='r', select=select, train=train,
                labels=np.array([0, 0, 0, 1, 1, 1]))
  found = represent.read(folder)
  assert found.places.tolist() == [0, 2, 4, 1, 3, 5]
  np.testing.assert_array_equal(
      found.picture(), images.grid(train.images[found.places], 3))
