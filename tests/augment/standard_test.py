"""Augmentations against scipy, numpy and dm_pix, and their draws."""
import colorsys
import functools
import itertools
import os
import pathlib
import subprocess
import sys
import time

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from jaxaug.augment import diff_augment, mix, standard
from jaxaug.core import errors
from jaxaug.data import pixels
from tests import quick

SHAPES = [(28, 28, 1), (32, 32, 3), (21, 34, 3)]
EVERYTHING = dict(flip=0.5, shift=(3, 2), rotation=15.0, zoom=0.1, shear=5,
                  brightness=0.2, contrast=0.3, saturation=0.3, cutout=6)
POLICY = 'color,translation,cutout'


def noise(batch, shape, seed=0):
  rng = np.random.default_rng(seed)
  return rng.uniform(-1, 1, (batch, *shape)).astype(np.float32)


compiled = functools.cache(quick.jit)


def run(apply, images, seed=0):
  return np.asarray(compiled(apply)(jax.random.key(seed), images))


def assert_share(count, n, p):
  """Within five standard deviations of a binomial."""
  assert abs(count - n * p) <= 5 * np.sqrt(n * p * (1 - p))


def assert_uniform(values, expected):
  """The values that occur are the expected ones, about equally often."""
  found, counts = np.unique(values, axis=0, return_counts=True)
  np.testing.assert_array_equal(found, expected)
  assert stats.chisquare(counts).pvalue > 1e-6


def test_bytes_become_floats_exactly_at_both_ends():
  got = pixels.to_float(jnp.arange(256, dtype=jnp.uint8))
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, np.linspace(-1, 1, 256), atol=1e-6)
  assert float(got[0]) == -1 and float(got[-1]) == 1


# ---- standard ----

@pytest.mark.parametrize('kwargs', [
    {}, dict(flip=0.0), dict(rotation=30, rotation_p=0), dict(zoom=(1, 1)),
    dict(shift=4, shift_p=0.0), dict(cutout=0), dict(contrast=(1.0, 1.0))])
def test_off_is_the_identity_at_no_cost(kwargs):
  images = jnp.asarray(noise(2, (5, 6, 3)))
  assert standard.make(**kwargs)(jax.random.key(0), images) is images


@pytest.mark.parametrize('name,shape', [
    *(('everything', shape) for shape in SHAPES),
    *(pytest.param(name, SHAPES[2], marks=pytest.mark.slow)
      for name in EVERYTHING)])
def test_contract(name, shape):
  kwargs = EVERYTHING if name == 'everything' else {name: EVERYTHING[name]}
  images = noise(16, shape)
  apply = standard.make(**kwargs)
  out = run(apply, images)
  assert out.shape == images.shape and out.dtype == np.float32
  assert out.min() >= -1 and out.max() <= 1
  np.testing.assert_array_equal(out, run(apply, images))
  assert not np.array_equal(out, images)
  assert not np.array_equal(out, run(apply, images, seed=1))
  # One image's result has nothing to do with the other images.
  other = noise(16, shape, seed=1)
  other[3] = images[3]
  np.testing.assert_array_equal(run(apply, other)[3], out[3])
  half = jax.eval_shape(apply, jax.random.key(0),
                        jnp.asarray(images, jnp.bfloat16))
  assert half.dtype == jnp.bfloat16


def test_each_operation_has_draws_of_its_own():
  images = noise(500, (4, 4, 1))
  flips = run(standard.make(flip=0.5), images)
  both = run(standard.make(flip=0.5, brightness=(0.1, 0.1)), images)
  np.testing.assert_array_equal(both, np.minimum(flips + np.float32(0.1), 1))
  flipped = (flips != images).any((1, 2, 3))
  moved = run(standard.make(shift=(0, 1)), images)
  still = (moved == images).all((1, 2, 3))
  assert_share((flipped & still).sum(), 500, 1 / 6)


@pytest.mark.parametrize('share', [0.2, 1.0])
def test_flip(share):
  images = noise(3000, (3, 5, 1))
  out = run(standard.make(flip=share), images)
  flipped = (out != images).any((1, 2, 3))
  np.testing.assert_array_equal(out[flipped], images[flipped, :, ::-1])
  np.testing.assert_array_equal(
      out[flipped], dm_pix.flip_left_right(images[flipped]))
  assert_share(flipped.sum(), 3000, share)


