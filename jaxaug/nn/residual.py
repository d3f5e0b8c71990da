"""Residual networks for small images, with attention as a plug-in.

One module is all of them: a 3x3 stem, three stages of blocks, global average
pooling. A family is a choice of what a block holds:
ResNet (He et al. 2016a, section 4.2), pre-activation (He et al. 2016b, figure
1b), wide (Zagoruyko and Komodakis 2016, table 1), ResNeXt (Xie et al. 2017,
figure 3c). Attention: squeeze-and-excitation (Hu et al. 2018, figure 2) or
DIA-LSTM (Huang et al. 2020, section 3.3), one unit shared by a stage's blocks.
"""
import functools
import re
import typing

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from jaxaug.core import errors, files, types
from jaxaug.nn import layers

_INIT = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
_REDUCTION = {'none': 1, 'se': 16, 'dia': 4}  # The papers'.


class SqueezeExcite(nn.Module):
  """Scales channels by what the whole image holds: [B, H, W, C] -> the same."""
  reduction: int

  @nn.compact
  def __call__(self, x):
    channels = x.shape[-1]
    s = nn.Dense(max(channels // self.reduction, 1), name='reduce')(
        x.mean((1, 2)))
    s = nn.Dense(channels, name='expand')(nn.relu(s))
    return x * nn.sigmoid(s)[:, None, None]


class DiaUnit(nn.Module):
  """The LSTM of DIANet, one step: (pooled [B, N], state) -> state.

  A state is (h, c), both [B, N]; None is zero. h, in (0, 1), scales the
  channels. Unlike an LSTM's, a map to the gates is two layers with a bottleneck
  of N // reduction, and h is o * sigmoid(c).
  """
  reduction: int

  @nn.compact
  def __call__(self, pooled, state=None):
    n = pooled.shape[-1]
    h, c = (jnp.zeros_like(pooled),) * 2 if state is None else state
    def gates(x, name):
      x = nn.Dense(max(n // self.reduction, 1), name=f'{name}_reduce')(x)
      return nn.Dense(4 * n, name=f'{name}_expand')(nn.relu(x))

    i, f, g, o = jnp.split(gates(pooled, 'input') + gates(h, 'hidden'), 4, -1)
    c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * nn.sigmoid(c), c


class Residual(nn.Module):
  """images [B, H, W, C] in [-1, 1] -> logits float32 [B, num_classes]."""
  spec: types.ImageSpec
  blocks: int                    # In each of the three stages.
  stem: int                      # Channels of the stem,
  widths: tuple[int, int, int]   # and at the end of each stage's blocks;
  inner: tuple[int, ...] = ()    # of a bottleneck's 3x3; () for basic blocks.
  cardinality: int = 1           # Groups of a bottleneck's 3x3.
  preactivation: bool = False
  # Where channels change: 'pad' with zeros, 'project' the block's input, or
  # 'project_active', the same after the block's first norm and ReLU.
  shortcut: str = 'project'
  dropout: float = 0.0           # Before a block's last convolution.
  weights: str = ''              # File that `pretrained` reads.
  attention: str = 'none'
  reduction: int = 1
  stem_stride: int = 1
  dtype: typing.Any = jnp.float32

  @nn.compact
  def __call__(self, x, train: bool):
    # Norms, attention, the residual stream and the last layer stay in float32:
    # in half precision they lose digits, and XLA's CPU backend of jax 0.11
    # makes norms NaN.
    norm = functools.partial(nn.BatchNorm, use_running_average=not train,
                             momentum=0.9, dtype=jnp.float32)
    if self.weights:  # Grey becomes three equal channels.
      x = layers.by_imagenet(x / 2 + 0.5)
    x = self._conv(self.stem, 3, 'stem', self.stem_stride)(x)
    x = x.astype(jnp.float32)
    if not self.preactivation:
      x = nn.relu(norm(name='stem_norm')(x))
    for stage in range(3):
      if self.attention == 'dia':
        unit, state = DiaUnit(self.reduction, name=f'stage_{stage}_dia'), None
      for block in range(self.blocks):
        name = f'stage_{stage}_block_{block}'
        stride = 2 if stage and not block else 1
        h, active = self._branch(x, stage, stride, name, norm, train)
        if self.attention == 'se':
          h = SqueezeExcite(self.reduction, name=f'{name}_se')(h)
        elif self.attention == 'dia':
          state = unit(h.mean((1, 2)), state)
          h = h * state[0][:, None, None]
        x = h + self._shortcut(x, active, stage, stride, name, norm)
        if not self.preactivation:
          x = nn.relu(x)
    if self.preactivation:
      x = nn.relu(norm(name='norm')(x))
    return nn.Dense(self.spec.num_classes, name='logits')(x.mean((1, 2)))

  @nn.nowrap
  def _conv(self, features, kernel, name, stride=1, groups=1):
    # Padded alike on both sides: a strided 3x3 stands on the pixels that the
    # shortcut keeps, and pretrained weights expect it.
    return layers.Conv(features, (kernel,) * 2, strides=(stride,) * 2,
                       padding=kernel // 2, feature_group_count=groups,
                       use_bias=False, dtype=self.dtype, kernel_init=_INIT,
                       name=name)

  @nn.nowrap
  def _branch(self, x, stage, stride, name, norm, train):
    """Returns what a block adds, and its input after the first norm."""
    width, active = self.widths[stage], x
    convs = [(width, 3, stride), (width, 3)]
    if self.inner:
      inner = self.inner[stage]
      convs = [(inner, 1), (inner, 3, stride, self.cardinality), (width, 1)]
    for i, (features, kernel, *how) in enumerate(convs):
      last = i == len(convs) - 1
      if self.preactivation:
        x = nn.relu(norm(name=f'{name}_norm_{i}')(x))
        active = active if i else x
      if last and self.dropout:
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
      x = self._conv(features, kernel, f'{name}_conv_{i}', *how)(x)
      if not self.preactivation:
        x = norm(name=f'{name}_norm_{i}')(x)
        x = x if last else nn.relu(x)
    if self.preactivation and self.attention != 'none':
      x = norm(name=f'{name}_attention_norm')(x)
    return x, active

  @nn.nowrap
  def _shortcut(self, x, active, stage, stride, name, norm):
    width = self.widths[stage]
    grow = width - x.shape[-1]
    if not grow:
      return x
    if self.shortcut == 'project_active':
      x = active
    x = x[:, ::stride, ::stride]
    if self.shortcut == 'pad':
      return jnp.pad(x, ((0, 0),) * 3 + ((grow // 2, grow - grow // 2),))
    x = self._conv(width, 1, f'{name}_shortcut')(x).astype(jnp.float32)
    return x if self.preactivation else norm(name=f'{name}_shortcut_norm')(x)

  @nn.nowrap
  def pretrained(self, variables):
    """Returns the variables with the arrays of the file `weights`.

    The file is read while tracing. Where it knows another number of classes,
    the layer `logits` stays as it is: fresh, to be learnt. Without a file all
    does.

    Args:
      variables: {'params', 'batch_stats'}, of `init`.

    Raises:
      InputError: no such file, or an array is missing, too many, or of another
        shape than depth and width give.
    """
    if not self.weights:
      return variables
    arrays = _read(self.weights)
    flat = flax.traverse_util.flatten_dict(variables)
    paths = {_torch_name(path): path for path in flat}
    expected = {name: _torch_shape(flat[path].shape)
                for name, path in paths.items()}
    head = ('linear.weight', 'linear.bias')
    classes = np.size(arrays.get(head[1], ()))
    for name in head:
      expected[name] = (classes, *expected[name][1:])
    _compare(arrays, expected, f'weights: {self.weights}',
             f'those of depth {6 * self.blocks + 2} and width {self.stem}')
    for name, array in arrays.items():
      if name not in head or classes == self.spec.num_classes:
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        flat[paths[name]] = jnp.asarray(array, jnp.float32)
    return flax.traverse_util.unflatten_dict(flat)


def _torch_shape(shape):
  return (*shape[:1:-1], *shape[:2]) if len(shape) == 4 else shape[::-1]


def _torch_name(path: tuple[str, ...]) -> str:
  """Returns what the PyTorch CIFAR ResNets call an array of ours.

  stem -> conv1, stem_norm -> bn1, stage_0_block_1_conv_0 -> layer1.1.conv1,
  stage_0_block_1_norm_0 -> layer1.1.bn1, logits -> linear; kernel and scale ->
  weight, mean and var -> running_mean and running_var.
  """
  _, module, leaf = path
  found = re.fullmatch(r'stage_(\d)_block_(\d+)_(conv|norm)_(\d)', module)
  if found:
    stage, block, kind, i = found.groups()
    kind = {'conv': 'conv', 'norm': 'bn'}[kind]
    module = f'layer{int(stage) + 1}.{block}.{kind}{int(i) + 1}'
  else:
    module = {'stem': 'conv1', 'stem_norm': 'bn1', 'logits': 'linear'}[module]
  leaf = {'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}.get(
      leaf, 'weight')
  return f'{module}.{leaf}'


def _compare(arrays: dict, expected: dict, where: str, which: str):
  """Raises InputError unless `arrays` have the names and shapes expected."""
  def refuse(name, what):
    raise errors.InputError(
        f'{where}: array {name!r} {what}; expected {which}.')
  if missing := sorted(expected.keys() - arrays.keys()):
    refuse(missing[0], 'is missing')
  for name, array in arrays.items():
    if name not in expected:
      refuse(name, 'is not one of this network')
    if array.shape != expected[name]:
      refuse(name, f'is {list(array.shape)}, not {list(expected[name])}')
    if array.dtype.kind != 'f' or not np.isfinite(array).all():
      refuse(name, 'is not of finite floats')


def _read(path) -> dict:
  """Returns the file's arrays, without PyTorch's counters of batches."""
  found = files.read_npz(
      path, 'weights', lambda key: not key.endswith('num_batches_tracked'))
  return {key: array for key, array in found.items() if array is not None}


def options(*, attention: str = 'none', reduction: int = 0,
            stem_stride: int = 1, dtype: str = 'float32') -> dict:
  """Checks what every family takes; returns fields of Residual.

  Args:
    attention: 'none', 'se' for squeeze-and-excitation in every block, or 'dia'
      for a DIA-LSTM in every stage.
    reduction: how much narrower its bottleneck is than its input; 0 for the
      paper's, 16 for 'se' and 4 for 'dia'.
    stem_stride: 2 makes every layer four times cheaper.
    dtype: 'float32' or 'bfloat16', of the computation.

  Raises:
    InputError: a value that cannot be.
  """
  errors.one_of('attention', attention, tuple(_REDUCTION))
  errors.one_of('dtype', dtype, ('float32', 'bfloat16'))
  errors.count('reduction', reduction, least=0)
  errors.count('stem_stride', stem_stride)
  return dict(attention=attention, stem_stride=stem_stride,
              reduction=reduction or _REDUCTION[attention],
              dtype=jnp.dtype(dtype))


def _blocks(depth, convs, rest):
  """Returns the blocks of a stage, a block being `convs` convolutions."""
  errors.count('depth', depth)
  per = 3 * convs
  if depth < per + rest or depth % per != rest:
    some = ', '.join(str(per * n + rest) for n in (1, 2, 3, 6))
    raise errors.InputError(
        f'depth: {depth}; expected {per} n + {rest}, such as {some}.')
  return depth // per


def _stages(width):
  return tuple(width << stage for stage in range(3))


def resnet(spec: types.ImageSpec, depth: int, block: str = 'basic',
           preactivation: bool = False, width: int = 16, weights: str = '',
           **common: options) -> Residual:
  """Returns a ResNet; see classifiers.resnet.build."""
  errors.one_of('block', block, ('basic', 'bottleneck'))
  errors.one_of('preactivation', preactivation, (False, True))
  errors.count('width', width)
  basic, how = block == 'basic', options(**common)
  blocks = _blocks(depth, 2 if basic else 3, 2)
  net = Residual(spec, blocks, width, _stages(width if basic else 4 * width),
                 () if basic else _stages(width), weights=weights,
                 shortcut='pad' if basic else 'project',
                 preactivation=preactivation, **how)
  if weights:
    if not basic or preactivation or how['attention'] != 'none':
      raise errors.InputError(
          f"weights: {weights!r}; expected '' unless block is 'basic', "
          "preactivation False and attention 'none'.")
    image = jnp.zeros((1, spec.height, spec.width, spec.channels))
    jax.eval_shape(lambda key: net.pretrained(net.init(key, image, False)),
                   jax.random.key(0))  # Refuses a wrong file now.
  return net


def wide(spec: types.ImageSpec, depth: int, widen: int = 4,
         dropout: float = 0.0, **common: options) -> Residual:
  """Returns a wide ResNet; see classifiers.wideresnet.build."""
  errors.count('widen', widen)
  errors.between('dropout', dropout, 0, 1, below=True)
  return Residual(spec, _blocks(depth, 2, 4), 16, _stages(16 * widen),
                  preactivation=True, shortcut='project_active',
                  dropout=dropout, **options(**common))


def resnext(spec: types.ImageSpec, depth: int, cardinality: int = 8,
            width: int = 32, widen: int = 4, **common: options) -> Residual:
  """Returns a ResNeXt; see classifiers.resnext.build."""
  for name, value in (('cardinality', cardinality), ('width', width),
                      ('widen', widen)):
    errors.count(name, value)
  return Residual(spec, _blocks(depth, 3, 2), width, _stages(widen * width),
                  _stages(cardinality * width), cardinality=cardinality,
                  **options(**common))
