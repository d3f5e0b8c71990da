"""BAGAN: a GAN that starts as an autoencoder and balances unequal classes.

Mariani, Scheidegger, Istrate, Bekas and Malossi 2018, "BAGAN: Data Augmentation
with Balancing GAN" (arXiv 1803.09655), section 3; layers and settings are those
of the authors' code. An autoencoder learns from all images. Then the latents of
each class are taken for a normal distribution, the decoder becomes the
generator, the encoder's convolutions become the discriminator's, and the
discriminator names an image's class, or calls it fake.
"""
import math
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxaug.core import errors, types
from jaxaug.data import pixels
from jaxaug.generators.gan import pretraining
from jaxaug.generators.gan import step as gan_step
from jaxaug.nn import layers
from jaxaug.training import ema


class Decoder(nn.Module):
  """(latents [B, Z], labels) -> images [B, H, W, C]; labels have no part.

  No layer has a bias. Pixels are doubled before a 5x5 convolution, which costs
  36/100 of that where both are done at once.
  """
  spec: types.ImageSpec
  ups: int
  hidden: int
  width: int
  dtype: typing.Any

  @nn.compact
  def __call__(self, z, labels, train: bool):
    grid = *(n >> self.ups for n in self.spec[:2]), self.width
    def dense(x, features, name):
      return nn.relu(nn.Dense(
          features, use_bias=False, dtype=self.dtype, name=name,
          kernel_init=nn.initializers.glorot_uniform())(x))
    def conv(x, features, kernel, name, **more):
      return layers.Conv(
          features, (kernel, kernel), use_bias=False, dtype=self.dtype,
          kernel_init=nn.initializers.glorot_normal(), name=name, **more)(x)

    x = dense(dense(z, self.hidden, 'dense_0'), math.prod(grid), 'dense_1')
    x = x.reshape(-1, *grid)
    for i in range(self.ups):
      last = i == self.ups - 1
      x = nn.relu(conv(x, self.width if last else 2 * self.width, 5, f'up_{i}',
                       conv_general_dilated=layers.conv_of_doubled))
    x = conv(x, self.spec.channels, 2, 'image')
    return jnp.tanh(x.astype(jnp.float32))


def _trunk(x, plan, dropout: float, dtype, train: bool):
  """Images -> features [B, F], for the inside of encoder and discriminator."""
  x = x.astype(dtype)
  for i, (width, stride) in enumerate(plan):
    x = layers.Conv(width, (3, 3), strides=(stride, stride), dtype=dtype,
                    kernel_init=nn.initializers.glorot_uniform(),
                    name=f'conv_{i}')(x)
    x = nn.Dropout(dropout, deterministic=not train)(nn.leaky_relu(x, 0.3))
  return x.reshape(len(x), -1)


class Encoder(nn.Module):
  """images [B, H, W, C] -> latents float32 [B, Z]."""
  z_dim: int
  plan: tuple[tuple[int, int], ...]
  dropout: float
  dtype: typing.Any

  @nn.compact
  def __call__(self, x, train: bool):
    x = _trunk(x, self.plan, self.dropout, self.dtype, train)
    return nn.Dense(self.z_dim, dtype=jnp.float32, name='latent',
                    kernel_init=nn.initializers.glorot_uniform())(x)


class Discriminator(nn.Module):
  """(images [B, H, W, C], labels) -> logits float32 [B, K + 1].

  Those of the K classes, and last that of a fake; labels have no part.
  """
  num_classes: int
  plan: tuple[tuple[int, int], ...]
  dropout: float
  dtype: typing.Any

  @nn.compact
  def __call__(self, x, labels, train: bool):
    x = _trunk(x, self.plan, self.dropout, self.dtype, train)
    return nn.Dense(self.num_classes + 1, dtype=jnp.float32, name='classes',
                    kernel_init=nn.initializers.glorot_uniform())(x)


def class_normals(codes, labels, num_classes: int):
  """Each class's latents as a normal distribution.

  Args:
    codes: float32 [N, Z].
    labels: int32 [N]; two or more of each class.
    num_classes: K.

  Returns:
    (mean [K, Z], root [K, Z, Z]): root is the symmetric square root of the
    sample covariance, which is divided by n - 1.
  """
  with jax.default_matmul_precision('highest'):
    own = jax.nn.one_hot(labels, num_classes)
    count = own.sum(0)
    mean = jnp.zeros((num_classes, codes.shape[-1]))
    for _ in range(2):  # The second time for what the first has rounded.
      mean += own.T @ (codes - mean[labels]) / count[:, None]
    off = codes - mean[labels]
    def covariance(k):
      mine = off * own[:, k, None]
      return mine.T @ mine / (count[k] - 1)
    values, vectors = jnp.linalg.eigh(
        jax.lax.map(covariance, jnp.arange(num_classes)))
    # Of fewer images than latents, most are 0 but for rounding.
    least = values[:, -1:] * codes.shape[-1] * jnp.finfo(jnp.float32).eps
    scale = jnp.sqrt(jnp.where(values > least, values, 0))
    return mean, (vectors * scale[:, None]) @ vectors.mT


