"""Every metric against scikit-learn, or against a loop that is slow and plain.

That metrics do not depend on order is tested in zoo_test.
"""
import fractions
import math

import numpy as np
import pytest

from jaxaug.core import registry
from jaxaug.evaluation import confusion, probabilities

sk = pytest.importorskip('sklearn.metrics')

# Classes that have images and classes that the logits can speak of.
SHAPES = {'all there': (7, 7), 'one class absent': (6, 7), 'two': (2, 2)}


def predictions(kind='all there', n=401, seed=0):
  """float32 logits [N, K] that are right about half the time, labels [N]."""
  present, classes = SHAPES[kind]
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, present, n).astype(np.int32)
  logits = rng.normal(size=(n, classes)) * 2 + 2 * np.eye(classes)[labels]
  return logits.astype(np.float32), labels


def value(name, logits, labels, **given):
  metric = registry.find('metrics', name)
  return metric.compute(logits, labels, **given)[name].value


def softmax(logits):
  e = np.exp(np.asarray(logits, np.float64))
  return e / e.sum(1, keepdims=True)


def macro(i):
  return lambda logits, labels: sk.precision_recall_fscore_support(
      labels, logits.argmax(1), average='macro', zero_division=0)[i]


def top5(logits, labels):
  classes = range(logits.shape[1])
  if len(classes) == 2:
    return 0.
  return 1 - sk.top_k_accuracy_score(labels, logits, k=5, labels=classes)


def slow_calibration(logits, labels):
  bins = [[] for _ in range(15)]
  for row, label in zip(softmax(logits).tolist(), labels, strict=True):
    confidence = max(row)
    place = next(b for b in range(15) if confidence <= (b + 1) / 15 or b == 14)
    bins[place].append((confidence, row.index(confidence) == label))
  return sum(abs(sum(c for c, _ in part) / len(part) -
                 sum(r for _, r in part) / len(part)) * len(part)
             for part in bins if part) / len(labels)


def slow_mse(logits, labels):
  total = [(p - (k == label))**2
           for row, label in zip(softmax(logits), labels, strict=True)
           for k, p in enumerate(row)]
  return math.fsum(total) / len(total)


WANT = {
    'error': lambda x, y: 1 - sk.accuracy_score(y, x.argmax(1)),
    'top5_error': top5,
    'cross_entropy': lambda x, y: sk.log_loss(
        y, softmax(x), labels=range(x.shape[1])),
    'balanced_accuracy': lambda x, y: sk.balanced_accuracy_score(
        y, x.argmax(1)),
    'macro_precision': macro(0), 'macro_recall': macro(1),
    'macro_f1': macro(2), 'mse': slow_mse,
    'calibration_error': slow_calibration,
    'minority_accuracy': lambda x, y: sk.accuracy_score(y, x.argmax(1))}


def test_references_are_of_metrics_that_there_are():
  assert WANT.keys() <= {*registry.names('metrics')}


@pytest.mark.filterwarnings('ignore:y_pred contains classes')
@pytest.mark.parametrize('kind', SHAPES)
@pytest.mark.parametrize('name', WANT)
def test_metric_is_that_of_its_reference(name, kind):
  logits, labels = predictions(kind)
  if kind == 'one class absent':
    assert (logits.argmax(1) == 6).any()  # Predicted, and it has no image.
  np.testing.assert_allclose(value(name, logits, labels),
                             WANT[name](logits, labels), rtol=1e-9, atol=1e-11)


@pytest.mark.filterwarnings('ignore:y_pred contains classes')
@pytest.mark.parametrize('name', WANT)
def test_a_class_that_is_neither_there_nor_predicted(name):
  logits, labels = predictions('one class absent')
  logits[:, 6] = -30
  assert 6 not in logits.argmax(1)
  np.testing.assert_allclose(value(name, logits, labels),
                             WANT[name](logits, labels), rtol=1e-9, atol=1e-11)


def test_minority_counts_the_named_classes_only():
  logits, labels = predictions()
  of = np.isin(labels, (1, 4))
  want = sk.accuracy_score(labels[of], logits[of].argmax(1))
  assert value('minority_accuracy', logits, labels, classes=(1, 4)) == want
  logits, labels = predictions('one class absent')
  assert math.isnan(value('minority_accuracy', logits, labels, classes=(6,)))


def test_logits_of_any_size():
  logits = np.array([[1e4, -1e4], [-3e38, 3e38], [0, 0]], np.float32)
  labels = np.array([0, 1, 1])
  np.testing.assert_allclose(value('cross_entropy', logits, labels),
                             math.log(2) / 3, rtol=1e-11)
  np.testing.assert_allclose(value('mse', logits, labels), .5 / 6, rtol=1e-11)
  # Certain and right twice; half sure of class 0 and wrong once.
  np.testing.assert_allclose(value('calibration_error', logits, labels),
                             .5 / 3, rtol=1e-11)
  assert value('cross_entropy', logits, 1 - labels) > 1e38


@pytest.mark.parametrize('name', ['cross_entropy', 'mse', 'calibration_error'])
def test_a_diverged_network_is_not_a_number(name):
  logits, labels = predictions()
  for bad in math.nan, math.inf:
    logits[3, 2] = bad
    assert math.isnan(value(name, logits, labels))


def test_equal_logits_go_to_the_lower_class():
  logits, labels = np.zeros((7, 7)), np.arange(7)
  assert value('error', logits, labels) == 6 / 7
  assert value('top5_error', logits, labels) == 2 / 7


def test_the_mean_of_probabilities_knows_no_order():
  rng = np.random.default_rng(0)
  values = rng.normal(size=1000) * 10.**np.arange(-9, 11).repeat(50)
  want = float(sum(map(fractions.Fraction, values)) / 1000)
  assert probabilities.mean(values) == pytest.approx(want, rel=1e-15)
  for _ in range(5):
    assert probabilities.mean(rng.permutation(values)) == (
        probabilities.mean(values))


def test_counts_and_classes_equal_scikit_learn():
  logits, labels = predictions('one class absent')
  predicted = logits.argmax(1)
  counts = confusion.counts(labels, predicted, 7)
  np.testing.assert_array_equal(
      counts, sk.confusion_matrix(labels, predicted, labels=range(7)))
  want = sk.precision_recall_fscore_support(
      labels, predicted, labels=range(7), zero_division=0)
  got = confusion.per_class(counts)
  for each, of_sklearn in zip(got.values(), want, strict=False):
    np.testing.assert_allclose(each, of_sklearn, rtol=1e-12)
  assert list(got) == ['precision', 'recall', 'f1']
  counts[:, 6] = 0
  assert {v[6] for v in confusion.per_class(counts).values()} == {None}


def test_counts_of_labels_in_narrow_integers():
  assert confusion.counts(np.int8([100]), np.int8([99]), 101)[100, 99] == 1
