"""Programs compiled otherwise than by default; see `conftest.py`."""

import functools

import jax

# Of XLA's emitters the older ones compile several times faster. Later releases
# have them no more, and end the process at a flag that they do not know.
HAS_OLD_EMITTERS = jax.__version_info__ < (0, 11)
QUICK_FLAGS = '--xla_cpu_use_fusion_emitters=false' if HAS_OLD_EMITTERS else ''
_emitters = lambda use_new: (
  {'xla_cpu_use_fusion_emitters': use_new} if HAS_OLD_EMITTERS else {}
)

# They compile faster so, and run slower: for slow tests too.
quick_jit = functools.partial(
  jax.jit,
  compiler_options={
    'xla_backend_optimization_level': 0,
    'xla_llvm_disable_expensive_passes': True,
  }
  | _emitters(False),
)
# As users have them.
full_jit = functools.partial(
  jax.jit,
  compiler_options={
    'xla_backend_optimization_level': 3,
    'xla_llvm_disable_expensive_passes': False,
  }
  | _emitters(True),
)
