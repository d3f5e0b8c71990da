"""The CIFAR ResNeXt networks of grouped bottlenecks (Xie et al. 2017)."""
import flax.linen as nn

from jaxaug.core import types
from jaxaug.nn import residual


def build(spec: types.ImageSpec, *, depth: int = 101, cardinality: int = 8,
          width: int = 32, widen: int = 4,
          **common: residual.options) -> nn.Module:
  """Returns the network; 101, 8x32d has 32,092,074 parameters at 32x32x3.

  Args:
    spec: any size.
    depth: 9 n + 2, for n blocks in each of three stages.
    cardinality: groups of the 3x3 convolutions.
    width: channels of a group in the first stage, and of the stem.
    widen: the first stage ends in so many times `width` channels.
    **common: see residual.options.
  """
  return residual.resnext(spec, depth, cardinality, width, widen, **common)
