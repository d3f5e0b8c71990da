"""SinGAN: a pyramid of small GANs that learns from one image.

Shaham et al. 2019, 'SinGAN: Learning a Generative Model from a Single Natural
Image', section 2: at each scale a generator of five 3x3 convolutions adds
detail to what comes from the scale below, and a discriminator judges patches of
11x11 pixels. Scales are trained one after the other, the coarsest first. Sizes,
lengths and rates are those of the authors' code; where it departs from the
paper, `build` says which is the default, and why.
"""
import functools
import math
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxaug.core import errors, types
from jaxaug.data import pixels
from jaxaug.generators.gan import penalties
from jaxaug.nn import layers, resize

_LAYERS = 5
FIELD = 2 * _LAYERS + 1   # Side of the patch that one score is of.
_PAD = _LAYERS            # Zeros on each side that the layers eat up.
_WIDEST, _DOUBLES_AFTER = 128, 4


class Pyramid(typing.NamedTuple):
  """The scales of one image.

  sizes: (height, width) of each, the coarsest first. factor: from one to the
  next coarser one. scale: from the image to the finest, 1.0 mostly.
  """
  sizes: tuple[tuple[int, int], ...]
  factor: float
  scale: float


class Level(typing.NamedTuple):
  """One scale of a training.

  real: the image at this size, float32 [1, h, w, C].
  below: its reconstruction by the scales below, enlarged to this size.
  amplitude: float32 [], of the noise.
  """
  real: jax.Array
  below: jax.Array
  amplitude: jax.Array
  g: types.Net
  d: types.Net


class SinganState(typing.NamedTuple):
  """All that a training must remember.

  z: float32 [1, h, w, 1], the noise that the coarsest scale makes the image of.
  """
  step: jax.Array
  z: jax.Array
  levels: tuple[Level, ...]


class Layers(nn.Module):
  """Five 3x3 convolutions: [B, H, W, C] -> float32 [B, H - 10, W - 10, out]."""
  width: int
  out: int
  dtype: typing.Any

  @nn.compact
  def __call__(self, x, train: bool):
    for i in range(_LAYERS):
      last = i == _LAYERS - 1
      x = layers.Conv(
          self.out if last else self.width, (3, 3), padding='VALID',
          dtype=self.dtype, kernel_init=nn.initializers.normal(0.02),
          bias_init=layers.uniform(9 * x.shape[-1]), name=f'conv_{i}')(x)
      if not last:
        x = layers.batch_norm(x, train, self.dtype, name=f'norm_{i}',
                              scale_init=layers.normal_about(1.0, 0.02))
        x = nn.leaky_relu(x, 0.2)
    return x.astype(jnp.float32)


def _padded(x):
  return jnp.pad(x, ((0, 0), (_PAD, _PAD), (_PAD, _PAD), (0, 0)))


class Rule(typing.NamedTuple):
  """What `build` was told, and the networks of each scale."""
  spec: types.ImageSpec
  pyramid: Pyramid
  g: tuple
  d: tuple
  firsts: tuple[int, ...]   # Updates before each scale's own, and of all.
  lr: float
  decay_at: float
  adam: optax.GradientTransformation
  d_steps: int
  g_steps: int
  penalty: float
  by_pixel: bool
  reconstruction: float
  noise: float
  redraw: bool
  eight_bit: bool

  @property
  def last(self) -> int:
    return len(self.pyramid.sizes) - 1


def pyramid(height: int, width: int, *, min_size: int = 25,
            max_size: int = 250, factor: float = 0.75) -> Pyramid:
  """Returns the scales of an image.

  Args:
    height, width: of it.
    min_size: smaller side of the coarsest scale, about: sides are rounded up.
    max_size: larger side of the finest one, at most.
    factor: of one scale to the next finer one, about: the one that leads from
      the finest to the coarsest in a whole number of steps is not below it.

  Raises:
    InputError: an image smaller than the coarsest scale, or a value that cannot
      be.
  """
  errors.count('min_size', min_size, least=FIELD)
  errors.count('max_size', max_size, least=min_size)
  errors.between('factor', factor, 0.1, 1, below=True)
  shorter, longer = min(height, width), max(height, width)
  scale = min(max_size / longer, 1.0)
  if shorter * scale < min_size:
    raise errors.InputError(
        f'min_size: {min_size}; an image of {height}x{width} is smaller than '
        f'the coarsest scale; expected {FIELD} to {int(shorter * scale)}, or '
        'larger images, see config.data.resize.')
  def steps(share):
    return math.ceil(math.log(share, factor))
  count = max(1, steps(min_size / shorter) + 1 - steps(
      min(max_size, longer) / longer))
  height, width = (math.ceil(side * scale) for side in (height, width))
  factor = (min_size / min(height, width)) ** (1 / count)
  return Pyramid(tuple(
      tuple(math.ceil(side * factor ** (count - i)) for side in (height, width))
      for i in range(count + 1)), factor, scale)


