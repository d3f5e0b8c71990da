"""oneDNN's convolutions as targets of XLA's foreign function interface on CPU.

XLA hands a C function the addresses of its buffers, and oneDNN has a C
interface. What joins them is a few machine instructions a convolution, written
here as oneDNN writes its own: no compiler is needed, and no Python runs in a
call, so neither its lock nor its signals matter. Numbers are those of
xla/ffi/api/c_api.h (versions 0.3 to 0.5, alike in what is read here) and of
dnnl_types.h (oneDNN 3); the library is packed for x86-64 Linux.
"""
import ctypes
import functools
import importlib.metadata
import mmap
import os
import pathlib
import platform
import re
import struct
import threading
import typing

import jax

PACKAGE, PACKAGE_VERSION = 'onednn-cpu-gomp', '2023.2.0'
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
_INTERNAL = 13  # A code of XLA's errors.
_making = threading.RLock()


class Unavailable(Exception):
  """The library cannot be used here, or not for this; says why."""


class Target(typing.NamedTuple):
  """A function for XLA to call: its name, and the bytes that it works in.

  It takes what is given and returns what is wanted and uint8 [scratch].
  """
  name: str
  scratch: int


class _Library(typing.NamedTuple):
  functions: ctypes.CDLL
  threads: int
  words: str


def _paths():
  try:
    for file in importlib.metadata.files(PACKAGE) or ():
      path = pathlib.Path(file.locate()).resolve()
      if file.name == 'libdnnl.so.3':
        size = path.stat().st_size if path.exists() else 0
        if file.size not in (None, size):  # Half a library ends the process.
          raise Unavailable(f'{path} is damaged: pip install '
                            f'--force-reinstall {PACKAGE}=={PACKAGE_VERSION}')
        yield str(path)
  except importlib.metadata.PackageNotFoundError:
    pass
  yield 'libdnnl.so.3'


@functools.cache
def _ffi_version() -> tuple[int, int]:
  header = pathlib.Path(jax.ffi.include_dir(), 'xla/ffi/api/c_api.h')
  try:
    found = dict(re.findall(r'#define XLA_FFI_API_(MAJOR|MINOR) (\d+)',
                            header.read_text()))
    return int(found['MAJOR']), int(found['MINOR'])
  except (OSError, KeyError) as e:
    raise Unavailable(f"no version of XLA's interface in {header}") from e


@functools.cache
def library() -> _Library:
  """Loads the library.

  Raises:
    Unavailable: it is not there or another one than is needed.
  """
  if platform.machine() not in ('x86_64', 'AMD64'):
    raise Unavailable(f'there is none for {platform.machine()}')
  if _ffi_version() not in _FFI_VERSIONS:
    raise Unavailable(f"XLA's interface for it has version {_ffi_version()}; "
                      f'expected one of {_FFI_VERSIONS}')
  why = (f'not installed; on Linux: pip install {PACKAGE}=='
         f'{PACKAGE_VERSION}')
  for path in _paths():
    try:
      lib = ctypes.CDLL(path)
      break
    except OSError as e:
      if 'libdnnl.so.3: cannot open' not in str(e):
        why = str(e)
      if 'libgomp' in why:
        why += '; on Debian: apt install libgomp1'
  else:
    raise Unavailable(why)
  try:
    for function in lib.dnnl_version, lib.dnnl_primitive_desc_query_md:
      function.restype = _P
    lib.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
  except AttributeError as e:
    raise Unavailable(f'another library: {e}') from e
  version = (_INT * 8).from_address(lib.dnnl_version())
  number = '.'.join(map(str, version[:3]))
  if version[0] != 3 or version[_RUNTIME] != _OPENMP:
    raise Unavailable(f'{path} is version {number}, runtime '
                      f'{version[_RUNTIME]}; expected 3 with OpenMP (2)')
  threads = _threads(lib)
  return _Library(lib, threads, f'oneDNN {number}, {threads} '
                  f'{"thread" if threads == 1 else "threads"}')


