"""A generator and a discriminator become a generative model.

Every GAN of `generators/` goes through `make`. step.py has the two-player rule;
each of its parts is made by a function of its own, and they meet here.
"""
import functools
import math

import jax
import jax.numpy as jnp

from jaxaug.core import errors, registry, types
from jaxaug.generators.gan import (
  augmentation,
  losses,
  noise,
  optimizers,
  regularisation,
  step,
  turns,
)
from jaxaug.training import ema

# Batches over which batch norm's averages are taken anew, where they are.
_STANDING, _STANDING_BATCH = 32, 64
# What makes the parts of the rule. Their arguments are what the config of a GAN
# may say beside those of `make`.
PARTS = (optimizers.make, *regularisation.ALL, *augmentation.ALL, noise.make,
         losses.make, losses.classes, turns.turns, turns.balance, turns.top_k)


def make(spec: types.ImageSpec, generator, discriminator, condition=None,
         pairs: bool = False, *, ema_decay: float = 0.999, ema_start: int = 0,
         mirror: bool = False, quarter_turns: bool = False,
         statistics: str = 'running', **options: PARTS,
         ) -> types.GenerativeModel:
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
    pairs: whether batches are pairs of real images of one class, [D, 2, B, H,
      W, C] and labels [D, 2, B]: the generator starts from the first, as with
      `condition`, and the second is the real one beside the fake; the
      discriminator sees the first too, (images, labels, given, train). Of one
      batch more than `d_steps` the last is the generator's own.
    ema_decay: of the averaged generator, weights and statistics alike; warmed
      up as min(decay, (1 + t) / (10 + t)),
    ema_start: or a copy of the generator before this step, if it is not 0.
    mirror: flips half of the real images, for sets where that keeps the class.
    quarter_turns: turns half of the real images by none to three quarters, for
      such sets of square images. Both of a pair are posed alike.
    statistics: batch norm of `sample`: 'running' averages, those of the
      'batch', or 'standing', averages taken anew by the averaged weights.
    **options: see PARTS; `z_dim`, the size of the noise, has no default.

  Raises:
    InputError: a value that cannot be.
  """
  errors.one_of('statistics', statistics, ('running', 'batch', 'standing'))
  errors.one_of('mirror', mirror, (False, True))
  errors.one_of('quarter_turns', quarter_turns, (False, True))
  if quarter_turns and spec.height != spec.width:
    raise errors.InputError(
        f'quarter_turns: True; expected False for images of {spec.height}x'
        f'{spec.width}, which are not square, see config.data.resize.')
  if (condition or pairs) and statistics == 'standing':
    raise errors.InputError(
        "statistics: 'standing' draws from noise alone, which this model does "
        "not; expected 'running' or 'batch'.")
  rule = _rule(generator, discriminator, condition, pairs, options,
               mirror=mirror, quarter_turns=quarter_turns,
               average=ema.make(ema_decay, ema_start))
  standing = jax.jit(functools.partial(_standing, rule, spec.num_classes))
  def variables(state):
    return standing(state.ema) if statistics == 'standing' else state.ema
  decode = functools.partial(_decode, rule, statistics == 'batch')
  return types.GenerativeModel(
      functools.partial(_init, rule, spec),
      functools.partial(step.step, rule), variables,
      functools.partial(_sample, rule, decode), _parameters,
      rule.turns.d_steps, decode, rule.noise.size, noise=rule.noise.kind,
      critic=None if pairs else types.Critic(
          lambda state: {'params': state.d.params,
                         'batch_stats': state.d.stats},
          functools.partial(_score, rule.discriminator)))


def _rule(generator, discriminator, condition, pairs, options: dict,
          **own) -> step.Rule:
  """The rule, from the flat keys of a config; what excludes what is here."""
  stray = options.keys() - registry.arguments(make).keys()
  if stray:
    raise TypeError(f'gan.make() takes no {", ".join(sorted(stray))}.')
  def of(part):
    takes = registry.arguments(part)
    return part(**{k: v for k, v in options.items() if k in takes})
  rule = step.Rule(
      generator, discriminator, condition, pairs, noise=of(noise.make),
      augmentations=tuple(filter(None, map(of, augmentation.ALL))),
      loss=of(losses.make), class_loss=of(losses.classes),
      regularisers=tuple(filter(None, map(of, regularisation.ALL))),
      turns=of(turns.turns), balance=of(turns.balance), top_k=of(turns.top_k),
      optimizers=of(optimizers.make), **own)
  if options.get('balance') == 'margin' and rule.loss.name != 'non_saturating':
    raise errors.InputError(
        f"balance: 'margin' has limits of a cross-entropy, and the loss is "
        f"{rule.loss.name!r}; expected loss 'non_saturating', or 'behind'.")
  for name in 'consistency', 'consistency_on_fakes':
    if options.get(name) and not rule.augmentations:
      raise errors.InputError(
          f'{name}: {options[name]}; expected 0, or some diff_augment or ada '
          'for scores to be consistent under.')
  return rule


def _init(rule, spec, key):
  """The state before the first step."""
  labels = jnp.zeros((1,), jnp.int32)
  image = jnp.zeros((1, spec.height, spec.width, spec.channels))
  def net(module, tx, key, *args):
    variables = module.init(key, *args, train=False)
    params = variables['params']
    return types.Net(params, variables.get('batch_stats', {}), tx.init(params))
  key_g, key_d = jax.random.split(key)
  given = step.given(rule, image)
  g = net(rule.generator, rule.optimizers.g, key_g,
          jnp.zeros((1, rule.noise.size)), labels, *given)
  d = net(rule.discriminator, rule.optimizers.d, key_d, image, labels,
          *(given if rule.pairs else ()))
  # A copy: the state is donated, and one buffer cannot be donated twice.
  average = jax.tree.map(jnp.copy, {'params': g.params, 'batch_stats': g.stats})
  control = {}
  for part in (*rule.augmentations, *rule.regularisers):
    control |= part.start()
  return types.GanState(jnp.int32(0), g, d, average, control)


def _decode(rule, by_batch, variables, z, labels, given=None):
  """Images of noise; by the statistics of their batch, or by the averages."""
  net = types.Net(variables['params'], variables['batch_stats'], None)
  start = (given,) if rule.condition or rule.pairs else ()
  images, _ = step.call(rule.generator, net, z, labels, *start, train=by_batch)
  return images.astype(jnp.float32)


def _score(discriminator, variables, images, labels):
  """D's scores by the averages of its norms, float32 [B]."""
  net = types.Net(variables['params'], variables['batch_stats'], None)
  out, _ = step.call(discriminator, net, images, labels, train=False)
  return (out[0] if isinstance(out, tuple) else out).astype(jnp.float32)


