import hashlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from jaxaug.commands import prepare
from jaxaug.core import errors, registry
from jaxaug.data import splits
from jaxaug.data.datasets import tfds as source

tfds = pytest.importorskip('tensorflow_datasets')

FILES = pathlib.Path(os.environ.get('FASHION_MNIST_FILES',
                                    '/usr/share/datasets/fashion-mnist'))
COUNTS = {'train': 30, 'validation': 6, 'test': 12}
ROOT = pathlib.Path(__file__).parents[2]


def pixels(split, i, vary=False):
  shape = (8, 6 + i % 2 if vary else 6, 3)
  return np.random.default_rng([len(split), i]).integers(
      0, 256, shape, np.uint8)


class JaxaugTiny(tfds.core.GeneratorBasedBuilder):
  """Random images; as tensors, since only features.Image needs TensorFlow."""
  VERSION = tfds.core.Version('1.0.0')
  vary = False

  def _info(self):
    shape = (8, None if self.vary else 6, 3)
    features = tfds.features.FeaturesDict({
        'image': tfds.features.Tensor(shape=shape, dtype=np.uint8),
        'deep': tfds.features.Tensor(shape=(2, 2, 1), dtype=np.uint16),
        'label': tfds.features.ClassLabel(names=['p', 'q', 'r'])})
    return tfds.core.DatasetInfo(builder=self, features=features)

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in COUNTS}

  def _generate_examples(self, split):
    for i in range(COUNTS[split]):
      yield i, {'image': pixels(split, i, self.vary), 'label': i % 3,
                'deep': np.zeros((2, 2, 1), np.uint16)}


class JaxaugVaried(JaxaugTiny):
  """The same in two sizes."""
  VERSION = tfds.core.Version('1.0.0')
  vary = True


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('tfds')
  for name in ('jaxaug_tiny', 'jaxaug_varied'):
    tfds.builder(name, data_dir=str(folder), file_format='array_record',
                 try_gcs=False).download_and_prepare()
  return str(folder)


@pytest.fixture
def load(data_dir, tmp_path):
  def load(name='jaxaug_tiny', **settings):
    return source.load(**{'name': name, 'data_dir': data_dir,
                          'cache_dir': str(tmp_path / 'cache'), **settings})
  return load


def rows(split):
  return sorted((image.tobytes(), int(label)) for image, label in
                zip(split.images, split.labels, strict=True))


def test_every_image_comes_in_with_its_label(load):
  d = load(validation_split='validation')
  assert d.name == 'jaxaug_tiny/1.0.0' and d.class_names == ('p', 'q', 'r')
  for split, count in COUNTS.items():
    part = getattr(d, split)
    assert rows(part) == sorted(
        (pixels(split, i).tobytes(), i % 3) for i in range(count))
    assert part.labels.dtype == np.int32
    assert part.index.tolist() == list(range(count))
  s = splits.make(d, seed=0, per_class=5)
  assert s.report['counts']['train'] == {'p': 5, 'q': 5, 'r': 5}


def test_split_expressions(load):
  d = load(train_split='train[:20]', test_split='train[20:]')
  assert len(d.train.labels) == 20 and len(d.test.labels) == 10
  assert not set(rows(d.train)) & set(rows(d.test))
  assert load(test_split='').test is None
  assert load().validation is None


def test_the_second_load_needs_neither_tfds_nor_tensorflow(load, data_dir,
                                                           tmp_path):
  first = load()
  program = """if True:
      import json, sys
      sys.modules['tensorflow'] = sys.modules['tensorflow_datasets'] = None
      from jaxaug.data import images
      from jaxaug.data.datasets import tfds
      d = tfds.load(**json.loads(sys.argv[1]))
      print(images.digest(d.train.images, d.test.images), d.name)"""
  settings = {'name': 'jaxaug_tiny', 'data_dir': data_dir,
              'cache_dir': str(tmp_path / 'cache')}
  out = subprocess.run(
      [sys.executable, '-c', program, json.dumps(settings)], check=True,
      capture_output=True, text=True, cwd=ROOT).stdout.split()
  from jaxaug.data import images
  assert out == [images.digest(first.train.images, first.test.images),
                 'jaxaug_tiny/1.0.0']


def cached(tmp_path):
  return sorted((tmp_path / 'cache').glob('*/*.npy'))


