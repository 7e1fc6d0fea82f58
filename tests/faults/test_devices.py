"""One, four and eight devices train the same network, but for rounding."""

import jax
import numpy as np
import pytest

from configs import digits
from hq_jax.data import train_batches
from hq_jax.runtime import sharding
from hq_jax.training import setup as setup_lib
from hq_jax.training import stages
from hq_jax.training import train_state
from hq_jax.training import train_step

pytestmark = pytest.mark.slow


def _train(setup, data, fsdp, num_steps=4):
  """Parameters and statistics after some steps of the dense stage."""
  mesh = jax.make_mesh(
    (data, fsdp),
    ('data', 'fsdp'),
    devices=jax.devices()[: data * fsdp],
    axis_types=(jax.sharding.AxisType.Auto,) * 2,
  )
  stage = stages.make_dense_stage(setup)
  state = train_state.make_init(
    setup.model, stage.tx, jax.random.key(3), setup.dataset.image_shape, mesh
  )()
  step = train_step.make_train_step(setup.model, stage.tx, mesh=mesh)
  batches = train_batches.make_train_iterator(
    setup.dataset, batch_size=64, seed=5, max_shift=1
  )
  for _ in range(num_steps):
    batch = sharding.to_global(next(batches), mesh)
    state, *_ = step(state, batch)
  return jax.tree.leaves_with_path(sharding.to_host(state.variables))


@pytest.fixture(scope='module')
def setup(tmp_path_factory):
  config = digits.get_config('debug')
  config.model.widths, config.model.num_blocks = (16,), (1,)
  config.target_ratio = 10
  return setup_lib.prepare(config, tmp_path_factory.mktemp('setup') / 'w')


@pytest.fixture(scope='module')
def alone(setup):
  return _train(setup, 1, 1)


@pytest.mark.parametrize(('data', 'fsdp'), [(4, 1), (8, 1), (1, 4), (2, 4)])
def test_devices_agree_to_rounding(setup, alone, data, fsdp):
  found = _train(setup, data, fsdp)
  for (path, one), (_, other) in zip(alone, found, strict=True):
    # Adam divides: where a gradient is next to nothing, rounding is much.
    largest = np.abs(one).max()
    np.testing.assert_allclose(
      other, one, rtol=0, atol=3e-5 * largest, err_msg=str(path)
    )
