"""An arm becomes an exact, seeded plan of which image stands in which batch.

All real training images and all pools lie in one bank on the device; a plan
names positions in it. A batch is a pure function of (seed, step).
"""
import functools
import math
import typing

import numpy as np

from jaxaug.core import errors, randomness


class Composition(typing.NamedTuple):
  """The training set of one arm: positions, int64, in their own arrays."""
  real: np.ndarray       # In the real training split; repeated: oversampled.
  synthetic: np.ndarray  # In the arm's pool.


class Partners(typing.NamedTuple):
  """The images that others are mixed with, class by class."""
  labels: np.ndarray     # Of the whole bank.
  images: np.ndarray     # Positions in the bank, those of a class together,
  first: np.ndarray      # and where each class begins among them, [K],
  count: np.ndarray      # and how many it has, [K].


class Plan(typing.NamedTuple):
  """What a run needs to know to name any of its batches."""
  real: np.ndarray       # Positions in the bank, int64.
  synthetic: np.ndarray
  batch_size: int
  seed: tuple[int, ...]
  partners: Partners | None = None


# Purposes of randomness, so that no two streams are alike.
_KEEP, _DRAW, _REAL, _SYNTHETIC, _REPEAT, _PARTNER, _SHUFFLE = range(7)


def _apportion(exact: np.ndarray, total: int) -> np.ndarray:
  """Largest remainder: whole numbers near `exact` that sum to `total`."""
  counts = np.floor(exact + 1e-9).astype(np.int64)
  rest = np.argsort(-(exact - counts), kind='stable')
  counts[rest[:total - counts.sum()]] += 1
  return counts


def _shares(counts: np.ndarray, share: float) -> np.ndarray:
  """`share` of each class, whole, and exact in the sum."""
  return _apportion(counts * share, int(np.floor(counts.sum() * share + 0.5)))


def _target(name, value, counts, where) -> int:
  if value == 'max':
    return counts.max()
  errors.count(f"{where}.{name} (or 'max')", value)
  return value


def class_counts(labels: np.ndarray, *, class_names: tuple[str, ...],
                 replace: float | None = None, add: float | None = None,
                 add_per_class=None, fill=None, pool_only: bool = False,
                 oversample=None, classes: tuple = (), pool_counts=None,
                 where: str = 'arm') -> tuple[np.ndarray, np.ndarray]:
  """Returns how many real images an arm keeps and how many it draws a class.

  With none of the choices given, the arm is the real images alone.

  Args:
    labels: int [N], of the real training split.
    class_names: in the order of the labels.
    replace: share of the real images of each class that gives way.
    add: synthetic images for each real one, class by class.
    add_per_class: synthetic images a class: a count, class name -> count, or
      'all' that the pool has.
    fill: adds until every class has this many; 'max' means as many as the
      largest class.
    pool_only: as many synthetic images as there are real, and no real ones.
    oversample: repeats the real images of every class until there are this
      many; 'max' as with fill. A class without images stays without.
    classes: names of the classes that the choice is about, the others staying
      as they are; () for all.
    pool_counts: int [K], images of each class in the arm's pool, for 'all'.
    where: config path, for errors.

  Returns:
    (keep, draw), int64 [K] each; keep is more than there are where images are
    repeated.

  Raises:
    InputError: more than one choice, or a value out of range.
  """
  chosen = {'replace': replace, 'add': add, 'add_per_class': add_per_class,
            'fill': fill, 'pool_only': pool_only or None,
            'oversample': oversample}
  chosen = {k: v for k, v in chosen.items() if v is not None}
  if len(chosen) > 1:
    raise errors.InputError(
        f'{where}: {" and ".join(chosen)} exclude each other; expected one.')
  counts = np.bincount(labels, minlength=len(class_names))
  if classes:
    return _of_some(counts, labels, classes, class_names=class_names,
                    where=where, pool_counts=pool_counts, **chosen)
  if replace is not None:
    errors.between(f'{where}.replace', replace, 0, 1)
    out = _shares(counts, replace)
    return counts - out, out
  if add is not None:
    errors.between(f'{where}.add', add, 0, math.inf)
    if add * counts.max() >= 2**31:
      raise errors.InputError(
          f'{where}.add: {add!r}; expected fewer than 2**31 images a class.')
    return counts, _shares(counts, add)
  if add_per_class is not None:
    key = f'{where}.add_per_class'
    if isinstance(add_per_class, str):
      errors.one_of(key, add_per_class, ('all',))
      # Without a pool the arm is refused, see check.
      return counts, np.zeros_like(counts) if pool_counts is None else (
          np.asarray(pool_counts))
    if not isinstance(add_per_class, dict):
      add_per_class = dict.fromkeys(class_names, add_per_class)
    for name, count in add_per_class.items():
      errors.one_of(key, name, class_names)
      errors.count(key, count, least=0)
    return counts, np.array([add_per_class.get(n, 0) for n in class_names])
  if fill is not None:
    return counts, np.maximum(_target('fill', fill, counts, where) - counts, 0)
  if oversample is not None:
    target = _target('oversample', oversample, counts, where)
    repeated = np.where(counts > 0, np.maximum(target, counts), 0)
    return repeated, np.zeros_like(counts)
  if pool_only:
    return np.zeros_like(counts), counts
  return counts, np.zeros_like(counts)


