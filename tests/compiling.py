"""Programs that are compiled as users have them."""

import functools

import jax

# By default the tests compile with few optimizations; see `conftest.py`.
full_jit = functools.partial(
  jax.jit,
  compiler_options={
    'xla_backend_optimization_level': 3,
    'xla_llvm_disable_expensive_passes': False,
    'xla_cpu_use_fusion_emitters': True,
  },
)
