"""ADA against scipy and 4x4 matrices in float64, its draws, its controller."""
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from jaxaug.augment import ada
from jaxaug.core import errors
from jaxaug.generators.gan import penalties
from tests import quick

SHAPES = [(28, 28, 1), (32, 32, 3), (21, 34, 3)]
FEW, MANY = 12, (2000, 17, 17, 3)  # What runs eagerly compiles by shapes.
OPERATIONS = tuple(ada.OPERATIONS)
COLOURS_OF_RGB = ('lumaflip', 'hue', 'saturation')
KEY = jax.random.key(0)


def noise(batch, shape, seed=0):
  rng = np.random.default_rng(seed)
  return rng.uniform(-1, 1, (batch, *shape)).astype(np.float32)


def run(policy, images, p=1.0, key=KEY):
  # Not compiled, which takes longer for every policy than it saves.
  return np.asarray(ada.pipeline(policy)(key, jnp.asarray(images), p))


def assert_share(count, n, p):
  """Within five standard deviations of a binomial."""
  assert abs(count - n * p) <= 5 * np.sqrt(n * p * (1 - p))


def assert_from(values, distribution):
  assert stats.kstest(np.ravel(values), distribution.cdf).pvalue > 1e-6


# ---- the reference: one homogeneous matrix after the other ----

def _translate(x, y):
  return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.]])


def _rotate(angle):
  c, s = np.cos(angle), np.sin(angle)
  return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.]])


def _push(v, height, width):
  """From a pixel (x, y, 1) of the image to its place in the result."""
  centre = (width - 1) / 2, (height - 1) / 2
  scale, aniso = 2 ** v['scale'][0], 2 ** v['aniso'][0]
  out = _translate(*(-n for n in centre))
  for step in (
      np.diag([1 - 2 * v['xflip'][0], 1, 1]),
      # y points down: counter-clockwise is a negative angle.
      _rotate(-np.pi / 2 * v['rotate90'][0]),
      _translate(np.round(v['xint'][1] * width),
                 np.round(v['xint'][0] * height)),
      np.diag([scale, scale, 1]), _rotate(-v['rotate'][0]),
      np.diag([aniso, 1 / aniso, 1]), _rotate(-v['rotate'][1]),
      _translate(v['xfrac'][1] * width, v['xfrac'][0] * height),
      _translate(*centre)):
    out = step @ out
  return out


