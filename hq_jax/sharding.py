"""The mesh, the shardings of state and batch, and global arrays."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

_DATA_AXIS = 'data'


def make_mesh() -> jax.sharding.Mesh:
  """A mesh of all devices along one axis, `data`.

  >>> make_mesh().axis_names
  ('data',)

  Returns:
    The mesh; its axis is automatic, so that any Flax model runs on it.
  """
  return jax.make_mesh(
    (jax.device_count(),),
    (_DATA_AXIS,),
    axis_types=(jax.sharding.AxisType.Auto,),
  )


def replicated(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """The sharding of the state: a copy on every device."""
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def batch_sharded(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """The sharding of a batch: its first axis over the devices."""
  return jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(_DATA_AXIS)
  )


def check_batch_size(batch_size: int, mesh: jax.sharding.Mesh) -> None:
  """Refuses a batch that the devices cannot share evenly.

  Args:
    batch_size: the global batch size.
    mesh: a mesh of `make_mesh`.

  Raises:
    ValueError: where the devices do not divide it.
  """
  if batch_size % mesh.size:
    raise ValueError(
      f'config.batch_size is {batch_size}, wanted a multiple of the'
      f' {mesh.size} devices'
    )


def to_global(
  batch: Mapping[str, np.ndarray], mesh: jax.sharding.Mesh
) -> dict[str, Any]:
  """Makes global arrays of the batch that each process has read.

  Args:
    batch: this process's share, each array `[local_batch, ...]`.
    mesh: a mesh of `make_mesh`.

  Returns:
    Arrays `[global_batch, ...]`, sharded over their first axis.
  """
  sharding = batch_sharded(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, array)
    for name, array in batch.items()
  }
