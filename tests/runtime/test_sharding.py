"""The mesh of all devices; states and batches that are shared out on it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax.runtime import sharding


@pytest.mark.parametrize('fsdp', [1, 4])
def test_a_global_batch_is_split_along_its_first_axis(fsdp):
  mesh = sharding.make_mesh(fsdp)
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
    shards = found[name].addressable_shards
    assert [s.device for s in shards] == jax.devices()
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


def test_devices_that_share_a_state_are_neighbours(make_mesh):
  for fsdp in (1, 2, 4, 8):
    mesh = sharding.make_mesh(fsdp)
    assert dict(mesh.shape) == {'data': 8 // fsdp, 'fsdp': fsdp}
    assert mesh.axis_types == (jax.sharding.AxisType.Auto,) * 2
    assert list(mesh.devices.flat) == jax.devices()


@pytest.mark.parametrize('fsdp', [-2, 0, 3, 5, 16])
def test_devices_that_cannot_be_divided_are_refused(fsdp):
  with pytest.raises(ValueError) as caught:
    sharding.make_mesh(fsdp)
  assert str(caught.value) == (
    f'fsdp is {fsdp}, wanted a divisor of the 8 devices'
  )


@pytest.mark.parametrize(
  ('shape', 'spec'),
  [
    ((3, 3, 5, 8), (None, None, None, 'fsdp')),
    ((3, 3, 8, 10), (None, None, 'fsdp', None)),  # 4 divides 8 and not 10.
    ((8, 3), ('fsdp', None)),
    ((4, 4), (None, 'fsdp')),
    ((3, 3, 5, 6), ()),  # None of these.
    ((2, 2), ()),
    ((0, 0), ()),
    ((8, 0), ('fsdp', None)),
    ((8,), ()),  # A vector, whatever its length and its other axes.
    ((1, 8, 1), ()),
    ((4096,), ()),
    ((), ()),
  ],
)
def test_the_last_axis_that_can_be_is_cut(shape, spec):
  mesh = sharding.make_mesh(4)
  found = sharding.state_sharded({'a': np.zeros(shape, np.int8)}, mesh)
  wanted = jax.sharding.PartitionSpec(*spec)
  assert found == {'a': jax.sharding.NamedSharding(mesh, wanted)}
  # Of shapes alone as of arrays.
  like = jax.ShapeDtypeStruct(shape, np.float32)
  assert sharding.state_sharded([like], mesh) == [found['a']]


def test_without_the_axis_or_with_one_device_all_is_replicated(make_mesh):
  for mesh in (make_mesh(8), make_mesh(2, 4), sharding.make_mesh(1)):
    found = sharding.state_sharded(jnp.zeros((4, 8)), mesh)
    assert found.is_equivalent_to(sharding.replicated(mesh), 2)


def test_what_a_checkpoint_is_read_into():
  mesh = sharding.make_mesh(2)
  tree = {'k': jnp.zeros((3, 4), jnp.bfloat16), 'step': np.int32(3)}
  found = sharding.with_shardings(tree, mesh)
  shardings = sharding.state_sharded(tree, mesh)
  assert found.keys() == tree.keys()
  for name, leaf in found.items():
    assert isinstance(leaf, jax.ShapeDtypeStruct)
    assert leaf.shape == tree[name].shape and leaf.dtype == tree[name].dtype
    assert leaf.sharding == shardings[name]
  # Of shapes, once more.
  assert sharding.with_shardings(found, mesh) == found


def test_each_device_gets_its_own_part():
  mesh = sharding.make_mesh(4)
  kernel = np.arange(24, dtype=np.float32).reshape(3, 8)
  stays = jax.device_put(np.ones((4, 4)), jax.devices()[3])
  tree = {'kernel': kernel, 'bias': np.arange(8), 'stays': stays}
  found = sharding.to_devices(tree, mesh)
  assert found['stays'] is stays
  for shard in found['kernel'].addressable_shards:
    # The mesh is of two rows of four neighbours.
    column = 2 * (jax.devices().index(shard.device) % 4)
    np.testing.assert_array_equal(shard.data, kernel[:, column : column + 2])
  assert found['bias'].sharding.is_fully_replicated
  for shard in found['bias'].addressable_shards:
    np.testing.assert_array_equal(shard.data, np.arange(8))


def test_whole_arrays_come_back():
  mesh = sharding.make_mesh(4)
  rng = np.random.default_rng(0)
  tree = {
    'cut': rng.normal(size=(3, 8)).astype(np.float32),
    'whole': rng.integers(0, 9, 5).astype(np.int8),
  }
  found = sharding.to_host(sharding.to_devices(tree, mesh) | {'number': 2})
  assert all(isinstance(leaf, np.ndarray) for leaf in found.values())
  assert found.pop('number') == 2
  for name, array in tree.items():
    assert found[name].dtype == array.dtype
    np.testing.assert_array_equal(found[name], array)
