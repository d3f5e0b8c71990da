"""The two-player rule: a generator and a discriminator become a model.

Alternating updates (Goodfellow et al. 2014, algorithm 1) with an averaged
generator. Every GAN of `generators/` goes through here.
"""
import functools
import typing

import jax
import jax.numpy as jnp
import optax

from jaxaug.core import errors, types
from jaxaug.data import pixels
from jaxaug.generators.gan import losses, options
from jaxaug.training import ema

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


def _where(moves, new, old):
  return jax.tree.map(functools.partial(jnp.where, moves), new, old)


def _mirror(key, images):
  """Flips half of the images left to right."""
  flip = jax.random.bernoulli(key, shape=(images.shape[0], 1, 1, 1))
  return jnp.where(flip, images[:, :, ::-1], images)


class _Real(typing.NamedTuple):
  """What an update of D knows of real images."""
  images: jax.Array      # Float [B, H, W, C].
  labels: jax.Array      # int32 [B], of the fakes as well.
  given: tuple           # What G starts from beside noise; () for nothing.


class _Scores(typing.NamedTuple):
  """What D says of real and of generated images, float32."""
  real: jax.Array        # [B].
  fake: jax.Array        # [B].
  classes: tuple | None  # Logits [B, K] of both, or None.


class _Classes(typing.NamedTuple):
  """The auxiliary classifier (AC-GAN)."""
  weight: float
  on_fakes: bool

  def loss(self, logits, labels):
    """Cross-entropy of D's class logits, float32 []."""
    if logits is None:
      raise errors.InputError(
          f'class_loss: {self.weight}; expected 0, for this discriminator '
          'has no class logits.')
    return optax.softmax_cross_entropy_with_integer_labels(
        logits, labels).mean()


def _discriminator(module):
  """Returns look(d, params, images, labels, key) -> (scores, logits, stats).

  Scores float32 [B]; logits float32 [B, K] or None.
  """
  def look(d, params, images, labels, key):
    out, stats = _call(module, d, params, images, labels, key=key)
    scores, logits = out if isinstance(out, tuple) else (out, None)
    return (scores.astype(jnp.float32),
            None if logits is None else logits.astype(jnp.float32), stats)

  def both(d, params, shown, labels, key, separate):
    """Looks at images [2B, H, W, C], real ones first; (_Scores, statistics)."""
    if separate:
      real, fake = jnp.split(shown, 2)
      of_real, real_logits, stats = look(d, params, real, labels, key)
      of_fake, fake_logits, stats = look(d._replace(stats=stats), params, fake,
                                         labels, jax.random.fold_in(key, 1))
      logits = None if real_logits is None else (real_logits, fake_logits)
      return _Scores(of_real, of_fake, logits), stats
    scores, logits, stats = look(d, params, shown, jnp.tile(labels, 2), key)
    return _Scores(*jnp.split(scores, 2), None if logits is None else
                   tuple(jnp.split(logits, 2))), stats
  return look, both


def _d_player(look, both, tx, adversarial, augment, regular, classes, moves,
              separate):
  """Returns update(d, control, step, real, fake, key) -> d, control, logs."""
  def objective(params, d, control, step, shown, real, fake, keys):
    """D's loss; (new statistics, scores, logs)."""
    key_aug, key_drop, key_extra = keys
    labels = real.labels
    scores, stats = both(d, params, shown, labels, key_drop, separate)
    value = source = adversarial.discriminator(scores.real, scores.fake)
    logs = losses.accuracies(scores.real, scores.fake, adversarial.threshold)
    if classes.weight:
      of_real, of_fake = scores.classes or (None, None)
      part = classes.loss(of_real, labels)
      if classes.on_fakes:
        part = (part + classes.loss(of_fake, labels)) / 2
      value += classes.weight * part
      logs |= {'d_source_loss': source, 'd_class_loss': part}
    def plain(images):
      return look(d, params, images, labels, key_drop)[0]
    value += regular.loss(
        key_extra, step, control,
        lambda images: plain(augment.apply(key_aug, images, control)), plain,
        real.images, fake, scores.real, scores.fake)
    return value, (stats, scores, {'d_loss': value, **logs})

  def update(d, control, step, real, fake, key):
    _, key_aug, key_drop = jax.random.split(key, 3)
    fake = fake.astype(real.images.dtype)
    # One call for both sides, so that they share the batch's treatment.
    shown = augment.apply(key_aug, jnp.concatenate([real.images, fake]),
                          control)
    grads, (stats, scores, logs) = jax.grad(objective, has_aux=True)(
        d.params, d, control, step, shown, real, fake,
        (key_aug, key_drop, jax.random.fold_in(key, 3)))
    moved = _update(tx, d, stats, grads)
    if moves:
      d_moves, g_moves = moves(adversarial.parts(scores.real, scores.fake),
                               adversarial.generator(scores.fake))
      moved = _where(d_moves, moved, d)
      logs |= {'d_moves': d_moves.astype(jnp.float32),
               'g_moves': g_moves.astype(jnp.float32)}
    control = regular.after(control, step, scores.real, scores.fake)
    control = augment.after(control, len(real.images),
                            scores.real - adversarial.threshold)
    if 'ada' in control:
      logs |= {'ada_p': control['ada'].p}
    return moved, control, logs
  return update


