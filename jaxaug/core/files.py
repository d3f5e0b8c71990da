"""Files that are either whole or absent: hashes, stage folders, the lock."""
import contextlib
import errno
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile
import typing
import zipfile

import numpy as np

from jaxaug.core import errors

# How the folders of a workdir are laid out and named; see study/tasks.py.
_LAYOUT = 3
# Files that people look at, and that no number is read from.
_SHOWN = ('.png', '.txt', '.html')
_HINTS = {
    errno.ENOSPC: 'the disk is full',
    errno.EDQUOT: 'the disk quota is used up',
    errno.EFBIG: 'the file is larger than is allowed here',
    errno.EACCES: 'no permission',
    errno.EPERM: 'no permission',
    errno.EROFS: 'the file system is read-only',
}


def digest(value) -> str:
  """Returns 12 hex digits that name a JSON value.

  Key order and tuple or list do not matter; 1, 1.0 and True differ.

  Raises:
    TypeError: `value` holds something that JSON does not have.
  """
  text = json.dumps(_plain(value), sort_keys=True, separators=(',', ':'))
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def _plain(value):
  if isinstance(value, np.generic):
    value = value.item()
  if value is None or isinstance(value, (bool, int, float, str)):
    return value
  if isinstance(value, (list, tuple)):
    return [_plain(v) for v in value]
  if isinstance(value, dict) and all(isinstance(k, str) for k in value):
    return {k: _plain(v) for k, v in value.items()}
  raise TypeError(f'not a JSON value: {value!r} ({type(value).__name__})')


def friendly(error: OSError, path, needed: int = 0) -> errors.InputError:
  """Turns a failed write into one line: what, where, and how to go on.

  needed: bytes that were to be written, where that is known.
  """
  path = os.path.abspath(path)
  what = _HINTS.get(error.errno, error.strerror or str(error))
  if error.errno == errno.ENOSPC:
    what += f' ({_free(path) / 2**20:.1f} MB free' + (
        f' of {needed / 2**20:.1f} MB needed)' if needed else ')')
  return errors.InputError(
      f'{path}: cannot write here: {what}. Once that is put right, the same '
      'command continues where it stopped.',
      full=error.errno in (errno.ENOSPC, errno.EDQUOT))


def _free(path) -> int:
  """Free bytes of the disk that holds `path` or will hold it."""
  path = pathlib.Path(path)
  while not path.exists() and path != path.parent:
    path = path.parent
  return shutil.disk_usage(path).free


def check_space(path, size: int):
  """Raises InputError when the disk under `path` cannot take `size` bytes."""
  if _free(path) < size:
    raise friendly(OSError(errno.ENOSPC, ''), path, size)


@contextlib.contextmanager
def writing(path):
  """Within it, an OSError becomes an InputError that names `path`."""
  try:
    yield
  except OSError as e:
    raise friendly(e, path) from e


@contextlib.contextmanager
def replacing(path):
  """Yields a binary file that takes the place of `path` when it is whole."""
  path = pathlib.Path(path)
  with writing(path):
    handle, name = tempfile.mkstemp(dir=path.parent, prefix='.', suffix='.tmp')
    try:
      os.chmod(name, 0o666 & ~_umask())  # mkstemp's 0600 hides it from others.
      with os.fdopen(handle, 'wb') as f:
        yield f
        f.flush()
        os.fsync(f.fileno())
      os.replace(name, path)
    except BaseException:
      pathlib.Path(name).unlink(missing_ok=True)
      raise


def _umask() -> int:
  os.umask(mask := os.umask(0o022))
  return mask


def write_json(path, value):
  """Writes a JSON value atomically; NaN and infinity are a ValueError."""
  text = json.dumps(_plain(value), indent=1, allow_nan=False)
  with replacing(path) as f:
    f.write(text.encode() + b'\n')


def read_json(path):
  """Reads a JSON file; InputError when it is missing or damaged."""
  try:
    return json.loads(pathlib.Path(path).read_bytes())
  except OSError as e:
    raise errors.InputError(f'{path}: cannot be read: {e.strerror}') from e
  except (ValueError, RecursionError) as e:
    raise errors.InputError(f'{path}: is damaged, no JSON: {e}') from e


