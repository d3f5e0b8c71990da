"""What compiles in a third of the time, for tests: nothing in them runs long."""
import functools

import jax

jit = functools.partial(jax.jit, compiler_options={
    'xla_backend_optimization_level': 0, 'xla_cpu_use_fusion_emitters': False})
