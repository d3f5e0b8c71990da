"""GANs that begin as an autoencoder: what several of them share.

Mariani et al. 2018 (arXiv 1803.09655), section 3; Huang and Jafari 2021. The
generator is the decoder from the first step on, so that one state serves both
phases of a training.
"""
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxaug.core import errors, types
from jaxaug.data import mixing, pixels
from jaxaug.generators.gan import optimizers, step

# Images that the encoder sees at once where it looks at all of them.
_CHUNK = 256


class State(typing.NamedTuple):
  """All that a training must remember."""
  step: jax.Array        # int32 [], counts through both phases.
  encoder: types.Net
  g: types.Net           # In the first phase the decoder.
  d: types.Net
  ema: typing.Any        # {'params', 'batch_stats'} of the averaged generator.
  latents: dict          # What is known of each class's; {} for nothing.


class Optimizers(typing.NamedTuple):
  """Of encoder and decoder, then of each player."""
  autoencoder: optax.GradientTransformation
  g: optax.GradientTransformation
  d: optax.GradientTransformation


class Rule(typing.NamedTuple):
  """What such a training goes by, but for the second phase's step.

  The networks are flax modules.
  """
  spec: types.ImageSpec
  z_dim: int
  encoder: typing.Any        # (images, train) -> latents float32 [B, Z].
  generator: typing.Any      # (latents, labels, train) -> images.
  discriminator: typing.Any  # (images, labels, train).
  first: int                 # Steps of the autoencoder.
  optimizers: Optimizers
  error: typing.Callable     # Differences of pixels -> [].
  average: typing.Callable   # Of G, see training/ema.py.


def first_steps(steps: int, autoencoder_steps: int | None,
                share: float) -> int:
  """Returns how many steps of a training are the autoencoder's.

  Args:
    steps: of the whole training.
    autoencoder_steps: of the autoencoder; None for `share` of all.

  Raises:
    InputError: no step would be left for one of the phases.
  """
  errors.count('steps', steps, least=2)
  if autoencoder_steps is None:
    return min(max(round(share * steps), 1), steps - 1)
  errors.count('autoencoder_steps', autoencoder_steps)
  if autoencoder_steps >= steps:
    raise errors.InputError(
        f'autoencoder_steps: {autoencoder_steps}; expected fewer than the '
        f'{steps} steps of the whole training.')
  return autoencoder_steps


def adam(autoencoder_lr: float, g_lr: float, d_lr: float, b1: float,
         b2: float) -> Optimizers:
  """Returns Adam for all.

  Raises:
    InputError: a value that cannot be.
  """
  errors.positive('autoencoder_lr', autoencoder_lr)
  players = optimizers.make(g_lr=g_lr, d_lr=d_lr, b1=b1, b2=b2)
  return Optimizers(optax.adam(autoencoder_lr, b1, b2), *players)


def feed(spec: types.ImageSpec, least: int, why: str):
  """Returns the feed of shuffled epochs, see types.GenerativeModel.

  It refuses a class of fewer than `least` images; `why` says what for.
  """
  def make(labels, class_names, batch_size, seed):
    counts = np.bincount(labels, minlength=spec.num_classes)
    for label in np.flatnonzero(counts < least):
      named = label < len(class_names)
      name = repr(class_names[label]) if named else label
      raise errors.InputError(
          f'model: training images of class {name}: {counts[label]}; expected '
          f'at least {least} of each class, {why}.')
    return mixing.epochs(len(labels), batch_size, seed)
  return make


def init(rule: Rule, key) -> State:
  """The state before the first step, without latents."""
  labels = jnp.zeros((1,), jnp.int32)
  image, z = jnp.zeros((1, *rule.spec[:3])), jnp.zeros((1, rule.z_dim))
  def net(module, tx, key, *args):
    variables = module.init(key, *args, train=False)
    params = variables['params']
    return types.Net(params, variables.get('batch_stats', {}), tx.init(params))
  key_encoder, key_g, key_d = jax.random.split(key, 3)
  g = net(rule.generator, rule.optimizers.autoencoder, key_g, z, labels)
  return State(
      jnp.int32(0),
      net(rule.encoder, rule.optimizers.autoencoder, key_encoder, image), g,
      net(rule.discriminator, rule.optimizers.d, key_d, image, labels),
      _copy({'params': g.params, 'batch_stats': g.stats}), {})


def _copy(tree):
  # The state is donated, and one buffer cannot be donated twice.
  return jax.tree.map(jnp.copy, tree)


def autoencode(rule: Rule, state: State, batch: dict, key):
  """The first phase's step: one update of encoder and decoder."""
  images, labels = pixels.to_float(batch['image'][0]), batch['label'][0]
  dropout = jax.random.fold_in(key, state.step)
  def loss(params):
    encoder, g = (net._replace(params=own) for net, own in zip(
        (state.encoder, state.g), params, strict=True))
    codes, _ = step.call(rule.encoder, encoder, images, key=dropout)
    made, stats = step.call(rule.generator, g, codes, labels)
    return rule.error(made - images), stats
  (value, stats), (for_encoder, for_g) = jax.value_and_grad(
      loss, has_aux=True)((state.encoder.params, state.g.params))
  tx = rule.optimizers.autoencoder
  encoder = step.update(tx, state.encoder, state.encoder.stats, for_encoder)
  g = step.update(tx, state.g, stats, for_g)
  return state._replace(
      step=state.step + 1, encoder=encoder, g=g,
      ema=rule.average(state.ema, g, state.step)), {'ae_loss': value}


def begin(rule: Rule, state: State, trunk: bool) -> State:
  """The second phase's start: new optimizers, and a new average of G.

  Args:
    trunk: whether D takes over the encoder's layers that have names of its own.
  """
  g = state.g._replace(opt=rule.optimizers.g.init(state.g.params))
  params = state.d.params
  if trunk:
    params = params | _copy({
        name: layer for name, layer in state.encoder.params.items()
        if name in params})
  return state._replace(
      g=g, d=state.d._replace(params=params),
      ema=_copy({'params': g.params, 'batch_stats': g.stats}))


def encode(rule: Rule, net: types.Net, images):
  """Latents float32 [N, Z] of all images, uint8 [N, H, W, C]; no dropout."""
  def one(image):
    codes, _ = step.call(rule.encoder, net, pixels.to_float(image)[None],
                         train=False)
    return codes[0]
  return jax.lax.map(one, images, batch_size=_CHUNK)


def after(rule: Rule, state: State, g: types.Net, d: types.Net) -> State:
  """The state after a step of the second phase."""
  since = jnp.maximum(state.step - rule.first, 0)
  return state._replace(step=state.step + 1, g=g, d=d,
                        ema=rule.average(state.ema, g, since))


def parameters(state: State) -> dict[str, int]:
  """How many trainable numbers each network has."""
  return {name: sum(x.size for x in jax.tree.leaves(net.params)) for name, net
          in (('encoder', state.encoder), ('g', state.g), ('d', state.d))}
