"""The one-player rule: a network becomes a classifier that can be trained."""
import functools
import math
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxaug.core import errors, registry, types


class Classifier(typing.NamedTuple):
  """Pure, jittable functions.

  init(key, steps) -> ClassifierState of a run of so many steps.
  step(state, batch, key) -> (state, logs): one update; logs are scalars. A
    batch is 'image' float32 [B, H, W, C] in [-1, 1]; 'target' float32 [B, K],
    a distribution over the classes; 'weight' float32 [K] of the classes; and
    'adjustment' float32 [K], what the loss adds to the logits.
  predict(variables, images) -> logits float32 [B, K].
  features(variables, images) -> float32 [B, F], what the layer 'logits' sees.
  """
  init: typing.Callable
  step: typing.Callable
  predict: typing.Callable
  features: typing.Callable


class Rule(typing.NamedTuple):
  """An optimizer whose length is data.

  direction: what the gradients become before the learning rate.
  rate(step, steps) -> the learning rate.
  """
  direction: optax.GradientTransformation
  rate: typing.Callable


def variables(net: types.Net) -> dict:
  """What `predict` needs of a state's network."""
  return {'params': net.params, 'batch_stats': net.stats}


def plain(images, labels, classes: int) -> dict:
  """Returns the batch of images with one class each, all classes alike."""
  return {'image': images, 'target': jax.nn.one_hot(labels, classes),
          'weight': jnp.ones(classes), 'adjustment': jnp.zeros(classes)}


def _share_of(steps, share: float):
  """floor(share * steps), exact for shares of four decimals."""
  parts = 10_000
  share = round(share * parts)
  return share * (steps // parts) + share * (steps % parts) // parts


def _schedule(name, learning_rate, warmup, milestones, decay):
  """Returns rate(step, steps); milestones are shares of the whole run."""
  def rate(step, steps):
    rise = jnp.minimum(warmup, steps - 1)
    value = jnp.float32(learning_rate)
    if name == 'step':
      for share in milestones:
        value *= jnp.where(step >= _share_of(steps, share), decay, 1.)
    elif name == 'cosine':
      done = (step - rise) / jnp.maximum(steps - rise, 1)
      value *= (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1))) / 2
    # To the peak in `rise` equal steps, of which the first is one.
    up = learning_rate * (1 + (rise - 1) * step / jnp.maximum(rise, 1)
                          ) / jnp.maximum(rise, 1)
    return jnp.where(step < rise, up, value)
  return rate


def make_optimizer(*, optimizer: str = 'sgd', learning_rate: float = 0.1,
                   momentum: float = 0.9, nesterov: bool = True,
                   weight_decay: float = 5e-4, decay_norms: bool = False,
                   schedule: str = 'cosine', warmup: int = 0,
                   milestones: tuple[float, ...] = (0.5, 0.75),
                   decay: float = 0.1) -> Rule:
  """Returns the optimizer of a run.

  Args:
    optimizer: 'sgd' (weight decay is an L2 term) or 'adam' (decoupled).
    learning_rate: its peak.
    momentum, nesterov: of SGD.
    weight_decay: of kernels.
    decay_norms: whether biases and norms decay too, as published recipes have
      it.
    schedule: 'cosine' to zero, 'step' by `decay` at `milestones` (shares of
      the run), or 'constant'.
    warmup: steps of linear rise before it.
    milestones, decay: of 'step'.

  Raises:
    InputError: an unknown name or a value out of range.
  """
  errors.one_of('optimizer', optimizer, ('sgd', 'adam'))
  errors.one_of('schedule', schedule, ('cosine', 'step', 'constant'))
  for name, value in (('learning_rate', learning_rate), ('decay', decay)):
    errors.positive(name, value)
  errors.between('momentum', momentum, 0, 1, below=True)
  errors.between('weight_decay', weight_decay, 0, math.inf)
  errors.count('warmup', warmup, least=0)
  for share in milestones:
    errors.between('milestones', share, 0, 1)
  def decays(params):
    return jax.tree.map(lambda x: decay_norms or x.ndim > 1, params)
  shrink = optax.add_decayed_weights(weight_decay, decays)
  if optimizer == 'adam':
    direction = optax.chain(optax.scale_by_adam(), shrink)
  else:
    direction = optax.chain(shrink, optax.trace(momentum, nesterov))
  return Rule(direction, _schedule(schedule, learning_rate, warmup, milestones,
                                   decay))


