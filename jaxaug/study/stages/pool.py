"""A generator draws a labelled set, or somebody brings one; selectors look on.
"""
import functools
import itertools
import math
import time
import typing

import jax
import numpy as np

from jaxaug.core import (
  console,
  errors,
  files,
  memory,
  randomness,
  registry,
  types,
)
from jaxaug.data import images, origins, pixels, pools, splits
from jaxaug.study import imports, selection
from jaxaug.study import tasks as study_tasks
from jaxaug.study.stages import generate

# A change of what this stage computes belongs into its key.
VERSION = 6
# Selectors that keep fewer than one image in this many have failed.
MOST_DRAWS = 20


class Source(typing.NamedTuple):
  """What a pool is drawn by.

  draw: see data/origins.py. variables: what it takes. generator: its name.
  key: of its trainings, in a hash.
  """
  draw: typing.Callable
  variables: typing.Any
  generator: str
  key: str


def tasks(study: study_tasks.Study, fold: study_tasks.Fold,
          made: dict) -> list[study_tasks.Task]:
  """Returns a task for each of config.pools."""
  return [_brought(study, fold, name) if imports.is_import(block) else
          _task(study, fold, name, made)
          for name, block in study.config['pools'].items()]


def _brought(study, fold, name: str) -> study_tasks.Task:
  """The task of a pool that somebody else made."""
  block, where = study.config['pools'][name], f'config.pools.{name}'
  found, names = fold.brought[name], fold.splits.class_names
  selects, reads = _selectors(study, fold, block['selectors'], where)
  # Refuses what no report should be written of.
  imports.provenance(block, fold.splits.report['digests'], where)
  folder = study.folder('pool', name, [
      VERSION, imports.key(block), study.spec, reads,
      fold.pool_sizes[name].tolist(), names])
  bytes_ = len(found.labels) * math.prod(study.spec[:3])
  if not folder.final.exists():
    memory.check(f'{where}.path', 3 * bytes_, f'{len(found.labels)} images')

  def work():
    bring(folder, name=fold.label(name), found=found, data=fold.splits,
          least=fold.pool_sizes[name], per_class=block['per_class'],
          selects=selects)
  return study_tasks.Task('pool', name, folder, work,
                          functools.partial(read, folder),
                          size=lambda: study_tasks.Size(bytes_), where=where)


def _task(study, fold, name: str, made: dict) -> study_tasks.Task:
  block, seed = study.config['pools'][name], study.seed('pool', name)
  where, generator = f'config.pools.{name}', block['generator']
  sizes, names = fold.pool_sizes[name], fold.splits.class_names
  model, trained = study.models[generator], generate.of(generator, made)
  registry.check(model.sample, block['draw'], f'{where}.draw')
  if block['draw']:
    _check_draw(model, study.spec, block['draw'], f'{where}.draw')
  score = functools.partial(_score, trained[0]) if model.critic else None
  selects, reads = _selectors(study, fold, block['selectors'], where, score)
  needs, chosen = tuple(trained), None
  if model.per_image:
    chosen = made['represent'][study.config['generators'][generator][
        'representatives']]
    needs = (chosen, *trained)
  keys = [task.key for task in trained]
  folder = study.folder('pool', name, [
      VERSION, keys, fold.digests('train'), {
          key: block[key] for key in ('batch_size', 'draw')}, reads,
      sizes.tolist(), seed, names])

  bytes_ = int(sizes.sum()) * math.prod(study.spec[:3])
  if not folder.final.exists():
    memory.check(f'{where}.per_class', 2 * bytes_,
                 f'{sizes.max()} images a class')

  def work():
    run(folder, name=fold.label(name), source=_source(
        study, fold, block, trained, chosen), data=fold.splits, seed=seed,
        sizes=sizes, batch_size=block['batch_size'], selects=selects)
  return study_tasks.Task('pool', name, folder, work,
                          functools.partial(read, folder,
                                            fold.digests('train')[0]),
                          needs=needs,
                          size=lambda: study_tasks.Size(bytes_), where=where)


