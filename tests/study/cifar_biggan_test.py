"""The study of BigGAN images on CIFAR-10 says what its paper says."""
import jax
import pytest

import launch
from jaxaug.core import registry, types
from jaxaug.study import arms, config_file, schema

RGB = types.ImageSpec(32, 32, 3, 10)

pytestmark = pytest.mark.usefixtures('at_the_root')


def config(variant: str = '') -> dict:
  """The checked config of a variant, every default in it."""
  colon = ':' if variant else ''
  return config_file.load(f'configs/cifar_biggan.py{colon}{variant}')


@pytest.mark.parametrize('variant, steps, epochs', [
    ('', 50_000, (30, 30)), ('full', 250_000, (300, 200)),
    ('resnet164', 50_000, (30, 30))])
def test_generator_arms_and_classifiers(variant, steps, epochs):
  got = config(variant)
  block = got['generators']['biggan']
  # Steps, batch, updates of D, rates, augmentation and averaging of the paper.
  want = dict(steps=steps, batch_size=50, d_steps=4, g_lr=2e-4, d_lr=2e-4,
              b1=0.0, b2=0.999, loss='hinge', diff_augment='translation,cutout',
              mirror=True, ema_decay=0.9999, ema_start=1000)
  assert {key: block[key] for key in want} == want
  model = registry.build('generators', block['model'], schema.arguments(block),
                         '', RGB)
  state = jax.eval_shape(model.init, jax.random.key(0))
  assert model.parameters(state) == {'g': 4_304_387, 'd': 4_207_361}
  assert [(arm.name, arm.how) for arm in arms.read(got['arms'])] == [
      ('real', {}),
      *((f'replace_{p}', {'replace': p / 100}) for p in (20, 40, 60, 80, 100)),
      *((f'add_{p}', {'add': p / 100}) for p in (20, 40, 60, 80, 100))]
  assert {arm['augment'] for arm in got['arms']} == {'standard'}
  dense, dia = (got['classifiers'][name] for name in ('densenet', 'dianet'))
  assert (dense['epochs'], dia['epochs']) == epochs
  assert (dense['depth'], dense['growth'], dense['dropout']) == (40, 12, 0)
  assert (dia['base'], dia['reduction']) == (
      'resnet164' if variant == 'resnet164' else 'resnet56', 4)


@pytest.mark.parametrize('variant', ['', 'full', 'resnet164', 'cpu'])
def test_published_figures(variant):
  got = config(variant)
  assert {(f['classifier'], f['arm']): f['value'] for f in got['published']
          } == {('densenet', 'real'): .0682, ('densenet', 'replace_100'): .1075,
                ('dianet', 'real'): .0664, ('dianet', 'replace_100'): .1033,
                ('dianet', 'add_40'): .0636}
  assert {f['n'] for f in got['published']} == {1}
  assert got['runs'] >= 3 and got['baseline'] == 'real'


def test_the_variant_for_a_cpu():
  got = config('cpu')
  assert got['data']['per_class'] == 500
  assert [arm['name'] for arm in got['arms']] == [
      'real', 'replace_40', 'replace_100', 'add_40', 'add_100']


def test_an_unknown_variant(capsys, tmp_path):
  status = launch.main(['--config=configs/cifar_biggan.py:gpu',
                        f'--workdir={tmp_path}'])
  line = capsys.readouterr().err
  assert status == 2 and line.count('\n') == 1
  assert 'full, resnet164, cpu, smoke' in line
