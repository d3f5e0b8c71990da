"""oneDNN's convolutions as targets of XLA's foreign function interface on CPU.

XLA hands a C function the addresses of its buffers, oneDNN has a C interface,
and `ctypes` joins the two; nothing is compiled. Numbers are those of
xla/ffi/api/c_api.h (versions 0.3 to 0.5, alike in what is read here) and of
dnnl_types.h (oneDNN 3). On x86-64 Linux, for which the library is packed.
"""
import ctypes
import functools
import importlib.metadata
import pathlib
import re
import threading
import typing

import jax

PACKAGE = 'onednn-cpu-gomp'
# What is wanted of y = x convolved by w, and what is given then.
OPERANDS = {'y': ('x', 'w'), 'x': ('y', 'w'), 'w': ('x', 'y')}
_FFI_VERSIONS = (0, 3), (0, 4), (0, 5)
_P, _INT, _WORD = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64
_TYPES = {'bfloat16': 2, 'float32': 3}
_ANY, _CPU, _TRAINING, _DIRECT, _IN_ORDER, _OURS = 1, 1, 64, 1, 1, 1
_RUNTIME, _OPENMP = 6, 2  # An int of dnnl_version_t, and its value.
_SCRATCHPAD, _FROM, _TO = 80, 1, 17  # Numbers of arguments, as below.
# wanted: (operation, of its arguments the given and the wanted, query of the
# kernel's own layout)
_OPERATIONS = {'y': ('forward', (1, 33, 17), 131),
               'x': ('backward_data', (145, 33, 129), 131),
               'w': ('backward_weights', (1, 145, 161), 132)}
_SCRATCHPAD_OF = 136
# Words of a call frame: extension, api, counts and buffers of both sides; bytes
# of a buffer, of the api and of the metadata.
_EXTENSION, _API, _GIVEN, _RESULTS = 1, 2, (7, 9), (12, 14)
_DATA, _RANK, _DIMS, _CREATE_ERROR, _METADATA, _VERSION = 24, 32, 40, 48, 24, 24
_INVALID, _INTERNAL = 3, 13  # Codes of errors.
_turn = threading.Lock()  # One at a time: each takes all cores.
_keep = []  # XLA holds their addresses.


class Unavailable(Exception):
  """The library cannot be used here, or not for this; says why."""


class Target(typing.NamedTuple):
  """A function for XLA to call: its name, and the bytes that it works in.

  It takes what is given and returns what is wanted and uint8 [scratch].
  """
  name: str
  scratch: int


class _Library(typing.NamedTuple):
  free: ctypes.CDLL    # Its functions let other threads of Python run,
  held: ctypes.PyDLL   # or not, which is faster for short ones.
  threads: int
  words: str


def _paths():
  try:
    for file in importlib.metadata.files(PACKAGE) or ():
      if file.name == 'libdnnl.so.3':
        yield str(pathlib.Path(file.locate()).resolve())
  except importlib.metadata.PackageNotFoundError:
    pass
  yield 'libdnnl.so.3'


@functools.cache
def _ffi_version() -> tuple[int, int]:
  header = pathlib.Path(jax.ffi.include_dir(), 'xla/ffi/api/c_api.h')
  found = dict(re.findall(r'#define XLA_FFI_API_(MAJOR|MINOR) (\d+)',
                          header.read_text()))
  return int(found['MAJOR']), int(found['MINOR'])


@functools.cache
def library() -> _Library:
  """Loads the library.

  Raises:
    Unavailable: it is not there or another one than is needed.
  """
  if _ffi_version() not in _FFI_VERSIONS:
    raise Unavailable(f"XLA's interface for it has version {_ffi_version()}; "
                      f'expected one of {_FFI_VERSIONS}')
  why = f'not installed: pip install {PACKAGE} (x86-64 Linux)'
  for path in _paths():
    try:
      free, held = ctypes.CDLL(path), ctypes.PyDLL(path)
      break
    except OSError as e:
      why = why if 'libdnnl.so.3: cannot open' in str(e) else str(e)
  else:
    raise Unavailable(why)
  if not hasattr(free, 'dnnl_version'):
    raise Unavailable(f'{path} is another library')
  free.dnnl_version.restype = _P
  version = (_INT * 8).from_address(free.dnnl_version())
  number = '.'.join(map(str, version[:3]))
  if version[0] != 3 or version[_RUNTIME] != _OPENMP:
    raise Unavailable(f'{path} is version {number}, runtime '
                      f'{version[_RUNTIME]}; expected 3 with OpenMP (2)')
  held.dnnl_primitive_desc_query_md.restype = _P
  held.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
  held.dnnl_memory_set_data_handle.argtypes = _P, _P
  free.dnnl_primitive_execute.argtypes = _P, _P, _INT, _P
  threads = free.omp_get_max_threads()
  return _Library(free, held, threads, f'oneDNN {number}, {threads} threads')