def _loss(logits, batch, label_smoothing):
  """Weighted cross-entropy, and logs."""
  target = batch['target']
  value = optax.softmax_cross_entropy(
      logits + batch['adjustment'],
      optax.smooth_labels(target, label_smoothing))
  value = (value * (target @ batch['weight'])).mean()
  error = jnp.mean(logits.argmax(-1) != target.argmax(-1))
  return value, {'train_loss': value, 'train_error': error}


def _cut(batch, parts):
  """Cuts the images of a batch into `parts`, each spread over all devices."""
  for name in ('image', 'target'):
    size = len(batch[name])
    if size % parts:
      raise errors.InputError(
          f'accumulate: {parts}; expected a divisor of the batch size, {size}.')
    x = batch[name].reshape(size // parts, parts, *batch[name].shape[1:])
    batch = batch | {name: x.swapaxes(0, 1)}
  return batch


def _gradients(network, label_smoothing, accumulate):
  """Returns f(params, stats, batch, key) -> (gradients, stats, logs)."""
  def one(params, stats, batch, key):
    def objective(params):
      logits, new = network.apply(
          {'params': params, 'batch_stats': stats}, batch['image'], train=True,
          mutable=['batch_stats'], rngs={'dropout': key})
      value, logs = _loss(logits, batch, label_smoothing)
      return value, (new.get('batch_stats', {}), logs)
    grads, (stats, logs) = jax.grad(objective, has_aux=True)(params)
    return grads, stats, logs
  if accumulate == 1:
    return one

  def several(params, stats, batch, key):
    batch = _cut(batch, accumulate)
    def part(stats, i):
      piece = batch | {k: batch[k][i] for k in ('image', 'target')}
      grads, stats, logs = one(params, stats, piece, jax.random.fold_in(key, i))
      return stats, (grads, logs)
    stats, sums = jax.lax.scan(part, stats, jnp.arange(accumulate))
    grads, logs = jax.tree.map(lambda x: x.mean(0), sums)
    return grads, stats, logs
  return several


def _features(network):
  def features(variables, images):
    seen = []
    def catch(call, args, kwargs, context):
      if context.module.name == 'logits':
        seen.append(args[0])
      return call(*args, **kwargs)
    with nn.intercept_methods(catch):
      network.apply(variables, images, train=False)
    return seen[0].astype(jnp.float32)
  return features


def make(spec: types.ImageSpec, network, *, label_smoothing: float = 0.0,
         accumulate: int = 1, **rule: make_optimizer) -> Classifier:
  """Returns the classifier of `network` under cross-entropy.

  Args:
    spec: what the images are.
    network: flax module (images, train) -> logits, the output of its layer
      'logits'. Its `pretrained(variables) -> variables`, if it has one, gives
      the first weights.
    label_smoothing: share of the target spread over all classes.
    accumulate: parts that a batch is cut into, to need less memory; batch norm
      then sees one part at a time.
    **rule: see make_optimizer.
  """
  errors.between('label_smoothing', label_smoothing, 0, 1, below=True)
  errors.count('accumulate', accumulate)
  rule = make_optimizer(**rule)
  gradients = _gradients(network, label_smoothing, accumulate)

  def init(key, steps):
    image = jnp.zeros((1, spec.height, spec.width, spec.channels))
    new = network.init(key, image, train=False)
    new = getattr(network, 'pretrained', lambda new: new)(new)
    params = new['params']
    return types.ClassifierState(
        jnp.int32(0), jnp.int32(steps),
        types.Net(params, new.get('batch_stats', {}),
                  rule.direction.init(params)))

  def step(state, batch, key):
    net = state.net
    grads, stats, logs = gradients(net.params, net.stats, batch,
                                   jax.random.fold_in(key, state.step))
    updates, opt = rule.direction.update(grads, net.opt, net.params)
    rate = rule.rate(state.step, state.steps)
    params = jax.tree.map(lambda w, u: w - rate * u, net.params, updates)
    return state._replace(step=state.step + 1,
                          net=types.Net(params, stats, opt)), logs

  return Classifier(init, step,
                    functools.partial(network.apply, train=False),
                    _features(network))


def of_block(spec: types.ImageSpec, where: str, model: str,
             arguments: dict) -> Classifier:
  """Returns the classifier of a config's block.

  Args:
    spec: what the images are.
    where: the block's config path, for errors.
    model: a file of classifiers/.
    arguments: the network's and those of `make`, in one dict.
  """
  block = registry.find('classifiers', model, f'{where}.model')
  known = registry.arguments(block.build)
  rule = {k: v for k, v in arguments.items() if k not in known}
  registry.check(make, rule, where, also=known)
  network = registry.build(
      'classifiers', model, {k: v for k, v in arguments.items() if k in known},
      where, spec)
  with registry.within(where):
    return make(spec, network, **rule)