def _of_some(counts, labels, classes, *, class_names, where, pool_counts,
             **choice):
  """Makes a choice of class_counts for some classes alone."""
  if not choice:
    raise errors.InputError(
        f'{where}.classes: {tuple(classes)}; expected (), for the arm takes '
        'the real images as they are.')
  some = np.zeros(len(counts), bool)
  for name in classes:
    errors.one_of(f'{where}.classes', name, class_names)
    some[class_names.index(name)] = True
  per_class = choice.get('add_per_class')
  for name in per_class if isinstance(per_class, dict) else ():
    errors.one_of(f'{where}.add_per_class', name, tuple(classes))
  keep, draw = class_counts(labels, class_names=class_names, where=where,
                            pool_counts=pool_counts, **choice)
  return np.where(some, keep, counts), np.where(some, draw, 0)


def check(labels: np.ndarray, pool_counts: np.ndarray | None, *,
          class_names: tuple[str, ...], partner: bool = False,
          where: str = 'arm', **how: class_counts,
          ) -> tuple[np.ndarray, np.ndarray]:
  """Returns what class_counts does, and refuses what the pool cannot give.

  Args:
    labels: int [N], of the real training split.
    pool_counts: int [K], images of each class in the arm's pool; None without
      one.
    class_names: in the order of the labels.
    partner: the pool's images are partners to mix with, see `partners`; that
      is a use of the pool, and by itself puts none of them into a batch.
    where: config path, for errors.
    **how: see class_counts.

  Raises:
    InputError: what class_counts refuses, a pool without a use, a use without
      a pool, or a pool that holds too few images of a class, or none.
  """
  keep, draw = class_counts(labels, class_names=class_names, where=where,
                            pool_counts=pool_counts, **how)
  uses = [k for k, v in (how | {'partner': partner}).items()
          if v is not None and v is not False
          and k not in ('oversample', 'classes')]
  if pool_counts is not None and not uses:
    raise errors.InputError(
        f'{where}.pool: given, but not how to use it; expected one of replace, '
        'add, add_per_class, fill, pool_only, partner.')
  if uses and pool_counts is None:
    raise errors.InputError(
        f'{where}.pool: missing; {uses[0]} needs the name of a pool of '
        'config.pools.')
  for key in ('add_per_class', 'fill'):
    if how.get(key) is not None and not draw.any():
      raise errors.InputError(
          f'{where}.{key}: {how[key]!r}; expected to add images, and no class '
          'that it is about wants any.')
  if how.get('oversample') is not None and keep.sum() == len(labels):
    raise errors.InputError(
        f'{where}.oversample: {how["oversample"]!r}; expected to repeat '
        'images, and no class that it is about has fewer.')
  for k, name in enumerate(class_names):
    if partner and keep[k] and not pool_counts[k]:
      raise _no_partner(where, name)
    if draw[k] and not pool_counts[k]:
      raise errors.InputError(
          f'{where}: needs {draw[k]} synthetic images of class {name!r}, which '
          'its pool has none of, for it is of other classes; '
          f'expected {where}.classes to name some of '
          f'{_with_images(pool_counts, class_names)}.')
    if draw[k] and draw[k] > pool_counts[k]:
      raise errors.InputError(
          f'{where}: class {name!r} needs {draw[k]} synthetic images and the '
          f'pool holds {pool_counts[k]}; expected a pool of that many, see '
          'config.pools.NAME.per_class.')
  return keep, draw


