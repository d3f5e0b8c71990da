"""CycleGAN: two generators turn images of one class into those of another.

Zhu et al. 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent
Adversarial Networks": networks and training of section 4 and appendix 7, the
identity loss of section 5.2, the history of fakes of Shrivastava et al. 2017.
"""
import functools
import math
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxaug.augment import standard
from jaxaug.core import errors, types
from jaxaug.data import mixing, pixels
from jaxaug.generators.gan import losses, step
from jaxaug.nn import layers, resize
from jaxaug.training import ema

# Below it the smallest maps have a single pixel, of which a norm leaves 0.
_LEAST = 8
_NORMAL = nn.initializers.normal(0.02)


class Pool(typing.NamedTuple):
  """The last fakes of a class, so that D sees older ones too."""
  images: jax.Array      # float32 [N, H, W, C], of which `count` are there.
  count: jax.Array       # int32 [].


class CycleState(typing.NamedTuple):
  """All that a training must remember."""
  step: jax.Array        # int32 [].
  g: types.Net           # Both generators, 'to_a' and 'to_b', and one Adam.
  d: types.Net           # Both discriminators, 'of_a' and 'of_b'.
  pools: dict            # 'a' and 'b': fakes of that class; {} for none.
  ema: dict              # {'params', 'batch_stats'} of the averaged generators;
                         # {} for none.


def exchange(pool: Pool, images, swaps, places) -> tuple[Pool, jax.Array]:
  """Puts new fakes in and takes as many out, one after the other.

  A pool that is not full keeps a fake and hands it on as well. A full one hands
  on either the fake, which it does not keep, or a kept one, whose place the
  fake takes.

  Args:
    pool: of N fakes.
    images: float32 [B, H, W, C], new ones.
    swaps: bool [B], whether a full pool gives a kept one.
    places: int32 [B], which one then, 0 to N - 1.

  Returns:
    (the pool, images [B, H, W, C] for D).
  """
  def one(pool, given):
    image, swap, place = given
    full = pool.count == len(pool.images)
    place = jnp.where(full, place, pool.count)
    kept = pool.images[place]
    images = pool.images.at[place].set(jnp.where(full & ~swap, kept, image))
    count = jnp.where(full, pool.count, pool.count + 1)
    return Pool(images, count), jnp.where(full & swap, kept, image)
  return jax.lax.scan(one, pool, (images, swaps, places))


def refresh(pool: Pool, key, images) -> tuple[Pool, jax.Array]:
  """Exchanges fakes by chance: half of them for a kept one, any alike."""
  key_swap, key_place = jax.random.split(key)
  count = len(images)
  return exchange(
      pool, images, jax.random.bernoulli(key_swap, shape=(count,)),
      jax.random.randint(key_place, (count,), 0, len(pool.images)))


def _norm(x, affine: bool, dtype, name: str):
  """Instance norm in float32, each map of each image by itself.

  `affine`: with a gain and a bias of each channel; gains start about 0.
  """
  norm = nn.InstanceNorm(
      epsilon=1e-5, use_bias=affine, use_scale=affine, scale_init=_NORMAL,
      dtype=jnp.float32, use_fast_variance=False, name=name)
  return norm(x).astype(dtype)


def _reflect(x, by: int):
  return jnp.pad(x, ((0, 0), (by, by), (by, by), (0, 0)), mode='reflect')


