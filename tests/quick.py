"""What compiles in less than half the time, for tests: they run little."""
import functools
import os

import jax

_STEADY = {'xla_backend_optimization_level': 0}
# Faster still, but XLA's older emitters may compute a value twice, a bit apart:
# not for gradients of a maximum, nor for two outputs that are one to the bit.
# None in jax 0.12.
_QUICK = _STEADY | ({'xla_cpu_use_fusion_emitters': False}
                    if jax.__version_info__ < (0, 11) else {})

# What is computed once has one value wherever it is read, as under jax.jit.
steady = functools.partial(jax.jit, compiler_options=_STEADY)
jit = functools.partial(jax.jit, compiler_options=_QUICK)


def environment(*flags: str) -> dict:
  """Returns that of a process all of whose programs compile so."""
  return os.environ | {'XLA_FLAGS': ' '.join([
      os.environ.get('XLA_FLAGS', ''), *flags,
      *(f'--{name}={str(value).lower()}' for name, value in _QUICK.items())])}
