"""Predictions of finished runs become numbers and verdicts."""
import math

import numpy as np
import pytest

from jaxaug.core import errors, files, registry
from jaxaug.study import results, verdicts
from jaxaug.study.stages import classify
from jaxaug.training import metrics_log


def _finished(tmp_path, logits: dict, labels) -> dict:
  """Writes finished runs: arm -> one logits [N, K] a run."""
  out = {}
  for arm, runs in logits.items():
    out[arm] = []
    for k, each in enumerate(runs):
      folder = files.folder(tmp_path, f'{arm}.{k}')
      files.begin(folder.partial)
      files.save_npz(folder.partial / 'predictions.npz', logits=each,
                         labels=labels[k])
      writer = metrics_log.writer(folder.partial)
      writer.scalars(3, {'validation_error': .5, 'train_loss': math.nan})
      writer.close()
      files.finish(folder.partial, folder.final, {
          'model': 'cnn', 'steps': 7 + 2 * (arm != 'real'), 'parameters': 11,
          'run': k, 'real': 5, 'synthetic': 0, 'chosen_step': 3,
          'validation_error': .5, 'seconds': 1.})
      out[arm].append(classify.read(folder))
  return out


def _study(tmp_path, runs=4, arms=('real', 'a', 'b'), seed=0, **given):
  """Returns the entry of a classifier and what it was made from."""
  rng = np.random.default_rng(seed)
  labels = [rng.integers(0, 3, 90).astype(np.int32) for _ in range(runs)]
  made = {arm: [(rng.normal(size=(90, 3)) + (1 + .5 * i) * np.eye(3)[y])
                .astype(np.float32) for y in labels]
          for i, arm in enumerate(arms)}
  finished = _finished(tmp_path / str(seed), made, labels)
  entry = verdicts.classifier(
      finished, dict.fromkeys(arms, 'words'), **({
          'metric': 'error', 'baseline': 'real', 'against': {'b': 'a'},
          'alpha': .05, 'classes': 3} | given))
  return entry, made, labels


def test_every_number_of_a_classifier_follows_from_its_predictions(tmp_path):
  metrics = pytest.importorskip('sklearn.metrics')
  entry, made, labels = _study(tmp_path, minority=(2,))
  assert {k: v for k, v in entry.items() if k != 'arms'} == {
      'model': 'cnn', 'parameters': 11, 'steps': 7, 'baseline': 'real',
      'metric': 'error', 'label': 'top-1 error', 'percent': True,
      'lower_is_better': True, 'folds': 1, 'missing': {}}
  wrong = {arm: [x.argmax(1) != y for x, y in zip(runs, labels, strict=True)]
           for arm, runs in made.items()}
  for arm, row in entry['arms'].items():
    assert row['values'] == [w.mean() for w in wrong[arm]]
    assert row['steps'] == (7 if arm == 'real' else 9)
    assert sorted(row['metrics']) == registry.names('metrics')
    f1 = row['metrics']['macro_f1']
    want = [metrics.f1_score(y, x.argmax(1), average='macro')
            for x, y in zip(made[arm], labels, strict=True)]
    np.testing.assert_allclose(f1['values'], want)
    np.testing.assert_allclose([f1['mean'], f1['std']],
                               [np.mean(want), np.std(want, ddof=1)])
    y, predicted = np.concatenate(labels), np.concatenate(made[arm]).argmax(1)
    np.testing.assert_array_equal(
        row['confusion'], metrics.confusion_matrix(y, predicted))
    np.testing.assert_allclose(
        list(row['per_class'].values()),
        metrics.precision_recall_fscore_support(y, predicted)[:3])
    np.testing.assert_allclose(
        np.mean(row['metrics']['minority_accuracy']['values']),
        np.mean([(x.argmax(1) == 2)[z == 2].mean()
                 for x, z in zip(made[arm], labels, strict=True)]))
    assert row['curves'][0] == [
        {'step': 3, 'validation_error': .5, 'train_loss': None}]
  assert entry['arms']['real']['mcnemar'] is None
  for arm, other in (('a', 'real'), ('b', 'a')):
    assert entry['arms'][arm]['baseline'] == other
    for k, test in enumerate(entry['arms'][arm]['mcnemar']):
      assert test['gained'] == (~wrong[arm][k] & wrong[other][k]).sum()
      assert test['lost'] == (wrong[arm][k] & ~wrong[other][k]).sum()
  files.digest(entry)  # Plain JSON.


