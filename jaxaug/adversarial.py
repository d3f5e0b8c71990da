"""The two-player rule: a generator and a discriminator become a model.

Alternating updates (Goodfellow et al. 2014, algorithm 1) with an averaged
generator. Every GAN of `generators/` goes through here.
"""
import functools
import math
import typing

import jax
import jax.numpy as jnp
import optax

import jaxaug.augment
from jaxaug import ada as adaptive
from jaxaug import errors, losses, penalties, types

# Batches over which batch norm's averages are taken anew, where they are.
_STANDING, _STANDING_BATCH = 32, 64


def _call(module, net, params, *args, key=None, train=True):
  """Applies `module`; returns its output and its new statistics."""
  variables = {'params': params, 'batch_stats': net.stats}
  if not train:
    return module.apply(variables, *args, train=False), net.stats
  rngs = None if key is None else {'dropout': key}
  out, new = module.apply(variables, *args, train=True, rngs=rngs,
                          mutable=['batch_stats'])
  return out, new.get('batch_stats', {})


def _update(tx, net, stats, grads) -> types.Net:
  updates, opt = tx.update(grads, net.opt, net.params)
  return types.Net(optax.apply_updates(net.params, updates), stats, opt)


def _mirror(key, images):
  """Flips half of the images left to right."""
  flip = jax.random.bernoulli(key, shape=(images.shape[0], 1, 1, 1))
  return jnp.where(flip, images[:, :, ::-1], images)


def _heads(out):
  """Returns float32 (scores [B], class logits [B, K] or None) of D's output."""
  scores, logits = out if isinstance(out, tuple) else (out, None)
  return (scores.astype(jnp.float32),
          None if logits is None else logits.astype(jnp.float32))


def optimizers(*, optimizer: str = 'adam', g_lr: float = 2e-4,
               d_lr: float = 2e-4, b1: float = 0.0, b2: float = 0.999,
               momentum: float = 0.0, momentum_growth: float = 0.0,
               momentum_limit: float = 0.7):
  """Returns the optimizers of both players, (of G, of D).

  Args:
    optimizer: 'adam', 'rmsprop' (decay b2), or 'sgd' with a growing momentum.
    g_lr, d_lr: learning rates; two different ones are TTUR (Heusel et al.
      2017).
    b1, b2: Adam's.
    momentum, momentum_growth, momentum_limit: of 'sgd': at the start, more of
      it with each step, and at most. The gradient is damped by as much, as in
      Torch7.
  """
  errors.one_of('optimizer', optimizer, ('adam', 'rmsprop', 'sgd'))
  for name, rate in (('g_lr', g_lr), ('d_lr', d_lr)):
    errors.positive(name, rate)
  for name, share in (('b1', b1), ('b2', b2),
                      ('momentum_limit', momentum_limit)):
    errors.between(name, share, 0, 1, below=True)
  errors.between('momentum', momentum, 0, momentum_limit)
  errors.between('momentum_growth', momentum_growth, 0, 1)
  make = {'adam': lambda rate: optax.adam(rate, b1, b2),
          'rmsprop': lambda rate: optax.rmsprop(rate, b2, eps_in_sqrt=False),
          'sgd': lambda rate: optax.chain(
              _growing_momentum(momentum, momentum_growth, momentum_limit),
              optax.scale(-rate))}[optimizer]
  return make(g_lr), make(d_lr)


def _growing_momentum(first, growth, limit):
  """v <- m v + (1 - m) gradient, where m grows with the steps."""
  def init(params):
    return jnp.int32(0), jax.tree.map(jnp.zeros_like, params)

  def update(grads, state, params=None):
    del params
    step, v = state
    m = jnp.minimum(first + growth * step.astype(jnp.float32), limit)
    v = jax.tree.map(lambda v, g: m * v + (1 - m) * g, v, grads)
    return v, (step + 1, v)
  return optax.GradientTransformation(init, update)


class Regulariser(typing.NamedTuple):
  """What D's loss has beside the adversarial part.

  start() -> control: what it remembers.
  loss(key, step, control, score, augment, real, fake, on_real, on_fake) -> [].
  after(control, step, on_real, on_fake) -> control.
  """
  start: typing.Callable
  loss: typing.Callable
  after: typing.Callable


