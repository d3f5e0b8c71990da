"""Noise is of its distribution, in training and in samples."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests import quick
from tests.generators.gan import stubs


@pytest.mark.parametrize('rule, distribution, in_training', [
    ({}, stats.norm(), stats.norm()),
    ({'truncation': 0.7}, stats.truncnorm(-0.7, 0.7), stats.norm()),
    ({'truncation': 3.0}, stats.truncnorm(-3, 3), stats.norm()),
    ({'noise': 'uniform'}, stats.uniform(-1, 2), stats.uniform(-1, 2)),
    ({'noise': 'uniform', 'truncation': 0.5}, stats.uniform(-0.5, 1),
     stats.uniform(-1, 2)),
    ({'noise': 'uniform', 'truncation': 1.5}, stats.uniform(-1, 2),
     stats.uniform(-1, 2)),
])
def test_noise_is_of_its_distribution(rule, distribution, in_training):
  model, state = stubs.model(**rule, g_lr=1e-30, d_lr=1e-30)
  labels = np.zeros(2000, np.int32)
  z = np.ravel(quick.jit(model.sample)(
      model.variables(state), stubs.KEY, labels))
  low, high = distribution.support()
  assert low <= z.min() and z.max() <= high
  assert stats.kstest(z, distribution.cdf).pvalue > 1e-4
  assert len(np.unique(z)) > 0.99 * len(z)
  seen = np.ravel([[after.g.stats[age] for age in ('z_before', 'z_last')]
                   for *_, after, _, _ in stubs.run(model, state, 10)])
  low, high = in_training.support()
  assert low <= seen.min() and seen.max() <= high
  assert stats.kstest(seen, in_training.cdf).pvalue > 1e-4


def test_noise_differs_from_step_to_step_and_run_to_run():
  model, state = stubs.model()
  batch = stubs.batch()
  seen, run = [], quick.jit(model.step)
  for key in (stubs.KEY, jax.random.key(1)):
    for step in range(2):
      new, _ = run(state._replace(step=jnp.int32(step)), batch, key)
      seen += [np.asarray(new.g.stats[age]) for age in ('z_before', 'z_last')]
  draws = np.concatenate(seen).ravel()
  assert len(np.unique(draws)) == len(draws)
  assert abs(draws.mean()) < 0.2 and abs(draws.std() - 1) < 0.15
