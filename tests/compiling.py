"""Programs that have more to compile than to compute."""

import functools

import jax

# They compile faster so, and run slower.
quick_jit = functools.partial(
  jax.jit,
  compiler_options={
    'xla_backend_optimization_level': 0,
    'xla_llvm_disable_expensive_passes': True,
  },
)
