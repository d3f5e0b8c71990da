"""Weight files: what PyTorch and Keras write, and what must be refused."""
import hashlib
import http.server
import io
import os
import pickle
import re
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest

from jaxaug.core import errors
from jaxaug.nn import pretrained

CONTENT = bytes(range(256)) * 9000
PUBLISHED = pretrained.Published('net.pth', hashlib.sha256(CONTENT).hexdigest(),
                              'http://127.0.0.1:9/net.pth', len(CONTENT))


def refuses(call, line):
  with pytest.raises(errors.InputError, match=line) as e:
    call()
  assert '\n' not in str(e.value)
  return str(e.value)


def _tensors(torch):
  """Every way in which a tensor lies in its storage, and every type."""
  a = torch.arange(60.).reshape(3, 4, 5) / 7
  kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int64,
           torch.int32, torch.uint8, torch.bool)
  return {
      'whole': a, 'part': a[1:, 2:, ::2], 'turned': a.permute(2, 0, 1),
      'row': a[2, 3], 'one': torch.tensor(3.5), 'value': a[1, 1, 1],
      'none': torch.zeros(0, 3), 'spread': a[:1].expand(4, 4, 5),
      'parameter': torch.nn.Parameter(a * 2), **{
          str(kind)[6:]: (a - 3).to(kind) for kind in kinds}}


def _saved(torch, value, path, old):
  torch.save(value, path, _use_new_zipfile_serialization=not old)
  return path


@pytest.mark.parametrize('old', [False, True], ids=['zip', 'legacy'])
@pytest.mark.parametrize('nested', [False, True])
def test_tensors_of_pytorch_come_back(old, nested, tmp_path):
  torch = pytest.importorskip('torch')
  tensors = _tensors(torch)
  value = {'state_dict': tensors, 'epoch': 3,
           'optimizer': {'momentum': torch.ones(2)}} if nested else tensors
  path = _saved(torch, value, tmp_path / 'a.anything', old)
  got = pretrained.read(path)
  assert list(got) == list(tensors)
  for name, tensor in tensors.items():
    want = tensor.detach()
    want = (want.float() if name == 'bfloat16' else want).numpy()
    np.testing.assert_array_equal(got[name], want, strict=True, err_msg=name)


@pytest.mark.parametrize('old', [False, True], ids=['zip', 'legacy'])
def test_state_dicts_of_a_module_come_back(old, tmp_path):
  torch = pytest.importorskip('torch')
  net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
  path = _saved(torch, net.state_dict(), tmp_path / 'a.pth', old)
  got = pretrained.read(path)
  assert got.keys() == net.state_dict().keys() and len(got) == 7
  for name, tensor in net.state_dict().items():
    np.testing.assert_array_equal(got[name], tensor.numpy())
  refuses(lambda: pretrained.read(_saved(torch, net, tmp_path / 'b.pth', old)),
          r"asks for 'torch.nn.modules.container.Sequential', .* state_dict")


def test_no_pytorch_is_imported(tmp_path):
  torch = pytest.importorskip('torch')
  path = _saved(torch, {'a': torch.ones(2)}, tmp_path / 'a.pth', False)
  code = ('import sys; from jaxaug.nn import pretrained; '
          'pretrained.read(sys.argv[1]); '
          "sys.exit('torch' in sys.modules or 'scipy' in sys.modules)")
  subprocess.run([sys.executable, '-c', code, path], check=True)


class Evil:
  """What runs a command when it is unpickled."""

  def __init__(self, function, *args):
    self.call = function, args

  def __reduce__(self):
    return self.call


@pytest.mark.parametrize('how', ['bare', 'legacy', 'zip'])
@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize('function', [
    os.system, eval, getattr, subprocess.call, io.open],
                         ids=lambda function: function.__name__)
def test_a_pickle_runs_nothing(function, protocol, how, tmp_path):
  made, path = tmp_path / 'made', tmp_path / 'a.pth'
  args = {os.system: (f'touch {made}',), getattr: ('', 'join'),
          eval: (f'open({str(made)!r}, "w")',), io.open: (str(made), 'w'),
          subprocess.call: (['touch', str(made)],)}[function]
  evil = pickle.dumps({'a': Evil(function, *args)}, protocol)
  pickle.loads(evil)
  assert made.exists() or function is getattr  # It would have worked.
  made.unlink(missing_ok=True)
  if how == 'zip':
    with zipfile.ZipFile(path, 'w') as archive:
      archive.writestr('archive/data.pkl', evil)
  else:
    start = [pickle.dumps(x, 2) for x in (pretrained._MAGIC, 1001,
                                          {'little_endian': True})]
    path.write_bytes(b''.join(start if how == 'legacy' else []) + evil)
  refuses(lambda: pretrained.read(path), "asks for '.*' *, which is not let")
  assert not made.exists()