def test_the_cache_is_read_until_the_prepared_set_changes(load, tmp_path,
                                                          data_dir):
  first = load()
  made = {f: f.stat().st_mtime_ns for f in cached(tmp_path)}
  assert len(made) == 4 and isinstance(first.train.images, np.memmap)
  load()
  assert {f: f.stat().st_mtime_ns for f in cached(tmp_path)} == made
  info = pathlib.Path(data_dir, 'jaxaug_tiny', '1.0.0', 'dataset_info.json')
  before = info.read_text()
  try:
    info.write_text(before + '\n')
    load()
  finally:
    info.write_text(before)
  renewed = {f: f.stat().st_mtime_ns for f in cached(tmp_path)}
  assert renewed.keys() == made.keys() and renewed != made
  assert rows(first.train)  # The old map stays readable.


def test_a_damaged_cache_is_made_again(load, tmp_path):
  first = rows(load().train)
  for damage in (lambda f: f.write_bytes(f.read_bytes()[:-50]),
                 lambda f: f.write_bytes(f.read_bytes()[:-50] + bytes(50)),
                 lambda f: f.unlink(), lambda f: f.write_bytes(b'')):
    damage(next(f for f in cached(tmp_path) if f.stem == 'train_images'))
    assert rows(load().train) == first
  next((tmp_path / 'cache').glob('*/manifest.json')).write_text('{')
  assert rows(load().train) == first
  assert len(list((tmp_path / 'cache').iterdir())) == 1


def test_an_unwritable_cache_is_one_line(load, tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.InputError, match='config.data.cache_dir'):
    load(cache_dir=str(tmp_path / 'file'))


def test_differing_sizes_need_resize(load):
  with pytest.raises(errors.InputError,
                     match=r'train: .*8x6 \(15\), 8x7 \(15\).*resize'):
    load('jaxaug_varied')
  d = load('jaxaug_varied', resize=(4, 5))
  assert d.train.images.shape == (30, 4, 5, 3)
  assert load('jaxaug_varied', crop=6).train.images.shape == (30, 6, 6, 3)
  with pytest.raises(errors.InputError, match='config.data.crop: 7x7'):
    load('jaxaug_varied', crop=7)


@pytest.mark.parametrize('settings, message', [
    ({'name': 'jaxaug_tin'}, "name: .*no set 'jaxaug_tin'.*mean 'jaxaug_tiny'"),
    ({'name': 'cifar10'},
     'not prepared in .*tensorflow, which is not .*; run once: python -m pip '
     'install -r requirements-tfds.txt, and: python -m jaxaug prepare cifar10 '
     '--data_d'),
    ({'name': 'fashion_mnist'}, 'without a network.*--fashion_mnist_files'),
    ({'name': 'jaxaug_tiny:7.0.0'}, "config.data.name: 'jaxaug_tiny:7.0.0'"),
    ({'test_split': 'tset'}, "data.test_split.*'tset'.*has train, .*for none"),
    ({'train_split': 'train[:x]'}, 'config.data.train_split'),
    ({'image_key': 'images'}, "image_key.*'images'.*Did you mean 'image'"),
    ({'label_key': 'lable'}, "label_key.*'lable'.*Did you mean 'label'"),
    ({'image_key': 'deep'}, r'image_key: .*uint16 \[2, 2, 1\]'),
    ({'resize': 0}, 'config.data.resize')])
def test_bad_settings_are_one_line(load, settings, message, monkeypatch):
  monkeypatch.setattr(source, '_has_tensorflow', lambda: False)
  with pytest.raises(errors.InputError, match=message) as e:
    load(**settings)
  assert '\n' not in str(e.value)


def test_a_set_is_prepared_on_its_first_use(tmp_path, monkeypatch, capsys):
  # Of this one none of the features needs it.
  monkeypatch.setattr(source, '_has_tensorflow', lambda: True)
  found = source.load(name='jaxaug_tiny', data_dir=str(tmp_path / 'new'),
                      cache_dir=str(tmp_path / 'cache'))
  assert len(found.train.labels) == COUNTS['train']
  said = f'data: prepares jaxaug_tiny in {tmp_path / "new"}, once; '
  assert said in capsys.readouterr().out
  source.load(name='jaxaug_tiny', data_dir=str(tmp_path / 'new'),
              cache_dir=str(tmp_path / 'other'))
  assert 'prepares' not in capsys.readouterr().out


