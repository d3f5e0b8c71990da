"""Rates of one convolution and its two gradients: ours, stock XLA, PyTorch.

  python -m benchmarks.conv [--quick]

CPU only. GFLOP/s are medians; the JAX calls take turns in random order, so that
a busy machine slows all alike, and PyTorch (channels_last, left out where it is
not installed) follows alone, as its waiting threads would slow the next call.
The last columns are ratios of times: stock / ours, PyTorch / ours, and ours
inside `lax.scan` / ours alone (over 1: slower in the loop).
"""
import argparse
import functools
import random
import statistics
import time

import jax
import jax.numpy as jnp
import rich.console
import rich.table
from jax import lax

from jaxaug.nn.cpu import convolution

try:
  import torch
except ImportError:
  torch = None

NHWC = ('NHWC', 'HWIO', 'NHWC')
# batch, size, channels in, kernel, channels out, stride, input dilation, pad
TABLE = [(64, 32, 64, 3, 64, 1, 1, 1), (64, 32, 160, 3, 12, 1, 1, 1),
         (64, 16, 256, 3, 256, 1, 1, 1), (64, 8, 512, 3, 512, 1, 1, 1),
         (64, 32, 128, 1, 128, 1, 1, 0), (64, 32, 3, 3, 64, 1, 1, 1)]
WORKLOAD = [(64, 28, 1, 5, 16, 1, 1, 0), (64, 12, 16, 5, 128, 1, 1, 0),
            (64, 14, 64, 3, 128, 1, 1, 1), (64, 28, 32, 3, 32, 1, 1, 1),
            (64, 7, 128, 3, 128, 1, 1, 1), (64, 28, 1, 4, 64, 2, 1, 1),
            (64, 14, 64, 4, 128, 2, 1, 1), (64, 14, 64, 5, 128, 2, 1, 2),
            (64, 7, 128, 4, 64, 1, 2, 2), (64, 14, 64, 4, 32, 1, 2, 2),
            (64, 28, 32, 3, 1, 1, 1, 1)]


def operations(conv, shape):
  """Forward, dX and dW of (x, kernel, dy), each alone."""
  *_, stride, dilation, pad = shape
  f = functools.partial(conv, window_strides=(stride,) * 2,
                        padding=((pad, pad),) * 2, dimension_numbers=NHWC,
                        lhs_dilation=(dilation,) * 2)
  return {'forward': lambda x, kernel, dy: f(x, kernel),
          'dX': lambda x, kernel, dy: jax.vjp(
              lambda x: f(x, kernel), x)[1](dy)[0],
          'dW': lambda x, kernel, dy: jax.vjp(
              lambda kernel: f(x, kernel), kernel)[1](dy)[0]}


def in_scan(op, steps=3):
  def run(*args):
    def body(carry, _):
      held, carry = lax.optimization_barrier((args, carry))
      return carry + op(*held).ravel()[0], None
    return lax.scan(body, jnp.float32(0), None, length=steps)[0]
  return run


def torch_operations(shape, x, kernel):
  """The same three in PyTorch, as functions without arguments."""
  *_, k, _, stride, dilation, pad = shape
  last = dict(memory_format=torch.channels_last)
  x, kernel = (torch.tensor(jax.device_get(v)) for v in (x, kernel))
  x, conv = x.permute(0, 3, 1, 2).contiguous(**last), torch.ops.aten
  if dilation > 1:  # A transposed convolution: kernel [I, O, h, w], turned.
    kernel, stride, pad = (kernel.flip(0, 1).permute(2, 3, 0, 1), dilation,
                           k - 1 - pad)
  else:
    kernel = kernel.permute(3, 2, 0, 1)
  kernel = kernel.contiguous(**last)
  args = (stride,) * 2, (pad,) * 2, (1, 1), dilation > 1, (0, 0), 1
  y = conv.convolution(x, kernel, None, *args)
  dy = torch.randn_like(y)
  def back(*mask):
    return conv.convolution_backward(dy, x, kernel, None, *args,
                                     (*mask, False))
  return {'forward': lambda: conv.convolution(x, kernel, None, *args),
          'dX': lambda: back(True, False), 'dW': lambda: back(False, True)}


def medians(calls, seconds):
  """Median seconds of each of `calls`, which take turns; at least 3 each."""
  times = {name: [] for name in calls}
  for call in calls.values():
    call()
  first, start = next(iter(calls)), time.perf_counter()
  while time.perf_counter() - start < seconds or len(times[first]) < 3:
    for name, call in random.sample(list(calls.items()), len(calls)):
      begin = time.perf_counter()
      call()
      times[name].append(time.perf_counter() - begin)
  return {name: statistics.median(t) for name, t in times.items()}


def measure(shape, seconds):
  """Yields (operation, GFLOP, {column: median seconds})."""
  batch, size, channels, k, out, *_, dilation, _ = shape
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (batch, size, size, channels))
  kernel = jax.random.normal(keys[1], (k, k, channels, out))
  ours = operations(convolution.conv_general_dilated, shape)
  stock = operations(lax.conv_general_dilated, shape)
  y = jax.eval_shape(ours['forward'], x, kernel, None)
  dy = jax.random.normal(keys[2], y.shape)
  theirs = torch_operations(shape, x, kernel) if torch else {}
  flop = 2 * y.size * k * k * channels / dilation ** 2
  def jitted(op):
    op = jax.jit(op)
    return lambda: jax.block_until_ready(op(x, kernel, dy))
  for name in ours:
    calls = {'ours': jitted(ours[name]), 'stock': jitted(stock[name]),
             'scan': jitted(in_scan(ours[name]))}
    times = medians(calls, seconds)
    if theirs:
      times |= medians({'torch': theirs[name]}, seconds / 3)
    times['scan'] /= 3
    yield name, flop / 1e9, times


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--quick', action='store_true',
                      help='four shapes, for a fifth of the time')
  quick = parser.parse_args().quick
  if jax.default_backend() != 'cpu':
    raise SystemExit('The convolution differs from the stock one on CPU only; '
                     'run with JAX_PLATFORMS=cpu.')
  shapes = TABLE[:2] + WORKLOAD[1:3] if quick else TABLE + WORKLOAD
  names = ['ours', 'stock', 'torch'] if torch else ['ours', 'stock']
  table = rich.table.Table(
      'B,H,W,I k O', '', *(f'{n}\nGFLOP/s' for n in names),
      *(f'{n} /\nours' for n in names[1:]), 'in scan /\nalone',
      title=f'Convolution on CPU, float32, jax {jax.__version__}, medians')
  for shape in shapes:
    batch, size, channels, k, out, stride, dilation, _ = shape
    label = (f'{batch},{size},{size},{channels} k{k} {out}'
             + f' s{stride}' * (stride > 1)
             + ' up2' * (dilation > 1))
    for op, gflop, times in measure(shape, 0.3 if quick else 1.5):
      table.add_row(label, op, *(f'{gflop / times[n]:.0f}' for n in names),
                    *(f'{times[n] / times["ours"]:.2f}' for n in names[1:]),
                    f'{times["scan"] / times["ours"]:.2f}')
      label = ''
  console = rich.console.Console(width=100)
  console.print(table)
  if not torch:
    console.print('PyTorch is not installed: no column for it.')


if __name__ == '__main__':
  main()
