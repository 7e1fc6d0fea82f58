"""Numbers that go wrong: which, where, and how many steps in a row."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import transforms
from hq_jax.training import finite_guard
from hq_jax.training import train_state

_TREE = {
  'dense': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2, jnp.bfloat16)},
  'empty': jnp.ones((0, 3)),
  'conv': {'kernel': jnp.ones(3)},
}


def test_each_flag_has_the_name_of_its_leaf():
  names = finite_guard.get_names(_TREE)
  assert names[0] == 'loss'
  flags = jax.jit(finite_guard.find_finite)(jnp.ones(2), _TREE)
  assert flags.shape == (len(names),) == (5,) and flags.dtype == bool
  assert flags.all()
  broken = {'loss': (jnp.float32(jnp.nan), _TREE)}
  for path in ('dense/kernel', 'dense/bias', 'conv/kernel'):
    outer, inner = path.split('/')
    tree = jax.tree.map(jnp.asarray, _TREE)
    tree[outer][inner] = tree[outer][inner].at[-1].set(-jnp.inf)
    broken[f'gradient of {path}'] = (jnp.float32(1.0), tree)
  assert len(broken) == 4
  for name, arguments in broken.items():
    flags = np.asarray(finite_guard.find_finite(*arguments))
    assert [n for n, ok in zip(names, flags, strict=True) if not ok] == [name]


def _make_state(tx):
  params = {'dense': {'kernel': jnp.ones((2, 3)), 'bias': jnp.ones(3)}}
  stats = {'norm': {'mean': jnp.zeros(3)}}
  return train_state.TrainState(jnp.int32(0), params, stats, tx.init(params))


def _break(state, *paths):
  def change(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    return leaf * jnp.nan if name.endswith(tuple(paths)) else leaf

  return jax.tree_util.tree_map_with_path(change, state)


def test_broken_weights_and_statistics_are_named():
  state = _make_state(optax.adam(0.1))
  assert finite_guard.find_broken(state) == []
  assert finite_guard.find_broken(_break(state, 'params/dense/bias')) == [
    'params/dense/bias'
  ]
  both = _break(state, 'norm/mean', 'params/dense/kernel')
  assert set(finite_guard.find_broken(both)) == {
    'batch_stats/norm/mean',
    'params/dense/kernel',
  }


def test_broken_latents_are_found_beneath_sound_weights():
  tx = transforms.hq(optax.adam(0.1), transforms.Recipe(sparsity=0.5))
  state = _make_state(tx)
  assert finite_guard.find_broken(state) == []
  found = finite_guard.find_broken(_break(state, 'latents/dense/kernel'))
  assert found == ['latents/dense/kernel']


_NAMES = ('loss', 'gradient of a', 'gradient of b', 'gradient of c')
_GOOD = np.array([True] * 4)
_BAD = np.array([True, False, True, True])


def _message(call, *arguments):
  with pytest.raises(FloatingPointError) as caught:
    call(*arguments)
  return str(caught.value)


def test_a_step_is_looked_at_two_steps_later():
  guard = finite_guard.Guard(_NAMES, 0)
  guard.add(7, _BAD)
  guard.add(8, _GOOD)
  message = 'step 7: not finite: gradient of a'
  assert _message(guard.add, 9, _GOOD) == message
  guard.finish()  # It is told once.
  guard.add(10, _BAD)
  assert _message(guard.finish) == 'step 10: not finite: gradient of a'


@pytest.mark.parametrize(
  ('flags', 'names'),
  [
    ([0, 1, 1, 1], 'loss'),
    ([1, 0, 1, 0], 'gradient of a, gradient of c'),
    ([0, 0, 1, 0], 'loss, gradient of a, gradient of c'),
    ([0, 0, 0, 0], 'loss, gradient of a, gradient of b and 1 more'),
  ],
)
def test_the_first_layers_are_named_and_the_rest_counted(flags, names):
  guard = finite_guard.Guard(_NAMES, 0)
  guard.add(1, np.array(flags, bool))
  assert _message(guard.finish) == f'step 1: not finite: {names}'


def test_flags_of_another_number_than_names_are_refused():
  guard = finite_guard.Guard(_NAMES, 0)
  guard.add(1, np.zeros(3, bool))
  with pytest.raises(ValueError, match='zip'):
    guard.finish()


def test_so_many_steps_in_a_row_may_be_skipped():
  guard = finite_guard.Guard(_NAMES, 2)
  for step, flags in enumerate([_BAD, _BAD, _GOOD, _BAD, _BAD, _GOOD], 1):
    guard.add(step, jnp.asarray(flags))
  guard.finish()
  assert guard.num_skipped == 4
  guard.num_skipped = 0
  guard.add(7, _BAD)
  guard.add(8, _BAD)
  guard.add(9, _BAD)
  assert _message(guard.finish) == 'step 9: not finite: gradient of a'
  assert guard.num_skipped == 3
