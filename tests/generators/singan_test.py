"""SinGAN: its scales, its losses, its steps, and what it draws."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxaug.core import errors, types
from jaxaug.generators import singan
from tests import quick

KEY = jax.random.key(0)
SMALL = types.ImageSpec(16, 20, 3, 2)
# Five scales, the last one twice as wide.
DEEP = dict(min_size=11, width=4, steps=50, factor=0.86, d_steps=2, g_steps=2)


# ------------------------------------------------------------------- the scales
@pytest.mark.parametrize('side, given, sizes', [
    (64, {}, [25, 31, 37, 44, 54, 64]), (32, {}, [26, 29, 32]),
    (32, {'min_size': 11}, [12, 14, 17, 21, 26, 32]),
    (64, {'min_size': 18}, [18, 23, 28, 34, 42, 52, 64]),
    (128, {}, [25, 32, 40, 51, 64, 81, 102, 128]),
    (256, {}, [26, 33, 42, 54, 70, 90, 117, 150, 194, 250])], ids=str)
def test_sizes_of_the_published_pyramid(side, given, sizes):
  made = singan.pyramid(side, side, **given)
  assert made.sizes == tuple((n, n) for n in sizes)
  # From the finest to the coarsest in as many equal factors.
  assert min(sizes[-1], side) * made.factor ** (
      len(sizes) - 1) == pytest.approx(given.get('min_size', 25))


def test_the_shorter_side_says_how_many_scales():
  # log(25 / 40) / log(0.75) = 1.63: two, and one more; 60 * 0.625 = 37.5. In
  # doubles 25 is a little more, and sides are rounded up.
  made = singan.pyramid(40, 60)
  assert made.sizes[0] == (26, 38) and made.sizes[-1] == (40, 60)
  assert len(made.sizes) == 4


def test_channels_double_every_four_scales_up_to_128():
  assert singan.widths(13, 32) == (32,) * 4 + (64,) * 4 + (128,) * 5
  assert singan.widths(9, 256) == (256,) * 9


def test_parameters_are_the_published():
  model = singan.build(types.ImageSpec(64, 64, 3, 22))
  state = jax.eval_shape(model.init, KEY)
  def count(net):
    return sum(x.size for x in jax.tree.leaves(net.params))
  assert [(count(level.g), count(level.d)) for level in state.levels] == [
      (29_763, 29_185)] * 4 + [(114_819, 113_665)] * 2
  assert model.parameters(state) == {'g': 4 * 29_763 + 2 * 114_819,
                                     'd': 4 * 29_185 + 2 * 113_665}
  assert [phase.first for phase in model.phases] == [
      2000, 4000, 6000, 8000, 10_000]


def test_a_score_is_of_a_patch_of_11_pixels():
  model = singan.build(types.ImageSpec(30, 30, 3, 2), width=4)
  params = quick.jit(lambda key: model.init(key).levels[0].d.params)(KEY)
  image = np.random.default_rng(0).uniform(-1, 1, (1, 30, 30, 3))
  module = singan.Layers(4, 1, jnp.float32)
  stats = quick.jit(lambda: module.init(KEY, image, False)['batch_stats'])()
  def score(image):  # By averages: norms of the image see all of it.
    return module.apply({'params': params, 'batch_stats': stats}, image,
                        False)[0, 7, 9, 0]
  seen = np.abs(quick.jit(jax.grad(score))(jnp.float32(image)))[0].sum(
      -1) > 0
  rows, columns = np.nonzero(seen)
  assert (rows.min(), rows.max(), columns.min(), columns.max()) == (7, 17, 9,
                                                                    19)
  assert singan.FIELD == 11


# -------------------------------------------------------------------- beginning
def _image(spec, seed=0):
  """A smooth picture that no resizing overshoots."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:spec.height, :spec.width] / 7.0
  waves = [np.sin(a * y + b * x + c) for a, b, c in
           rng.uniform(0.3, 1.5, (spec.channels, 3))]
  return np.uint8(127.5 + 80 * np.stack(waves, -1))[None]


@functools.cache
def _started(spec=SMALL, **given):
  """A model and its first state, which knows the image."""
  model = singan.build(spec, **{**DEEP, **given})
  state = quick.jit(lambda key: model.adapt(
      model.init(key), _image(spec), None))(KEY)
  return model, state


def _begun(model, state, n):
  return quick.jit(model.phases[n - 1].begin)(state, None, None)


