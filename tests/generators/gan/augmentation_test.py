"""What D sees of images: DiffAugment on both sides, and how ADA's p moves."""
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.augment import ada
from tests import quick
from tests.generators.gan import stubs


def test_diff_augment_treats_both_sides():
  model, state = stubs.model(diff_augment='brightness')
  batch = stubs.batch()
  new, _ = quick.jit(model.step)(state, batch, stubs.KEY)
  real, fake = np.split(np.asarray(new.d.stats['x_last']), 2)
  for seen, plain in ((real, stubs.real(batch)),
                      (fake, stubs.image(new.g.stats['z_before']))):
    shift = seen - plain  # One number an image.
    np.testing.assert_allclose(shift, shift[:, :1, :1] + 0 * shift, atol=1e-5)
    assert len(np.unique(shift[:, 0, 0].round(4))) == len(shift)


def test_diff_augment_of_the_fakes_reaches_g():
  # D stands still; what is cut out of a fake pulls no more.
  batch, grads = stubs.batch(), []
  for policy in 'cutout', '':
    model, state = stubs.model(diff_augment=policy, d_lr=1e-30)
    new, _ = quick.jit(model.step)(state, batch, stubs.KEY)
    grads.append(state.g.params['gain'] - new.g.params['gain'])
  assert np.all(grads[0] != grads[1]) and np.any(grads[0])


def _blind(state, score, p=0.0):
  """A D that gives every image this score, and p."""
  w = {name: jnp.zeros(shape) for name, shape in stubs.SHAPES.items()}
  return state._replace(
      d=state.d._replace(params=w | {'bias': jnp.float32(score)}),
      control={'ada': ada.start(p)})


@pytest.mark.parametrize('rule, score, p, want', [
    # 12 images a move: every second update of D, 0.12 at a time.
    ({}, 2.0, 0.0, [0, 0.12, 0.12, 0.24, 0.24, 0.36]),
    ({}, 2.0, 0.8, [0.8, 0.92, 0.92, 1, 1, 1]),
    ({}, -2.0, 0.2, [0.2, 0.08, 0.08, 0, 0, 0]),
    ({'d_steps': 2}, 2.0, 0.0, [0.12, 0.24, 0.36, 0.48, 0.6, 0.72]),
    ({'fresh_fakes': False}, 2.0, 0.0, [0, 0.12, 0.12, 0.24, 0.24, 0.36]),
    # Right is above the loss's threshold, here 0.5.
    ({'loss': 'least_squares'}, 0.3, 0.2, [0.2, 0.08, 0.08, 0, 0, 0]),
    ({'loss': 'least_squares'}, 0.7, 0.0, [0, 0.12, 0.12, 0.24, 0.24, 0.36]),
    ({'ada_target': -1.0}, -2.0, 0.3, [0.3] * 6),
])
def test_p_rises_while_d_knows_the_real_images(rule, score, p, want):
  model, state = stubs.model(ada='brightness', ada_every=2, ada_images=100,
                             d_lr=1e-30, **rule)
  got = [(float(after.control['ada'].p), float(logs['ada_p']))
         for *_, after, _, logs in stubs.run(model, _blind(state, score, p), 6)]
  np.testing.assert_allclose(got, np.transpose([want, want]), atol=1e-6)


def test_p_is_how_often_what_d_sees_changes():
  model, state = stubs.model(ada='contrast')
  batch, step = stubs.batch(), quick.jit(model.step)
  slopes = []
  for p in 0.0, 1.0:
    before = state._replace(control={'ada': ada.start(p)})
    after, _ = step(before, batch, stubs.KEY)
    seen = stubs.seen(before, after, batch)
    for shown, plain in zip(seen.shown, (seen.real, seen.fake), strict=True):
      factor = shown / plain  # One number an image.
      np.testing.assert_allclose(factor, np.broadcast_to(
          factor[:, :1, :1], factor.shape), rtol=1e-4)
      # One image in 20,000 draws a factor that is hardly one.
      assert ((np.abs(factor[:, 0, 0] - 1) > 1e-5) == bool(p)).all()
    slopes.append(np.asarray(before.g.params['gain'] - after.g.params['gain']))
  assert np.abs(slopes[0] - slopes[1]).max() > 1e-3  # G feels it as well.
