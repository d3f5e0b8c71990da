"""The wide residual networks (Zagoruyko and Komodakis 2016, table 1)."""
import flax.linen as nn

from jaxaug.core import types
from jaxaug.nn import residual


def build(spec: types.ImageSpec, *, depth: int = 52, widen: int = 4,
          dropout: float = 0.0, **common: residual.options) -> nn.Module:
  """Returns the network; WRN-52-4 has 12,049,370 parameters at 32x32x3.

  Args:
    spec: any size.
    depth: 6 n + 4, for n blocks in each of three stages.
    widen: the stages have 16, 32 and 64 times as many channels.
    dropout: share of a block's values dropped between its convolutions.
    **common: see residual.options.
  """
  return residual.wide(spec, depth, widen, dropout, **common)