def _g_loss(look, adversarial, augment, classes, ranking):
  """Returns loss(fake, d, control, step, labels, key_aug, key_drop)."""
  def loss(fake, d, control, step, labels, key_aug, key_drop):
    scores, logits, _ = look(d, d.params, augment.apply(key_aug, fake, control),
                             labels, key_drop)
    value = source = adversarial.generator(scores, ranking(step, scores))
    logs = {}
    if classes.weight:
      part = classes.loss(logits, labels)
      value += classes.weight * part
      logs = {'g_source_loss': source, 'g_class_loss': part}
    return value, logs | {'g_loss': value}
  return loss


def _alternate(fakes, d_update, g_loss, g_tx, average, reality, d_steps,
               fresh_fakes):
  """Returns the model's step: G moves once after `d_steps` updates of D."""
  own = d_steps if fresh_fakes else d_steps - 1

  def d_step(g, d, control, step, image, labels, key):
    """One update of D on fakes of its own."""
    key_z, key_d = jax.random.split(key)
    real = reality(image, labels, key_d)
    fake, stats = fakes(key_z, g, g.params, labels, real.given)
    d, control, logs = d_update(d, control, step, real,
                                jax.lax.stop_gradient(fake), key_d)
    return g._replace(stats=stats), d, control, logs

  def d_steps_alone(g, d, control, step, batch, keys):
    """All of those updates; (g, d, control, logs of the last)."""
    xs = batch['image'], batch['label'], keys
    if own < 2:
      return d_step(g, d, control, step, *(x[0] for x in xs)) if own else (
          g, d, control, {})
    def body(carry, xs):
      *carry, logs = d_step(*carry, step, *xs)
      return tuple(carry), logs
    carry, logs = jax.lax.scan(body, (g, d, control),
                               jax.tree.map(lambda x: x[:own], xs))
    return *carry, jax.tree.map(lambda x: x[-1], logs)

  def step(state, batch, key):
    """One update of G after `d_steps` updates of D; see GenerativeModel."""
    key = jax.random.fold_in(key, state.step)
    key_d, key_g, key_aug, key_drop = jax.random.split(key, 4)
    keys = jax.random.split(key_d, d_steps)
    g, d, control, d_logs = d_steps_alone(
        state.g, state.d, state.control, state.step, batch, keys)

    key_last = jax.random.split(keys[-1])[1] if fresh_fakes else keys[-1]
    real = reality(batch['image'][-1], batch['label'][-1], key_last)
    # The pass through G is recorded, so that its fakes can serve D first.
    fake, pull, stats = jax.vjp(
        lambda p: fakes(key_g, g, p, real.labels, real.given), g.params,
        has_aux=True)
    if not fresh_fakes:
      d, control, d_logs = d_update(d, control, state.step, real, fake,
                                    key_last)
    cotangent, g_logs = jax.grad(g_loss, has_aux=True)(
        fake, d, control, state.step, real.labels, key_aug, key_drop)
    moved = _update(g_tx, g, stats, *pull(cotangent))
    if 'g_moves' in d_logs:
      moved = _where(d_logs['g_moves'] > 0, moved, state.g)
    return (types.GanState(state.step + 1, moved, d,
                           average(state.ema, moved, state.step), control),
            {**g_logs, **d_logs})
  return step


def _standing(generator, draw, z_dim, classes):
  """Returns again(ema): batch norm's averages, over batches of all classes."""
  @jax.jit
  def again(ema):
    def one(i, stats):
      labels = (i * _STANDING_BATCH + jnp.arange(_STANDING_BATCH)) % classes
      z = draw(jax.random.fold_in(jax.random.key(0), i),
               (_STANDING_BATCH, z_dim))
      net = types.Net(None, stats, None)
      return _call(generator, net, ema['params'], z, labels)[1]
    return ema | {'batch_stats': jax.lax.fori_loop(0, _STANDING, one,
                                                   ema['batch_stats'])}
  return again


