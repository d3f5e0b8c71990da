"""BAGAN-GP: a balancing GAN with labels in its latents and a gradient penalty.

Huang and Jafari 2021, "Enhanced balancing GAN: minority-class image
generation"; layers and settings are those of the authors' code. An autoencoder
whose latents are multiplied by an embedding of the label learns from all
images; embedding and decoder become the generator. The discriminator also
learns that a real image of another class is none of this one.
"""
import math
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxaug.core import errors, types
from jaxaug.data import pixels
from jaxaug.generators.gan import losses, penalties, pretraining
from jaxaug.generators.gan import step as gan_step
from jaxaug.nn import layers
from jaxaug.training import ema

_N02 = nn.initializers.normal(0.02)
_GLOROT = nn.initializers.glorot_uniform()


def _around_zero(key, shape, dtype=jnp.float32):
  """The code's embeddings start uniform, at most 0.05 from 0."""
  return nn.initializers.uniform(0.1)(key, shape, dtype) - 0.05


def _dense(features: int, dtype, **more):
  return nn.Dense(features, dtype=dtype, kernel_init=_GLOROT, **more)


def _down(width: int, dtype, **more):
  return layers.Conv(width, (4, 4), strides=(2, 2), dtype=dtype,
                     kernel_init=_N02, **more)


def _act(x):
  return nn.leaky_relu(x, 0.2)


class Encoder(nn.Module):
  """images [B, H, W, C] -> latents float32 [B, Z]."""
  z_dim: int
  widths: tuple[int, ...]
  dtype: typing.Any

  @nn.compact
  def __call__(self, x, train: bool):
    x = x.astype(self.dtype)
    for i, width in enumerate(self.widths):
      x = _act(_down(width, self.dtype, name=f'conv_{i}')(x))
    return _act(_dense(self.z_dim, jnp.float32,
                       name='latent')(x.reshape(len(x), -1)))


class Generator(nn.Module):
  """(latents [B, Z], labels [B]) -> images [B, H, W, C] in [-1, 1].

  The latents are multiplied by the label's embedding.
  """
  spec: types.ImageSpec
  widths: tuple[int, ...]  # The encoder's.
  dtype: typing.Any

  @nn.compact
  def __call__(self, z, labels, train: bool):
    first, *rest = reversed(self.widths)
    grid = *(n >> len(self.widths) for n in self.spec[:2]), first
    def up(x, features, name):
      return layers.ConvTranspose(features, (4, 4), strides=(2, 2),
                                  dtype=self.dtype, kernel_init=_N02,
                                  name=name)(x)
    z = z * nn.Embed(self.spec.num_classes, z.shape[-1], name='embed',
                     embedding_init=_around_zero)(labels)
    x = _act(_dense(math.prod(grid), self.dtype, name='dense')(z))
    x = x.reshape(-1, *grid)
    for i, width in enumerate(rest):
      # Keras's averages and epsilon.
      x = _act(layers.batch_norm(
          up(x, width, f'up_{i}'), train, self.dtype, momentum=0.99,
          epsilon=1e-3, name=f'norm_{i}'))
    x = up(x, self.spec.channels, 'image')
    return jnp.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
  """(images [B, H, W, C], labels [B]) -> raw scores [B] of the pair.

  The features of an image are multiplied by what a layer makes of the label.
  """
  spec: types.ImageSpec
  widths: tuple[int, ...]
  embed_dim: int
  hidden: int
  dtype: typing.Any

  def setup(self):
    spec, halvings = self.spec, len(self.widths)
    self.conv = [_down(width, self.dtype) for width in self.widths]
    self.embed = nn.Embed(spec.num_classes, self.embed_dim,
                          embedding_init=_around_zero)
    self.label = _dense((spec.height >> halvings) * (spec.width >> halvings)
                        * self.widths[-1], self.dtype)
    self.dense = _dense(self.hidden, self.dtype)
    self.score = _dense(1, jnp.float32)

  def __call__(self, images, labels, train: bool):
    return self.judge(self.features(images), labels)

  def features(self, images):
    """What is seen of images whatever their labels, [B, F]."""
    x = images.astype(self.dtype)
    for conv in self.conv:
      x = _act(conv(x))
    return x.reshape(len(x), -1)

  def judge(self, features, labels):
    """Scores [B] of features beside labels."""
    x = self.dense(features * _act(self.label(self.embed(labels))))
    return self.score(x)[:, 0]

  def three(self, real, fake, labels, asked, wrong):
    """Scores [B] of real images, of fakes, and of real ones by wrong labels."""
    seen = self.features(jnp.concatenate([real, fake]))
    scores = self.judge(jnp.concatenate([seen, seen[:len(real)]]),
                        jnp.concatenate([labels, asked, wrong]))
    return jnp.split(scores, (len(real), len(real) + len(fake)))


class Draws(typing.NamedTuple):
  """Where fakes, wrong labels and the penalty's images come from."""
  wrong: typing.Callable     # (key, labels [B]) -> labels of the same images.
  place: typing.Callable | None  # The penalty's, see penalties.
  weight: float              # Of the penalty.
  d_steps: int


