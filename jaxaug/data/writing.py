"""Labelled images for other tools: folders, npz, tables, parquet, tars, zips.

What is written is read again by the source of the same name in data/datasets/,
to equal arrays, and by the usual reader of each format. Numbers and names of
classes travel with all of them: folders sorted by name are another order.
"""
import collections
import csv
import io
import json
import pathlib
import re
import tarfile
import typing
import zipfile

import numpy as np

from jaxaug.core import errors, files
from jaxaug.data import images

_GROUP = 500  # Images of a row group of parquet.
_CARD = 'README.md'


class Labelled(typing.NamedTuple):
  """What is written; rows belong together.

  images: uint8 [N, H, W, C].
  labels: int32 [N].
  class_names: in the order of the labels.
  columns: name -> N values that a table has beside file and label.
  card: what a reader should know, in Markdown.
  facts: name -> what an npz has of the whole.
  """
  images: np.ndarray
  labels: np.ndarray
  class_names: tuple[str, ...]
  columns: dict = {}
  card: str = ''
  facts: dict = {}

  @property
  def names(self) -> list[str]:
    """The name of each image's class."""
    return [self.class_names[k] for k in self.labels.tolist()]


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
          f'class {name!r} cannot be the name of a folder; expected another '
          '--format, such as npz, for this set.')
    if counts[folder] > 1:
      raise errors.InputError(
          f'class {name!r} shares the folder name {folder!r} with another; '
          'expected another --format, such as npz, for this set.')
  return folders


def _png(image: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  images.write_png(buffer, image)
  return buffer.getvalue()


def _table(path, columns: dict):
  with open(path, 'w', newline='', encoding='utf-8') as f:
    table = csv.writer(f, lineterminator='\n')
    table.writerow(columns)
    table.writerows(zip(*columns.values(), strict=True))


def to_folder(root: pathlib.Path, given: Labelled):
  """Writes CLASS/000001.png, numbered in each class, labels.csv and the card.
  """
  folders, numbers, names = (folder_names(given.class_names),
                             collections.Counter(), [])
  for image, label in zip(given.images, given.labels.tolist(), strict=True):
    numbers[label] += 1
    names.append(f'{folders[label]}/{numbers[label]:06d}.png')
    images.save_png(root / names[-1], image)
  _table(root / 'labels.csv', {
      'file': names, 'label': given.labels.tolist(), 'class': given.names
      } | given.columns)
  (root / _CARD).write_text(given.card, encoding='utf-8')


def to_csv(root: pathlib.Path, given: Labelled):
  """Writes images/000000.png, metadata.csv as the Hub has it, and the card."""
  names = [f'images/{i:06d}.png' for i in range(len(given.labels))]
  for name, image in zip(names, given.images, strict=True):
    images.save_png(root / name, image)
  _table(root / 'metadata.csv', {
      'file_name': names, 'label': given.labels.tolist(), 'class': given.names
      } | given.columns)
  (root / _CARD).write_text(given.card, encoding='utf-8')


def to_npz(path: pathlib.Path, given: Labelled):
  """Writes x_train, y_train, class_names, the columns and the facts."""
  files.save_npz(
      path, x_train=given.images, y_train=given.labels,
      class_names=np.array(given.class_names), card=given.card,
      **(given.columns | given.facts))


def to_parquet(root: pathlib.Path, given: Labelled):
  """Writes data/train-00000-of-00001.parquet as the Hub has it, and the card.

  Raises:
    InputError: pyarrow is not installed.
  """
  try:
    import pyarrow
    import pyarrow.parquet
  except ModuleNotFoundError:
    raise errors.InputError('--format parquet needs the package pyarrow; pip '
                            'install pyarrow.') from None
  about = {'info': {'features': {
      'image': {'_type': 'Image'},
      'label': {'names': list(given.class_names), '_type': 'ClassLabel'}}}}
  schema = pyarrow.schema(
      [('image', pyarrow.struct([('bytes', pyarrow.binary()),
                                 ('path', pyarrow.string())])),
       ('label', pyarrow.int64())],
      metadata={'huggingface': json.dumps(about)})
  (root / 'data').mkdir()
  with pyarrow.parquet.ParquetWriter(
      root / 'data' / 'train-00000-of-00001.parquet', schema) as writer:
    for start in range(0, len(given.labels), _GROUP):
      rows = slice(start, start + _GROUP)
      writer.write_table(pyarrow.table({
          'image': [{'bytes': _png(image), 'path': f'{start + i:06d}.png'}
                    for i, image in enumerate(given.images[rows])],
          'label': given.labels[rows].astype(np.int64)}, schema))
  (root / _CARD).write_text(given.card, encoding='utf-8')


def to_webdataset(root: pathlib.Path, given: Labelled):
  """Writes train-000000.tar of KEY.png, .cls and .json, classnames.txt, card.
  """
  wrong = [name for name in given.class_names
           if len(name.splitlines()) != 1 or name != name.strip()]
  if wrong:
    raise errors.InputError(
        f'class {wrong[0]!r} is no line of classnames.txt; expected another '
        '--format, such as npz, for this set.')
  with tarfile.open(root / 'train-000000.tar', 'w') as tar:
    for i, (image, label, name) in enumerate(zip(
        given.images, given.labels.tolist(), given.names, strict=True)):
      for ending, data in (
          ('png', _png(image)), ('cls', str(label).encode()),
          ('json', json.dumps({'label': label, 'class': name}).encode())):
        info = tarfile.TarInfo(f'{i:06d}.{ending}')
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
  (root / 'classnames.txt').write_text(
      ''.join(f'{name}\n' for name in given.class_names), encoding='utf-8')
  (root / _CARD).write_text(given.card, encoding='utf-8')


def to_zip(path: pathlib.Path, given: Labelled):
  """Writes the zip of StyleGAN and EDM: PNGs and dataset.json; and the card."""
  names = [f'{i // 1000:05d}/img{i:08d}.png' for i in range(len(given.labels))]
  with files.replacing(path) as f, zipfile.ZipFile(f, 'w') as archive:
    for name, image in zip(names, given.images, strict=True):
      archive.writestr(name, _png(image))
    archive.writestr('dataset.json', json.dumps({
        'labels': [list(pair) for pair in zip(
            names, given.labels.tolist(), strict=True)],
        'class_names': list(given.class_names)}))
    archive.writestr(_CARD, given.card)


# Format -> (what writes it, whether that is a folder).
FORMATS = {'folder': (to_folder, True), 'npz': (to_npz, False),
           'csv': (to_csv, True), 'parquet': (to_parquet, True),
           'webdataset': (to_webdataset, True), 'zip': (to_zip, False)}
