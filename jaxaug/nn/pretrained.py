"""Weight files of trained networks: found, downloaded once, read as arrays.

Reads .npz, PyTorch's .pth and .pt without PyTorch, and Keras' .h5. A .pth is a
pickle, which could name any function to be run: none but those that make
tensors get through.
"""
import collections
import hashlib
import os
import pathlib
import pickle
import typing
import urllib.request
import zipfile

import jax.numpy as jnp
import numpy as np

from jaxaug.core import console, errors, files

_MAGIC = 0x1950a86a20f9469cfc6c  # Of PyTorch's files from before 1.6.
_DTYPES = {'Double': np.float64, 'Float': np.float32, 'Half': np.float16,
           'BFloat16': jnp.bfloat16, 'Long': np.int64, 'Int': np.int32,
           'Short': np.int16, 'Char': np.int8, 'Byte': np.uint8,
           'Bool': np.bool_}


# What a user can do without any file.
STANDINS = 'without it: scattering and pixels need no file'


class Published(typing.NamedTuple):
  """A file that everybody uses: its name, digest, address and size.

  sha256: all hex digits, or the first ones where only they are published.
  size: bytes; 0 if unknown.
  """
  name: str
  sha256: str
  url: str
  size: int = 0


def digest(path) -> str:
  """Returns the sha256 of a file in hex; InputError if it cannot be read."""
  try:
    with open(path, 'rb') as f:
      return hashlib.file_digest(f, 'sha256').hexdigest()
  except OSError as e:
    raise errors.InputError(f'{path}: cannot be read: {e.strerror}') from e


def find(published: Published, path='', where: str = 'weights',
         standins: str = '', download: bool = True) -> pathlib.Path:
  """Returns where a file lies; the first time it is downloaded to the cache.

  The cache is `weights` in $JAXAUG_CACHE, or in ~/.cache/jaxaug.

  Args:
    published: what to look for.
    path: a file of the user's, taken as it is; '' for the published one.
    where: the key that gives `path`, for the error.
    standins: what there is to do without the file, for the error.
    download: whether it may be downloaded.

  Raises:
    InputError: there is no such file and it cannot be had, or the one in the
      cache is another.
  """
  if path:
    given = pathlib.Path(os.path.expanduser(path))
    if not given.is_file():
      raise errors.InputError(f'{where}: {path}: there is no such file.')
    return given
  place = files.cache() / 'weights' / published.name
  if place.exists():
    if not (found := digest(place)).startswith(published.sha256):
      raise errors.InputError(
          f'{where}: {place}: not the published file, its sha256 is {found}; '
          f'expected {published.sha256}; move it away.')
    return place
  wrong = _fetch(published, place) if download else 'downloads are off'
  if wrong:
    raise errors.InputError(
        f'{where}: {published.name} is not at hand and cannot be downloaded '
        f'({wrong}); expected it (sha256 {published.sha256}) at {place}, from '
        f'{published.url}{f"; {standins}" if standins else ""}.')
  return place


def _fetch(published, place) -> str:
  """Downloads a file to `place`, all of it or nothing; says what went wrong."""
  found = hashlib.sha256()
  try:
    with files.writing(place):
      place.parent.mkdir(parents=True, exist_ok=True)
    files.check_space(place, published.size)
    with files.replacing(place) as file:
      for part in _download(published):
        file.write(part)
        found.update(part)
      if not found.hexdigest().startswith(published.sha256):
        raise errors.InputError(
            f'what came has the sha256 {found.hexdigest()}')
  except errors.InputError as e:
    return str(e)
  return ''


def _download(published):
  """Yields a file's bytes; InputError unless all of them come."""
  done = 0
  try:
    with urllib.request.urlopen(published.url, timeout=60) as answer:
      total = int(answer.headers.get('Content-Length') or published.size)
      size = max(-(-total >> 20), 1)
      with console.progress(f'download {published.name}', size,
                         unit='megabyte') as update:
        while part := answer.read(1 << 20):
          done += len(part)
          update(min(-(-done >> 20), size))
          yield part
  except Exception as e:  # urllib and http raise a dozen kinds.
    raise errors.InputError(_line(e)) from e
  if done < total:
    raise errors.InputError(f'it broke off after {done} of {total} bytes')


