"""What a run leaves behind: metrics.jsonl and TensorBoard events.

Event files are framed by TensorBoard's own record writer. Its EventFileWriter
is avoided: it imports TensorFlow wherever that is installed.
"""
import hashlib
import io
import json
import math
import os
import pathlib
import socket
import time
import typing

import numpy as np

from jaxaug.core import errors, files
from jaxaug.data import images


class Writer(typing.NamedTuple):
  """Writes one run's records.

  scalars(step, {name: float}): one line of metrics.jsonl, and TensorBoard.
  image(step, name, image): image is uint8 [H, W, 1 or 3]; TensorBoard.
  text(step, name, text): Markdown; TensorBoard.
  flush() -> the digest of metrics.jsonl, when all is on the disk; a call above
    outlives a kill of the process as it is.
  close(): flushes and ends.
  """
  scalars: typing.Callable
  image: typing.Callable
  text: typing.Callable
  flush: typing.Callable
  close: typing.Callable


def writer(folder) -> Writer:
  """Opens `folder/metrics.jsonl` and a new file in `folder/tensorboard/`.

  Call `truncate` first where an earlier run may have left records. Every
  failed write is an InputError, such as of a full disk.
  """
  folder = pathlib.Path(folder)
  with files.writing(folder):
    folder.mkdir(parents=True, exist_ok=True)
    lines = open(folder / 'metrics.jsonl', 'a')
    file, write = _event_file(folder)

  def add(step, summary):
    write(step=int(step), summary=summary)

  def scalars(step, values):
    values = {name: float(value) for name, value in values.items()}
    record = {'step': int(step)} | {
        name: value if math.isfinite(value) else None
        for name, value in values.items()}
    with files.writing(folder):
      lines.write(json.dumps(record) + '\n')
      lines.flush()
      add(step, _scalars(values))

  def image(step, name, image):
    with files.writing(folder):
      add(step, _image(name, image))

  def text(step, name, text):
    with files.writing(folder):
      add(step, _text(name, text))

  def flush():
    with files.writing(folder):
      for f in lines, file:
        os.fsync(f.fileno())
      return _digest((folder / 'metrics.jsonl').read_bytes())

  def close():
    flush()
    with files.writing(folder):
      lines.close()
      file.close()

  return Writer(scalars, image, text, flush, close)


def _scalars(values):
  from tensorboard.compat.proto import summary_pb2
  return summary_pb2.Summary(value=[
      summary_pb2.Summary.Value(tag=name, simple_value=value)
      for name, value in values.items()])


def _image(name, image):
  from tensorboard.compat.proto import summary_pb2
  height, width, channels = image.shape
  png = io.BytesIO()
  images.to_pil(image).save(png, 'png')
  return summary_pb2.Summary(value=[summary_pb2.Summary.Value(
      tag=name, image=summary_pb2.Summary.Image(
          height=height, width=width, colorspace=channels,
          encoded_image_string=png.getvalue()))])


def _text(name, text):
  from tensorboard.compat.proto import summary_pb2
  from tensorboard.plugins.text import metadata
  from tensorboard.util import tensor_util
  return summary_pb2.Summary(value=[summary_pb2.Summary.Value(
      tag=name, metadata=metadata.create_summary_metadata('', ''),
      tensor=tensor_util.make_tensor_proto(np.array([text.encode()], object)))])


def _event_file(folder):
  """Opens an event file; each event written is handed to the system at once."""
  from tensorboard.compat.proto import event_pb2
  from tensorboard.summary.writer import record_writer
  folder = folder / 'tensorboard'
  folder.mkdir(exist_ok=True)
  # TensorBoard reads files in the order of their names: count, since two
  # launches may fall within a second.
  file = open(folder / f'events.out.tfevents.{len(os.listdir(folder)):010d}.'
              f'{socket.gethostname()}.{os.getpid()}', 'wb')
  records = record_writer.RecordWriter(file)

  def write(**fields):
    event = event_pb2.Event(wall_time=time.time(), **fields)
    records.write(event.SerializeToString())
    records.flush()

  write(file_version='brain.Event:2')
  return file, write


def truncate(folder, step: int, digest: str | None = None):
  """Forgets what was logged after `step`, which training resumes from.

  A line torn by a kill goes too. TensorBoard is told by an event to drop what
  it read of later steps. -1 forgets all.

  Raises:
    InputError: what stays has another digest than this one, of Writer.flush.
  """
  folder = pathlib.Path(folder)
  path = folder / 'metrics.jsonl'
  lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
  kept = [line for line in lines
          if (record := _parse(line)) is not None and record['step'] <= step]
  if digest not in (None, _digest(b''.join(kept))):
    raise errors.InputError(
        f'{path}: is missing or damaged; delete the folder {folder}, and the '
        'same command trains from the start.')
  if not lines:
    return
  with files.replacing(path) as f:
    f.writelines(kept)
  from tensorboard.compat.proto import event_pb2
  with files.writing(folder):
    file, write = _event_file(folder)
    write(step=int(step) + 1, session_log=event_pb2.SessionLog(
        status=event_pb2.SessionLog.START))
    file.close()


def _digest(lines: bytes) -> str:
  return hashlib.sha256(lines).hexdigest()


def _parse(line: bytes) -> dict | None:
  try:
    record = json.loads(line) if line.endswith(b'\n') else None
  except ValueError:
    return None
  known = isinstance(record, dict) and type(record.get('step')) is int
  return record if known else None


def read(folder) -> list[dict]:
  """Returns the records of `folder/metrics.jsonl`; [] if there are none.

  A value that was not finite is NaN.
  """
  path = pathlib.Path(folder) / 'metrics.jsonl'
  lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
  return [{k: math.nan if v is None else v for k, v in record.items()}
          for line in lines if (record := _parse(line)) is not None]


def overview(params) -> tuple[str, int]:
  """Returns a table of a network's weights, and how many there are.

  params: nested dict of arrays or of their shapes (`jax.ShapeDtypeStruct`).
  """
  import jax
  from clu import parameter_overview
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
  text = parameter_overview.get_parameter_overview(params, include_stats=False)
  # Its own total turns into a float where a weight is a scalar.
  return text.rpartition('\n')[0] + f'\nTotal: {count:,} weights', count


def take(folder, to, number: int):
  """Gives one of several trainings its records out of those of all."""
  for name in 'metrics.jsonl', 'tensorboard':  # Of an attempt that was killed.
    files.remove(pathlib.Path(to) / name)
  own = writer(to)
  for record in read(folder):
    mine = {name.removesuffix(f'/{number}'): value
            for name, value in record.items() if name.endswith(f'/{number}')}
    own.scalars(record['step'], mine)
  own.close()
