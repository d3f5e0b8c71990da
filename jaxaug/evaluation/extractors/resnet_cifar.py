"""The residual networks of CIFAR (He et al. 2016a, section 4.2), trained."""
import os
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np

from jaxaug.core import errors, types
from jaxaug.data import pixels
from jaxaug.nn import pretrained, residual, resize
from jaxaug.training import classifier as supervised


def build(*, weights: str = '') -> types.Extractor:
  """Returns the input of the last layer, 64 features as usual, and logits.

  Args:
    weights: .npz file, arrays named as PyTorch's CIFAR ResNets are; depth,
      width and classes are theirs. See classifiers/resnet.py.

  Raises:
    InputError: no such file, or one of another network.
  """
  if not weights:
    raise errors.InputError(
        'weights: none; expected an .npz file of a trained ResNet of CIFAR; '
        f'{pretrained.STANDINS}.')
  file = pathlib.Path(os.path.expanduser(weights))
  arrays = pretrained.read(file)
  blocks = sum(bool(re.fullmatch(r'layer1\.\d+\.conv1\.weight', name))
               for name in arrays)
  if not blocks or 'conv1.weight' not in arrays or 'linear.bias' not in arrays:
    raise errors.InputError(
        f'weights: {file}: not a ResNet of CIFAR; expected the arrays '
        'conv1.weight, layer1.0.conv1.weight, ..., linear.bias.')
  spec = types.ImageSpec(32, 32, 3, np.size(arrays['linear.bias']))
  depth = 6 * blocks + 2
  network = residual.resnet(spec, depth, width=len(arrays['conv1.weight']),
                            weights=str(file))
  shapes = jax.eval_shape(lambda: network.init(
      jax.random.key(0), jnp.zeros((1, *spec[:3])), train=False))
  fresh = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  classifier = supervised.make(spec, network)

  def apply(variables, images):
    images = pixels.to_float(resize.resize(images, spec[:2], 'clean'))
    return {'features': classifier.features(variables, images),
            'logits': classifier.predict(variables, images)}

  return types.Extractor(
      f'resnet{depth}', apply,
      jax.tree.map(np.asarray, network.pretrained(fresh)),
      pretrained.digest(file),
      f'clean bicubic to 32x32, by mean and deviation; {spec.num_classes} '
      'classes')
