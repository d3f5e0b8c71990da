"""The two-player rule: some updates of the discriminator, one of the generator.

Alternating updates (Goodfellow et al. 2014, algorithm 1) with an averaged
generator. `step` is all of it; what it calls follows in the order of its lines.
"""
import functools
import typing

import jax
import jax.numpy as jnp
import optax

from jaxaug.core import types
from jaxaug.data import pixels
from jaxaug.generators.gan import (
  losses,
  noise,
  optimizers,
  regularisation,
  turns,
)


class Rule(typing.NamedTuple):
  """The two players and what they go by; gan.py puts it together."""
  generator: typing.Any              # Flax modules, both.
  discriminator: typing.Any
  condition: typing.Callable | None  # Real images -> what G starts from too.
  pairs: bool                        # Or the first of a pair of images is it.
  noise: noise.Noise
  mirror: bool                       # Whether half of real images are flipped,
  quarter_turns: bool                # or turned.
  augmentations: tuple               # augmentation.Augmentation, one by one.
  loss: losses.Adversarial
  class_loss: losses.ClassLoss
  regularisers: tuple                # regularisation.Regulariser, to be summed.
  turns: turns.Turns
  balance: typing.Callable | None
  top_k: typing.Callable
  optimizers: optimizers.Optimizers
  average: typing.Callable           # Of G, see training/ema.py.


def step(rule: Rule, state: types.GanState, batch: dict, key):
  """One update of G after `d_steps` of D; see types.GenerativeModel."""
  own, last, of_g = _keys(rule, jax.random.fold_in(key, state.step))
  g, d, control, d_logs = _updates_of_d(rule, state, batch, own)

  # D's last batch says which classes, and what G starts from beside noise.
  turn = _turn(rule, state.step, control, batch['image'][-1],
               batch['label'][-1], last)
  # The pass through G is recorded, so that its fakes can serve D first.
  fake, pull, g_stats = jax.vjp(
      lambda params: _fakes(rule, g._replace(params=params), turn, of_g.noise),
      g.params, has_aux=True)
  if not rule.turns.fresh_fakes:
    d, control, d_logs = _update_d(rule, d, turn, fake)
  slope, g_logs = jax.grad(_g_loss, has_aux=True)(
      fake, rule, d, turn._replace(control=control, keys=of_g))
  moved = update(rule.optimizers.g, g, g_stats, *pull(slope))
  if 'g_moves' in d_logs:
    moved = _where(d_logs['g_moves'] > 0, moved, state.g)

  ema = rule.average(state.ema, moved, state.step)
  return (types.GanState(state.step + 1, moved, d, ema, control),
          {**g_logs, **d_logs})


class Keys(typing.NamedTuple):
  """The keys of one update, of D or of G; None for what it does not draw."""
  noise: jax.Array | None
  augment: jax.Array
  dropout: jax.Array
  second: jax.Array | None = None   # Dropout of D's second pass, where it has.
  mirror: jax.Array | None = None
  penalty: jax.Array | None = None
  turns: jax.Array | None = None


def _keys(rule, key):
  """Splits all keys of a step: of D's updates on own fakes, its last, and G's.

  Those of the first have an axis more.
  """
  def of_d(noise, update):
    mirror, augment, dropout = jax.random.split(update, 3)
    return Keys(noise, augment, dropout, jax.random.fold_in(dropout, 1), mirror,
                jax.random.fold_in(update, 3), jax.random.fold_in(update, 4))
  key_d, *key_g = jax.random.split(key, 4)
  updates = jax.random.split(key_d, rule.turns.d_steps)
  own = jax.vmap(lambda key: of_d(*jax.random.split(key)))(updates)
  if rule.turns.fresh_fakes:
    # Pairs of G's own are posed anew; else it is D's last batch.
    last = (of_d(None, jax.random.fold_in(key, 4)) if rule.pairs else
            jax.tree.map(lambda x: x[-1], own))
    return own, last, Keys(*key_g)
  return (jax.tree.map(lambda x: x[:-1], own), of_d(None, updates[-1]),
          Keys(*key_g))


