"""Images become features and features become numbers: the evaluator.

One jitted program over all devices sees every image once; moments are summed
as features come, which are kept only where a metric needs them.
"""
import collections
import contextlib
import math
import pathlib
import typing

import jax
import numpy as np

from jaxaug import (
  artefacts,
  errors,
  logs,
  mesh,
  moments,
  registry,
  types,
)

# Numbers that go by these names on Inception, with the weights that everybody
# uses, and have another name on any other network.
_FAMOUS = {'fid': 'fd', 'kid': 'kd', 'is': 'is'}
# Fields of types.ImageSet that come out of the extractor.
SEEN = ('moments', 'features', 'logits')
# Rows that are summed at a time.
_WORTH = 1024


class Row(typing.NamedTuple):
  """One number: its name, what it is in words, which direction is better
  (None for neither), and how many images each side had."""
  name: str
  label: str
  lower_is_better: bool | None
  measured: types.Measured
  real: int | None
  fake: int | None


def blocks(names, where: str = 'metrics') -> dict:
  """Returns name -> file of image_metrics/; InputError for an unknown one."""
  if not names:
    raise errors.InputError(f'{where}: none; expected some of '
                            f'{", ".join(registry.names("image_metrics"))}.')
  return {name: registry.find('image_metrics', name, where) for name in names}


def cache() -> pathlib.Path:
  """Returns the folder where what was seen is kept."""
  return artefacts.cache() / 'features'


def needs(metrics: dict) -> set[str]:
  """Returns which fields of types.ImageSet some metric needs, or 'fit'."""
  return {field for block in metrics.values() for field in block.NEEDS}


def named(value: str, block, extractor: types.Extractor) -> str:
  """Returns what a number is called: after its network, unless that is FID's.

  `fid` is a Fréchet distance on the 2015 Inception with the published weights
  and nothing else; on another network it is `fd_NETWORK`.
  """
  if not set(block.NEEDS) & set(SEEN):
    return value
  if extractor.fid:
    return value + extractor.name.removeprefix('inception')
  return f'{_FAMOUS.get(value, value)}_{extractor.name}'


class Eye(typing.NamedTuple):
  """A network that looks at images.

  see(uint8 [B, H, W, C]) -> what `extractor.apply` gives, in one program over
    all devices; B is `batch_size`, a multiple of their number.
  """
  extractor: types.Extractor
  see: typing.Callable
  devices: typing.Any
  batch_size: int

  @property
  def identity(self) -> dict:
    """What tells this network from all others."""
    return {'extractor': self.extractor.name, 'weights': self.extractor.digest,
            'protocol': self.extractor.protocol}


def eye(extractor: types.Extractor, devices, batch_size: int = 64) -> Eye:
  """Returns an eye; its batch is one that the devices can share evenly.

  Grey images are repeated where the network wants colour; `see` raises
  InputError for images that the network cannot take.
  """
  variables = mesh.replicate(devices, extractor.variables)

  @jax.jit
  def apply(variables, batch):
    if extractor.channels == 3 and batch.shape[-1] == 1:
      batch = batch.repeat(3, -1)
    # An accelerator's fast float32 products would cost digits of a distance.
    with jax.default_matmul_precision('float32'):
      return extractor.apply(variables, batch)

  def see(batch):
    if extractor.channels == 1 and batch.shape[-1] == 3:
      raise errors.InputError(
          f'extractor: {extractor.name} sees grey images only; expected grey '
          'ones, or another extractor.')
    return apply(variables, mesh.shard(devices, batch))
  return Eye(extractor, see, devices,
             math.ceil(batch_size / devices.size) * devices.size)


def observe(eye: Eye, batches, count: int, needs, *, title: str = 'images',
            cache: pathlib.Path | None = None,
            digest: str = '') -> types.ImageSet:
  """Passes images through a network once.

  Args:
    eye: the network.
    batches: yields uint8 [B, H, W, C], all but the last of eye.batch_size.
    count: how many images come.
    needs: what of SEEN to keep; nothing is looked at for none of them.
    title: what is seen, for the progress line and for errors; no line for ''.
    cache: folder that keeps what was seen, by `digest`, the images' content.

  Raises:
    InputError: 'logits' of a network without, or features that are not finite.
  """
  wanted = sorted(set(needs) & set(SEEN))
  if not wanted:
    return types.ImageSet(count)
  file = cache and cache / (
      artefacts.digest([digest, eye.identity, wanted]) + '.npz')
  if file and (side := _read(file)):
    return side
  side = _observe(eye, batches, count, wanted, title)
  if file:
    _write(file, side)
  return side


def _observe(eye: Eye, batches, count: int, wanted, title) -> types.ImageSet:
  waiting, seen, sums, held = collections.deque(), 0, None, []
  kept = {name: [] for name in ('features', 'logits') if name in wanted}

  def add(least):
    """Sums what is held once it is worth a matrix of D x D."""
    nonlocal sums, held
    if held and sum(map(len, held)) >= least:
      sums, held = moments.update(sums, np.concatenate(held)), []

  def take():
    nonlocal seen
    out, n = waiting.popleft()
    out = {name: np.asarray(value)[:n] for name, value in out.items()}
    if not np.isfinite(out['features']).all():
      raise errors.InputError(
          f'{title}: features of the images {seen} to {seen + n - 1} are not '
          'finite; expected weights that are not damaged.')
    if 'moments' in wanted:
      held.append(out['features'])
      add(_WORTH)
    for name, parts in kept.items():
      if name not in out:
        raise errors.InputError(
            f'{title}: {eye.extractor.name} knows no classes; expected an '
            'extractor that does, for the Inception score.')
      parts.append(out[name])
    seen += n

  line = (logs.progress(title, count, unit='image') if title else
          contextlib.nullcontext(lambda done: None))
  with line as show:
    for batch in batches:
      n = len(batch)
      if n < eye.batch_size:  # One program for all; what is added is cut off.
        more = batch[-1:].repeat(eye.batch_size - n, 0)
        batch = np.concatenate([batch, more])
      waiting.append((eye.see(batch), n))
      if len(waiting) > 1:  # The device works on one while another is summed.
        take()
        show(seen)
    while waiting:
      take()
    show(seen)
  add(1)
  return types.ImageSet(
      seen, moments.compute(sums) if 'moments' in wanted else None,
      **{name: np.concatenate(parts) for name, parts in kept.items()})


