"""Sets of images become numbers: every metric of image_metrics/, by name."""
import math
import typing

import numpy as np

from jaxaug.core import errors, registry, types
from jaxaug.evaluation import features
from jaxaug.training import mesh

# Numbers that go by these names on Inception, with the weights that everybody
# uses, and have another name on any other network.
_FAMOUS = {'fid': 'fd', 'kid': 'kd', 'is': 'is'}


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


def needs(metrics: dict) -> set[str]:
  """Returns which fields of types.ImageSet some metric needs, or 'fit'."""
  return {field for block in metrics.values() for field in block.NEEDS}


def named(value: str, block, extractor: types.Extractor) -> str:
  """Returns what a number is called: after its network, unless that is FID's.

  `fid` is a Fréchet distance on the 2015 Inception with the published weights
  and nothing else; on another network it is `fd_NETWORK`.
  """
  if not set(block.NEEDS) & set(features.SEEN):
    return value
  if extractor.fid:
    return value + extractor.name.removeprefix('inception')
  return f'{_FAMOUS.get(value, value)}_{extractor.name}'


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
  looks = features.extractor(extractor, devices or mesh.make(), batch_size)
  real, fake = (
      features.of_array(looks, array, needs(chosen), labels, title)
      for array, labels, title in ((real, real_labels, 'real'),
                                   (fake, fake_labels, 'fake')))
  return {row.name: row.measured
          for row in rows(chosen, real, fake, extractor, knobs)}


def check_alike(one, other, name: str, other_name: str):
  """Raises InputError unless two sets have images of one size and colour."""
  if tuple(one) != tuple(other):
    (h, w, c), (height, width, channels) = one, other
    mend = ('expected both grey or both RGB' if c != channels else
            'expected one size: --resize=PIXELS makes it')
    raise errors.InputError(
        f'{name} is {h}x{w}x{c}, but {other_name} is '
        f'{height}x{width}x{channels} (height x width x channels); {mend}.')