@pytest.mark.parametrize('padding,fill', [
    ('constant', -1.0), ('constant', 0.25), ('edge', 0.0), ('reflect', 0.0)])
def test_shift_is_padding_and_cropping(padding, fill):
  images = noise(3000, (5, 7, 3))
  out = run(standard.make(shift=(2, 3), padding=padding, fill=fill), images)
  wide = np.pad(images, ((0, 0), (2, 2), (3, 3), (0, 0)), padding,
                **(dict(constant_values=fill) if padding == 'constant' else {}))
  places = list(itertools.product(range(5), range(7)))
  equal = np.stack([(out == wide[:, y:y + 5, x:x + 7]).all((1, 2, 3))
                    for y, x in places])
  assert equal.any(0).all()
  assert_uniform(np.asarray(places)[equal.argmax(0)], places)


def test_shift_share():
  images = noise(2000, (6, 6, 1))
  out = run(standard.make(shift=2, shift_p=0.5), images)
  assert_share((out == images).all((1, 2, 3)).sum(), 2000, 0.5 + 0.5 / 25)


def matrix(height, width, angle=0.0, zoom=1.0, shear=0.0, shift=(0, 0)):
  """The pull matrix and offset, as a product of homogeneous matrices."""
  a, t = np.radians(angle), np.tan(np.radians(shear))
  centre = np.array([(height - 1) / 2, (width - 1) / 2])

  def homogeneous(linear, offset=(0, 0)):
    return np.block([[np.asarray(linear, float), np.reshape(offset, (2, 1))],
                     [np.zeros((1, 2)), np.ones((1, 1))]])
  rotate = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
  push = (homogeneous(np.eye(2), centre + shift) @ homogeneous(rotate)
          @ homogeneous([[1, 0], [t, 1]]) @ homogeneous(zoom * np.eye(2))
          @ homogeneous(np.eye(2), -centre))
  return np.linalg.inv(push)


def pull(image, transform, mode, fill):
  return np.stack([ndimage.affine_transform(
      channel.astype(np.float64), transform, order=1, mode=mode, cval=fill)
      for channel in np.moveaxis(image, -1, 0)], -1)


MODES = {'constant': 'grid-constant', 'edge': 'nearest', 'reflect': 'mirror'}


@pytest.mark.parametrize('shape,padding,angle,zoom,shear', [
    (SHAPES[2], 'constant', -171, 1, 0), (SHAPES[2], 'constant', 0, 1.3, 0),
    (SHAPES[2], 'constant', 0, 0.7, 0), (SHAPES[2], 'constant', 0, 1, 20),
    (SHAPES[0], 'constant', 45, 0.9, -10), (SHAPES[1], 'edge', 30, 0.9, -10),
    (SHAPES[2], 'reflect', 45, 0.9, -10)])
def test_warp_equals_scipy(shape, padding, angle, zoom, shear):
  images = noise(2, shape)
  out = run(standard.make(
      rotation=(angle, angle), zoom=(zoom, zoom), shear=(shear, shear),
      padding=padding, fill=-0.5), images)
  transform = matrix(*shape[:2], angle, zoom, shear)
  for image, got in zip(images, out, strict=True):
    np.testing.assert_allclose(
        got, pull(image, transform, MODES[padding], -0.5), atol=1e-5)


@quick.jit
def rotated(images, angle):
  return jax.vmap(lambda image: dm_pix.rotate(
      image, jnp.radians(angle), mode='constant', cval=-1.0))(images)


@pytest.mark.parametrize('angle', [-20.0, 133.0])
def test_rotation_equals_scipy_and_dm_pix_inside(angle):
  images = noise(2, (28, 31, 3))
  out = run(standard.make(rotation=(angle, angle)), images)
  expected = ndimage.rotate(images.astype(np.float64), angle, (2, 1), False,
                            order=1, cval=-1.0)
  other = np.asarray(rotated(images, angle))
  y, x = np.mgrid[:28, :31]
  inside = np.hypot(y - 13.5, x - 15) < 12
  np.testing.assert_allclose(out[:, inside], expected[:, inside], atol=1e-5)
  np.testing.assert_allclose(out[:, inside], other[:, inside], atol=3e-5)


def test_rotation_is_counter_clockwise():
  images = noise(1, (9, 9, 3))
  out = run(standard.make(rotation=(90, 90)), images)
  np.testing.assert_allclose(out[0], np.rot90(images[0]), atol=1e-5)