def _colours(v):
  """The 4x4 matrix of (red, green, blue, 1)."""
  luma = np.array([1, 1, 1, 0]) / np.sqrt(3)
  onto = np.outer(luma, luma)
  brightness = np.eye(4)
  brightness[:3, 3] = v['brightness'][0]
  contrast = np.diag([2 ** v['contrast'][0]] * 3 + [1])
  flip = np.eye(4) - 2 * onto * v['lumaflip'][0]
  (x, y, z), angle = luma[:3], v['hue'][0]
  cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
  hue = np.eye(4)
  hue[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
  keep = 2 ** v['saturation'][0]
  saturation = onto + (np.eye(4) - onto) * np.array([keep] * 3 + [1])
  return saturation @ hue @ flip @ contrast @ brightness


def reference(images, drawn, names):
  """Every image by itself, in float64."""
  height, width, channels = images.shape[1:]
  off = set(OPERATIONS) - set(names)
  if height != width:
    off.add('rotate90')
  if channels == 1:
    off |= set(COLOURS_OF_RGB)
  drawn = {name: np.zeros_like(value) if name in off else value
           for name, value in drawn.items()}
  out = []
  for i, image in enumerate(images.astype(np.float64)):
    v = {name: value[:, i] for name, value in drawn.items()}
    pull = np.linalg.inv(_push(v, height, width))[[1, 0, 2]][:, [1, 0, 2]]
    image = np.stack([ndimage.affine_transform(
        image[..., c], pull, order=1, mode='mirror') for c in range(channels)],
                     -1)
    matrix = _colours(v)
    if channels == 1:
      image = image * matrix[0, 0] + matrix[0, 3]
    else:
      image = image @ matrix[:3, :3].T + matrix[:3, 3]
    out.append(image)
  return np.stack(out)


def drawn(key, batch, p):
  return {name: np.asarray(value, np.float64) for name, value in
          ada.draw(key, batch, jnp.float32(p)).items()}


def named(policy):
  groups = {'b': OPERATIONS[:3], 'g': OPERATIONS[3:7], 'c': OPERATIONS[7:]}
  return [n for g in policy for n in groups[g]] if set(policy) <= set(
      'bgc') else policy.split(',')


@pytest.mark.parametrize('policy,shape,p', [
    *((name, SHAPES[1], 1.0) for name in OPERATIONS),
    *(('bgc', shape, p) for shape in SHAPES for p in (0.4, 1.0)),
    ('b', SHAPES[1], 1.0), ('b', SHAPES[2], 1.0), ('bc', SHAPES[0], 0.7),
    ('g', SHAPES[2], 1.0), ('c', SHAPES[1], 1.0),
    ('aniso,xint', SHAPES[2], 1.0), ('rotate,rotate90,xint', SHAPES[0], 1.0)])
def test_equals_scipy_and_matrices(policy, shape, p):
  images = noise(FEW, shape)
  got = run(policy, images, p)
  want = reference(images, drawn(KEY, FEW, p), named(policy))
  assert got.dtype == np.float32 and np.abs(want - images).max() > 0.1
  # float32 places in noise that jumps by up to 2 from pixel to pixel.
  scale = np.maximum(1, np.abs(want).max((1, 2, 3), keepdims=True))
  np.testing.assert_allclose(got / scale, want / scale, rtol=0, atol=2e-4)


def test_real_images(shared_data):
  with np.load(shared_data / 'cifar10_lossless_part.npz') as f:
    images = f['x_test'][:FEW].astype(np.float32) / 127.5 - 1
  got = run('bgc', images, 0.8)
  want = reference(images, drawn(KEY, FEW, 0.8), OPERATIONS)
  np.testing.assert_allclose(got, want, rtol=0, atol=2e-4)


@pytest.mark.parametrize('policy', ['b', 'g', 'c', 'bgc', ''])
@pytest.mark.parametrize('shape', SHAPES)
def test_no_probability_is_the_identity_bit_for_bit(policy, shape):
  images = noise(FEW, shape)
  np.testing.assert_array_equal(run(policy, images, 0.0), images)
  half = jnp.asarray(images, jnp.bfloat16)
  got = ada.pipeline(policy)(KEY, half, 0.0)
  assert got.dtype == jnp.bfloat16
  np.testing.assert_array_equal(got, half)
  rest = jax.eval_shape(ada.pipeline(policy), KEY, half, jnp.float32(0.5))
  assert rest.dtype == jnp.bfloat16 and rest.shape == half.shape


# ---- ranges, as the images show them ----

def test_flips():
  images = noise(MANY[0], MANY[1:])
  out = run('xflip', images)
  flipped = (out != images).any((1, 2, 3))
  np.testing.assert_array_equal(out[flipped], images[flipped, :, ::-1])
  assert_share(flipped.sum(), 2000, 0.5)


def test_quarter_turns_are_exact_and_alike_and_for_squares():
  images = noise(MANY[0], MANY[1:])
  out = run('rotate90', images)
  equal = np.stack([(out == np.rot90(images, k, (1, 2))).all((1, 2, 3))
                    for k in range(4)])
  assert (equal.sum(0) == 1).all()
  assert stats.chisquare(equal.sum(1)).pvalue > 1e-6
  flat = noise(FEW, SHAPES[2])
  np.testing.assert_array_equal(run('rotate90', flat), flat)


def test_whole_shifts_are_exact_and_reach_an_eighth():
  images = noise(MANY[0], MANY[1:])  # By up to round(2.125) = 2.
  out = run('xint', images)
  wide = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), 'reflect')
  equal = np.stack([(out == wide[:, 2 - y:19 - y, 2 - x:19 - x]).all((1, 2, 3))
                    for y in range(-2, 3) for x in range(-2, 3)])
  assert (equal.sum(0) == 1).all()
  # Rounded from a uniform share, so the ends are rarer.
  share = np.array([.625, 1, 1, 1, .625]) / 4.25
  assert stats.chisquare(equal.sum(1), 2000 * np.outer(
      share, share).ravel()).pvalue > 1e-6


def places(name):
  """The pull matrices and shifts, from ramps that say where a pixel was."""
  middle = MANY[1] // 2
  y, x = np.mgrid[:MANY[1], :MANY[2]] - middle
  image = np.stack([y, x, 0 * x], -1).astype(np.float32)
  out = run(name, np.broadcast_to(image, MANY))[..., :2]
  here = out[:, middle, middle]
  return np.stack([out[:, middle + 1, middle] - here,
                   out[:, middle, middle + 1] - here], -1), here


def test_scales():
  matrix, at = places('scale')
  np.testing.assert_allclose(at, 0, atol=1e-4)
  np.testing.assert_allclose(
      matrix, matrix[:, :1, :1] * np.eye(2), atol=1e-5)
  assert_from(-np.log2(matrix[:, 0, 0]), stats.norm(0, 0.2))