def save_npz(path, **arrays):
  """Writes arrays to an .npz file atomically, uncompressed."""
  with replacing(path) as f:
    np.savez(f, **arrays)


def load_npz(path) -> dict[str, np.ndarray]:
  """Reads what `save_npz` wrote; InputError when it is missing or damaged."""
  try:
    return read_npz(path, 'a file of jaxaug')
  except errors.InputError as e:
    raise errors.InputError(f'{e} Delete its folder, and the same command '
                            'makes it again.') from e


def read_npz(path, where: str, wanted=lambda key: True) -> dict:
  """Reads an .npz file of someone else's: array by name.

  Args:
    path: of the file; `~` is the home folder.
    where: the config key that names it, for the error.
    wanted: whether an array is; the others are None.

  Raises:
    InputError: the file is missing, damaged or another kind.
  """
  try:
    with zipfile.ZipFile(pathlib.Path(os.path.expanduser(path))) as file:
      return {info.filename.removesuffix('.npy'): _member(file, info, wanted)
              for info in file.infolist()}
  except FileNotFoundError:
    wrong = 'there is no such file'
  except zipfile.BadZipFile as e:
    wrong = f'damaged or not an .npz file ({e})'
  except MemoryError:
    wrong = 'holds more than there is memory for'
  except Exception as e:  # Each kind of damage and of packing has its own.
    wrong = (f'damaged or not an .npz file of plain arrays '
             f'({str(e) or type(e).__name__})')
  raise errors.InputError(f'{where}: {path}: {wrong}.')


def _member(file: zipfile.ZipFile, info: zipfile.ZipInfo, wanted):
  """Returns an array of an .npz file, or None where it is not wanted."""
  name = info.filename.removesuffix('.npy')
  if not wanted(name):
    return None
  with file.open(info) as member:
    if member.read(6) != b'\x93NUMPY':
      raise ValueError(f'it holds more than arrays: {info.filename}')
    member.seek(0)
    if np.lib.format.read_magic(member) == (1, 0):
      head = np.lib.format.read_array_header_1_0(member)
    else:
      head = np.lib.format.read_array_header_2_0(member)
    # Before numpy asks for memory for what is not there.
    size = math.prod(head[0]) * head[2].itemsize
    if not head[2].hasobject and member.tell() + size != info.file_size:
      raise ValueError(f'{name} says that it is {list(head[0])}')
  with file.open(info) as member:
    return np.lib.format.read_array(member, allow_pickle=False)


def copy(source, path):
  """Copies a file atomically, unless `path` holds the same bytes."""
  new = pathlib.Path(source).read_bytes()
  path = pathlib.Path(path)
  if path.is_dir():
    remove(path)
  if not path.exists() or path.read_bytes() != new:
    with replacing(path) as f:
      f.write(new)


def cache() -> pathlib.Path:
  """Returns where things outlive a study: $JAXAUG_CACHE or ~/.cache/jaxaug."""
  root = os.environ.get('JAXAUG_CACHE') or '~/.cache/jaxaug'
  return pathlib.Path(os.path.expanduser(root))


def fingerprint(path: str | None) -> list:
  """What would change if the files below `path` did; costs no reading."""
  root = pathlib.Path(os.path.expanduser(path or ''))
  if not path or not root.exists():
    return []
  found = [root] if root.is_file() else sorted(
      f for f in root.rglob('*') if f.is_file())
  return [[str(f.relative_to(root)), f.stat().st_size, f.stat().st_mtime_ns]
          for f in found]


def remove(folder):
  """Deletes a folder, or a file in its place, that may not be there."""
  with writing(folder):
    if os.path.isdir(folder) and not os.path.islink(folder):
      shutil.rmtree(folder)
    elif os.path.lexists(folder):
      os.remove(folder)


class Folder(typing.NamedTuple):
  """Where a stage's files stand when whole, and while they are made."""
  final: pathlib.Path
  partial: pathlib.Path


def folder(parent, name: str) -> Folder:
  """Names the two places of one artefact; makes nothing."""
  final = pathlib.Path(parent) / name
  return Folder(final, final.with_name(name + '.partial'))


