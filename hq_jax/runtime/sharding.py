"""The mesh, the shardings of state and batch, and global arrays.

Devices have two axes: along `data` they hold the same state, along `fsdp` each
holds its share of it. A batch is shared out along both.
"""

from collections.abc import Mapping
from typing import Any

import chex
import jax
from jax.experimental import multihost_utils
import numpy as np

_DATA_AXIS = 'data'
_FSDP_AXIS = 'fsdp'


def make_mesh(fsdp: int = 1) -> jax.sharding.Mesh:
  """A mesh of all devices along two axes, `data` and `fsdp`.

  >>> make_mesh().axis_names
  ('data', 'fsdp')

  Args:
    fsdp: so many devices share one copy of the state, a divisor of their
      number; neighbours, which are on the same host where it has enough.

  Returns:
    The mesh; its axes are automatic, so that any Flax model runs on it.

  Raises:
    ValueError: where the devices cannot be divided so.
  """
  num_devices = jax.device_count()
  if fsdp < 1 or num_devices % fsdp:
    raise ValueError(
      f'fsdp is {fsdp}, wanted a divisor of the {num_devices} devices'
    )
  return jax.make_mesh(
    (num_devices // fsdp, fsdp),
    (_DATA_AXIS, _FSDP_AXIS),
    axis_types=(jax.sharding.AxisType.Auto,) * 2,
  )


def replicated(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """The sharding of what every device has a copy of."""
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def batch_sharded(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """The sharding of a batch: its first axis over all devices."""
  return jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(mesh.axis_names)
  )


def is_cut(mesh: jax.sharding.Mesh) -> bool:
  """Whether devices share a state instead of having a copy each.

  >>> is_cut(make_mesh())
  False

  Args:
    mesh: a mesh of `make_mesh`.

  Returns:
    True where `fsdp` has more than one device.
  """
  return mesh.shape.get(_FSDP_AXIS, 1) > 1


def state_sharded(tree: chex.ArrayTree, mesh: jax.sharding.Mesh) -> Any:
  """The shardings of parameters, and of all that has their shapes.

  An array of two axes or more is cut along the last axis that the devices of
  `fsdp` divide: the output channels, where that can be. Vectors, which are few
  bytes and are needed whole by the batch norms, are on every device.

  >>> import jax.numpy as jnp
  >>> shardings = state_sharded({'kernel': jnp.ones((4, 2))}, make_mesh())
  >>> shardings['kernel'].spec == jax.sharding.PartitionSpec(None, 'fsdp')
  True

  Args:
    tree: arrays, or their shapes.
    mesh: a mesh of `make_mesh`; on one without `fsdp` all is replicated.

  Returns:
    A tree of the same structure.
  """
  size = mesh.shape.get(_FSDP_AXIS)

  def get_sharding(leaf):
    shape = leaf.shape
    cut = [i for i, n in enumerate(shape) if size and n and not n % size]
    if len(shape) < 2 or not cut:
      return replicated(mesh)
    axes = [_FSDP_AXIS if i == cut[-1] else None for i in range(len(shape))]
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))

  return jax.tree.map(get_sharding, tree)


def with_shardings(tree: chex.ArrayTree, mesh: jax.sharding.Mesh) -> Any:
  """Shapes, types and shardings of a state: what a checkpoint is read into.

  Args:
    tree: arrays, or their shapes and types.
    mesh: the devices.

  Returns:
    A tree of `jax.ShapeDtypeStruct`.
  """
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    tree,
    state_sharded(tree, mesh),
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


def to_devices(tree: chex.ArrayTree, mesh: jax.sharding.Mesh) -> Any:
  """Puts arrays of the host in their places, each device its own part.

  Args:
    tree: arrays of NumPy, the same in all processes; those of JAX stay where
      they are.
    mesh: the devices.

  Returns:
    The tree, sharded by `state_sharded`.
  """

  def put(leaf, sharding):
    if isinstance(leaf, jax.Array):
      return leaf
    leaf = np.asarray(leaf)
    return jax.make_array_from_callback(
      leaf.shape, sharding, lambda index: leaf[index]
    )

  return jax.tree.map(put, tree, state_sharded(tree, mesh))


def to_host(tree: chex.ArrayTree) -> Any:
  """Brings whole arrays to the host of every process, one after another.

  Args:
    tree: arrays of any sharding; all processes call this together.

  Returns:
    The tree with arrays of NumPy.
  """

  def get(leaf):
    if isinstance(leaf, jax.Array) and not (
      leaf.is_fully_addressable or leaf.is_fully_replicated
    ):
      return multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)

  return jax.tree.map(get, tree)
