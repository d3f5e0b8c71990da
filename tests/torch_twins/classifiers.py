"""What the tests of classifiers share that hold them beside PyTorch's twins."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import quick


def variables(network, low=0.5, high=1.5):
  """Random variables of a flax module, none at its start, without compiling.

  Vectors are drawn from `low` to `high`, kernels as He et al. have them.
  """
  rng = np.random.default_rng(0)
  def draw(shape):
    if len(shape) > 1:
      return np.float32(rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape))
    return np.float32(rng.uniform(low, high, shape))
  image = jnp.zeros((1, *network.spec[:3]))
  shapes = jax.eval_shape(
      lambda: network.init(jax.random.key(0), image, train=False))
  return jax.tree.map(lambda x: draw(x.shape), shapes)


def twin(network, params, stats=None):
  """The module of PyTorch with the same weights, in float64."""
  pytest.importorskip('torch').set_num_threads(1)
  from tests.torch_twins import layout, plain, residual
  twins = plain.CLASSIFIERS | residual.CLASSIFIERS
  net = twins[type(network).__name__](network).double()
  return layout.load(net, params, stats)


def check(network, params, images, tolerance=3e-5):
  """Compares logits and gradients in training, those of the images included.

  Raises:
    AssertionError: they differ by more than `tolerance` of the largest.
  """
  torch = pytest.importorskip('torch')
  from tests.torch_twins import layout
  classes = network.spec.num_classes
  weigh = np.random.default_rng(2).normal(size=(len(images), classes))

  @quick.steady
  def ours(params, images):
    def loss(params, images):
      logits, _ = network.apply({'params': params}, images, train=True,
                                mutable=['batch_stats'])
      return (logits * weigh).sum(), logits
    return jax.grad(loss, (0, 1), has_aux=True)(params, images)
  (grads, of_images), logits = ours(params, images)
  net = twin(network, params)
  x = torch.tensor(np.float64(images), requires_grad=True)
  want = net(layout.nchw(x))
  (want * torch.from_numpy(weigh)).sum().backward()
  found = [('logits', logits, want.detach().numpy()),
           ('images', of_images, x.grad.numpy())]
  found += [(path, value, tensor.grad.numpy())
            for path, tensor, value in layout.pairs(net, grads)]
  # A bias in front of a norm has no gradient but rounding.
  floor = 0.3 * max(np.abs(grad).max() for *_, grad in found[2:])
  for path, got, want in found:
    scale = max(np.abs(want).max(), floor)
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * scale,
                               err_msg=str(path))