def test_shift_and_warp_are_one_resampling():
  images = noise(60, (12, 15, 1))
  out = run(standard.make(shift=1, rotation=(20, 20)), images)
  moves = list(itertools.product((-1, 0, 1), repeat=2))
  found = set()
  for image, got in zip(images, out, strict=True):
    gaps = [np.abs(got - pull(image, matrix(12, 15, 20, shift=move),
                              'grid-constant', -1.0)).max() for move in moves]
    assert min(gaps) < 1e-5
    found.add(moves[np.argmin(gaps)])
  assert found == set(moves)


@pytest.mark.parametrize('name,value', [
    ('rotation', (10, 45)), ('zoom', 0.3), ('shear', 30)])
def test_images_that_a_warp_leaves_out_are_untouched(name, value):
  images = noise(1000, (8, 7, 1))
  out = run(standard.make(**{name: value, f'{name}_p': 0.3}), images)
  changed = (out != images).any((1, 2, 3))
  assert_share(changed.sum(), 1000, 0.3)


@pytest.mark.parametrize('given,low,high', [
    (40, -40, 40), ([0, 45], 0, 45)])
def test_angles_fill_their_range(given, low, high):
  # The red and green ramps tell where the right neighbour came from.
  y, x = np.mgrid[-2:3, -2:3] / 8
  image = np.stack([y, x, 0 * x], -1).astype(np.float32)
  out = run(standard.make(rotation=given, padding='edge'),
            np.broadcast_to(image, (2000, 5, 5, 3)))
  angle = np.degrees(np.arctan2(out[:, 2, 3, 0], out[:, 2, 3, 1]))
  spread = stats.uniform(low, high - low)
  assert low - 1e-3 <= angle.min() and angle.max() <= high + 1e-3
  assert stats.kstest(angle, spread.cdf).pvalue > 1e-6


@pytest.mark.parametrize('name,given,low,high', [
    ('brightness', 0.3, -0.3, 0.3), ('contrast', 0.5, 0.5, 1.5),
    ('contrast', (0.2, 0.6), 0.2, 0.6)])
def test_color_ranges(name, given, low, high):
  image = np.array([-0.5, 0.5], np.float32).reshape(1, 2, 1, 1)
  out = run(standard.make(**{name: given}), np.repeat(image, 2000, 0))
  values = out.mean((1, 2, 3)) if name == 'brightness' else (
      out[:, 1] - out[:, 0]).ravel()
  assert low - 1e-6 <= values.min() and values.max() <= high + 1e-6
  assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-6


def test_color_definitions():
  images = noise(4, (9, 6, 3))
  out = run(standard.make(brightness=(0.4, 0.4)), images)
  np.testing.assert_allclose(out, np.clip(images + 0.4, -1, 1), atol=1e-6)
  out = run(standard.make(contrast=(1.7, 1.7)), images)
  mean = images.mean((1, 2), keepdims=True)
  np.testing.assert_allclose(
      out, np.clip(mean + 1.7 * (images - mean), -1, 1), atol=1e-6)
  out = run(standard.make(saturation=(0.5, 0.5)), images)
  for before, after in zip(images.reshape(-1, 3), out.reshape(-1, 3),
                           strict=True):
    hue, saturation, value = colorsys.rgb_to_hsv(*(before.astype(float) + 1)/2)
    expected = colorsys.hsv_to_rgb(hue, saturation / 2, value)
    np.testing.assert_allclose(after, 2 * np.array(expected) - 1, atol=1e-5)
  grey = noise(4, (9, 6, 1))
  np.testing.assert_array_equal(run(standard.make(saturation=0.9), grey),
                                grey)


def test_a_color_that_is_left_out_changes_nothing():
  images = noise(1000, (4, 4, 3))
  for name in ('brightness', 'contrast', 'saturation'):
    out = run(standard.make(**{name: 0.5, f'{name}_p': 0.4}), images)
    assert_share((out != images).any((1, 2, 3)).sum(), 1000, 0.4)


