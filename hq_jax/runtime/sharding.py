"""The mesh, the shardings of state and batch, and global arrays.

The mesh has two axes: along `data` devices hold the same state, along `fsdp`
each holds a part of it. A batch is split along both.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import math
from typing import Any

import chex
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from hq_jax.core import branches
from hq_jax.core import trees

_DATA_AXIS = 'data'
_FSDP_AXIS = 'fsdp'
_TILE = (8, 128)
_CPU_OPTIONS = {
  # LLVM's first level: our steps are as fast as at the third, and compile in
  # five sixths of the time, what initializes a network in a third.
  'xla_backend_optimization_level': 1,
  # All that XLA gives to YNNPACK by itself but convolutions, for which that has
  # one thread: a step of a small ResNet takes two thirds of the time.
  'xla_cpu_experimental_ynn_fusion_type': (
    'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE'
  ),
}
# How arrays are split that every device has a copy of.
ON_ALL = jax.sharding.PartitionSpec()


def make_mesh(
  fsdp: int = 1, devices: Sequence[Any] | None = None
) -> jax.sharding.Mesh:
  """A mesh of devices, by default of all, along two axes, `data` and `fsdp`."""
  num_devices = len(devices) if devices else jax.device_count()
  if fsdp < 1 or num_devices % fsdp:
    raise ValueError(
      f'fsdp is {fsdp}, wanted a divisor of the {num_devices} devices'
    )
  return jax.make_mesh(
    (num_devices // fsdp, fsdp),
    (_DATA_AXIS, _FSDP_AXIS),
    axis_types=(jax.sharding.AxisType.Auto,) * 2,
    devices=devices,
  )


def replicated(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """The sharding of arrays that every device has a copy of."""
  return jax.sharding.NamedSharding(mesh, ON_ALL)


def batch_sharded(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """The sharding of a batch: its first axis over all devices."""
  return jax.sharding.NamedSharding(mesh, batch_spec(mesh))


def batch_spec(mesh: jax.sharding.Mesh | None) -> jax.sharding.PartitionSpec:
  """How a batch is split: its first axis over all devices."""
  return jax.sharding.PartitionSpec(get_axes(mesh))


def state_specs(tree: chex.ArrayTree, mesh: jax.sharding.Mesh | None) -> Any:
  """How parameters, and all arrays that have their shapes, are split.

  An array of two axes or more, not counting those of size 1, is split along the
  last axis that the number of `fsdp` devices divides, mostly the output
  channels. Vectors are replicated: they are few bytes, and batch norms need
  them whole.
  """
  size = 1 if mesh is None else mesh.shape.get(_FSDP_AXIS, 1)

  def get_spec(leaf):
    shape = leaf.shape
    cut = [i for i, n in enumerate(shape) if size > 1 and n and not n % size]
    if sum(n != 1 for n in shape) < 2 or not cut:
      return ON_ALL
    return jax.sharding.PartitionSpec(
      *(_FSDP_AXIS if i == cut[-1] else None for i in range(len(shape)))
    )

  return jax.tree.map(get_spec, tree)


def state_sharded(tree: chex.ArrayTree, mesh: jax.sharding.Mesh) -> Any:
  """The shardings of a state, as `state_specs` has them."""
  return jax.tree.map(
    lambda spec: jax.sharding.NamedSharding(mesh, spec),
    state_specs(tree, mesh),
  )


def get_axes(mesh: jax.sharding.Mesh | None) -> tuple[str, ...]:
  """The axes among which the devices of a mesh are, none for one device."""
  return () if mesh is None or mesh.size == 1 else mesh.axis_names


def on_each_device(
  fn: Callable[..., Any],
  mesh: jax.sharding.Mesh | None,
  in_specs: Any,
  out_specs: Any,
) -> Callable[..., Any]:
  """A function of a device's parts; on one device, of whole arrays."""
  if not get_axes(mesh):
    return fn
  return jax.shard_map(fn, mesh=mesh, in_specs=in_specs, out_specs=out_specs)