def widths(levels: int, width: int) -> tuple[int, ...]:
  """Channels of each scale: doubled every four scales, up to 128."""
  return tuple(min(width << i // _DOUBLES_AFTER, max(_WIDEST, width))
               for i in range(levels))


# ------------------------------------------------------------ between scales
def _as_image(rule, x):
  """Cuts values to [-1, 1], and to 8 bits where the rule says so."""
  x = jnp.clip(x, -1, 1)
  return jnp.floor((x + 1) * 127.5) / 127.5 - 1 if rule.eight_bit else x


def _resized(rule, images, factor: float, size: tuple[int, int]):
  """Images by a factor, at the top left of `size`."""
  out = jnp.clip(resize.by_factor(_as_image(rule, images), factor), -1, 1)
  out = out[:, :size[0], :size[1]]
  missing = [(0, side - have) for side, have in
             zip(size, out.shape[1:3], strict=True)]
  return jnp.pad(out, ((0, 0), *missing, (0, 0)), 'edge')


def _shrunk(rule, images, level: int):
  """Full images at the size of a scale."""
  sizes, factor, scale = rule.pyramid
  if scale < 1:
    images = _resized(rule, images, scale, sizes[-1])
  if level < rule.last:
    images = _resized(rule, images, factor ** (rule.last - level), sizes[level])
  return images


def _enlarged(rule, images, level: int):
  """Images of one scale at the size of the next, `level`."""
  return _resized(rule, images, 1 / rule.pyramid.factor,
                  rule.pyramid.sizes[level])


def _noise(rule, key, level: int, count: int):
  """Normal noise of a scale; the coarsest has the same in all channels."""
  channels = rule.spec.channels if level else 1
  return jax.random.normal(key, (count, *rule.pyramid.sizes[level], channels))


def _generate(rule, level: int, net: types.Net, noise, below, train: bool):
  """What a scale makes of noise (its amplitude applied) and of what is below.

  Returns (images [B, h, w, C], statistics).
  """
  x = _padded(jnp.broadcast_to(noise, below.shape)) + _padded(below)
  variables = {'params': net.params, 'batch_stats': net.stats}
  if not train:
    return below + jnp.tanh(rule.g[level].apply(variables, x, False)), net.stats
  out, new = rule.g[level].apply(variables, x, True, mutable=['batch_stats'])
  return below + jnp.tanh(out), new['batch_stats']


def _chain(rule, levels, stop: int, draw, first: int = 0, images=None,
           step=None):
  """Images of the scales `first`..`stop` - 1, enlarged to the scale `stop`.

  Args:
    levels: anything with `g` (its params and stats) and `amplitude` for each.
    draw: (level) -> noise [B, h, w, 1 or C], before its amplitude.
    images: what is below the first one; None for nothing.
    step: of a training under way: scales not begun by then add nothing.
  """
  for n in range(first, stop):
    noise = draw(n) * levels[n].amplitude
    if images is None:
      images = jnp.zeros((*noise.shape[:3], rule.spec.channels))
    new, _ = _generate(rule, n, levels[n].g, noise, images, False)
    images = new if step is None or not n else jnp.where(
        step > rule.firsts[n], new, images)
    images = _enlarged(rule, images, n + 1) if n < rule.last else images
  return images


def _reconstruct(rule, levels, z, stop: int, step=None):
  """The image by the noise that stands for it: z, and none above."""
  return _chain(rule, levels, stop, lambda n: z if n == 0 else jnp.zeros(
      (1, *rule.pyramid.sizes[n], rule.spec.channels)), step=step)


# ----------------------------------------------------------------- training
def _init(rule, key):
  def net(module, key, side, stats=True):
    x = jnp.zeros((1, *side, rule.spec.channels))
    variables = module.init(key, x, False)
    return types.Net(variables['params'],
                     variables['batch_stats'] if stats else {},
                     rule.adam.init(variables['params']))
  drawn = {}
  def nets(n, size):
    """A scale that goes on from the one below needs no draw of its own."""
    if rule.g[n] in drawn:
      return jax.tree.map(jnp.copy, drawn[rule.g[n]])
    of_g, of_d = jax.random.split(jax.random.fold_in(key, n))
    drawn[rule.g[n]] = (
        net(rule.g[n], of_g, [side + 2 * _PAD for side in size]),
        net(rule.d[n], of_d, size, stats=False))  # Its norms see the image.
    return drawn[rule.g[n]]
  def level(n, size):
    image = jnp.zeros((1, *size, rule.spec.channels))
    return Level(image, jnp.copy(image), jnp.float32(0 if n else 1),
                 *nets(n, size))
  sizes = rule.pyramid.sizes
  return SinganState(
      jnp.int32(0), _noise(rule, jax.random.fold_in(key, len(sizes)), 0, 1),
      tuple(level(n, size) for n, size in enumerate(sizes)))


def _adapt(rule, state, images, labels):
  """Takes the image at every size."""
  del labels
  image = pixels.to_float(images[:1])
  return state._replace(levels=tuple(
      level._replace(real=_shrunk(rule, image, n))
      for n, level in enumerate(state.levels)))


def _begin(rule, n: int, state, images, labels):
  """Fixes all below the scale `n`, and starts it from the one below."""
  del images, labels
  levels = list(state.levels)
  below = _reconstruct(rule, levels, state.z, n)
  error = jnp.sqrt(jnp.square(levels[n].real - below).mean())
  levels[n] = levels[n]._replace(below=below, amplitude=rule.noise * error)
  if rule.g[n] == rule.g[n - 1]:  # Of one shape: weights and statistics go on.
    def taken(net, old):
      return net._replace(**jax.tree.map(
          jnp.copy, {'params': old.params, 'stats': old.stats}))
    levels[n] = levels[n]._replace(g=taken(levels[n].g, levels[n - 1].g),
                                   d=taken(levels[n].d, levels[n - 1].d))
  return state._replace(levels=tuple(levels))


class _Keys(typing.NamedTuple):
  """The keys of one step."""
  noise: jax.Array
  below: jax.Array
  again: jax.Array
  penalty: jax.Array   # [d_steps].


def _keys(rule, key) -> _Keys:
  noise, below, again, penalty = jax.random.split(key, 4)
  return _Keys(noise, below, again, jax.random.split(penalty, rule.d_steps))


def _scores(rule, n, params, images):
  """Scores of the patches of an image, [1, h - 10, w - 10, 1]."""
  return rule.d[n].apply({'params': params}, images, True,
                         mutable=['batch_stats'])[0]


def loss_of_d(params, rule, n, real, fake, key):
  """Wasserstein with gradient penalty; (its value, that without it)."""
  scores = functools.partial(_scores, rule, n, params)
  gap = scores(fake).mean() - scores(real).mean()
  if rule.by_pixel:
    penalty = penalties.gradient_penalty(key, scores, real, fake, axes=(3,))
  else:
    penalty = penalties.gradient_penalty(
        key, lambda images: scores(images).mean((1, 2, 3)), real, fake)
  return gap + rule.penalty * penalty, -gap


def _loss_of_g(params, rule, n, level, noise, below, z):
  """Adversarial and reconstruction loss (equation 4); (statistics, error)."""
  net = level.g._replace(params=params)
  fake, stats = _generate(rule, n, net, noise, below, True)
  again, stats = _generate(rule, n, net._replace(stats=stats), z, level.below,
                           True)
  error = jnp.square(again - level.real).mean()
  score = _scores(rule, n, level.d.params, fake).mean()
  return rule.reconstruction * error - score, (stats, error)


def _moved(rule, net, grads, stats, rate):
  updates, opt = rule.adam.update(grads, net.opt)
  params = jax.tree.map(lambda p, u: p - rate * u, net.params, updates)
  return types.Net(params, stats, opt)


def _step(rule, n: int, state, batch, key):
  """`d_steps` updates of D and `g_steps` of G, of the scale `n`."""
  del batch
  level = state.levels[n]
  keys = _keys(rule, jax.random.fold_in(key, state.step))
  first, last = rule.firsts[n], rule.firsts[n + 1]
  late = state.step - first >= rule.decay_at * (last - first)
  rate = rule.lr * jnp.where(late, 0.1, 1.0)
  z = state.z
  if n == 0 and rule.redraw:
    z = _noise(rule, keys.again, 0, 1)
  noise = _noise(rule, keys.noise, n, 1) * level.amplitude
  # What the scales below make for each update of D, all at once.
  below = jnp.zeros((rule.d_steps, *level.real.shape[1:]))
  if n:
    below = _chain(rule, state.levels, n, lambda i: _noise(
        rule, jax.random.fold_in(keys.below, i), i, rule.d_steps))

  def update_d(level, xs):
    below, key = xs
    g, d = level.g, level.d
    fake, stats = _generate(rule, n, g, noise, below[None], True)
    (loss, gap), grads = jax.value_and_grad(loss_of_d, has_aux=True)(
        d.params, rule, n, level.real, fake, key)
    return level._replace(g=g._replace(stats=stats),
                          d=_moved(rule, d, grads, d.stats, rate)), (loss, gap)

  def update_g(level, _):
    (loss, (stats, error)), grads = jax.value_and_grad(
        _loss_of_g, has_aux=True)(level.g.params, rule, n, level, noise,
                               below[-1:],
                               jnp.zeros_like(level.real) if n else z)
    return level._replace(g=_moved(rule, level.g, grads, stats, rate)), (
        loss, error)

  level, (d_loss, gap) = _repeated(update_d, level, (below, keys.penalty),
                                    rule.d_steps)
  level, (g_loss, error) = _repeated(update_g, level, None, rule.g_steps)
  levels = list(state.levels)
  levels[n] = level
  return SinganState(state.step + 1, z, tuple(levels)), {
      'd_loss': d_loss, 'd_gap': gap, 'g_loss': g_loss,
      'reconstruction_rmse': jnp.sqrt(error)}


def _repeated(update, level, xs, count: int):
  """Returns the level after all updates, and what the last one says.

  Written out on a CPU, where a loop is slow; elsewhere compiling would be.
  """
  if jax.default_backend() == 'cpu':
    for i in range(count):
      level, out = update(level, jax.tree.map(lambda x, i=i: x[i], xs))
    return level, out
  level, outs = jax.lax.scan(update, level, xs, count)
  return level, jax.tree.map(lambda x: x[-1], outs)


# ----------------------------------------------------------------- sampling
class _Trained(typing.NamedTuple):
  """Of a scale, what sampling needs."""
  g: types.Net
  amplitude: jax.Array


def _variables(state):
  return {'step': state.step, 'z': state.z} | {
      f'scale_{n}': {'params': level.g.params, 'batch_stats': level.g.stats,
                     'amplitude': level.amplitude}
      for n, level in enumerate(state.levels)}


def _trained(rule, variables) -> list[_Trained]:
  scales = [variables[f'scale_{n}'] for n in range(rule.last + 1)]
  return [_Trained(types.Net(scale['params'], scale['batch_stats'], None),
                   scale['amplitude']) for scale in scales]


def _sample(rule, variables, key, labels, given=None, *, start: int = 0):
  """Random images, by the scales that were trained.

  Args:
    variables, key, labels: see types.GenerativeModel.
    given: images that, at the size of the scale below `start`, take the place
      of what the scales below it would have made (section 4, injection).
    start: the first scale whose noise is random; those below give their
      reconstruction, so that later ones keep more of the image as it is.

  Raises:
    InputError: there is no such scale.
  """
  errors.count('start', start, least=0)
  if start > rule.last:
    raise errors.InputError(f'start: {start}; expected 0 to {rule.last}, for '
                            f'there are {rule.last + 1} scales.')
  levels, count = _trained(rule, variables), labels.shape[0]
  step, images = variables['step'], None
  if given is not None and start:
    images = _enlarged(rule, _shrunk(rule, given, start - 1), start)
  elif start:
    below = _reconstruct(rule, levels, variables['z'], start, step)
    images = jnp.broadcast_to(below, (count, *below.shape[1:]))
  return _full(rule, _chain(
      rule, levels, rule.last + 1, lambda n: _noise(
          rule, jax.random.fold_in(key, n), n, count), start, images, step))


def _reconstruction(rule, variables):
  """The image again, [1, H, W, C]."""
  return _full(rule, _reconstruct(rule, _trained(rule, variables),
                                  variables['z'], rule.last + 1,
                                  variables['step']))


def _full(rule, images):
  """Images of the finest scale at the size of the data."""
  size = rule.spec[:2]
  if images.shape[1:3] != size:
    images = resize.resize((images + 1) * 127.5, size, 'clean') / 127.5 - 1
  return jnp.clip(images, -1, 1)


def _parameters(state):
  """How many trainable numbers the networks of all scales have."""
  return {name: sum(x.size for level in state.levels for x in jax.tree.leaves(
      getattr(level, name).params)) for name in 'gd'}


def build(spec: types.ImageSpec, *, steps: int = 12_000, width: int = 32,
          min_size: int = 25, max_size: int = 250, factor: float = 0.75,
          d_steps: int = 3, g_steps: int = 3, lr: float = 5e-4,
          decay_at: float = 0.8, gradient_penalty: float = 0.1,
          penalty_over: str = 'pixel', reconstruction: float = 10.0,
          noise: float = 0.1, redraw: bool = False, eight_bit: bool = False,
          dtype: str = 'float32') -> types.GenerativeModel:
  """Returns the model of one image; a labelled set takes one for each.

  The authors' code differs from the paper where it draws the noise of the
  reconstruction anew at every step and rounds images to 8 bits between scales:
  redraw=True, eight_bit=True. Its resizing mirrors images at their lower and
  right edges alone, MATLAB's and ours at all four. Its updates of G hear of one
  fake, made before the first; here, as the paper has it, of a new one each. The
  norm of the gradient penalty is the code's, pixel by pixel: the paper's
  weights go with it. That of an image's mean score, as the paper says, lets D
  grow so steep that the reconstruction gets lost: of a koala of 64 pixels,
  after 750 of 1,200 steps, an error of 0.61 in place of 0.10 (black to white is
  2).

  Args:
    spec: of the images; both sides of at least `min_size` pixels.
    steps: of all scales together, the same for each; 2,000 in the paper. A step
      is `d_steps` updates of D and `g_steps` of G.
    width: channels of the coarsest scales; doubled every four, up to 128.
    min_size, max_size, factor: the scales go from about `min_size` pixels of
      the shorter side to the image's, in one more than ceil(log(min_size /
      side) / log(factor)) equal steps: 64 pixels have 25, 31, 37, 44, 54 and
      64. Images with a side above `max_size` are made at that and enlarged.
    d_steps, g_steps: see steps.
    lr: Adam's learning rate, betas 0.5 and 0.999,
    decay_at: and a tenth of it after this share of a scale's steps.
    gradient_penalty: its weight.
    penalty_over: 'pixel': the gradient of the sum of an image's scores has a
      norm of 1 at each pixel; 'image': that of their mean has one in all.
    reconstruction: weight of the squared error of the reconstruction.
    noise: of each scale but the first, per root mean squared error of the
      reconstruction below.
    redraw: of the noise that the coarsest scale makes the image of.
    eight_bit: between scales.
    dtype: 'float32' or 'bfloat16', of the computation; weights are float32.

  Raises:
    InputError: a value that cannot be.
  """
  for name, value in (('width', width), ('d_steps', d_steps),
                      ('g_steps', g_steps)):
    errors.count(name, value)
  for name, value in (('gradient_penalty', gradient_penalty),
                      ('reconstruction', reconstruction), ('noise', noise)):
    errors.between(name, value, 0, math.inf)
  errors.positive('lr', lr)
  errors.between('decay_at', decay_at, 0, 1)
  for name, value, known in (
      ('penalty_over', penalty_over, ('image', 'pixel')),
      ('redraw', redraw, (False, True)),
      ('eight_bit', eight_bit, (False, True)),
      ('dtype', dtype, ('float32', 'bfloat16'))):
    errors.one_of(name, value, known)
  scales = pyramid(spec.height, spec.width, min_size=min_size,
                   max_size=max_size, factor=factor)
  count = len(scales.sizes)
  errors.count('steps', steps)
  if steps < count:
    raise errors.InputError(f'steps: {steps}; expected {count} at least, one '
                            'for each scale.')
  of, dtype = widths(count, width), jnp.dtype(dtype)
  rule = Rule(
      spec, scales, tuple(Layers(n, spec.channels, dtype) for n in of),
      tuple(Layers(n, 1, dtype) for n in of),
      tuple(n * steps // count for n in range(count + 1)), lr, decay_at,
      optax.scale_by_adam(0.5, 0.999), d_steps, g_steps, gradient_penalty,
      penalty_over == 'pixel', reconstruction, noise, redraw, eight_bit)
  phases = tuple(types.Phase(
      rule.firsts[n], functools.partial(_step, rule, n),
      functools.partial(_begin, rule, n)) for n in range(1, count))
  return types.GenerativeModel(
      functools.partial(_init, rule), functools.partial(_step, rule, 0),
      _variables, functools.partial(_sample, rule),
      _parameters, adapt=functools.partial(_adapt, rule), phases=phases,
      per_image=True, reconstruct=functools.partial(_reconstruction, rule))
