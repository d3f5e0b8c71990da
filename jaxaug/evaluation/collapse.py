"""Tells when a generator has collapsed, by what it had before.

It no longer obeys its labels, or draws one image again and again. Both are
told by features of a frozen network and by real images alone: obedience by a
linear discriminant of the training images, whose covariance is shrunk as in
Friedman 1989, "Regularized discriminant analysis"; diversity by distances
within a class, as image_metrics/diversity.py has them.
"""
import math
import typing

import jax.numpy as jnp
import numpy as np

from jaxaug.evaluation import neighbours

WORDS = {'obedience': 'label obedience', 'diversity': 'diversity'}
PATIENCE = 2  # So many evaluations in a row, below, are a collapse.
# Of the covariance, towards a multiple of the identity.
_SHRINKAGE = 0.1
# Of what real images have over a collapsed generator: from so much on, a fall
# means something.
_MEANT = 0.5
# Standard errors of pure chance between it and real images, at least; fewer
# say that these features do not tell the classes apart.
_ERRORS = 8


class Watch(typing.NamedTuple):
  """What is measured while a generator trains.

  measure(features [N, D] of drawn images) -> {name: float}, of WORDS.
  real: name -> what it is of real images.
  floor: name -> what it is of a generator that has collapsed.
  shares: name -> the share of its highest value so far, over the floor, below
    which it has collapsed; 0 for never.
  """
  measure: typing.Callable
  real: dict[str, float]
  floor: dict[str, float]
  shares: dict[str, float]


def discriminant(features: np.ndarray, labels: np.ndarray):
  """Returns predict(features [M, D]) -> labels [M], for classes alike frequent.

  None where the images of every class have all the same features.

  features, labels: [N, D] and int [N], to learn from.
  """
  classes, index = np.unique(labels, return_inverse=True)
  x = np.asarray(features, np.float64)
  means = np.stack([x[index == k].mean(0) for k in range(len(classes))])
  rest = (x - means[index]) / np.sqrt(np.bincount(index))[index, None]
  covariance = rest.T @ rest / len(classes)
  level = np.trace(covariance) / len(covariance)
  if level == 0:
    return None
  covariance = (1 - _SHRINKAGE) * covariance
  covariance[np.diag_indices_from(covariance)] += _SHRINKAGE * level
  weights = np.linalg.solve(covariance, means.T)
  bias = -np.einsum('kd,dk->k', means, weights) / 2
  return lambda features: classes[(features @ weights + bias).argmax(1)]


def spread(features: np.ndarray, labels: np.ndarray) -> dict[int, float]:
  """Returns the mean distance within each class of two images or more."""
  return {k: neighbours.mean_distance(features[labels == k])
          for k in np.flatnonzero(np.bincount(labels) > 1).tolist()}


def _recall(predicted, labels) -> float:
  """The share of right answers, every class counting alike."""
  return float(np.mean([(predicted[labels == k] == k).mean()
                        for k in np.unique(labels)]))


def watch(features: np.ndarray, labels: np.ndarray, validation: np.ndarray,
          validation_labels: np.ndarray, asked: np.ndarray,
          shares: dict[str, float]) -> Watch:
  """Returns the watch; it leaves out what real images do not show either.

  Args:
    features, labels: float32 [N, D] and int32 [N], of training images.
    validation, validation_labels: likewise of real images, from which neither
      the discriminant nor a generator has learned.
    asked: int32 [M], the classes that the generator is asked for each time.
    shares: see Watch; of every one of WORDS.
  """
  real, floor, classes = {}, {}, len(np.unique(labels))
  predict = discriminant(features, labels)
  if classes > 1 and predict:
    rate = _recall(predict(validation), validation_labels)
    error = math.sqrt((classes - 1) / len(asked)) / classes  # Of chance.
    if rate > 1 / classes + _ERRORS * error:
      real['obedience'], floor['obedience'] = rate, 1 / classes
  drawn = np.bincount(asked, minlength=labels.max() + 1)
  apart = {k: distance for k, distance in spread(features, labels).items()
           if distance > 0 and drawn[k] > 1}
  if apart:
    real['diversity'], floor['diversity'] = 1., 0.

  def measure(features):
    out = {}
    if 'obedience' in real:
      out['obedience'] = _recall(predict(features), asked)
    if apart:
      found = spread(features, asked)
      out['diversity'] = float(np.mean([found[k] / distance
                                        for k, distance in apart.items()]))
    return out
  return Watch(measure, real, floor, {name: shares[name] for name in real})


def start(watch: Watch) -> dict:
  """Returns what is remembered between evaluations: name -> arrays.

  best: the highest so far. now: at the last evaluation. low: evaluations in a
  row at which it was below.
  """
  return {name: {'best': jnp.float32(0), 'now': jnp.float32(0),
                 'low': jnp.int32(0)} for name in watch.real}


def follow(watch: Watch, memory: dict, values: dict[str, float]) -> dict:
  """Returns the memory after an evaluation that found `values`.

  Heights are over the floor, real images have 1, and more does not count: the
  first images may be diverse for the wrong reason. Diversity counts from when
  labels are obeyed.
  """
  out, counts = {}, True
  for name in watch.real:
    value, best = jnp.float32(values[name]), memory[name]['best']
    best = jnp.maximum(best, value) if counts else best
    def height(value, floor=watch.floor[name], real=watch.real[name]):
      return min(1., (float(value) - floor) / (real - floor))
    share, counts = watch.shares[name], height(best) >= _MEANT
    low = counts and share and height(value) < share * height(best)
    out[name] = {'best': best, 'now': value,
                 'low': jnp.int32(memory[name]['low'] + 1 if low else 0)}
  return out


def low(memory: dict) -> bool:
  """Whether some number was below at the last evaluation."""
  return any(int(each['low']) for each in memory.values())


def cause(memory: dict) -> str:
  """Returns which number tells of a collapse; '' for none."""
  return next((name for name, each in memory.items()
               if int(each['low']) >= PATIENCE), '')


def words(manifest: dict) -> str:
  """Returns a generator's collapse in words; '' for none.

  manifest: with 'collapsed_at', the step, 'collapsed', of which number, from
    what ('best') to what ('now'), and 'chosen_step', whose weights are used.
  """
  if not (found := manifest.get('collapsed')):
    return ''
  best, now = (f'{100 * found[k]:.1f} %' for k in ('best', 'now'))
  real = ''
  if found['number'] == 'diversity':
    real = ' of that of real images'
  return (f'stopped at step {manifest["collapsed_at"]:,}: '
          f'{WORDS[found["number"]]} fell to {now} from {best}{real}; the '
          f'weights of step {manifest["chosen_step"]:,} are used')
