"""Training over 8 devices gives the losses of one, by the stages themselves."""
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests import quick

ROOT = pathlib.Path(__file__).parents[2]

_CHILD = """
import pathlib, sys
import jax, numpy as np
from jaxaug.core import files, types
from jaxaug.data import mixing
from jaxaug.data.datasets import fake
from jaxaug.core import registry
from jaxaug.study.stages import generate
from jaxaug.training import bank as banks
from jaxaug.training import fit, mesh

what, out = sys.argv[1], pathlib.Path(sys.argv[2])
assert jax.device_count() == 8
data = fake.load(height=8, width=12, channels=3, num_classes=4, per_class=16,
                 test_per_class=5)
spec = types.ImageSpec(8, 12, 3, 4)

def generator(folder, devices, name, **options):
  model = registry.build('generators', name, options, 'config.generators.g',
                         spec)
  generate.run(folder, name='g', spec=spec, train=data.train,
               train_digest='', model=model, class_names=data.class_names,
               steps=10, batch_size=16, seed=3,
               devices=devices, log_every=1, save_every=4, sample_every=5)

def cgan(folder, devices):
  generator(folder, devices, 'cgan', z_dim=8, embed_dim=4, g_widths=(12, 8),
            d_widths=(8, 12), g_norm='batch', spectral_norm=True, d_steps=2,
            dropout=0.3, mirror=True, conditioning='projection',
            diff_augment='translation')

def biggan(folder, devices):
  generator(folder, devices, 'biggan', z_dim=8, width=2, d_steps=1)

def vae(folder, devices):
  generator(folder, devices, 'vae', z_dim=4, widths=(8,), embed_dim=4)

def cyclegan(folder, devices):
  # Each image of a batch goes through the pools. Gains about 0, for without
  # them such small networks make of rounding a thousandth in six steps.
  generator(folder, devices, 'cyclegan', g_width=4, d_width=4, blocks=1,
            classes=(2, 1), norm='affine', lr=2e-3, pool=24, mirror=True,
            jitter=0.2)

def bagan(folder, devices):  # It has two phases, as bagan_gp.
  generator(folder, devices, 'bagan', steps=10, z_dim=4, hidden=16, g_width=4,
            d_width=4)

def bagan_gp(folder, devices):
  generator(folder, devices, 'bagan_gp', steps=10, autoencoder_steps=4, z_dim=4,
            widths=(8,), embed_dim=4, hidden=8, d_steps=2)


def ccgan(folder, devices):  # It adapts to the training split.
  generator(folder, devices, 'ccgan', z_dim=8, g_widths=(16,), d_widths=(16,))

def dagan(folder, devices):  # Pairs, two updates of D and dropout.
  generator(folder, devices, 'dagan', z_dim=4, g_widths=(4, 8), d_widths=(4, 8),
            g_inner=1, d_inner=1, d_hidden=8, d_steps=2)

def classifier(folder, devices, model='resnet', runs=1, **network):
  # The bank and its gather as in a study: real images, then a pool.
  parts = data.train, data.test
  bank = banks.make(devices, *(p[:2] for p in parts))
  mixed = mixing.compose(data.train.labels, data.test.labels, add=0.25,
                         class_names=data.class_names, seed=(1, 0))
  plan = mixing.plan(mixed, pool_start=len(data.train.labels), batch_size=16,
                     seed=(1, 0))
  network = network or {'depth': 8, 'width': 4}
  net = fit.network(spec, 'config.classifiers.c', model, {
      'learning_rate': 0.02, 'accumulate': 2, **network})
  treatment = fit.Treatment(
      fit.Feed(fit.pairs({'flip': 0.5, 'shift': 2}), 'cutmix', 1.0), 'batch',
      np.float32(np.linspace(0.5, 1.5, 4)), np.zeros(4, np.float32))
  jobs = [fit.Job(folder if i == 0 else files.folder(
      out, f'{folder.final.name}.{i}'), i + 1, plan, {}) for i in range(runs)]
  fit.train(jobs, title='c', net=net, treatment=treatment, bank=bank,
               validation=data.test, test=data.test, steps=10, seed=5,
               devices=devices, eval_every=3, log_every=1, save_every=4)

def two_densenets(folder, devices):
  classifier(folder, devices, 'densenet', runs=2, depth=7, growth=4)

def two_cnns(folder, devices):
  classifier(folder, devices, 'small_cnn', runs=2, widths=(8,), hidden=(8,))

for count in (1, 8):
  devices = mesh.make(jax.devices()[:count])
  globals()[what](files.folder(out, str(count)), devices)
"""


def _records(folder):
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.fixture(scope='module',
                params=['cgan', 'two_cnns', *(
                    pytest.param(name, marks=pytest.mark.slow)
                    for name in ('bagan', 'bagan_gp', 'biggan', 'ccgan',
                                 'classifier', 'cyclegan', 'dagan', 'vae',
                                 'two_densenets'))])
def both(request, tmp_path_factory):
  """What one device and eight wrote: the stage's two folders."""
  out = tmp_path_factory.mktemp(request.param)
  env = quick.environment('--xla_force_host_platform_device_count=8') | {
      'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
  done = subprocess.run([sys.executable, '-c', _CHILD, request.param, str(out)],
                        cwd=ROOT, env=env, capture_output=True, text=True,
                        timeout=300)
  assert done.returncode == 0, done.stderr[-2000:]
  return out / '1', out / '8'


def test_losses_of_ten_steps_agree(both):
  one, eight = map(_records, both)
  assert [r['step'] for r in one] == [r['step'] for r in eight]
  assert {r['step'] for r in one} == set(range(1, 11))
  for a, b in zip(one, eight, strict=True):
    assert a.keys() == b.keys()
    for name in a:
      most = 1e-5 * max(1, abs(a[name]))
      assert abs(a[name] - b[name]) <= most, (name, a, b)
  losses = [r[k] for r in one for k in ('ae_loss', 'g_loss', 'train_loss')
            if k in r]
  assert len(losses) == 10 and np.std(losses) > 1e-3  # Something happened.


def test_results_agree(both):
  with np.load(both[0] / 'variables.npz') as a, (
      np.load(both[1] / 'variables.npz')) as b:
    assert a.files == b.files
    for name in a.files:
      # Adam steps by the sign where a gradient is nothing but rounding.
      np.testing.assert_allclose(a[name], b[name], atol=5e-3, err_msg=name)
  if (both[0] / 'predictions.npz').exists():
    with np.load(both[0] / 'predictions.npz') as a, (
        np.load(both[1] / 'predictions.npz')) as b:
      np.testing.assert_array_equal(a['labels'], b['labels'])
      np.testing.assert_allclose(a['logits'], b['logits'], atol=1e-4)
