"""A pool is held against the real images, for copies and leaks."""
import functools
import math
import time

import numpy as np

from jaxaug.core import console, errors, files, types
from jaxaug.data import images
from jaxaug.evaluation import copies
from jaxaug.study import tasks as study_tasks

# A change of what this stage computes belongs into its key.
VERSION = 4
PAIRS = 10
SIDES = ('train', 'validation', 'test')


def tasks(study: study_tasks.Study, fold: study_tasks.Fold,
          made: dict) -> list[study_tasks.Task]:
  """Returns a task for each pool; features are those of the judge."""
  return [_task(study, fold, pool, *made['judge'].values())
          for pool in made['pool'].values()]


def _task(study, fold, pool: study_tasks.Task,
          judge: study_tasks.Task) -> study_tasks.Task:
  folder = study.folder('audit', pool.name, [
      VERSION, pool.key, judge.key, fold.digests(*SIDES)])

  def work():
    run(folder, name=fold.label(pool.name), pool=pool.read(),
        real={side: split for side in SIDES
              if len((split := getattr(fold.splits, side)).labels)},
        features=judge.read().features)
  return study_tasks.Task('audit', pool.name, folder, work,
                          functools.partial(read, folder), needs=(pool, judge),
                          where='config.audit')


def run(folder: files.Folder, *, name: str, pool: types.Split,
        real: dict[str, types.Split], features=None) -> dict:
  """Looks for real images of every split in a pool.

  What is near is told by real images: those of 'train' against the other ones
  of 'train', and against the other splits.

  Args:
    folder: where to; pairs.npz, pairs.png and the manifest.
    name: the pool's.
    pool: images.
    real: of SIDES, 'train' and 'test' at least; of the same shape.
    features: None, or a function uint8 [N, H, W, C] -> float [N, D].

  Returns:
    The manifest; what its 'audit' holds is said in `read`.
  """
  begun = time.monotonic()
  def seen(split):
    return copies.Side(split.images, features and np.asarray(
        features(split.images)))
  pool, sides = seen(pool), {side: seen(split) for side, split in real.items()}
  numbers, pairs = {'n': len(pool.images)}, {}
  for side, those in sides.items():
    report = copies.compare(pool, those,
                            None if side == 'train' else sides['train'])
    numbers[side] = _numbers(report)
    order = np.argsort(report.distance, kind='stable')[:PAIRS]
    index = np.stack([order, report.index[order]], 1)
    pairs |= {f'{side}_pool': pool.images[index[:, 0]],
              f'{side}_real': those.images[index[:, 1]],
              f'{side}_distance': report.distance[order],
              f'{side}_index': index}
  files.begin(folder.partial)
  files.save_npz(folder.partial / 'pairs.npz', **pairs)
  with files.writing(folder.partial):
    images.save_png(folder.partial / 'pairs.png', _picture(
        pairs['test_pool'], pairs['test_real']))
  manifest = {'audit': numbers, 'seconds': time.monotonic() - begun}
  files.finish(folder.partial, folder.final, manifest)
  console.say(f'audit {name}: of {numbers["n"]} images ' + ', '.join(
      f'{numbers[side][kind]} are {kind} copies of {side} images'
      for side in sides for kind in ('exact', 'near')))
  return manifest


def _numbers(report: copies.Report) -> dict:
  return {'exact': int(report.exact.sum()), 'near': int(report.near.sum()),
          'moved': int(report.moved.sum()),
          'share': float((report.exact | report.near).mean()),
          'yardstick_share': float(report.yardstick_found.mean()),
          'yardstick_n': len(report.yardstick),
          'threshold': report.threshold,
          'alike': None if report.alike is None else (
              float(report.alike.mean())),
          'median': float(np.median(report.distance)),
          'yardstick_median': float(np.median(report.yardstick))}


def _picture(left, right) -> np.ndarray:
  """Lays pairs out side by side, two pairs a row, large enough to look at."""
  both = np.stack([left, right], 1).reshape(-1, *left.shape[1:])
  scale = max(1, 96 // left.shape[1])
  return images.grid(both.repeat(scale, 1).repeat(scale, 2), 4)


def read(folder: files.Folder) -> tuple[dict, dict[str, np.ndarray]]:
  """Returns what `run` wrote: (audit, pairs).

  audit: 'n', the pool's size, and for each of SIDES that has images 'exact'
    and 'near' (not counting exact), of which 'moved' are crops, turns or
    recoloured ones, the 'share' of exact and near in the pool,
    'yardstick_share' of 'yardstick_n' real images by the same rule,
    'threshold', 'median' and 'yardstick_median' of `copies.Report.distance`,
    and the share 'alike' in features, or None.
  pairs: for each of SIDES that has images the nearest pairs, the nearest first:
    SIDE_pool and SIDE_real uint8 [P, H, W, C], SIDE_distance float64 [P],
    SIDE_index int64 [P, 2], the place in the pool and in the split.
  """
  return (files.manifest(folder.final)['audit'],
          files.load_npz(folder.final / 'pairs.npz'))


def gate(numbers: dict, name: str, folder: files.Folder, *,
         max_leaks: float = 0.01, allow_leaks: bool = False,
         where: str = 'config.audit'):
  """Refuses a pool of test or validation images; every launch asks it.

  Real images have look-alikes too: a share of near copies that is not above
  theirs, by 3 standard errors, is chance.

  Args:
    numbers: what `read` returned first.
    name: the pool's.
    folder: the audit's.
    max_leaks: share of the pool that may be near copies of such images.
    allow_leaks: accept all.
    where: for the error.

  Raises:
    InputError: an exact copy of such an image, or too many near ones.
  """
  errors.between(f'{where}.max_leaks', max_leaks, 0, 1)
  n = numbers['n']
  for side in ('test', 'validation'):
    if allow_leaks or side not in numbers:
      continue
    found = numbers[side]
    base = found['yardstick_share']
    chance = base + 3 * math.sqrt(
        base * (1 - base) * (1 / n + 1 / found['yardstick_n']))
    allowed = max(max_leaks, chance)
    if found['exact'] or found['near'] / n > allowed:
      raise errors.InputError(
          f'{where}: of the {n} images of pool {name!r}, {found["exact"]} are '
          f'exact and {found["near"]} near copies of {side} images; expected '
          f'none and {allowed:.2%} at most (real images: {base:.2%}); look at '
          f'{folder.final / "pairs.png"}, then remove what let the generator '
          f'see the {side} split, or set {where}.allow_leaks=True.')