def _random(state, seed=0):
  """The state with weights, statistics and amplitudes of no symmetry."""
  rng = np.random.default_rng(seed)
  def weight(p):
    fan_in = p[..., 0].size if p.ndim > 1 else 25
    return jnp.float32(p + rng.normal(0, 0.7 * fan_in**-0.5, p.shape))
  def drawn(net):
    params = jax.tree.map(weight, net.params)
    return net._replace(params=params, stats=jax.tree.map(
        lambda s: jnp.float32(s + rng.uniform(0, 0.1, s.shape)), net.stats))
  return state._replace(levels=tuple(
      level._replace(g=drawn(level.g), d=drawn(level.d),
                     amplitude=jnp.float32(0.1 * n or 1))
      for n, level in enumerate(state.levels)))


def test_a_scale_knows_its_image_and_what_is_below():
  """The noise's amplitude is a tenth of the root of the mean squared error."""
  model, state = _started()
  state = _random(state)
  image = np.float64(_image(SMALL)) / 127.5 - 1
  np.testing.assert_allclose(state.levels[-1].real, image, atol=1e-6)
  begun = _begun(model, state, 2)
  level = begun.levels[2]
  below, real = np.float64(level.below), np.float64(level.real)
  assert np.abs(below).max() > 0.01
  assert float(level.amplitude) == pytest.approx(
      0.1 * np.sqrt(((real - below)**2).mean()), rel=1e-5)
  # Nothing else has changed but the networks of this scale.
  for n in 0, 1, 3, 4:
    jax.tree.map(np.testing.assert_array_equal, begun.levels[n],
                 state.levels[n])


def test_networks_go_on_from_the_scale_below_if_it_is_as_wide():
  model, state = _started()
  state = _random(state)
  assert singan.widths(len(state.levels), 4) == (4, 4, 4, 4, 8)
  for n in 1, 4:
    begun = _begun(model, state, n).levels
    for player in 'g', 'd':
      new, own, old = (getattr(level, player) for level in (
          begun[n], state.levels[n], state.levels[n - 1]))
      jax.tree.map(np.testing.assert_array_equal, new[:2],
                   (old if n == 1 else own)[:2])
      assert not any(np.any(x) for x in jax.tree.leaves(new.opt))


def test_eight_bits_between_scales_round_down():
  _, state = _started()
  _, cut = _started(eight_bit=True)
  assert [level.real.shape for level in cut.levels] == [
      level.real.shape for level in state.levels]
  for a, b in zip(state.levels[:-1], cut.levels[:-1], strict=True):
    gap = np.asarray(a.real - b.real)
    assert 0 < gap.mean() < 2 / 255 and np.abs(gap).max() < 4 / 255


# -------------------------------------------------------------------- the step
def _twin(state, n, twin, layout, torch):
  """The twin's trained scales below `n`, and the scale itself."""
  levels = []
  for i, level in enumerate(state.levels[:n + 1]):
    channels, width = level.real.shape[-1], level.g.params['conv_0'][
        'bias'].shape[0]
    g, d = (layout.load(make(channels, width), net.params, net.stats).double()
            for make, net in ((twin.Generator, level.g),
                              (twin.Discriminator, level.d)))
    real = torch.from_numpy(np.float64(level.real)).permute(0, 3, 1, 2)
    z = torch.zeros_like(real) if i else torch.from_numpy(
        np.float64(state.z)).permute(0, 3, 1, 2)
    levels.append(twin.Level(g, d, real, z, float(level.amplitude)))
    if i < n:
      twin.finish(levels[-1])
  return levels


def _spoken(monkeypatch, function):
  """function(*args) as run(normals, uniforms, *args): draws take these."""
  def run(normals, uniforms, *args):
    left = {'normal': list(normals), 'uniform': list(uniforms)}
    def drawer(name):
      plain = getattr(jax.random, name)
      def draw(key, shape, *given):
        if given:  # An initialiser, whose shape flax looks at.
          return plain(key, shape, *given)
        noise = jnp.asarray(left[name].pop(0), jnp.float32)
        assert noise.shape == tuple(shape), (name, noise.shape, shape)
        return noise
      return draw
    with monkeypatch.context() as m:
      for name in left:
        m.setattr(jax.random, name, drawer(name))
      out = function(*args)
    assert not any(left.values())
    return out
  return quick.steady(run)


