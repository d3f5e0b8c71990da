"""Sets of images become numbers; finds the metrics of both kinds by name.

A metric is a file of image_metrics/ or of metrics/ with a header: NEEDS, the
fields that it reads, and VALUES, {name of a number: types.Number}; and with
`compute(...) -> {name: types.Measured}`, whose first two arguments are the real
and the generated types.ImageSet, or the logits [N, K] and labels [N].
"""
import inspect
import math
import typing

import numpy as np

from jaxaug.core import errors, registry, types
from jaxaug.evaluation import features
from jaxaug.training import mesh

# Numbers that go by these names on Inception, with the weights that everybody
# uses, and have another name on any other network.
_FAMOUS = {'fid': 'fd', 'kid': 'kd', 'is': 'is'}


# What `compute` of each kind takes by position, and what NEEDS may hold; `fit`
# and `classes` are arguments that only the caller knows.
_TAKES = {'image_metrics': ['real', 'fake'], 'metrics': ['logits', 'labels']}
_FIELDS = {'image_metrics': (*types.ImageSet._fields[1:], 'fit'),
           'metrics': ('logits', 'labels', 'classes')}


class Row(typing.NamedTuple):
  """One number: its name, what it is in words, which direction is better
  (None for neither), and how many images each side had."""
  name: str
  label: str
  lower_is_better: bool | None
  measured: types.Measured
  real: int | None
  fake: int | None


def blocks(names, where: str = 'metrics',
           kind: str = 'image_metrics') -> dict:
  """Returns name -> file of a metric.

  Args:
    names: of the files.
    where: the option that names them, for the error.
    kind: 'image_metrics', or 'metrics' of a classifier.

  Raises:
    InputError: no name, an unknown one, or a file without a right header.
  """
  if not names:
    raise errors.InputError(f'{where}: none; expected some of '
                            f'{", ".join(registry.names(kind))}.')
  found = {name: registry.find(kind, name, where) for name in names}
  for name, block in found.items():
    if wrong := _wrong(kind, name, block):
      raise errors.InputError(f'{kind}/{name}.py: {wrong}.')
  return found


def _wrong(kind: str, name: str, block) -> str:
  """Says what keeps a file from being a metric, or ''."""
  needs, values, compute = (getattr(block, key, None)
                            for key in ('NEEDS', 'VALUES', 'compute'))
  takes, fields = _TAKES[kind], _FIELDS[kind]
  if not isinstance(needs, tuple) or not needs or set(needs) - set(fields):
    return (f'NEEDS is {needs!r}; expected a tuple of some of '
            f'{", ".join(fields)}')
  if not isinstance(values, dict) or not values or not all(
      isinstance(number, types.Number) for number in values.values()):
    return (f'VALUES is {values!r}; expected name: types.Number(label, unit, '
            'lower_is_better) for each number')
  for value, number in values.items():
    if not number.label or not isinstance(number.unit, str) or (
        number.lower_is_better not in (True, False, None)):
      return (f'{value} is {number}; expected a label, a unit and True, '
              'False or None')
  # A study judges by it: one number, called as its file, with a direction.
  if kind == 'metrics' and (
      [*values] != [name] or values[name].lower_is_better is None):
    return (f'VALUES is {values!r}; expected one number, {name!r}, of which '
            'lower or higher is better')
  given = inspect.signature(compute).parameters.values() if compute else ()
  if [p.name for p in given if p.kind is not p.KEYWORD_ONLY] != takes:
    return f'expected a function compute({", ".join(takes)}, *, ...)'
  return ''


def needs(metrics: dict) -> set[str]:
  """Returns which fields of types.ImageSet some metric needs, or 'fit'."""
  return {field for block in metrics.values() for field in block.NEEDS}


def named(value: str, block, extractor: types.Extractor) -> str:
  """Returns what a number is called: after its network, unless that is FID's.

  `fid` is a Fréchet distance on the 2015 Inception with the published weights
  and nothing else; on another network it is `fd_NETWORK`.
  """
  if not set(block.NEEDS) & set(features.EXTRACTED):
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
      number = block.VALUES[value]
      if not math.isfinite(measured.value):
        raise errors.InputError(
            f'{name}: {value} is {measured.value}; expected images that '
            'differ from each other.')
      out.append(Row(named(value, block, extractor), number.label,
                     number.lower_is_better, measured, real.count, fake.count))
  return out


def notes(real: types.ImageSet, fake: types.ImageSet) -> list[str]:
  """Returns what a reader of the numbers should know, a line each."""
  out = []
  for found, which in ((real, 'real'), (fake, 'fake')):
    if found.moments is not None and found.count is not None and (
        found.count <= len(found.moments.mean)):
      out.append(
          f'{which}: {found.count:,} images, {len(found.moments.mean):,} '
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
  placed = features.extractor(extractor, devices or mesh.make(), batch_size)
  real, fake = (
      features.of_array(placed, array, needs(chosen), labels, title)
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
