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
import statistics
import time
import typing

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import rich.box
import rich.console
import rich.table

from configs import quickstart
from jaxaug import mesh, registry, schema, supervised, types
from jaxaug.generators import cgan

try:
  import torch
  import torch.nn.functional as F  # noqa: N812
  from torch import nn

  from benchmarks import torch_plain, torch_residual
except ImportError as e:
  raise SystemExit(
      'train_step: PyTorch is missing, with which the steps are compared; '
      'expected: pip install -r requirements-parity.txt') from e

TOLERANCE = 1e-4
# Of losses after three updates in float32, where batch norms add rounding.
LATER = 1e-3


def _nchw(x):
  """[B, H, W, C] -> [B, C, H, W] of the same memory: channels_last."""
  return x.permute(0, 3, 1, 2)


def _nhwc(x):
  return x.permute(0, 2, 3, 1)


class ConditionalBatchNorm(nn.Module):

  def __init__(self, num_classes, channels):
    super().__init__()
    self.norm = nn.BatchNorm2d(channels, affine=False)
    self.gain = nn.Embedding(num_classes, channels)
    self.bias = nn.Embedding(num_classes, channels)

  def forward(self, x, labels):
    return (self.norm(x) * self.gain(labels)[:, :, None, None]
            + self.bias(labels)[:, :, None, None])


class Generator(nn.ModuleDict):

  def __init__(self, spec, hyper):
    super().__init__()
    widths, classes = hyper['g_widths'], spec.num_classes
    self.depth = len(widths)
    self.grid = [n >> self.depth - 1 for n in (spec.height, spec.width)]
    size = self.grid[0] * self.grid[1]
    self['embed'] = nn.Embedding(classes, hyper['embed_dim'])
    self['label_map'] = nn.Linear(hyper['embed_dim'], size)
    self['noise_map'] = nn.Linear(hyper['z_dim'], size * widths[0])
    for i, width in enumerate(widths):
      if i:  # The label map joins the first.
        self[f'up_{i - 1}'] = nn.ConvTranspose2d(
            widths[i - 1] + (i == 1), width, 4, 2, padding=1)
      if hyper['g_norm'] == 'batch':
        self[f'norm_{i}'] = ConditionalBatchNorm(classes, width)
    self['image'] = torch_plain.Conv(widths[-1], spec.channels, 7)

  def forward(self, z, labels):
    def act(x, name):
      return F.leaky_relu(self[name](x, labels) if name in self else x, 0.2)

    grid = (len(labels), *self.grid, -1)
    label = self['label_map'](self['embed'](labels)).view(grid)
    x = act(_nchw(self['noise_map'](z).view(grid)), 'norm_0')
    x = _nchw(torch.cat([_nhwc(x), label], 3))
    for i in range(1, self.depth):
      x = act(self[f'up_{i - 1}'](x), f'norm_{i}')
    return torch.tanh(self['image'](x))


