"""Writes a pool, or a split, for other tools: jaxaug export POOL OUT."""
import json
import os
import pathlib

import numpy as np

from jaxaug.core import errors, exit_status, files, interrupts
from jaxaug.data import pools, writing

_SPLITS = ('train', 'validation', 'test', 'unused')
_CARD = """---
license: {licence}
task_categories:
- image-classification
pretty_name: {quoted}
---
# {title}

{what}

| | |
|---|---|
{facts}

Classes, in the order of the labels: {classes}.
"""


def pool(path) -> writing.Labelled:
  """Returns a pool as it is written."""
  made = pools.read(path)
  manifest, names = made.manifest, tuple(made.manifest['class_names'])
  count, folder = len(made.labels), pools.find(path)
  imported = manifest.get('imported')
  facts = {
      'images': f'{count:,}, {made.images.shape[1]}x{made.images.shape[2]}',
      'made by': 'somebody else, see below' if imported else
                 f'{manifest["generator"]} ({manifest["generator_key"]})',
      'learned from': 'nobody says' if imported else (
          f'the training split of sha256 {manifest.get("train_digest", "?")}, '
          'which config.pools.NAME.trained_on may say in another study of it')}
  results = _results(folder)
  facts |= _judged(results, folder.name.rpartition('-')[0])
  if imported:
    facts['from'] = imported['path']
  return writing.Labelled(
      made.images, made.labels, names, {
          'generator': [manifest['generator_key']] * count,
          'batch': made.batch.tolist(), 'row': made.row.tolist()},
      _card(folder.name, 'Images made by a computer, each labelled with the '
            'class that was asked for. None is a photograph of anything.',
            facts, names, results.get('data', {})),
      {'generator': manifest['generator_key'], 'seed': manifest['seed']})


def _results(folder: pathlib.Path) -> dict:
  """Returns the results of the study that a pool lies in; {} before them."""
  try:
    return files.read_json(folder.parents[1] / 'results.json')
  except errors.InputError:
    return {}


def _judged(results: dict, name: str) -> dict[str, str]:
  """What the results of its study say of a pool."""
  entry, out = results.get('pools', {}).get(name), {}
  if not entry:
    return {}
  out['study'] = f'{results["study"]}, {results["data"]["name"]}'
  if obedience := entry.get('obedience'):
    out['obedience'] = (
        f'{obedience["mean"]:.1%} show their class by a judge that errs on '
        f'{obedience["judge_test_error"]:.1%} of real test images')
  for side, found in (entry.get('audit') or {}).items():
    if side != 'n':
      out[f'copies of {side} images'] = (
          f'{found["exact"]} exact, {found["near"]} near of '
          f'{entry["audit"]["n"]}; of clean real images '
          f'{found["yardstick_share"]:.1%} are as near')
  for classifier, c in results['classifiers'].items():
    for arm, row in c['arms'].items():
      if row['generated'] and name in row['description']:
        out[f'verdict, {classifier}, {arm}'] = (
            f'{row["verdict"]} (test {c["label"]}, n = {row["n"]})')
  return out


def split(folder, name: str) -> writing.Labelled:
  """Returns a split of a study's data, by the folder of its `data` stage."""
  folder = pathlib.Path(folder)
  inside = sorted(f.parent for f in folder.glob('*/manifest.json'))
  if not (folder / f'{name}_images.npy').is_file() and len(inside) == 1:
    folder = inside[0]  # WORKDIR/data of one fold.
  if not (folder / f'{name}_images.npy').is_file():
    raise errors.InputError(
        f'{folder}: holds no {name} split; expected WORKDIR/data, or '
        'WORKDIR/data/HASH where there are several.')
  from jaxaug.study.stages import data  # Here, so that --help is quick.
  made = data.read(files.Folder(folder, folder))
  images, labels, index = getattr(made, name)
  manifest = made.report
  names, sha = tuple(manifest['class_names']), manifest['digests'][name]
  if not len(labels):
    raise errors.InputError(f'{folder}: its {name} split has no images; '
                            'expected one that has some.')
  facts = {'images': f'{len(labels):,}, {images.shape[1]}x{images.shape[2]}',
           'from': f'{manifest["name"]}, split {name}', 'sha256': sha}
  what = 'Real images.'
  if name == 'train':
    what += (' A generator that learned from these and no others may say so: '
             f'config.pools.NAME.trained_on={sha}.')
  return writing.Labelled(
      images, np.asarray(labels), names, {'index': index.tolist()},
      _card(f'{manifest["name"]} {name}', what, facts, names, manifest),
      {'sha256': sha})


def _card(title: str, what: str, facts: dict, names, data: dict) -> str:
  """Returns the page of a set; data: of the manifest of the study's."""
  licence = data.get('checks', {}).get('licence', 'unknown')
  facts = facts | {'licence of the source': licence}
  return _CARD.format(
      licence=licence, title=title, what=what,
      quoted=json.dumps(title, ensure_ascii=False), facts='\n'.join(
          f'| {key} | {str(value).replace("|", "/")} |'
          for key, value in facts.items()),
      classes=', '.join(f'{i} {name}' for i, name in enumerate(names)))


def write(given: writing.Labelled, out: pathlib.Path, form: str):
  """Writes all, or nothing.

  Raises:
    InputError: there is something at `out` already, or it cannot be written.
  """
  put, is_folder = writing.FORMATS[form]
  with files.writing(out):
    if is_folder and out.exists() and not (
        out.is_dir() and not any(out.iterdir())):
      raise errors.InputError(
          f'{out}: is not empty; expected a new or an empty folder.')
    if not is_folder and out.exists():
      raise errors.InputError(f'{out}: is there already; expected a new file.')
    if not is_folder and out.suffix != f'.{form}':
      raise errors.InputError(f'{out}: expected a name that ends in .{form}.')
    if not is_folder:
      out.parent.mkdir(parents=True, exist_ok=True)
      put(out, given)
      return
    whole = out.absolute()
    partial = files.folder(whole.parent, whole.name).partial
    files.begin(partial)
    try:
      put(partial, given)
      os.rename(partial, out)
    finally:
      files.remove(partial)


def main(argv=None) -> int:
  """Returns the exit status, see core/exit_status.py."""
  parser = exit_status.parser('jaxaug export', 'Writes a pool, or a split of '
                              'the data, for other tools.')
  parser.add_argument('pool', metavar='POOL', help='WORKDIR/pool/NAME, or with '
                      '--split WORKDIR/data')
  parser.add_argument('out', metavar='OUT', help='a new folder; of npz and zip '
                      'a file')
  parser.add_argument('--format', choices=tuple(writing.FORMATS),
                      default='folder')
  parser.add_argument('--split', choices=_SPLITS, default=None, help='of a '
                      "study's data, in place of a pool")

  def work():
    args = parser.parse_args(argv)
    out = pathlib.Path(args.out)
    given = split(args.pool, args.split) if args.split else pool(args.pool)
    write(given, out, args.format)
    made = args.split or given.facts['generator']
    print(f'{len(given.labels)} images of {made}: {out}')
  return exit_status.of('jaxaug export', work)


if __name__ == '__main__':
  interrupts.leave(main())