def gather(tree: chex.ArrayTree, specs: Any, dtype: Any) -> Any:
  """Whole arrays of a device's parts, within `jax.shard_map`.

  Kernels get the type that networks compute with. The gradient of each part is
  summed on the device that holds it alone.
  """

  def whole(path, leaf, spec):
    if _FSDP_AXIS not in spec:
      return leaf
    if trees.kernels(trees.path_string(path), leaf):
      leaf = leaf.astype(dtype)
    # Else gradients would be summed over `data` before they are split.
    leaf = branches.vary(leaf, frozenset((_DATA_AXIS, _FSDP_AXIS)))
    # In whole tiles: a TPU scatters along no axis that lies within them.
    padded = jnp.pad(leaf.reshape(-1), (0, -leaf.size % math.prod(_TILE)))
    parts = jax.lax.all_gather(padded.reshape(-1, *_TILE), _FSDP_AXIS)
    parts = parts.reshape(len(parts), -1)[:, : leaf.size]
    axis = tuple(spec).index(_FSDP_AXIS)
    shape = list(leaf.shape)
    shape[axis] *= len(parts)
    return jnp.moveaxis(parts.reshape(-1, *leaf.shape), 0, axis).reshape(shape)

  return jax.tree_util.tree_map_with_path(whole, tree, specs)


def with_shardings(tree: chex.ArrayTree, mesh: jax.sharding.Mesh) -> Any:
  """Shapes, types and shardings of a state, to restore a checkpoint into."""
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    tree,
    state_sharded(tree, mesh),
  )


def check_batch_size(batch_size: int, mesh: jax.sharding.Mesh) -> None:
  """Refuses a batch that the devices cannot share evenly."""
  if batch_size % mesh.size:
    raise ValueError(
      f'config.batch_size is {batch_size}, wanted a multiple of the'
      f' {mesh.size} devices'
    )


def make_abstract_batch(
  shapes: Mapping[str, tuple[tuple[int, ...], Any]], mesh: jax.sharding.Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes, types and shardings of a batch, to compile with."""
  sharding = batch_sharded(mesh)
  return {
    name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    for name, (shape, dtype) in shapes.items()
  }


def to_global(
  batch: Mapping[str, np.ndarray], mesh: jax.sharding.Mesh
) -> dict[str, Any]:
  """Makes global arrays of the batch that each process has read."""
  sharding = batch_sharded(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, array)
    for name, array in batch.items()
  }


def to_devices(tree: chex.ArrayTree, mesh: jax.sharding.Mesh) -> Any:
  """Puts arrays of the host on the devices, sharded as a state."""

  def put(leaf, sharding):
    if isinstance(leaf, jax.Array):
      return leaf
    leaf = np.asarray(leaf)
    return jax.make_array_from_callback(
      leaf.shape, sharding, lambda index: leaf[index]
    )

  return jax.tree.map(put, tree, state_sharded(tree, mesh))


def jit(
  function: Callable[..., Any],
  mesh: jax.sharding.Mesh | None,
  **options: Any,
) -> jax.stages.Wrapped:
  """Compiles a function for the devices of a mesh, for CPUs with options."""
  if mesh is not None and mesh.devices.flat[0].platform == 'cpu':
    options['compiler_options'] = _get_cpu_options()
  return jax.jit(function, **options)


@functools.cache
def _get_cpu_options() -> dict[str, Any]:
  """Those of `_CPU_OPTIONS` that this release of XLA knows."""

  def is_known(option):
    probe = jax.jit(lambda: 0, compiler_options=dict([option]))
    try:
      probe.lower().compile()
    except jax.errors.JaxRuntimeError:
      return False
    return True

  return dict(filter(is_known, _CPU_OPTIONS.items()))


def wait_on_cpu(tree: Any) -> Any:
  """Gives a tree back, on a CPU once it is computed.

  XLA's client for CPUs has a thread for each device: two programs that do not
  wait for each other, and whose devices do, may hold each other up for good.
  """
  if jax.default_backend() == 'cpu':
    jax.block_until_ready(tree)
  return tree


def to_host(tree: chex.ArrayTree) -> Any:
  """Gathers whole arrays on the host of every process, one after another."""

  def get(leaf):
    if isinstance(leaf, jax.Array) and not (
      leaf.is_fully_addressable or leaf.is_fully_replicated
    ):
      return multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)

  return jax.tree.map(get, tree)