class Turn(typing.NamedTuple):
  """What one update, of D or of G, is about."""
  step: jax.Array        # int32 [], updates of G so far.
  control: dict          # What augmentations and regularisers remember.
  real: jax.Array        # Real images, float [B, H, W, C].
  labels: jax.Array      # int32 [B], of the fakes as well.
  given: tuple           # What G starts from beside noise; () for nothing.
  keys: Keys


class Scores(typing.NamedTuple):
  """What D says of real and of generated images, float32."""
  real: jax.Array        # [B].
  fake: jax.Array        # [B].
  logits: tuple          # Of the classes, [B, K] or None for each of the two.


def _updates_of_d(rule, state, batch, keys):
  """D's updates on fakes of their own; (g, d, control, logs of the last)."""
  def update(carry, xs):
    (g, d, control), (image, label, keys) = carry, xs
    turn = _turn(rule, state.step, control, image, label, keys)
    fake, stats = _fakes(rule, g, turn, keys.noise)
    d, control, logs = _update_d(rule, d, turn, jax.lax.stop_gradient(fake))
    return (g._replace(stats=stats), d, control), logs

  carry, count = (state.g, state.d, state.control), len(keys.noise)
  xs = batch['image'][:count], batch['label'][:count], keys
  if not count:
    return *carry, {}
  if count == 1:  # One has no need of a loop, and loops are slow on a CPU.
    carry, logs = update(carry, jax.tree.map(lambda x: x[0], xs))
    return *carry, logs
  carry, logs = jax.lax.scan(update, carry, xs)
  return *carry, jax.tree.map(lambda x: x[-1], logs)


def _turn(rule, step, control, images, labels, keys) -> Turn:
  """Takes real images uint8 or float [B, H, W, C], or pairs of them."""
  if not jnp.issubdtype(images.dtype, jnp.floating):
    images = pixels.to_float(images)
  start = images = _posed(rule, keys, images)
  if rule.pairs:
    (start, images), labels = images, labels[1]
  return Turn(step, control, images, labels, given(rule, start), keys)


def _posed(rule, keys, images):
  """Mirrors and turns some of images [..., B, H, W, C]; pairs stay alike."""
  each = images.shape[-4], 1, 1, 1
  if rule.mirror:
    flip = jax.random.bernoulli(keys.mirror, shape=each)
    images = jnp.where(flip, images[..., ::-1, :], images)
  if rule.quarter_turns:
    whether, how = jax.random.split(keys.turns)
    quarters = jnp.where(jax.random.bernoulli(whether, shape=each),
                         jax.random.randint(how, each, 0, 4), 0)
    images = jnp.where(quarters >= 2, images[..., ::-1, ::-1, :], images)
    images = jnp.where(quarters % 2, jnp.rot90(images, axes=(-3, -2)), images)
  return images


def given(rule: Rule, images) -> tuple:
  """What G starts from beside noise, made of real images; () for nothing."""
  if rule.pairs:
    return (images,)
  return (rule.condition(images),) if rule.condition else ()


def _fakes(rule, g, turn, key):
  """G's images, and its new statistics."""
  z = rule.noise.draw(key, turn.labels.shape[0])
  return call(rule.generator, g, z, turn.labels, *turn.given,
              key=jax.random.fold_in(key, 1))


def call(module, net: types.Net, *args, key=None, train: bool = True):
  """Applies a player; returns its output and its new statistics."""
  variables = {'params': net.params, 'batch_stats': net.stats}
  if not train:
    return module.apply(variables, *args, train=False), net.stats
  rngs = None if key is None else {'dropout': key}
  out, new = module.apply(variables, *args, train=True, rngs=rngs,
                          mutable=['batch_stats'])
  return out, new.get('batch_stats', {})