def class_ratio(labels, num_classes: int, kind: str):
  """With what probability a fake is of each class, float32 [K].

  Args:
    labels: int32 [N], of the training images.
    num_classes: K.
    kind: 'uniform' for 1 / K each, or 'rebalance': 2 / K less the class's share
      of the images, 0 if that is negative, over the sum.
  """
  if kind == 'uniform':
    return jnp.full(num_classes, 1 / num_classes, jnp.float32)
  share = jax.nn.one_hot(labels, num_classes).mean(0)
  ratio = jnp.maximum(2 / num_classes - share, 0)
  return ratio / ratio.sum()


def _at(latents, z, labels):
  """Standard normal z [B, Z] -> latents of the classes."""
  return latents['mean'][labels] + jnp.einsum(
      'bij,bj->bi', latents['root'][labels], z)


class Keys(typing.NamedTuple):
  """The keys of one step."""
  d_labels: jax.Array
  d_noise: jax.Array
  d_dropout: jax.Array
  g_labels: jax.Array
  g_noise: jax.Array
  g_dropout: jax.Array


def _cross_entropy(logits, labels):
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _fakes(rule, g, latents, ratio, count, key_labels, key_noise):
  """Returns (G's images, the classes that they were asked to be of)."""
  labels = jax.random.choice(key_labels, rule.spec.num_classes, (count,),
                             p=ratio)
  z = jax.random.normal(key_noise, (count, rule.z_dim))
  images, _ = gan_step.call(rule.generator, g, _at(latents, z, labels), labels)
  return images, labels