class Generator(nn.Module):
  """Images [B, H, W, C] of a class -> [B, H, W, C] of another, in [-1, 1]."""
  width: int
  blocks: int
  affine: bool
  dtype: typing.Any

  @nn.compact
  def __call__(self, images):
    def conv(x, width, kernel, name, layer=layers.Conv, norm=True, **more):
      x = layer(width, (kernel, kernel), kernel_init=_NORMAL, dtype=self.dtype,
                use_bias=not (norm and self.affine), name=name, **more)(x)
      return _norm(x, self.affine, self.dtype, f'{name}_norm') if norm else x

    # Nothing but reflections beyond the borders of 7x7 kernels and of blocks.
    x = conv(_reflect(images.astype(self.dtype), 3), self.width, 7, 'stem',
             padding='VALID')
    x, sides = nn.relu(x), []
    for i in range(2):
      sides.append(x.shape[1:3])
      x = nn.relu(conv(x, self.width << i + 1, 3, f'down_{i}', strides=(2, 2),
                       padding=1))
    for i in range(self.blocks):
      inner = nn.relu(conv(_reflect(x, 1), x.shape[3], 3, f'block_{i}_conv_0',
                           padding='VALID'))
      x += conv(_reflect(inner, 1), x.shape[3], 3, f'block_{i}_conv_1',
                padding='VALID')
    for i, side in enumerate(reversed(sides)):
      # As large as it was before it was halved: one less than twice for odd.
      pads = [(1, 2 - n % 2) for n in side]
      x = nn.relu(conv(x, self.width << 1 - i, 3, f'up_{i}',
                       layers.ConvTranspose, strides=(2, 2), padding=pads))
    x = conv(_reflect(x, 3), images.shape[3], 7, 'image', norm=False,
             padding='VALID')
    return jnp.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
  """Images [B, H, W, C] -> raw scores of their patches, float32 [B, h, w].

  halvings: convolutions of stride 2; of 3, a score sees 70x70 pixels, of 2
    34x34, and of one 16x16.
  """
  width: int
  halvings: int
  affine: bool
  dtype: typing.Any

  @nn.compact
  def __call__(self, images):
    def conv(x, width, stride, name, **more):
      return layers.Conv(width, (4, 4), (stride, stride), padding=1,
                         kernel_init=_NORMAL, dtype=self.dtype, name=name,
                         **more)(x)
    x = images.astype(self.dtype)
    for i in range(self.halvings + 1):
      x = conv(x, self.width << min(i, 3), 2 if i < self.halvings else 1,
               f'conv_{i}', use_bias=not (i and self.affine))
      if i:  # The first layer has none.
        x = _norm(x, self.affine, self.dtype, f'conv_{i}_norm')
      x = nn.leaky_relu(x, 0.2)
    return conv(x, 1, 1, 'score')[..., 0].astype(jnp.float32)


class Weights(typing.NamedTuple):
  """Of the parts of the generators' loss, beside 1 for the adversarial one."""
  cycle: float
  identity: float        # As a share of `cycle`.
  split: bool            # No generator learns from what the other did before.


def g_loss(to_a, to_b, of_a, of_b, a, b, weights: Weights):
  """What both generators lower together.

  E[(D(fake) - 1)^2] of both ways, without a half (section 4), the distance
  after there and back (equation 2), and that of images which are of the class
  already (section 5.2). Distances are means over pixels, as in the published
  code, where the equation has a norm.

  Args:
    to_a, to_b: generators, images [B, H, W, C] -> [B, H, W, C].
    of_a, of_b: discriminators, images -> scores [B, h, w].
    a, b: float32 [B, H, W, C], real images.
    weights: of the parts.

  Returns:
    loss [], and ((fakes of a, fakes of b), logs): the parts before weighting. A
    letter is that of the class of the part's last image.
  """
  adversarial = losses.least_squares().generator
  if weights.identity and weights.cycle:
    # No image sees another, so that one call serves two batches.
    fake_b, same_b = jnp.split(to_b(jnp.concatenate([a, b])), 2)
    fake_a, same_a = jnp.split(to_a(jnp.concatenate([b, a])), 2)
  else:
    (fake_a, same_a), (fake_b, same_b) = (to_a(b), a), (to_b(a), b)
  start = jax.lax.stop_gradient if weights.split else lambda x: x
  def distance(x, y):
    return jnp.abs(x - y).mean()
  logs = {  # least_squares has the half of each square.
      'adversarial_a': 2 * adversarial(of_a(fake_a)),
      'adversarial_b': 2 * adversarial(of_b(fake_b)),
      'cycle_a': distance(to_a(start(fake_b)), a),
      'cycle_b': distance(to_b(start(fake_a)), b),
      'identity_a': distance(same_a, a), 'identity_b': distance(same_b, b)}
  weigh = {'adversarial': 1.0, 'cycle': weights.cycle,
           'identity': weights.cycle * weights.identity}
  loss = sum(weigh[name[:-2]] * part for name, part in logs.items())
  return loss, ((fake_a, fake_b), {'g_loss': loss, **logs})


