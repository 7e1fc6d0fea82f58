"""States with all kinds of floats in them, to be saved and compared."""

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

from hq_jax import transforms
from hq_jax.runtime.checkpoint import manager
from hq_jax.training import train_state

_READ = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
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
  """Batches of 4 of 23 numbers, in another order in each epoch."""
  numbers = grain.MapDataset.range(23).shuffle(seed=3).repeat()
  return iter(numbers.batch(4).to_iter_dataset(_READ))


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