def begin(partial, resume: bool = False):
  """Makes the folder to work in; empties it unless the work can resume."""
  if not resume or not os.path.isdir(partial):
    remove(partial)
  with writing(partial):
    os.makedirs(partial, exist_ok=True)


def finish(partial, final, manifest: dict):
  """Writes `manifest.json` and gives the folder its final name.

  The manifest has the digest of every file, and one of itself.
  """
  partial, final = pathlib.Path(partial), pathlib.Path(final)
  with writing(partial):
    found = {f.relative_to(partial).as_posix(): _sha256(f)
             for f in sorted(partial.rglob('*'))
             if f.is_file() and not f.name.startswith('.')}  # Left by a kill.
  # What a training resumes from goes when it has ended.
  found = {name: sha for name, sha in found.items()
           if not name.startswith('checkpoints/') and name != 'manifest.json'}
  _seal(partial, manifest | {'commit': _commit(), 'folder': final.name,
                             'files': found})
  with writing(final):
    os.rename(partial, final)
    handle = os.open(os.path.dirname(os.path.abspath(final)), os.O_RDONLY)
    try:
      os.fsync(handle)
    finally:
      os.close(handle)


def include(final, name: str):
  """Adds a file that was made later, or again, to a finished folder's."""
  value = _sealed(final)
  with writing(final):
    value['files'][name] = _sha256(pathlib.Path(final) / name)
  _seal(final, value)


def _seal(folder, value: dict):
  write_sealed(pathlib.Path(folder) / 'manifest.json', value)


def write_sealed(path, value: dict):
  """Writes a JSON object with a digest of itself, `sha256`."""
  value = _plain(value)
  write_json(path, value | {'sha256': _sha256_of(value)})


def read_sealed(path) -> dict | None:
  """Returns what `write_sealed` wrote; None where it is missing or damaged."""
  value = _object(path)
  try:
    return value if value.pop('sha256', None) == _sha256_of(value) else None
  except RecursionError:
    return None


def _sha256_of(value) -> str:
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


# Digests of files as they are: a process reads each once.
_digests: dict[tuple, str] = {}


def _sha256(path) -> str:
  with open(path, 'rb') as f:
    about = os.fstat(f.fileno())
    key = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns,
           about.st_ctime_ns)
    if key not in _digests:
      _digests[key] = hashlib.file_digest(f, 'sha256').hexdigest()
    return _digests[key]


def is_done(final) -> bool:
  """Whether the folder was finished; InputError if it was damaged since."""
  if not os.path.lexists(final):
    return False
  if manifest(final)['folder'] != pathlib.Path(final).name:
    raise damaged(final, 'manifest.json')
  return True


def damaged(final, name: str) -> errors.InputError:
  """Says that a file of a finished folder is, and what to do."""
  return errors.InputError(
      f'{os.path.join(final, name)}: is missing or damaged; delete the folder '
      f'{final}, and the command that made it makes it again.')


def manifest(final) -> dict:
  """Returns what `finish` was given, and `files`, name -> sha256.

  Raises:
    InputError: it, or a file that is read, is not what it was then.
  """
  value = _sealed(final)
  for name, sha in value['files'].items():
    shown = name.startswith('tensorboard/') or name.endswith(_SHOWN)
    if not (shown or _is(final, name, sha)):
      raise damaged(final, name)
  return value


def _sealed(final) -> dict:
  path = pathlib.Path(final) / 'manifest.json'
  if (value := read_sealed(path)) is not None:
    return value
  found = _object(path).keys()
  if found >= {'commit', 'seconds'} and 'sha256' not in found:
    raise errors.InputError(
        f'{final}: was made by another version of jaxaug, without digests, '
        'or is damaged; expected one that this version made: delete it, and '
        'the command that made it makes it again.')
  raise damaged(final, 'manifest.json')


def intact(final, name: str) -> bool:
  """Whether a file of a finished folder is what it was at the end."""
  return _is(final, name, manifest(final)['files'].get(name))


