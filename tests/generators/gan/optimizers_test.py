"""The optimizers of both players against torch and their formula."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.generators.gan import optimizers


def _gradients(steps=25):
  """Large ones, small ones and one that is 0."""
  rng = np.random.default_rng(3)
  return rng.normal(size=(steps, 7)) * [3, 1, 0.1, 1e-3, 1e-4, 1e-5, 0]


def _descend(tx, gradients):
  params, out = {'w': jnp.ones(7)}, []
  state, update = tx.init(params), jax.jit(tx.update)
  for gradient in gradients:
    updates, state = update({'w': jnp.float32(gradient)}, state, params)
    out.append(np.array(updates['w']))
  return np.array(out)


@pytest.mark.parametrize('rule, torch_name, arguments', [
    ({'optimizer': 'adam', 'b1': 0.5, 'b2': 0.99}, 'Adam',
     {'betas': (0.5, 0.99)}),
    ({'optimizer': 'rmsprop', 'b2': 0.9}, 'RMSprop', {'alpha': 0.9}),
    ({'optimizer': 'rmsprop', 'b2': 0.99}, 'RMSprop', {'alpha': 0.99}),
    ({'optimizer': 'sgd'}, 'SGD', {}),
])
def test_optimizers_are_those_of_torch(rule, torch_name, arguments):
  torch = pytest.importorskip('torch')
  both = optimizers.make(g_lr=0.01, d_lr=0.03, **rule)
  for tx, rate in zip(both, (0.01, 0.03), strict=True):
    w = torch.zeros(7, dtype=torch.float64, requires_grad=True)
    optimizer = getattr(torch.optim, torch_name)([w], lr=rate, **arguments)
    want = []
    for gradient in _gradients():
      before = w.detach().clone()
      w.grad = torch.tensor(gradient)
      optimizer.step()
      want.append((w.detach() - before).numpy())
    # Adam's eps of 1e-8 is felt by a gradient of 1e-5, and is the same.
    np.testing.assert_allclose(_descend(tx, _gradients()), want, rtol=1e-4,
                               atol=1e-9)


def test_the_momentum_of_sgd_grows_and_damps():
  both = optimizers.make(optimizer='sgd', g_lr=0.1, d_lr=0.2,
                                momentum=0.25, momentum_growth=0.03,
                                momentum_limit=0.6)
  v, want = np.zeros(7), []
  for i, gradient in enumerate(_gradients()):
    m = 0.25 + 0.03 * i if i < 12 else 0.6
    v = m * v + (1 - m) * gradient
    want.append(v)
  for tx, rate in zip(both, (0.1, 0.2), strict=True):
    np.testing.assert_allclose(_descend(tx, _gradients()),
                               -rate * np.array(want), rtol=1e-4, atol=1e-9)
