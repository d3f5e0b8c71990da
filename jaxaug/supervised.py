"""The one-player rule: a network becomes a classifier that can be trained."""
import math
import typing

import jax
import jax.numpy as jnp
import optax

from jaxaug import errors, types


class Classifier(typing.NamedTuple):
  """Pure, jittable functions.

  init(key) -> ClassifierState.
  step(state, images, labels, key) -> (state, logs): images float32 [B, H, W,
    C] in [-1, 1], labels int32 [B]; logs are scalars.
  predict(variables, images) -> logits float32 [B, num_classes].
  """
  init: typing.Callable
  step: typing.Callable
  predict: typing.Callable


def variables(net: types.Net) -> dict:
  """What `predict` needs of a state's network."""
  return {'params': net.params, 'batch_stats': net.stats}


def _schedule(name, learning_rate, steps, warmup, milestones, decay):
  """Returns rate(step); milestones are shares of the run, warm-up included."""
  warmup = min(warmup, steps - 1)
  if name == 'step':
    # In whole steps: 0.29 * 100 is 28.999... in floating point.
    at = jnp.array([int(m * steps + 1e-6) for m in milestones], jnp.int32)
    def after(t):
      return learning_rate * decay ** (t + warmup >= at).sum()
  elif name == 'cosine':
    after = optax.cosine_decay_schedule(learning_rate, max(steps - warmup, 1))
  else:
    after = optax.constant_schedule(learning_rate)
  if not warmup:
    return after
  return optax.join_schedules(
      [optax.linear_schedule(learning_rate / warmup, learning_rate, warmup),
       after], [warmup])


def make_optimizer(*, steps: int, optimizer: str = 'sgd',
                   learning_rate: float = 0.1, momentum: float = 0.9,
                   nesterov: bool = True, weight_decay: float = 5e-4,
                   schedule: str = 'cosine', warmup: int = 0,
                   milestones: tuple[float, ...] = (0.5, 0.75),
                   decay: float = 0.1) -> optax.GradientTransformation:
  """Returns the optimizer of one run.

  Args:
    steps: length of the run.
    optimizer: 'sgd' (weight decay is an L2 term) or 'adam' (decoupled).
    learning_rate: its peak.
    momentum, nesterov: of SGD.
    weight_decay: of kernels; biases and norms are left alone.
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
  rate = _schedule(schedule, learning_rate, steps, warmup, milestones, decay)
  def kernels(params):
    return jax.tree.map(lambda x: x.ndim > 1, params)
  if optimizer == 'adam':
    return optax.adamw(rate, weight_decay=weight_decay, mask=kernels)
  return optax.chain(optax.add_decayed_weights(weight_decay, kernels),
                     optax.sgd(rate, momentum, nesterov))


def make(spec: types.ImageSpec, network, *, label_smoothing: float = 0.0,
         **rule: make_optimizer) -> Classifier:
  """Returns the classifier of `network` under cross-entropy.

  Args:
    spec: what the images are.
    network: flax module (images, train) -> logits.
    label_smoothing: share of the target spread over all classes.
    **rule: see make_optimizer.
  """
  errors.between('label_smoothing', label_smoothing, 0, 1, below=True)
  tx = make_optimizer(**rule)

  def init(key):
    image = jnp.zeros((1, spec.height, spec.width, spec.channels))
    new = network.init(key, image, train=False)
    params = new['params']
    return types.ClassifierState(
        jnp.int32(0),
        types.Net(params, new.get('batch_stats', {}), tx.init(params)))

  def step(state, images, labels, key):
    net = state.net
    def objective(params):
      logits, new = network.apply(
          {'params': params, 'batch_stats': net.stats}, images, train=True,
          mutable=['batch_stats'],
          rngs={'dropout': jax.random.fold_in(key, state.step)})
      target = optax.smooth_labels(
          jax.nn.one_hot(labels, spec.num_classes), label_smoothing)
      value = optax.softmax_cross_entropy(logits, target).mean()
      error = jnp.mean(logits.argmax(-1) != labels)
      return value, (new.get('batch_stats', {}),
                     {'train_loss': value, 'train_error': error})
    grads, (stats, logs) = jax.grad(objective, has_aux=True)(net.params)
    updates, opt = tx.update(grads, net.opt, net.params)
    net = types.Net(optax.apply_updates(net.params, updates), stats, opt)
    return types.ClassifierState(state.step + 1, net), logs

  def predict(variables, images):
    return network.apply(variables, images, train=False)

  return Classifier(init, step, predict)