def d_loss(of_a, of_b, a, b, fake_a, fake_b):
  """What both discriminators lower: half the squares, summed over both.

  The half is the paper's (appendix 7.1) and the published code's. Adam, which
  goes by no scale, hardly sees it.

  Args:
    of_a, of_b: images -> scores [B, h, w].
    a, b, fake_a, fake_b: images [B, H, W, C].

  Returns:
    (loss [], logs).
  """
  loss, sides = losses.least_squares(), []
  for of, real, fake in (of_a, a, fake_a), (of_b, b, fake_b):
    sides.append(jnp.split(of(jnp.concatenate([real, fake])), 2))
  value = sum(loss.discriminator(*scores) for scores in sides)
  real, fake = map(jnp.stack, zip(*sides, strict=True))
  return value, {'d_loss': value,
                 **losses.accuracies(real, fake, loss.threshold)}


def learning_rate(lr: float, steps: int, decay: float):
  """Returns rate(step): `lr`, and over the last share `decay` linearly to 0.

  Step by step, and 0 after the last one.
  """
  last = round(steps * decay)
  return optax.linear_schedule(lr, 0.0, last, steps - last) if last else lr


def build(spec: types.ImageSpec, *, steps: int = 200_000,
          classes: tuple[int, int] = (0, 1), g_width: int = 64,
          d_width: int = 64, blocks: int | None = None,
          d_layers: int | None = None, norm: str = 'instance',
          cycle: float = 10.0, identity: float = 0.5,
          cycle_split: bool = False, pool: int = 50, lr: float = 2e-4,
          b1: float = 0.5, b2: float = 0.999, decay: float = 0.5,
          ema_decay: float = 0.0, mirror: bool = False, jitter: float = 0.0,
          dtype: str = 'float32') -> types.GenerativeModel:
  """Returns the pair of generators, each of which starts from real images.

  The paper's batches have one image of each class, and its trainings 200
  epochs. Both generators run for every sample; noise has no part in one.

  Args:
    spec: two classes at least, and 8x8 pixels; sides need not divide by 4.
    steps: the whole training's, for the learning rate.
    classes: the two; images of the first are made from real ones of the second,
      and the other way round. Those of other classes are not looked at.
    g_width, d_width: channels of the first layers.
    blocks: residual blocks of a generator; None for 6, and 9 from 256x256
      pixels on.
    d_layers: layers of stride 2 of a discriminator; None for 3, or as many as
      leave 4x4 scores of an image, which is 2 below 48 pixels and one below 24.
    norm: 'instance', or 'affine' with a gain and a bias of each channel, as in
      the Keras example (keras.io, "CycleGAN"), which has gains about 0 and, as
      ours does not, scores of 32x32 places and other first weights of G's last
      layer.
    cycle: weight of the distances after there and back.
    identity: weight of the distances of images that are of the class already,
      as a share of `cycle`: the published code's default, which the paper has
      only where colours should stay (paintings and photographs); 0 for none.
    cycle_split: each generator learns only from what it does last on the way
      there and back, as in the Keras example; else from both ways.
    pool: fakes of each class that are kept for D; 0 for none.
    lr, b1, b2: Adam's, one for both generators and one for both discriminators.
    decay: the share of the training, its last, in which the learning rate falls
      to 0.
    ema_decay: of averaged generators, warmed up as min(decay, (1 + t) / (10 +
      t)); 0 for the last ones, as in the paper.
    mirror: flips half of the images, for sets where that keeps the class.
    jitter: by which share images are enlarged before a random part of the old
      size is cut out; the published code has 0.117, for 286 of 256 pixels. None
      by default: samples start from whole images.
    dtype: 'float32' or 'bfloat16', of the computation; weights are float32.

  Raises:
    InputError: a value that cannot be.
  """
  spec.at_least(_LEAST, 'cyclegan')
  for name, value, known in (
      ('norm', norm, ('instance', 'affine')),
      ('cycle_split', cycle_split, (False, True)),
      ('mirror', mirror, (False, True)),
      ('dtype', dtype, ('float32', 'bfloat16'))):
    errors.one_of(name, value, known)
  for name, value in (('steps', steps), ('g_width', g_width),
                      ('d_width', d_width)):
    errors.count(name, value)
  errors.count('pool', pool, least=0)
  for name, value in ('cycle', cycle), ('identity', identity):
    errors.between(name, value, 0, math.inf)
  errors.positive('lr', lr)
  for name, value in ('b1', b1), ('b2', b2):
    errors.between(name, value, 0, 1, below=True)
  for name, value in ('decay', decay), ('jitter', jitter):
    errors.between(name, value, 0, 1)
  if blocks is None:
    blocks = 9 if min(spec.height, spec.width) >= 256 else 6
  errors.count('blocks', blocks)
  _check_classes(classes, spec)
  affine, dtype = norm == 'affine', jnp.dtype(dtype)
  rule = _Rule(
      spec, Generator(g_width, blocks, affine, dtype),
      Discriminator(d_width, _halvings(spec, d_layers), affine, dtype),
      Weights(cycle, identity, cycle_split), pool, jitter,
      standard.make(flip=0.5 if mirror else 0.0),
      optax.adam(learning_rate(lr, steps, decay), b1, b2),
      ema.make(ema_decay, 0) if ema_decay else None)
  a, b = classes
  return types.GenerativeModel(
      functools.partial(_init, rule), functools.partial(_step, rule),
      _variables, functools.partial(_sample, rule, b), _parameters,
      feed=functools.partial(_feed, (a, b)), origins=((b, a), (a, b)))


