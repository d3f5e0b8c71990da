"""Stage 1: a source becomes seeded splits on disk, with their hashes."""
import pathlib
import time

import numpy as np

from jaxaug.core import console, errors, registry, types
from jaxaug.core import files as artefacts
from jaxaug.data import images, splits

_PARTS = ('train', 'validation', 'test', 'unused')


def arguments(*, source: str, resize=None, crop=None, **given):
  """Sorts the keys of `config.data` by who takes them.

  Returns:
    (load, load's arguments, splits.make's arguments).

  Raises:
    InputError: an unknown source, or a key that neither takes.
  """
  load = registry.find('datasets', source, 'config.data.source').load
  takes, cuts = registry.arguments(load), registry.arguments(splits.make)
  given = {k: v for k, v in given.items() if v is not None}
  for key in given:
    if key not in takes and key not in cuts:
      raise errors.InputError(
          f'config.data.{key}: source {source!r} does not take it; expected '
          f'one of {", ".join(takes) or "none"}.')
  load_args = {k: v for k, v in given.items() if k in takes}
  load_args |= {k: v for k, v in (('resize', resize), ('crop', crop))
                if k in takes and v is not None}
  registry.check(load, load_args, 'config.data')
  return load, load_args, {k: v for k, v in given.items() if k in cuts}


def fingerprint(path: str | None) -> list:
  """What would change if the files below `path` did; costs no reading."""
  root = pathlib.Path(path or '').expanduser()
  if not path or not root.exists():
    return []
  files = [root] if root.is_file() else sorted(
      f for f in root.rglob('*') if f.is_file())
  return [[str(f.relative_to(root)), f.stat().st_size, f.stat().st_mtime_ns]
          for f in files]


# A change of what this stage computes belongs into its key.
_VERSION = 2


def key(*, seed: int, **config) -> str:
  """Names the stage's folder: its config and its files."""
  files = fingerprint(config.get('path'))
  return artefacts.digest(
      {'version': _VERSION, 'seed': seed, 'files': files, **config})


def run(folder: artefacts.Folder, *, seed: int, **config) -> dict:
  """Loads, splits and writes the data; returns the manifest."""
  begun = time.monotonic()
  load, load_args, split_args = arguments(**config)
  dataset = load(**load_args)
  # A source that takes these keys has cut its images already.
  fit = {key: config[key] for key in ('resize', 'crop')
         if config.get(key) is not None and key not in load_args}
  dataset = dataset._replace(**{
      part: split._replace(images=images.fit_all(split.images, **fit))
      for part in ('train', 'validation', 'test')
      if fit and (split := getattr(dataset, part)) is not None})
  made = splits.make(dataset, seed=seed, **split_args)
  # Here, as numpy does not say that the disk is full.
  artefacts.check_space(folder.partial, sum(
      array.nbytes for part in _PARTS for array in getattr(made, part)))
  artefacts.begin(folder.partial)
  for part in _PARTS:
    split = getattr(made, part)
    with artefacts.writing(folder.partial):
      for field, array in split._asdict().items():
        np.save(folder.partial / f'{part}_{field}.npy', array)
  report = dict(made.report)
  manifest = {
      'name': dataset.name, 'class_names': list(made.class_names),
      'shape': list(made.train.images.shape[1:]),
      'counts': {part: list(counts.values())
                 for part, counts in report.pop('counts').items()},
      'digests': report.pop('sha256'), 'overlaps': report.pop('duplicates'),
      **report, 'seconds': time.monotonic() - begun}
  artefacts.finish(folder.partial, folder.final, manifest)
  sizes = ', '.join(f'{len(getattr(made, part).labels)} {part}'
                    for part in _PARTS)
  console.say(f'data: {dataset.name}, {len(made.class_names)} classes, '
           f'{sizes} images')
  return manifest


def read(folder: artefacts.Folder) -> splits.Splits:
  """Returns what `run` wrote; images are mapped from the disk."""
  manifest = artefacts.manifest(folder.final)
  def split(part):
    try:
      return types.Split(*(
          np.load(folder.final / f'{part}_{field}.npy', mmap_mode='r')
          for field in types.Split._fields))
    except (OSError, ValueError) as e:
      raise errors.InputError(
          f'{folder.final}: {part} is damaged ({e}); delete this folder and '
          'the same command makes it again.') from e
  return splits.Splits(*map(split, _PARTS), tuple(manifest['class_names']),
                       manifest)