def _other_label(classes):
  """Any class but the image's own."""
  def draw(key, labels):
    return (labels + jax.random.randint(key, labels.shape, 1,
                                        classes)) % classes
  return draw


def _any_label(classes):
  """Any class at all."""
  return lambda key, labels: jax.random.randint(key, labels.shape, 0, classes)


def _beyond(key, shape):
  """What is left of 1 by a standard normal share of the fake one."""
  return 1 - jax.random.normal(key, shape)


WRONG = {'other': _other_label, 'any': _any_label}
INTERPOLATIONS = {'uniform': None, 'normal': _beyond}  # See penalties.


class Keys(typing.NamedTuple):
  """The keys of one update of D."""
  labels: jax.Array
  noise: jax.Array
  wrong: jax.Array
  place: jax.Array


def _fakes(rule, g, count, key_labels, key_noise):
  """Returns (G's images, the classes that they were asked to be of, G's new
  statistics)."""
  labels = jax.random.randint(key_labels, (count,), 0, rule.spec.num_classes)
  z = jax.random.normal(key_noise, (count, rule.z_dim))
  images, stats = gan_step.call(rule.generator, g, z, labels)
  return images, labels, stats


def _update_d(rule, draws: Draws, g, d, real, labels, keys: Keys):
  """One update of D on new fakes; returns (G's new statistics, D, logs)."""
  fake, asked, stats = _fakes(rule, g, len(labels), keys.labels, keys.noise)
  wrong = draws.wrong(keys.wrong, labels)
  loss = losses.non_saturating()
  def value(params):
    def of(method, *args):
      return rule.discriminator.apply({'params': params}, *args, method=method)
    scores = of('three', real, fake, labels, asked, wrong)
    on_real, on_fake = loss.parts(scores[0], scores[1])
    _, on_wrong = loss.parts(scores[0], scores[2])
    penalty = jnp.float32(0)
    if draws.weight:
      penalty = penalties.gradient_penalty(
          keys.place, lambda x: of('judge', of('features', x), labels), real,
          fake, draw=draws.place)
    total = on_real + on_fake + on_wrong + draws.weight * penalty
    return total, {
        'd_loss': total, 'd_wrong_loss': on_wrong, 'd_penalty': penalty,
        **losses.accuracies(scores[0], scores[1], loss.threshold)}
  grads, logs = jax.grad(value, has_aux=True)(d.params)
  return stats, gan_step.update(rule.optimizers.d, d, d.stats, grads), logs


def adversarial(rule: pretraining.Rule, draws: Draws, state: pretraining.State,
                batch: dict, key):
  """The second phase's step: updates of D on one batch, then one of G.

  Fakes, wrong labels and the penalty's images are drawn anew for each.
  """
  key_d, key_labels, key_noise = jax.random.split(
      jax.random.fold_in(key, state.step), 3)
  real, labels = pixels.to_float(batch['image'][0]), batch['label'][0]
  def update(carry, keys):
    g, d = carry
    stats, d, logs = _update_d(rule, draws, g, d, real, labels, keys)
    return (g._replace(stats=stats), d), logs
  keys = jax.vmap(lambda key: Keys(*jax.random.split(key, 4)))(
      jax.random.split(key_d, draws.d_steps))
  carry = state.g, state.d
  if draws.d_steps == 1:  # One has no need of a loop.
    (g, d), logs = update(carry, jax.tree.map(lambda x: x[0], keys))
  else:
    (g, d), logs = jax.lax.scan(update, carry, keys)
    logs = jax.tree.map(lambda x: x[-1], logs)

  def g_loss(params):
    fake, asked, stats = _fakes(rule, g._replace(params=params), len(labels),
                                key_labels, key_noise)
    scores, _ = gan_step.call(rule.discriminator, d, fake, asked)
    return losses.non_saturating().generator(scores), stats
  (value, stats), grads = jax.value_and_grad(g_loss, has_aux=True)(g.params)
  g = gan_step.update(rule.optimizers.g, g, stats, grads)
  return pretraining.after(rule, state, g, d), logs | {'g_loss': value}


def _halvings(spec: types.ImageSpec) -> int:
  """How often images halve until the shorter side has 7 pixels or fewer."""
  spec.at_least(6, 'bagan_gp')
  short, count = min(spec.height, spec.width), 1
  while short >> count > 7:
    count += 1
  return count


def _widths(spec, widths) -> tuple[int, ...]:
  """The channels after each halving, checked."""
  if widths is None:
    inner = _halvings(spec) - 1
    return (64, *[128] * (inner - 1), *[256] * min(inner, 1))
  errors.counts('widths', widths)
  return tuple(widths)


