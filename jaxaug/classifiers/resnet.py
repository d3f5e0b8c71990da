"""The CIFAR residual networks (He et al. 2016a, section 4.2; 2016b)."""
import flax.linen as nn

from jaxaug.core import types
from jaxaug.nn import residual


def build(spec: types.ImageSpec, *, depth: int = 20, block: str = 'basic',
          preactivation: bool = False, width: int = 16, weights: str = '',
          **common: residual.options) -> nn.Module:
  """Returns the network; by default it has 269,722 parameters at 32x32x3.

  Args:
    spec: any size.
    depth: 6 n + 2 of basic blocks or 9 n + 2 of bottlenecks, for n blocks in
      each of three stages.
    block: 'basic', whose shortcuts have no weights, or 'bottleneck' with
      projections; ResNet-164 is depth 164 of these.
    preactivation: norm and ReLU before each convolution, not after.
    width: channels of the first stage's 3x3 convolutions.
    weights: .npz file of a trained network of this depth and width, arrays
      named and laid out as PyTorch's CIFAR ResNets are (conv1.weight,
      layer1.0.bn1.running_mean, ..., linear.bias), to start from; '' for random
      weights. Images are then normalised by ImageNet's mean and deviation, grey
      ones as three equal channels. If the file knows another number of classes,
      the last layer starts afresh.
    **common: see residual.options.
  """
  return residual.resnet(spec, depth, block, preactivation, width, weights,
                         **common)
