"""Who moves when and on what: batches of D, rests, the best fakes of G."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import quick
from tests.generators.gan import stubs


@pytest.mark.parametrize('fresh', [True, False])
def test_each_update_of_d_sees_its_own_batch_noise_and_labels(fresh):
  model, state = stubs.model(d_steps=2, fresh_fakes=fresh)
  assert model.d_steps == 2
  batch = stubs.batch(d_steps=2)
  state, _ = quick.jit(model.step)(state, batch, stubs.KEY)
  g, d = state.g.stats, state.d.stats
  assert (float(d['passes']), float(g['passes'])) == (2, 3 if fresh else 2)
  seen = {age: np.split(np.asarray(d[f'x_{age}']), 2)
          for age in ('before', 'last')}
  for k, age in enumerate(('before', 'last')):
    np.testing.assert_allclose(seen[age][0], stubs.real(batch, k), atol=1e-6)
    np.testing.assert_array_equal(d[f'labels_{age}'],
                                  np.tile(batch['label'][k], 2))
  assert not np.allclose(seen['before'][1], seen['last'][1])  # Fresh noise.
  before, last = stubs.image(g['z_before']), stubs.image(g['z_last'])
  if fresh:
    # G's own pass came last, on noise that D has not seen.
    np.testing.assert_allclose(before, seen['last'][1], atol=1e-6)
    assert not np.allclose(last, seen['last'][1])
  else:
    np.testing.assert_allclose(before, seen['before'][1], atol=1e-6)
    np.testing.assert_allclose(last, seen['last'][1], atol=1e-6)


def test_g_learns_from_its_best_fakes_alone():
  model, state = stubs.model(top_k=0.5, top_k_gamma=0.7, top_k_every=2,
                             g_lr=0.2, d_lr=0.05)
  for i, before, after, batch, logs in stubs.run(model, state, 6):
    k = (6, 6, 4, 4, 3, 3)[i]
    seen, w = stubs.seen(before, after, batch), stubs.wide(after.d.params)
    fake = np.array(before.g.params['gain'], np.float64) * seen.z
    scores = stubs.scores(w, fake, seen.labels)
    best = np.argsort(scores)[stubs.SIZE - k:]
    np.testing.assert_allclose(logs['g_loss'], -scores[best].mean(), rtol=1e-5)
    slope = -(stubs.slopes(w, fake, seen.labels) * seen.z)[best].mean(0)
    np.testing.assert_allclose(
        before.g.params['gain'] - after.g.params['gain'], 0.2 * slope,
        atol=1e-6)


def _judging(state, on_real, on_fake):
  """D gives white images `on_real` and G's, which are grey, `on_fake`."""
  w = {name: jnp.zeros(shape) for name, shape in stubs.SHAPES.items()}
  w |= {'in': w['in'].at[:, 0].set(0.02), 'bias': jnp.float32(on_fake),
        'out': w['out'].at[0].set((on_real - on_fake) / np.tanh(0.16))}
  return state._replace(
      d=state.d._replace(params=w),
      g=state.g._replace(params={'gain': jnp.zeros(8)}))


@functools.cache
def _playing(balance, fresh):
  """A state and the step of a rule; compiled once."""
  model, state = stubs.model(balance=balance, loss='non_saturating',
                             optimizer='adam', fresh_fakes=fresh)
  return state, quick.jit(model.step)


@pytest.mark.parametrize('fresh', [True, False])
@pytest.mark.parametrize('balance, on_real, on_fake, d_moves, g_moves', [
    ('margin', 2, -2, False, True),    # Errors 0.13 and 0.13.
    ('margin', 0, -0.1, True, True),   # 0.69 and 0.64.
    ('margin', -1, -2, True, True),    # 1.31 and 0.13.
    ('margin', -2, 2, True, False),    # 2.13 and 2.13.
    ('behind', 2, -2, False, True),    # 0.25 of D, 2.13 of G.
    ('behind', -2, 2, True, False),    # 4.25 and 0.13.
    ('behind', 40, 0, True, True),     # 0.69 both.
    ('none', 2, -2, True, True),
])
def test_who_rests_stays_bit_for_bit(fresh, balance, on_real, on_fake, d_moves,
                                     g_moves):
  state, step = _playing(balance, fresh)
  before = _judging(state, on_real, on_fake)
  batch = stubs.batch()
  batch['image'][:] = 255
  after, logs = step(before, batch, stubs.KEY)
  for name, moves in (('d', d_moves), ('g', g_moves)):
    old, new = (getattr(state, name) for state in (before, after))
    for part in ('params', 'stats', 'opt'):
      same = [np.array_equal(a, b) for a, b in zip(
          *(jax.tree.leaves(getattr(net, part)) for net in (old, new)),
          strict=True)]
      assert all(same) != moves, (name, part)
    if balance != 'none':
      assert float(logs[f'{name}_moves']) == moves
  assert ('d_moves' in logs) == (balance != 'none')
  assert int(after.step) == 1


def test_each_update_of_d_rests_by_its_own_errors():
  # The second batch is black, on which D is wrong.
  model, state = stubs.model(balance='margin', loss='non_saturating', d_steps=2)
  before = _judging(state, 2, -2)
  batch = stubs.batch(d_steps=2)
  batch['image'][0], batch['image'][1] = 255, 0
  after, logs = quick.jit(model.step)(before, batch, stubs.KEY)
  assert float(logs['d_moves']) == 1
  one, state = stubs.model(balance='margin', loss='non_saturating')
  alone, _ = quick.jit(one.step)(_judging(state, 2, -2), {
      k: v[1:] for k, v in batch.items()}, stubs.KEY)
  # G's images are grey whatever its noise: the two moves are one.
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
               after.d.params, alone.d.params)