def _threads(lib) -> int:
  """How many threads compute a convolution: as many as there will be.

  oneDNN waits for all that a primitive was made for, without end. Each thread
  of XLA's that calls has helpers of its own, which OpenMP keeps: not too many
  together, as a process that can make no more of them ends.
  """
  if lib.omp_get_dynamic() or lib.omp_get_max_active_levels() < 1:
    return 1  # There may be fewer than asked for.
  cores = len(os.sched_getaffinity(0))
  return max(1, min(lib.omp_get_max_threads(), lib.omp_get_thread_limit(),
                    cores, 512 // cores))


def _make(function: str, *args):
  """Returns the object that dnnl_<function>(&object, ...) makes."""
  made = _P()
  status = getattr(library().functions, f'dnnl_{function}')(
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
  library().functions.dnnl_primitive_attr_set_scratchpad_mode(attributes, _OURS)
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
    bias = [None] if want == 'w' else []
    made = _make(f'convolution_{name}_primitive_desc_create', engine, _DIRECT,
                 stored['x'], free, *bias, stored['y'], *how, forward,
                 attributes)
  return made, stored, _P(library().functions.dnnl_primitive_desc_query_md(
      made, query, 0))


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
  with _making:
    try:
      return _target(want, window, x, w, y, dtype)
    except AttributeError as e:  # The library lacks a function.
      raise Unavailable(str(e)) from e


@functools.cache
def _target(want, window, x, w, y, dtype):
  lib, threads, _ = library()
  before = lib.omp_get_max_threads()
  lib.omp_set_num_threads(threads)  # It is made for their number.
  try:
    steps, places, size = _steps(want, *_operation(want, window, x, w, y,
                                                   dtype))
  finally:
    lib.omp_set_num_threads(before)
  name = 'jaxaug_onednn_' + re.sub(r'\W+', '_', str((want, window, x, w, y,
                                                     dtype)))
  capsule = ctypes.pythonapi.PyCapsule_New
  capsule.restype, capsule.argtypes = ctypes.py_object, [_P, ctypes.c_char_p,
                                                         _P]
  jax.ffi.register_ffi_target(name, capsule(
      _placed(_program(steps, places, name)), b'xla._CUSTOM_CALL_TARGET', None),
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
  lib, (engine, _, attributes), size, places = (library().functions,
                                                _objects(), 0, [])

  def memory(description, buffer=3):
    nonlocal size
    places.append((_make('memory_create', description, engine, None), buffer,
                   size if buffer == 3 else 0))
    if buffer == 3:
      size += -(-lib.dnnl_memory_desc_get_size(description) // 64) * 64
    return places[-1][0]

  def step(made, *arguments):
    needs = _P(lib.dnnl_primitive_desc_query_md(made, _SCRATCHPAD_OF, 0))
    if lib.dnnl_memory_desc_get_size(needs):
      arguments = *arguments, (_SCRATCHPAD, memory(needs))
    words = [word for number, m in arguments for word in (number, m.value)]
    return (_make('primitive_create', made).value, len(arguments),
            _kept((_WORD * len(words))(*words)))
  names, (_, numbers, _) = (*OPERANDS[want], want), _OPERATIONS[want]
  given = {n: memory(stored[n], i) for i, n in enumerate(names)}
  turn = []
  if not lib.dnnl_memory_desc_equal(stored['w'], within):
    ends = [(stored['w'], given['w']), (within, memory(within))]
    given['w'] = ends[1][1]
    (a, of_a), (b, of_b) = ends[::-1] if want == 'w' else ends
    turn = [step(_make('reorder_primitive_desc_create', a, engine, b, engine,
                       attributes), (_FROM, of_a), (_TO, of_b))]
  main = [step(made, *((number, given[n]) for number, n in zip(
      numbers, names, strict=True)))]
  return main + turn if want == 'w' else turn + main, places, max(size, 1)


def _kept(buffer) -> int:
  """The address of what is never freed, not even while Python ends."""
  ctypes.pythonapi.Py_IncRef(ctypes.py_object(buffer))
  return ctypes.addressof(buffer)


@functools.cache
def _turn() -> int:
  """A mutex: one convolution at a time, as each takes all cores."""
  return _kept((_WORD * 8)())  # Zeros are an open pthread_mutex_t.


def _placed(program: bytes) -> int:
  """The address of machine code in memory that may be executed."""
  try:
    memory = mmap.mmap(-1, len(program), mmap.MAP_PRIVATE, mmap.PROT_READ
                       | mmap.PROT_WRITE | mmap.PROT_EXEC)
  except OSError as e:
    raise Unavailable(f'no memory for machine code: {e}') from e
  memory.write(program)
  return _kept((ctypes.c_char * len(program)).from_buffer(memory))


def _address(function: str) -> int:
  """Of a function of the library, of OpenMP or of the C library."""
  lib = ctypes.CDLL(None) if function.startswith('pthread') else (
      library().functions)
  return ctypes.cast(getattr(lib, function), _P).value


# x86-64: `mov` of 8 bytes to the registers of the first arguments, and to rax.
_REGISTERS = b'\x48\xbf', b'\x48\xbe', b'\x48\xba', b'\x48\xb9'
_RAX, _CALL_RAX = b'\x48\xb8', b'\xff\xd0'


def _call(function: str, *args: int) -> bytes:
  return b''.join(
      register + struct.pack('<Q', value) for register, value in zip(
          (*_REGISTERS[:len(args)], _RAX), (*args, _address(function)),
          strict=True)) + _CALL_RAX


def _program(steps, places, name: str) -> bytes:
  """Machine code of XLA_FFI_Error* (*)(XLA_FFI_CallFrame*).

  Where the frame has an extension of type 1, XLA asks for the version of the
  interface. Else, one after the other, the memories get their buffers and the
  primitives are executed; what fails becomes an error of XLA's.
  """
  turn, (_, stream, _) = _turn(), _objects()
  text = _kept(ctypes.create_string_buffer(f'oneDNN failed: {name}'.encode()))
  error = _kept((_WORD * 4)(28, 0, text, _INTERNAL))  # Bytes of it first.
  leave = b'\x41\x5d\x41\x5c\x5b\xc3'  # pop r13, r12, rbx; ret
  version = b''.join((
      b'\x48\x8b\x40\x18',                     # mov rax, metadata of rax
      b'\xc7\x40\x18', struct.pack('<I', _ffi_version()[0]),
      b'\xc7\x40\x1c', struct.pack('<I', _ffi_version()[1]),
      b'\x31\xc0', leave))                      # xor eax, eax
  enter = b''.join((
      b'\x53\x41\x54\x41\x55',                 # push rbx, r12, r13
      b'\x48\x89\xfb',                         # mov rbx, rdi: the frame
      b'\x48\x8b\x43\x08\x48\x85\xc0',         # mov rax, its extension; test
      b'\x74', bytes([len(version) + 6]),      # jz over this
      b'\x83\x78\x08\x01',                     # cmp its type, 1
      b'\x75', bytes([len(version)]), version,  # jne over this
      _call('pthread_mutex_lock', turn),
      _call('omp_get_max_threads'), b'\x41\x89\xc5',  # mov r13d, eax
      _call('omp_set_num_threads', library().threads)))
  enter += b''.join(
      b'\x48\x8b\x43' + (b'\x48' if buffer < 2 else b'\x70')  # args, results
      + b'\x48\x8b\x40' + bytes([8 * (buffer % 2)])          # mov rax, one
      + b'\x48\x8b\x70\x18'                                  # mov rsi, data
      + b'\x48\xb8' + struct.pack('<Q', offset) + b'\x48\x01\xc6'  # add
      + _call('dnnl_memory_set_data_handle', memory.value)
      for memory, buffer, offset in places)
  clear = b'\x45\x31\xe4'                     # xor r12d, r12d: no error
  fail = b''.join((
      b'\x48\x8b\x43\x10\x48\x8b\x40\x30',    # mov rax, XLA_FFI_Error_Create
      _REGISTERS[0], struct.pack('<Q', error), _CALL_RAX,
      b'\x49\x89\xc4'))                       # mov r12, rax
  done = b''.join((
      _call('dnnl_stream_wait', stream.value),
      b'\x44\x89\xef',                        # mov edi, r13d
      _call('omp_set_num_threads'), _call('pthread_mutex_unlock', turn),
      b'\x4c\x89\xe0', leave))                # mov rax, r12
  # A jump over what fails, to what is done.
  tail = clear + b'\xeb' + bytes([len(fail)]) + fail
  for primitive, count, arguments in reversed(steps):
    one = _call('dnnl_primitive_execute', primitive, stream.value, count,
                arguments) + b'\x85\xc0'        # test eax, eax
    to_fail = len(tail) - len(fail)
    tail = one + b'\x0f\x85' + struct.pack('<i', to_fail) + tail  # jnz
  return enter + tail + done