def _is(final, name: str, sha: str | None) -> bool:
  try:
    return _sha256(pathlib.Path(final) / name) == sha
  except OSError:
    return False


@contextlib.contextmanager
def lock(workdir, name: str):
  """Holds a workdir for one launch of the study `name`; makes it if absent.

  The lock goes with the process, however that ends.

  Raises:
    InputError: another launch holds it, it belongs to another study, it holds
      other files, or it cannot be written. Nothing is changed then.
  """
  workdir = pathlib.Path(workdir)
  try:
    with writing(workdir):
      check_owner(workdir, name)
      workdir.mkdir(parents=True, exist_ok=True)
      handle = os.open(workdir / '.lock', os.O_RDWR | os.O_CREAT, 0o666)
  except ValueError as e:  # A null byte in the path.
    raise errors.InputError(f'workdir {str(workdir)!r}: {e}') from e
  try:
    _take(handle, workdir)
    check_owner(workdir, name)  # Again: another launch may just have ended.
    about = {'study': name, 'layout': _LAYOUT}
    if _object(workdir / 'study.json') != about:
      write_json(workdir / 'study.json', about)
    yield
  finally:
    os.close(handle)


def _take(handle, workdir):
  try:
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as e:
    holder = os.read(handle, 20).decode(errors='replace').strip() or 'unknown'
    raise errors.InputError(
        f'{workdir}: another launch (process {holder}) is at work here; wait '
        'for its end or choose another --workdir.') from e
  except OSError as e:
    raise friendly(e, workdir) from e
  with writing(workdir):
    os.ftruncate(handle, 0)
    os.pwrite(handle, str(os.getpid()).encode(), 0)


def check_owner(workdir, name: str):
  """Raises InputError unless the study `name` may have the workdir."""
  workdir = pathlib.Path(workdir)
  if not workdir.exists():
    return
  if not workdir.is_dir():
    raise errors.InputError(f'{workdir}: is a file; --workdir needs a folder.')
  study = _object(workdir / 'study.json')
  owner, layout = study.get('study'), study.get('layout')
  if not owner:  # Lost or damaged: its config says whose it is.
    owner, layout = _object(workdir / 'config.json').get('name'), _LAYOUT
    made = [_object(f).keys() for f in workdir.glob('*/*/manifest.json')]
    if any(keys and 'sha256' not in keys for keys in made):
      layout = None
  if owner and owner != name:
    raise errors.InputError(
        f'{workdir}: belongs to the study {owner!r}, not to {name!r}; choose '
        'another --workdir.')
  if owner and layout != _LAYOUT:
    raise errors.InputError(
        f'{workdir}: holds a study of another version of jaxaug, whose '
        'folders lie differently; choose another --workdir, or delete it.')
  # Without both: tasks are known by their names and digests.
  if not owner and not any(
      keys >= {'sha256', 'folder', 'files'} for keys in made) and any(
          not f.name.startswith('.') for f in workdir.iterdir()):
    raise errors.InputError(
        f'{workdir}: is not empty and holds no study; choose another --workdir '
        'or an empty folder.')


def _object(path) -> dict:
  """Reads a JSON object; an empty one where it is missing or damaged."""
  try:
    value = json.loads(pathlib.Path(path).read_bytes())
  except (OSError, ValueError, RecursionError):
    return {}
  return value if isinstance(value, dict) else {}


def stamp() -> dict:
  """Returns what made a result: versions, git commit and platform."""
  versions = {'python': platform.python_version()}
  for package in ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy',
                  'onednn-cpu-gomp'):
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      versions[package] = None
  return {'versions': versions, 'commit': _commit(),
          'platform': platform.platform()}


@functools.cache
def _commit() -> str | None:
  root = pathlib.Path(__file__).resolve().parents[2]
  if not (root / '.git').exists():  # Installed: a repository above is not ours.
    return None

  def git(*args):
    return subprocess.run(['git', '-C', root, *args], check=True, text=True,
                          capture_output=True, timeout=10).stdout.strip()
  try:
    return git('rev-parse', 'HEAD') + (
        '+dirty' if git('status', '--porcelain') else '')
  except (OSError, subprocess.SubprocessError):
    return None