def test_minority_accuracy_is_left_out_where_no_class_is_named(tmp_path):
  entry, *_ = _study(tmp_path, runs=1)
  assert 'minority_accuracy' not in entry['arms']['a']['metrics']
  assert entry['arms']['a']['metrics']['mse']['std'] is None
  with pytest.raises(errors.InputError, match='^config.metric: .*minority'):
    _study(tmp_path, seed=1, metric='minority_accuracy')


def test_runs_of_a_fold_are_averaged(tmp_path):
  entry, *_ = _study(tmp_path, runs=6, folds=3)
  row = entry['arms']['a']
  assert row['n'] == 3 and len(row['values']) == 6
  for each in (row, row['metrics']['error']):
    np.testing.assert_allclose(
        each['std'], np.std(np.reshape(row['values'], (3, 2)).mean(1), ddof=1))
  assert row['metrics']['mse']['n'] == 3 and len(row['mcnemar']) == 6


def test_arms_that_saw_other_test_images_are_refused(tmp_path):
  labels = [np.array([0, 1, 2])]
  finished = _finished(tmp_path, {'real': [np.eye(3)]}, labels) | _finished(
      tmp_path, {'a': [np.eye(3)]}, [labels[0][::-1]])
  with pytest.raises(errors.InputError, match='expected the same'):
    verdicts.classifier(
        finished, {'real': '', 'a': ''}, metric='error', baseline='real',
        against={}, alpha=.05, classes=3)


def test_a_diverged_network_has_no_number(tmp_path):
  """Without a look at its predictions it would say the first class, always."""
  labels = [np.array([0, 1, 2])] * 3
  bad = np.full((3, 3), np.nan, np.float32)
  finished = _finished(tmp_path, {'real': [np.eye(3)] * 3,
                                'a': [np.eye(3), bad, np.eye(3)]}, labels)
  given = {'baseline': 'real', 'against': {}, 'alpha': .05, 'classes': 3}
  for metric in ('error', 'mse'):
    entry = verdicts.classifier(finished, {'real': '', 'a': ''}, metric=metric,
                                **given)
    assert entry['missing'] == {
        'a': {'why': 'predictions of run 1 are not finite'}}
    assert list(entry['arms']) == ['real']
  finished['real'] = finished['a']
  entry = verdicts.classifier(finished, {'real': '', 'a': ''}, metric='error',
                              **given)
  assert entry['arms'] == {} and list(entry['missing']) == ['real', 'a']


def test_a_metric_that_is_defined_for_no_arm_is_refused(tmp_path):
  """No test image is of the only class that it looks at."""
  labels = [np.array([0, 1, 1])]
  finished = _finished(tmp_path, {'real': [np.eye(3)], 'a': [np.eye(3)]},
                       labels)
  given = {'baseline': 'real', 'against': {}, 'alpha': .05, 'classes': 3,
           'metric': 'minority_accuracy', 'minority': (2,)}
  with pytest.raises(errors.InputError, match="run 0 .*the arm 'real'"):
    verdicts.classifier(finished, {'real': '', 'a': ''}, **given)
  # Beside a task that failed it is a hole like that.
  entry = verdicts.classifier(finished, dict.fromkeys(('real', 'a', 'b'), ''),
                              missing={'b': 'lacks 1 of 1 runs: step 3'},
                              **given)
  assert list(entry['missing']) == ['b', 'real', 'a']


