"""The averaged generator draws a labelled synthetic set."""
import functools
import math
import time

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
from jaxaug.data import images, pixels, pools, splits
from jaxaug.study import schema
from jaxaug.study import tasks as study_tasks

# A change of what this stage computes belongs into its key.
VERSION = 4
# A selector that keeps fewer than one image in this many has failed.
MOST_DRAWS = 20


def tasks(study: study_tasks.Study, fold: study_tasks.Fold,
          made: dict) -> list[study_tasks.Task]:
  """Returns a task for each of config.pools."""
  return [_task(study, fold, name, made['generate'][block['generator']])
          for name, block in study.config['pools'].items()]


def _task(study, fold, name: str,
          source: study_tasks.Task) -> study_tasks.Task:
  block, seed = study.config['pools'][name], study.seed('pool', name)
  size, names = fold.pool_sizes[name], fold.splits.class_names
  select = registry.build(
      'selectors', block['selector'], schema.arguments(block, schema.POOL),
      f'config.pools.{name}', fold.splits.train, key='selector')
  folder = study.folder('pool', name, [
      VERSION, source.key, fold.digests('train'), block, size, seed, names])

  bytes_ = size * len(names) * math.prod(study.spec[:3])
  if not folder.final.exists():
    memory.check(f'config.pools.{name}.per_class', 2 * bytes_,
                 f'{size} images a class')

  def work():
    trained = source.read()
    run(folder, name=fold.label(name), spec=study.spec, model=trained.model,
        variables=trained.variables(), generator=block['generator'],
        generator_key=source.key, data=fold.splits, seed=seed,
        selector=block['selector'], per_class=size,
        batch_size=block['batch_size'], select=select)
  return study_tasks.Task('pool', name, folder, work,
                          functools.partial(read, folder,
                                            fold.digests('train')[0]),
                          needs=(source,),
                          size=lambda: study_tasks.Size(bytes_),
                          where=f'config.pools.{name}')


def run(folder: files.Folder, *, name: str, spec: types.ImageSpec,
        model: types.GenerativeModel, variables, generator: str,
        generator_key: str, data: splits.Splits, per_class: int,
        batch_size: int, seed: int, selector: str, select) -> dict:
  """Draws until every class has `per_class` images that `select` keeps.

  Labels are mixed in every batch, and every batch is full: batch norm that
  looks at the batch must see what it saw in training.
  """
  begun = time.monotonic()
  key = jax.random.key(seed)
  sample = jax.jit(model.sample)
  rng = randomness.generator(seed)
  wanted = np.full(spec.num_classes, per_class)
  found, draws = [], 0
  while wanted.any():
    if draws * batch_size > MOST_DRAWS * per_class * spec.num_classes + (
        MOST_DRAWS * batch_size):
      why = (f'{selector!r} keeps too few images: {wanted.sum()} are missing '
             f'after {draws * batch_size}')
      raise errors.InputError(f'config.pools.{name}.selector: {why}.',
                              errors.Failure(why))
    # All classes, also those that need no more: batch norm may look on.
    ask = rng.permutation(np.resize(np.arange(len(wanted)), batch_size))
    ask = ask.astype(np.int32)
    drawn = np.asarray(sample(variables, jax.random.fold_in(key, draws), ask))
    if not np.isfinite(drawn).all():
      raise errors.InputError(
          f'pool {name}: images are not finite; expected a generator that does '
          'not diverge.', errors.Failure('images are not finite'))
    drawn = pixels.to_uint8(drawn)
    keep = select(drawn, ask)
    for k in np.flatnonzero(wanted):
      rows = np.flatnonzero(keep & (ask == k))[:wanted[k]]
      found += [(k, draws, row, drawn[row]) for row in rows]
      wanted[k] -= len(rows)
    draws += 1
  found.sort(key=lambda x: x[:3])
  images_, labels = (np.stack([x[3] for x in found]),
                     np.array([x[0] for x in found], np.int32))
  files.begin(folder.partial)
  files.save_npz(folder.partial / 'pool.npz', images=images_, labels=labels,
                 batch=np.array([x[1] for x in found], np.int32),
                 row=np.array([x[2] for x in found], np.int32))
  manifest = {
      'generator': generator, 'generator_key': generator_key, 'seed': seed,
      'class_names': list(data.class_names), 'per_class': per_class,
      'batch_size': batch_size, 'selector': selector,
      'drawn': draws * batch_size, 'digest': images.digest(images_, labels),
      'train_digest': data.report['digests']['train'],
      'seconds': time.monotonic() - begun}
  files.finish(folder.partial, folder.final, manifest)
  console.say(f'pool {name}: {len(found)} images kept of '
              f'{draws * batch_size} drawn')
  return manifest


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