def _check_classes(classes, spec):
  known = spec.num_classes
  if known < 2:
    raise errors.InputError(
        f'model: cyclegan goes from one class to another; the data has {known},'
        ' expected two at least.')
  if not isinstance(classes, (tuple, list)) or len(classes) != 2 or any(
      type(k) is not int or not 0 <= k < known for k in classes) or (
          classes[0] == classes[1]):
    raise errors.InputError(
        f'classes: {errors.shown(classes)}; expected two different classes by '
        f'their numbers, 0 to {known - 1}.')


def _halvings(spec, asked: int | None) -> int:
  """The layers of stride 2 of a discriminator, see build."""
  side = min(spec.height, spec.width)
  if asked is None:
    return next((n for n in (3, 2) if side >> n >= 6), 1)
  errors.count('d_layers', asked)
  most = next(n for n in range(1, 32) if side >> n + 1 < 3)
  if asked > most:
    raise errors.InputError(
        f'd_layers: {asked}; of {spec.height}x{spec.width} pixels no scores '
        f'are left, expected {most} at most, or larger images, see '
        'config.data.resize.')
  return asked


class _Rule(typing.NamedTuple):
  """What a training goes by."""
  spec: types.ImageSpec
  generator: Generator
  discriminator: Discriminator
  weights: Weights
  pool: int              # Fakes of a class that are kept.
  jitter: float
  flip: standard.Apply
  tx: optax.GradientTransformation
  average: typing.Callable | None


def _init(rule, key) -> CycleState:
  shape = rule.spec.height, rule.spec.width, rule.spec.channels
  keys = jax.random.split(key, 4)
  def nets(module, **keys):
    params = {name: module.init(key, jnp.zeros((1, *shape)))['params']
              for name, key in keys.items()}
    return types.Net(params, {}, rule.tx.init(params))
  g = nets(rule.generator, to_a=keys[0], to_b=keys[1])
  d = nets(rule.discriminator, of_a=keys[2], of_b=keys[3])
  pools = {name: Pool(jnp.zeros((rule.pool, *shape)), jnp.int32(0))
           for name in 'ab' if rule.pool}
  # A copy: the state is donated, and one buffer cannot be donated twice.
  average = jax.tree.map(jnp.copy, _of(g)) if rule.average else {}
  return CycleState(jnp.int32(0), g, d, pools, average)


