"""How long an evaluation takes, beside pytorch-fid and scipy on this machine.

  python -m benchmarks.evaluate [--quick]

Inception features: the whole call of pytorch-fid's network (resize, network,
pooled features) against ours, 32x32 images, drawn weights; the two take turns,
medians of images per second. Then the Frechet distance of 2,048-d moments
against scipy's matrix square root, distances of 10,000 to 10,000 points, and
the peak memory of a process that takes moments of 50,000 images.
"""
import argparse
import resource
import statistics
import subprocess
import sys
import time

import jax
import numpy as np
import rich.console
import rich.table

from jaxaug.core import registry
from jaxaug.evaluation import features as extraction
from jaxaug.evaluation import moments, neighbours
from jaxaug.training import mesh

try:
  import torch
except ImportError:
  torch = None
BATCH = 50  # pytorch-fid's own.


def seconds(call) -> float:
  begin = time.perf_counter()
  call()
  return time.perf_counter() - begin


def turns(calls: dict, rounds: int) -> dict[str, float]:
  """Median seconds of each call; they take turns, one round is not counted."""
  times = {name: [] for name in calls}
  for _ in range(rounds + 1):
    for name, call in calls.items():
      times[name].append(seconds(call))
  return {name: statistics.median(t[1:]) for name, t in times.items()}


def _stand_in_for_torchvision():
  """Imports torchvision, also beside a torch its compiled part does not fit."""
  import re
  for _ in range(20):
    try:
      import torchvision  # noqa: F401
      return
    except RuntimeError as e:
      name = re.fullmatch(r'operator (torchvision::\w+) does not exist', str(e))
      torch.library.define(name[1], '(Tensor x) -> Tensor')
      for module in [m for m in sys.modules if m.startswith('torchvision')]:
        del sys.modules[module]


def networks(folder: str):
  """Returns (ours, pytorch-fid's), of the same drawn weights."""
  _stand_in_for_torchvision()
  from pytorch_fid import inception
  torch.manual_seed(0)
  file = f'{folder}/drawn.pth'
  def state(*args, **kwargs):
    net = inception._inception_v3(num_classes=1008, aux_logits=False,
                                  weights=None)
    for name, kind in (('5b', 32), ('5c', 64), ('5d', 64)):
      i = {'5b': 192, '5c': 256, '5d': 288}[name]
      setattr(net, f'Mixed_{name}', inception.FIDInceptionA(i, kind))
    for name, c7 in (('6b', 128), ('6c', 160), ('6d', 160), ('6e', 192)):
      setattr(net, f'Mixed_{name}', inception.FIDInceptionC(768, c7))
    net.Mixed_7b = inception.FIDInceptionE_1(1280)
    net.Mixed_7c = inception.FIDInceptionE_2(2048)
    torch.save(net.state_dict(), file)
    return net.state_dict()
  inception.load_state_dict_from_url = state
  theirs = inception.InceptionV3().eval()
  return registry.find('extractors', 'inception').build(weights=file), theirs


def features(rounds: int, table):
  import tempfile
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (BATCH, 32, 32, 3), np.uint8)
  with tempfile.TemporaryDirectory() as folder:
    extractor, theirs = networks(folder)
  laid_out = extraction.extractor(extractor, mesh.make(), BATCH)
  batch = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
  def pytorch():
    with torch.no_grad():
      theirs(batch.float() / 255)[0].numpy()
  times = turns({'ours': lambda: np.asarray(laid_out.apply(pixels)['features']),
                 'theirs': pytorch}, rounds)
  table.add_row('Inception features, images/s',
                *(f'{BATCH / times[k]:.1f}' for k in ('ours', 'theirs')),
                f'{times["theirs"] / times["ours"]:.2f}')


def frechet(rounds: int, table):
  import scipy.linalg
  rng = np.random.default_rng(0)
  a, b = (moments.of(rng.normal(size=(4096, 2048)) @ np.diag(
      rng.uniform(.1, 1, 2048)) + rng.normal(size=(4096, 1)))
          for _ in range(2))
  times = turns({
      'ours': lambda: moments.frechet(a, b),
      'theirs': lambda: scipy.linalg.sqrtm(a.covariance @ b.covariance)},
      rounds)
  table.add_row('Fréchet distance, 2,048-d, s (scipy: sqrtm alone)',
                *(f'{times[k]:.2f}' for k in ('ours', 'theirs')),
                f'{times["theirs"] / times["ours"]:.1f}')


def distances(rounds: int, table, n: int):
  from sklearn import metrics
  rng = np.random.default_rng(0)
  a = rng.normal(size=(n, 2048)).astype(np.float32)
  times = turns({
      'ours': lambda: neighbours.kth(a, 5),
      'theirs': lambda: np.partition(metrics.pairwise_distances(a), 5, 1)},
      rounds)
  table.add_row(f'5th neighbour, {n:,} x {n:,} x 2,048, s (scikit-learn)',
                *(f'{times[k]:.2f}' for k in ('ours', 'theirs')),
                f'{times["theirs"] / times["ours"]:.2f}')


_MOMENTS = """
import pathlib, re, sys
import jax
import numpy as np
from jaxaug.core import types
from jaxaug.evaluation import features
from jaxaug.training import mesh
n, width = int(sys.argv[1]), 2048
mixer = np.random.default_rng(0).normal(size=(3072, width)).astype(np.float32)
def apply(mixer, x):
  return {'features': jax.nn.relu(x.reshape(len(x), -1) / 255. @ mixer)}
network = types.Extractor('mixed', apply, mixer)
extractor = features.extractor(network, mesh.make(), 64)
rng = np.random.default_rng(1)
def batches():
  for start in range(0, n, 64):
    yield rng.integers(0, 256, (min(64, n - start), 32, 32, 3), np.uint8)
features.extract(extractor, batches(), n, ['moments'], title='')
# Not getrusage's: a child begins with what its parent had.
print(re.search(r'VmHWM:\\s*(\\d+)', pathlib.Path(
    '/proc/self/status').read_text())[1])
"""


def peak(table, n: int):
  out = subprocess.run([sys.executable, '-c', _MOMENTS, str(n)], check=True,
                       text=True, capture_output=True).stdout
  table.add_row(f'moments of {n:,} images, 2,048-d, peak MB',
                f'{int(out.split()[-1]) / 1024:,.0f}', '', '')


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--quick', action='store_true', help='fewer rounds')
  quick = parser.parse_args().quick
  table = rich.table.Table('what', 'ours', 'theirs', 'ratio', title=(
      f'Evaluation on {jax.default_backend()}, float32, jax '
      f'{jax.__version__}; ratio: above 1 ours is faster'))
  rounds = 1 if quick else 5
  if torch:
    features(rounds, table)
  frechet(1 if quick else 3, table)
  distances(1, table, 2_000 if quick else 10_000)
  peak(table, 5_000 if quick else 50_000)
  console = rich.console.Console(width=100)
  console.print(table)
  print(f'peak of this process: '
        f'{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB')
  if not torch:
    console.print('PyTorch is not installed: no row of features.')


if __name__ == '__main__':
  main()