def regulariser(*, r1: float = 0.0, r1_every: int = 1,
                gradient_penalty: float = 0.0, lecam: float = 0.0,
                lecam_start: int = 1000, lecam_decay: float = 0.99,
                consistency: float = 0.0, consistency_on_fakes: float = 0.0,
                **players: optimizers) -> tuple[Regulariser, tuple]:
  """Returns what holds D back, and the optimizers; see jaxaug.penalties.

  Args:
    r1: gamma of R1, whose penalty is gamma / 2 times it.
    r1_every: steps between two R1 penalties, which then count as many times.
    gradient_penalty: its weight, 10 in the paper.
    lecam, lecam_start, lecam_decay: LeCam's weight, 0.3 in the paper's code;
      the step of its first penalty; the decay of its averages.
    consistency, consistency_on_fakes: weights between scores with and without
      DiffAugment or ADA, of real images (CR) and of fakes (with it, bCR).
    **players: see optimizers.
  """
  for name, weight in (('r1', r1), ('gradient_penalty', gradient_penalty),
                       ('lecam', lecam), ('consistency', consistency),
                       ('consistency_on_fakes', consistency_on_fakes)):
    errors.between(name, weight, 0, math.inf)
  errors.count('r1_every', r1_every)
  errors.count('lecam_start', lecam_start, least=0)
  errors.between('lecam_decay', lecam_decay, 0, 1, below=True)

  def start():
    # Two buffers: the state is donated.
    return {'lecam': penalties.LeCam(jnp.float32(0), jnp.float32(0))} if (
        lecam) else {}

  def loss(key, step, control, score, plain, real, fake, on_real, on_fake):
    total = jnp.float32(0)
    if r1:
      def penalty():
        return r1 / 2 * r1_every * penalties.r1(score, real)
      total += penalty() if r1_every == 1 else jax.lax.cond(
          step % r1_every == 0, penalty, lambda: jnp.float32(0))
    if gradient_penalty:
      total += gradient_penalty * penalties.gradient_penalty(
          key, score, real, fake)
    if lecam:
      total += lecam * (step >= lecam_start) * penalties.lecam(
          on_real, on_fake, control['lecam'])
    for weight, images, scores in ((consistency, real, on_real),
                                   (consistency_on_fakes, fake, on_fake)):
      if weight:
        total += weight * penalties.consistency(plain(images), scores)
    return total

  def after(control, step, on_real, on_fake):
    if not lecam:
      return control
    decay = jnp.where(step >= lecam_start, lecam_decay, 0.)
    return control | {'lecam': penalties.lecam_update(
        control['lecam'], on_real.mean(), on_fake.mean(), decay)}
  return Regulariser(start, loss, after), optimizers(**players)


class _Augment(typing.NamedTuple):
  """What D sees of images.

  start() -> control. apply(key, images, control) -> images.
  after(control, batch, scores) -> control: hears D's scores of real images.
  """
  start: typing.Callable
  apply: typing.Callable
  after: typing.Callable


def augmentation(*, diff_augment: str = '', diff_augment_fill: float = 0.0,
                 ada: str = '', ada_target: float = 0.6, ada_every: int = 4,
                 ada_images: int = 500_000, **more: regulariser):
  """Returns what D sees of all images, and the rest; (augment, *regulariser).

  Args:
    diff_augment: policy of DiffAugment: some of 'color,translation,cutout', or
      '' for none.
    diff_augment_fill: value of the pixels that it vacates; -1 on black ground.
    ada: policy of adaptive augmentation, such as 'bgc', or '' for none; with
      strength p, which rises while D knows the real images too well.
    ada_target: of the mean sign of D's scores of real images.
    ada_every: updates of D between two moves of p.
    ada_images: real images that take p from 0 to 1.
    **more: see regulariser.
  """
  errors.between('diff_augment_fill', diff_augment_fill, -1, 1)
  errors.between('ada_target', ada_target, -1, 1)
  errors.count('ada_every', ada_every)
  errors.count('ada_images', ada_images)
  fixed = jaxaug.augment.diff_augment(
      diff_augment, fill=diff_augment_fill, where='diff_augment')
  adapted = adaptive.pipeline(ada, where='ada')
  regular = regulariser(**more)
  for name in 'consistency', 'consistency_on_fakes':
    if more.get(name) and not (ada or diff_augment):
      raise errors.InputError(
          f'{name}: {more[name]}; expected 0, or some diff_augment or ada for '
          'scores to be consistent under.')

  def start():
    return {'ada': adaptive.start()} if ada else {}

  def apply(key, images, control):
    if ada:
      images = adapted(jax.random.fold_in(key, 100), images, control['ada'].p)
    return fixed(key, images)

  def after(control, batch, scores):
    if not ada:
      return control
    seen = adaptive.observe(control['ada'], scores)
    return control | {'ada': adaptive.adjust(seen, batch, ada_target,
                                             ada_every, ada_images)}
  return _Augment(start, apply, after), *regular


