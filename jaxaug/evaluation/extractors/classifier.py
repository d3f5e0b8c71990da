"""Any classifier that a study has trained, as an extractor of its features."""
import os
import pathlib

import jax

from jaxaug.core import errors, files, types
from jaxaug.data import pixels
from jaxaug.nn import pretrained, resize
from jaxaug.training import checkpoint
from jaxaug.training import classifier as supervised


def build(*, weights: str = '') -> types.Extractor:
  """Returns the input of a trained classifier's last layer, and its logits.

  Args:
    weights: folder of a finished run, WORKDIR/classify/NAME-HASH. Images of
      another size are resized to that of its training.

  Raises:
    InputError: no such folder, or one that does not say what its network is.
  """
  folder = pathlib.Path(os.path.expanduser(weights))
  file = folder / 'variables.npz'
  if not weights or not file.is_file():
    near = [f.parent.name for f in folder.parent.glob('*/variables.npz')]
    raise errors.InputError(
        f'weights: {weights!r} is no finished run of a classifier; expected '
        f'WORKDIR/classify/NAME-HASH.{errors.nearest(folder.name, near)}')
  about = files.manifest(folder)
  if 'arguments' not in about:
    raise errors.InputError(
        f'weights: {folder} does not say what its network is; expected one '
        'that this version has trained: delete it and launch its study again.')
  spec = types.ImageSpec(*about['spec'])
  classifier = supervised.of_block(spec, 'weights', about['model'],
                                   about['arguments'])
  like = jax.eval_shape(lambda: supervised.variables(
      classifier.init(jax.random.key(0), 1).net))

  def apply(variables, images):
    if images.shape[-1] != spec.channels:
      raise errors.InputError(
          f'extractor: this classifier was trained on images of '
          f'{spec.channels} channels; expected the same, not '
          f'{images.shape[-1]}.')
    if images.shape[1:3] != (spec.height, spec.width):
      images = resize.resize(images, (spec.height, spec.width), 'clean')
    images = pixels.to_float(images)
    return {'features': classifier.features(variables, images),
            'logits': classifier.predict(variables, images)}

  return types.Extractor(
      f'classifier_{about["arm"]}', apply, checkpoint.read_tree(file, like),
      pretrained.digest(file), f'{about["model"]} of the arm {about["arm"]} of '
      f'a study, {spec.height}x{spec.width}', channels=spec.channels)