def test_what_cannot_be_prepared_says_how_it_could_be(tmp_path, monkeypatch,
                                                      capsys):
  monkeypatch.setattr(source, '_has_tensorflow', lambda: True)
  def fails(builder, **how):
    raise ConnectionError('no route to host')
  monkeypatch.setattr(tfds.core.DatasetBuilder, 'download_and_prepare', fails)
  with pytest.raises(errors.InputError, match=(
      "config.data.name: .*'cifar10' is not prepared in .*no route to host "
      'Run once, .*: python -m jaxaug prepare cifar10 --data_dir=')) as e:
    source.load(name='cifar10', data_dir=str(tmp_path),
                cache_dir=str(tmp_path / 'cache'))
  assert '\n' not in str(e.value)
  assert '162 MB to download' in capsys.readouterr().out


def test_prepare_refuses_in_one_line(tmp_path, capsys):
  where = f'--data_dir={tmp_path}'
  for arguments, message in (
      (['mnistt', where], "no set 'mnistt'"),
      (['mnist', where, f'--fashion_mnist_files={tmp_path}'],
       'serves fashion_mnist only'),
      (['fashion_mnist', where, f'--fashion_mnist_files={tmp_path}'],
       'train-images-idx3-ubyte.gz is missing')):
    assert prepare.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1


def need_files():
  if not FILES.is_dir():
    pytest.skip(f'{FILES} is not there (FASHION_MNIST_FILES names the folder)')


def test_restored_files_have_the_published_sums(tmp_path):
  need_files()
  source.restore_fashion_mnist(FILES, tmp_path)
  # MD5 sums of the README of github.com/zalandoresearch/fashion-mnist.
  assert {f.name.split('-ubyte')[0]: hashlib.md5(f.read_bytes()).hexdigest()
          for f in tmp_path.iterdir()} == {
      'train-images-idx3': '8d4fb7e6c68d591d4c3dfef9ec88bf0d',
      'train-labels-idx1': '25c81989df183df01b3e8a0aad5dffbe',
      't10k-images-idx3': 'bef4ecab320f06d8554ea6380940ec79',
      't10k-labels-idx1': 'bb300cfdad3c16e7a12a480ee83cd310'}


@pytest.mark.slow
def test_tfds_prepares_the_real_fashion_mnist_without_a_network(tmp_path):
  need_files()
  pytest.importorskip('tensorflow')

  def run(*arguments):
    return subprocess.run(
        [sys.executable, '-m', 'jaxaug.prepare', 'fashion_mnist',
         f'--data_dir={tmp_path}', *arguments],
        capture_output=True, text=True, cwd=ROOT)

  broken = tmp_path / 'broken'
  broken.mkdir()
  source.restore_fashion_mnist(FILES, broken)
  labels = broken / 't10k-labels-idx1-ubyte.gz'
  labels.write_bytes(labels.read_bytes() + b'\0')
  failed = run(f'--fashion_mnist_files={broken}')
  assert failed.returncode == 2 and 'Checksum' in failed.stderr

  done = run(f'--fashion_mnist_files={FILES}')
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[-1].endswith('fashion_mnist/3.0.1')
  d = registry.find('datasets', 'tfds').load(
      name='fashion_mnist', data_dir=str(tmp_path),
      cache_dir=str(tmp_path / 'cache'))
  small = registry.find('datasets', 'fashion_mnist_small').load()
  assert d.class_names == small.class_names
  for split, count in (('train', 60000), ('test', 10000)):
    whole = getattr(d, split)
    assert np.bincount(whole.labels).tolist() == [count // 10] * 10
    assert set(rows(getattr(small, split))) < set(rows(whole))
  assert not any(splits.make(d, seed=0).report['duplicates'].values())


@pytest.mark.slow
def test_tfrecord_is_read_where_tensorflow_is(tmp_path):
  pytest.importorskip('tensorflow')
  tfds.builder('jaxaug_tiny', data_dir=str(tmp_path), file_format='tfrecord',
               try_gcs=False).download_and_prepare()
  d = source.load(name='jaxaug_tiny', data_dir=str(tmp_path),
                  cache_dir=str(tmp_path / 'cache'))
  assert rows(d.train) == sorted(
      (pixels('train', i).tobytes(), i % 3) for i in range(30))