def build(spec: types.ImageSpec, *, steps: int = 20_000,
          autoencoder_steps: int | None = None, z_dim: int = 128,
          widths: tuple[int, ...] | None = None, embed_dim: int = 512,
          hidden: int = 512, d_steps: int = 5, gradient_penalty: float = 10.0,
          interpolation: str = 'uniform', wrong_labels: str = 'other',
          share_trunk: bool = False, autoencoder_lr: float = 2e-4,
          g_lr: float = 2e-4, d_lr: float = 2e-4, b1: float = 0.5,
          b2: float = 0.9, ema_decay: float = 0.0,
          dtype: str = 'float32') -> types.GenerativeModel:
  """Returns the GAN; at 64 pixels by default the authors' networks.

  Args:
    spec: height and width must halve once for each of `widths`; two classes at
      least.
    steps: of the whole training; of a study, its block's.
    autoencoder_steps: of them, those of the autoencoder; None for 3 in 13, as
      it is trained for 30 epochs of 130.
    z_dim: number of latents.
    widths: channels of encoder and discriminator after each halving, those of
      the generator in reverse; None for halvings until the shorter side has 7
      pixels or fewer, with 64, 128 and at last 256: at 64 pixels (64, 128, 128,
      256).
    embed_dim: size of the discriminator's label embeddings.
    hidden: units of its layer before the last, which has no nonlinearity.
    d_steps: updates of the discriminator for one of the generator, all on one
      batch of real images.
    gradient_penalty: its weight; 0 for none.
    interpolation: where between a real image (0) and a fake one (1) the penalty
      looks: 'uniform', or 'normal' for a standard normal number, which may be
      beyond either, as the authors' code has it.
    wrong_labels: 'other' for any class but the image's, or 'any', which is
      right at times, as the authors' code has it.
    share_trunk: whether the discriminator starts with the encoder's
      convolutions.
    autoencoder_lr, g_lr, d_lr: learning rates of Adam.
    b1, b2: Adam's.
    ema_decay: of the averaged generator, weights and statistics alike, warmed
      up as min(decay, (1 + t) / (10 + t)) in each phase; 0 for no averaging.
    dtype: 'float32' or 'bfloat16', of the computation but for the last layers;
      weights are float32.

  Raises:
    InputError: a value that cannot be, or a size that does not halve.
  """
  for name, value in (('z_dim', z_dim), ('embed_dim', embed_dim),
                      ('hidden', hidden), ('d_steps', d_steps)):
    errors.count(name, value)
  errors.between('gradient_penalty', gradient_penalty, 0, math.inf)
  for name, value, known in (
      ('interpolation', interpolation, INTERPOLATIONS),
      ('wrong_labels', wrong_labels, WRONG),
      ('share_trunk', share_trunk, (False, True)),
      ('dtype', dtype, ('float32', 'bfloat16'))):
    errors.one_of(name, value, known)
  widths, dtype = _widths(spec, widths), jnp.dtype(dtype)
  if spec.height % 2**len(widths) or spec.width % 2**len(widths):
    raise errors.InputError(
        f'model: bagan_gp halves {spec.height}x{spec.width} images '
        f'{len(widths)} times, by its widths; expected a size divisible by '
        f'{2**len(widths)}, see config.data.resize.')
  if spec.num_classes < 2:
    raise errors.InputError(
        'model: bagan_gp learns from wrong labels, and the data has one class; '
        'expected two or more.')
  rule = pretraining.Rule(
      spec, z_dim, Encoder(z_dim, widths, dtype),
      Generator(spec, widths, dtype),
      Discriminator(spec, widths, embed_dim, hidden, dtype),
      pretraining.first_steps(steps, autoencoder_steps, share=3 / 13),
      pretraining.adam(autoencoder_lr, g_lr, d_lr, b1, b2),
      lambda difference: jnp.abs(difference).mean(), ema.make(ema_decay, 0))
  return _model(rule, share_trunk, Draws(
      WRONG[wrong_labels](spec.num_classes), INTERPOLATIONS[interpolation],
      gradient_penalty, d_steps))


def _model(rule, share_trunk, draws) -> types.GenerativeModel:
  """The functions of types.GenerativeModel."""
  def init(key):
    return pretraining.init(rule, key)

  def step(state, batch, key):
    return pretraining.autoencode(rule, state, batch, key)

  def begin(state, images, labels):
    del images, labels
    return pretraining.begin(rule, state, share_trunk)

  def second(state, batch, key):
    return adversarial(rule, draws, state, batch, key)

  def decode(variables, z, labels):
    """Images at `z` [B, z_dim], standard normal."""
    net = types.Net(variables['params'], variables['batch_stats'], None)
    images, _ = gan_step.call(rule.generator, net, z, labels, train=False)
    return images

  def sample(variables, key, labels, given=None):
    del given  # This model starts from noise.
    return decode(variables, jax.random.normal(
        key, (len(labels), rule.z_dim)), labels)

  return types.GenerativeModel(
      init, step, lambda state: state.ema, sample, pretraining.parameters,
      decode=decode, z_dim=rule.z_dim,
      phases=(types.Phase(rule.first, second, begin),),
      feed=pretraining.feed(rule.spec, 1, 'or it has nothing to learn from'))
