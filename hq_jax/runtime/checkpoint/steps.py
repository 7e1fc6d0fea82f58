"""Reads of the items of one step."""

import os
from typing import Any

import jax
import orbax.checkpoint as ocp

from hq_jax.runtime.checkpoint import integrity
from hq_jax.runtime.checkpoint import orbax_io

ITEMS = ('state', 'data', 'meta')


def read_item(path: str, name: str, handler: Any, args: Any) -> Any:
  """Reads an item, and waits for no other process: it may have failed."""
  process = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(
    primary_host=process,
    active_processes={process},
    barrier_sync_key_prefix=f'process_{process}',
  )
  with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
    return reader.restore(os.path.join(path, name), args=args)


def read_meta(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads the JSON items and checks their digest, which stays in `meta`."""
  for name in ITEMS:
    if not os.path.isdir(os.path.join(path, name)):
      raise orbax_io.DamagedError(f'has no {name}')
  json_args = ocp.args.JsonRestore()
  data, meta = (
    read_item(path, name, ocp.JsonCheckpointHandler(), json_args)
    for name in ('data', 'meta')
  )
  signed = {key: value for key, value in meta.items() if key != 'digest'}
  if meta.get('digest') != integrity.get_digest(data, signed):
    raise orbax_io.DamagedError('has another data or meta than was saved')
  return data, meta