def test_anisotropic_scales_keep_the_area():
  matrix, at = places('aniso')
  np.testing.assert_allclose(at, 0, atol=1e-4)
  np.testing.assert_allclose(matrix[:, [0, 1], [1, 0]], 0, atol=1e-5)
  np.testing.assert_allclose(matrix[:, 0, 0] * matrix[:, 1, 1], 1, atol=1e-4)
  assert_from(np.log2(matrix[:, 0, 0]), stats.norm(0, 0.2))


def test_rotations_fill_the_circle():
  matrix, at = places('rotate')
  np.testing.assert_allclose(at, 0, atol=1e-4)
  np.testing.assert_allclose(matrix @ matrix.swapaxes(1, 2),
                             np.broadcast_to(np.eye(2), matrix.shape),
                             atol=1e-4)
  np.testing.assert_allclose(np.linalg.det(matrix), 1, atol=1e-4)
  angle = np.arctan2(matrix[:, 0, 1], matrix[:, 0, 0])
  assert_from(angle, stats.uniform(-np.pi, 2 * np.pi))
  both = drawn(KEY, 2000, 1.0)['rotate']
  for one in both:
    assert_from(one, stats.uniform(-np.pi, 2 * np.pi))
  assert abs(np.corrcoef(both)[0, 1]) < 5 / np.sqrt(2000)


def test_fractional_shifts():
  matrix, at = places('xfrac')
  # Far from the edge, beyond which the image is mirrored.
  inside, most = (np.abs(at) < 6).all(1), 6 / 17 / 0.125
  assert_share(inside.sum(), 2000, (1 - 2 * stats.norm.cdf(-most)) ** 2)
  np.testing.assert_allclose(
      matrix[inside], np.broadcast_to(np.eye(2), (inside.sum(), 2, 2)),
      atol=1e-4)
  for axis in range(2):
    assert_from(-at[inside, axis] / 17,
                stats.truncnorm(-most, most, 0, 0.125))


def test_brightness_and_contrast():
  images = np.broadcast_to(np.float32([-.5, .25, 0]), (2000, 2, 2, 3))
  for channels in (1, 3):
    out = run('brightness', images[..., :channels]) - images[..., :channels]
    np.testing.assert_allclose(out, out[:, :1, :1, :1] + 0 * out, atol=1e-6)
    assert_from(out[:, 0, 0, 0], stats.norm(0, 0.2))
    factor = run('contrast', images[..., :channels])[:, 0, 0, 0] / -0.5
    assert_from(np.log2(factor), stats.norm(0, 0.5))


def test_luma_hue_and_saturation():
  images = noise(2000, (2, 2, 3))
  def polar(images):
    """Luma, and chroma as a complex number."""
    turn = np.exp(2j * np.pi / 3 * np.arange(3))
    return images.mean(3), images @ turn
  luma, chroma = polar(images)
  flipped, kept = polar(run('lumaflip', images))
  sign = np.round(flipped / luma)
  np.testing.assert_allclose(flipped, sign * luma, atol=1e-6)
  np.testing.assert_allclose(kept, chroma, atol=1e-5)
  assert_share((sign[:, 0, 0] == -1).sum(), 2000, 0.5)
  assert set(np.unique(sign)) == {-1, 1}
  kept, turned = polar(run('hue', images))
  np.testing.assert_allclose(kept, luma, atol=1e-5)
  np.testing.assert_allclose(np.abs(turned), np.abs(chroma), atol=1e-5)
  assert_from(np.angle(turned / chroma)[:, 0, 0],
              stats.uniform(-np.pi, 2 * np.pi))
  kept, scaled = polar(run('saturation', images))
  np.testing.assert_allclose(kept, luma, atol=1e-5)
  factor = (scaled / chroma)[:, 0, 0]
  np.testing.assert_allclose(factor.imag / factor.real, 0, atol=1e-3)
  assert_from(np.log2(factor.real), stats.norm(0, 1))


def test_grey_images_know_no_colour():
  images = noise(FEW, SHAPES[0])
  np.testing.assert_array_equal(run(','.join(COLOURS_OF_RGB), images), images)


# ---- how often ----

# Of the images that an operation is drawn for, how many look the same.
STILL = {'xflip': 1 / 2, 'rotate90': 1 / 4, 'xint': 1 / 4.25**2,
         'lumaflip': 1 / 2}