def _update_d(rule, d, turn, fake):
  """One update of D on these fakes; (d, control, logs)."""
  fake, control = fake.astype(turn.real.dtype), turn.control
  # One call for both sides, so that they share the batch's treatment.
  shown = _augment(rule, turn, jnp.concatenate([turn.real, fake]))
  grads, (stats, scores, logs) = jax.grad(_d_loss, has_aux=True)(
      d.params, rule, d, turn, fake, shown)
  moved = update(rule.optimizers.d, d, stats, grads)
  if rule.balance:
    d_moves, g_moves = rule.balance(
        rule.loss.parts(scores.real, scores.fake),
        rule.loss.generator(scores.fake))
    moved = _where(d_moves, moved, d)
    logs |= {'d_moves': d_moves.astype(jnp.float32),
             'g_moves': g_moves.astype(jnp.float32)}
  for regulariser in rule.regularisers:
    control = regulariser.after(control, turn.step, scores)
  for augmentation in rule.augmentations:
    control = augmentation.after(control, scores.real - rule.loss.threshold)
  if 'ada' in control:
    logs |= {'ada_p': control['ada'].p}
  return moved, control, logs


def _d_loss(params, rule, d, turn, fake, shown):
  """D's loss; (its new statistics, scores, logs)."""
  d = d._replace(params=params)
  scores, stats = _scores(rule, d, turn, shown)
  value = source = rule.loss.discriminator(scores.real, scores.fake)
  logs = losses.accuracies(scores.real, scores.fake, rule.loss.threshold)
  if rule.class_loss.weight:
    sides = scores.logits if rule.class_loss.on_fakes else scores.logits[:1]
    part = rule.class_loss(turn.labels, *sides)
    value += rule.class_loss.weight * part
    logs |= {'d_source_loss': source, 'd_class_loss': part}
  def plain(images):
    return _apply_d(rule, d, turn, images, turn.keys.dropout)[0]
  def score(images):
    return plain(_augment(rule, turn, images))
  seen = regularisation.Seen(turn, fake, scores, score, plain)
  value += sum((term for regulariser in rule.regularisers
                for term in regulariser.terms(seen)), jnp.float32(0))
  return value, (stats, scores, {'d_loss': value, **logs})


def _augment(rule, turn, images):
  for augmentation in rule.augmentations:
    images = augmentation.apply(turn.keys.augment, images, turn.control)
  return images


def _scores(rule, d, turn, shown):
  """Scores of images [2B, H, W, C], real ones first; D's new statistics."""
  keys = turn.keys
  if rule.turns.separate_passes:
    real, fake = jnp.split(shown, 2)
    of_real, real_logits, stats = _apply_d(rule, d, turn, real, keys.dropout)
    of_fake, fake_logits, stats = _apply_d(
        rule, d._replace(stats=stats), turn, fake, keys.second)
    return Scores(of_real, of_fake, (real_logits, fake_logits)), stats
  twice = turn._replace(**{name: jax.tree.map(
      lambda x: jnp.concatenate([x, x]), getattr(turn, name))
                           for name in ('labels', 'given')})
  both, logits, stats = _apply_d(rule, d, twice, shown, keys.dropout)
  logits = (None, None) if logits is None else jnp.split(logits, 2)
  return Scores(*jnp.split(both, 2), tuple(logits)), stats


def _apply_d(rule, d, turn, images, key):
  """D's scores [B] and class logits [B, K] or None, float32; statistics."""
  given = turn.given if rule.pairs else ()
  out, stats = call(rule.discriminator, d, images, turn.labels, *given, key=key)
  scores, logits = out if isinstance(out, tuple) else (out, None)
  return (scores.astype(jnp.float32),
          None if logits is None else logits.astype(jnp.float32), stats)


def _g_loss(fake, rule, d, turn):
  """G's loss; logs."""
  scores, logits, _ = _apply_d(rule, d, turn, _augment(rule, turn, fake),
                               turn.keys.dropout)
  value = source = rule.loss.generator(scores, rule.top_k(turn.step, scores))
  logs = {}
  if rule.class_loss.weight:
    part = rule.class_loss(turn.labels, logits)
    value += rule.class_loss.weight * part
    logs = {'g_source_loss': source, 'g_class_loss': part}
  return value, logs | {'g_loss': value}


def update(tx, net: types.Net, stats, grads) -> types.Net:
  """One step of an optimizer; the statistics are what the pass left."""
  updates, opt = tx.update(grads, net.opt, net.params)
  return types.Net(optax.apply_updates(net.params, updates), stats, opt)


def _where(moves, new, old):
  return jax.tree.map(functools.partial(jnp.where, moves), new, old)
