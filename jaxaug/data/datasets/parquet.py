"""Image sets of the Hugging Face Hub: parquet files with images inside."""
import functools
import json
import pathlib
import threading

from jaxaug.core import errors, types
from jaxaug.data import layout, reading

_WHERE = 'config.data.path'
_LABELS = ('label', 'labels', 'fine_label', 'class', 'target')


def load(*, path: str, image_key: str = '', label_key: str = '',
         **how: reading.how) -> types.Dataset:
  """Reads parquet files whose rows are an image and its label; needs pyarrow.

  Args:
    path: a .parquet file, or a folder of them, at any depth, each named after
      its split (train-00000-of-00001.parquet); without split names all is
      'train'.
    image_key, label_key: the columns; '' finds the only one of images, and
      label, labels, class or target. Images are the bytes of a file each, or
      {bytes, path}; labels numbers or names. Names of numbers are taken from
      what the Hub keeps of the columns.
    **how: see reading.how.

  Raises:
    InputError: pyarrow is not installed, no such file, a damaged one, no such
      column, or images that cannot be used or differ in size.
  """
  try:
    import pyarrow.parquet
  except ModuleNotFoundError:
    raise errors.InputError(
        'config.data.source: parquet needs the package pyarrow; pip install '
        'pyarrow.') from None
  parts, names, notes = {}, None, []
  for split, files in layout.shards(path, '.parquet', _WHERE).items():
    listing = layout.Listing([], [], [])
    for file in files:
      try:
        opened = pyarrow.parquet.ParquetFile(file, memory_map=True)
        schema = opened.schema_arrow
        image, label = _columns(schema, image_key, label_key, file)
        own = _class_names(schema, label)
        _check_label(schema.field(label).type, label, file)
        listing.labels.extend(
            opened.read(columns=[label])[label].to_pylist())
      except (OSError, pyarrow.ArrowException) as e:
        raise errors.InputError(
            f'{_WHERE}: {file}: damaged, or no parquet file '
            f'({str(e).splitlines()[0]}).') from None
      if names is not None and own != names:
        raise errors.InputError(
            f'{_WHERE}: {file}: its classes are {", ".join(own or ("none",))}, '
            f'and {", ".join(names)} in another file; expected the same, in '
            'the same order.')
      names = own
      listing.files.extend(_rows(opened, image))
      listing.names.extend(f'{file.name}, row {i}'
                           for i in range(opened.metadata.num_rows))
    if None in listing.labels:
      raise errors.InputError(
          f'{_WHERE}: {path}: {listing.labels.count(None)} rows of {split} '
          'have no label; expected one in every row.')
    if split != 'train' and listing.labels and set(listing.labels) == {-1}:
      notes.append(f'{split}: its {len(listing.labels)} images have no labels '
                   '(-1, as the Hub has it): left out')
      continue
    if not listing.files:
      raise errors.InputError(f'{_WHERE}: {path}: {split} has no row; expected '
                              'an image and its label in each.')
    parts[split] = listing
  return reading.dataset(
      pathlib.Path(path).absolute().stem, parts, reading.how(**how),
      f'{_WHERE}: {path}', class_names=names, notes=notes)


def _columns(schema, image_key, label_key, file) -> tuple[str, str]:
  """Returns the names of the columns of images and labels."""
  for key, name in (('image_key', image_key), ('label_key', label_key)):
    if name and name not in schema.names:
      raise errors.InputError(
          f'config.data.{key}: {file} has no column {name!r}; it has '
          f'{", ".join(schema.names)}.{errors.nearest(name, schema.names)}')
  found = [f.name for f in schema if _holds_images(f.type)]
  if not image_key and len(found) != 1:
    raise errors.InputError(
        f'{_WHERE}: {file} has {len(found) or "no"} columns of images '
        f'({", ".join(schema.names)}); expected one, or config.data.image_key.')
  label = label_key or next((n for n in _LABELS if n in schema.names), '')
  if not label:
    raise errors.InputError(
        f'{_WHERE}: {file} has the columns {", ".join(schema.names)}; expected '
        'one called label, or config.data.label_key.')
  return image_key or found[0], label


def _check_label(kind, label: str, file):
  """Refuses a column that holds neither whole numbers nor texts."""
  text = str(kind)
  if not any(word in text for word in ('int', 'string', 'bool')) or '<' in (
      text.replace('dictionary<', '')):
    raise errors.InputError(
        f'{_WHERE}: {file}: labels in {label!r} are {text}; expected whole '
        'numbers or texts.')


def _holds_images(kind) -> bool:
  text = str(kind)
  return text in ('binary', 'large_binary') or (
      text.startswith('struct<') and 'bytes: ' in text)


def _class_names(schema, label: str) -> tuple[str, ...] | None:
  """Returns the names that the Hub's metadata has of a column's numbers."""
  try:
    about = json.loads(schema.metadata[b'huggingface'])
    names = about['info']['features'][label]['names']
  except (KeyError, TypeError, ValueError):
    return None
  return tuple(map(str, names))


def _rows(opened, column: str):
  """Yields what returns the bytes of an image, for each row of a file.

  Row groups around the last one are kept: neighbours are asked for together.
  """
  lock = threading.Lock()  # A reader is not for several threads.

  @functools.lru_cache(2)
  def group_of(group: int):
    return opened.read_row_group(group, columns=[column])[
        column].combine_chunks()

  def read(group: int, i: int) -> bytes:
    with lock:
      held = group_of(group)
    value = held[i].as_py()
    value = value.get('bytes') if isinstance(value, dict) else value
    if value is None:
      raise errors.InputError(
          f'{_WHERE}: row {i} of row group {group} has no image inside; '
          'expected its bytes, not a path alone.')
    return value
  for group in range(opened.metadata.num_row_groups):
    for i in range(opened.metadata.row_group(group).num_rows):
      yield functools.partial(read, group, i)
