"""What the tests of BAGAN and BAGAN-GP share that hold them beside twins."""
import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.core import types

KEY = jax.random.key(0)
# Square, for the twins are; whatever their sizes, few pixels are few products.
SPEC = types.ImageSpec(16, 16, 1, 3)


def garments(train):
  """Real pixels of SPEC, of its classes: (images, labels)."""
  mine = train.labels < SPEC.num_classes
  return train.images[mine, 6:22, 6:22], train.labels[mine]


def twins():
  """The modules (bagan, layout); without PyTorch the test is skipped."""
  pytest.importorskip('torch')
  from tests.torch_twins import bagan, layout
  return bagan, layout


def as_torch(x):
  """[B, H, W, C], [B, Z] or [B] as PyTorch has it: float64, or int64."""
  torch = pytest.importorskip('torch')
  x = np.asarray(x)
  x = torch.tensor(np.moveaxis(x, -1, 1) if x.ndim == 4 else x)
  return x.double() if x.is_floating_point() else x.long()


def unrolled(body, carry, xs):
  """`jax.lax.scan`, whose body is traced for every x."""
  out = []
  for i in range(len(jax.tree.leaves(xs)[0])):
    carry, y = body(carry, jax.tree.map(lambda x, i=i: x[i], xs))
    out.append(y)
  return carry, jax.tree.map(lambda *ys: jnp.stack(ys), *out)


def heard(monkeypatch, step):
  """`step` as run(state, batch, key) -> (state, logs, draws).

  draws: name of a function of jax.random -> all that it gave, in order. To be
  compiled.
  """
  def run(state, batch, key):
    draws = collections.defaultdict(list)
    def spoken(name):
      draw = getattr(jax.random, name)
      def listen(*args, **more):
        draws[name].append(draw(*args, **more))
        return draws[name][-1]
      return listen
    with monkeypatch.context() as m:
      for name in ('normal', 'uniform', 'bernoulli', 'choice', 'randint'):
        m.setattr(jax.random, name, spoken(name))
      m.setattr(jax.lax, 'scan', unrolled)
      state, logs = step(state, batch, key)
    return state, logs, dict(draws)
  return run


def check(net, opt, mine: types.Net, rate: float):
  """Compares a network's weights, averages and gradients after a step.

  Adam's first step is a gradient's sign, which may be rounding's; nothing is
  said of such weights. Biases before a batch norm have no gradient at all.

  Args:
    net, opt: the twin and its optimizer.
    mine: ours.
    rate: of Adam.

  Returns:
    Paths without a gradient.
  """
  _, layout = twins()
  flat, known = set(), {}
  for path, weight, mean in layout.pairs(net, mine.opt[0].mu):
    want = opt.state[weight]['exp_avg'].numpy()
    known[path] = np.abs(want) > 1e-3 * np.abs(want).max()
    if np.abs(want).max() < 1e-9:
      flat.add(path)
      np.testing.assert_allclose(mean, 0, atol=1e-6, err_msg=str(path))
    else:
      np.testing.assert_allclose(mean, want, err_msg=str(path),
                                 atol=1e-4 * np.abs(want).max())
  for path, weight, value in layout.pairs(net, mine.params):
    if path not in flat:
      off = np.abs(weight.detach().numpy() - value)[known[path]]
      assert off.max() < 0.02 * rate, path
  for path, mean, value in layout.pairs(net, mine.stats):
    # PyTorch divides variances by n - 1.
    np.testing.assert_allclose(value, mean, rtol=2e-4, atol=1e-6,
                               err_msg=str(path))
  return flat