@pytest.mark.parametrize('n, how', [(0, 'published'), (2, 'paper')])
def test_a_step_is_the_twins(monkeypatch, n, how):
  """Two updates of D and two of G: weights, statistics, losses."""
  torch = pytest.importorskip('torch')
  from tests.torch_twins import layout
  from tests.torch_twins import singan as twin
  options = dict(redraw=True) if how == 'published' else dict(
      penalty_over='image')
  model, state = _started(**options)
  state = _random(state)
  if n:
    state = _begun(model, state, n)
    state = state._replace(step=jnp.int32(model.phases[n - 1].first))
  sizes = [level.real.shape[1:3] for level in state.levels]
  *lower, level = _twin(state, n, twin, layout, torch)
  rng = np.random.default_rng(4)
  def noise(size, channels, count=1):
    return rng.normal(size=(count, *size, channels)).astype(np.float32)
  redrawn = noise(sizes[0], 1) if how == 'published' and not n else None
  own = noise(sizes[n], 3 if n else 1)
  below = [noise(sizes[i], 3 if i else 1, 2) for i in range(n)]
  eps = rng.uniform(size=2).astype(np.float32)

  step = _spoken(monkeypatch, model.phases[n - 1].step if n else model.step)
  new, logs = step(
      [*([] if redrawn is None else [redrawn]), own, *below],
      eps.reshape(2, 1, 1, 1, 1), state, None, KEY)

  def there(x):
    return torch.from_numpy(np.float64(x)).permute(0, 3, 1, 2)
  r = singan.pyramid(16, 20, min_size=11, factor=0.86).factor
  prev = twin.prepare(level, lower, r, eight_bit=False)
  if n:
    np.testing.assert_allclose(state.levels[n].below[0],
                               prev[0].permute(1, 2, 0), atol=2e-6)
    assert level.amp == pytest.approx(float(state.levels[n].amplitude),
                                      rel=1e-5)
  opts = twin.optimizers(level)
  want = twin.iteration(
      level, lower, opts, twin.Draws(
          there(own), list(eps), [[there(x[i:i + 1]) for x in below]
                                  for i in range(2)],
          None if redrawn is None else there(redrawn)), prev, r,
      eight_bit=False, g_steps=2, **(
          twin.PUBLISHED if how == 'published' else twin.PAPER))

  assert float(logs['d_loss']) == pytest.approx(want['d_loss'][-1], rel=1e-4)
  assert float(logs['g_loss']) == pytest.approx(want['g_loss'][-1], rel=1e-4)
  assert float(logs['reconstruction_rmse'])**2 == pytest.approx(
      want['error'][-1], rel=1e-4)
  if redrawn is not None:
    np.testing.assert_array_equal(new.z, redrawn)
  moved = 0
  for player in 'g', 'd':
    ours, theirs = getattr(new.levels[n], player), getattr(level, player)
    start = getattr(state.levels[n], player)
    for (path, weight, x), (*_, old) in zip(
        layout.pairs(theirs, ours.params), layout.pairs(theirs, start.params),
        strict=True):
      # A bias before a norm has a gradient of rounding noise alone.
      if path[-1] == 'bias' and path[0] in {f'conv_{i}' for i in range(4)}:
        continue
      close = np.abs(x - weight.detach().numpy()) < 2e-5
      assert close.mean() > 0.97, path  # Adam goes by signs of tiny gradients.
      moved += np.abs(x - old).max() > 1e-4
  assert moved > 20
  for path, value, x in layout.pairs(level.g, new.levels[n].g.stats):
    if path[-1] == 'mean':
      # They move with the biases, which go by the signs of that noise.
      np.testing.assert_allclose(x, value, atol=2e-3)
    else:  # PyTorch divides by n - 1.
      np.testing.assert_allclose(x, value, rtol=0.02)
  # The other scales rest.
  jax.tree.map(np.testing.assert_array_equal, new.levels[:n],
               state.levels[:n])


def test_losses_by_hand(monkeypatch):
  """Equations 2 and 3, of scores and slopes that can be told without a net.

  A D of one pixel's score, 2 r + 2 g + b: its mean over P pixels has the slope
  (2, 2, 1) / P at each, of norm 3 / sqrt(P) in all; the sum has 3 a pixel.
  """
  spec = types.ImageSpec(12, 12, 3, 2)
  class Linear:
    def apply(self, variables, x, train, mutable):
      return (x @ jnp.array([2., 2., 1.]))[..., None] * variables['params'], {}
  real = np.full((1, 12, 12, 3), 0.5, np.float32)
  fake = np.full((1, 12, 12, 3), -0.25, np.float32)
  monkeypatch.setattr(singan, 'Layers', lambda *a: Linear())
  for over, norm in (('image', 3 / 12), ('pixel', 3)):
    model = singan.build(spec, min_size=11, width=4, penalty_over=over)
    loss, gap = singan.loss_of_d(jnp.float32(1), model.step.args[0], 0, real,
                                 fake, KEY)
    # Scores are 2.5 and -1.25.
    assert float(gap) == pytest.approx(3.75, rel=1e-6)
    assert float(loss) == pytest.approx(-3.75 + 0.1 * (norm - 1)**2, rel=1e-5)


