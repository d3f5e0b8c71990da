"""Arms: one way each to make the training set, and what is done to its images.

An arm is what common.arm returns in a config, and this tuple from there on.
"""
import typing

import numpy as np

from jaxaug.augment import mix as mixtures
from jaxaug.core import errors
from jaxaug.data import mixing
from jaxaug.training import fit

PARTNERS = ('batch', 'synthetic')
# Which images: at most one of them is given, see mixing.class_counts.
HOW = ('replace', 'add', 'add_per_class', 'fill', 'pool_only', 'oversample')
# What is done beside choosing the images.
TREATMENT = ('augment', 'mix', 'mix_alpha', 'partner', 'class_weights',
             'logit_adjustment')


class Arm(typing.NamedTuple):
  """One arm; an empty word or None is nothing of that kind.

  Args:
    name: what it is called.
    pool: a name of config.pools, or '' for real images alone.
    augment: a name of config.augmentations, or ''.
    baseline: the arm that it is compared with, or '' for config.baseline; the
      two should differ in one thing only.
    mix: 'mixup' or 'cutmix', or ''.
    mix_alpha: of its Beta distribution.
    partner: what an image is mixed with: 'batch', the others of its batch, or
      'synthetic', an image of its class from the pool.
    class_weights: the power of a class's inverse count that weighs its images
      in the loss; 1.0 balances the classes.
    logit_adjustment: 1.0 is the balanced softmax, see mixing.log_prior.
    replace, add, add_per_class, fill, pool_only, oversample: which images, at
      most one of them; see mixing.class_counts.
    classes: names of the classes whose images that changes; () for all,
      ('minority',) for those of config.minority.
  """
  name: str
  pool: str = ''
  augment: str = ''
  baseline: str = ''
  mix: str = ''
  mix_alpha: float = 1.0
  partner: str = 'batch'
  class_weights: float = 0.0
  logit_adjustment: float = 0.0
  replace: float | None = None
  add: float | None = None
  add_per_class: typing.Any = None
  fill: int | str | None = None
  pool_only: bool = False
  oversample: int | str | None = None
  classes: tuple = ()

  @property
  def how(self) -> dict:
    """What it says of its images, without what it leaves open."""
    given = {key: getattr(self, key) for key in HOW}
    how = {k: v for k, v in given.items() if v is not None and v is not False}
    return how | ({'classes': tuple(self.classes)} if self.classes else {})

  @property
  def with_partners(self) -> bool:
    """Whether images of the pool are mixed into others."""
    return self.partner == 'synthetic'

  @property
  def treatment(self) -> tuple:
    """What it does beside choosing its images; equal ones can be compared."""
    return tuple(getattr(self, key) for key in TREATMENT)

  @property
  def ratio(self) -> tuple[str, float] | None:
    """How it uses its pool, and generated images for a real one."""
    if self.pool_only:  # Nothing else than to replace all.
      return 'replace', 1.0
    return next(((kind, float(getattr(self, kind)))
                 for kind in ('replace', 'add')
                 if getattr(self, kind) is not None), None)


def complete(given: dict):
  """Writes out what an arm of a config does beside choosing its images."""
  for key in ('pool', 'augment', 'baseline', *TREATMENT):
    given.setdefault(key, Arm._field_defaults[key])


def read(given) -> tuple[Arm, ...]:
  """Returns config.arms.

  Args:
    given: dicts as common.arm returns them.

  Raises:
    InputError: something else, an unknown key, or two arms of one name.
  """
  out = []
  for i, arm in enumerate(given):
    where = f'config.arms[{i}]'
    if not isinstance(arm, dict):
      raise errors.InputError(f'{where}: {arm!r}; expected what common.arm '
                              'returns.')
    for key in arm:
      if key not in Arm._fields:
        raise errors.InputError(
            f'{where}.{key}: unknown key; expected one of '
            f'{", ".join(Arm._fields)}.{errors.nearest(key, Arm._fields)}')
    if not arm.get('name') or arm['name'] in [other.name for other in out]:
      raise errors.InputError(
          f'{where}.name: {arm.get("name")!r}; expected a name of its own.')
    out.append(Arm(**arm))
  if not out:
    raise errors.InputError('config.arms: empty; expected at least one arm.')
  return tuple(out)


def check(arm: Arm, where: str):
  """Refuses what MixUp and the loss of an arm cannot be."""
  errors.one_of(f'{where}.mix', arm.mix, ('', *mixtures.KINDS))
  errors.one_of(f'{where}.partner', arm.partner, PARTNERS)
  errors.positive(f'{where}.mix_alpha', arm.mix_alpha)
  for key in ('class_weights', 'logit_adjustment'):
    errors.between(f'{where}.{key}', getattr(arm, key), 0, float('inf'))
  if arm.with_partners and not (arm.mix and arm.pool):
    raise errors.InputError(
        f"{where}.partner: 'synthetic' needs a pool and mix='mixup' or "
        "'cutmix'.")


def treat(arm: Arm, augmentations: dict, counts: np.ndarray,
          where: str) -> fit.Treatment:
  """Returns what an arm does to its batches and to the loss.

  Args:
    arm: the arm.
    augmentations: of the config, by name.
    counts: int [K], its training images of each class.
    where: its config path, for errors.
  """
  augmentation = augmentations[arm.augment] if arm.augment else {}
  return fit.Treatment(
      fit.Feed(fit.pairs(augmentation), arm.mix, arm.mix_alpha), arm.partner,
      mixing.class_weights(counts, arm.class_weights, where=where),
      mixing.log_prior(counts, arm.logit_adjustment, where=where))


def describe(arm: Arm) -> str:
  """Returns an arm in words."""
  chosen = next((key for key in arm.how if key in HOW), None)
  if chosen is None:
    words = 'real images'
  elif chosen == 'replace':
    words = (f'{arm.replace:.0%} of the real images replaced by {arm.pool} '
             'images')
  elif chosen == 'add':
    words = f'real images and {arm.add:.0%} as many {arm.pool} images'
  elif chosen == 'add_per_class' and arm.add_per_class == 'all':
    words = f'real images and all of {arm.pool}'
  elif chosen == 'add_per_class':
    words = 'real images and ' + (
        ' and '.join(f'{count} of {name}'
                     for name, count in arm.add_per_class.items())
        + f' by {arm.pool}' if isinstance(arm.add_per_class, dict) else
        f'{arm.add_per_class} {arm.pool} images a class')
  elif chosen == 'fill':
    words = f'real images, classes filled to {arm.fill} with {arm.pool} images'
  elif chosen == 'pool_only':
    words = f'{arm.pool} images alone, as many as there are real'
  else:
    words = f'real images, classes repeated up to {arm.oversample}'
  if arm.classes:
    words += f' (of {" and ".join(map(str, arm.classes))})'
  return ', '.join([words, *_treatment_words(arm)])


def _treatment_words(arm: Arm) -> list[str]:
  """What an arm does beside choosing its images, in words."""
  out = []
  if arm.augment:
    out.append(f'{arm.augment} augmentation')
  if arm.mix:
    name = {'mixup': 'MixUp', 'cutmix': 'CutMix'}[arm.mix]
    partner = (f'{arm.pool} images of the same class' if arm.with_partners else
               'each other')
    out.append(f'{name} with {partner}')
  if arm.class_weights == 1:
    out.append('class weights')
  elif arm.class_weights:
    out.append(f'class weights to the power {arm.class_weights:g}')
  if arm.logit_adjustment == 1:
    out.append('balanced softmax')
  elif arm.logit_adjustment:
    out.append(f'logits adjusted by {arm.logit_adjustment:g}')
  return out