def squares(height, width, size):
  """Every mask, by clamping the indices as the published code does."""
  def lines(length, size):
    for centre in range(length + 1 - size % 2):
      row = np.zeros(length, bool)
      row[np.clip(np.arange(size) + centre - size // 2, 0, length - 1)] = True
      yield row
  return [(y[:, None] & x[None]).ravel() for y, x in itertools.product(
      lines(height, size[0]), lines(width, size[1]))]


@pytest.mark.parametrize('size', [(2, 4), (4, 5)])
def test_cutout(size):
  images = noise(20000, (5, 7, 1))
  out = run(standard.make(cutout=size, cutout_p=0.5, cutout_fill=0.0),
            images)
  hidden = (out == 0)
  np.testing.assert_array_equal(out[~hidden], images[~hidden])
  hidden = hidden.reshape(20000, -1)
  cut = hidden.any(1)
  assert_share(cut.sum(), 20000, 0.5)
  expected = np.unique(squares(5, 7, size), axis=0)
  assert len(expected) == len(squares(5, 7, size))
  assert_uniform(hidden[cut], expected)


@pytest.mark.parametrize('kwargs,words', [
    (dict(flip=1.5), 'augment.flip: 1.5'), (dict(flip=True), 'augment.flip'),
    (dict(flip=float('nan')), 'augment.flip'),
    (dict(shift=-1), 'augment.shift'), (dict(shift=1.5), 'augment.shift'),
    (dict(shift=(1, 2, 3)), 'augment.shift'),
    (dict(rotation=-5), 'augment.rotation'),
    (dict(rotation=(45, 0)), 'augment.rotation'),
    (dict(rotation=181), '-180 and 180'), (dict(rotation='15'), "'15'"),
    (dict(rotation=None), 'augment.rotation'),
    (dict(rotation=float('nan')), 'augment.rotation'),
    (dict(zoom=1.0), 'augment.zoom'), (dict(zoom=(0, 1)), 'augment.zoom'),
    (dict(shear=89), 'augment.shear'), (dict(contrast=2), 'augment.contrast'),
    (dict(brightness=(0, 3)), 'augment.brightness'),
    (dict(saturation=(1,)), 'augment.saturation'),
    (dict(rotation_p=2), 'augment.rotation_p'),
    (dict(cutout=0.5), 'augment.cutout'), (dict(cutout_p=-1), 'cutout_p'),
    (dict(fill=2), 'augment.fill'), (dict(cutout_fill=-3), 'cutout_fill'),
    (dict(padding='reflekt'), "Did you mean 'reflect'")])
def test_bad_arguments(kwargs, words):
  with pytest.raises(errors.InputError, match='^[^\n]+$') as caught:
    standard.make(**kwargs)
  assert words in str(caught.value)


@pytest.mark.parametrize('kwargs', [dict(shift=9), dict(cutout=(4, 8))])
def test_larger_than_the_image(kwargs):
  apply = standard.make(**kwargs, where='config.arms[1].augment')
  with pytest.raises(errors.InputError, match=r'arms\[1\].*images are 8x7'):
    apply(jax.random.key(0), jnp.zeros((2, 8, 7, 1)))


def test_rotation_is_ten_times_faster_than_dm_pix():
  images = jnp.asarray(noise(128, (32, 32, 3)))
  key = jax.random.key(0)
  ours = jax.jit(standard.make(rotation=15))
  theirs = jax.jit(lambda key, images: jax.vmap(dm_pix.rotate)(
      images, jax.random.uniform(key, (128,), minval=-0.26, maxval=0.26)))

  def fastest(apply):
    times = []
    for _ in range(6):
      start = time.perf_counter()
      jax.block_until_ready(apply(key, images))
      times.append(time.perf_counter() - start)
    return min(times)
  assert fastest(theirs) > 10 * fastest(ours)


# ---- DiffAugment ----

def test_diff_augment_color():
  """x -> mean + factor (x - mean), recovered from the results."""
  images = noise(2000, (6, 5, 3)) * 3  # Nothing is clipped.
  out = run(diff_augment.make('brightness'), images)
  b = (out - images).mean((1, 2, 3))
  np.testing.assert_allclose(out, images + b[:, None, None, None], atol=1e-6)
  assert stats.kstest(b, stats.uniform(-0.5, 1).cdf).pvalue > 1e-6

  for name, axes, low, width in [('saturation', 3, 0, 2),
                                 ('contrast', (1, 2, 3), 0.5, 1)]:
    out = run(diff_augment.make(name), images)
    mean = images.mean(axes, keepdims=True)
    away = images - mean
    factor = (away * (out - mean)).sum((1, 2, 3)) / (away**2).sum((1, 2, 3))
    np.testing.assert_allclose(
        out, mean + factor[:, None, None, None] * away, atol=1e-5)
    spread = stats.uniform(low, width)
    assert factor.min() >= low - 1e-5 and factor.max() <= low + width + 1e-5
    assert stats.kstest(factor, spread.cdf).pvalue > 1e-6


def test_diff_augment_color_is_its_three_parts():
  images = noise(8, (6, 5, 3))
  parts = diff_augment.make('brightness, saturation, contrast')
  np.testing.assert_array_equal(
      run(diff_augment.make('color'), images), run(parts, images))
  grey = noise(8, (6, 5, 1))
  np.testing.assert_allclose(
      run(diff_augment.make('saturation'), grey), grey, atol=1e-6)


@pytest.mark.parametrize('fill', [0.0, -1.0])
def test_diff_augment_translation(fill):
  images = noise(4000, (8, 20, 1))  # Shifts of up to 1 and 3 pixels.
  out = run(diff_augment.make('translation', fill=fill), images)
  wide = np.pad(images, ((0, 0), (1, 1), (3, 3), (0, 0)), constant_values=fill)
  places = list(itertools.product(range(3), range(7)))
  equal = np.stack([(out == wide[:, y:y + 8, x:x + 20]).all((1, 2, 3))
                    for y, x in places])
  assert equal.any(0).all()
  assert_uniform(np.asarray(places)[equal.argmax(0)], places)


def test_diff_augment_translation_reaches_four_pixels():
  for side in (28, 32):
    image = np.zeros((3000, side, side, 1), np.float32)
    image[:, 16, 16] = 1
    out = run(diff_augment.make(['translation']), image)
    _, rows, columns, _ = np.nonzero(out)
    for at in (rows, columns):
      assert_uniform(at[:, None], np.arange(12, 21)[:, None])


@pytest.mark.parametrize('shape,fill', [((6, 6, 3), 0.0), ((5, 8, 1), -1.0)])
def test_diff_augment_cutout(shape, fill):
  images = noise(10000, shape)
  out = run(diff_augment.make(('cutout',), fill=fill), images)
  hidden = (out == fill).all(3)
  np.testing.assert_array_equal(out[~hidden], images[~hidden])
  size = [int(side / 2 + 0.5) for side in shape[:2]]
  assert_uniform(hidden.reshape(10000, -1),
                 np.unique(squares(*shape[:2], size), axis=0))


def test_diff_augment_cutout_of_32_pixels():
  out = run(diff_augment.make('cutout'), np.ones((20000, 32, 32, 1)))
  rows = (out == 0).any((2, 3)).sum(1)
  assert rows.max() == 16 and rows.min() == 8  # At the centres 0 and 32.
  assert_share((rows == 8).sum(), 20000, 2 / 33)
  assert_share((rows == 16).sum(), 20000, 17 / 33)


def test_diff_augment_order_and_nothing():
  images = jnp.asarray(noise(64, (8, 8, 1)) + 3)
  for policy in ('', (), [], ' , '):
    apply = diff_augment.make(policy)
    assert apply(jax.random.key(0), images) is images
  one, other = (run(diff_augment.make(policy), images) for policy in (
      'cutout,brightness', ('brightness', 'cutout')))
  assert (other == 0).any() and not (one == 0).all(3).any()


@pytest.mark.parametrize('channels,apply', [
    (3, diff_augment.make(POLICY)),
    (1, diff_augment.make('translation', fill=-1)),
    (1, standard.make(flip=0.5, shift=1, rotation=20, contrast=0.2))])
def test_gradients(channels, apply):
  # Away from the clip the result is affine in the images: any step is exact.
  images, step = noise(3, (5, 6, channels)) * 0.2, 0.05
  @quick.jit
  def run(images):
    augment = functools.partial(apply, jax.random.key(3))
    steps = step * jnp.eye(30 * channels).reshape(-1, 1, 5, 6, channels)
    def square(images):
      return jnp.square(augment(images)).sum() / 2
    def penalty(images):
      return jnp.square(jax.grad(square)(images)).sum() / 2
    out = augment(images)
    moved = jax.vmap(lambda by: augment(images + by))(steps)
    return (moved - out) / step, out, *(
        jax.grad(f)(images) for f in (square, penalty))
  matrix, out, *grads = (np.asarray(x).reshape(*x.shape[:-3], -1)
                         for x in run(images))
  first = np.einsum('pnq,nq->np', matrix, out)
  second = np.einsum('pnq,rnq,nr->np', matrix, matrix, first)
  assert np.abs(second).max() > 0.1
  for got, want in zip(grads, (first, second), strict=True):
    np.testing.assert_allclose(got, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('kwargs,words', [
    (dict(policy='color,translate'), "Did you mean 'translation'"),
    (dict(policy=['cutuot']), "config.x: 'cutuot'; expected one of color"),
    (dict(policy='cutout', cutout_ratio=1.5), 'config.x.cutout_ratio'),
    (dict(policy='color', translation_ratio=-1), 'translation_ratio'),
    (dict(policy='color', fill=7), 'config.x.fill')])
def test_diff_augment_bad_arguments(kwargs, words):
  with pytest.raises(errors.InputError, match='^[^\n]+$') as caught:
    diff_augment.make(**kwargs, where='config.x')
  assert words in str(caught.value)


# ---- MixUp and CutMix ----

def pairs(batch, shape=(7, 10, 3), classes=4, seed=0):
  """Images and targets, and others; a pixel says from which side it comes."""
  rng = np.random.default_rng(seed)
  images = rng.uniform(-1, -0.1, (batch, *shape)).astype(np.float32)
  others = rng.uniform(0.1, 1, (batch, *shape)).astype(np.float32)
  targets, other_targets = (
      rng.dirichlet(np.ones(classes), batch).astype(np.float32)
      for _ in range(2))
  return images, targets, others, other_targets


@functools.cache
def mixer(kind, alpha):
  return quick.jit(mix.make(kind, alpha))


def mixed(kind, alpha, given, seed=0):
  return [np.asarray(x) for x in mixer(kind, alpha)(
      jax.random.key(seed), *given)]


@pytest.mark.parametrize('alpha', [
    0.2, pytest.param(1.0, marks=pytest.mark.slow), 4.0])
def test_mixup_is_a_mean_of_images_and_targets_alike(alpha):
  given = pairs(3000)
  images, targets, others, other_targets = given
  got, target = mixed('mixup', alpha, given)
  away = images - others
  share = (away * (got - others)).sum((1, 2, 3)) / (away**2).sum((1, 2, 3))
  column = share[:, None, None, None]
  np.testing.assert_allclose(got, column * images + (1 - column) * others,
                             atol=1e-5)
  np.testing.assert_allclose(
      target, share[:, None] * targets + (1 - share[:, None]) * other_targets,
      atol=1e-5)
  np.testing.assert_allclose(target.sum(1), 1, atol=1e-5)
  assert stats.kstest(np.clip(share, 0, 1),
                      stats.beta(alpha, alpha).cdf).pvalue > 1e-4


@pytest.mark.parametrize('shape', [(7, 10, 3), (40, 40, 1)])
def test_cutmix_targets_are_the_exact_shares_of_pixels(shape):
  given = pairs(3000, shape)
  images, targets, others, other_targets = given
  got, target = mixed('cutmix', 1.0, given)
  taken = (got > 0).all(3)
  np.testing.assert_array_equal(
      got, np.where(taken[..., None], others, images))
  share = taken.mean((1, 2))[:, None]
  np.testing.assert_allclose(
      target, (1 - share) * targets + share * other_targets, atol=1e-6)
  rows, columns = taken.any(2), taken.any(1)
  np.testing.assert_array_equal(taken, rows[:, :, None] & columns[:, None])
  for line in (rows, columns):  # In one piece.
    assert (np.abs(np.diff(line.astype(int), axis=1)).sum(1) <= 2).all()
  assert (share == 0).any() and share.max() > 0.7


def test_cutmix_boxes_have_the_sides_of_the_drawn_share():
  # Where no border clips it, a box is the floor of side * sqrt(1 - share).
  given = pairs(3000, (40, 40, 1))
  taken = (mixed('cutmix', 1.0, given)[0] > 0)[..., 0]
  rows, columns = taken.any(2), taken.any(1)
  inside = ~(rows[:, 0] | rows[:, -1] | columns[:, 0] | columns[:, -1])
  np.testing.assert_array_equal(rows.sum(1)[inside], columns.sum(1)[inside])
  # 1 - share is uniform: an uncut side of s has the mass of its square, times
  # the share of places that leave it uncut.
  sides = rows.sum(1)[inside & (rows.sum(1) > 0)]
  side = np.arange(1, 39)
  mass = ((side + 1)**2 - side**2) * ((39 - side) / (
      41 - side % 2))**2
  expected = mass / mass.sum() * len(sides)
  counts = np.bincount(sides, minlength=39)[1:]
  big = expected >= 5
  counts = np.append(counts[big], counts[~big].sum())
  expected = np.append(expected[big], expected[~big].sum())
  assert stats.chisquare(counts, expected).pvalue > 1e-4


@pytest.mark.parametrize('kind', ['', 'none'])
def test_no_mix_is_the_identity(kind):
  given = pairs(2)
  images, targets = mix.make(kind)(jax.random.key(0), *given)
  assert images is given[0] and targets is given[1]


@pytest.mark.parametrize('kind, alpha', [('mixup', 4.0), ('cutmix', 1.0)])
def test_mix_of_each_sample_is_its_own(kind, alpha):
  given = pairs(3000)
  got = mixed(kind, alpha, given)
  for a, b in zip(got, mixed(kind, alpha, given), strict=True):
    np.testing.assert_array_equal(a, b)
  other = pairs(3000, seed=1)
  for mine, theirs in zip(given, other, strict=True):
    theirs[3] = mine[3]
  for a, b in zip(got, mixed(kind, alpha, other), strict=True):
    np.testing.assert_array_equal(a[3], b[3])
  assert not np.array_equal(got[0], mixed(kind, alpha, given, seed=1)[0])
  half = [jnp.asarray(x, jnp.bfloat16) for x in given]
  out = jax.eval_shape(mix.make(kind), jax.random.key(0), *half)
  assert [x.dtype for x in out] == [jnp.bfloat16] * 2


def test_a_small_alpha_is_finite():
  images, targets = mixed('mixup', 1e-3, pairs(500))
  assert np.isfinite(images).all() and np.isfinite(targets).all()


@pytest.mark.parametrize('given,words', [
    (dict(kind='mixupp'), "^arm.mix: 'mixupp'; .*Did you mean 'mixup'"),
    (dict(kind='mixup', alpha=0), '^arm.mix_alpha: 0; expected a number above'),
    (dict(kind='cutmix', alpha=float('nan')), '^arm.mix_alpha: nan')])
def test_mix_bad_arguments(given, words):
  with pytest.raises(errors.InputError, match=words) as caught:
    mix.make(**given)
  assert '\n' not in str(caught.value)


# ---- devices ----

SHARDED = """
import jax, numpy as np
from tests import quick
from tests.augment import standard_test as t
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jaxaug.augment import diff_augment, mix, standard
assert jax.device_count() == 8
mesh = jax.make_mesh((8,), ('batch',), axis_types=(AxisType.Auto,))
key = jax.random.key(5)
images = t.noise(64, t.SHAPES[2])
split = jax.device_put(images, NamedSharding(mesh, P('batch')))
for atol, apply in (
    (1e-5, standard.make(**t.EVERYTHING)),
    (0, standard.make(flip=0.5, shift=4, padding='reflect', cutout=5)),
    (1e-6, standard.make(rand_ops=2)),
    (1e-6, lambda key, images: mix.make('mixup')(
        key, images, images[:, 0, 0], -images, images[:, 0, 1])[0]),
    (0, lambda key, images: mix.make('cutmix')(
        key, images, images[:, 0, 0], -images, images[:, 0, 1])[0]),
    (1e-6, diff_augment.make('color')),
    (0, diff_augment.make('translation,cutout'))):
  compiled = quick.jit(apply).lower(key, split).compile()
  out = compiled(key, split)
  assert out.sharding.spec == P('batch'), out.sharding
  for word in ('all-gather', 'all-to-all', 'collective-permute'):
    assert word not in compiled.as_text(), word
  np.testing.assert_allclose(out, t.run(apply, images, 5), 0, atol)
"""


@pytest.mark.slow  # training/devices_test.py trains so.
def test_eight_devices_give_what_one_gives():
  here = pathlib.Path(__file__).parents[2]
  env = os.environ | dict(
      XLA_FLAGS='--xla_force_host_platform_device_count=8',
      JAX_PLATFORMS='cpu',
      PYTHONPATH=os.pathsep.join([str(here)]))
  done = subprocess.run([sys.executable, '-c', SHARDED], env=env,
                        capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-2000:]