@pytest.mark.parametrize('name', OPERATIONS)
def test_the_share_that_an_operation_touches_is_p(name):
  images = noise(MANY[0], MANY[1:])
  still = STILL.get(name, 0)
  for p in (0.3, 1.0):
    touched = (run(name, images, p) != images).any((1, 2, 3))
    assert_share(touched.sum(), 2000, p * (1 - still))


def test_both_rotations_are_as_likely_and_either_comes_with_p():
  before, after = drawn(KEY, 2000, 0.36)['rotate'] != 0
  for one in (before, after):
    assert_share(one.sum(), 2000, 0.2)
  assert_share((before & after).sum(), 2000, 0.04)
  assert_share((before | after).sum(), 2000, 0.36)


def test_draws_are_independent_of_each_other_and_of_their_chance():
  n = 2000
  values = drawn(KEY, n, 1.0)
  rows = np.concatenate([values[name] for name in OPERATIONS])
  half = drawn(KEY, n, 0.5)
  fired = [half[name] != 0 for name in OPERATIONS if name not in STILL]
  for table in (rows[rows.std(1) > 0], np.concatenate([f[:1] for f in fired])):
    assert np.abs(np.corrcoef(table) - np.eye(len(table))).max() < 5 / n ** .5
  for name in ('scale', 'brightness', 'saturation'):
    size = ada.OPERATIONS[name].size
    assert_from(half[name][0][half[name][0] != 0], stats.norm(0, size))
  # What fires at a lower p fires at a higher one, with the same value.
  for name in OPERATIONS:
    on = half[name] != 0
    np.testing.assert_array_equal(half[name][on], values[name][on])


def test_an_operation_has_its_draws_whatever_the_others():
  images = noise(FEW, SHAPES[1])
  np.testing.assert_allclose(
      run('brightness', run('xflip', images)),
      run('brightness,xflip', images), atol=1e-6)
  np.testing.assert_array_equal(run('cgb', images), run('bgc', images))
  np.testing.assert_array_equal(run(OPERATIONS, images), run('bgc', images))
  assert not np.array_equal(run('bgc', images, key=jax.random.key(1)),
                            run('bgc', images))
  # One image's result has nothing to do with the other images.
  other = noise(FEW, SHAPES[1], 1)
  other[7] = images[7]
  np.testing.assert_array_equal(run('bgc', other)[7], run('bgc', images)[7])


def test_one_compilation_serves_every_p():
  apply = quick.jit(ada.pipeline('bgc'))
  images = noise(FEW, SHAPES[1])
  outs = [apply(KEY, images, jnp.float32(p)) for p in (0, 0.3, 1)]
  assert apply._cache_size() == 1
  np.testing.assert_array_equal(outs[0], images)
  for p, out in zip((0.3, 1.0), outs[1:], strict=True):
    np.testing.assert_allclose(out, run('bgc', images, p), atol=2e-4)
  assert not np.array_equal(outs[1], outs[2])


# ---- gradients ----

def affine(apply, images, p):
  """[n, size, size] and [n, size]: images are multiplied, then added to.

  A whole step from no image to a unit is an exact difference.
  """
  n, size = len(images), math.prod(images.shape[1:])
  units = jnp.eye(size + 1, size).reshape(-1, 1, *images.shape[1:])
  out = jax.vmap(lambda unit: apply(KEY, jnp.broadcast_to(
      unit, images.shape), p))(units).reshape(-1, n, size)
  return (out[:-1] - out[-1]).swapaxes(0, 1), out[-1]


@pytest.mark.parametrize('policy,shape', [
    ('b', (6, 6, 1)), ('bgc', (6, 6, 1)), ('bgc', (4, 5, 3))])
def test_gradient_is_the_transposed_matrix(policy, shape):
  apply, n, p = ada.pipeline(policy), 5, 0.8
  image, weights = noise(n, shape), noise(n, shape, 1)
  matrix, grad = quick.jit(lambda x: (affine(apply, x, p)[0], jax.grad(
      lambda x: (weights * apply(KEY, x, p)).sum())(x)))(image)
  want = np.einsum('npq,nq->np', matrix, weights.reshape(n, -1))
  np.testing.assert_allclose(grad, want.reshape(n, *shape), rtol=1e-4,
                             atol=1e-5)


