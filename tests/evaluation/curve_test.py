"""What tells the best checkpoint of a generator, and a collapse."""
import numpy as np
import pytest

from jaxaug.evaluation import collapse
from jaxaug.evaluation import curve as curves
from jaxaug.evaluation import features as extraction
from tests.conftest import part

SHARES = {'obedience': 0.5, 'diversity': 0.5}
EVERY = 2


def looks(by_pixel, validation, train, **given):
  return curves.make(by_pixel, validation, range(10), train=train, **{
      'metric': 'fid', 'every': EVERY, 'images': 200, 'shares': SHARES,
      **given})


# --------------------------------------------------------------- the numbers
def test_obedience_of_real_images_is_that_of_a_discriminant(
    by_pixel, garments, train, validation):
  """scikit-learn's linear discriminant, of the same rule."""
  lda = pytest.importorskip('sklearn.discriminant_analysis')
  features = extraction.of_array(by_pixel, train.images, {'features'}).features
  seen = extraction.of_array(by_pixel, validation.images, {'features'}).features
  theirs = lda.LinearDiscriminantAnalysis(
      solver='lsqr', shrinkage=0.1, priors=np.full(10, 0.1)).fit(
          features.astype(np.float64), train.labels)
  predict = collapse.discriminant(features, train.labels)
  np.testing.assert_array_equal(predict(seen), theirs.predict(seen))
  # By the curve itself: the images of each class that it asks for.
  curve = looks(by_pixel, validation, train)
  rows = np.concatenate([np.flatnonzero(garments.test.labels == k)[:20]
                         for k in range(10)])
  order = np.empty(200, int)
  order[np.argsort(curve.labels, kind='stable')] = rows
  given = garments.test.images[order]
  drawn = extraction.of_array(by_pixel, given, {'features'}).features
  _, found = curve.score(given)
  assert found['obedience'] == pytest.approx(
      (theirs.predict(drawn) == curve.labels).mean())
  assert 0.6 < found['obedience'] < 0.9
  assert curve.watch.real['obedience'] == pytest.approx(np.mean([
      theirs.score(seen[validation.labels == k],
                   validation.labels[validation.labels == k])
      for k in range(10)]))
  assert curve.watch.floor == {'obedience': 0.1, 'diversity': 0.}


def test_diversity_is_that_of_pairwise_distances(by_pixel, garments, train,
                                                 validation):
  distance = pytest.importorskip('scipy.spatial.distance')
  curve = looks(by_pixel, validation, train)
  given = garments.test.images[np.random.default_rng(0).permutation(2000)[:200]]
  drawn, known = (extraction.of_array(
      by_pixel, x, {'features'}).features.astype(np.float64)
                  for x in (given, train.images))
  want = np.mean([distance.pdist(drawn[curve.labels == k]).mean() /
                  distance.pdist(known[train.labels == k]).mean()
                  for k in range(10)])
  assert curve.score(given)[1]['diversity'] == pytest.approx(want, rel=1e-9)
  assert want > 1.2  # All classes are in each.


def test_what_real_images_do_not_show_is_not_watched(by_pixel, train,
                                                     validation):
  """One class; labels that say nothing; classes of one image; no wish."""
  one = train._replace(labels=np.zeros_like(train.labels))
  alike = validation._replace(labels=np.zeros_like(validation.labels))
  curve = curves.make(
      by_pixel, alike, (0,), metric='fid', every=1, images=100, train=one,
      shares=SHARES)
  assert list(curve.watch.real) == ['diversity']
  rng = np.random.default_rng(0)
  mixed = validation._replace(labels=rng.permutation(validation.labels))
  assert list(looks(by_pixel, mixed, train).watch.real) == ['diversity']
  firsts = np.unique(train.labels, return_index=True)[1]
  alone = looks(by_pixel, validation, part(train, firsts)).watch
  assert not alone.real and not alone.shares and alone.measure(None) == {}
  known, seen = (extraction.of_array(by_pixel, x.images, {'features'}).features
                 for x in (train, validation))
  few = collapse.watch(known, train.labels, seen, validation.labels,
                       np.repeat([0, 1], 20), SHARES)  # Not all are asked for.
  assert list(few.real) == ['obedience', 'diversity']
  assert few.floor['obedience'] == 0.1
  assert looks(by_pixel, validation, train, shares={
      'obedience': 0, 'diversity': 0.}).watch is None
  assert looks(by_pixel, validation, train, every=0) is None
  assert looks(by_pixel, part(validation, slice(0, 1)), train) is None


def test_only_some_training_images_are_looked_at(by_pixel, garments, validation,
                                                 monkeypatch):
  seen = []
  of_array = extraction.of_array
  monkeypatch.setattr(extraction, 'of_array', lambda by_pixel, array, *args: (
      seen.append(len(array)), of_array(by_pixel, array, *args))[1])
  looks(by_pixel, validation, garments.train)
  assert seen == [300, 2000] and len(garments.train.labels) == 5000


# ------------------------------------------------------------------ the rule
def watch(**shares):
  return collapse.Watch(None, {'obedience': 0.9, 'diversity': 1.},
                        {'obedience': 0.1, 'diversity': 0.}, SHARES | shares)


@pytest.mark.parametrize('obedience, diversity, shares, stop', [
    ([.1, .1, .1, .1], [1., .1, .1, .1], {}, None),  # At chance: too early.
    ([.8, .4, .4], [1., 1., 1.], {}, 2),
    ([.8, .4, .8, .4], [1., 1., 1., 1.], {}, None),  # Not in a row.
    ([.8, .45, .45], [1., 1., 1.], {}, 2),  # 0.35 of 0.7 over chance is half.
    ([.8, .46, .46], [1., 1., 1.], {}, None),
    ([.48, .11, .11], [1., 1., 1.], {}, None),  # Never half of real images.
    ([.52, .11, .11], [1., 1., 1.], {}, 2),
    ([.8, .4, .4], [1., 1., 1.], {'obedience': 0}, None),
    ([.8, .05, .05], [1., 1., 1.], {'obedience': 0}, None),
    ([.8, .4, .4], [1., 1., 1.], {'obedience': .3}, None),
    ([.8, .8, .8, .8], [.8, .5, .39, .39], {}, 3),
    ([.8, .8, .8], [.45, .1, .1], {}, None),
    ([.9, .9, .9], [2., .6, .6], {}, None),  # More than real is no height.
    ([1., .51, .51], [1., 1., 1.], {}, None),
    ([.1, .9, .9, .9], [1., .7, .4, .4], {}, None),  # Of what obeys nothing.
    ([.1, .9, .9, .9], [1., .7, .3, .3], {}, 3),
    ([.8, .4, .8, .8], [1., 1., .4, .4], {}, 3),
])
def test_rule(obedience, diversity, shares, stop):
  made = watch(**shares)
  memory, found = collapse.start(made), None
  for i, (a, b) in enumerate(zip(obedience, diversity, strict=True)):
    # A hair lower, so that halves are below halves.
    memory = collapse.follow(made, memory, {'obedience': a - 1e-4,
                                            'diversity': b - 1e-4})
    if collapse.cause(memory) and found is None:
      found = i
  assert found == stop
