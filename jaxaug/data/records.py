"""Images that do not fit in memory: in ArrayRecord files, read by their places.

They look like an array; a batch that is named in advance is read in advance.
"""
import pathlib
import typing

import numpy as np

from jaxaug.core import errors, files
from jaxaug.data import images

# Threads that read, and how many batches wait for the training.
_THREADS, _AHEAD = 2, 8
_READ = 1024   # Records of one request.


class Records:
  """Images on the disk that look like an array uint8 [N, H, W, C].

  Places in brackets, a slice or an array, are read; `take` names some, and
  reads nothing. What wants all of them at once is refused where they take more
  than `limit` bytes.
  """
  dtype, ndim = np.dtype(np.uint8), 4

  def __init__(self, path, size: tuple[int, int, int], rows: np.ndarray,
               limit: int = 2**32):
    """Opens a file that `write` wrote.

    Args:
      path: of the file.
      size: (height, width, channels).
      rows: int64 [N], places in the file.
      limit: bytes of memory that all of them may take.
    """
    self.path, self.size = pathlib.Path(path), tuple(size)
    self.rows, self.limit = np.asarray(rows, np.int64), limit
    self._source = None

  @property
  def shape(self) -> tuple[int, int, int, int]:
    """As of an array."""
    return (len(self.rows), *self.size)

  @property
  def nbytes(self) -> int:
    """As of an array."""
    return int(np.prod(self.shape, dtype=np.int64))

  def __len__(self) -> int:
    return len(self.rows)

  def take(self, rows) -> 'Records':
    """Returns the images at some places, unread."""
    out = Records(self.path, self.size, self.rows[rows], self.limit)
    out._source = self._source
    return out

  def __getitem__(self, rows) -> np.ndarray:
    wanted = self.rows[rows]
    flat = wanted.reshape(-1)
    out = np.empty((len(flat), *self.size), np.uint8)
    for start in range(0, len(flat), _READ):
      found = self._records(flat[start:start + _READ].tolist())
      for row, record in zip(out[start:start + _READ], found, strict=True):
        row[:] = np.frombuffer(record, np.uint8).reshape(self.size)
    return out.reshape(*np.shape(wanted), *self.size)

  def __iter__(self):
    for part in images.blocks(self, _READ):
      yield from part

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    if self.nbytes > self.limit:
      raise errors.InputError(
          f'config.data.memory: {self.limit / 2**30:g} GiB; expected '
          f'{self.nbytes / 2**30:.3g} or more for what looks at all '
          f'{len(self):,} images of a split at once.')
    return self[:]

  def _records(self, rows: list[int]) -> list[bytes]:
    if self._source is None:
      from grain import sources  # Takes a second to load.
      self._source = sources.ArrayRecordDataSource([str(self.path)])
    return self._source.__getitems__(rows)


def write(path, parts, size: tuple[int, int, int], limit: int) -> Records:
  """Writes images, one to a record, and returns them.

  Args:
    path: of the file.
    parts: yields uint8 [n, H, W, C].
    size: (height, width, channels).
    limit: see Records.
  """
  from array_record.python import array_record_module
  count = 0
  with files.writing(path):
    # One to a group: each is found and read by itself.
    writer = array_record_module.ArrayRecordWriter(
        str(path), 'group_size:1,uncompressed')
    for part in parts:
      for image in np.ascontiguousarray(part):
        writer.write(image.tobytes())
      count += len(part)
    writer.close()
  return Records(path, size, np.arange(count), limit)


class Joined:
  """Sets of images laid end to end, in memory or not, read by their places."""

  def __init__(self, pieces: list):
    self.pieces = pieces
    self.starts = np.cumsum([0, *map(len, pieces)])

  def __getitem__(self, rows: np.ndarray) -> np.ndarray:
    """Returns uint8 [..., H, W, C] of places int [...]."""
    flat = np.reshape(rows, -1)
    out = np.empty((len(flat), *self.pieces[0].shape[1:]), np.uint8)
    which = np.searchsorted(self.starts, flat, 'right') - 1
    for i in np.unique(which):
      here = which == i
      out[here] = self.pieces[i][flat[here] - self.starts[i]]
    return out.reshape(*np.shape(rows), *out.shape[1:])

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    return np.concatenate([np.asarray(piece) for piece in self.pieces])


def ahead(function: typing.Callable, stop: int, stride: int = 1):
  """Returns the same function of a number, computed ahead by other threads.

  Asked for i, it begins with i + stride, i + 2 * stride, ... below `stop`.

  Args:
    function: of an int; pure.
    stop, stride: of the numbers that will be asked for.
  """
  coming, expected = None, None

  def at(i: int):
    nonlocal coming, expected
    if i != expected:
      import grain
      coming = iter(grain.MapDataset.range(i, stop, stride).map(
          function).to_iter_dataset(grain.ReadOptions(_THREADS, _AHEAD)))
    expected = i + stride
    return next(coming)
  return at
