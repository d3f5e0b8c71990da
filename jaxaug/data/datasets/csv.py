"""A table of image files and labels: CSV, TSV or JSON lines."""
import csv
import json
import os
import pathlib
import typing
import unicodedata

from jaxaug.core import errors, types
from jaxaug.data import layout, reading

_WHERE = 'config.data.path'
# What people call the columns; the first that there is counts.
_COLUMNS = {
    'file': ('file_name', 'filename', 'file', 'filepath', 'file_path', 'path',
             'image_path', 'image_file', 'image', 'img'),
    'label': ('label', 'labels', 'class', 'class_name', 'category', 'target',
              'y'),
    'split': ('split', 'set', 'subset', 'partition')}
# Tables that a folder of images may come with.
TABLES = ('metadata.csv', 'metadata.jsonl', 'labels.csv')


def load(*, path: str, file_column: str = '', label_column: str = '',
         split_column: str = '', **how: reading.how) -> types.Dataset:
  """Reads the images that a table names; without splits all is 'train'.

  Args:
    path: a .csv, .tsv or .jsonl file, whose first line names the columns, or a
      folder with metadata.csv, metadata.jsonl or labels.csv, or with train/,
      val/ and test/ that have one each. Files stand in relation to its folder.
    file_column, label_column, split_column: names of the columns; '' finds
      file_name, file, path or image; label, class or category; split, if there
      is one. Labels are names or numbers; where numbers stand beside a column
      'class', that has their names.
    **how: see reading.how.

  Raises:
    InputError: no such file, no such column, rows that lack a value or name no
      file, an unknown split, a class that is not in every split, or images that
      cannot be used or differ in size.
  """
  given = {'file': file_column, 'label': label_column, 'split': split_column}
  tables, parts = _tables(path), {}
  rows = [row for of, table in tables for row in _read(table, of, given)]
  names = _class_names(rows)
  for row in rows:
    listing = parts.setdefault(row.split, layout.Listing([], [], []))
    listing.names.append(row.name)
    listing.files.append(row.table.parent / row.file)
    listing.labels.append(int(row.label) if names else row.label)
  table = tables[0][1]
  if 'train' not in parts:
    raise errors.InputError(
        f'{_WHERE}: {table} has rows of {", ".join(parts)} and none of train; '
        'expected some.')
  _check_there(rows)
  if not names and all(label.isdecimal() and str(int(label)) == label
                       for p in parts.values() for label in p.labels):
    # So that 10 comes after 9.
    parts = {split: p._replace(labels=[*map(int, p.labels)])
             for split, p in parts.items()}
  order = [s for s in ('train', 'validation', 'test') if s in parts]
  if table.name in TABLES:
    folder = table.parents[1] if tables[0][0] else table.parent
    name, where = folder.absolute().name, folder if tables[0][0] else table
  else:
    name, where = table.stem, table
  return reading.dataset(name, {s: parts[s] for s in order},
                         reading.how(**how), f'{_WHERE}: {where}',
                         class_names=names, ignored=_unnamed(rows, tables))


class _Row(typing.NamedTuple):
  """A row of a table.

  table: its file. number: of its line. split: in words of ours. name: of the
  image, for people. file: in relation to the table's folder. label: a name or a
  number. known: what else stands under 'class', or ''.
  """
  table: pathlib.Path
  number: int
  split: str
  name: str
  file: str
  label: str
  known: str


def kept_in(folder: pathlib.Path) -> bool:
  """Whether a folder, or its split folders, have a table."""
  return bool(_in_folder(folder))