def test_the_rate_falls_to_a_tenth_at_four_fifths_of_a_scale():
  model, state = _started()
  begins = [0, *(phase.first for phase in model.phases)]
  assert begins == [0, 10, 20, 30, 40]
  first = begins[2]
  state = _begun(model, _random(state), 2)
  moves, move = [], quick.jit(model.phases[1].step)
  for step in first + 7, first + 8:
    new, _ = move(state._replace(step=jnp.int32(step)), None, KEY)
    moves.append(max(np.abs(a - b).max() for a, b in zip(
        jax.tree.leaves(new.levels[2].d.params),
        jax.tree.leaves(state.levels[2].d.params), strict=True)))
  # Three steps of Adam, each of at most the rate.
  assert 4e-4 < moves[0] < 16e-4 and 4e-5 < moves[1] < 16e-5


@pytest.mark.slow
def test_an_accelerators_loop_is_the_same_step(monkeypatch):
  model, state = _started()
  state = _random(state)
  plain, logs = quick.jit(model.step)(state, None, KEY)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  step = functools.partial(model.step)  # Traced anew.
  assert ' scan[' in str(jax.make_jaxpr(step)(state, None, KEY))
  looped, again = jax.jit(step)(state, None, KEY)
  # Of biases before a norm the slope is rounding alone, which Adam blows up.
  # An update left out is worth 5e-4 of a kernel.
  for a, b in zip(*map(jax.tree.leaves, ((plain, logs), (looped, again))),
                  strict=True):
    if a.ndim != 1:
      np.testing.assert_allclose(a, b, atol=2e-4)


# -------------------------------------------------------------------- sampling
@functools.cache
def _drawn(start=0):
  model, state = _started()
  state = _random(state)._replace(step=jnp.int32(50))
  variables = model.variables(state)
  return model, state, variables, np.asarray(_sampler(model, start)(
      variables, KEY, np.zeros(5, np.int32)))


def _sampler(model, start=0):
  return quick.jit(functools.partial(model.sample, start=start))


def test_samples_differ_and_their_noise_is_that_of_the_key():
  _, _, _, images = _drawn()
  assert images.shape == (5, 16, 20, 3) and np.abs(images).max() <= 1
  assert np.abs(images[0] - images[1]).mean() > 0.01


def test_scales_below_the_start_reconstruct():
  """From the last but one on, what is below is the same in every sample."""
  model, state, variables, all_ = _drawn()
  last = len(state.levels) - 1
  _, _, _, late = _drawn(start=last)
  assert late.std(0).mean() < all_.std(0).mean()
  begun = _begun(model, state, 4)
  net, amplitude = state.levels[-1].g, state.levels[-1].amplitude
  below = begun.levels[-1].below
  noise = jax.random.normal(jax.random.fold_in(KEY, last), (5, 16, 20, 3))
  x = jnp.pad(amplitude * noise + below, ((0, 0), (5, 5), (5, 5), (0, 0)))
  width = net.params['conv_0']['bias'].size
  want = below + jnp.tanh(singan.Layers(width, 3, jnp.float32).apply(
      {'params': net.params, 'batch_stats': net.stats}, x, False))
  np.testing.assert_allclose(late, np.clip(want, -1, 1), atol=2e-6)


def test_given_images_take_the_place_of_the_scales_below():
  model, _, variables, _ = _drawn(start=2)
  given = np.float32(np.concatenate([_image(SMALL, 1), _image(SMALL, 2)]))
  given = given / 127.5 - 1
  images = np.asarray(_sampler(model, 2)(
      variables, KEY, np.zeros(2, np.int32), given))
  apart = np.abs(images[0] - images[1]).mean()
  assert apart > 0.5 * np.abs(given[0] - given[1]).mean()


def test_scales_that_are_not_begun_add_nothing():
  model, state, variables, _ = _drawn()
  sample, labels = _sampler(model), np.zeros(3, np.int32)
  early = sample(variables | {'step': jnp.int32(20)}, KEY, labels)
  silent = {name: scale | {'params': jax.tree.map(
      jnp.zeros_like, scale['params'])} for name, scale in variables.items()
            if name in ('scale_2', 'scale_3', 'scale_4')}
  np.testing.assert_allclose(early, sample(
      variables | silent, KEY, labels), atol=1e-6)
  show = quick.jit(model.reconstruct)
  np.testing.assert_allclose(show(variables | {'step': jnp.int32(20)}),
                             show(variables | silent), atol=1e-6)


