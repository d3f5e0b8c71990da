"""Keeps images that classifiers of the real images give the asked label.

Shmelkov, Schmid and Alahari 2018, "How good is my GAN?", ask the same of a
whole set (GAN-test); as a filter: Lampis et al. 2023, "Bridging the gap:
enhancing the utility of synthetic data via post-processing techniques" (GaFi).
"""
import functools

import numpy as np

from jaxaug.core import errors, types

# Fields of types.Known that it looks at, beside the training split.
NEEDS = ('fit',)

# vote -> how many of n classifiers must agree.
_LEAST = {'none': lambda n: 0, 'any': lambda n: 1,
          'majority': lambda n: n // 2 + 1, 'all': lambda n: n}


def build(known: types.Known, *, classifiers: int = 3, vote: str = 'any',
          confidence: float = 0.1, balance: bool = True):
  """Returns select(images, labels) -> what is dropped.

  For pools: classifiers know training images by heart. Of new images of their
  class, a vote keeps no larger share than classifiers get right, and those that
  are easy; where that is few, use vote='none' and the confidence alone.

  Args:
    known: its training split, and what trains on it.
    classifiers: how many are trained, each from other weights.
    vote: how many must give an image its label: 'any', 'majority' (more than
      half), 'all' or 'none'.
    confidence: least mean probability of the label; 1 over the number of
      classes is no better than chance.
    balance: divide probabilities by the share of each class in the training
      split, so that images of rare classes are not doubted for being rare.
  """
  errors.count('classifiers', classifiers)
  errors.one_of('vote', vote, _LEAST)
  errors.between('confidence', confidence, 0, 1)
  errors.one_of('balance', balance, (True, False))
  train = known.train
  shares = np.bincount(train.labels, minlength=len(known.class_names)) / len(
      train.labels)
  prior = np.log(np.maximum(shares, 1e-9)) if balance else 0

  @functools.cache
  def predictors():
    return [known.fit(train.images, train.labels, run)
            for run in range(classifiers)]

  def select(images, labels):
    if not len(labels):
      return {}
    from scipy import special
    logits = np.stack([np.asarray(predict(images), np.float64)
                       for predict in predictors()]) - prior
    agree = (logits.argmax(-1) == labels).sum(0)
    sure = special.softmax(logits, -1)[:, np.arange(len(labels)), labels]
    dropped = {'label doubted': agree < _LEAST[vote](classifiers),
               'label unsure': sure.mean(0) < confidence}
    if vote == 'none':
      del dropped['label doubted']
    return dropped
  return select