def _in_folder(root: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
  """Returns (split or '', table) of a folder; [] where there is none."""
  for name in TABLES:
    if (root / name).is_file():
      return [('', root / name)]
  return [(split, each / name) for each in sorted(root.iterdir())
          if (split := layout.split_of(each.name)) for name in TABLES
          if (each / name).is_file()]


def _tables(path) -> list[tuple[str, pathlib.Path]]:
  """Returns (split or '', table), also of a folder that has some."""
  root = pathlib.Path(os.path.expanduser(path))
  if not str(path) or not root.is_dir():
    return [('', layout.file(path, _WHERE))]
  found = _in_folder(root)
  if not found:
    raise errors.InputError(
        f'{_WHERE}: {root} holds none of {", ".join(TABLES)}; expected a '
        'table of its images, or one in each of train/, val/ and test/.')
  errors.once(f'{_WHERE}: {root}: splits of its tables',
              [table.parent.name for _, table in found],
              [split for split, _ in found])
  return found


def _text(value) -> str:
  """Returns a value of a table as the text of a label, a path or a split."""
  if isinstance(value, bool):
    value = str(value).lower()
  elif isinstance(value, float) and value.is_integer():
    value = int(value)
  return unicodedata.normalize('NFC', str('' if value is None else
                                          value)).strip()


def _read(table: pathlib.Path, of: str, given: dict[str, str]):
  """Yields the rows of a table; of: the split that its folder says, or ''."""
  rows = _rows(table)
  # A line of JSON may lack what others have.
  every = dict.fromkeys(key for _, row in rows for key in row)
  columns = {kind: _column(kind, name, every, table)
             for kind, name in given.items()}
  for number, row in rows:
    values = {kind: _text(row.get(column)) if column else of or 'train'
              for kind, column in columns.items()}
    for kind, value in values.items():
      if not value:
        raise errors.InputError(
            f'{_WHERE}: {table}: row {number} has no {kind} (column '
            f'{columns[kind]!r}); expected one in every row.')
    split = layout.SPLITS.get(values['split'].casefold())
    if split is None:
      raise errors.InputError(
          f'{_WHERE}: {table}: row {number}: split {values["split"]!r}; '
          'expected train, val or test.'
          f'{errors.nearest(values["split"], layout.SPLITS)}')
    file = str(row.get(columns['file'])).strip()
    yield _Row(table, number, split, f'{table.parent.name}/{file}' if of else
               file, file, values['label'], '' if columns['label'] == 'class'
               else _text(row.get('class')))


def _rows(table: pathlib.Path) -> list[tuple[int, dict]]:
  """Returns (number of the line, row) of a table."""
  try:
    with open(table, newline='', encoding='utf-8-sig') as f:
      if table.suffix.lower() in ('.jsonl', '.ndjson'):
        rows = [(i, json.loads(line)) for i, line in enumerate(f, 1)
                if line.strip()]
        wrong = [i for i, row in rows if not isinstance(row, dict)]
        if wrong:
          raise ValueError(f'line {wrong[0]} is no object')
      else:
        head = f.readline()
        f.seek(0)
        comma = max(',;\t', key=head.count)
        reader = csv.DictReader(f, delimiter=comma, strict=True)
        head = [name.strip() for name in reader.fieldnames or ()]
        if twice := {name for name in head if head.count(name) > 1}:
          raise ValueError(f'two columns are called {min(twice)!r}')
        rows = [(reader.line_num, row) for row in reader]
        wrong = [i for i, row in rows if None in row]
        if wrong:
          raise ValueError(f'line {wrong[0]} has more values than columns')
  except (ValueError, csv.Error) as e:
    raise errors.InputError(
        f'{_WHERE}: {table}: no table in UTF-8 ({e}); expected CSV, TSV or '
        'JSON lines.') from None
  if not rows:
    raise errors.InputError(f'{_WHERE}: {table} has no rows; expected a line '
                            'of column names, and one an image.')
  return rows


def _column(kind: str, given: str, row: dict, table) -> str:
  """Returns the name of a column; '' for no splits."""
  there = {str(name).strip().casefold(): name for name in row}
  if given:
    if given not in row:
      raise errors.InputError(
          f'config.data.{kind}_column: {table} has no column {given!r}; it has '
          f'{", ".join(row)}.{errors.nearest(given, row)}')
    return given
  for name in _COLUMNS[kind]:
    if name in there:
      return there[name]
  if kind == 'split':
    return ''
  raise errors.InputError(
      f'{_WHERE}: {table} has the columns {", ".join(map(str, row))}; expected '
      f'one of the {kind}s, such as {_COLUMNS[kind][0]!r}, or its name in '
      f'config.data.{kind}_column.')


def _class_names(rows: list[_Row]) -> tuple[str, ...] | None:
  """Returns the names that stand beside numbers, in their order, or None."""
  names = {}
  for row in rows:
    if not row.label.isdecimal() or not row.known:
      return None
    if names.setdefault(int(row.label), row.known) != row.known:
      raise errors.InputError(
          f'{_WHERE}: {row.table}: row {row.number}: label {row.label} is '
          f'class {row.known!r}, and {names[int(row.label)]!r} above; expected '
          'one name a number.')
  if sorted(names) != list(range(len(names))) or (
      len(set(names.values())) < len(names)):
    return None
  return tuple(names[i] for i in range(len(names)))


def _unnamed(rows: list[_Row], tables) -> dict[str, int]:
  """Counts the images beside tables of folders that no row names."""
  named = {os.path.normpath(row.table.parent / row.file) for row in rows}
  there = {os.path.normpath(file) for _, table in tables
           if table.name in TABLES
           for file in layout.pictures(table.parent)}
  left = len(there - named)
  return {'images that no row of the table names': left} if left else {}


def _check_there(rows: list[_Row]):
  """Raises InputError where rows name no file."""
  missing = [row for row in rows
             if not os.path.isfile(row.table.parent / row.file)]
  if missing:
    raise errors.InputError(
        f'{_WHERE}: {missing[0].table} names {len(missing)} files that are not '
        f'there (the first: {missing[0].file}); expected paths below '
        f'{missing[0].table.parent}.')