def test_reconstruction_is_what_training_aims_at():
  """One scale after the other comes near to a real image."""
  model, state, _, _ = _drawn()
  image = model.reconstruct(model.variables(state))
  assert image.shape == (1, 16, 20, 3)
  begun = _begun(model, state, 4)
  net, below = state.levels[-1].g, begun.levels[-1].below
  width = net.params['conv_0']['bias'].size
  x = jnp.pad(below, ((0, 0), (5, 5), (5, 5), (0, 0)))
  want = below + jnp.tanh(singan.Layers(width, 3, jnp.float32).apply(
      {'params': net.params, 'batch_stats': net.stats}, x, False))
  np.testing.assert_allclose(image, np.clip(want, -1, 1), atol=2e-6)


def test_larger_images_are_made_at_the_largest_size_and_enlarged():
  spec = types.ImageSpec(30, 24, 1, 2)
  model, state = _started(spec, max_size=20)
  assert state.levels[-1].real.shape == (1, 20, 16, 1)
  images = quick.jit(model.sample)(model.variables(state), KEY,
                                   np.zeros(2, np.int32))
  assert images.shape == (2, 30, 24, 1)


def test_an_enlarged_image_is_pillows():
  """Dark halves too, which the rule of 0 to 255 knows nothing of."""
  spec = types.ImageSpec(30, 24, 1, 2)
  model, _ = _started(spec, max_size=20)
  small = np.random.default_rng(0).uniform(-1, 1, (20, 16)).astype(np.float32)
  from PIL import Image
  want = np.asarray(Image.fromarray(small).resize((24, 30), Image.BICUBIC))
  got = singan._full(model.step.args[0], small[None, :, :, None])
  np.testing.assert_allclose(got[0, :, :, 0], np.clip(want, -1, 1), atol=1e-5)


@pytest.mark.slow
def test_a_real_image_is_learned(garments):
  """Fewer steps than it wants: the reconstruction finds the garment."""
  spec = types.ImageSpec(28, 28, 1, 10)
  model = singan.build(spec, min_size=14, width=8, steps=480, factor=0.7)
  image = garments.train.images[:1]
  state = quick.jit(model.adapt)(quick.jit(model.init)(KEY), image, None)
  assert len(state.levels) == 4
  for begin, step in ((None, model.step), *(phase[:0:-1]
                                            for phase in model.phases)):
    state = begin(state, image, None) if begin else state
    step = quick.jit(step, donate_argnums=0)
    for _ in range(120):
      state, logs = step(state, None, KEY)
  variables = model.variables(state)
  real = np.float32(image) / 127.5 - 1
  error = np.sqrt(np.square(model.reconstruct(variables) - real).mean())
  assert error < 0.25 * real.std()
  images = quick.jit(model.sample)(variables, KEY, np.zeros(20, np.int32))
  assert images.std(0).mean() > 0.02  # And samples are no copies of it.


# ----------------------------------------------------------------- what cannot
@pytest.mark.parametrize('size, given, line', [
    ((24, 60), {}, 'min_size: 25; an image of 24x60 is smaller than the '
     'coarsest scale; expected 11 to 24, or larger images'),
    ((64, 64), {'min_size': 10}, 'min_size: 10; expected a whole number of at '
     'least 11'),
    ((64, 64), {'max_size': 20}, 'max_size: 20; expected'),
    ((64, 64), {'factor': 1.0}, 'factor: 1.0; expected'),
    ((64, 64), {'steps': 5}, 'steps: 5; expected 6 at least, one for each'),
    ((64, 64), {'penalty_over': 'pixels'}, "penalty_over: 'pixels'; expected "
     "one of image, pixel. Did you mean 'pixel'"),
    ((64, 64), {'lr': 0.0}, 'lr: 0.0; expected'),
    ((64, 64), {'decay_at': 1.5}, 'decay_at: 1.5; expected')], ids=str)
def test_what_cannot_be_is_one_line(size, given, line):
  with pytest.raises(errors.InputError, match=f'^{line}') as e:
    singan.build(types.ImageSpec(*size, 3, 2), **given)
  assert '\n' not in str(e.value)


def test_a_start_beyond_the_scales_is_one_line():
  model, _, variables, _ = _drawn()
  with pytest.raises(errors.InputError, match='^start: 5; expected 0 to 4, for '
                     'there are 5 scales.$'):
    model.sample(variables, KEY, np.zeros(1, np.int32), start=5)
