"""Class-conditional GAN of fully connected layers on standardised pixels.

The class-conditional CIFAR-10 network of Denton et al. 2015 (LAPGAN), as their
training code has it at 32x32: noise and one-hot label through two layers of
8,000 rectified units to a linear image; a discriminator of two layers of 1,600
with dropout. See gan/pyramid.py for what standardised means.
"""
import jax.numpy as jnp

from jaxaug.core import errors, types
from jaxaug.generators.gan import gan, pyramid


def build(spec: types.ImageSpec, *, z_dim: int = 100,
          g_widths: tuple[int, ...] = (8000, 8000),
          d_widths: tuple[int, ...] = (1600, 1600), dropout: float = 0.5,
          dtype: str = 'float32', loss: str = 'non_saturating',
          noise: str = 'uniform', optimizer: str = 'sgd', g_lr: float = 0.02,
          d_lr: float = 0.01,
          momentum_growth: float = pyramid.MOMENTUM_GROWTH,
          **rule: gan.make) -> types.GenerativeModel:
  """Returns the class-conditional GAN; by default it trains as the code does.

  That is with 64 real and 64 generated images for D. The code's rate is 0.02
  for both; its loss of D is a mean over the two, ours is their sum, so that D's
  rate is halved. G's batch is twice as large there, and nothing is averaged.

  Args:
    spec: any size.
    z_dim: size of the noise.
    g_widths, d_widths: units of the hidden layers of G and of D.
    dropout: after each hidden layer of D.
    dtype: 'float32' or 'bfloat16', of the computation; weights are float32.
    loss, noise, optimizer, g_lr, d_lr, momentum_growth: see gan.make;
      the momentum grows from 0 to 0.7 in 616,000 steps.
    **rule: see gan.make.

  Raises:
    InputError: a value that cannot be.
  """
  errors.count('z_dim', z_dim)
  errors.counts('g_widths', g_widths)
  errors.counts('d_widths', d_widths)
  errors.between('dropout', dropout, 0, 1, below=True)
  errors.one_of('dtype', dtype, ('float32', 'bfloat16'))
  dtype = jnp.dtype(dtype)
  level = pyramid.Level(
      spec, pyramid.DenseGenerator(spec, tuple(g_widths), dtype),
      pyramid.DenseDiscriminator(spec, tuple(d_widths), dropout, dtype), z_dim)
  return pyramid.make(spec, (level,), loss=loss, noise=noise,
                      optimizer=optimizer, g_lr=g_lr, d_lr=d_lr,
                      momentum_growth=momentum_growth, **rule)
