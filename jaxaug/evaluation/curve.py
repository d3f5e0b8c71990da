"""Tells the best checkpoint of a generator's training, on validation images.

While it trains, a metric of some drawn images beside the validation split; the
weights at its lowest point are kept, and a collapse ends the training.
"""
import typing

import jax
import jax.numpy as jnp
import numpy as np

from jaxaug.core import randomness, types
from jaxaug.data import pixels
from jaxaug.evaluation import collapse, features, measure
from jaxaug.training import loop

# Images drawn at a time.
_DRAWN = 100
# Training images that say what collapse is, at most.
_KNOWN = 2000


class Curve(typing.NamedTuple):
  """What is looked at, and how often.

  name: of the number, such as 'kd_scattering'; lower is better.
  every: steps between two looks.
  labels: int32 [N], the classes asked for each time.
  score(uint8 [N, H, W, C]) -> (float, {name: float} as `watch` wants them).
  watch: tells of a collapse; None for no such thing.
  names: what the numbers of the watch are called in the logs.
  """
  name: str
  every: int
  labels: np.ndarray
  score: typing.Callable
  watch: collapse.Watch | None
  names: dict[str, str]


def make(extractor: features.FeatureExtractor, validation: types.Split,
         classes: tuple[int, ...], *, metric: str, every: int, images: int,
         train: types.Split | None = None,
         shares: dict | None = None) -> Curve | None:
  """Returns the curve; None for `every` 0, or without validation images.

  Args:
    extractor: what looks.
    validation: what generated images are held against.
    classes: those asked for, equally often.
    metric: a file of image_metrics/ that needs only what a network sees.
    every, images: steps between looks, and images that each draws.
    train: the training images, for the watch.
    shares: name -> share, see collapse.Watch; None or zeros for no watch.
  """
  if not every or len(validation.labels) < 2:
    return None
  count = -(-images // _DRAWN) * _DRAWN  # Whole batches, classes mixed in each.
  labels = randomness.generator(0).permuted(
      np.resize(np.array(classes, np.int32), count))
  block, watched = measure.blocks([metric]), any((shares or {}).values())
  needs = measure.needs(block) | ({'features'} if watched else set())
  real = features.of_array(extractor, validation.images, needs)
  watch = _watch(extractor, train, validation.labels, real, labels,
                 shares) if watched else None

  def score(drawn):
    fake = features.of_array(extractor, drawn, needs)
    row, = measure.rows(block, real, fake, extractor.network)
    return row.measured.value, watch.measure(fake.features) if watch else {}
  value = next(iter(block[metric].VALUES))
  return Curve(
      measure.named(value, block[metric], extractor.network), every, labels,
      score, watch, {name: f'{name}_{extractor.network.name}'
                     for name in (watch.real if watch else ())})


def _watch(extractor, train, validation_labels, validation, asked, shares):
  """Returns the watch, of some training images of each class."""
  rng, labels = randomness.generator(1), train.labels
  each = max(2, _KNOWN // len(np.unique(labels)))
  rows = np.sort(np.concatenate([
      rng.permutation(np.flatnonzero(labels == k))[:each]
      for k in np.unique(labels)]))
  known = features.of_array(extractor, train.images[rows], {'features'})
  return collapse.watch(known.features, labels[rows], validation.features,
                        validation_labels, asked, shares)


def weights(model: types.GenerativeModel, state) -> dict:
  """Returns copies of 'variables' and, where there is one, of the 'critic'."""
  kept = {'variables': model.variables(state)}
  if model.critic:
    kept['critic'] = model.critic.variables(state)
  return jax.tree.map(jnp.copy, kept)  # The next step takes the state.


def start(curve: Curve, model: types.GenerativeModel, state) -> dict:
  """Returns what the hook remembers, as it is before the first look."""
  best = {'score': jnp.float32(jnp.inf), 'step': jnp.int32(0),
          **weights(model, state)}
  if curve.watch:
    best |= {'watch': collapse.start(curve.watch), 'stop': jnp.int32(0)}
  return best


def hook(curve: Curve, model: types.GenerativeModel, draw,
         key) -> loop.Hook:
  """Returns the hook that keeps the variables of the curve's lowest point.

  Not of a look at which the watch found too little; a collapse ends the run.
  There is no look before the model's last phase.

  Args:
    curve: what is looked at.
    model: whose variables.
    draw: see data/origins.py.
    key: of what is drawn, the same at each look.
  """
  sample = jax.jit(lambda *given: draw(*given)[0])
  parts = curve.labels.reshape(-1, _DRAWN)
  first = model.phases[-1].first if model.phases else 0

  def look(step, state, best, writer):
    if step <= first:
      return best
    variables = model.variables(state)
    value, watched = curve.score(np.concatenate([
        pixels.to_uint8(sample(variables, jax.random.fold_in(key, i), labels))
        for i, labels in enumerate(parts)]))
    writer.scalars(step, {curve.name: value} | {
        curve.names[name]: number for name, number in watched.items()})
    best = dict(best)
    if curve.watch:
      seen = collapse.follow(curve.watch, best['watch'], watched)
      best |= {'watch': seen, 'stop': jnp.int32(
          step if collapse.cause(seen) else 0)}
    low = curve.watch and collapse.low(best['watch'])
    if value < best['score'] and not low:
      best |= {'score': jnp.float32(value), 'step': jnp.int32(step),
               **weights(model, state)}
    return best
  return loop.Hook(curve.every, look)


def collapsed(best: dict) -> dict:
  """Returns 'collapsed_at', a step or None, and of which number, or None."""
  number = collapse.cause(best.get('watch', {}))
  if not number:
    return {'collapsed_at': None, 'collapsed': None}
  seen = best['watch'][number]
  return {'collapsed_at': int(best['stop']), 'collapsed': {
      'number': number, 'best': float(seen['best']),
      'now': float(seen['now'])}}