def compose(labels: np.ndarray, pool_labels: np.ndarray | None, *,
            class_names: tuple[str, ...], seed: tuple[int, ...],
            where: str = 'arm', **how: check) -> Composition:
  """Chooses the images of an arm, class by class.

  Args:
    labels: int [N], of the real training split.
    pool_labels: int [M], of the arm's pool, or None without one.
    class_names: in the order of the labels.
    seed: of the choice; arms that share it choose alike.
    where: config path, for errors.
    **how: see check and class_counts.

  Raises:
    InputError: what `check` refuses.
  """
  counts = None if pool_labels is None else np.bincount(
      pool_labels, minlength=len(class_names))
  keep, draw = check(labels, counts, class_names=class_names, where=where,
                     **how)
  real, synthetic = [], []
  for k in range(len(class_names)):
    order = np.flatnonzero(labels == k)
    if keep[k] < len(order):
      order = np.sort(randomness.generator(*seed, _KEEP, k).permutation(
          order)[:keep[k]])
    elif keep[k] > len(order):
      times, rest = divmod(int(keep[k]), len(order))
      more = randomness.generator(*seed, _REPEAT, k).permutation(order)[:rest]
      order = np.concatenate([np.tile(order, times), more])
    real.append(order)
    if draw[k]:
      have = randomness.generator(*seed, _DRAW, k).permutation(
          np.flatnonzero(pool_labels == k))[:draw[k]]
      synthetic.append(np.sort(have))
  empty = np.zeros(0, np.int64)
  return Composition(np.sort(np.concatenate(real)),
                     np.sort(np.concatenate([empty, *synthetic])))


def _with_images(counts, class_names) -> str:
  return ', '.join(repr(name) for name, count in zip(
      class_names, counts, strict=True) if count)


def _no_partner(where, name):
  return errors.InputError(
      f'{where}.partner: class {name!r} has no image in the pool; expected at '
      'least one to mix with.')


def everything(count: int) -> Composition:
  """Every one of `count` real images, and no synthetic one."""
  return Composition(np.arange(count), np.zeros(0, np.int64))


def check_batch(batch_size: int, total: int):
  """Raises InputError for a batch of more images than there are, or of none."""
  if not 0 < batch_size <= total:
    raise errors.InputError(
        f'batch_size: {batch_size}; expected 1 to {total}, the number of '
        'training images.')


def plan(composition: Composition, *, pool_start: int, batch_size: int,
         seed: tuple[int, ...], partners=None) -> Plan:
  """Returns the plan of a run.

  Args:
    composition: of its arm.
    pool_start: where the arm's pool lies in the bank.
    batch_size: images a step.
    seed: of the order.
    partners: None, or (labels int [N] of the whole bank, positions int [M] in
      it of the images that `partners` draws from).

  Raises:
    InputError: a batch larger than the arm's training set, or an empty one; a
      class of that set that has no partner.
  """
  real, synthetic = composition
  total = len(real) + len(synthetic)
  check_batch(batch_size, total)
  made = Plan(real, synthetic + pool_start, batch_size, seed)
  if partners is None:
    return made
  labels, positions = np.asarray(partners[0]), np.sort(partners[1])
  count = np.bincount(labels[positions], minlength=labels.max() + 1)
  mine = np.concatenate([made.real, made.synthetic])
  for k in np.unique(labels[mine]):
    if not count[k]:
      raise _no_partner('arm', int(k))
  images = positions[np.argsort(labels[positions], kind='stable')]
  return made._replace(
      partners=Partners(labels, images, np.cumsum(count) - count, count))


@functools.lru_cache(16)
def _epoch(seed: tuple[int, ...], count: int) -> np.ndarray:
  return randomness.generator(*seed).permutation(count)


def _stream(seed, purpose, members, start, stop) -> np.ndarray:
  """Places start..stop of the endless run of shuffled epochs of `members`."""
  place = np.arange(start, stop)
  epochs = place // max(len(members), 1)
  out = np.empty(len(place), np.int64)
  for epoch in np.unique(epochs):
    here = epochs == epoch
    order = _epoch((*seed, purpose, int(epoch)), len(members))
    out[here] = members[order[place[here] % len(members)]]
  return out


