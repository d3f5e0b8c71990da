"""What the tests of two GANs share that hold them beside twins in PyTorch.

The twins are those of torch_twins.gans; noise is [B, 6].
"""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.core import registry
from tests import quick

KEY = jax.random.key(0)


def state(model, gain=1):
  """A state whose averages are not those of the start, nor D's scores 0."""
  def other(net, seed):
    rng = np.random.default_rng(seed)
    return net._replace(
        params=jax.tree.map(lambda x: gain * x if x.ndim > 1 else x,
                            net.params),
        stats=jax.tree.map(lambda x: np.float32(rng.uniform(0.2, 1, x.shape)),
                           net.stats))
  start = quick.jit(model.init)(KEY)
  return start._replace(g=other(start.g, 0), d=other(start.d, 1))


def _twins():
  """The modules (gans, layout); without PyTorch the test is skipped."""
  pytest.importorskip('torch')
  from tests.torch_twins import gans, layout
  return gans, layout


def load(name, spec, state, given):
  """G and D of generators/<name>, built with `given`, in float64."""
  gans, layout = _twins()
  hyper = registry.arguments(registry.find('generators', name).build) | given
  return [layout.load(make(spec, hyper).double(), net.params, net.stats)
          for make, net in zip(gans.NETWORKS[name], (state.g, state.d),
                               strict=True)]


def inputs(spec, size=6):
  """Noise, images from -1 to 1 and labels."""
  rng = np.random.default_rng(0)
  return (np.float32(rng.normal(size=(size, 6))),
          np.float32(rng.uniform(-1, 1, (size, *spec[:3]))),
          np.arange(size, dtype=np.int32) % spec.num_classes)


def as_torch(x):
  """[B, H, W, C] or [B, Z] as PyTorch has it, in float64."""
  torch = pytest.importorskip('torch')
  return torch.tensor(np.moveaxis(x, -1, 1) if x.ndim == 4 else x).double()


def outputs(module, net, twin, x, labels):
  """Returns pairs (ours, PyTorch's) of arrays: by the averages, in training."""
  @quick.jit
  def both(variables):
    train, _ = module.apply(variables, x, labels, train=True,
                            mutable=['batch_stats'])
    return module.apply(variables, x, labels, train=False), train
  outs = both({'params': net.params, 'batch_stats': net.stats})
  found = []
  # The averages first: a pass in training moves them.
  for train, got in zip((False, True), outs, strict=True):
    want = twin.train(train)(as_torch(x), as_torch(labels).long())
    for a, b in zip(jax.tree.leaves(got),
                    want if isinstance(want, tuple) else [want], strict=True):
      b = b.detach().numpy()
      found.append((a, np.moveaxis(b, 1, -1) if b.ndim == 4 else b))
  return found


def given_noise(monkeypatch, count):
  """Lets jax.random.normal draw `count` noises; returns (noises, the rest)."""
  noises = np.random.default_rng(1).normal(size=(count, 6, 6))
  draws = iter(noises)
  monkeypatch.setattr(jax.random, 'normal', lambda key, shape: jnp.asarray(
      next(draws), jnp.float32).reshape(shape))
  return noises, draws


def step(g, d, images, labels, noises, **how):
  """The step of both players in PyTorch; `how` goes to gans.step."""
  torch = pytest.importorskip('torch')
  gans, _ = _twins()
  first, *fresh = map(as_torch, noises)
  return gans.step(
      g, d, *(torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999))
              for net in (g, d)), as_torch(images), as_torch(labels).long(),
      first, fresh_noise=fresh[0] if fresh else None, **how)


def check_player(net, mine, share):
  """Compares a player's weights and gradients after a step.

  Adam's first step is the gradient's sign, which may be rounding's; of `share`
  of the weights it is not.
  """
  _, layout = _twins()
  for path, weight, value in layout.pairs(net, mine.params):
    known = weight.grad.abs() > 1e-5 * weight.grad.abs().max()
    assert known.double().mean() > share, path
    off = np.abs(weight.detach().numpy() - value)
    assert off[known.numpy()].max() < 1e-5, path
  for path, weight, value in layout.pairs(net, mine.opt[0].mu):
    grad = weight.grad.numpy()
    np.testing.assert_allclose(value / 0.5, grad, err_msg=str(path),
                               atol=1e-4 * np.abs(grad).max())
