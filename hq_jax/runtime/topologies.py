"""Slices of Cloud TPUs that need not be at hand, as libtpu knows them.

It holds the TPU's compiler and runs on any machine. It compiles for these
devices, and runs nothing.
"""

from collections.abc import Sequence
import os
import re
from typing import Any, NamedTuple

import jax

# Of one chip: GiB of memory, and 10^12 operations of bfloat16 a second, from
# https://cloud.google.com/tpu/docs/v4 and the pages of the others beside it.
_CHIPS = {
  'v4': (32, 275),
  'v5e': (16, 197),
  'v5p': (95, 459),
  'v6e': (32, 918),
}
_FLAT = ('2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
_CUBIC = ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8')
_NAMES = {('v5e:', 'v6e:'): _FLAT, ('v4:', 'v5p:'): _CUBIC}
# A chip of v4 has two cores, which JAX sees as one device.
_OPTIONS = {'v4': {'chip_config_name': 'megacore'}}


class Slice(NamedTuple):
  """Chips that are compiled for.

  Attributes:
    name: as libtpu takes it: 'v5e:4x8'.
    devices: one a chip.
    memory_bytes: of each chip.
    operations_per_second: of each chip, at its peak, with bfloat16.
  """

  name: str
  devices: Sequence[Any]
  memory_bytes: int
  operations_per_second: float


def find(name: str) -> Slice:
  """Finds a slice, before JAX has looked for devices of its own."""
  kind, _, shape = name.partition(':')
  if kind not in _CHIPS or not re.fullmatch(r'\d+x\d+(x\d+)?', shape):
    raise _unknown(name)
  # Else JAX takes its compiler for TPUs that are here, waits for the server
  # that would describe them, and refuses a second process.
  jax.config.update('jax_platforms', 'cpu')
  for variable, value in (
    ('ALLOW_MULTIPLE_LIBTPU_LOAD', '1'),
    ('TPU_ACCELERATOR_TYPE', 'v5litepod-4'),
    ('TPU_MIN_LOG_LEVEL', '3'),
    ('TPU_SKIP_MDS_QUERY', '1'),
    ('TPU_STDERR_LOG_LEVEL', '3'),
    ('TPU_WORKER_HOSTNAMES', 'localhost'),
  ):
    os.environ.setdefault(variable, value)
  from jax.experimental import topologies
  import libtpu  # noqa: F401  # Where it is missing, this says so.

  try:
    found = topologies.get_topology_desc(
      platform='tpu', topology_name=name, **_OPTIONS.get(kind, {})
    )
  except jax.errors.JaxRuntimeError as error:
    if 'INVALID_ARGUMENT' not in str(error):
      raise
    raise _unknown(name) from error
  gigabytes, teraops = _CHIPS[kind]
  return Slice(name, found.devices, gigabytes * 2**30, teraops * 1e12)


def _unknown(name: str) -> ValueError:
  known = '; '.join(
    f'{" or ".join(kinds)} with {", ".join(shapes)}'
    for kinds, shapes in _NAMES.items()
  )
  return ValueError(
    f'compile_only is {name!r}, wanted {known}; or a larger one of these kinds'
  )