def _line(error) -> str:
  """The first line of what an exception says."""
  reason = getattr(error, 'reason', None) or error
  text = getattr(reason, 'strerror', None) or str(reason)
  return (text.splitlines() or [type(error).__name__])[0]


def read(path, where: str = 'weights') -> dict[str, np.ndarray]:
  """Reads a file of weights, whatever its ending: array by name.

  Of a PyTorch checkpoint with a `state_dict` that is read, and of a dictionary
  what is a tensor; bfloat16 becomes float32. Keras' arrays are named by their
  paths in the file. Arrays may share memory: they are not to be written to.

  Args:
    path: .npz; .pth or .pt, of PyTorch before or since 1.6; or .h5, which
      needs the package h5py.
    where: the key that names it, for the error.

  Raises:
    InputError: the file is missing, damaged, of another kind, or holds more
      than tensors.
  """
  try:
    with open(os.path.expanduser(path), 'rb') as file:
      arrays = _read(file)
    if arrays is None:
      arrays = files.read_npz(path, where)
    if all(isinstance(a, np.ndarray) for a in arrays.values()) and arrays:
      return arrays
    wrong = 'holds no arrays, or more than arrays'
  except FileNotFoundError:
    wrong = 'there is no such file'
  except errors.InputError as e:
    wrong = str(e).removeprefix(f'{where}: {path}: ').removesuffix('.')
  except Exception as e:  # pickle and zipfile raise a dozen kinds.
    wrong = f'cannot be read, or is damaged ({_line(e)})'
  raise errors.InputError(f'{where}: {path}: {wrong}.')


def _read(file) -> dict | None:
  """Returns array by name, or None where it may be an .npz file."""
  start = file.read(8)
  file.seek(0)
  if start == b'\x89HDF\r\n\x1a\n':
    return _read_h5(file)
  if start.startswith(b'PK'):
    with zipfile.ZipFile(file) as archive:
      return _read_zip(archive)
  if start.startswith(b'\x80'):
    return _read_legacy(file)
  raise errors.InputError(('not a file of weights' if start else 'empty')
                          + '; expected .npz, .pth or .h5')


def _read_h5(file):
  try:
    import h5py
  except ImportError as e:
    raise errors.InputError('an .h5 file needs the package h5py: install it, '
                            'or give an .npz or .pth file') from e
  arrays = {}
  def take(name, node):
    if isinstance(node, h5py.Dataset):
      arrays[name] = np.asarray(node)
  with h5py.File(file) as group:
    group.visititems(take)
  return arrays


class _Storage(typing.NamedTuple):
  """Values that tensors are views of."""
  key: str
  dtype: np.dtype
  count: int


class _Tensor(typing.NamedTuple):
  """A view of a storage: its first value, and in values its steps."""
  storage: _Storage
  start: int
  shape: tuple
  steps: tuple


def _rebuild_tensor_v2(storage, start, shape, steps, *_):
  return _Tensor(storage, start, shape, steps)


def _rebuild_parameter(tensor, *_):
  return tensor


_LET_THROUGH = {
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('torch._utils', '_rebuild_tensor_v2'): _rebuild_tensor_v2,
    ('torch._utils', '_rebuild_parameter'): _rebuild_parameter}


def _find_class(_, module, name):
  if (module, name) in _LET_THROUGH:
    return _LET_THROUGH[module, name]
  kind = name.removesuffix('Storage')
  if module == 'torch' and kind != name and kind in _DTYPES:
    return np.dtype(_DTYPES[kind])
  raise errors.InputError(
      f'asks for {f"{module}.{name}"!r}, which is not let through; expected a '
      'state_dict, of nothing but tensors')


