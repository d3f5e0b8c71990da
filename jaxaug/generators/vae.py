"""Class-conditional convolutional variational autoencoder.

Kingma and Welling 2014, appendix B (one draw of the latents an image); its
encoder and decoder see the label as in Sohn et al. 2015, here through class-
conditional batch norm (de Vries et al. 2017) and a label embedding beside the
latents. Options: beta (Higgins et al. 2017), free bits (Kingma et al. 2016,
section 5.1 and appendix C.8), a prior of each class, and a learned standard
deviation of the pixels (Rybkin et al. 2021, section 3).
"""
import math
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxaug.augment import standard
from jaxaug.core import errors, types
from jaxaug.data import pixels
from jaxaug.nn import layers
from jaxaug.training import ema

# The least standard deviation that is learned: half the step of 8-bit pixels.
_LEAST_SIGMA = 1 / 255


class VaeState(typing.NamedTuple):
  """All that a training must remember."""
  step: jax.Array        # int32 [].
  net: types.Net
  ema: typing.Any        # {'params', 'batch_stats'} of the averaged network.


def kl_divergence(mean, log_variance, prior_mean, prior_log_variance):
  """KL(N(mean, variance) || N(prior)) in nats, value by value: as broadcast."""
  distance = jnp.square(mean - prior_mean) * jnp.exp(-prior_log_variance)
  log_ratio = log_variance - prior_log_variance
  return 0.5 * (jnp.exp(log_ratio) + distance - 1 - log_ratio)


def mean_image(logits):
  """Logits of white -> the mean of pixels from -1, black, to 1: 2 s(x) - 1."""
  return jnp.tanh(logits / 2)


def gaussian(images, logits, log_sigma):
  """Log density in nats of images [B, H, W, C] about `mean_image`: [B]."""
  error = jnp.square(images - mean_image(logits)) * jnp.exp(-2 * log_sigma)
  nats = -0.5 * (error + math.log(2 * math.pi)) - log_sigma
  return nats.reshape(len(images), -1).sum(-1)


def bernoulli(images, logits, log_sigma):
  """Minus the cross-entropy in nats of pixels as shares of white: [B].

  The log likelihood where all pixels are black or white.
  """
  del log_sigma  # It has none.
  nats = (images + 1) / 2 * logits - jax.nn.softplus(logits)
  return nats.reshape(len(images), -1).sum(-1)


LIKELIHOODS = {'gaussian': gaussian, 'bernoulli': bernoulli}


def objective(nats, kl, beta: float = 1.0, free_bits: float = 0.0):
  """Minus the evidence lower bound, mean over a batch, and its parts.

  Args:
    nats: [B], log likelihoods.
    kl: [B, Z], of each latent.
    beta: factor of the KL divergence.
    free_bits: nats below which a latent's KL, mean over the batch, is free.

  Returns:
    (loss [], logs): 'g_loss' is the loss itself; 'reconstruction' and 'kl' are
    the parts without beta and free bits, whose sum is the bound's negative.
  """
  kl = kl.mean(0)
  reconstruction = -nats.mean()
  loss = reconstruction + beta * jnp.maximum(kl, free_bits).sum()
  return loss, {'g_loss': loss, 'reconstruction': reconstruction,
                'kl': kl.sum()}


class Encoder(nn.Module):
  """(images [B, H, W, C], labels [B]) -> mean, log variance float32 [B, Z]."""
  classes: int
  z_dim: int
  widths: tuple[int, ...]
  dtype: typing.Any

  @nn.compact
  def __call__(self, x, labels, train: bool):
    x = x.astype(self.dtype)
    for i, width in enumerate(self.widths):
      x = layers.Conv(width, (4, 4), strides=(2, 2), use_bias=False,
                      dtype=self.dtype, name=f'down_{i}')(x)
      x = layers.ConditionalBatchNorm(self.classes, self.dtype,
                                      name=f'norm_{i}')(x, labels, train)
      x = nn.leaky_relu(x, 0.2)
    # In float32: half precision has three digits, and the variance is exp.
    x = nn.Dense(2 * self.z_dim, dtype=jnp.float32,
                 name='posterior')(x.reshape(len(x), -1))
    return jnp.split(x, 2, -1)


