"""An arm becomes an exact, seeded plan of which image stands in which batch.

All real training images and all pools lie in one bank on the device; a plan
names positions in it. A batch is a pure function of (seed, step).
"""
import functools
import math
import typing

import numpy as np

from jaxaug import errors


class Composition(typing.NamedTuple):
  """The training set of one arm: positions, int64, in their own arrays."""
  real: np.ndarray       # In the real training split.
  synthetic: np.ndarray  # In the arm's pool.


class Plan(typing.NamedTuple):
  """What a run needs to know to name any of its batches."""
  real: np.ndarray       # Positions in the bank, int64.
  synthetic: np.ndarray
  batch_size: int
  seed: tuple[int, ...]


def _generator(*key: int) -> np.random.Generator:
  return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


# Purposes of randomness, so that no two streams are alike.
_KEEP, _DRAW, _REAL, _SYNTHETIC = range(4)


def _apportion(exact: np.ndarray, total: int) -> np.ndarray:
  """Largest remainder: whole numbers near `exact` that sum to `total`."""
  counts = np.floor(exact + 1e-9).astype(np.int64)
  rest = np.argsort(-(exact - counts), kind='stable')
  counts[rest[:total - counts.sum()]] += 1
  return counts


def _shares(counts: np.ndarray, share: float) -> np.ndarray:
  """`share` of each class, whole, and exact in the sum."""
  return _apportion(counts * share, int(np.floor(counts.sum() * share + 0.5)))


def class_counts(labels: np.ndarray, *, class_names: tuple[str, ...],
                 replace: float | None = None, add: float | None = None,
                 add_per_class=None, fill=None, pool_only: bool = False,
                 where: str = 'arm') -> tuple[np.ndarray, np.ndarray]:
  """Returns how many real images an arm keeps and how many it draws a class.

  With none of the choices given, the arm is the real images alone.

  Args:
    labels: int [N], of the real training split.
    class_names: in the order of the labels.
    replace: share of the real images of each class that gives way.
    add: synthetic images for each real one, class by class.
    add_per_class: synthetic images a class: a count, or class name -> count.
    fill: adds until every class has this many; 'max' means as many as the
      largest class.
    pool_only: as many synthetic images as there are real, and no real ones.
    where: config path, for errors.

  Returns:
    (keep, draw), int64 [K] each.

  Raises:
    InputError: more than one choice, or a value out of range.
  """
  chosen = {'replace': replace, 'add': add, 'add_per_class': add_per_class,
            'fill': fill, 'pool_only': pool_only or None}
  chosen = [k for k, v in chosen.items() if v is not None]
  if len(chosen) > 1:
    raise errors.InputError(
        f'{where}: {" and ".join(chosen)} exclude each other; expected one.')
  counts = np.bincount(labels, minlength=len(class_names))
  if replace is not None:
    errors.between(f'{where}.replace', replace, 0, 1)
    out = _shares(counts, replace)
    return counts - out, out
  if add is not None:
    errors.between(f'{where}.add', add, 0, math.inf)
    return counts, _shares(counts, add)
  if add_per_class is not None:
    key = f'{where}.add_per_class'
    if not isinstance(add_per_class, dict):
      add_per_class = dict.fromkeys(class_names, add_per_class)
    for name, count in add_per_class.items():
      errors.one_of(key, name, class_names)
      errors.count(key, count, least=0)
    return counts, np.array([add_per_class.get(n, 0) for n in class_names])
  if fill is not None:
    if fill != 'max':
      errors.count(f"{where}.fill (or 'max')", fill)
    target = counts.max() if fill == 'max' else fill
    return counts, np.maximum(target - counts, 0)
  if pool_only:
    return np.zeros_like(counts), counts
  return counts, np.zeros_like(counts)


def compose(labels: np.ndarray, pool_labels: np.ndarray | None, *,
            class_names: tuple[str, ...], seed: tuple[int, ...],
            where: str = 'arm', **how: class_counts) -> Composition:
  """Chooses the images of an arm, class by class.

  Args:
    labels: int [N], of the real training split.
    pool_labels: int [M], of the arm's pool, or None without one.
    class_names: in the order of the labels.
    seed: of the choice; arms that share it choose alike.
    where: config path, for errors.
    **how: see class_counts.

  Raises:
    InputError: what class_counts refuses, a pool without a use, a use without
      a pool, or a pool that holds too few images of a class.
  """
  keep, draw = class_counts(labels, class_names=class_names, where=where, **how)
  used = any(v is not None and v is not False for v in how.values())
  if pool_labels is not None and not used:
    raise errors.InputError(
        f'{where}.pool: given, but not how to use it; expected one of replace, '
        'add, add_per_class, fill, pool_only.')
  if used and pool_labels is None:
    raise errors.InputError(
        f'{where}.pool: missing; {next(iter(how))} needs the name of a pool of '
        'config.pools.')
  real, synthetic = [], []
  for k, name in enumerate(class_names):
    order = np.flatnonzero(labels == k)
    if keep[k] < len(order):
      order = np.sort(_generator(*seed, _KEEP, k).permutation(order)[:keep[k]])
    real.append(order)
    if draw[k]:
      have = np.flatnonzero(pool_labels == k)
      if draw[k] > len(have):
        raise errors.InputError(
            f'{where}: class {name!r} needs {draw[k]} synthetic images and the '
            f'pool holds {len(have)}; expected config.pools.NAME.per_class of '
            f'at least {draw[k]}.')
      have = _generator(*seed, _DRAW, k).permutation(have)[:draw[k]]
      synthetic.append(np.sort(have))
  empty = np.zeros(0, np.int64)
  return Composition(np.sort(np.concatenate(real)),
                     np.sort(np.concatenate([empty, *synthetic])))


def everything(count: int) -> Composition:
  """Every one of `count` real images, and no synthetic one."""
  return Composition(np.arange(count), np.zeros(0, np.int64))


def plan(composition: Composition, *, pool_start: int, batch_size: int,
         seed: tuple[int, ...]) -> Plan:
  """Returns the plan of a run; `pool_start` is where its pool lies in the bank.

  Raises:
    InputError: a batch larger than the arm's training set, or an empty one.
  """
  real, synthetic = composition
  total = len(real) + len(synthetic)
  if not 0 < batch_size <= total:
    raise errors.InputError(
        f'batch_size: {batch_size}; expected 1 to {total}, the number of '
        'training images.')
  return Plan(real, synthetic + pool_start, batch_size, seed)


@functools.lru_cache(16)
def _epoch(seed: tuple[int, ...], count: int) -> np.ndarray:
  return _generator(*seed).permutation(count)


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