def _sample(rule, decode, variables, key, labels, given=None, *,
            truncation: float | None = None, spread: float = 1.0):
  """Images of the averaged generator; `labels` should be mixed.

  Args:
    variables, key, labels, given: see types.GenerativeModel.
    truncation: noise beyond it is drawn again, which trades variety for
      fidelity (Brock et al. 2019); 0 for none, None for what the model has.
    spread: of the noise: above 1 for images that vary more.
  """
  if truncation is None:
    truncation = rule.noise.truncation
  errors.between('truncation', truncation, 0, math.inf)
  errors.positive('spread', spread)
  z = rule.noise.draw(key, labels.shape[0], truncation or math.inf)
  return decode(variables, z * spread if spread != 1 else z, labels, given)


def _standing(rule, classes, ema):
  """Batch norm's averages anew, over batches of all classes."""
  def one(i, stats):
    labels = (i * _STANDING_BATCH + jnp.arange(_STANDING_BATCH)) % classes
    z = rule.noise.draw(jax.random.fold_in(jax.random.key(0), i),
                        _STANDING_BATCH)
    net = types.Net(ema['params'], stats, None)
    return step.call(rule.generator, net, z, labels)[1]
  return ema | {'batch_stats': jax.lax.fori_loop(0, _STANDING, one,
                                                 ema['batch_stats'])}


def _parameters(state):
  """How many trainable numbers each player has."""
  return {name: sum(x.size for x in jax.tree.leaves(net.params))
          for name, net in (('g', state.g), ('d', state.d))}
