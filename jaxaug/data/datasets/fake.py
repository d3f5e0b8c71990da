"""Tiny made-up images whose classes a small network learns in seconds."""
import numpy as np

from jaxaug.core import errors, memory, types


def load(*, height: int = 8, width: int = 8, channels: int = 1,
         num_classes: int = 3, per_class: int = 20, test_per_class: int = 10,
         seed: int = 0) -> types.Dataset:
  """Makes a set: each class is its own fixed pattern under noise.

  Args:
    height, width, channels: of the images; channels is 1 or 3.
    num_classes: the classes are named 'class_0', 'class_1', ...
    per_class, test_per_class: training and test images a class.
    seed: of the patterns and the noise.
  """
  for key, value in (('height', height), ('width', width),
                     ('num_classes', num_classes), ('per_class', per_class),
                     ('test_per_class', test_per_class)):
    errors.count(f'config.data.{key}', value)
  if channels not in (1, 3):
    raise errors.InputError(
        f'config.data.channels: expected 1 or 3, got {channels}.')
  # Of the noise, in float64.
  memory.check('config.data', 24 * height * width * channels * num_classes *
               max(per_class, test_per_class), f'{per_class} images a class')
  random = np.random.default_rng(seed)
  patterns = random.uniform(60, 195, (num_classes, height, width, channels))

  def split(count):
    labels = np.tile(np.arange(num_classes, dtype=np.int32), count)
    noisy = patterns[labels] + random.normal(
        0, 20, (len(labels), height, width, channels))
    return types.Split(np.clip(np.rint(noisy), 0, 255).astype(np.uint8),
                       labels, np.arange(len(labels)))

  return types.Dataset('fake', tuple(f'class_{c}' for c in range(num_classes)),
                       train=split(per_class), test=split(test_per_class))