def synthetic_before(plan: Plan, step: int) -> int:
  """How many synthetic images stand in the batches before `step`, exactly.

  The largest remainder over batches: n B f rounded, in whole numbers, so that
  the count in every batch is the floor or the ceiling of B f.
  """
  total = len(plan.real) + len(plan.synthetic)
  return (2 * step * plan.batch_size * len(plan.synthetic) + total) // (
      2 * total)


def batch(plan: Plan, step: int) -> np.ndarray:
  """Returns the bank positions, int32 [B], of batch `step`: real ones first.

  Each side runs through shuffled epochs of its own.
  """
  first, last = synthetic_before(plan, step), synthetic_before(plan, step + 1)
  size = plan.batch_size
  return np.concatenate([
      _stream(plan.seed, _REAL, plan.real, step * size - first,
              (step + 1) * size - last),
      _stream(plan.seed, _SYNTHETIC, plan.synthetic, first, last),
  ]).astype(np.int32)


def epochs(count: int, batch_size: int, seed: int, batches: int = 1):
  """Returns feed(i) -> int32 [batches, B]: shuffled epochs of `count` images,
  so many batches of them at each step i."""
  made = plan(everything(count), pool_start=0, batch_size=batch_size,
              seed=(seed,))
  return lambda i: np.stack([batch(made, k) for k in range(
      i * batches, (i + 1) * batches)])


def partners(plan: Plan, step: int) -> np.ndarray:
  """Returns what batch `step` is mixed with: bank positions, int32 [B].

  For each image of the batch one of the same class, any of the plan's partners
  alike, with replacement.
  """
  group = plan.partners
  labels = group.labels[batch(plan, step)]
  draw = randomness.generator(*plan.seed, _PARTNER, step).integers(
      group.count[labels])
  return group.images[group.first[labels] + draw].astype(np.int32)


def shuffled(plan: Plan, step: int) -> np.ndarray:
  """Returns batch `step` in another order: bank positions, int32 [B]."""
  return randomness.generator(*plan.seed, _SHUFFLE, step).permutation(
      batch(plan, step))


def class_weights(counts, power: float, *, where: str = 'arm') -> np.ndarray:
  """Returns the weight of a class's images in the loss, float32 [K].

  Proportional to counts**-power, with a mean of 1 over the training images; 0
  for a class without images.

  Args:
    counts: int [K], training images of each class.
    power: 1.0 balances the classes, 0.5 is the square root, 0.0 changes
      nothing.
    where: config path, for errors.

  Raises:
    InputError: a negative power.
  """
  errors.between(f'{where}.class_weights', power, 0, math.inf)
  counts = np.asarray(counts, np.float64)
  with np.errstate(all='ignore'):
    weights = np.where(counts > 0, np.maximum(counts, 1) ** -power, 0)
    weights = (weights * counts.sum() / (weights * counts).sum()).astype(
        np.float32)
  _check_finite(weights, f'{where}.class_weights', power)
  return weights


def _check_finite(values: np.ndarray, where: str, given):
  if not np.isfinite(values).all():
    raise errors.InputError(
        f'{where}: {given} makes numbers beyond float32 of these classes; '
        'expected less.')


# In place of the logarithm of nothing: no share in a softmax of float32, yet
# finite where label smoothing multiplies it.
_LOG_NOTHING = -1e4


def log_prior(counts, tau: float, *, where: str = 'arm') -> np.ndarray:
  """Returns what is added to the training logits, float32 [K].

  tau times the logarithm of each class's share: the balanced softmax of Ren et
  al. 2020 at a tau of 1, and the logit-adjusted loss of Menon et al. 2021. A
  class without images has tau times -1e4.

  Args:
    counts: int [K], training images of each class.
    tau: 0 or more; 0 changes nothing.
    where: config path, for errors.

  Raises:
    InputError: a negative tau.
  """
  errors.between(f'{where}.logit_adjustment', tau, 0, math.inf)
  counts = np.asarray(counts, np.float64)
  share = np.maximum(counts, 1) / counts.sum()
  with np.errstate(all='ignore'):
    prior = (tau * np.where(counts > 0, np.log(share), _LOG_NOTHING)).astype(
        np.float32)
  _check_finite(prior, f'{where}.logit_adjustment', tau)
  return prior
