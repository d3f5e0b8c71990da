"""RandAugment: each operation against Pillow's, and the draws."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from jaxaug.augment import rand_augment, standard
from jaxaug.core import errors
from tests import quick

SHAPES = [(28, 28, 1), (32, 32, 3), (21, 34, 3)]
SIGNS = ('rotate', 'shear_x', 'shear_y', 'translate_x', 'translate_y', 'color',
         'contrast', 'brightness', 'sharpness')


def pictures(batch, shape, seed=0):
  """Whole levels: noise, a ramp, few and narrow levels, and one level only."""
  rng = np.random.default_rng(seed)
  levels = rng.integers(0, 256, (batch, *shape))
  levels[1::5] = np.linspace(20, 180, shape[1])[:, None] + np.arange(shape[2])
  levels[2::5] = rng.integers(100, 140, levels[2::5].shape)
  levels[3::5] = 77
  levels[4::5, 4:-4, 4:-4] //= 8
  levels[4::5, :4] = 0
  return levels.astype(np.float32)


def to_levels(images):
  return np.rint((np.asarray(images) + 1) * 127.5).astype(np.uint8)


operations = quick.jit(rand_augment.operate, static_argnames=('padding',))


def operate(name, levels, strength, padding='constant', fill=9.0):
  batch = len(levels)
  return np.asarray(operations(
      levels, np.full(batch, rand_augment.OPS.index(name)),
      np.full(batch, strength, np.float32), padding=padding, fill=fill))


def by_pillow(function, levels):
  """Through uint8 images of Pillow, one by one."""
  def one(image):
    image = image[..., 0] if image.shape[-1] == 1 else image
    out = function(Image.fromarray(image.astype(np.uint8)))
    return np.asarray(out, np.float32).reshape(*image.shape[:2], -1)
  return np.stack([one(image) for image in levels])


def at(strength):
  """The published ranges at a share of their far end."""
  strong = abs(strength)
  factor = 1 + 0.9 * strength
  return {
      'identity': lambda image: image,
      'autocontrast': ImageOps.autocontrast,
      'equalize': ImageOps.equalize,
      'solarize': lambda image: ImageOps.solarize(image, 256 * (1 - strong)),
      'posterize': lambda image: ImageOps.posterize(
          image, 8 - round(4 * strong)),
      'color': lambda image: ImageEnhance.Color(image).enhance(factor),
      'contrast': lambda image: ImageEnhance.Contrast(image).enhance(factor),
      'brightness': lambda image: ImageEnhance.Brightness(image).enhance(
          factor),
      'sharpness': lambda image: ImageEnhance.Sharpness(image).enhance(factor),
  }


@pytest.mark.parametrize('strength', [0.0, 0.3, -0.7, 1.0])
@pytest.mark.parametrize('name', at(0.0))
def test_levels_are_those_of_pillow(name, strength):
  for shape in SHAPES:
    levels = pictures(10, shape)
    got = operate(name, levels, strength)
    gap = np.abs(got - by_pillow(at(strength)[name], levels))
    if name in ('identity', 'equalize', 'solarize', 'posterize'):
      assert not gap.any()
    else:  # Cut down to whole levels, so that a rounding may make one of it.
      assert gap.max() <= 1 and (gap > 0).mean() < 0.01
    if strength or name in ('autocontrast', 'equalize'):
      grey = shape[2] == 1 and name == 'color'
      assert name == 'identity' or grey == np.array_equal(got, levels)
    else:
      np.testing.assert_array_equal(got, levels)


def transform(name, strength, height, width, channels):
  """The published geometry as Pillow does it."""
  fill = 9 if channels == 1 else (9,) * channels
  shear = 0.3 * strength
  matrix = {'shear_x': (1, shear, 0, 0, 1, 0),
            'shear_y': (1, 0, 0, shear, 1, 0),
            'translate_x': (1, 0, -150 / 331 * width * strength, 0, 1, 0),
            'translate_y': (1, 0, 0, 0, 1, -150 / 331 * height * strength)}
  if name == 'rotate':
    return lambda image: image.rotate(30 * strength, fillcolor=fill)
  return lambda image: image.transform(
      image.size, Image.Transform.AFFINE, matrix[name], fillcolor=fill)


@pytest.mark.parametrize('strength', [0.3, -0.3, 1.0, -1.0])
@pytest.mark.parametrize('name', ['rotate', 'shear_x', 'shear_y',
                                  'translate_x', 'translate_y'])
def test_geometry_is_that_of_pillow(name, strength):
  for shape in SHAPES:
    levels = np.random.default_rng(0).integers(0, 256, (10, *shape)).astype(
        np.float32)
    got = operate(name, levels, strength)
    expected = by_pillow(transform(name, strength, *shape), levels)
    # The nearest of two pixels that are as near may be either.
    assert (got != expected).mean() < 0.005
    assert (got != levels).mean() > 0.2


def test_what_lies_outside():
  levels = pictures(3, (9, 12, 3))
  right = round(150 / 331 * 12)
  for padding, mode in (('edge', 'edge'), ('reflect', 'reflect')):
    got = operate('translate_x', levels, 1.0, padding=padding)
    wide = np.pad(levels, ((0, 0), (0, 0), (right, 0), (0, 0)), mode)
    np.testing.assert_array_equal(got, wide[:, :, :12])
  got = operate('translate_x', levels, 1.0, fill=200.0)
  assert (got[:, :, :right] == 200).all()


def test_each_image_has_its_own_operation_and_strength():
  levels = pictures(56, SHAPES[2])
  operation = np.random.default_rng(0).permutation(np.arange(56) % 14)
  strength = np.random.default_rng(1).uniform(-1, 1, 56).astype(np.float32)
  def run(levels, operation, strength):
    return np.asarray(operations(levels, operation, strength,
                                 padding='constant', fill=9.0))
  got = run(levels, operation, strength)
  for i in range(56):
    alone = operate(rand_augment.OPS[operation[i]],
                    np.roll(levels, -i, 0), strength[i])
    np.testing.assert_array_equal(got[i], alone[0])


def test_layers_draw_operations_and_signs_alike():
  """From the draws themselves, by the operations that they lead to."""
  apply = rand_augment.make(1, 15)
  levels = pictures(1, (16, 17, 3))
  images = np.repeat(levels / np.float32(127.5) - 1, 7000, 0)
  out = to_levels(quick.jit(apply)(jax.random.key(0), images))
  kinds, counts = np.unique(out.reshape(7000, -1), axis=0, return_counts=True)
  share = dict(zip(map(bytes, kinds), counts, strict=True))
  expected = {}
  for name in rand_augment.OPS:
    for sign in (0.5, -0.5):
      made = operate(name, levels, sign, fill=0.0).astype(np.uint8).tobytes()
      expected[made] = expected.get(made, 0) + 1 / 28
  assert share.keys() == expected.keys() and len(share) == 14 + len(SIGNS)
  observed = [share[k] for k in expected]
  assert stats.chisquare(
      observed, 7000 * np.array([*expected.values()])).pvalue > 1e-4


def test_layers_follow_each_other():
  images = pictures(64, SHAPES[1]) / 127.5 - 1
  key, count = jax.random.key(4), 64
  uniform = np.asarray(jax.random.uniform(key, (3, 2, count)))
  levels = pictures(64, SHAPES[1])
  for which, side in uniform:
    levels = np.asarray(operations(
        levels, (which * 14).astype(int),
        np.where(side < 0.5, -0.4, 0.4).astype(np.float32)))
  got = quick.jit(rand_augment.make(3, 12))(key, images)
  np.testing.assert_allclose(got, levels / 127.5 - 1, atol=1e-6)


def test_as_a_part_of_the_standard_augmentation():
  images = jnp.asarray(pictures(64, SHAPES[1]) / 127.5 - 1)
  key = jax.random.key(2)
  def run(**kwargs):
    return np.asarray(quick.jit(standard.make(**kwargs))(key, images))
  plain, full = {'flip': 0.5, 'shift': 3}, {'flip': 0.5, 'shift': 3,
                                            'cutout': 6}
  rand = {'rand_ops': 2, 'rand_magnitude': 9}
  apply = rand_augment.make(2, 9)
  after = np.asarray(quick.jit(apply)(jax.random.fold_in(key, 0),
                                      run(**plain)))
  # Cutout comes last, where it would have been.
  hidden = run(**full) == 0
  got = run(**full, **rand)
  assert (got[hidden] == 0).all() and hidden.any((1, 2, 3)).all()
  np.testing.assert_allclose(got[~hidden], after[~hidden], atol=2e-7)


def test_contract():
  for shape in SHAPES:
    images = pictures(32, shape) / 127.5 - 1
    apply = standard.make(rand_ops=2, rand_magnitude=30)
    run = quick.jit(apply)
    out = np.asarray(run(jax.random.key(0), images))
    assert out.shape == images.shape and out.dtype == np.float32
    assert out.min() >= -1 and out.max() <= 1
    np.testing.assert_allclose(np.rint((out + 1) * 127.5), (out + 1) * 127.5,
                               atol=1e-4)
    other = pictures(32, shape, seed=1) / 127.5 - 1
    other[3] = images[3]
    np.testing.assert_array_equal(run(jax.random.key(0), other)[3], out[3])
    half = jax.eval_shape(apply, jax.random.key(0),
                          jnp.asarray(images, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16


def test_images_of_one_or_two_pixels():
  for shape in ((1, 1, 1), (2, 1, 3), (1, 3, 3)):
    levels = pictures(14, shape)
    out = operations(levels, np.arange(14), np.full(14, 0.5, np.float32))
    assert out.shape == levels.shape and np.isfinite(out).all()


@pytest.mark.parametrize('kwargs,words', [
    (dict(rand_ops=-1), 'augment.rand_ops: -1'),
    (dict(rand_ops=1.5), 'augment.rand_ops: 1.5'),
    (dict(rand_ops=2, rand_magnitude=31), 'from 0 to 30'),
    (dict(rand_ops=2, rand_magnitude=-1), 'augment.rand_magnitude: -1'),
    (dict(rand_magnitude='9'), 'augment.rand_magnitude')])
def test_bad_arguments(kwargs, words):
  with pytest.raises(errors.InputError, match='^[^\n]+$') as caught:
    standard.make(**kwargs)
  assert words in str(caught.value)
