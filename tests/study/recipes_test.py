"""Every recipe makes its network, and has the numbers of its publication."""
import inspect

import jax
import pytest

from configs import recipes
from jaxaug.core import types
from jaxaug.study import schema
from jaxaug.training import fit

RGB = types.ImageSpec(32, 32, 3, 10)
NAMES = [name for name, _ in inspect.getmembers(recipes, inspect.isfunction)
         if not name.startswith('_')]
# Epochs, batch, first rate, last epochs before a drop, factor, weight decay;
# and the weights of the network on CIFAR-10.
PUBLISHED = {
    'densenet': (300, 64, 0.1, (150, 225), 0.1, 1e-4, 1_019_722),
    'densenet_bc': (300, 64, 0.1, (150, 225), 0.1, 1e-4, 769_162),
    'dianet': (200, 64, 0.1, (80, 120, 160), 0.1, 1e-4, 810_170),
    'dianet_resnet164': (180, 128, 0.1, (60, 120), 0.1, 1e-4, 1_923_002),
    'dianet_preresnet164': (164, 128, 0.1, (81, 122), 0.1, 1e-4, 1_938_234),
    'dianet_wrn52_4': (200, 128, 0.1, (80, 120, 160), 0.2, 5e-4, 12_275_386),
    'dianet_resnext101': (300, 128, 0.1, (150, 225), 0.1, 5e-4, 32_959_850),
    'resnet': (182, 128, 0.1, (91, 136), 0.1, 1e-4, 269_722),
    'wideresnet': (200, 128, 0.1, (80, 120, 160), 0.2, 5e-4, 12_049_370),
    'resnext': (300, 128, 0.1, (150, 225), 0.1, 5e-4, 32_092_074),
    'vgg': (164, 128, 0.1, (81, 122), 0.1, 5e-4, 14_728_266),
    'alexnet': (164, 128, 0.01, (81, 122), 0.1, 5e-4, 2_472_266),
    'mobilenet': (100, 64, 4e-4, (), 1, 0.0, 3_217_226),
    'cnn': (100, 100, 0.1, (), 1, 0.0, 258_058),
    'small_cnn': (50, 8, 1e-4, (), 1, 0.0, 14_585),
}


def test_all_are_here():
  assert set(PUBLISHED) == set(NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_recipe(name):
  epochs, batch, rate, drops, factor, decay, weights = PUBLISHED[name]
  block = getattr(recipes, name)().to_dict()
  assert block['epochs'] == epochs and block['batch_size'] == batch
  assert block['learning_rate'] == rate and block['weight_decay'] == decay
  if drops:
    assert block['schedule'] == 'step' and block['decay'] == factor
    # To the nearest of the epochs, whatever they are made of.
    assert tuple(round(m * epochs) for m in block['milestones']) == drops
  else:
    assert block['schedule'] == 'constant'
  rule = fit.build(fit.network(
      RGB, 'config.classifiers.x', block['model'],
      schema.arguments(block, schema.CLASSIFIER)))
  state = jax.eval_shape(rule.init, jax.random.key(0), 1)
  count = sum(x.size for x in jax.tree.leaves(state.net.params))
  assert count == weights
