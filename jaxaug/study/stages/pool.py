"""Stage 4: the averaged generator draws a labelled synthetic set."""
import time

import jax
import numpy as np

from jaxaug.core import console, errors, files, types
from jaxaug.data import images, pixels, splits

# A selector that keeps fewer than one image in this many has failed.
MOST_DRAWS = 20


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
  rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))
  wanted = np.full(spec.num_classes, per_class)
  found, draws = [], 0
  while wanted.any():
    if draws * batch_size > MOST_DRAWS * per_class * spec.num_classes + (
        MOST_DRAWS * batch_size):
      raise errors.InputError(
          f'config.pools.{name}.selector: {selector!r} keeps too few images: '
          f'{wanted.sum()} are missing after {draws * batch_size}.')
    # All classes, also those that need no more: batch norm may look on.
    ask = rng.permutation(np.resize(np.arange(len(wanted)), batch_size))
    ask = ask.astype(np.int32)
    drawn = pixels.to_uint8(
        sample(variables, jax.random.fold_in(key, draws), ask))
    keep = select(drawn, ask)
    for k in np.flatnonzero(wanted):
      rows = np.flatnonzero(keep & (ask == k))[:wanted[k]]
      found += [(k, draws, row, drawn[row]) for row in rows]
      wanted[k] -= len(rows)
    draws += 1
  found.sort(key=lambda x: x[:3])
  pool = types.Split(np.stack([x[3] for x in found]),
                     np.array([x[0] for x in found], np.int32),
                     np.arange(len(found)))
  files.begin(folder.partial)
  files.save_npz(folder.partial / 'pool.npz', images=pool.images,
                     labels=pool.labels,
                     batch=np.array([x[1] for x in found], np.int32),
                     row=np.array([x[2] for x in found], np.int32))
  manifest = {
      'generator': generator, 'generator_key': generator_key, 'seed': seed,
      'class_names': list(data.class_names), 'per_class': per_class,
      'batch_size': batch_size, 'selector': selector,
      'drawn': draws * batch_size,
      'digest': images.digest(pool.images, pool.labels),
      'train_digest': data.report['digests']['train'],
      'seconds': time.monotonic() - begun}
  files.finish(folder.partial, folder.final, manifest)
  console.say(f'pool {name}: {len(found)} images kept of {draws * batch_size} '
           f'drawn')
  return manifest


def read(folder: files.Folder) -> types.Split:
  """Returns the pool that `run` wrote."""
  arrays = files.load_npz(folder.final / 'pool.npz')
  return types.Split(arrays['images'], arrays['labels'],
                     np.arange(len(arrays['labels'])))
