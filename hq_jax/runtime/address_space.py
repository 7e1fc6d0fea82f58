"""The limit on a process's address space, `ulimit -v`."""

import importlib.util

from hq_jax.runtime import cores

# Measured with small networks on two cores: training wants 2.5 GiB, JAX alone
# 1.4, onnxruntime 0.25. Below that, threads of libraries cannot be started:
# these wait for them, or end the process.
TRAINING_BYTES = 3 << 30
JAX_BYTES = 3 << 29
COMMAND_BYTES = 3 << 26
_BYTES_PER_CORE = 1 << 26  # for the stacks of a few threads


def check(needed_bytes: int) -> None:
  """Refuses a limit under which there would be no word, and no end."""
  if importlib.util.find_spec('resource') is None:  # Not on every system.
    return
  import resource

  limit, _ = resource.getrlimit(resource.RLIMIT_AS)
  needed_bytes += _BYTES_PER_CORE * cores.count_cores()
  if limit != resource.RLIM_INFINITY and limit < needed_bytes:
    raise ValueError(
      f'the address space is limited to {limit:,} bytes, wanted at least'
      f' {needed_bytes:,}: ulimit -v {needed_bytes >> 10}, or unlimited'
    )
