"""Files are whole or absent, and a workdir has one launch at a time."""
import collections
import errno
import hashlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from jaxaug.core import errors, files

_HOLD = """
import sys, time
from jaxaug.core import files
assert 'jax' not in sys.modules
with files.lock(sys.argv[1], 'a'):
  print('held', flush=True)
  time.sleep(60)
"""


def _one_line(info, *words):
  message = str(info.value)
  assert '\n' not in message
  for word in words:
    assert str(word) in message


def test_digest_is_sha256_of_canonical_json():
  value = {'b': (1, 2.5), 'a': [None, True, 'é']}
  text = '{"a":[null,true,"\\u00e9"],"b":[1,2.5]}'
  assert files.digest(value) == (
      hashlib.sha256(text.encode()).hexdigest()[:12])
  assert files.digest({'a': [None, True, 'é'], 'b': [1, 2.5]}) == (
      files.digest(value))
  point = collections.namedtuple('point', 'x y')(np.int32(1), np.float64(2.5))
  assert files.digest(point) == files.digest([1, 2.5])


def test_digest_tells_values_apart():
  values = [1, 1.0, True, '1', None, [], {}, 0.1, np.float32(0.1)]
  assert len({files.digest(v) for v in values}) == len(values)


@pytest.mark.parametrize(
    'value', [{1, 2}, {1: 2}, object(), b'x', np.zeros(2), pathlib.Path('x')])
def test_digest_refuses_what_json_lacks(value):
  with pytest.raises(TypeError, match='not a JSON value'):
    files.digest({'a': [value]})


def test_json_and_npz_round_trip_and_leave_no_temporary(tmp_path):
  files.write_json(tmp_path / 'a.json', {'x': np.float64(0.1), 'y': (1,)})
  assert files.read_json(tmp_path / 'a.json') == {'x': 0.1, 'y': [1]}
  files.save_npz(tmp_path / 'a.npz', images=np.arange(6, dtype=np.uint8))
  with np.load(tmp_path / 'a.npz') as f:
    np.testing.assert_array_equal(f['images'], np.arange(6))
  assert sorted(os.listdir(tmp_path)) == ['a.json', 'a.npz']
  assert os.stat(tmp_path / 'a.json').st_mode & 0o444 == 0o444


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / 'a.json'
  files.write_json(path, 1)
  with pytest.raises(ValueError):
    files.write_json(path, float('nan'))

  def full(_):
    raise OSError(errno.ENOSPC, 'No space left on device')
  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(errors.InputError) as info:
    files.write_json(path, 2)
  _one_line(info, path, 'disk is full', 'MB free', 'same command')
  assert files.read_json(path) == 1
  assert os.listdir(tmp_path) == ['a.json']


@pytest.mark.parametrize('text', [b'', b'{"a": ', b'\xff\xfe'])
def test_damaged_json_is_one_line(tmp_path, text):
  (tmp_path / 'a.json').write_bytes(text)
  with pytest.raises(errors.InputError) as info:
    files.read_json(tmp_path / 'a.json')
  _one_line(info, 'a.json')


