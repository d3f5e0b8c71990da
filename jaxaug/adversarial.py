"""The two-player rule: a generator and a discriminator become a model.

Alternating updates (Goodfellow et al. 2014, algorithm 1) with an averaged
generator. Every GAN of `generators/` goes through here.
"""
import jax
import jax.numpy as jnp
import optax

import jaxaug.augment
from jaxaug import errors, losses, types


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


def make(spec: types.ImageSpec, generator, discriminator, *, z_dim: int,
         loss: str = 'hinge', label_smoothing: float = 1.0, d_steps: int = 1,
         fresh_fakes: bool = True, g_lr: float = 2e-4, d_lr: float = 2e-4,
         b1: float = 0.0, b2: float = 0.999, ema_decay: float = 0.999,
         mirror: bool = False, statistics: str = 'running',
         diff_augment: str = '', diff_augment_fill: float = 0.0,
         ) -> types.GenerativeModel:
  """Returns the generative model of two players.

  Args:
    spec: what the images are.
    generator: flax module (z [B, z_dim], labels [B], train) -> [B, H, W, C] in
      [-1, 1].
    discriminator: flax module (images, labels, train) -> raw scores [B].
    z_dim: size of the standard normal noise.
    loss: 'hinge' or 'non_saturating'.
    label_smoothing: D's target for real images; 1.0 for none.
    d_steps: updates of D for one of G; each eats a batch of its own.
    fresh_fakes: False lets G learn from the fakes that the last D update saw
      (scored anew by the updated D), which saves one pass through G.
    g_lr, d_lr, b1, b2: Adam's.
    ema_decay: of the averaged generator, weights and statistics alike; it is
      warmed up as min(decay, (1 + t) / (10 + t)).
    mirror: flips half of the real images, for sets where that keeps the class.
    statistics: batch norm of `sample`: 'running' averages, or 'batch'.
    diff_augment: policy of DiffAugment, on real and fake images alike: some of
      'color,translation,cutout', or '' for none.
    diff_augment_fill: value of the pixels that it vacates; -1 on black ground.

  Raises:
    InputError: an unknown loss or statistics, or d_steps below 1.
  """
  adversarial = losses.find(loss, label_smoothing)
  errors.count('d_steps', d_steps)
  for name, rate in (('g_lr', g_lr), ('d_lr', d_lr)):
    errors.positive(name, rate)
  for name, share in (('b1', b1), ('b2', b2)):
    errors.between(name, share, 0, 1, below=True)
  errors.between('ema_decay', ema_decay, 0, 1)
  errors.one_of('statistics', statistics, ('running', 'batch'))
  errors.between('diff_augment_fill', diff_augment_fill, -1, 1)
  augment = jaxaug.augment.diff_augment(
      diff_augment, fill=diff_augment_fill, where='diff_augment')
  g_tx, d_tx = optax.adam(g_lr, b1, b2), optax.adam(d_lr, b1, b2)

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
    return types.GanState(jnp.int32(0), g, d, ema)

  def fakes(key, g, params, labels):
    z = jax.random.normal(key, (labels.shape[0], z_dim))
    return _call(generator, g, params, z, labels)

  def d_update(d, image, label, fake, key):
    key_flip, key_aug, key_drop = jax.random.split(key, 3)
    real = jaxaug.augment.to_float(image)
    if mirror:
      real = _mirror(key_flip, real)
    # One call for both sides, so that they share the batch's treatment.
    both = augment(key_aug, jnp.concatenate([real, fake.astype(real.dtype)]))
    def d_loss(params):
      scores, stats = _call(discriminator, d, params, both,
                            jnp.tile(label, 2), key=key_drop)
      on_real, on_fake = jnp.split(scores.astype(jnp.float32), 2)
      value = adversarial.discriminator(on_real, on_fake)
      logs = {'d_loss': value, **losses.accuracies(on_real, on_fake)}
      return value, (stats, logs)
    grads, (stats, logs) = jax.grad(d_loss, has_aux=True)(d.params)
    return _update(d_tx, d, stats, grads), logs

  def d_step(g, d, image, label, key):
    """One update of D on fakes of its own."""
    key_z, key_d = jax.random.split(key)
    fake, stats = fakes(key_z, g, g.params, label)
    d, logs = d_update(d, image, label, jax.lax.stop_gradient(fake), key_d)
    return g._replace(stats=stats), d, logs

  def step(state, batch, key):
    """One update of G after `d_steps` updates of D; see GenerativeModel."""
    key = jax.random.fold_in(key, state.step)
    key_d, key_g, key_aug, key_drop = jax.random.split(key, 4)
    keys = jax.random.split(key_d, d_steps)
    g, d = state.g, state.d
    own = d_steps if fresh_fakes else d_steps - 1
    if own > 1:
      def body(carry, xs):
        *carry, logs = d_step(*carry, *xs)
        return tuple(carry), logs
      xs = (batch['image'][:own], batch['label'][:own], keys[:own])
      (g, d), logs = jax.lax.scan(body, (g, d), xs)
      d_logs = jax.tree.map(lambda x: x[-1], logs)
    elif own == 1:
      g, d, d_logs = d_step(g, d, batch['image'][0], batch['label'][0],
                            keys[0])

    label = batch['label'][-1]
    # The pass through G is recorded, so that its fakes can serve D first.
    fake, pull, stats = jax.vjp(lambda p: fakes(key_g, g, p, label),
                                g.params, has_aux=True)
    if not fresh_fakes:
      d, d_logs = d_update(d, batch['image'][-1], label, fake, keys[-1])
    def g_loss(fake):
      scores, _ = _call(discriminator, d, d.params, augment(key_aug, fake),
                        label, key=key_drop)
      return adversarial.generator(scores.astype(jnp.float32))
    value, cotangent = jax.value_and_grad(g_loss)(fake)
    g = _update(g_tx, g, stats, *pull(cotangent))

    t = state.step.astype(jnp.float32)
    decay = jnp.minimum(ema_decay, (1 + t) / (10 + t))
    ema = optax.incremental_update({'params': g.params, 'batch_stats': g.stats},
                                   state.ema, 1 - decay)
    return (types.GanState(state.step + 1, g, d, ema),
            {'g_loss': value, **d_logs})

  def sample(variables, key, labels, given=None):
    """Images of the averaged generator; `labels` should be mixed."""
    del given  # This model starts from noise.
    z = jax.random.normal(key, (labels.shape[0], z_dim))
    net = types.Net(None, variables['batch_stats'], None)
    images, _ = _call(generator, net, variables['params'], z, labels,
                      train=statistics == 'batch')
    return images.astype(jnp.float32)

  def parameters(state):
    return {name: sum(x.size for x in jax.tree.leaves(net.params))
            for name, net in (('g', state.g), ('d', state.d))}

  return types.GenerativeModel(init, step, lambda state: state.ema, sample,
                               parameters, d_steps)