class Discriminator(nn.ModuleDict):

  def __init__(self, spec, hyper):
    super().__init__()
    self.depth, self.dropout = len(hyper['d_widths']), hyper['dropout']
    h, w, channels = spec[:3]
    self.grid, classes = (h, w), spec.num_classes
    if hyper['conditioning'] == 'concat':
      self['embed'] = nn.Embedding(classes, hyper['embed_dim'])
      self['label_map'] = nn.Linear(hyper['embed_dim'], h * w)
      channels += 1
    for i, width in enumerate(hyper['d_widths']):
      self[f'down_{i}'] = torch_plain.Conv(channels, width, hyper['d_kernel'],
                                           2)
      channels, h, w = width, -(-h // 2), -(-w // 2)
    self['score'] = nn.Linear(channels * h * w, 1)
    if hyper['conditioning'] == 'projection':
      self['projection'] = nn.Embedding(classes, channels * h * w)

  def normalise(self):
    """Puts spectral norm where `cgan` has it."""
    for name, layer in self.items():
      if name != 'embed':
        nn.utils.parametrizations.spectral_norm(layer)

  def forward(self, x, labels):
    if 'embed' in self:
      label = self['label_map'](self['embed'](labels)).view(-1, *self.grid, 1)
      x = _nchw(torch.cat([_nhwc(x), label], 3))
    for i in range(self.depth):
      x = F.leaky_relu(self[f'down_{i}'](x), 0.2)
    x = _nhwc(x).reshape(len(x), -1)
    if self.dropout:
      x = F.dropout(x, self.dropout, self.training)
    score = self['score'](x)[:, 0]
    if 'projection' in self:
      score = score + (self['projection'](labels) * x).sum(1)
    return score


CLASSIFIERS = torch_plain.CLASSIFIERS | torch_residual.CLASSIFIERS


def _twin(module, params):
  """Returns `module` with the weights of flax, in channels_last.

  Raises:
    AssertionError: the two do not have the same parameters.
  """
  count = sum(p.numel() for p in module.parameters())
  expected = sum(x.size for x in jax.tree.leaves(params))
  assert count == expected, f'{type(module).__name__}: {count}, not {expected}'
  for path, value in flax.traverse_util.flatten_dict(params).items():
    *names, kind = path
    layer, value = module.get_submodule('.'.join(names)), np.array(value)
    layer = getattr(layer, 'conv' if kind == 'kernel' else 'norm', layer)
    if kind == 'kernel' and isinstance(layer, nn.ConvTranspose2d):
      value = value[::-1, ::-1].transpose(2, 3, 0, 1).copy()
    elif kind == 'kernel':
      value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    weight = layer.bias if kind == 'bias' else layer.weight
    assert weight.shape == value.shape, path
    weight.data.copy_(torch.from_numpy(value))
  return module.to(memory_format=torch.channels_last)


def _compare(what, ours, theirs, tolerance=TOLERANCE):
  """Raises AssertionError where the two sides disagree."""
  theirs = theirs.detach().numpy()
  worst = (np.abs(np.asarray(ours) - theirs).max()
           / max(1, np.abs(theirs).max()))
  assert worst <= tolerance, f'{what}: {worst:.1e} away from PyTorch'


class Pair(typing.NamedTuple):
  """One training step, twice: each call of a side is one update."""
  parameters: int
  compile: float               # Seconds, ours; tracing included.
  ours: typing.Callable        # () -> logs
  theirs: typing.Callable      # () -> logs


def _compiled(step, state, *args):
  """Returns (seconds of compilation, call() that keeps the state)."""
  begun = time.perf_counter()
  program = jax.jit(step, donate_argnums=0).lower(state, *args).compile()
  seconds = time.perf_counter() - begun
  args = jax.device_put(args)

  def call():
    nonlocal state
    state, logs = program(state, *args)
    return jax.block_until_ready(logs)
  return seconds, call


def _batch(spec, size):
  """Returns uint8 images and int32 labels."""
  rng = np.random.default_rng(0)
  return (rng.integers(0, 256, (size, *spec[:3]), np.uint8),
          rng.integers(0, spec.num_classes, size, np.int32))


def _gan_step(hyper, g, d, images, labels):
  """Returns one update of D and of G, as `adversarial.make` does them."""
  adam = functools.partial(torch.optim.Adam, betas=(hyper['b1'], hyper['b2']),
                           fused=True)
  g_opt, d_opt = (adam(net.parameters(), hyper[name])
                  for net, name in ((g, 'g_lr'), (d, 'd_lr')))
  live = [x.data for x in (*g.parameters(), *g.buffers())
          if x.is_floating_point()]
  average = [x.clone() for x in live]

  def fakes():
    return g(torch.randn(len(labels), hyper['z_dim']), labels)

  def d_update(fake):
    real = _nchw(images).float() / 127.5 - 1
    if hyper['mirror']:
      flip = torch.rand(len(real), 1, 1, 1) < 0.5
      real = torch.where(flip, real.flip(3), real)
    both = _nchw(torch.cat([_nhwc(real), _nhwc(fake)]))
    on_real, on_fake = d(both, labels.repeat(2)).chunk(2)
    loss = F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
    d_opt.zero_grad()
    loss.backward()
    d_opt.step()
    return {'d_loss': loss, 'd_accuracy_real': (on_real > 0).float().mean(),
            'd_accuracy_fake': (on_fake < 0).float().mean()}

  def step():
    if hyper['fresh_fakes']:
      with torch.no_grad():
        fake = fakes()
      logs = d_update(fake)
      fake = fakes()
    else:
      fake = fakes()
      logs = d_update(fake.detach())
    d.requires_grad_(False)  # Spares gradients that nobody reads.
    loss = -d(fake, labels).mean()
    g_opt.zero_grad()
    loss.backward()
    g_opt.step()
    d.requires_grad_(True)
    torch._foreach_lerp_(average, live, 1 - hyper['ema_decay'])
    return {'g_loss': loss, **logs}
  return step


def gan(spec, batch_size, **settings) -> Pair:
  """`generators.cgan`."""
  hyper = registry.arguments(cgan.build) | settings
  for name, only in dict(loss='hinge', d_steps=1, statistics='running',
                         diff_augment='', dtype='float32').items():
    if hyper[name] != only:
      raise SystemExit(f'train_step: {name} {hyper[name]!r} is not written in '
                       f'PyTorch; expected {only!r}.')
  model = cgan.build(spec, **settings)
  images, labels = _batch(spec, batch_size)
  state, key = jax.jit(model.init)(jax.random.key(0)), jax.random.key(1)
  g = _twin(Generator(spec, hyper), state.g.params)
  d = _twin(Discriminator(spec, hyper), state.d.params)

  # Without spectral norm and dropout, whose states and draws are their own.
  own = {'dtype': jnp.float32, 'spectral_norm': False, 'dropout': 0.0}
  def network(kind):
    known = (hyper | own | {'widths': hyper[f'{kind[0].lower()}_widths'],
                            'norm': hyper['g_norm'],
                            'kernel': hyper['d_kernel'], 'spec': spec})
    module = getattr(cgan, kind)
    return module(**{k: known[k] for k in module.__annotations__ if k in known})
  z = np.float32(np.random.default_rng(1).normal(
      size=(batch_size, hyper['z_dim'])))
  fake = jax.jit(lambda v: network('Generator').apply(
      v, z, labels, train=True, mutable=['batch_stats'])[0])(
          {'params': state.g.params, 'batch_stats': state.g.stats})
  score = jax.jit(lambda v: network('Discriminator').apply(
      v, fake, labels, train=False))({'params': state.d.params})
  y, x = torch.from_numpy(labels).long(), torch.from_numpy(np.array(fake))
  _compare('generator', fake, _nhwc(g(torch.from_numpy(z), y)))
  _compare('discriminator', score, d.eval()(_nchw(x), y))
  d.train()
  if hyper['spectral_norm']:
    d.normalise()
  parameters = sum(model.parameters(state).values())
  return Pair(parameters, *_compiled(
      model.step, state, {'image': images[None], 'label': labels[None]}, key),
      _gan_step(hyper, g, d, torch.from_numpy(images), y))


def _optimizer(net, rule):
  """`supervised.make_optimizer` at a constant rate."""
  groups = [{'params': [p for p in net.parameters() if p.ndim > 1],
             'weight_decay': rule['weight_decay']},
            {'params': [p for p in net.parameters() if p.ndim <= 1],
             'weight_decay': 0.0}]
  if rule['optimizer'] == 'adam':
    return torch.optim.AdamW(groups, rule['learning_rate'], fused=True)
  return torch.optim.SGD(groups, rule['learning_rate'], rule['momentum'],
                         nesterov=rule['nesterov'], fused=True)


def _training(net, x, y, rule):
  """Returns one update of a classifier, as `supervised.make` does it."""
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


def classifier(name, spec, batch_size, given, **rule) -> Pair:
  """`classifiers.<name>` with the arguments `given`, under `supervised`."""
  block = registry.find('classifiers', name)
  hyper = registry.arguments(block.build) | given
  if 'dropout' in hyper:  # Its draws are the two sides' own.
    hyper |= {'dropout': 0.0}
  network = block.build(spec, **hyper)
  rule = registry.arguments(supervised.make) | rule | {'schedule': 'constant'}
  model = supervised.make(spec, network, **rule)
  images, labels = _batch(spec, batch_size)
  images = np.float32(images / 127.5 - 1)
  batch = supervised.plain(images, labels, spec.num_classes)
  state, key = jax.jit(model.init)(jax.random.key(0), 1000), jax.random.key(1)
  net = _twin(CLASSIFIERS[name](spec, hyper), state.net.params)
  logits = jax.jit(lambda v: network.apply(
      v, images, train=True, mutable=['batch_stats'])[0])(
          supervised.variables(state.net))
  x, y = _nchw(torch.from_numpy(images)), torch.from_numpy(labels).long()
  # In float64: PyTorch's own batch norm is not exact in channels_last.
  exact = copy.deepcopy(net).double()
  _compare(name, logits, exact(x.double()))
  parameters = sum(p.size for p in jax.tree.leaves(state.net.params))
  pair = Pair(parameters, *_compiled(model.step, state, batch, key),
              _training(net, x, y, rule))
  check = _training(exact, x.double(), y, rule)
  for _ in range(3):
    ours, single, theirs = (f()['train_loss']
                            for f in (pair.ours, pair.theirs, check))
  # A hundred layers and four images: there PyTorch's own float32 is far off.
  rounding = float((single - theirs).abs().detach())
  _compare(f'{name} after 3 steps', ours, theirs, LATER + 2 * rounding)
  return pair


def measure(pair: Pair, seconds: float, clock) -> tuple[float, float]:
  """Returns the median milliseconds of a step, ours and PyTorch's."""
  times = {side: [] for side in (pair.ours, pair.theirs)}
  end = clock() + seconds
  while clock() < end or len(times[pair.theirs]) < 6:
    for side, taken in times.items():
      side()  # Not timed: the other side's threads may still spin.
      for _ in range(3):
        begun = clock()
        side()
        taken.append(1e3 * (clock() - begun))
  return tuple(statistics.median(taken) for taken in times.values())


def cases() -> dict:
  """Returns {(network, shape of a batch): function that makes its Pair}."""
  grey = types.ImageSpec(28, 28, 1, 10)
  colour = types.ImageSpec(32, 32, 3, 10)
  config = quickstart.get_config()
  size = config.generators.cgan.batch_size
  settings, rule = (
      schema.arguments(block.to_dict(), schema.CLASSIFIER)
      for block in (config.generators.cgan, config.classifiers.cnn))
  out = {('cgan, quickstart', f'{size}x28x28x1'):
             functools.partial(gan, grey, size, **settings),
         ('cgan, defaults', '64x28x28x1'): functools.partial(gan, grey, 64)}
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
  mesh.keep_memory()  # As launch.py does.
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
  for i, name in enumerate(('network', 'batch', 'weights', 'compile',
                            'jaxaug', 'PyTorch', 'ratio')):
    table.add_column(name, justify='right' if i > 1 else 'left', no_wrap=True)
  try:
    for (name, shape), make in cases().items():
      if not name.startswith(args.only):
        continue
      pair = make()
      ours, theirs = measure(pair, 1 if args.quick else 10,
                             time.process_time if args.busy
                             else time.perf_counter)
      table.add_row(
          name, shape, f'{pair.parameters:,}', f'{pair.compile:.1f} s',
          f'{ours:.1f} ms', f'{theirs:.1f} ms', f'{theirs / ours:.2f}')
  finally:  # Of a failure all that came before it.
    console.print(table)


if __name__ == '__main__':
  main()
