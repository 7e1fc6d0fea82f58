"""The devices that JAX computes on, before anything is computed."""

import re
from typing import Any

import jax

# What a device says that another process holds, for as long as that lives.
_HELD = re.compile(
  r'in use|ABORTED|UNAVAILABLE|EXHAUSTED|OUT_OF_MEMORY|DEADLINE'
)


def start() -> None:
  """Has JAX find its devices; refuses a kind of which there are none."""
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as error:
    if _HELD.search(str(error)):
      raise
    config: Any = jax.config
    # JAX names itself what it tried; a plugin that is missing it asserts.
    reason = (str(error) or 'no such device').split('\n')[0]
    raise ValueError(
      f'JAX_PLATFORMS is {config.jax_platforms!r}, wanted devices that are'
      f' there: {reason}'
    ) from error
