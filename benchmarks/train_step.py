"""Training steps of every network beside the same networks in PyTorch.

  python -m benchmarks.train_step [--quick] [--busy] [--only=NAME]

Both sides start from the same weights, see the same images and do the same
work: losses, gradients, optimizer, averages. PyTorch runs eagerly, in
channels_last, with fused optimizers and a thread a core. The two alternate;
a time is the median of its steps. Before anything is timed, parameters are
counted, outputs compared, and of classifiers also the losses after training.

PyTorch's threads wait for each other in a loop and suffer more from other
programs than ours do, so that ratios on a busy machine flatter us; there use
--busy, which gives both sides one core and counts its seconds of work.
"""
import argparse
import copy
import functools
import os
import time

import jax
import numpy as np
import rich.box
import rich.console
import rich.table

from configs import quickstart
from jaxaug.core import memory, registry, types
from jaxaug.study import schema
from jaxaug.training import classifier as supervised

try:
  import torch
  import torch.nn.functional as F  # noqa: N812

  from benchmarks import generator_pairs, pairs
  from tests.torch_twins import plain as torch_plain
  from tests.torch_twins import residual as torch_residual
  from tests.torch_twins.layout import nchw
except ImportError as e:
  raise SystemExit(
      'train_step: PyTorch is missing, with which the steps are compared; '
      'expected: pip install -r requirements-parity.txt') from e

# Of losses after three updates in float32, where batch norms add rounding.
LATER = 1e-3


CLASSIFIERS = torch_plain.CLASSIFIERS | torch_residual.CLASSIFIERS


def _optimizer(net, rule):
  """`classifier.make_optimizer` at a constant rate."""
  groups = [{'params': [p for p in net.parameters() if p.ndim > 1],
             'weight_decay': rule['weight_decay']},
            {'params': [p for p in net.parameters() if p.ndim <= 1],
             'weight_decay': 0.0}]
  if rule['optimizer'] == 'adam':
    return torch.optim.AdamW(groups, rule['learning_rate'], fused=True)
  return torch.optim.SGD(groups, rule['learning_rate'], rule['momentum'],
                         nesterov=rule['nesterov'], fused=True)


def _training(net, x, y, rule):
  """Returns one update of a classifier, as `classifier.make` does it."""
  opt = _optimizer(net, rule)

  def step():
    logits = net(x)
    loss = F.cross_entropy(logits, y)
    opt.zero_grad()
    loss.backward()
    opt.step()
    return {'train_loss': loss,
            'train_error': (logits.argmax(1) != y).float().mean()}
  return step


def classifier(name, spec, batch_size, given, **rule) -> pairs.Pair:
  """`classifiers.<name>` with the arguments `given`, under `supervised`."""
  block = registry.find('classifiers', name)
  hyper = registry.arguments(block.build) | given
  if 'dropout' in hyper:  # Its draws are the two sides' own.
    hyper |= {'dropout': 0.0}
  network = block.build(spec, **hyper)
  rule = registry.arguments(supervised.make) | rule | {'schedule': 'constant'}
  model = supervised.make(spec, network, **rule)
  images, labels = pairs.batch(spec, batch_size)
  images = np.float32(images / 127.5 - 1)
  batch = supervised.plain(images, labels, spec.num_classes)
  state, key = jax.jit(model.init)(jax.random.key(0), 1000), jax.random.key(1)
  theirs = CLASSIFIERS[type(network).__name__](network)
  net = pairs.twin(theirs, state.net.params)
  logits = jax.jit(lambda v: network.apply(
      v, images, train=True, mutable=['batch_stats'])[0])(
          supervised.variables(state.net))
  x, y = nchw(torch.from_numpy(images)), torch.from_numpy(labels).long()
  # In float64: PyTorch's own batch norm is not exact in channels_last.
  exact = copy.deepcopy(net).double()
  pairs.compare(name, logits, exact(x.double()))
  parameters = sum(p.size for p in jax.tree.leaves(state.net.params))
  pair = pairs.Pair(parameters,
                    *pairs.compiled(model.step, state, batch, key),
                    _training(net, x, y, rule))
  check = _training(exact, x.double(), y, rule)
  for _ in range(3):
    ours, single, theirs = (f()['train_loss']
                            for f in (pair.ours, pair.theirs, check))
  # A hundred layers and four images: there PyTorch's own float32 is far off.
  rounding = float((single - theirs).abs().detach())
  pairs.compare(f'{name} after 3 steps', ours, theirs, LATER + 2 * rounding)
  return pair


