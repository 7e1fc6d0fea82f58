"""States with all kinds of floats in them, to be saved and compared."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hq_jax import transforms
from hq_jax.data import sources
from hq_jax.data import train_batches
from hq_jax.data.sets import datasets
from hq_jax.runtime.checkpoint import manager
from hq_jax.training import train_state

TX = transforms.hq(
  optax.adam(0.1), transforms.Recipe(sparsity=0.5, prune_steps=8)
)


def sharding(num_devices=8):
  mesh = jax.make_mesh(
    (num_devices,),
    ('data',),
    devices=jax.devices()[:num_devices],
    axis_types=(jax.sharding.AxisType.Auto,),
  )
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def make_state(
  seed=0, *, tx=TX, shape=(4, 3), dtype=np.float32, extra=False, devices=8
):
  """A state with all kinds of floats in it."""
  rng = np.random.default_rng(seed)
  params = {
    'dense': {
      'kernel': jnp.asarray(rng.normal(size=shape), dtype),
      'bias': jnp.array([-0.0, np.inf, np.nan], jnp.float32),
    },
    'tiny': jnp.float32(rng.normal(size=5) * 1e-42),
  }
  if extra:
    params['extra'] = jnp.zeros(2)
  stats = {'norm': {'mean': jnp.float32(rng.normal(size=3))}}
  state = train_state.TrainState(
    jnp.int32(seed), params, stats, tx.init(params)
  )
  return jax.device_put(state, sharding(devices))


def make_iterator():
  rng = np.random.default_rng(0)
  split = sources.MemorySource(
    rng.integers(0, 17, (23, 4, 4, 1)).astype(np.uint8),
    rng.integers(0, 10, 23).astype(np.int32),
  )
  dataset = datasets.Dataset(
    name='random',
    class_names=tuple('0123456789'),
    image_shape=(4, 4, 1),
    pixel_range=(0.0, 16.0),
    pixel_mean=(8.0,),
    pixel_std=(5.0,),
    train=split,
    test=split,
  )
  return train_batches.make_train_iterator(
    dataset, batch_size=4, seed=3, max_shift=1
  )


def assert_identical(found, wanted):
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for one, other in zip(
    jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True
  ):
    assert one.dtype == other.dtype and one.shape == other.shape
    assert np.array(one).tobytes() == np.array(other).tobytes()


def warnings_of(caplog):
  """Of the manager; and no line of what Orbax makes of it."""
  found = [r for r in caplog.records if r.levelname in ('WARNING', 'ERROR')]
  assert {r.pathname for r in found} <= {manager.__file__}
  return [r.getMessage() for r in found]