@pytest.mark.parametrize('code', [errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_friendly_names_the_cause(code, tmp_path):
  error = files.friendly(OSError(code, os.strerror(code)), tmp_path)
  assert files._HINTS[code] in str(error) and str(tmp_path) in str(error)


def test_check_space(tmp_path):
  files.check_space(tmp_path / 'not' / 'yet', 1000)
  with pytest.raises(errors.InputError, match='disk is full'):
    files.check_space(tmp_path / 'not' / 'yet', 2**62)


def test_stage_folder_protocol(tmp_path):
  stage = files.folder(tmp_path / 'deep', 'pool-1')
  assert not files.is_done(stage.final)
  files.begin(stage.partial)
  (stage.partial / 'half').write_text('x')
  assert not files.is_done(stage.final)
  files.begin(stage.partial, resume=True)
  assert (stage.partial / 'half').exists()
  files.begin(stage.partial)
  assert not (stage.partial / 'half').exists()
  files.finish(stage.partial, stage.final, {'n': 3})
  assert files.is_done(stage.final)
  assert files.manifest(stage.final)['n'] == 3
  assert not stage.partial.exists()


@pytest.mark.parametrize('text', [None, '{"n": ', '[]', ''])
def test_damaged_stage_folder_says_what_to_do(tmp_path, text):
  stage = files.folder(tmp_path, 'pool')
  files.begin(stage.partial)
  files.finish(stage.partial, stage.final, {})
  if text is None:
    (stage.final / 'manifest.json').unlink()
  else:
    (stage.final / 'manifest.json').write_text(text)
  for look in files.is_done, files.manifest:
    with pytest.raises(errors.InputError) as info:
      look(stage.final)
    _one_line(info, stage.final, 'delete')


def test_lock_writes_the_owner_and_can_be_taken_again(tmp_path):
  for _ in range(2):
    with files.lock(tmp_path / 'new' / 'w', 'a'):
      study = json.loads((tmp_path / 'new' / 'w' / 'study.json').read_text())
      assert study == {'study': 'a', 'layout': 3}


def test_lock_refuses_another_study(tmp_path):
  with files.lock(tmp_path, 'a'):
    pass
  before = (tmp_path / 'study.json').read_bytes()
  with pytest.raises(errors.InputError) as info:
    with files.lock(tmp_path, 'b'):
      pass
  _one_line(info, tmp_path, "'a'", "'b'")
  assert (tmp_path / 'study.json').read_bytes() == before


def test_lock_refuses_a_study_of_another_layout(tmp_path):
  (tmp_path / 'study.json').write_text('{"study": "a"}')
  (tmp_path / 'pools').mkdir()
  with pytest.raises(errors.InputError) as info:
    with files.lock(tmp_path, 'a'):
      pass
  _one_line(info, tmp_path, 'another version of jaxaug')
  assert (tmp_path / 'study.json').read_text() == '{"study": "a"}'


def test_lock_refuses_and_leaves_alone_a_folder_of_other_files(tmp_path):
  (tmp_path / 'thesis.tex').write_text('x')
  with pytest.raises(errors.InputError) as info:
    with files.lock(tmp_path, 'a'):
      pass
  _one_line(info, tmp_path, 'not empty')
  assert os.listdir(tmp_path) == ['thesis.tex']


def test_lock_takes_a_folder_whose_first_launch_was_killed_at_once(tmp_path):
  (tmp_path / '.lock').write_text('1')
  with files.lock(tmp_path, 'a'):
    assert (tmp_path / 'study.json').exists()


@pytest.mark.parametrize('place', [
    'file', 'file/w', 'x' * 300, 'nu\0ll', '/proc/none/w'])
def test_lock_refuses_an_impossible_place(tmp_path, place):
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.InputError) as info:
    with files.lock(tmp_path / place, 'a'):
      pass
  _one_line(info)


def test_lock_refuses_an_unwritable_workdir(tmp_path, monkeypatch):
  def refuse(*_, **__):
    raise PermissionError(errno.EACCES, 'Permission denied')
  monkeypatch.setattr(os, 'open', refuse)
  with pytest.raises(errors.InputError) as info:
    with files.lock(tmp_path, 'a'):
      pass
  _one_line(info, tmp_path, 'no permission')


def test_second_launch_is_refused_until_the_first_is_killed(tmp_path):
  root = pathlib.Path(__file__).parents[2]
  first = subprocess.Popen([sys.executable, '-c', _HOLD, tmp_path], cwd=root,
                           stdout=subprocess.PIPE, text=True)
  try:
    assert first.stdout.readline() == 'held\n'
    with pytest.raises(errors.InputError) as info:
      with files.lock(tmp_path, 'a'):
        pass
    _one_line(info, tmp_path, first.pid)
  finally:
    first.kill()
    first.wait()
    first.stdout.close()
  with files.lock(tmp_path, 'a'):
    pass


def test_stamp_says_versions_commit_and_platform():
  stamp = files.stamp()
  assert stamp['versions']['numpy'] == np.__version__
  assert set(stamp) == {'versions', 'commit', 'platform'}
  files.digest(stamp)