def _noise(kind: str, truncation: float):
  """Returns draw(key, shape, truncated) -> z."""
  def draw(key, shape, truncated=False):
    # The same as drawing again what is beyond.
    most = truncation if truncated and truncation else math.inf
    if kind == 'uniform':
      return jax.random.uniform(key, shape, minval=-min(most, 1),
                                maxval=min(most, 1))
    if most < math.inf:
      return jax.random.truncated_normal(key, -most, most, shape)
    return jax.random.normal(key, shape)
  return draw


def make(spec: types.ImageSpec, generator, discriminator, *, z_dim: int,
         loss: str = 'hinge', label_smoothing: float = 1.0, d_steps: int = 1,
         fresh_fakes: bool = True, noise: str = 'normal',
         truncation: float = 0.0, class_loss: float = 0.0,
         class_on_fakes: bool = True, balance: str = 'none',
         top_k: float = 1.0, top_k_gamma: float = 0.99,
         top_k_every: int = 1000, ema_decay: float = 0.999,
         ema_start: int = 0, mirror: bool = False, statistics: str = 'running',
         **more: augmentation) -> types.GenerativeModel:
  """Returns the generative model of two players.

  Args:
    spec: what the images are.
    generator: flax module (z [B, z_dim], labels [B], train) -> [B, H, W, C] in
      [-1, 1].
    discriminator: flax module (images, labels, train) -> raw scores [B], or
      (scores [B], logits [B, K] of the classes) for an auxiliary classifier.
    z_dim: size of the noise.
    loss: 'hinge', 'non_saturating', 'least_squares' or 'wasserstein'.
    label_smoothing: D's target for real images; 1.0 for none.
    d_steps: updates of D for one of G; each eats a batch of its own.
    fresh_fakes: False lets G learn from the fakes that the last D update saw
      (scored anew by the updated D), which saves one pass through G.
    noise: 'normal', or 'uniform' from -1 to 1.
    truncation: noise beyond it is drawn again in `sample`; 0 for none.
    class_loss: weight of the cross-entropy of D's class logits, in both
      players' losses (AC-GAN, Odena et al. 2017).
    class_on_fakes: whether D's own is of fakes as well as of real images.
    balance: who rests: 'none', 'margin' or 'behind', see penalties.
    top_k, top_k_gamma, top_k_every: G learns from the best scored share of its
      fakes, which falls by the factor every so many steps and ends at top_k.
    ema_decay: of the averaged generator, weights and statistics alike; warmed
      up as min(decay, (1 + t) / (10 + t)),
    ema_start: or a copy of the generator before this step, if it is not 0.
    mirror: flips half of the real images, for sets where that keeps the class.
    statistics: batch norm of `sample`: 'running' averages, those of the
      'batch', or 'standing', averages taken anew by the averaged weights.
    **more: see augmentation.

  Raises:
    InputError: a value that cannot be.
  """
  adversarial = losses.find(loss, label_smoothing)
  errors.count('d_steps', d_steps)
  errors.between('truncation', truncation, 0, math.inf)
  errors.between('class_loss', class_loss, 0, math.inf)
  errors.between('top_k', top_k, 0, 1)
  errors.between('top_k_gamma', top_k_gamma, 0, 1)
  errors.count('top_k_every', top_k_every)
  errors.between('ema_decay', ema_decay, 0, 1)
  errors.count('ema_start', ema_start, least=0)
  for name, value, known in (
      ('noise', noise, ('normal', 'uniform')),
      ('balance', balance, ('none', 'margin', 'behind')),
      ('statistics', statistics, ('running', 'batch', 'standing'))):
    errors.one_of(name, value, known)
  augment, regular, (g_tx, d_tx) = augmentation(**more)
  draw = _noise(noise, truncation)

  def init(key):
    key_g, key_d = jax.random.split(key)
    labels = jnp.zeros((1,), jnp.int32)
    image = jnp.zeros((1, spec.height, spec.width, spec.channels))
    def net(module, tx, key, *args):
      variables = module.init(key, *args, labels, train=False)
      params = variables['params']
      return types.Net(params, variables.get('batch_stats', {}),
                       tx.init(params))
    g = net(generator, g_tx, key_g, jnp.zeros((1, z_dim)))
    d = net(discriminator, d_tx, key_d, image)
    # A copy: the state is donated, and one buffer cannot be donated twice.
    ema = jax.tree.map(jnp.copy, {'params': g.params, 'batch_stats': g.stats})
    return types.GanState(jnp.int32(0), g, d, ema,
                          augment.start() | regular.start())

  def fakes(key, g, params, labels):
    z = draw(key, (labels.shape[0], z_dim))
    return _call(generator, g, params, z, labels)

  def class_part(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(
        logits, labels).mean()

  def d_objective(params, d, control, step, shown, real, fake, label, keys):
    """D's loss; (new statistics, scores, logs)."""
    key_aug, key_drop, key_extra = keys
    def heads(images, labels):
      out, stats = _call(discriminator, d, params, images, labels,
                         key=key_drop)
      return *_heads(out), stats
    scores, logits, stats = heads(shown, jnp.tile(label, 2))
    on_real, on_fake = jnp.split(scores, 2)
    value = source = adversarial.discriminator(on_real, on_fake)
    logs = losses.accuracies(on_real, on_fake, adversarial.threshold)
    if class_loss:
      if logits is None:
        raise errors.InputError(
            f'class_loss: {class_loss}; expected 0, for this discriminator '
            'has no class logits.')
      of_real, of_fake = jnp.split(logits, 2)
      part = class_part(of_real, label)
      if class_on_fakes:
        part = (part + class_part(of_fake, label)) / 2
      value += class_loss * part
      logs |= {'d_source_loss': source, 'd_class_loss': part}
    value += regular.loss(
        key_extra, step, control,
        lambda images: heads(augment.apply(key_aug, images, control), label)[0],
        lambda images: heads(images, label)[0], real, fake, on_real, on_fake)
    return value, (stats, (on_real, on_fake), {'d_loss': value, **logs})

  def d_update(d, control, step, image, label, fake, key):
    key_flip, key_aug, key_drop = jax.random.split(key, 3)
    real = jaxaug.augment.to_float(image)
    if mirror:
      real = _mirror(key_flip, real)
    fake = fake.astype(real.dtype)
    # One call for both sides, so that they share the batch's treatment.
    shown = augment.apply(key_aug, jnp.concatenate([real, fake]), control)
    grads, (stats, scores, logs) = jax.grad(d_objective, has_aux=True)(
        d.params, d, control, step, shown, real, fake, label,
        (key_aug, key_drop, jax.random.fold_in(key, 3)))
    moved = _update(d_tx, d, stats, grads)
    if balance != 'none':
      err_g = adversarial.generator(scores[1])
      moves = (penalties.margin(*adversarial.parts(*scores))
               if balance == 'margin' else
               penalties.behind(logs['d_loss'], err_g))
      moved = jax.tree.map(functools.partial(jnp.where, moves[0]), moved, d)
      logs |= {'d_moves': moves[0].astype(jnp.float32),
               'g_moves': moves[1].astype(jnp.float32)}
    control = regular.after(control, step, *scores)
    control = augment.after(control, len(image),
                            scores[0] - adversarial.threshold)
    if 'ada' in control:
      logs |= {'ada_p': control['ada'].p}
    return moved, control, logs

  def d_step(g, d, control, step, image, label, key):
    """One update of D on fakes of its own."""
    key_z, key_d = jax.random.split(key)
    fake, stats = fakes(key_z, g, g.params, label)
    d, control, logs = d_update(d, control, step, image, label,
                                jax.lax.stop_gradient(fake), key_d)
    return g._replace(stats=stats), d, control, logs

  def g_objective(fake, d, control, step, label, key_aug, key_drop):
    out, _ = _call(discriminator, d, d.params,
                   augment.apply(key_aug, fake, control), label, key=key_drop)
    scores, logits = _heads(out)
    weights = None
    if top_k < 1:
      weights = penalties.top_k(scores, penalties.top_k_count(
          step, len(scores), top_k_gamma, top_k_every, top_k))
    value = source = adversarial.generator(scores, weights)
    logs = {}
    if class_loss:
      part = class_part(logits, label)
      value += class_loss * part
      logs = {'g_source_loss': source, 'g_class_loss': part}
    return value, logs | {'g_loss': value}

  def average(ema, g, step):
    t = step.astype(jnp.float32)
    decay = jnp.minimum(ema_decay, (1 + t) / (10 + t))
    if ema_start:
      decay = jnp.where(step < ema_start, 0., ema_decay)
    return optax.incremental_update(
        {'params': g.params, 'batch_stats': g.stats}, ema, 1 - decay)

  def step(state, batch, key):
    """One update of G after `d_steps` updates of D; see GenerativeModel."""
    key = jax.random.fold_in(key, state.step)
    key_d, key_g, key_aug, key_drop = jax.random.split(key, 4)
    keys = jax.random.split(key_d, d_steps)
    g, d, control = state.g, state.d, state.control
    own = d_steps if fresh_fakes else d_steps - 1
    if own > 1:
      def body(carry, xs):
        g, d, control = carry
        *carry, logs = d_step(g, d, control, state.step, *xs)
        return tuple(carry), logs
      xs = (batch['image'][:own], batch['label'][:own], keys[:own])
      (g, d, control), logs = jax.lax.scan(body, (g, d, control), xs)
      d_logs = jax.tree.map(lambda x: x[-1], logs)
    elif own == 1:
      g, d, control, d_logs = d_step(
          g, d, control, state.step, batch['image'][0], batch['label'][0],
          keys[0])

    label = batch['label'][-1]
    # The pass through G is recorded, so that its fakes can serve D first.
    fake, pull, stats = jax.vjp(lambda p: fakes(key_g, g, p, label),
                                g.params, has_aux=True)
    if not fresh_fakes:
      d, control, d_logs = d_update(d, control, state.step, batch['image'][-1],
                                    label, fake, keys[-1])
    cotangent, g_logs = jax.grad(g_objective, has_aux=True)(
        fake, d, control, state.step, label, key_aug, key_drop)
    moved = _update(g_tx, g, stats, *pull(cotangent))
    if balance != 'none':
      moved = jax.tree.map(
          functools.partial(jnp.where, d_logs['g_moves'] > 0), moved, state.g)
    return (types.GanState(state.step + 1, moved, d,
                           average(state.ema, moved, state.step), control),
            {**g_logs, **d_logs})

  def decode(variables, z, labels):
    net = types.Net(None, variables['batch_stats'], None)
    images, _ = _call(generator, net, variables['params'], z, labels,
                      train=statistics == 'batch')
    return images.astype(jnp.float32)

  def sample(variables, key, labels, given=None):
    """Images of the averaged generator; `labels` should be mixed."""
    del given  # This model starts from noise.
    return decode(variables, draw(key, (labels.shape[0], z_dim), True), labels)

  @jax.jit
  def standing(ema):
    """Batch norm's averages taken anew, over batches of all classes."""
    def again(i, stats):
      labels = (i * _STANDING_BATCH + jnp.arange(_STANDING_BATCH)) % (
          spec.num_classes)
      z = draw(jax.random.fold_in(jax.random.key(0), i),
               (_STANDING_BATCH, z_dim))
      net = types.Net(None, stats, None)
      return _call(generator, net, ema['params'], z, labels)[1]
    return ema | {'batch_stats': jax.lax.fori_loop(
        0, _STANDING, again, ema['batch_stats'])}

  def variables(state):
    return standing(state.ema) if statistics == 'standing' else state.ema

  def parameters(state):
    return {name: sum(x.size for x in jax.tree.leaves(net.params))
            for name, net in (('g', state.g), ('d', state.d))}

  return types.GenerativeModel(init, step, variables, sample, parameters,
                               d_steps, decode, z_dim)
