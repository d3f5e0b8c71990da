"""D's whole loss against float64 numpy; penalties over the steps."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.augment import ada
from jaxaug.generators.gan import penalties
from tests import quick
from tests.generators.gan import stubs

SHARE = np.linspace(0.1, 0.9, stubs.SIZE).reshape(-1, 1, 1, 1)
AVERAGES = 0.4, -0.3  # Of LeCam, on real and on fake images.


def _r1(seen, w):
  return (stubs.slopes(w, seen.real, seen.labels) ** 2).sum(1).mean()


def _gradient_penalty(*axes):
  def penalty(seen, w):
    between = SHARE * seen.real + (1 - SHARE) * seen.fake
    slopes = stubs.slopes(w, between, seen.labels).reshape(between.shape)
    return ((np.sqrt((slopes ** 2).sum(axes)) - 1) ** 2).mean()
  return penalty


def _lecam(seen, w, averages=AVERAGES):
  real, fake = (stubs.scores(w, x, seen.labels) for x in seen.shown)
  return (np.maximum(real - averages[1], 0) ** 2).mean() + (
      np.maximum(averages[0] - fake, 0) ** 2).mean()


def _consistency(side):
  def penalty(seen, w):
    plain = (seen.real, seen.fake)[side]
    return ((stubs.scores(w, seen.shown[side], seen.labels)
             - stubs.scores(w, plain, seen.labels)) ** 2).mean()
  return penalty


def _classes(seen, w):
  return np.mean([stubs.cross_entropy(w, x, seen.labels) for x in seen.shown])


def _classes_of_real(seen, w):
  return stubs.cross_entropy(w, seen.shown[0], seen.labels)


CASES = {
    **{loss: ({'loss': loss}, 0, None) for loss in stubs.COSTS},
    'r1': ({'r1': 0.7}, 0.35, _r1),
    'r1, every fourth': ({'r1': 0.7, 'r1_every': 4}, 1.4, _r1),
    'gradient penalty': ({'gradient_penalty': 2.0, 'loss': 'wasserstein'}, 2.0,
                         _gradient_penalty(1, 2, 3)),
    **{f'gradient penalty per {per}': (
        {'gradient_penalty': 3.0, 'gradient_penalty_per': per}, 3.0,
        _gradient_penalty(axis)) for per, axis in (('pixel', 3), ('column', 1))
       },
    'lecam': ({'lecam': 0.3, 'lecam_start': 0}, 0.3, _lecam),
    'lecam, not yet': ({'lecam': 0.3, 'lecam_start': 1}, 0, _lecam),
    'consistency': ({'consistency': 3.0, 'diff_augment': 'color'}, 3.0,
                    _consistency(0)),
    'consistency on fakes': (
        {'consistency_on_fakes': 2.0, 'diff_augment': 'cutout'}, 2.0,
        _consistency(1)),
    'consistency under ADA': ({'consistency': 1.5, 'ada': 'c'}, 1.5,
                              _consistency(0)),
    'classes': ({'class_loss': 0.8}, 0.8, _classes),
    'classes of real images': (
        {'class_loss': 0.8, 'class_on_fakes': False}, 0.8, _classes_of_real),
}


@pytest.mark.parametrize('case', CASES)
def test_the_loss_of_d_and_its_gradient(monkeypatch, case):
  rule, weight, penalty = CASES[case]
  model, before = stubs.model('class_loss' in rule, **rule)
  if 'ada' in rule:
    before = before._replace(control={'ada': ada.start(1.0)})
  if 'lecam' in rule:
    before = before._replace(control={'lecam': penalties.LeCam(
        *map(jnp.float32, AVERAGES))})
  if 'gradient_penalty' in rule:
    monkeypatch.setattr(jax.random, 'uniform',
                        lambda key, shape: jnp.float32(SHARE))
  batch = stubs.batch()
  after, logs = quick.jit(model.step)(before, batch, stubs.KEY)
  seen, name = stubs.seen(before, after, batch), rule.get('loss', 'hinge')
  if 'ada' not in rule and 'diff_augment' not in rule:
    np.testing.assert_allclose(seen.shown, (seen.real, seen.fake), atol=1e-6)
  def loss(w):
    extra = weight * penalty(seen, w) if penalty else 0
    return stubs.d_source(seen, w, name) + extra
  np.testing.assert_allclose(logs['d_loss'], loss(seen.w), rtol=1e-5)
  stubs.assert_gradient(before.d.params, after.d.params,
                        stubs.differences(loss, seen.w))
  if penalty and weight:  # It is there, and it pulls.
    assert weight * penalty(seen, seen.w) > 0.01
    pull = stubs.differences(lambda w: weight * penalty(seen, w), seen.w)
    assert max(np.abs(x).max() for x in pull.values()) > 0.01


def test_r1_comes_every_fourth_step_and_counts_four_times():
  model, state = stubs.model(r1=0.5, r1_every=4, g_lr=0.05, d_lr=0.05)
  for i, before, after, batch, logs in stubs.run(model, state, 10):
    seen = stubs.seen(before, after, batch)
    want = 0.25 * 4 * _r1(seen, seen.w) * (i in (0, 4, 8))
    np.testing.assert_allclose(logs['d_loss'] - stubs.d_source(seen, seen.w),
                               want, atol=1e-5, err_msg=str(i))
    assert (want > 0.01) == (i % 4 == 0)


def test_r1_goes_through_the_augmentation():
  # A cut pixel has no slope: of a nearly linear D, R1 counts what is left.
  model, state = stubs.model(r1=2.0, diff_augment='cutout')
  w = {name: jnp.zeros(shape) for name, shape in stubs.SHAPES.items()}
  w |= {'in': w['in'].at[:, 0].set(1e-3), 'out': w['out'].at[0].set(500.)}
  state = state._replace(d=state.d._replace(params=w))
  batch = stubs.batch()
  after, logs = quick.jit(model.step)(state, batch, stubs.KEY)
  seen = stubs.seen(state, after, batch)
  left = stubs.SIZE * (logs['d_loss'] - stubs.d_source(seen, seen.w)) / 0.25
  np.testing.assert_allclose(left, round(float(left)), atol=0.01)
  assert 6 * stubs.SIZE <= round(float(left)) < 8 * stubs.SIZE


def test_lecam_starts_at_its_step_with_averages_from_there():
  model, state = stubs.model(lecam=0.3, lecam_start=3, lecam_decay=0.8,
                             g_lr=0.05, d_lr=0.05)
  averages = np.zeros(2)
  for i, before, after, batch, logs in stubs.run(model, state, 7):
    np.testing.assert_allclose(before.control['lecam'], averages, atol=1e-6)
    seen = stubs.seen(before, after, batch)
    want = 0.3 * _lecam(seen, seen.w, averages) * (i >= 3)
    np.testing.assert_allclose(logs['d_loss'] - stubs.d_source(seen, seen.w),
                               want, atol=1e-5, err_msg=str(i))
    assert (want > 0.001) == (i >= 3)
    means = np.array([stubs.scores(seen.w, x, seen.labels).mean()
                      for x in seen.shown])
    averages = means if i < 3 else 0.8 * averages + 0.2 * means