def _of(g: types.Net) -> dict:
  return {'params': g.params, 'batch_stats': g.stats}


def _step(rule, state: CycleState, batch: dict, key):
  """One update of both generators, then one of both discriminators.

  Fakes are made once; D sees those, through the pools.
  """
  of_images, of_pools = jax.random.split(jax.random.fold_in(key, state.step))
  a, b = (_seen(rule, key, images) for key, images in zip(
      jax.random.split(of_images), batch['image'][0], strict=True))
  def players(module, params):
    return [lambda x, own=own: module.apply({'params': own}, x)
            for _, own in sorted(params.items())]

  def of_g(params):
    return g_loss(*players(rule.generator, params),
                  *players(rule.discriminator, state.d.params), a, b,
                  rule.weights)
  grads, (fakes, logs) = jax.grad(of_g, has_aux=True)(state.g.params)
  g = step.update(rule.tx, state.g, state.g.stats, grads)

  shown, pools = fakes, state.pools
  if pools:
    both = [refresh(pools[name], key, images) for name, key, images in zip(
        'ab', jax.random.split(of_pools), fakes, strict=True)]
    pools = {name: pool for name, (pool, _) in zip('ab', both, strict=True)}
    shown = [images for _, images in both]
  def of_d(params):
    return d_loss(*players(rule.discriminator, params), a, b, *shown)
  grads, d_logs = jax.grad(of_d, has_aux=True)(state.d.params)
  d = step.update(rule.tx, state.d, state.d.stats, grads)

  average = rule.average(state.ema, g, state.step) if rule.average else {}
  return CycleState(state.step + 1, g, d, pools, average), {**logs, **d_logs}


def _seen(rule, key, images):
  """Real images uint8 [B, H, W, C] as the players see them, float32."""
  key_flip, key_part = jax.random.split(key)
  if rule.jitter:
    images = _part(key_part, images, rule.jitter)
  return rule.flip(key_flip, pixels.to_float(images))


def _part(key, images, share: float):
  """Enlarges images [B, H, W, C], 0 to 255, and cuts parts of their size."""
  shape = images.shape[1:]
  sides = [round(n * (1 + share)) for n in shape[:2]]
  corners = jax.random.randint(key, (len(images), 2), 0,
                               np.subtract(sides, shape[:2]) + 1)
  return jax.vmap(lambda image, corner: jax.lax.dynamic_slice(
      image, (*corner, 0), shape))(
          resize.resize(images, sides, 'clean'), corners)


def _variables(state: CycleState) -> dict:
  return state.ema or _of(state.g)


def _sample(rule, b: int, variables, key, labels, given=None):
  """Each of `given` by the generator of its label, a or b."""
  del key  # What is drawn is the real images.
  to_a, to_b = (rule.generator.apply({'params': variables['params'][name]},
                                     given) for name in ('to_a', 'to_b'))
  return jnp.where((labels == b)[:, None, None, None], to_b, to_a)


def _parameters(state: CycleState) -> dict:
  return {f'{player}_{name}': sum(x.size for x in jax.tree.leaves(params))
          for player, net in (('g', state.g), ('d', state.d))
          for name, params in net.params.items()}


def _feed(classes, labels, class_names, batch_size: int, seed: int):
  """Returns batch(i) -> int32 [1, 2, B]: images of a, and of b.

  Each class runs through shuffled epochs of its own, unpaired.
  """
  plans = []
  for side, k in enumerate(classes):
    own = np.flatnonzero(np.asarray(labels) == k)
    if not len(own):
      raise errors.InputError(
          f'classes: {class_names[k]!r} has no training images; expected some '
          'of both classes.')
    if batch_size > len(own):
      raise errors.InputError(
          f'batch_size: {batch_size}; expected at most {len(own)}, the number '
          f'of training images of class {class_names[k]!r}.')
    plans.append(mixing.plan(
        mixing.Composition(own, np.zeros(0, np.int64)), pool_start=0,
        batch_size=batch_size, seed=(seed, side)))
  def batch(i):
    return np.stack([mixing.batch(plan, i) for plan in plans])[None]
  return batch
