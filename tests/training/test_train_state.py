"""How the state of training begins, and begins again."""

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import transforms
from hq_jax.runtime import sharding
from hq_jax.training import train_state


class _Net(nn.Module):
  """A dense layer between two batch norms."""

  norms: bool = True

  @nn.compact
  def __call__(self, x, train=False):
    if self.norms:
      x = nn.BatchNorm(use_running_average=not train)(x)
    return nn.Dense(4)(x)


_TX = transforms.hq(optax.adam(0.1), transforms.Recipe(sparsity=0.5))


def _init(seed=0, model=None, tx=_TX):
  mesh = sharding.make_mesh()
  return train_state.make_init(
    model or _Net(), tx, jax.random.key(seed), (3,), mesh
  )()


@pytest.fixture(scope='module')
def state():
  return _init()


def _pointers(tree):
  """Where the buffers of all leaves lie, on all devices."""
  return {
    shard.data.unsafe_buffer_pointer()
    for leaf in jax.tree.leaves(tree)
    for shard in leaf.addressable_shards
  }


def _assert_equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(one, other)


def test_the_model_is_initialized_as_by_hand(state):
  variables = _Net().init(jax.random.key(0), jnp.zeros((1, 3)))
  chex.assert_trees_all_close(state.variables, dict(variables), rtol=1e-6)
  assert set(state.variables) == {'params', 'batch_stats'}
  assert state.step == 0 and state.step.dtype == jnp.int32
  chex.assert_trees_all_close(
    state.opt_state, _TX.init(variables['params']), rtol=1e-6
  )


def test_every_leaf_is_on_every_device(state):
  wanted = sharding.replicated(sharding.make_mesh())
  for leaf in jax.tree.leaves(state):
    assert leaf.sharding.is_equivalent_to(wanted, leaf.ndim)
    assert len(leaf.addressable_shards) == 8


def test_latents_have_their_own_memory(state):
  latents = transforms.latents(state.opt_state, state.params)
  kernel = latents['Dense_0']['kernel']
  np.testing.assert_array_equal(kernel, state.params['Dense_0']['kernel'])
  num_buffers = 8 * len(jax.tree.leaves(state))
  assert len(_pointers(state)) == num_buffers
  assert not _pointers(kernel) & _pointers(state.params)


def test_a_model_without_norms_has_no_statistics():
  found = _init(model=_Net(norms=False), tx=optax.sgd(0.1))
  assert found.batch_stats == {}
  assert set(found.params) == {'Dense_0'}


def test_another_stage_begins_with_copies_of_the_weights(state):
  mesh = sharding.make_mesh()
  before = jax.tree.map(np.array, state)
  old = state.replace(step=jnp.int32(7))
  tx = optax.sgd(0.1, momentum=0.9)
  found = train_state.make_restart(old, tx, mesh)()
  assert found.step == 0
  _assert_equal(found.variables, state.variables)
  _assert_equal(found.opt_state, tx.init(state.params))
  assert not _pointers(found) & _pointers(state)
  wanted = sharding.replicated(mesh)
  for leaf in jax.tree.leaves(found):
    assert leaf.sharding.is_equivalent_to(wanted, leaf.ndim)
  # The new one may be given away: the old one stays usable.
  jax.jit(lambda x: jax.tree.map(lambda y: y + 1, x), donate_argnums=0)(found)
  _assert_equal(jax.tree.map(np.array, state), before)


def test_pretrained_weights_take_the_place_of_initial_ones(make_mesh):
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
      x = nn.Dense(3, name='body')(x)
      x = nn.BatchNorm(use_running_average=not train, name='norm')(x)
      return nn.Dense(2, name='head')(x)

  init = lambda pretrained: train_state.make_init(
    Net(), optax.adam(1.0), jax.random.key(3), (4,), make_mesh(8), pretrained
  )()
  plain = init(None)
  kernel = np.arange(12.0, dtype=np.float32).reshape(4, 3)
  mean = np.full(3, 7.0, np.float32)
  found = init(
    {
      'params': {'body': {'kernel': kernel}},
      'batch_stats': {'norm': {'mean': mean}},
    }
  )
  np.testing.assert_array_equal(found.params['body']['kernel'], kernel)
  np.testing.assert_array_equal(found.batch_stats['norm']['mean'], mean)
  # All else is as it was.
  for get in (
    lambda state: state.params['head']['kernel'],
    lambda state: state.params['body']['bias'],
    lambda state: state.batch_stats['norm']['var'],
  ):
    np.testing.assert_array_equal(get(found), get(plain))
  for leaf in jax.tree.leaves(found):
    assert leaf.sharding.is_fully_replicated


def _assert_sharded(state, mesh):
  shardings = sharding.state_sharded(state, mesh)
  found = jax.tree.map(
    lambda x, wanted: x.sharding.is_equivalent_to(wanted, x.ndim),
    state,
    shardings,
  )
  assert all(jax.tree.leaves(found))


def test_devices_share_the_state_that_begins(state):
  mesh = sharding.make_mesh(4)
  found = train_state.make_init(_Net(), _TX, jax.random.key(0), (3,), mesh)()
  _assert_equal(found, state)
  _assert_sharded(found, mesh)
  # The weights, their latents and both moments of Adam; no vector.
  kernel = found.params['Dense_0']['kernel']
  assert {s.data.shape for s in kernel.addressable_shards} == {(3, 1)}
  cut = [
    x for x in jax.tree.leaves(found) if not x.sharding.is_fully_replicated
  ]
  assert [x.shape for x in cut] == 4 * [(3, 4)]


def test_devices_share_the_state_of_another_stage(state):
  mesh = sharding.make_mesh(4)
  old = train_state.make_init(_Net(), _TX, jax.random.key(0), (3,), mesh)()
  tx = optax.sgd(0.1, momentum=0.9)
  found = train_state.make_restart(old, tx, mesh)()
  _assert_sharded(found, mesh)
  _assert_equal(found.variables, state.variables)
  momentum = optax.tree.get(found.opt_state, 'trace')['Dense_0']['kernel']
  assert not momentum.sharding.is_fully_replicated
  assert not _pointers(found) & _pointers(old)
