"""Images become features: each passes through a frozen network once.

One jitted program over all devices; moments are summed as features come, which
are kept only where they are needed.
"""
import collections
import contextlib
import math
import pathlib
import typing

import jax
import numpy as np

from jaxaug.core import console, errors, files, types
from jaxaug.data import images
from jaxaug.evaluation import moments
from jaxaug.training import mesh

# Fields of types.ImageSet that come out of the extractor.
EXTRACTED = ('moments', 'features', 'logits')
# Rows that are summed at a time.
_WORTH = 1024


def cache() -> pathlib.Path:
  """Returns the folder where what was extracted is kept."""
  return files.cache() / 'features'


class FeatureExtractor(typing.NamedTuple):
  """A frozen network on the devices.

  apply(uint8 [B, H, W, C]) -> what `network.apply` gives, in one program over
    all devices; B is `batch_size`, a multiple of their number.
  """
  network: types.Extractor
  apply: typing.Callable
  devices: typing.Any
  batch_size: int

  @property
  def identity(self) -> dict:
    """What tells this network from all others."""
    return {'extractor': self.network.name, 'weights': self.network.digest,
            'protocol': self.network.protocol}


def extractor(network: types.Extractor, devices,
              batch_size: int = 64) -> FeatureExtractor:
  """Lays a network out; its batch is one that the devices can share evenly.

  Grey images are repeated where the network wants colour; `apply` raises
  InputError for images that the network cannot take.
  """
  variables = mesh.replicate(devices, network.variables)

  @jax.jit
  def program(variables, batch):
    if network.channels == 3 and batch.shape[-1] == 1:
      batch = batch.repeat(3, -1)
    # An accelerator's fast float32 products would cost digits of a distance.
    with jax.default_matmul_precision('float32'):
      return network.apply(variables, batch)

  def apply(batch):
    _check_channels(network, batch.shape[-1], 'extractor')
    return program(variables, mesh.shard(devices, batch))
  return FeatureExtractor(network, apply, devices,
                          math.ceil(batch_size / devices.size) * devices.size)


def check(network: types.Extractor, shape, needs, where: str):
  """Refuses before the work what `extract` would refuse amid it.

  Args:
    network: that looks at
    shape: (H, W, C) of the images.
    needs: fields of types.ImageSet.
    where: the config key that names the network, for the error.

  Raises:
    InputError: it takes no such images, or has not what is needed.
  """
  height, width, channels = shape
  _check_channels(network, channels, where)
  if 'logits' in needs:
    image = jax.ShapeDtypeStruct((1, height, width, network.channels or
                                  channels), np.uint8)
    _check_logits(network, jax.eval_shape(network.apply, network.variables,
                                          image), where)


def _check_channels(network: types.Extractor, channels: int, where: str):
  if network.channels == 1 and channels == 3:
    raise errors.InputError(
        f'{where}: {network.name} takes grey images only; expected grey ones, '
        'or another extractor.')


def _check_logits(network: types.Extractor, out: dict, where: str):
  if 'logits' not in out:
    raise errors.InputError(
        f'{where}: {network.name} knows no classes; expected an extractor that '
        'does, for the Inception score.')


def extract(extractor: FeatureExtractor, batches, count: int, needs, *,
            title: str = 'images', cache: pathlib.Path | None = None,
            digest: str = '') -> types.ImageSet:
  """Passes images through a network once.

  Args:
    extractor: the network.
    batches: yields uint8 [B, H, W, C], all but the last of the extractor's
      batch_size.
    count: how many images come.
    needs: what of EXTRACTED to keep; nothing is computed for none of them.
    title: names the images on the progress line and in errors; no line for ''.
    cache: folder that keeps what was extracted, by `digest`, the images'
      content.

  Raises:
    InputError: 'logits' of a network without, or features that are not finite.
  """
  wanted = sorted(set(needs) & set(EXTRACTED))
  if not wanted:
    return types.ImageSet(count)
  file = cache and cache / (
      files.digest([digest, extractor.identity, wanted]) + '.npz')
  if file and (found := _read(file, wanted)):
    return found
  found = _extract(extractor, batches, count, wanted, title)
  if file:
    try:
      _write(file, found)
    except errors.InputError as e:  # All is well without.
      console.say(f'not kept for another time: {e}')
  return found


def _extract(extractor: FeatureExtractor, batches, count: int, wanted,
             title) -> types.ImageSet:
  waiting, done, sums, held = collections.deque(), 0, None, []
  kept = {name: [] for name in ('features', 'logits') if name in wanted}

  def add(least):
    """Sums what is held once it is worth a matrix of D x D."""
    nonlocal sums, held
    if held and sum(map(len, held)) >= least:
      sums, held = moments.update(sums, np.concatenate(held)), []

  def take():
    nonlocal done
    out, n = waiting.popleft()
    out = {name: np.asarray(value)[:n] for name, value in out.items()}
    if not np.isfinite(out['features']).all():
      raise errors.InputError(
          f'{title}: features of the images {done} to {done + n - 1} are not '
          'finite; expected weights that are not damaged.')
    if 'moments' in wanted:
      held.append(out['features'])
      add(_WORTH)
    if 'logits' in kept:
      _check_logits(extractor.network, out, title)
    for name, parts in kept.items():
      parts.append(out[name])
    done += n

  line = (console.progress(title, count, unit='image') if title else
          contextlib.nullcontext(lambda done: None))
  with line as show:
    for batch in batches:
      n = len(batch)
      if n < extractor.batch_size:  # One program for all; `take` cuts it off.
        more = batch[-1:].repeat(extractor.batch_size - n, 0)
        batch = np.concatenate([batch, more])
      waiting.append((extractor.apply(batch), n))
      if len(waiting) > 1:  # The device works on one while another is summed.
        take()
        show(done)
    while waiting:
      take()
    show(done)
  add(1)
  return types.ImageSet(
      done, moments.compute(sums) if 'moments' in wanted else None,
      **{name: np.concatenate(parts) for name, parts in kept.items()})


def _write(file: pathlib.Path, found: types.ImageSet):
  with files.writing(file.parent):
    file.parent.mkdir(parents=True, exist_ok=True)
  arrays = {name: getattr(found, name) for name in ('features', 'logits')
            if getattr(found, name) is not None}
  if found.moments is not None:
    arrays |= found.moments._asdict()
  files.save_npz(file, count=found.count, key=file.stem, **arrays)


def _read(file: pathlib.Path, wanted) -> types.ImageSet | None:
  """Returns what `_write` wrote; None where that is missing or damaged, or of
  other images."""
  if not file.exists():
    return None
  try:
    arrays = files.load_npz(file)
    if arrays['key'] != file.stem:
      return None
    statistics = types.Moments(arrays['mean'], arrays['covariance']) if (
        'moments' in wanted) else None
    return types.ImageSet(int(arrays['count']), statistics, *(
        arrays[name] if name in wanted else None
        for name in ('features', 'logits')))
  except (errors.InputError, LookupError, ValueError, TypeError):
    return None  # It is written anew.


def of_array(extractor: FeatureExtractor, array: np.ndarray, needs,
             labels=None, title: str = '', **cache) -> types.ImageSet:
  """Returns what metrics need of uint8 images [N, H, W, C]; see `extract`.

  Or of what looks like an array of them, see data/records.py.
  """
  found = extract(extractor, images.blocks(array, extractor.batch_size),
                  len(array), needs, title=title, **cache)
  return found._replace(
      labels=None if labels is None else np.asarray(labels, np.int32),
      images=array if 'images' in needs else None)