class Decoder(nn.Module):
  """(latents [B, Z], labels [B]) -> logits of white float32 [B, H, W, C]."""
  spec: types.ImageSpec
  classes: int
  widths: tuple[int, ...]
  embed_dim: int
  dtype: typing.Any

  @nn.compact
  def __call__(self, z, labels, train: bool):
    spec, (*widths, deepest) = self.spec, self.widths
    rows, columns = (n >> len(self.widths) for n in spec[:2])
    def act(x, index):
      x = layers.ConditionalBatchNorm(self.classes, self.dtype,
                                      name=f'norm_{index}')(x, labels, train)
      return nn.leaky_relu(x, 0.2)

    label = nn.Embed(self.classes, self.embed_dim, name='embed')(labels)
    x = nn.Dense(rows * columns * deepest, use_bias=False, dtype=self.dtype,
                 name='latent_map')(jnp.concatenate([z, label], -1))
    x = act(x.reshape(-1, rows, columns, deepest), 0)
    for i, width in enumerate((*reversed(widths), self.widths[0])):
      x = layers.ConvTranspose(width, (4, 4), strides=(2, 2), use_bias=False,
                               dtype=self.dtype, name=f'up_{i}')(x)
      x = act(x, i + 1)
    x = layers.Conv(spec.channels, (7, 7), dtype=self.dtype, name='image')(x)
    return x.astype(jnp.float32)


class Vae(nn.Module):
  """(images, labels, noise [B, Z]) -> logits, kl [B, Z], log sigma []."""
  encoder: Encoder
  decoder: Decoder
  conditional: bool
  prior: str
  sigma: float
  num_classes: int

  def setup(self):
    if self.prior == 'class':
      table = dict(num_embeddings=self.num_classes,
                   features=self.encoder.z_dim,
                   embedding_init=nn.initializers.zeros)
      self.prior_mean = nn.Embed(**table)
      self.prior_log_variance = nn.Embed(**table)
    if not self.sigma:
      self.log_sigma = self.param('log_sigma', nn.initializers.zeros, ())

  def __call__(self, images, labels, noise, train: bool):
    mean, log_variance = self.encode(images, labels, train)
    kl = kl_divergence(mean, log_variance, *self._prior(labels))
    z = mean + jnp.exp(log_variance / 2) * noise
    logits = self.decoder(z, self._seen(labels), train)
    return logits, kl, self._log_sigma()

  def encode(self, images, labels, train: bool):
    """Mean and log variance of the latents, float32 [B, Z] each."""
    return self.encoder(images, self._seen(labels), train)

  def decode(self, noise, labels, train: bool):
    """Logits at the prior's standard normal coordinates `noise` [B, Z]."""
    mean, log_variance = self._prior(labels)
    z = mean + jnp.exp(log_variance / 2) * noise
    return self.decoder(z, self._seen(labels), train)

  def _seen(self, labels):
    return labels if self.conditional else jnp.zeros_like(labels)

  def _prior(self, labels):
    if self.prior == 'standard':
      return 0.0, 0.0
    return self.prior_mean(labels), self.prior_log_variance(labels)

  def _log_sigma(self):
    if self.sigma:
      return math.log(self.sigma)
    least = math.log(_LEAST_SIGMA)
    return least + nn.softplus(self.log_sigma - least)