def make(spec: types.ImageSpec, generator, discriminator, condition=None, *,
         z_dim: int, loss: str = 'hinge', label_smoothing: float = 1.0,
         d_steps: int = 1, fresh_fakes: bool = True,
         separate_passes: bool = False, noise: str = 'normal',
         truncation: float = 0.0, class_loss: float = 0.0,
         class_on_fakes: bool = True, balance: str = 'none',
         top_k: float = 1.0, top_k_gamma: float = 0.99,
         top_k_every: int = 1000, ema_decay: float = 0.999,
         ema_start: int = 0, mirror: bool = False, statistics: str = 'running',
         **more: options.augmentation) -> types.GenerativeModel:
  """Returns the generative model of two players.

  Args:
    spec: what the images are.
    generator: flax module (z [B, z_dim], labels [B], train) -> [B, H, W, C] in
      [-1, 1].
    discriminator: flax module (images, labels, train) -> raw scores [B], or
      (scores [B], logits [B, K] of the classes) for an auxiliary classifier.
    condition: real images, float [B, H, W, C] -> what the generator starts
      from beside noise, such as the images blurred; it is called (z, labels,
      given, train) then, and `sample` and `decode` need `given`.
    z_dim: size of the noise.
    loss: 'hinge', 'non_saturating', 'least_squares' or 'wasserstein'.
    label_smoothing: D's target for real images; 1.0 for none.
    d_steps: updates of D for one of G; each eats a batch of its own.
    fresh_fakes: False lets G learn from the fakes that the last D update saw
      (scored anew by the updated D), which saves one pass through G.
    separate_passes: D sees real and generated images one after the other, so
      that its batch norm has statistics of each; else together.
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
    **more: see options.augmentation.

  Raises:
    InputError: a value that cannot be.
  """
  adversarial = losses.find(loss, label_smoothing)
  errors.count('d_steps', d_steps)
  errors.between('class_loss', class_loss, 0, float('inf'))
  errors.one_of('statistics', statistics, ('running', 'batch', 'standing'))
  if condition and statistics == 'standing':
    raise errors.InputError(
        "statistics: 'standing' draws from noise alone, which this model does "
        "not; expected 'running' or 'batch'.")
  draw = options.noise(noise, truncation)
  average = ema.make(ema_decay, ema_start)
  moves = options.resting(balance, loss)
  ranking = options.ranking(top_k, top_k_gamma, top_k_every)
  augment, regular, (g_tx, d_tx) = options.augmentation(**more)
  classes = _Classes(class_loss, class_on_fakes)
  standing = _standing(generator, draw, z_dim, spec.num_classes)

  def start(images):
    return (condition(images),) if condition else ()

  def init(key):
    key_g, key_d = jax.random.split(key)
    labels = jnp.zeros((1,), jnp.int32)
    image = jnp.zeros((1, spec.height, spec.width, spec.channels))
    def net(module, tx, key, *args):
      variables = module.init(key, *args, train=False)
      params = variables['params']
      return types.Net(params, variables.get('batch_stats', {}),
                       tx.init(params))
    g = net(generator, g_tx, key_g, jnp.zeros((1, z_dim)), labels,
            *start(image))
    d = net(discriminator, d_tx, key_d, image, labels)
    # A copy: the state is donated, and one buffer cannot be donated twice.
    ema = jax.tree.map(jnp.copy, {'params': g.params, 'batch_stats': g.stats})
    return types.GanState(jnp.int32(0), g, d, ema,
                          augment.start() | regular.start())

  def reality(image, labels, key):
    """Real images as D sees them; `key` is that of D's update."""
    if not jnp.issubdtype(image.dtype, jnp.floating):
      image = pixels.to_float(image)
    if mirror:
      image = _mirror(jax.random.split(key, 3)[0], image)
    return _Real(image, labels, start(image))

  def fakes(key, g, params, labels, given):
    z = draw(key, (labels.shape[0], z_dim))
    return _call(generator, g, params, z, labels, *given)

  look, both = _discriminator(discriminator)
  step = _alternate(
      fakes, _d_player(look, both, d_tx, adversarial, augment, regular, classes,
                       moves, separate_passes),
      _g_loss(look, adversarial, augment, classes, ranking), g_tx, average,
      reality, d_steps, fresh_fakes)

  def decode(variables, z, labels, given=None):
    net = types.Net(None, variables['batch_stats'], None)
    images, _ = _call(generator, net, variables['params'], z, labels,
                      *([given] if condition else []),
                      train=statistics == 'batch')
    return images.astype(jnp.float32)

  def sample(variables, key, labels, given=None):
    """Images of the averaged generator; `labels` should be mixed."""
    return decode(variables, draw(key, (labels.shape[0], z_dim), True), labels,
                  given)

  def variables(state):
    return standing(state.ema) if statistics == 'standing' else state.ema

  def parameters(state):
    return {name: sum(x.size for x in jax.tree.leaves(net.params))
            for name, net in (('g', state.g), ('d', state.d))}

  return types.GenerativeModel(init, step, variables, sample, parameters,
                               d_steps, decode, z_dim, noise=noise)