def test_an_arm_without_all_its_runs_has_no_verdict(tmp_path):
  whole, made, labels = _study(tmp_path, arms=('real', 'a', 'b', 'c'))
  given = {'metric': 'error', 'baseline': 'real', 'against': {'b': 'a'},
           'alpha': .05, 'classes': 3}
  def without(*missing):
    finished = _finished(tmp_path / '-'.join(missing), {
        arm: runs for arm, runs in made.items() if arm not in missing}, labels)
    return verdicts.classifier(
        finished, dict.fromkeys(made, 'words'), **given,
        missing=dict.fromkeys(missing, '1 of 4 runs: step 3'))
  entry = without('a')
  assert entry['missing'] == {'a': {'why': '1 of 4 runs: step 3'}}
  assert list(entry['arms']) == ['real', 'b', 'c']
  # Nor has an arm that is compared with it, but its own numbers.
  row = entry['arms']['b']
  assert (row['verdict'], row['baseline']) == ('not compared', 'a')
  assert row['difference'] is row['p_corrected'] is row['mcnemar'] is None
  assert row['mean'] == whole['arms']['b']['mean']
  p = whole['arms']['c']['p']
  assert entry['arms']['c']['p'] == p
  # One p of three that were planned: Holm's smallest is times three.
  assert entry['arms']['c']['p_corrected'] == min(1, 3 * p)
  gone = without('real')
  assert list(gone['arms']) == ['a', 'b', 'c']
  assert [gone['arms'][arm]['verdict'] for arm in 'ac'] == ['not compared'] * 2
  # The comparison of two arms that ended stands, one of three.
  b = whole['arms']['b']
  assert gone['arms']['b']['p'] == b['p']
  assert gone['arms']['b']['p_corrected'] == min(1, 3 * b['p'])
  nothing = without(*made)
  assert nothing['arms'] == {} and nothing['model'] is None
  assert verdicts.ratios((), nothing, .05) == []
  figure = {'classifier': 'net', 'arm': 'a', 'metric': 'error', 'value': .1}
  (shown,) = verdicts.published([figure], {'net': entry})
  assert shown['ours'] == {'mean': None, 'std': None, 'n': 0}
  assert shown['label'] == 'top-1 error' and shown['percent']
  # Over classifiers: only arms that each of them has, planned as before.
  for both in ({'one': whole, 'two': entry}, {'one': entry, 'two': whole}):
    found = verdicts.across(both, .05)
    assert list(found) == ['c']
    assert found['c']['p_corrected'] == min(1, 3 * found['c']['p'])


def test_arms_are_compared_in_any_order(tmp_path):
  """An arm whose own baseline stands later, and is lost by another's loss."""
  _, made, labels = _study(tmp_path, arms=('real', 'a', 'b', 'c'))
  del made['a']
  entry = verdicts.classifier(
      _finished(tmp_path / 'w', made, labels),
      dict.fromkeys(('real', 'a', 'b', 'c'), ''), metric='error',
      baseline='real', against={'b': 'c', 'c': 'a'}, alpha=.05, classes=3,
      missing={'a': 'step 3'})
  assert {arm: row['verdict'] == 'not compared'
          for arm, row in entry['arms'].items()} == {
              'real': False, 'b': False, 'c': True}


def test_across_is_the_t_test_of_the_classifiers_means(tmp_path):
  scipy_stats = pytest.importorskip('scipy.stats')
  entries = {f'net{k}': _study(tmp_path, seed=k)[0] for k in range(3)}
  got = verdicts.across(entries, .05)
  assert list(got) == ['a', 'b']
  for arm, other in (('a', 'real'), ('b', 'a')):
    means = [np.mean(np.subtract(c['arms'][arm]['values'],
                                 c['arms'][other]['values']))
             for c in entries.values()]
    np.testing.assert_allclose(got[arm]['difference'], np.mean(means))
    np.testing.assert_allclose(got[arm]['p'],
                               scipy_stats.ttest_1samp(means, 0).pvalue)
    assert got[arm]['classifiers'] == 3
    assert got[arm]['p'] <= got[arm]['p_corrected'] <= 2 * got[arm]['p']
  assert verdicts.across({'net0': entries['net0']}, .05) == {}


def test_results_reach_tensorboard(tmp_path):
  entry, *_ = _study(tmp_path)
  folder = files.folder(tmp_path, 'evaluate')
  results.write(folder, {'study': 'x', 'classifiers': {'net': entry}})
  records = metrics_log.read(folder.final)
  keys = {k for record in records for k in record}
  assert {'error/net/a', 'macro_f1/net/b', 'mse/net/real'} <= keys