def _write(file: pathlib.Path, side: types.ImageSet):
  with artefacts.writing(file.parent):
    file.parent.mkdir(parents=True, exist_ok=True)
  arrays = {name: getattr(side, name) for name in ('features', 'logits')
            if getattr(side, name) is not None}
  if side.moments is not None:
    arrays |= side.moments._asdict()
  artefacts.save_npz(file, count=side.count, **arrays)


def _read(file: pathlib.Path) -> types.ImageSet | None:
  """Returns what `_write` wrote, or None where it is missing or damaged."""
  if not file.exists():
    return None
  try:
    arrays = artefacts.load_npz(file)
    statistics = types.Moments(arrays['mean'], arrays['covariance']) if (
        'mean' in arrays) else None
    return types.ImageSet(int(arrays['count']), statistics,
                          arrays.get('features'), arrays.get('logits'))
  except (errors.InputError, KeyError):
    return None  # It is written anew.


def slices(array: np.ndarray, size: int):
  """Yields the rows of an array, `size` at a time."""
  for start in range(0, len(array), size):
    yield np.asarray(array[start:start + size])


def rows(metrics: dict, real: types.ImageSet, fake: types.ImageSet,
         extractor: types.Extractor, knobs: dict | None = None,
         fit=None) -> list[Row]:
  """Computes every metric of `fake` beside `real`.

  Args:
    metrics: of `blocks`.
    real, fake: with the fields that `needs` asks for.
    extractor: where they come from; names the numbers.
    knobs: metric -> its keyword arguments.
    fit: for the metrics that train a classifier, see image_metrics/cas.py.

  Raises:
    InputError: a metric cannot be computed of these images; says why.
  """
  out = []
  for name, block in metrics.items():
    given = dict((knobs or {}).get(name, {}))
    if 'fit' in block.NEEDS:
      given['fit'] = fit
    registry.check(block.compute, given, name)
    for value, measured in block.compute(real, fake, **given).items():
      label, lower = block.VALUES[value]
      if not math.isfinite(measured.value):
        raise errors.InputError(
            f'{name}: {value} is {measured.value}; expected images that '
            'differ from each other.')
      out.append(Row(named(value, block, extractor), label, lower, measured,
                     real.count, fake.count))
  return out


def notes(real: types.ImageSet, fake: types.ImageSet) -> list[str]:
  """Returns what a reader of the numbers should know, a line each."""
  out = []
  for side, which in ((real, 'real'), (fake, 'fake')):
    if side.moments is not None and side.count is not None and (
        side.count <= len(side.moments.mean)):
      out.append(
          f'{which}: {side.count:,} images, {len(side.moments.mean):,} '
          'features: the covariance is singular and the Fréchet distance is '
          'biased upwards; compare it at equal counts only')
  return out


def compare(real: np.ndarray, fake: np.ndarray, extractor: types.Extractor,
            metrics=('fid', 'kid', 'prdc'), *, real_labels=None,
            fake_labels=None, knobs: dict | None = None, devices=None,
            batch_size: int = 64) -> dict[str, types.Measured]:
  """Compares two sets of images: arrays in, numbers out.

  Args:
    real, fake: uint8 [N, H, W, C] and [M, H, W, C].
    extractor: such as `registry.find('extractors', 'scattering').build()`.
    metrics: files of image_metrics/.
    real_labels, fake_labels: int32 [N] and [M], for metrics by class.
    knobs: metric -> its keyword arguments.
    devices: mesh; None for all devices there are.
    batch_size: images in one call of the network.

  Returns:
    name -> number; names as in `named`.
  """
  check_alike(real.shape[1:], fake.shape[1:], 'real', 'fake')
  chosen = blocks(metrics)
  looks = eye(extractor, devices or mesh.make(), batch_size)
  real, fake = (of_array(looks, array, needs(chosen), labels, title)
                for array, labels, title in ((real, real_labels, 'real'),
                                             (fake, fake_labels, 'fake')))
  return {row.name: row.measured
          for row in rows(chosen, real, fake, extractor, knobs)}


def of_array(eye: Eye, array: np.ndarray, needs, labels=None, title: str = '',
             **cache) -> types.ImageSet:
  """Returns what metrics need of uint8 images [N, H, W, C]; see `observe`."""
  side = observe(eye, slices(array, eye.batch_size), len(array), needs,
                 title=title, **cache)
  return side._replace(
      labels=None if labels is None else np.asarray(labels, np.int32),
      images=array if 'images' in needs else None)


def check_alike(one, other, name: str, other_name: str):
  """Raises InputError unless two sets have images of one size and colour."""
  if tuple(one) != tuple(other):
    (h, w, c), (height, width, channels) = one, other
    mend = ('expected both grey or both RGB' if c != channels else
            'expected one size: --resize=PIXELS makes it')
    raise errors.InputError(
        f'{name} is {h}x{w}x{c}, but {other_name} is '
        f'{height}x{width}x{channels} (height x width x channels); {mend}.')