def _storage(torch, edit):
  """A zip file of one tensor, its parts changed by edit(name, bytes)."""
  whole, out = io.BytesIO(), io.BytesIO()
  torch.save({'a': torch.arange(6.).reshape(2, 3)}, whole)
  with zipfile.ZipFile(whole) as a, zipfile.ZipFile(out, 'w') as b:
    for name in a.namelist():
      content = edit(name.partition('/')[2], a.read(name))
      if content is not None:
        b.writestr(name, content)
  return out.getvalue()


@pytest.mark.parametrize('edit', [
    lambda name, x: None if name == 'data/0' else x,
    lambda name, x: x[:-4] if name == 'data/0' else x,
    lambda name, x: x[:-9] if name == 'data.pkl' else x,
    lambda name, x: b'big' if name == 'byteorder' else x,
    # Shape (2, 3) becomes (2, 4): beyond its storage.
    lambda name, x: x.replace(b'K\x02K\x03\x86', b'K\x02K\x04\x86')
    if name == 'data.pkl' else x], ids=range(5))
def test_zip_files_that_are_wrong_inside(edit, tmp_path):
  torch = pytest.importorskip('torch')
  path = tmp_path / 'a.pth'
  path.write_bytes(_storage(torch, lambda name, x: x))
  np.testing.assert_array_equal(pretrained.read(path)['a'],
                                np.arange(6.).reshape(2, 3))
  path.write_bytes(_storage(torch, edit))
  refuses(lambda: pretrained.read(path),
          '^weights: .*a.pth: cannot be read, or')


def test_compressed_files_are_refused(tmp_path):
  with zipfile.ZipFile(tmp_path / 'a.pth', 'w', zipfile.ZIP_DEFLATED) as a:
    a.writestr('archive/data.pkl', pickle.dumps({}))
  refuses(lambda: pretrained.read(tmp_path / 'a.pth'), 'compressed')


@pytest.mark.parametrize('kind', ['zip', 'legacy', 'npz', 'h5'])
def test_truncated_files_are_one_line(kind, tmp_path):
  path, array = tmp_path / 'a', np.random.default_rng(0).normal(size=(50, 40))
  if kind == 'npz':
    with open(path, 'wb') as f:
      np.savez(f, a=array)
  elif kind == 'h5':
    h5py = pytest.importorskip('h5py')
    with h5py.File(path, 'w') as f:
      f['a'] = array
  else:
    torch = pytest.importorskip('torch')
    _saved(torch, {'a': torch.tensor(array), 'b': torch.ones(3)}, path,
           kind == 'legacy')
  whole = path.read_bytes()
  np.testing.assert_array_equal(pretrained.read(path)['a'], array)
  cuts = {1, 2, 5, 9, 20, 60, 150, 300, len(whole) // 2, len(whole) - 9,
          len(whole) - 1}
  for cut in sorted(cuts):
    path.write_bytes(whole[:cut])
    refuses(lambda: pretrained.read(path, 'x.y'), r'^x\.y: .*/a: ')


@pytest.mark.parametrize('content, line', [
    (b'', 'empty; expected .npz, .pth or .h5'),
    (b'<html>404</html>', 'not a file of weights; expected'),
    (pickle.dumps({'a': 1}), 'a pickle, but not one of PyTorch'),
    (b'PK\x03\x04 no', 'cannot be read, or is damaged'),
    (b'\x80\x02' + b'(' * 50000 + b'.', 'cannot be read, or is damaged')],
    ids=['empty', 'text', 'pickle', 'zip', 'deep'])
def test_other_files_are_one_line(content, line, tmp_path):
  path = tmp_path / 'a.pth'
  path.write_bytes(content)
  refuses(lambda: pretrained.read(path), rf'^weights: {path}: {line}')


def test_what_holds_no_arrays_is_one_line(tmp_path):
  torch, path = pytest.importorskip('torch'), tmp_path / 'a.pth'
  for value in ({}, {'epoch': 3}, {'state_dict': {}}):
    refuses(lambda value=value: pretrained.read(
        _saved(torch, value, path, True)), 'holds no arrays')
  refuses(lambda: pretrained.read(_saved(torch, torch.ones(2), path, False)),
          'not a state_dict')
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('a.txt', 'hello')
  refuses(lambda: pretrained.read(path), 'more than arrays')
  refuses(lambda: pretrained.read(tmp_path), 'Is a directory')
  refuses(lambda: pretrained.read(tmp_path / 'b.npz'),
          r'^weights: .*b\.npz: there is no such file\.$')