def build(spec: types.ImageSpec, *, z_dim: int = 32,
          widths: tuple[int, ...] = (32, 64), embed_dim: int = 16,
          conditional: bool = True, prior: str = 'standard',
          likelihood: str = 'gaussian', sigma: float = 1.0, beta: float = 1.0,
          free_bits: float = 0.0, lr: float = 1e-3, b1: float = 0.9,
          b2: float = 0.999, ema_decay: float = 0.999, mirror: bool = False,
          dtype: str = 'float32') -> types.GenerativeModel:
  """Returns the variational autoencoder; it samples the mean of the pixels.

  Args:
    spec: height and width must halve `len(widths)` times.
    z_dim: number of latents.
    widths: the encoder's channels after each halving; the decoder's in reverse.
    embed_dim: size of the decoder's label embeddings.
    conditional: whether encoder and decoder see the label; False leaves the
      class to `prior`.
    prior: 'standard' normal, or 'class' for a normal with a learned mean and
      variance for each class and latent.
    likelihood: 'gaussian', or 'bernoulli': the cross-entropy of a pixel as a
      share of white.
    sigma: the Gaussian's standard deviation, of pixels from -1 to 1: less is
      sharper and, from few images, less like its class; 0 to learn one for all
      pixels, of 1/255 at least.
    beta: factor of the KL divergence in the loss.
    free_bits: nats a latent's mean KL may have for nothing; 0 for none.
    lr, b1, b2: Adam's.
    ema_decay: of the averaged network, weights and statistics alike; it is
      warmed up as min(decay, (1 + t) / (10 + t)).
    mirror: flips half of the images, for sets where that keeps the class.
    dtype: 'float32' or 'bfloat16', of the convolutions; weights are float32.

  Raises:
    InputError: a value that cannot be.
  """
  for name, value, known in (
      ('conditional', conditional, (False, True)),
      ('prior', prior, ('standard', 'class')),
      ('likelihood', likelihood, LIKELIHOODS),
      ('mirror', mirror, (False, True)),
      ('dtype', dtype, ('float32', 'bfloat16'))):
    errors.one_of(name, value, known)
  for name, value in (('z_dim', z_dim), ('embed_dim', embed_dim)):
    errors.count(name, value)
  errors.counts('widths', widths)
  for name, value in (('sigma', sigma), ('beta', beta),
                      ('free_bits', free_bits)):
    errors.between(name, value, 0, math.inf)
  errors.positive('lr', lr)
  for name, value in (('b1', b1), ('b2', b2)):
    errors.between(name, value, 0, 1, below=True)
  average = ema.make(ema_decay, 0)
  halvings = len(widths)
  if spec.height % 2**halvings or spec.width % 2**halvings:
    raise errors.InputError(
        f'widths: {halvings} halvings of {spec.height}x{spec.width} leave a '
        f'rest; expected a size divisible by {2**halvings}, see '
        'config.data.resize.')
  if likelihood == 'bernoulli':
    sigma = 1.0  # Nothing to learn.
  widths, dtype = tuple(widths), jnp.dtype(dtype)
  classes = spec.num_classes if conditional else 1
  network = Vae(Encoder(classes, z_dim, widths, dtype),
                Decoder(spec, classes, widths, embed_dim, dtype),
                conditional, prior, sigma, spec.num_classes)
  def loss(nats, kl):
    return objective(nats, kl, beta, free_bits)
  return _model(spec, network, z_dim, LIKELIHOODS[likelihood], loss,
                optax.adam(lr, b1, b2), average,
                standard.make(flip=0.5 if mirror else 0.0))


def _model(spec, network, z_dim, likelihood, loss, tx, average, flip):
  """The three functions and their helpers, see types.GenerativeModel."""
  def init(key):
    image = jnp.zeros((1, spec.height, spec.width, spec.channels))
    new = network.init(key, image, jnp.zeros((1,), jnp.int32),
                       jnp.zeros((1, z_dim)), train=False)
    params, stats = new['params'], new['batch_stats']
    # A copy: the state is donated, and one buffer cannot be donated twice.
    ema = jax.tree.map(jnp.copy, {'params': params, 'batch_stats': stats})
    return VaeState(jnp.int32(0), types.Net(params, stats, tx.init(params)),
                    ema)

  def step(state, batch, key):
    key_z, key_flip = jax.random.split(jax.random.fold_in(key, state.step))
    net, label = state.net, batch['label'][0]
    image = flip(key_flip, pixels.to_float(batch['image'][0]))
    noise = jax.random.normal(key_z, (len(label), z_dim))
    def objective(params):
      (logits, kl, log_sigma), new = network.apply(
          {'params': params, 'batch_stats': net.stats}, image, label, noise,
          train=True, mutable=['batch_stats'])
      value, logs = loss(likelihood(image, logits, log_sigma), kl)
      return value, (new['batch_stats'], logs)
    grads, (stats, logs) = jax.grad(objective, has_aux=True)(net.params)
    updates, opt = tx.update(grads, net.opt, net.params)
    net = types.Net(optax.apply_updates(net.params, updates), stats, opt)

    return VaeState(state.step + 1, net,
                    average(state.ema, net, state.step)), logs

  def decode(variables, z, labels):
    """Images at `z` [B, z_dim], standard normal under the prior."""
    logits = network.apply(variables, z, labels, train=False, method='decode')
    return mean_image(logits)

  def sample(variables, key, labels, given=None):
    del given  # This model starts from noise.
    return decode(variables, jax.random.normal(key, (len(labels), z_dim)),
                  labels)

  def parameters(state):
    return {name: sum(x.size for x in jax.tree.leaves(part))
            for name, part in state.net.params.items()}

  return types.GenerativeModel(init, step, lambda state: state.ema, sample,
                               parameters, decode=decode, z_dim=z_dim)
