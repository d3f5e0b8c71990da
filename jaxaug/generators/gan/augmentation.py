"""What D sees of all images, by the flat keys of a config: DiffAugment and ADA.

Each function returns its Augmentation, or None where it has no policy.
"""
import typing

import jax

from jaxaug.augment import ada as adaptive
from jaxaug.augment import diff_augment as differentiable
from jaxaug.core import errors


class Augmentation(typing.NamedTuple):
  """A change to images, and what it remembers.

  apply(key, images [B, H, W, C], control) -> images. start() -> control.
  after(control, scores) -> control: hears D's scores of real images [B].
  """
  apply: typing.Callable
  start: typing.Callable = dict
  after: typing.Callable = lambda control, scores: control


def diff_augment(*, diff_augment: str = '',
                 diff_augment_fill: float = 0.0) -> Augmentation | None:
  """DiffAugment.

  Args:
    diff_augment: policy of DiffAugment: some of 'color,translation,cutout', or
      '' for none.
    diff_augment_fill: value of the pixels that it vacates; -1 on black ground.
  """
  errors.between('diff_augment_fill', diff_augment_fill, -1, 1)
  fixed = differentiable.make(
      diff_augment, fill=diff_augment_fill, where='diff_augment')
  def apply(key, images, control):
    del control
    return fixed(key, images)
  return Augmentation(apply) if diff_augment else None


def ada(*, ada: str = '', ada_target: float = 0.6, ada_every: int = 4,
        ada_images: int = 500_000) -> Augmentation | None:
  """ADA.

  Args:
    ada: policy of adaptive augmentation, such as 'bgc', or '' for none; with
      strength p, which rises while D knows the real images too well.
    ada_target: of the mean sign of D's scores of real images.
    ada_every: updates of D between two moves of p.
    ada_images: real images that take p from 0 to 1.
  """
  errors.between('ada_target', ada_target, -1, 1)
  errors.count('ada_every', ada_every)
  errors.count('ada_images', ada_images)
  adapted = adaptive.pipeline(ada, where='ada')
  def apply(key, images, control):
    return adapted(jax.random.fold_in(key, 100), images, control['ada'].p)
  def start():
    return {'ada': adaptive.start()}
  def after(control, scores):
    seen = adaptive.observe(control['ada'], scores)
    return control | {'ada': adaptive.adjust(seen, len(scores), ada_target,
                                             ada_every, ada_images)}
  return Augmentation(apply, start, after) if ada else None


ALL = ada, diff_augment  # In the order in which they act.
