"""DIANet (Huang et al. 2020): a residual network with one LSTM a stage."""
import flax.linen as nn

from jaxaug.core import errors, types
from jaxaug.nn import residual

_BASES = {  # Family, depth, what else makes the network.
    'resnet56': (residual.resnet, 56, {'block': 'bottleneck'}),
    'resnet164': (residual.resnet, 164, {'block': 'bottleneck'}),
    'preresnet164': (residual.resnet, 164,
                     {'block': 'bottleneck', 'preactivation': True}),
    'wrn52_4': (residual.wide, 52, {'widen': 4}),
    'resnext101': (residual.resnext, 101, {'cardinality': 8, 'width': 32}),
}


def build(spec: types.ImageSpec, *, base: str = 'resnet56', depth: int = 0,
          reduction: int = 4, dropout: float = 0.0, stem_stride: int = 1,
          dtype: str = 'float32') -> nn.Module:
  """Returns the network; by default it has 810,170 parameters at 32x32x3.

  Args:
    spec: any size.
    base: 'resnet56' or 'resnet164' of bottlenecks, 'preresnet164', 'wrn52_4'
      or 'resnext101' (8x32d). Other networks take attention='dia'.
    depth: another depth of the base; 0 for that in its name.
    reduction: how much narrower the LSTM's bottleneck is than its input.
    dropout: of base 'wrn52_4' alone, where the paper has 0.3.
    stem_stride: 2 makes every layer four times cheaper.
    dtype: 'float32' or 'bfloat16', of the computation.
  """
  errors.one_of('base', base, tuple(_BASES))
  errors.count('reduction', reduction)
  errors.count('depth', depth, least=0)
  family, full, how = _BASES[base]
  if family is residual.wide:
    how = how | {'dropout': dropout}
  elif dropout:
    raise errors.InputError(
        f"dropout: {dropout!r}; expected 0 unless base is 'wrn52_4'.")
  return family(spec, depth or full, attention='dia', reduction=reduction,
                stem_stride=stem_stride, dtype=dtype, **how)
