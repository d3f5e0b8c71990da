"""Counts the arithmetic of a step, so that budgets can be compared."""
import math

import jax


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
