"""What compiles in half the time, for tests: nothing in them runs long."""
import functools

import jax

jit = functools.partial(
    jax.jit, compiler_options={'xla_backend_optimization_level': 0})
