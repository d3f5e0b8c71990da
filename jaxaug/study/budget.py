"""How many steps an arm takes, and the arithmetic that budgets compare."""
import functools
import math
import typing

import jax
import jax.numpy as jnp
import numpy as np

from jaxaug.core import types
from jaxaug.training import classifier, fit

BUDGETS = ('steps', 'epochs', 'compute')


def base_steps(block: dict, images: int) -> int:
  """Steps of a block's baseline, of so many real training images."""
  return block['steps'] or max(
      1, round(block['epochs'] * images / block['batch_size']))


def steps(budget: str, base: int, *, images: int, mine: int, spare: int,
          step_cost: typing.Callable[[], int]) -> int:
  """Returns how many steps an arm takes.

  Args:
    budget: 'steps', all the same; 'epochs', as often through its own images as
      the baseline through its own; 'compute', what its generator cost less
      than the dearest one of the study, it has as steps.
    base: steps of the baseline.
    images, mine: training images of the baseline and of the arm.
    spare: operations that the arm has left.
    step_cost: operations of one of its steps; called only where it counts.
  """
  if budget == 'epochs':
    return max(1, round(base * mine / images))
  if budget == 'compute' and spare:
    return base + math.ceil(spare / step_cost())
  return base


@functools.cache
def generator_flops(model: types.GenerativeModel, spec: types.ImageSpec,
                    batch_size: int, steps: int) -> int:
  """Operations of a whole training of a generative model."""
  lead = model.d_steps, 1 if model.per_image else batch_size
  if model.feed:  # Of labels that it can learn from, whatever it is.
    labels = np.arange(batch_size * spec.num_classes) % spec.num_classes
    names = tuple(map(str, range(spec.num_classes)))
    lead = model.feed(labels, names, batch_size, 0)(0).shape
  batch = {'image': jax.ShapeDtypeStruct((*lead, *spec[:3]), jnp.uint8),
           'label': jax.ShapeDtypeStruct(lead, jnp.int32)}
  state = jax.eval_shape(model.init, jax.random.key(0))
  rules = [(0, model.step), *((phase.first, phase.step)
                              for phase in model.phases)]
  ends = [first for first, _ in rules[1:]] + [steps]
  return sum((end - first) * flops(rule, state, batch, jax.random.key(0))
             for (first, rule), end in zip(rules, ends, strict=True))


@functools.cache
def classifier_flops(net: fit.Network, batch_size: int) -> int:
  """Operations of one training step of a classifier."""
  rule, spec = fit.build(net), net.spec
  state = jax.eval_shape(rule.init, jax.random.key(0), 1)
  image = jax.ShapeDtypeStruct((batch_size, *spec[:3]), jnp.float32)
  return flops(
      lambda state, image: rule.step(
          state, classifier.plain(image, jnp.zeros(batch_size, jnp.int32),
                                  spec.num_classes), jax.random.key(0)),
      state, image)


def flops(function, *args) -> int:
  """Returns the floating point operations of convolutions and products.

  The rest of a network is a few per cent of it. A multiplication and its
  addition are two; a scan counts every round, a `while` of unknown length one,
  a `cond` its dearest branch.

  Args:
    function: pure; it is traced, not run.
    *args: its arguments, or their shapes.
  """
  return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr) -> int:
  return sum(_one(equation) for equation in jaxpr.eqns)


def _one(equation) -> int:
  name, given = equation.primitive.name, equation.params
  if name == 'dot_general':
    (contracted, _), _ = given['dimension_numbers']
    left = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(
        left[i] for i in contracted)
  if name == 'conv_general_dilated':
    kernel = equation.invars[1].aval.shape
    out = given['dimension_numbers'].rhs_spec[0]
    # Zeros between the pixels of a transposed convolution are no work.
    return 2 * math.prod(equation.outvars[0].aval.shape) * (
        math.prod(kernel) // kernel[out]) // math.prod(given['lhs_dilation'])
  if name == 'jaxaug_convolution':  # jaxaug/nn/cpu/convolution.py
    kernel = (equation.outvars[0] if given['want'] == 'w' else
              equation.invars[1]).aval.shape
    pixels = equation.invars[0].aval.shape[0] * math.prod(given['window'].y)
    return 2 * pixels * math.prod(kernel)
  inner = [_count(getattr(j, 'jaxpr', j)) for value in given.values()
           for j in (value if isinstance(value, (tuple, list)) else (value,))
           if hasattr(getattr(j, 'jaxpr', j), 'eqns')]
  if name == 'cond':
    return max(inner)
  return sum(inner) * (given['length'] if name == 'scan' else 1)