def test_npz_and_h5_come_back(tmp_path, monkeypatch):
  array = np.float16(np.random.default_rng(0).normal(size=(2, 3)))
  np.savez_compressed(tmp_path / 'a.npz', **{'x.weight': array})
  got = pretrained.read(str(tmp_path / 'a.npz'))
  np.testing.assert_array_equal(got['x.weight'], array, strict=True)
  monkeypatch.setenv('HOME', str(tmp_path))
  assert pretrained.read('~/a.npz').keys() == {'x.weight'}
  h5py = pytest.importorskip('h5py')
  with h5py.File(tmp_path / 'a.h5', 'w') as file:
    file['conv/conv/kernel:0'] = array
  got = pretrained.read(tmp_path / 'a.h5')
  np.testing.assert_array_equal(got.pop('conv/conv/kernel:0'), array)
  assert not got
  monkeypatch.setitem(sys.modules, 'h5py', None)
  refuses(lambda: pretrained.read(tmp_path / 'a.h5'),
          r'needs the package h5py: install it, or give an \.npz or \.pth')


# Downloads.

class Handler(http.server.BaseHTTPRequestHandler):
  """Sends CONTENT; less of it, other bytes or nothing, as the path says."""

  def do_GET(self):
    self.server.asked.append(self.path)
    if self.path == '/absent':
      return self.send_error(404)
    self.send_response(200)
    self.send_header('Content-Length', str(len(CONTENT)))
    self.end_headers()
    self.wfile.write({'/short': CONTENT[:-999],
                      '/other': CONTENT[::-1]}.get(self.path, CONTENT))

  def log_message(self, *args):
    pass


@pytest.fixture
def server(monkeypatch, tmp_path):
  monkeypatch.setenv('JAXAUG_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setenv('no_proxy', '127.0.0.1')
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
    server.asked = []
    server.at = lambda path: PUBLISHED._replace(
        url=f'http://127.0.0.1:{server.server_port}{path}')
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


def test_a_file_is_downloaded_once(server, tmp_path, capsys):
  wanted, place = server.at('/net'), tmp_path / 'cache' / 'weights' / 'net.pth'
  for _ in range(2):
    assert pretrained.find(wanted) == place
    assert place.read_bytes() == CONTENT
  assert server.asked == ['/net'] and os.listdir(place.parent) == ['net.pth']
  assert 'net.pth' in capsys.readouterr().out
  # By the first digits, too.
  assert pretrained.find(wanted._replace(sha256=wanted.sha256[:8])) == place
  other = tmp_path / 'own.pth'
  other.write_bytes(b'own')
  assert pretrained.find(wanted, str(other)) == other
  assert pretrained.digest(other) == hashlib.sha256(b'own').hexdigest()
  refuses(lambda: pretrained.find(wanted, str(tmp_path / 'no'), 'a.b'),
          r'^a\.b: .*/no: there is no such file')


@pytest.mark.parametrize('path, line', [
    ('/other', 'what came has the sha256 '), ('/absent', '404|Not Found'),
    ('/short', f'it broke off after {len(CONTENT) - 999} of {len(CONTENT)} ')])
def test_bad_downloads_leave_nothing(path, line, server, tmp_path):
  text = refuses(lambda: pretrained.find(
      server.at(path), where='x.weights', standins='pixels needs none'), line)
  assert text.startswith('x.weights: net.pth is not at hand and cannot be ')
  place = tmp_path / 'cache' / 'weights'
  assert f'{place}/net.pth' in text and PUBLISHED.sha256 in text
  assert text.endswith('; pixels needs none.')
  assert server.asked == [path] and not os.listdir(place)


def test_without_a_network_or_leave_is_one_line(monkeypatch, tmp_path):
  monkeypatch.setenv('JAXAUG_CACHE', str(tmp_path))
  monkeypatch.setenv('no_proxy', '127.0.0.1')
  refuses(lambda: pretrained.find(PUBLISHED), r'\(Connection refused\)')
  refuses(lambda: pretrained.find(PUBLISHED, download=False),
          'downloads are off')
  monkeypatch.delenv('JAXAUG_CACHE')
  monkeypatch.setenv('HOME', str(tmp_path))
  refuses(lambda: pretrained.find(PUBLISHED, download=False),
          re.escape(f'{tmp_path}/.cache/jaxaug/weights/net.pth'))


def test_another_file_in_the_cache_is_refused_and_kept(server, tmp_path):
  place = tmp_path / 'cache' / 'weights' / 'net.pth'
  place.parent.mkdir(parents=True)
  place.write_bytes(b'other')
  found = pretrained.digest(place)
  refuses(lambda: pretrained.find(server.at('/net')),
          f'{place}: not the published file.*{found}.*move it')
  assert place.read_bytes() == b'other' and not server.asked


def test_what_cannot_be_written_is_one_line(server, tmp_path):
  (tmp_path / 'cache').write_text('a file')
  refuses(lambda: pretrained.find(server.at('/net')), 'cannot write here')
  assert not server.asked
  refuses(lambda: pretrained.digest(tmp_path), 'Is a directory')
