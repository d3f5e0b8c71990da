"""A table of image files and labels: CSV, TSV or JSON lines."""
import csv
import json
import os
import pathlib

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
      folder with metadata.csv, metadata.jsonl or labels.csv. Files stand in
      relation to its folder.
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
  table = _table(path)
  rows = _rows(table)
  columns = {kind: _column(kind, given, rows[0][1], table)
             for kind, given in (('file', file_column), ('label', label_column),
                                 ('split', split_column))}
  names = _class_names(rows, columns['label'], table)
  parts = {}
  for number, row in rows:
    values = {kind: str(row.get(column) or '').strip() if column else 'train'
              for kind, column in columns.items()}
    if row.get(columns['label']) == 0:
      values['label'] = '0'
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
    listing = parts.setdefault(split, layout.Listing([], [], []))
    listing.names.append(values['file'])
    listing.files.append(table.parent / values['file'])
    listing.labels.append(
        int(values['label']) if names else values['label'])
  if 'train' not in parts:
    raise errors.InputError(
        f'{_WHERE}: {table} has rows of {", ".join(parts)} and none of train; '
        'expected some.')
  _check_there(parts, table)
  if not names and all(label.isdecimal() and str(int(label)) == label
                       for p in parts.values() for label in p.labels):
    # So that 10 comes after 9.
    parts = {split: p._replace(labels=[*map(int, p.labels)])
             for split, p in parts.items()}
  name = table.parent.absolute().name if table.name in TABLES else table.stem
  order = [s for s in ('train', 'validation', 'test') if s in parts]
  return reading.dataset(name, {s: parts[s] for s in order},
                         reading.how(**how), f'{_WHERE}: {table}',
                         class_names=names)


def _table(path) -> pathlib.Path:
  """Returns the file, also of a folder that has one."""
  root = pathlib.Path(os.path.expanduser(path))
  if str(path) and root.is_dir():
    there = [root / name for name in TABLES if (root / name).is_file()]
    if not there:
      raise errors.InputError(
          f'{_WHERE}: {root} holds none of {", ".join(TABLES)}; expected a '
          'table of its images.')
    return there[0]
  return layout.file(path, _WHERE)


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


def _class_names(rows, column: str, table) -> tuple[str, ...] | None:
  """Returns the names that stand beside numbers, in their order, or None."""
  if column == 'class' or 'class' not in rows[0][1]:
    return None
  names = {}
  for number, row in rows:
    label, name = str(row.get(column)), str(row.get('class') or '')
    if not label.isdecimal() or not name:
      return None
    if names.setdefault(int(label), name) != name:
      raise errors.InputError(
          f'{_WHERE}: {table}: row {number}: label {label} is class {name!r}, '
          f'and {names[int(label)]!r} above; expected one name a number.')
  if sorted(names) != list(range(len(names))) or (
      len(set(names.values())) < len(names)):
    return None
  return tuple(names[i] for i in range(len(names)))


def _check_there(parts, table):
  """Raises InputError where rows name no file."""
  missing = [name for p in parts.values()
             for name, file in zip(p.names, p.files, strict=True)
             if not os.path.isfile(file)]
  if missing:
    raise errors.InputError(
        f'{_WHERE}: {table} names {len(missing)} files that are not there (the '
        f'first: {missing[0]}); expected paths below {table.parent}.')