def test_r1_goes_through():
  # D(x) = sum (T(x) w)^2 / 2 has the gradient T' w^2 T(x), and so a closed
  # form for R1 that is of the fourth order in w.
  shape, n = (4, 5, 3), 6
  apply, images = ada.pipeline('bgc'), noise(n, shape)
  weights, direction = noise(2, shape, 1)
  def r1(weights):
    return penalties.r1(lambda x: (jnp.square(
        weights * apply(KEY, x, 0.7)) / 2).sum((1, 2, 3)), images)
  (value, grad), moved = quick.jit(lambda weights: (
      jax.value_and_grad(r1)(weights), affine(apply, images, 0.7)))(weights)
  matrix, zero = (np.float64(a) for a in moved)
  def want(weights):
    flat = images.astype(np.float64).reshape(n, -1)
    seen = np.einsum('npq,np->nq', matrix, flat) + zero
    pulled = np.einsum('npq,nq->np', matrix, weights.ravel() ** 2 * seen)
    return np.square(pulled).sum(1).mean()
  wide = weights.astype(np.float64)
  np.testing.assert_allclose(value, want(wide), rtol=1e-4)
  slope = (want(wide + 1e-5 * direction) - want(wide - 1e-5 * direction)) / 2e-5
  got = (np.float64(grad) * direction).sum()
  np.testing.assert_allclose(got, slope, rtol=1e-3)


# ---- controller ----

def controlled(scores, batch=8, target=0.6, every=4, images=1000, p=0.0):
  """p after each update, from one compiled program."""
  @quick.jit
  def update(controller, scores):
    return ada.adjust(ada.observe(controller, scores), batch, target, every,
                      images)
  controller, out = ada.start(p), []
  for score in scores:
    controller = update(controller, jnp.asarray(score, jnp.float32))
    out.append(float(controller.p))
  assert update._cache_size() == 1
  assert jax.tree.map(jnp.shape, controller) == ada.Controller((), (), ())
  return np.array(out), controller


def test_p_rises_where_d_knows_the_real_images_and_stops_at_1():
  got, _ = controlled(np.full((240, 8), 3.0))
  want = np.minimum((np.arange(1, 241) // 4) * 8 * 4 / 1000, 1)
  np.testing.assert_allclose(got, want, atol=1e-5)
  assert got[2] == 0 and got[-1] == 1


def test_p_falls_where_scores_are_mixed_and_stops_at_0():
  scores = np.tile([2.0, -1.0], (100, 4))
  got, _ = controlled(scores, p=0.5)
  want = np.maximum(0.5 - (np.arange(1, 101) // 4) * 8 * 4 / 1000, 0)
  np.testing.assert_allclose(got, want, atol=1e-5)
  assert got[-1] == 0


@pytest.mark.parametrize('batch, target, every, images', [
    (16, 0.6, 4, 20_000), (5, 0.2, 1, 500), (64, 0.6, 8, 500_000)])
def test_p_is_that_of_the_published_rule(batch, target, every, images):
  rng = np.random.default_rng(0)
  # How often D is right drifts to and fro about the target.
  right = 0.5 + target / 2 + 0.2 * np.sin(
      np.arange(400) / 15 + 3)
  scores = np.where(rng.uniform(size=(batch, 400)) < right, 1, -1).T * (
      rng.uniform(0.1, 5, (400, batch)))
  got, _ = controlled(scores, batch, target, every, images, p=0.3)
  p, want, signs = 0.3, [], []
  for i, score in enumerate(scores, 1):
    signs.extend(np.sign(score))
    if i % every == 0:
      gap = round(np.mean(signs) - target, 6)
      p = min(max(p + np.sign(gap) * batch * every / images, 0), 1)
      signs = []
    want.append(p)
  np.testing.assert_allclose(got, want, atol=2e-5)
  assert got.max() > 0.3 > got.min()


def test_a_score_of_zero_is_neither_and_the_target_itself_is_still():
  got, controller = controlled(np.zeros((3, 8)), p=0.5)
  np.testing.assert_array_equal(got, 0.5)
  assert (float(controller.sign_sum), float(controller.count)) == (0, 24)
  got, controller = controlled(np.tile([1., 1, 1, -1], (4, 2)), target=0.5,
                               p=0.25)
  np.testing.assert_array_equal(got, 0.25)
  assert (float(controller.sign_sum), float(controller.count)) == (0, 0)


@pytest.mark.parametrize('policy, found', [
    ('bgcf', 'bgcf'), ('flip', 'flip'), ('b,noise', 'noise'), (None, 'None'),
    (3, '3'), (['xflip', 'hew'], 'hew')])
def test_refusals(policy, found):
  with pytest.raises(errors.InputError, match=f"^d.ada: '{found}'; expected "
                     'one of b, g, c, bg, bgc, xflip, ') as e:
    ada.pipeline(policy, where='d.ada')
  assert '\n' not in str(e.value)
