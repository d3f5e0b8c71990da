"""The embedded part of Fashion-MNIST: 500 train and 200 test images a class.

Xiao, Rasul, Vollgraf, 2017: "Fashion-MNIST: a Novel Image Dataset for
Benchmarking Machine Learning Algorithms" (MIT licence, data/LICENSE).
"""
import pathlib

import numpy as np

from jaxaug.core import types

_FILE = pathlib.Path(__file__).parent / 'embedded' / 'fashion_mnist_small.npz'


def load() -> types.Dataset:
  """Returns the first 500 and 200 images of each class, in official order.

  28x28 grey; `index` is the image's place in the official split.
  """
  with np.load(_FILE) as file:
    train, test = (
        types.Split(file[f'x_{split}'][..., None],
                    file[f'y_{split}'].astype(np.int32),
                    file[f'{split}_index'].astype(np.int64))
        for split in ('train', 'test'))
    names = tuple(file['class_names'].tolist())
  return types.Dataset('fashion_mnist_small', names, train=train, test=test,
                       about={'licence': 'mit'})
