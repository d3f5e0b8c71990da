"""Adversarial losses against closed forms in float64 and against PyTorch."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.core import errors
from jaxaug.generators.gan import losses

RNG = np.random.default_rng(0)
REAL = RNG.normal(0.5, 3, 33).astype(np.float32)
FAKE = RNG.normal(-0.5, 3, 33).astype(np.float32)


def _softplus(x):
  return np.logaddexp(0, np.asarray(x, np.float64))


def test_hinge_is_its_formula():
  loss = losses.make(loss='hinge')
  real, fake = REAL.astype(np.float64), FAKE.astype(np.float64)
  want = np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean()
  np.testing.assert_allclose(loss.discriminator(REAL, FAKE), want, rtol=1e-6)
  np.testing.assert_allclose(loss.generator(FAKE), -fake.mean(), rtol=1e-6)
  # Beyond the margin nothing pulls.
  grads = jax.grad(loss.discriminator, (0, 1))(
      jnp.array([2., 0.]), jnp.array([-2., 0.]))
  np.testing.assert_array_equal(grads, [[0, -0.5], [0, 0.5]])


@pytest.mark.parametrize('smoothing', [1.0, 0.9, 0.7])
def test_non_saturating_is_its_formula(smoothing):
  loss = losses.make(loss='non_saturating', label_smoothing=smoothing)
  on_real = (smoothing * _softplus(-REAL) + (1 - smoothing) * _softplus(REAL))
  np.testing.assert_allclose(loss.discriminator(REAL, FAKE),
                             on_real.mean() + _softplus(FAKE).mean(), rtol=1e-6)
  # -E[log D], not E[log(1 - D)]: its gradient does not vanish when D wins.
  np.testing.assert_allclose(loss.generator(FAKE), _softplus(-FAKE).mean(),
                             rtol=1e-6)
  assert jax.grad(lambda x: loss.generator(x))(jnp.float32([-20.])) < -0.99


@pytest.mark.parametrize('smoothing', [1.0, 0.9])
def test_non_saturating_is_torch_bce(smoothing):
  torch = pytest.importorskip('torch')
  bce = torch.nn.functional.binary_cross_entropy_with_logits
  real, fake = (torch.tensor(x, dtype=torch.float64, requires_grad=True)
                for x in (REAL, FAKE))
  # One-sided: the target of fakes stays 0.
  want = (bce(real, torch.full_like(real, smoothing))
          + bce(fake, torch.zeros_like(fake)))
  want.backward()
  loss = losses.make(loss='non_saturating', label_smoothing=smoothing)
  got, grads = jax.value_and_grad(loss.discriminator, (0, 1))(
      jnp.asarray(REAL), jnp.asarray(FAKE))
  np.testing.assert_allclose(got, want.item(), rtol=1e-6)
  for g, x in zip(grads, (real, fake), strict=True):
    np.testing.assert_allclose(g, x.grad, rtol=1e-5, atol=1e-8)
  score = torch.tensor(FAKE, dtype=torch.float64, requires_grad=True)
  bce(score, torch.ones_like(score)).backward()
  np.testing.assert_allclose(jax.grad(loss.generator)(jnp.asarray(FAKE)),
                             score.grad, rtol=1e-5, atol=1e-8)


def test_the_best_smoothed_score_is_the_logit_of_the_target():
  loss = losses.make(loss='non_saturating', label_smoothing=0.9)
  best = jnp.log(jnp.float32([0.9 / 0.1]))
  grad = jax.grad(lambda x: loss.discriminator(x, jnp.zeros(1)))(best)
  np.testing.assert_allclose(grad, 0, atol=1e-6)


@pytest.mark.parametrize('smoothing', [1.0, 0.9])
def test_least_squares_is_torch_mse(smoothing):
  torch = pytest.importorskip('torch')
  mse = torch.nn.functional.mse_loss
  real, fake = (torch.tensor(x, dtype=torch.float64, requires_grad=True)
                for x in (REAL, FAKE))
  want = (mse(real, torch.full_like(real, smoothing))
          + mse(fake, torch.zeros_like(fake))) / 2
  want.backward()
  loss = losses.make(loss='least_squares', label_smoothing=smoothing)
  got, grads = jax.value_and_grad(loss.discriminator, (0, 1))(
      jnp.asarray(REAL), jnp.asarray(FAKE))
  np.testing.assert_allclose(got, want.item(), rtol=1e-6)
  for g, x in zip(grads, (real, fake), strict=True):
    np.testing.assert_allclose(g, x.grad, rtol=1e-5, atol=1e-8)
  # One-sided: G is not told to stop below 1.
  np.testing.assert_allclose(
      loss.generator(FAKE), np.square(FAKE.astype(np.float64) - 1).mean() / 2,
      rtol=1e-6)


def test_wasserstein_is_a_difference_of_means():
  loss = losses.make(loss='wasserstein')
  real, fake = REAL.astype(np.float64), FAKE.astype(np.float64)
  np.testing.assert_allclose(loss.discriminator(REAL, FAKE),
                             fake.mean() - real.mean(), rtol=1e-6)
  np.testing.assert_allclose(loss.generator(FAKE), -fake.mean(), rtol=1e-6)
  # A shift of all scores changes nothing.
  np.testing.assert_allclose(loss.discriminator(REAL + 5, FAKE + 5),
                             fake.mean() - real.mean(), rtol=1e-5)


@pytest.mark.parametrize('name', losses.LOSSES)
def test_parts_and_weights(name):
  loss = losses.make(loss=name)
  on_real, on_fake = loss.parts(REAL, FAKE)
  assert float(on_real + on_fake) == float(loss.discriminator(REAL, FAKE))
  np.testing.assert_array_equal(on_real, loss.parts(REAL, -FAKE)[0])
  np.testing.assert_array_equal(on_fake, loss.parts(-REAL, FAKE)[1])
  weights = np.arange(33) % 3 == 1
  np.testing.assert_allclose(
      loss.generator(FAKE, weights.astype(np.float32)),
      loss.generator(FAKE[weights]), rtol=1e-6)
  np.testing.assert_allclose(loss.generator(FAKE, np.ones(33, np.float32)),
                             loss.generator(FAKE), rtol=1e-6)


@pytest.mark.parametrize('name, smoothing', [
    ('hinge', 1.0), ('non_saturating', 1.0), ('least_squares', 1.0),
    ('least_squares', 0.8)])
def test_the_threshold_is_the_score_of_what_may_be_either(name, smoothing):
  loss = losses.make(loss=name, label_smoothing=smoothing)
  grad = jax.grad(lambda x: loss.discriminator(x, x))
  at = jnp.float32([loss.threshold])
  np.testing.assert_allclose(grad(at), 0, atol=1e-7)
  assert grad(at - 2) < 0 < grad(at + 2)


@pytest.mark.parametrize('name', losses.LOSSES)
def test_huge_scores_stay_finite(name):
  loss = losses.make(loss=name)
  huge = jnp.float32([-1e4, 1e4])
  values = (loss.discriminator(huge, huge), loss.generator(huge),
            *jax.grad(loss.discriminator, (0, 1))(huge, huge),
            jax.grad(loss.generator)(huge))
  assert all(np.isfinite(v).all() for v in values)


def test_accuracies_count_each_side_and_a_tie_is_no_answer():
  got = losses.accuracies(jnp.float32([1, -1, 0, 2]), jnp.float32([-3, 1, 0]))
  assert got.keys() == {'d_accuracy_real', 'd_accuracy_fake'}
  np.testing.assert_allclose(got['d_accuracy_real'], 2 / 4)
  np.testing.assert_allclose(got['d_accuracy_fake'], 1 / 3)
  half = losses.accuracies(jnp.float32([1, 0.4, 0.5]), jnp.float32([0.4, 0.6]),
                           losses.make(loss='least_squares').threshold)
  np.testing.assert_allclose(half['d_accuracy_real'], 1 / 3)
  np.testing.assert_allclose(half['d_accuracy_fake'], 1 / 2)


@pytest.mark.parametrize('name, smoothing, line', [
    ('hing', 1.0, r"^loss: 'hing'; expected one of hinge, non_saturating, "
                  r"least_squares, wasserstein\. Did you mean 'hinge'\?$"),
    ('non_saturating', 0.5, r'^label_smoothing: 0\.5 .*more than 0\.5'),
    ('non_saturating', 0.0, '^label_smoothing: 0'),
    ('non_saturating', 1.1, r'^label_smoothing: 1\.1'),
    ('non_saturating', float('nan'), '^label_smoothing: nan'),
    ('hinge', 0.9, r"^label_smoothing: loss 'hinge' has no target"),
    ('wasserstein', 0.9, "^label_smoothing: loss 'wasserstein' has no target .*"
                         r'non_saturating or least_squares\.$'),
])
def test_refusals(name, smoothing, line):
  with pytest.raises(errors.InputError, match=line) as e:
    losses.make(loss=name, label_smoothing=smoothing)
  assert '\n' not in str(e.value)
