"""The mesh of all devices, and global batches on it."""

import jax
import numpy as np
import pytest

from hq_jax import sharding


def test_the_mesh_has_every_device_on_an_automatic_axis():
  mesh = sharding.make_mesh()
  assert mesh.axis_names == ('data', 'fsdp')
  assert mesh.axis_types == (jax.sharding.AxisType.Auto,) * 2
  assert set(mesh.devices.flat) == set(jax.devices())
  assert mesh.size == 8


def test_replicated_puts_a_copy_on_every_device(rng):
  values = rng.normal(size=(3, 5))
  mesh = sharding.make_mesh()
  found = jax.device_put(values, sharding.replicated(mesh))
  assert len(found.addressable_shards) == 8
  for shard in found.addressable_shards:
    np.testing.assert_array_equal(shard.data, values.astype(np.float32))


def test_a_global_batch_is_split_along_its_first_axis():
  mesh = sharding.make_mesh()
  batch = {
    'image': np.arange(32, dtype=np.float32).reshape(16, 2),
    'label': np.arange(16, dtype=np.int32),
    'valid': np.arange(16) < 13,
  }
  found = sharding.to_global(batch, mesh)
  assert found.keys() == batch.keys()
  for name, array in batch.items():
    assert found[name].dtype == array.dtype
    assert found[name].sharding == sharding.batch_sharded(mesh)
    np.testing.assert_array_equal(found[name], array)
    shards = found[name].addressable_shards
    assert [s.device for s in shards] == list(mesh.devices.flat)
    for i, shard in enumerate(shards):
      np.testing.assert_array_equal(shard.data, array[2 * i : 2 * i + 2])


def test_batch_sizes_that_devices_share_evenly():
  mesh = sharding.make_mesh()
  for batch_size in (8, 16, 64):
    sharding.check_batch_size(batch_size, mesh)
  for batch_size in (1, 4, 12, 65):
    with pytest.raises(ValueError) as caught:
      sharding.check_batch_size(batch_size, mesh)
    assert str(caught.value) == (
      f'config.batch_size is {batch_size}, wanted a multiple of the 8 devices'
    )
