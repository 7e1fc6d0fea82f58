"""Checkpoints: what comes back is what was saved, to the bit, or an error."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import checkpoint
from hq_jax import train_state
from hq_jax import transforms
from hq_jax.data import datasets
from hq_jax.data import pipeline
from hq_jax.data import sources

_TX = transforms.hq(
  optax.adam(0.1), transforms.Recipe(sparsity=0.5, prune_steps=8)
)


def _sharding(num_devices=8):
  mesh = jax.make_mesh(
    (num_devices,),
    ('data',),
    devices=jax.devices()[:num_devices],
    axis_types=(jax.sharding.AxisType.Auto,),
  )
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def _make_state(
  seed=0, *, tx=_TX, shape=(4, 3), dtype=np.float32, extra=False, devices=8
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
  return jax.device_put(state, _sharding(devices))


def _make_iterator():
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
  return pipeline.make_train_iterator(
    dataset, batch_size=4, seed=3, max_shift=1
  )


@pytest.fixture
def open_checkpoints(tmp_path):
  """Opens the folder, again and again; everything is closed at the end."""
  opened = []

  def open_again():
    opened.append(checkpoint.Checkpoints(str(tmp_path / 'steps')))
    return opened[-1]

  yield open_again
  for found in opened:
    found.close()


def _assert_identical(found, wanted):
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for one, other in zip(
    jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True
  ):
    assert one.dtype == other.dtype and one.shape == other.shape
    assert np.array(one).tobytes() == np.array(other).tobytes()


def test_a_state_comes_back_to_the_bit(open_checkpoints):
  state, like = _make_state(1), _make_state(2)
  open_checkpoints().save(7, state, _make_iterator())
  checkpoints = open_checkpoints()
  assert checkpoints.latest_step() == 7
  found = checkpoints.restore(like)
  _assert_identical(found, state)
  assert type(found.opt_state) is type(state.opt_state)
  for leaf in jax.tree.leaves(found):
    assert leaf.sharding == _sharding()
    assert len(leaf.addressable_shards) == 8
  # `like` says how, not what: it stays as it was.
  _assert_identical(like, _make_state(2))


def test_bfloat16_comes_back_as_it_is(open_checkpoints):
  state = _make_state(1, dtype=jnp.bfloat16)
  checkpoints = open_checkpoints()
  checkpoints.save(1, state, _make_iterator())
  _assert_identical(
    checkpoints.restore(_make_state(2, dtype=jnp.bfloat16)), state
  )


@pytest.mark.parametrize(('before', 'after'), [(8, 4), (1, 8)])
def test_the_number_of_devices_may_change(open_checkpoints, before, after):
  state = _make_state(1, devices=before)
  open_checkpoints().save(1, state, _make_iterator())
  found = open_checkpoints().restore(_make_state(2, devices=after))
  _assert_identical(found, state)
  for leaf in jax.tree.leaves(found):
    assert leaf.sharding == _sharding(after)


def test_the_iterator_goes_on_where_it_was(open_checkpoints):
  iterator = _make_iterator()
  # Beyond the first epoch of 23 images.
  for _ in range(7):
    next(iterator)
  open_checkpoints().save(7, _make_state(), iterator)
  wanted = [next(iterator) for _ in range(3)]
  other = _make_iterator()
  next(other)
  open_checkpoints().restore(_make_state(), other)
  for batch in wanted:
    jax.tree.map(np.testing.assert_array_equal, next(other), batch)


def test_without_an_iterator_only_the_state_is_restored(open_checkpoints):
  iterator = _make_iterator()
  checkpoints = open_checkpoints()
  checkpoints.save(1, _make_state(1), iterator)
  next(iterator)
  _assert_identical(checkpoints.restore(_make_state(2)), _make_state(1))
  assert iterator.get_state() == {'next_index': 1}


def test_what_was_saved_is_of_that_moment(open_checkpoints):
  state = _make_state(1)
  checkpoints = open_checkpoints()
  checkpoints.save(1, state, _make_iterator())
  # The next step takes over the memory of the last.
  change = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
  change(state)
  _assert_identical(checkpoints.restore(_make_state(2)), _make_state(1))


def test_the_newest_two_steps_are_kept(open_checkpoints, tmp_path):
  checkpoints = open_checkpoints()
  assert checkpoints.latest_step() is None
  for step in (1, 5, 9, 20):
    checkpoints.save(step, _make_state(step), _make_iterator())
    assert checkpoints.latest_step() == step
  steps = [x for x in os.listdir(tmp_path / 'steps') if x.isdigit()]
  assert set(steps) == {'9', '20'}
  _assert_identical(checkpoints.restore(_make_state()), _make_state(20))


@pytest.mark.parametrize('step', [5, 3])
def test_a_step_is_saved_once_and_in_order(open_checkpoints, step):
  checkpoints = open_checkpoints()
  checkpoints.save(5, _make_state(1), _make_iterator())
  with pytest.raises(RuntimeError) as caught:
    checkpoints.save(step, _make_state(2), _make_iterator())
  assert str(caught.value) == (
    f'step {step} was not saved: is it there already?'
  )
  _assert_identical(checkpoints.restore(_make_state()), _make_state(1))


def test_an_empty_folder_holds_no_checkpoint(open_checkpoints, tmp_path):
  with pytest.raises(ValueError) as caught:
    open_checkpoints().restore(_make_state())
  assert str(caught.value) == f'{tmp_path}/steps holds no checkpoint'


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'shape': (5, 3)},
      'params/dense/kernel is float32[4, 3], wanted float32[5, 3]',
    ),
    (
      {'shape': (3, 4)},
      'params/dense/kernel is float32[4, 3], wanted float32[3, 4]',
    ),
    # Orbax alone would cast.
    (
      {'dtype': jnp.bfloat16},
      'params/dense/kernel is float32[4, 3], wanted bfloat16[4, 3]',
    ),
    (
      {'dtype': np.int32},
      'params/dense/kernel is float32[4, 3], wanted int32[4, 3]',
    ),
    ({'extra': True}, 'params/extra is not there, wanted float32[2]'),
    (
      {'tx': optax.adam(0.1)},
      'opt_state/0/count is not there, wanted int32[]',
    ),
    (
      {'tx': optax.identity()},
      'opt_state/latent_opt_state/1/0/count is int32[], wanted no such array',
    ),
  ],
)
def test_another_state_is_refused(open_checkpoints, tmp_path, changes, message):
  if changes.get('dtype') is np.int32:
    changes = changes | {'tx': optax.identity()}
  checkpoints = open_checkpoints()
  checkpoints.save(3, _make_state(), _make_iterator())
  for found in (checkpoints, open_checkpoints()):
    with pytest.raises(ValueError) as caught:
      found.restore(_make_state(**changes))
    assert str(caught.value) == f'{tmp_path}/steps/3: {message}'


@pytest.mark.parametrize('name', ['', 'state'])
def test_half_a_step_is_refused(open_checkpoints, tmp_path, name):
  open_checkpoints().save(3, _make_state(), _make_iterator())
  (tmp_path / 'steps' / '8' / name).mkdir(parents=True)
  with pytest.raises(ValueError) as caught:
    open_checkpoints().restore(_make_state())
  assert str(caught.value) == (
    f'{tmp_path}/steps/8 is no whole checkpoint: move it away'
  )