def _selectors(study, fold, names, where: str, score=None):
  """Returns (name -> select of `selection.build`, what they read)."""
  found = {name: selection.named(study.config, name, f'{where}.selectors')
           for name in names}
  return ({name: selection.build(study, fold, each, score=score)
           for name, each in found.items()},
          [selection.reads(study, fold, each) for each in found.values()])


def _check_draw(model, spec: types.ImageSpec, given: dict, where: str):
  """Refuses values that `model.sample` does: before its training."""
  shape, key = spec[:3], jax.random.key(0)
  variables = jax.eval_shape(lambda: model.variables(model.init(key)))
  images_ = (jax.ShapeDtypeStruct((1, *shape), np.float32),) if (
      model.origins) else ()
  with registry.within(where):
    jax.eval_shape(functools.partial(model.sample, **given), variables, key,
                   jax.ShapeDtypeStruct((1,), np.int32), *images_)


def _source(study, fold, block, trained, chosen) -> Source:
  """What draws a pool: one model, or all those of one image each."""
  name = block['generator']
  model, classes = study.models[name], study.spec.num_classes
  key = '.'.join(task.key for task in trained)
  if chosen is None:
    return Source(origins.sampler(model, fold.splits.train, classes,
                                  **block['draw']),
                  trained[0].read().variables(), name, key)
  found = chosen.read()
  variables = jax.tree.map(lambda *x: np.stack(x), *(
      task.read().variables() for task in trained))
  return Source(origins.sampler_of_images(
      model, found.labels, found.places, classes, **block['draw']), variables,
                name, files.digest(key))


def _score(trained: study_tasks.Task, *images_) -> np.ndarray:
  """What the discriminator says of images, see types.Known."""
  return trained.read().score(*images_)


def run(folder: files.Folder, *, name: str, source: Source,
        data: splits.Splits, sizes: np.ndarray, batch_size: int, seed: int,
        selects: dict[str, typing.Callable]) -> dict:
  """Draws until `selects` leave `sizes` [K] images of every class.

  Labels are mixed in every batch, and every batch is full: batch norm that
  looks at the batch must see what it saw in training. Selectors see all that
  was drawn at a time; of what they leave of a class the first are taken.
  """
  begun = time.monotonic()
  def count(labels):
    return np.bincount(labels, minlength=len(sizes))
  classes, wanted, drawn = np.flatnonzero(sizes), sizes, []
  stream = _draws(source, classes, batch_size, seed, name)
  total = np.zeros_like(sizes)
  while True:
    while (total < wanted).any():
      drawn.append(next(stream))
      total = total + count(drawn[-1].labels)
    found = _Found(*map(np.concatenate, zip(*drawn, strict=True)))
    screened = selection.screen(selects, found.images, found.labels)
    have = count(found.labels[screened.keep])
    if (have >= sizes).all():
      break
    if len(found.labels) >= MOST_DRAWS * (int(sizes.sum()) + batch_size):
      raise _too_few(name, screened.steps, sizes - have, len(found.labels))
    # As many as the share that is left asks for, and a few more.
    wanted = np.minimum(2 * total + batch_size, np.ceil(
        1.1 * sizes * total / np.maximum(have, 1))).astype(np.int64)
  return _write(folder, name, found, screened, sizes, {
      'generator': source.generator, 'generator_key': source.key, 'seed': seed,
      'class_names': list(data.class_names), 'batch_size': batch_size,
      'imported': None, 'train_digest': data.report['digests']['train'],
      }, begun)


def bring(folder: files.Folder, *, name: str, found: imports.Import,
          data: splits.Splits, least: np.ndarray, per_class: int,
          selects: dict[str, typing.Callable]) -> dict:
  """Takes the images that somebody brings and that `selects` leave.

  Args:
    folder: where to, as that of a pool that is drawn.
    name: of the pool.
    found: its images.
    data: of the study.
    least: int64 [K], what must be left of each class.
    per_class: the first of each class that are taken, in the order of the
      files; 0 for all.
    selects: what screens it.
  """
  begun, rows = time.monotonic(), np.arange(len(found.labels), dtype=np.int32)
  brought = _Found(found.read(), found.labels, np.zeros_like(rows), rows,
                   np.full_like(rows, -1))
  screened = selection.screen(selects, brought.images, brought.labels)
  have = np.bincount(brought.labels[screened.keep], minlength=len(least))
  if (have < least).any():
    raise _too_few(name, screened.steps, least - have, len(rows))
  digest = images.digest(brought.images, brought.labels)
  return _write(
      folder, name, brought, screened,
      np.minimum(have, per_class) if per_class else have, {
          'generator': '', 'generator_key': f'imported:{digest[:12]}',
          'seed': 0, 'class_names': list(data.class_names), 'batch_size': 0,
          'imported': found.about, 'train_digest': ''}, begun)