def _generators(grey, colour) -> dict:
  """The generators' part of `cases`."""
  block = quickstart.get_config().generators.cgan
  out = {}
  def add(make, title, spec, size, **settings):
    out[title, 'x'.join(map(str, (size, *spec[:3])))] = functools.partial(
        make, spec, size, settings)
  of = {name: functools.partial(make, name) for make, names in (
      (generator_pairs.two_passes, ('dcgan', 'acgan')),
      (generator_pairs.pyramid, ('ccgan', 'lapgan'))) for name in names}
  of |= {name: getattr(generator_pairs, name)
         for name in ('cgan', 'biggan', 'vae')}
  add(of['cgan'], 'cgan, quickstart', grey, block.batch_size,
      **schema.arguments(block.to_dict()))
  add(of['cgan'], 'cgan', grey, 64)
  add(of['cgan'], 'cgan, cow and horse', colour._replace(
      height=64, width=64, num_classes=2), 8, g_widths=(128,) * 4,
      d_widths=(128,) * 4)
  add(of['acgan'], 'acgan', grey, 64)
  add(of['acgan'], 'acgan, cifar', colour, 64, network='cifar')
  add(of['dcgan'], 'dcgan', grey, 64)
  add(of['dcgan'], 'dcgan', colour._replace(height=64, width=64), 16)
  add(of['vae'], 'vae', grey, 64)
  add(of['ccgan'], 'ccgan', colour, 64)
  add(of['lapgan'], 'lapgan', colour, 32)
  add(of['biggan'], 'biggan', colour, 10, d_steps=1)
  return out


def cases() -> dict:
  """Returns {(network, shape of a batch): function that makes its Pair}."""
  grey = types.ImageSpec(28, 28, 1, 10)
  colour = types.ImageSpec(32, 32, 3, 10)
  rule = schema.arguments(
      quickstart.get_config().classifiers.cnn.to_dict(), schema.CLASSIFIER)
  out = _generators(grey, colour)
  def add(title, spec, size, given, **how):
    out[title, 'x'.join(map(str, (size, *spec[:3])))] = functools.partial(
        classifier, title.partition(',')[0], spec, size, given, **how)
  for spec in (grey, colour):
    add('cnn', spec, 64, {}, **rule)
    add('resnet, depth 8', spec, 64, {'depth': 8})
  slow = {'learning_rate': 1e-5}  # Larger ones amplify rounding.
  for title, size, given in (
      ('resnet', 64, {}), ('small_cnn', 64, {}), ('alexnet', 64, {}),
      ('densenet', 32, {}), ('mobilenet', 32, {}),
      ('mobilenet, V2', 32, {'version': 2}), ('vgg', 32, {}),
      ('dianet', 32, {}), ('wideresnet', 8, {}), ('resnext', 4, {})):
    add(title, colour, size, given, **slow)
  return out


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--quick', action='store_true',
                      help='few repetitions: a look, not a measurement')
  parser.add_argument('--only', default='',
                      help='networks whose name begins so')
  parser.add_argument('--busy', action='store_true',
                      help='one core, processor time: where others work too')
  args = parser.parse_args()
  if args.busy:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
  memory.keep()  # As launch.py does.
  cores = len(os.sched_getaffinity(0))
  torch.set_num_threads(cores)
  torch.manual_seed(0)
  console = rich.console.Console()
  load = os.getloadavg()[0]
  if load > 0.5 and not args.busy:
    console.print(f'Load {load:.1f}: other programs run, which flatters '
                  'jaxaug; see --busy.')
  table = rich.table.Table(box=rich.box.SIMPLE, collapse_padding=True, title=(
      f'One training step, cores: {cores}, jax {jax.__version__}, '
      f'PyTorch {torch.__version__}'))
  for i, name in enumerate(('network', 'batch', 'weights', 'compile\ns',
                            'jaxaug\nms', 'PyTorch\nms', 'ratio')):
    table.add_column(name, justify='right' if i > 1 else 'left', no_wrap=True)
  try:
    for (name, shape), make in cases().items():
      if not name.startswith(args.only):
        continue
      pair = make()
      ours, theirs = pairs.measure(
          pair, 1 if args.quick else 10,
          time.process_time if args.busy else time.perf_counter)
      table.add_row(
          name, shape, f'{pair.parameters:,}', f'{pair.compile:.1f}',
          f'{ours:.1f}', f'{theirs:.1f}', f'{theirs / ours:.2f}')
  finally:  # Of a failure all that came before it.
    console.print(table)


if __name__ == '__main__':
  main()
