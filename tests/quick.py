"""What compiles in less than half the time, for tests: they run little."""
import functools

import jax

# What is computed once has one value wherever it is read, as under jax.jit.
steady = functools.partial(
    jax.jit, compiler_options={'xla_backend_optimization_level': 0})
# Faster still, but XLA's older emitters may compute a value twice, a bit apart:
# not for gradients of a maximum, nor for two outputs that are one to the bit.
jit = functools.partial(jax.jit, compiler_options={
    'xla_backend_optimization_level': 0, 'xla_cpu_use_fusion_emitters': False})
