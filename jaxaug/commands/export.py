"""Writes a pool for other tools: jaxaug export POOL OUT."""
import collections
import csv
import os
import pathlib
import re

from jaxaug.core import errors, exit_status, files, interrupts
from jaxaug.data import images, pools

COLUMNS = ('file', 'label', 'class', 'generator', 'batch', 'row')


def folder_names(class_names) -> list[str]:
  """Returns the class names as folders: '/' becomes '_'.

  Raises:
    InputError: two classes would share a folder, or a name is empty, hidden or
      too long.
  """
  folders = [re.sub('[/\\0]', '_', name) for name in class_names]
  counts = collections.Counter(folders)
  for name, folder in zip(class_names, folders, strict=True):
    if not folder or folder[0] == '.' or len(folder.encode()) > 255:
      raise errors.InputError(
          f'class {name!r} cannot be the name of a folder; expected --format '
          'npz for this pool.')
    if counts[folder] > 1:
      raise errors.InputError(
          f'class {name!r} shares the folder name {folder!r} with another; '
          'expected --format npz for this pool.')
  return folders


def to_folder(pool: pools.Pool, out: pathlib.Path):
  """Writes OUT/CLASS/000001.png, numbered in each class, and labels.csv."""
  folders = folder_names(pool.manifest['class_names'])
  with files.writing(out):
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
      raise errors.InputError(
          f'{out}: is not empty; expected a new or an empty folder.')
    whole = out.absolute()
    partial = files.folder(whole.parent, whole.name).partial
    files.begin(partial)
    try:
      _write_files(pool, folders, partial)
      os.rename(partial, out)
    finally:
      files.remove(partial)


def _write_files(pool, folders, root):
  numbers, manifest = collections.Counter(), pool.manifest
  with open(root / 'labels.csv', 'w', newline='', encoding='utf-8') as f:
    table = csv.writer(f, lineterminator='\n')
    table.writerow(COLUMNS)
    for image, label, batch, row in zip(
        pool.images, pool.labels.tolist(), pool.batch.tolist(),
        pool.row.tolist(), strict=True):
      numbers[label] += 1
      file = f'{folders[label]}/{numbers[label]:06d}.png'
      images.save_png(root / file, image)
      table.writerow([file, label, manifest['class_names'][label],
                      manifest['generator_key'], batch, row])


def to_npz(pool: pools.Pool, out: pathlib.Path):
  """Writes the keys that config.data.source=npz reads, and provenance."""
  if out.exists():
    raise errors.InputError(f'{out}: is there already; expected a new file.')
  with files.writing(out):
    out.parent.mkdir(parents=True, exist_ok=True)
  files.save_npz(
      out, x_train=pool.images, y_train=pool.labels, batch=pool.batch,
      row=pool.row, class_names=pool.manifest['class_names'],
      generator=pool.manifest['generator_key'], seed=pool.manifest['seed'])


def main(argv=None) -> int:
  """Returns the exit status, see core/exit_status.py."""
  parser = exit_status.parser(
      'jaxaug export',
      'Writes a pool as PNG files with labels.csv, or as one npz.')
  parser.add_argument('pool', metavar='POOL', help='WORKDIR/pool/NAME')
  parser.add_argument('out', metavar='OUT', help='a new folder, or npz file')
  parser.add_argument('--format', choices=('folder', 'npz'), default='folder')

  def work():
    args = parser.parse_args(argv)
    out = pathlib.Path(args.out)
    write = {'folder': to_folder, 'npz': to_npz}[args.format]
    pool = pools.read(args.pool)
    write(pool, out)
    print(f'{len(pool.labels)} images of {pool.manifest["generator_key"]}: '
          f'{out}')
  return exit_status.of('jaxaug export', work)


if __name__ == '__main__':
  interrupts.leave(main())
