"""What the two players of a GAN are given: optimizers, penalties, augmentation.

Each function takes its own options and hands the rest on: together their
signatures are the options of every GAN, see adversarial.py.
"""
import math
import typing

import jax
import jax.numpy as jnp
import optax

from jaxaug.augment import ada as adaptive
from jaxaug.augment import diff_augment as augment
from jaxaug.core import errors
from jaxaug.generators.gan import penalties


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
  """Returns what holds D back, and the optimizers; see penalties.py.

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


class Augment(typing.NamedTuple):
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
  fixed = augment.make(
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
  return Augment(start, apply, after), *regular


def noise(kind: str, truncation: float):
  """Returns draw(key, shape, truncated=False) -> z.

  Args:
    kind: 'normal', or 'uniform' from -1 to 1.
    truncation: z beyond it is drawn again where `truncated`; 0 for none.
  """
  errors.one_of('noise', kind, ('normal', 'uniform'))
  errors.between('truncation', truncation, 0, math.inf)
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


def ranking(share: float, gamma: float, every: int):
  """Returns weights(step, scores [B]) of the fakes that G learns from, or None.

  Args:
    share: of the best scored, at the end; 1.0 for all.
    gamma, every: its factor each so many steps, see penalties.top_k_count.
  """
  errors.between('top_k', share, 0, 1)
  errors.between('top_k_gamma', gamma, 0, 1)
  errors.count('top_k_every', every)
  def weights(step, scores):
    if share == 1:
      return None
    return penalties.top_k(scores, penalties.top_k_count(
        step, len(scores), gamma, every, share))
  return weights


def resting(balance: str, loss: str):
  """Returns moves(parts, g_loss) -> (D moves, G moves) or None for no rests.

  Args:
    balance: 'none', 'margin' or 'behind', see penalties.
    loss: what it balances; the limits of 'margin' are of cross-entropies.
  """
  errors.one_of('balance', balance, ('none', 'margin', 'behind'))
  if balance == 'margin' and loss != 'non_saturating':
    raise errors.InputError(
        f"balance: 'margin' has limits of a cross-entropy, and the loss is "
        f"{loss!r}; expected loss 'non_saturating', or 'behind'.")
  def moves(parts, g_loss):
    if balance == 'margin':
      return penalties.margin(*parts)
    return penalties.behind(sum(parts), g_loss)
  return None if balance == 'none' else moves
