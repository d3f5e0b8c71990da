"""Keeps every image of a draw."""
import numpy as np


def build(train):
  """Returns select(images, labels) -> bool [N]; `train` is not looked at."""
  del train
  return lambda images, labels: np.ones(len(labels), bool)