def _write(folder, name: str, found, screened: selection.Screened, sizes,
           facts: dict, begun: float) -> dict:
  """Writes the first `sizes` [K] of each class that were kept."""
  rows = np.concatenate([np.flatnonzero(
      screened.keep & (found.labels == k))[:sizes[k]]
      for k in np.flatnonzero(sizes)])
  kept = _Found(*(x[rows] for x in found))
  files.begin(folder.partial)
  files.save_npz(folder.partial / 'pool.npz', **kept._asdict())
  manifest = facts | {
      'per_class': int(sizes.max()), 'counts': sizes.tolist(),
      'selectors': screened.steps, 'drawn': len(found.labels),
      'from_real': bool((kept.origin >= 0).any()),
      'digest': images.digest(kept.images, kept.labels),
      'seconds': time.monotonic() - begun}
  files.finish(folder.partial, folder.final, manifest)
  there = 'brought' if facts['imported'] else 'drawn'
  console.say(f'pool {name}: {len(rows)} images taken of '
              f'{len(found.labels)} {there}' + ''.join(
                  f', {step["selector"]} kept {step["kept"]} of {step["seen"]}'
                  for step in screened.steps))
  for note in (facts['imported'] or {}).get('notes', ()):
    console.say(f'pool {name}: {note}')
  return manifest


class _Found(typing.NamedTuple):
  """Images and where each is from; see pools.Pool."""
  images: np.ndarray
  labels: np.ndarray
  batch: np.ndarray
  row: np.ndarray
  origin: np.ndarray


def _draws(source: Source, classes, batch_size: int, seed: int, name: str):
  """Yields batch after batch, the same in any launch."""
  draw, key = jax.jit(source.draw), jax.random.key(seed)
  rng = randomness.generator(seed)
  for number in itertools.count():
    # All classes, also those that need no more: batch norm may look on.
    ask = rng.permutation(np.resize(classes, batch_size)).astype(np.int32)
    got, places = draw(source.variables, jax.random.fold_in(key, number), ask)
    if not np.isfinite(got := np.asarray(got)).all():
      raise errors.InputError(
          f'pool {name}: images are not finite; expected a generator that does '
          'not diverge.', errors.Failure('images are not finite'))
    yield _Found(pixels.to_uint8(got), ask,
                 np.full(len(ask), number, np.int32),
                 np.arange(len(ask), dtype=np.int32), np.asarray(places))


def _too_few(name, steps, missing, drawn: int) -> errors.InputError:
  """Says which selectors keep too little."""
  shares = ', '.join(
      f'{step["selector"]} {step["kept"]} of {step["seen"]}' + ''.join(
          f', {count} {reason}' for reason, count in step['reasons'].items()
          if count) for step in steps)
  why = (f'selectors keep too few images ({shares}): {max(missing)} of a class '
         f'are missing after {drawn}')
  return errors.InputError(f'config.pools.{name}.selectors: {why}.',
                           errors.Failure(why))


def read(folder: files.Folder, train_digest: str = '') -> types.Split:
  """Returns the pool that `run` wrote.

  train_digest: the training split that its generator may have seen; '' for
    any.

  Raises:
    InputError: it is damaged, or its generator learned from other images.
  """
  pool = pools.read(folder.final)
  if train_digest and pool.manifest['train_digest'] != train_digest:
    raise errors.InputError(
        f'pool {folder.final}: its generator learned from other training '
        "images than this study's; expected the same split. Delete its folder.")
  return types.Split(pool.images, pool.labels, np.arange(len(pool.labels)))
