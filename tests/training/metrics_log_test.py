"""Records come back as written, also after a kill, and without TensorFlow."""
import errno
import io
import json
import math
import os
import pathlib
import struct
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from jaxaug.core import errors
from jaxaug.training import metrics_log

_NO_TENSORFLOW = """
import sys
import numpy as np
from jaxaug.core import console
from jaxaug.training import metrics_log
assert 'tensorboard' not in sys.modules and 'jax' not in sys.modules
writer = metrics_log.writer(sys.argv[1])
writer.scalars(1, {'loss': 0.5})
writer.image(1, 'grid', np.zeros((4, 6, 3), np.uint8))
writer.text(1, 'table', '| a |')
writer.close()
metrics_log.truncate(sys.argv[1], 0)
with console.progress('train', 2, terminal=True) as update:
  update(2)
metrics_log.overview({})
assert 'tensorflow' not in sys.modules
"""


def _accumulate(folder, monkeypatch):
  """What TensorBoard's own reader makes of the event files."""
  # It would import TensorFlow for its file access, if that is installed.
  monkeypatch.setitem(sys.modules, 'tensorboard.compat.notf', sys)
  from tensorboard.backend.event_processing import event_accumulator
  reader = event_accumulator.EventAccumulator(
      str(folder / 'tensorboard'), size_guidance={'scalars': 0})
  return reader.Reload()


def _scalars(reader, tag):
  return [(e.step, e.value) for e in reader.Scalars(tag)]


def _fill(folder, steps, value=0.):
  writer = metrics_log.writer(folder)
  for step in steps:
    writer.scalars(step, {'loss': step + value})
  return writer


def test_scalars_are_there_before_flush(tmp_path):
  writer = _fill(tmp_path / 'run', range(3))
  writer.scalars(3, {'loss': np.float32(3), 'bad': np.nan, 'inf': np.inf})
  records = metrics_log.read(tmp_path / 'run')
  assert records[:3] == [{'step': s, 'loss': float(s)} for s in range(3)]
  assert math.isnan(records[3]['bad']) and math.isnan(records[3]['inf'])
  for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines():
    json.loads(line, parse_constant=pytest.fail)
  writer.close()


def test_read_of_nothing_is_empty(tmp_path):
  assert metrics_log.read(tmp_path) == []
  metrics_log.truncate(tmp_path, 3)
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('channels', [1, 3])
def test_tensorboard_reads_it_back(tmp_path, monkeypatch, channels):
  image = np.random.default_rng(0).integers(
      0, 256, (5, 7, channels), dtype=np.uint8)
  writer = _fill(tmp_path, range(20))
  writer.image(19, 'grid', image)
  writer.text(19, 'table', '| a |')
  writer.close()
  reader = _accumulate(tmp_path, monkeypatch)
  assert _scalars(reader, 'loss') == [(s, float(s)) for s in range(20)]
  event, = reader.Images('grid')
  assert (event.step, event.width, event.height) == (19, 7, 5)
  png = Image.open(io.BytesIO(event.encoded_image_string))
  np.testing.assert_array_equal(np.asarray(png).reshape(image.shape), image)
  plugin = reader.SummaryMetadata('table').plugin_data.plugin_name
  assert plugin == 'text'
  assert reader.Tensors('table')[0].tensor_proto.string_val == [b'| a |']


def test_truncate_after_two_kills_leaves_no_duplicates(tmp_path, monkeypatch):
  writer = _fill(tmp_path, range(10), 0.1)
  writer.image(9, 'grid', np.zeros((2, 2, 1), np.uint8))
  for restored, last in (6, 8), (4, 12):
    with open(tmp_path / 'metrics.jsonl', 'a') as f:
      f.write('{"step": 3, "lo')  # Torn by the kill, and so are the events.
    newest = max((tmp_path / 'tensorboard').iterdir())
    with open(newest, 'ab') as f:
      f.write(struct.pack('<Q', 99) + b'torn')
    metrics_log.truncate(tmp_path, restored)
    _fill(tmp_path, range(restored + 1, last)).close()
  expected = [(s, s + 0.1) for s in range(5)] + [(s, s) for s in range(5, 12)]
  assert [(r['step'], r['loss'])
          for r in metrics_log.read(tmp_path)] == expected
  reader = _accumulate(tmp_path, monkeypatch)
  np.testing.assert_allclose(_scalars(reader, 'loss'), expected, rtol=1e-6)
  assert not reader.Images('grid')
  writer.close()


def test_truncate_to_minus_one_forgets_all(tmp_path, monkeypatch):
  _fill(tmp_path, range(3)).close()
  metrics_log.truncate(tmp_path, -1)
  assert metrics_log.read(tmp_path) == []
  _fill(tmp_path, range(1)).close()
  assert _scalars(_accumulate(tmp_path, monkeypatch), 'loss') == [(0, 0.)]


def test_no_tensorflow_and_lazy_imports(tmp_path):
  root = pathlib.Path(__file__).parents[2]
  out = subprocess.run(
      [sys.executable, '-c', _NO_TENSORFLOW, tmp_path / 'run'], cwd=root,
      capture_output=True, text=True, timeout=120)
  assert out.returncode == 0, out.stderr


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
  writer = metrics_log.writer(tmp_path)

  def full(*_):
    raise OSError(errno.ENOSPC, 'No space left on device')
  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(errors.InputError, match='disk is full'):
    writer.flush()
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.InputError, match='file'):
    metrics_log.writer(tmp_path / 'file' / 'run')


def test_overview_counts_weights():
  shapes = {'a': {'kernel': jax.ShapeDtypeStruct((3, 400), np.float32)},
            'scale': jax.ShapeDtypeStruct((), np.float32)}
  text, count = metrics_log.overview(shapes)
  assert count == 1201
  assert 'a/kernel' in text and text.endswith('Total: 1,201 weights')
  assert metrics_log.overview({})[1] == 0
