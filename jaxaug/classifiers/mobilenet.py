"""MobileNet V1 (Howard et al. 2017, table 1) and V2 (Sandler 2018, table 2)."""
import functools
import typing

import flax.linen as nn
import jax.numpy as jnp

from jaxaug.core import errors, types
from jaxaug.nn import layers

# (expansion, channels, blocks, stride of the first); expansion 0 is V1's block.
_V1 = ((0, 64, 1, 1), (0, 128, 2, 2), (0, 256, 2, 2), (0, 512, 6, 2),
       (0, 1024, 2, 2))
_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
       (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
# How many of the five halvings, the stem's first, are left out.
_LEFT_OUT = {'8': 2, '16': 1, '32': 0}


class MobileNet(nn.Module):
  """images [B, H, W, C] in [-1, 1] -> logits float32 [B, num_classes]."""
  spec: types.ImageSpec
  stem: tuple[int, int]                       # Channels, stride.
  blocks: tuple[tuple[int, int, int], ...]    # Expansion, channels, stride.
  last: int                                   # Channels of a 1x1 layer, or 0.
  dropout: float
  dtype: typing.Any

  @nn.compact
  def __call__(self, x, train: bool):
    init = nn.initializers.glorot_uniform()

    def unit(x, channels, name, kernel=1, stride=1, groups=1):
      x = layers.Conv(channels, (kernel, kernel), strides=(stride, stride),
                      feature_group_count=groups, use_bias=False,
                      kernel_init=init, dtype=self.dtype, name=name)(x)
      # In float32, as the residual stream: half precision loses digits.
      return nn.BatchNorm(use_running_average=not train, momentum=0.9,
                          epsilon=1e-3, dtype=jnp.float32,
                          name=f'{name}_norm')(x)

    x = nn.relu6(unit(x, self.stem[0], 'stem', 3, self.stem[1]))
    for i, (expansion, channels, stride) in enumerate(self.blocks):
      h, name = x, f'block_{i}'
      if expansion > 1:
        h = nn.relu6(unit(h, expansion * h.shape[-1], f'{name}_expand'))
      wide = h.shape[-1]
      h = nn.relu6(unit(h, wide, f'{name}_depthwise', 3, stride, wide))
      h = unit(h, channels, f'{name}_project')
      if not expansion:
        x = nn.relu6(h)
      else:
        x = x + h if stride == 1 and x.shape == h.shape else h
    if self.last:
      x = nn.relu6(unit(x, self.last, 'last'))
    x = nn.Dropout(self.dropout, deterministic=not train)(x.mean((1, 2)))
    x = nn.Dense(self.spec.num_classes, kernel_init=init, dtype=self.dtype,
                 name='logits')(x)
    return x.astype(jnp.float32)


def _one_width(width, channels):
  """V1's rule."""
  return max(int(width * channels), 1)


def _eights(width, channels):
  """V2's rule: the nearest multiple of 8 that loses no more than a tenth."""
  wanted = width * channels
  near = max(int(wanted + 4) // 8 * 8, 8)
  return near + 8 if near < 0.9 * wanted else near


def build(spec: types.ImageSpec, *, version: int = 1, width: float = 1.0,
          strides: str = 'auto', dropout: float = 0.001,
          dtype: str = 'float32') -> nn.Module:
  """Returns the network; of 10 classes V1 has 3,217,226 parameters at RGB.

  | strides | halvings left out     | last map of       | 'auto' for sides   |
  |---------|-----------------------|-------------------|--------------------|
  | '8'     | stem and first stage  | 32 pixels: 4x4    | below 64 pixels    |
  | '16'    | stem                  | 64 pixels: 4x4    | of 64 to 127       |
  | '32'    | none, as on ImageNet  | 224 pixels: 7x7   | of 128 and more    |

  '16' is also V1's usual plan for 32 pixels, four times cheaper than '8'.
  Initialised, padded and normalised as in TensorFlow (Glorot; SAME; epsilon
  0.001), except that batch norm averages over 10 steps, for short trainings.

  Args:
    spec: any size.
    version: 1 or 2.
    width: multiplies all channels; V2 rounds them to multiples of 8, and the
      last layer stays at 1280 where `width` is below 1.
    strides: how many pixels of the image make one of the last map, see above;
      'auto' goes by the smaller side.
    dropout: before the last layer; with V2 0.2 is usual.
    dtype: 'float32' or 'bfloat16', of the computation.
  """
  errors.one_of('version', version, (1, 2))
  errors.positive('width', width)
  strides = str(strides)
  errors.one_of('strides', strides, ('auto', *_LEFT_OUT))
  errors.between('dropout', dropout, 0, 1, below=True)
  errors.one_of('dtype', dtype, ('float32', 'bfloat16'))
  if strides == 'auto':
    side = min(spec.height, spec.width)
    strides = '8' if side < 64 else '16' if side < 128 else '32'
  of = functools.partial(_one_width if version == 1 else _eights, width)
  left_out, halvings, blocks = _LEFT_OUT[strides], 1, []
  for expansion, channels, n, stride in _V1 if version == 1 else _V2:
    if stride == 2:
      halvings += 1
      stride = 1 if halvings <= left_out else 2
    blocks += [(expansion, of(channels), stride if i == 0 else 1)
               for i in range(n)]
  last = 0 if version == 1 else _eights(max(width, 1.0), 1280)
  return MobileNet(spec, (of(32), 1 if left_out else 2), tuple(blocks), last,
                   dropout, jnp.dtype(dtype))
