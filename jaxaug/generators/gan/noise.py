"""The noise that a generator starts from."""
import math
import typing

import jax

from jaxaug.core import errors


class Noise(typing.NamedTuple):
  """draw(key, batch, most=inf) -> z [batch, size], of this kind, none beyond
  `most`; `truncation` is that of samples."""
  size: int
  kind: str
  draw: typing.Callable
  truncation: float


def make(*, z_dim: int, noise: str = 'normal',
         truncation: float = 0.0) -> Noise:
  """Returns what G starts from.

  Args:
    z_dim: size of the noise.
    noise: 'normal', or 'uniform' from -1 to 1.
    truncation: noise beyond it is drawn again in `sample`; 0 for none.
  """
  errors.one_of('noise', noise, ('normal', 'uniform'))
  errors.between('truncation', truncation, 0, math.inf)
  def draw(key, batch, most=math.inf):
    # The same as drawing again what is beyond.
    if noise == 'uniform':
      return jax.random.uniform(key, (batch, z_dim), minval=-min(most, 1),
                                maxval=min(most, 1))
    if most < math.inf:
      return jax.random.truncated_normal(key, -most, most, (batch, z_dim))
    return jax.random.normal(key, (batch, z_dim))
  return Noise(z_dim, noise, draw, truncation)