def _make(function: str, *args):
  """Returns the object that dnnl_<function>(&object, ...) makes."""
  made = _P()
  status = getattr(library().held, f'dnnl_{function}')(
      ctypes.byref(made), *(ctypes.c_int64(a) if isinstance(a, int) else a
                            for a in args))
  if status:
    raise Unavailable(f'oneDNN answers {status} to {function}')
  return made


@functools.cache
def _objects():
  """Returns an engine, a stream and the attributes of all operations."""
  engine, attributes = _make('engine_create', _CPU, 0), _make(
      'primitive_attr_create')
  # Its own scratchpad belongs to the thread that made a primitive; XLA calls
  # from others.
  library().held.dnnl_primitive_attr_set_scratchpad_mode(attributes, _OURS)
  return engine, _make('stream_create', engine, _IN_ORDER), attributes


def _ints(values):
  return (ctypes.c_int64 * len(values))(*values)


def _described(dtype, dims, strides):
  return _make('memory_desc_create_with_strides', len(dims), _ints(dims),
               _TYPES[dtype], _ints(strides))


def _images(dtype, shape):
  b, h, w, c = shape
  return _described(dtype, (b, c, h, w), (h * w * c, 1, w * c, c))


def _kernel(window, shape):
  """(dims, strides) of a kernel: (groups,) O, I, h, w of one group."""
  groups, (h, w, inner, outer) = window.groups, shape
  channels = (outer // groups, inner), (1, outer)
  if window.turned:
    channels = tuple(two[::-1] for two in channels)
  dims, strides = ((*two, *rest) for two, rest in zip(
      channels, ((h, w), (w * inner * outer, inner * outer)), strict=True))
  if groups > 1:
    dims, strides = (groups, *dims), (outer // groups, *strides)
  return dims, strides


def _operation(want, window, x, w, y, dtype):
  """Returns it, and the descriptors of x, w and y and of w within."""
  engine, _, attributes = _objects()
  dims, strides = _kernel(window, w)
  stored = {'x': _images(dtype, x), 'w': _described(dtype, dims, strides),
            'y': _images(dtype, y)}
  free = _make('memory_desc_create_with_tag', len(dims), _ints(dims),
               _TYPES[dtype], _ANY)
  high = [(m - 1) * s + (k - 1) * d + 1 - n - low for m, s, k, d, n, low in zip(
      window.y, window.stride, window.w, window.dilation, window.x, window.low,
      strict=True)]
  how = [_ints(v) for v in (window.stride, [d - 1 for d in window.dilation],
                            window.low, high)]
  made = forward = _make(
      'convolution_forward_primitive_desc_create', engine, _TRAINING, _DIRECT,
      stored['x'], free, None, stored['y'], *how, attributes)
  name, _, query = _OPERATIONS[want]
  if want != 'y':
    bias = [None] * (want == 'w')
    made = _make(f'convolution_{name}_primitive_desc_create', engine, _DIRECT,
                 stored['x'], free, *bias, stored['y'], *how, forward,
                 attributes)
  return made, stored, _P(library().held.dnnl_primitive_desc_query_md(
      made, query, 0))


@functools.cache
def target(want: str, window, x, w, y, dtype: str) -> Target:
  """Makes and registers a function, which lives as long as the process.

  Args:
    want: which of x, w and y it computes from the two others.
    window: a `convolution.Window`.
    x, w, y: shapes [B, H, W, C], of the kernel, and [B, H', W', O].
    dtype: 'float32' or 'bfloat16'.

  Raises:
    Unavailable: there is no library, or it does not know how.
  """
  lib, shapes = library(), {'x': x, 'w': w, 'y': y}
  before = lib.held.omp_get_max_threads()
  lib.held.omp_set_num_threads(lib.threads)  # It is made for their number.
  try:
    steps, places, size = _steps(want, *_operation(want, window, x, w, y,
                                                   dtype))
  finally:
    lib.held.omp_set_num_threads(before)
  name = 'jaxaug_onednn_' + re.sub(r'\W+', '_', str((want, window, x, w, y,
                                                     dtype)))
  run = _handler([shapes[n] for n in (*OPERANDS[want], want)] + [(size,)],
                 steps, places)
  _keep.append(ctypes.CFUNCTYPE(_P, _P)(run))
  capsule = ctypes.pythonapi.PyCapsule_New
  capsule.restype, capsule.argtypes = ctypes.py_object, [_P, ctypes.c_char_p,
                                                         _P]
  jax.ffi.register_ffi_target(name, capsule(
      ctypes.cast(_keep[-1], _P), b'xla._CUSTOM_CALL_TARGET', None),
                              platform='cpu')
  return Target(name, size)


def _steps(want, made, stored, within):
  """What to execute, and where what it works on lies.

  Returns:
    steps: [(primitive, number of arguments, arguments)].
    places: [(memory, buffer, offset)]; buffers are those given, the result
      and the scratch.
    size: bytes of scratch.
  """
  held, (engine, _, attributes), size, places = (library().held, _objects(), 0,
                                                 [])

  def memory(description, buffer=3):
    nonlocal size
    places.append((_make('memory_create', description, engine, None), buffer,
                   size if buffer == 3 else 0))
    if buffer == 3:
      size += -(-held.dnnl_memory_desc_get_size(description) // 64) * 64
    return places[-1][0]

  def step(made, *arguments):
    needs = _P(held.dnnl_primitive_desc_query_md(made, _SCRATCHPAD_OF, 0))
    if held.dnnl_memory_desc_get_size(needs):
      arguments = *arguments, (_SCRATCHPAD, memory(needs))
    words = [word for number, m in arguments for word in (number, m.value)]
    return (_make('primitive_create', made), len(arguments),
            (_WORD * len(words))(*words))
  names, (_, numbers, _) = (*OPERANDS[want], want), _OPERATIONS[want]
  given = {n: memory(stored[n], i) for i, n in enumerate(names)}
  turn = []
  if not held.dnnl_memory_desc_equal(stored['w'], within):
    ends = [(stored['w'], given['w']), (within, memory(within))]
    given['w'] = ends[1][1]
    (a, of_a), (b, of_b) = ends[::-1] if want == 'w' else ends
    turn = [step(_make('reorder_primitive_desc_create', a, engine, b, engine,
                       attributes), (_FROM, of_a), (_TO, of_b))]
  main = [step(made, *((number, given[n]) for number, n in zip(
      numbers, names, strict=True)))]
  return main + turn if want == 'w' else turn + main, places, max(size, 1)


def _handler(shapes, steps, places):
  """Returns the function of a call frame's address that XLA calls."""
  lib, (_, stream, _) = library(), _objects()
  place, execute = (lib.held.dnnl_memory_set_data_handle,
                    lib.free.dnnl_primitive_execute)
  seen = []

  def call(frame):
    frame = (_WORD * 15).from_address(frame)
    try:
      if frame[_EXTENSION]:  # XLA asks for the version.
        metadata = _WORD.from_address(frame[_EXTENSION] + _METADATA).value
        (_INT * 2).from_address(metadata + _VERSION)[:] = _ffi_version()
        return None
      buffers = [b for (count, at) in (_GIVEN, _RESULTS) for b in (
          _WORD * frame[count]).from_address(frame[at])]
      if not seen:
        found = [_shape(b) for b in buffers]
        if found != shapes:
          return _error(frame, _INVALID, f'{found}; expected {shapes}')
        seen.append(found)
      at = [_WORD.from_address(b + _DATA).value for b in buffers]
      with _turn:
        lib.held.omp_set_num_threads(lib.threads)
        for memory, buffer, offset in places:
          place(memory, at[buffer] + offset)
        for primitive, count, arguments in steps:
          status = execute(primitive, stream, count, arguments)
          if status:
            return _error(frame, _INTERNAL, f'oneDNN answers {status}')
        lib.held.dnnl_stream_wait(stream)
    except BaseException as e:  # noqa: BLE001, what leaves here is lost.
      return _error(frame, _INTERNAL, f'{type(e).__name__}: {e}')
  return call


def _shape(buffer):
  rank, dims = (_WORD.from_address(buffer + at).value for at in (_RANK, _DIMS))
  return tuple((ctypes.c_int64 * rank).from_address(dims))


def _error(frame, code: int, message: str):
  text = ctypes.create_string_buffer(f'convolution: {message}'.encode())
  args = (_WORD * 4)(32, 0, ctypes.addressof(text), code)
  create = _WORD.from_address(frame[_API] + _CREATE_ERROR).value
  return ctypes.PYFUNCTYPE(_P, _P)(create)(ctypes.addressof(args))