def adversarial(rule: pretraining.Rule, state: pretraining.State, batch: dict,
                key):
  """The second phase's step: one update of D, then one of G by the new D.

  D sees one class's share of fakes beside a batch of B, ceil(B / K), and G
  makes B + ceil(B / K).
  """
  keys = Keys(*jax.random.split(jax.random.fold_in(key, state.step), 6))
  real, labels = pixels.to_float(batch['image'][0]), batch['label'][0]
  classes, latents = rule.spec.num_classes, state.latents
  count = -(-len(labels) // classes)

  fake, _ = _fakes(rule, state.g, latents, latents['d_ratio'], count,
                   keys.d_labels, keys.d_noise)
  shown = jnp.concatenate([real, fake])
  known = jnp.concatenate([labels, jnp.full(count, classes)])
  def d_loss(params):
    logits, _ = gan_step.call(rule.discriminator, state.d._replace(
        params=params), shown, known, key=keys.d_dropout)
    return _cross_entropy(logits, known), logits.argmax(-1) == known
  (d_value, right), grads = jax.value_and_grad(d_loss, has_aux=True)(
      state.d.params)
  d = gan_step.update(rule.optimizers.d, state.d, state.d.stats, grads)

  def g_loss(params):
    fake, asked = _fakes(rule, state.g._replace(params=params), latents,
                         latents['g_ratio'], len(labels) + count,
                         keys.g_labels, keys.g_noise)
    logits, _ = gan_step.call(rule.discriminator, d, fake, asked,
                              key=keys.g_dropout)
    return _cross_entropy(logits, asked)
  g_value, grads = jax.value_and_grad(g_loss)(state.g.params)
  g = gan_step.update(rule.optimizers.g, state.g, state.g.stats, grads)

  return pretraining.after(rule, state, g, d), {
      'd_loss': d_value, 'g_loss': g_value,
      'd_accuracy_real': right[:len(labels)].mean(),
      'd_accuracy_fake': right[len(labels):].mean()}


def _ups(spec: types.ImageSpec) -> int:
  """How often the generator doubles: from a shorter side of at most 8."""
  short, count = min(spec.height, spec.width), 0
  while short >> count > 8:
    count += 1
  if spec.height % 2**count or spec.width % 2**count:
    raise errors.InputError(
        f'model: bagan halves images to 8 pixels or fewer, {spec.height}x'
        f'{spec.width} in {count} steps; expected a size divisible by '
        f'{2**count}, see config.data.resize.')
  return count


def _plan(spec, ups: int, width: int) -> tuple[tuple[int, int], ...]:
  """Channels and stride of the convolutions of encoder and discriminator."""
  plan = [(width, 2), (2 * width, 1), (4 * width, 2), (8 * width, 1)]
  for _ in range(ups - 2):
    plan += [(8 * width, 2), (8 * width, 1)]
  return tuple(plan)


def build(spec: types.ImageSpec, *, steps: int = 20_000,
          autoencoder_steps: int | None = None, z_dim: int = 100,
          hidden: int = 1024, g_width: int = 128, d_width: int = 32,
          dropout: float = 0.3, d_ratio: str = 'uniform',
          g_ratio: str = 'uniform', autoencoder_lr: float = 5e-5,
          g_lr: float = 5e-5, d_lr: float = 5e-5, b1: float = 0.5,
          b2: float = 0.999, ema_decay: float = 0.0,
          dtype: str = 'float32') -> types.GenerativeModel:
  """Returns the balancing GAN; by default the paper's networks and settings.

  Every class needs two training images, for a covariance.

  Args:
    spec: height and width must halve until the shorter has 8 pixels or fewer.
    steps: of the whole training; of a study, its block's.
    autoencoder_steps: of them, those of the autoencoder; None for half, as it
      is trained for as many epochs as the GAN.
    z_dim: number of latents.
    hidden: units of the generator's first layer.
    g_width: the generator's channels at its smallest and at its full size;
      twice as many between.
    d_width: channels of the first layer of encoder and discriminator; two, four
      and then always eight times as many in those after.
    dropout: after every convolution of encoder and discriminator.
    d_ratio: of what classes the fakes are that D sees: 'uniform', or
      'rebalance' for more of those with few images.
    g_ratio: the same of those that G learns from.
    autoencoder_lr, g_lr, d_lr: learning rates of Adam.
    b1, b2: Adam's.
    ema_decay: of the averaged generator, warmed up as min(decay, (1 + t) / (10
      + t)) in each phase; 0 for no averaging.
    dtype: 'float32' or 'bfloat16', of the computation but for the last layers;
      weights are float32.

  Raises:
    InputError: a value that cannot be, or a size that does not halve.
  """
  for name, value in (('z_dim', z_dim), ('hidden', hidden),
                      ('g_width', g_width), ('d_width', d_width)):
    errors.count(name, value)
  errors.between('dropout', dropout, 0, 1, below=True)
  for name, value in (('d_ratio', d_ratio), ('g_ratio', g_ratio)):
    errors.one_of(name, value, ('uniform', 'rebalance'))
  errors.one_of('dtype', dtype, ('float32', 'bfloat16'))
  ups, dtype = _ups(spec), jnp.dtype(dtype)
  plan = _plan(spec, ups, d_width)
  rule = pretraining.Rule(
      spec, z_dim, Encoder(z_dim, plan, dropout, dtype),
      Decoder(spec, ups, hidden, g_width, dtype),
      Discriminator(spec.num_classes, plan, dropout, dtype),
      pretraining.first_steps(steps, autoencoder_steps, share=0.5),
      pretraining.adam(autoencoder_lr, g_lr, d_lr, b1, b2),
      lambda difference: jnp.square(difference).mean(), ema.make(ema_decay, 0))
  return _model(rule, d_ratio, g_ratio)


def _model(rule, d_ratio, g_ratio) -> types.GenerativeModel:
  """The functions of types.GenerativeModel."""
  classes, z_dim = rule.spec.num_classes, rule.z_dim

  def init(key):
    uniform = jnp.full(classes, 1 / classes, jnp.float32)
    return pretraining.init(rule, key)._replace(latents={
        'mean': jnp.zeros((classes, z_dim)),
        'root': jnp.tile(jnp.eye(z_dim), (classes, 1, 1)),
        'd_ratio': uniform, 'g_ratio': jnp.copy(uniform)})

  def step(state, batch, key):
    return pretraining.autoencode(rule, state, batch, key)

  def begin(state, images, labels):
    mean, root = class_normals(pretraining.encode(rule, state.encoder, images),
                               labels, classes)
    return pretraining.begin(rule, state, trunk=True)._replace(latents={
        'mean': mean, 'root': root,
        'd_ratio': class_ratio(labels, classes, d_ratio),
        'g_ratio': class_ratio(labels, classes, g_ratio)})

  def second(state, batch, key):
    return adversarial(rule, state, batch, key)

  def variables(state):
    return state.ema | {name: state.latents[name] for name in ('mean', 'root')}

  def decode(variables, z, labels):
    """Images at `z` [B, z_dim], standard normal in each class."""
    net = types.Net(variables['params'], variables['batch_stats'], None)
    images, _ = gan_step.call(rule.generator, net, _at(variables, z, labels),
                              labels, train=False)
    return images

  def sample(variables, key, labels, given=None):
    del given  # This model starts from noise.
    return decode(variables, jax.random.normal(key, (len(labels), z_dim)),
                  labels)

  return types.GenerativeModel(
      init, step, variables, sample, pretraining.parameters, decode=decode,
      z_dim=z_dim, phases=(types.Phase(rule.first, second, begin),),
      feed=pretraining.feed(rule.spec, 2, 'for the covariance of its latents'))