def _storage(reader, saved):
  """Reads ('storage', dtype, key, device, count[, view])."""
  kind, dtype, key, _, count, *view = saved
  if kind != 'storage' or not isinstance(dtype, np.dtype) or any(view):
    raise ValueError('a storage of an unknown kind')
  found = reader.storages[key] = _Storage(key, dtype, count)
  return found


# How its documentation says to restrict pickle.
_Unpickler = type('_Unpickler', (pickle.Unpickler,), {
    'find_class': _find_class, 'persistent_load': _storage})


def _unpickle(file):
  """Returns one object and the storages that it is of, by key."""
  reader = _Unpickler(file)
  reader.storages = {}
  return reader.load(), reader.storages


def _read_zip(archive):
  """Of PyTorch since 1.6: a pickle, and a file for each storage."""
  names = archive.namelist()
  roots = [name.removesuffix('data.pkl') for name in names
           if name.endswith('/data.pkl')]
  if len(roots) != 1:
    return None
  root, = roots
  # PyTorch does not compress; a few bytes that do could fill the memory.
  if any(entry.compress_type for entry in archive.infolist()):
    raise ValueError('compressed')
  order = f'{root}byteorder'
  if order in names and archive.read(order) != b'little':
    raise ValueError('not little-endian')
  with archive.open(f'{root}data.pkl') as file:
    found, _ = _unpickle(file)
  return _arrays(found, lambda storage: np.frombuffer(
      archive.read(f'{root}data/{storage.key}'), storage.dtype, storage.count))


def _read_legacy(file):
  """Of PyTorch before 1.6: five pickles, then one storage after the other."""
  magic, _ = _unpickle(file)
  if magic != _MAGIC:
    raise errors.InputError('a pickle, but not one of PyTorch; expected .npz, '
                            '.pth or .h5')
  _, (system, _), (found, storages), (keys, _) = (
      _unpickle(file) for _ in range(4))
  if not system['little_endian']:
    raise ValueError('not little-endian')
  values = {}
  for key in keys:
    count, dtype = int.from_bytes(file.read(8), 'little'), storages[key].dtype
    values[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype, count)
  return _arrays(found, lambda storage: values[storage.key])


def _arrays(found, values) -> dict:
  """Returns array by name; `values(storage)` are those of a storage."""
  if isinstance(found, dict) and isinstance(found.get('state_dict'), dict):
    found = found['state_dict']
  if not isinstance(found, dict):
    raise errors.InputError('not a state_dict of tensors')
  known, out = {}, {}
  for name, tensor in found.items():
    if isinstance(tensor, _Tensor):
      key = tensor.storage.key
      if key not in known:
        known[key] = values(tensor.storage)
        if known[key].dtype == jnp.bfloat16:
          known[key] = known[key].astype(np.float32)
      out[str(name)] = _view(tensor, known[key])
  return out


def _view(tensor, values):
  """Returns an array without a copy, once it is sure to be inside `values`."""
  _, start, shape, steps = tensor
  last = start + sum((n - 1) * step for n, step in
                     zip(shape, steps, strict=True))
  if 0 in shape:
    return np.empty(shape, values.dtype)
  if min((start, *shape, *steps)) < 0 or last >= values.size:
    raise ValueError('a tensor reaches out of its storage')
  return np.lib.stride_tricks.as_strided(
      values[start:], shape, [step * values.itemsize for step in steps],
      writeable=False)


def take(arrays: dict, name: str, shape: tuple, file, network: str):
  """Returns an array of a file that `read` has read.

  Args:
    arrays: of the file.
    name, shape: what is asked for.
    file, network: what the file is and should be, for the error.

  Raises:
    InputError: it is not there, or of another shape.
  """
  found = arrays.get(name)
  if found is None or found.shape != tuple(shape):
    is_ = 'missing' if found is None else f'of shape {list(found.shape)}'
    raise errors.InputError(f'weights: {file}: array {name!r} is {is_}; '
                            f'expected {list(shape)}, of {network}.')
  return found
