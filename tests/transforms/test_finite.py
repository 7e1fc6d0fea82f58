"""Gradients that are NaN or infinite are never applied."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import transforms
from tests.transforms import steps

TRANSFORMS = {
  'straight_through': lambda inner, **kw: transforms.straight_through(
    inner, transforms.ternary(0.5), **kw
  ),
  'hq': lambda inner, **kw: transforms.hq(
    inner, transforms.Recipe(sparsity=0.5, prune_steps=3, num_stages=1), **kw
  ),
}
every_transform = pytest.mark.parametrize('name', TRANSFORMS)


@pytest.fixture
def params(rng):
  return {
    'a': {'kernel': jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)},
    'b': {
      'kernel': jnp.asarray(rng.normal(size=(4, 3)), jnp.float32),
      'bias': jnp.zeros(3),
    },
  }


def _gradients(rng, params):
  return jax.tree.map(
    lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params
  )


def _spoil(grads, value, leaf=('b', 'kernel')):
  first, second = leaf
  spoiled = grads[first][second].at[..., 1].set(value)
  return grads | {first: grads[first] | {second: spoiled}}


def _assert_equal(got, wanted):
  jax.tree.map(np.testing.assert_array_equal, got, wanted)


@pytest.mark.parametrize(
  ('leaf', 'value'),
  [
    (('b', 'kernel'), np.nan),
    (('b', 'bias'), np.inf),
    (('a', 'kernel'), -np.inf),
  ],
)
@every_transform
def test_nothing_moves(name, value, leaf, rng, params):
  # With momentum and a count: all of that stays too.
  tx = TRANSFORMS[name](optax.adam(0.1))
  step = steps.make_step(tx)
  good = [_gradients(rng, params) for _ in range(6)]
  wanted, wanted_state = params, tx.init(params)
  got, state = params, tx.init(params)
  for t, grads in enumerate(good):
    wanted, wanted_state = step(wanted, wanted_state, grads)
    if t in (0, 2, 5):
      before = got, state
      got, state = step(got, state, _spoil(grads, value, leaf))
      _assert_equal(got, before[0])
      _assert_equal(
        state._replace(skipped_count=before[1].skipped_count), before[1]
      )
    got, state = step(got, state, grads)
    _assert_equal(got, wanted)
  assert int(optax.tree.get(state, 'skipped_count')) == 3
  _assert_equal(
    state._replace(skipped_count=0), wanted_state._replace(skipped_count=0)
  )


def test_updates_of_the_optimizer_are_not_applied_either(rng, params):
  broken = optax.inject_hyperparams(optax.sgd)(
    lambda count: jnp.where(count == 1, jnp.nan, 0.1)
  )
  tx = TRANSFORMS['hq'](broken)
  step = steps.make_step(tx)
  grads = _gradients(rng, params)
  first, state = step(params, tx.init(params), grads)
  same, skipped = step(first, state, grads)
  _assert_equal(same, first)
  _assert_equal(skipped.latents, state.latents)
  assert int(skipped.skipped_count) == 1
  # It goes on.
  moved, state = step(same, skipped, grads)
  assert not np.array_equal(moved['b']['bias'], same['b']['bias'])
  assert int(state.skipped_count) == 1


@every_transform
def test_an_error_names_the_leaf(name, rng, params, capfd):
  tx = TRANSFORMS[name](optax.sgd(0.1), non_finite='raise')
  step = steps.make_step(tx)
  grads = _gradients(rng, params)
  got, state = step(params, tx.init(params), grads)
  # Finite gradients are not touched: it is the step of the other policy.
  tx = TRANSFORMS[name](optax.sgd(0.1), non_finite='skip')
  chex.assert_trees_all_close(
    (got, state),
    steps.make_step(tx)(params, tx.init(params), grads),
    rtol=1e-6,
  )
  with pytest.raises(
    jax.errors.JaxRuntimeError,
    match=r'FloatingPointError: .* of b/kernel is not finite \(1 of 3 leaves\)',
  ):
    jax.block_until_ready(step(got, state, _spoil(grads, np.nan)))
  capfd.readouterr()


def test_several_leaves_are_counted_and_the_first_few_named(rng, capfd):
  params = {f'{c}': {'kernel': jnp.ones((2, 2))} for c in 'abcdef'}
  tx = TRANSFORMS['hq'](optax.sgd(0.1), non_finite='raise')
  grads = jax.tree.map(lambda p: jnp.inf * p, params)
  with pytest.raises(
    jax.errors.JaxRuntimeError,
    match=r'a/kernel, b/kernel, c/kernel, d/kernel is not finite \(6 of 6',
  ):
    jax.block_until_ready(steps.make_step(tx)(params, tx.init(params), grads))
  capfd.readouterr()


@every_transform
def test_an_unknown_policy_is_refused(name):
  with pytest.raises(ValueError, match="non_finite is 'ignore', wanted one of"):
    TRANSFORMS[name](optax.sgd(0.1), non_finite='ignore')


def test_large_gradients_are_finite(params):
  # Their sum is not.
  grads = jax.tree.map(lambda p: jnp.full_like(p, 3e38), params)
  tx = TRANSFORMS['straight_through'](optax.sign_sgd(0.1))
  got, state = steps.make_step(tx)(params, tx.init(params), grads)
  assert int(state.skipped_count) == 0
  assert float(got['b']['bias'][0]) == pytest.approx(-0.1)


def test_under_vmap_each_run_skips_its_own(rng, params):
  tx = TRANSFORMS['hq'](optax.sgd(0.1))
  good = _gradients(rng, params)
  grads = jax.tree.map(
    lambda a, b: jnp.stack([a, b]), good, _spoil(good, np.nan)
  )
  state = tx.init(params)
  updates, states = jax.jit(
    jax.vmap(lambda grads: tx.update(grads, state, params))
  )(grads)
  assert states.skipped_count.tolist() == [0, 1]
  assert float(jnp.abs(updates['a']['kernel'][0]).max()) > 0
  np.testing.assert_array_equal(updates['a']['kernel'][1], 0)


def test_an_error_under_vmap(rng, params, capfd):
  tx = TRANSFORMS['hq'](optax.sgd(0.1), non_finite='raise')
  good = _gradients(rng, params)
  stack = lambda a, b: jax.tree.map(lambda *pair: jnp.stack(pair), a, b)
  state = tx.init(params)
  step = jax.jit(jax.vmap(lambda grads: tx.update(grads, state, params)))
  updates, _ = step(stack(good, good))
  jax.effects_barrier()
  assert float(jnp.abs(updates['a']['kernel'][1]).max()) > 0
  # One of the two runs alone.
  with pytest.raises(
    jax.errors.JaxRuntimeError, match='gradient of b/kernel is not finite'
  ):
    jax.block_until_ready(step(stack(good, _spoil(good, np.nan))))
  capfd.readouterr()


def test_integers_and_keys_in_the_state_and_in_the_gradients(params):
  # `add_noise` keeps a key; an integer leaf has no gradient to check.
  inner = optax.chain(
    optax.add_noise(0.1, 0.5, jax.random.key(0)), optax.sgd(0.1)
  )
  tx = transforms.straight_through(inner, transforms.identity())
  grads = jax.tree.map(jnp.ones_like, params)
  got, state = steps.make_step(tx)(params, tx.init(params), grads)
  same, skipped = steps.make_step(tx)(got, state, _spoil(grads, np.nan))
  _assert_equal(same, got)
  assert int(skipped.skipped_count) == 1

  mixed = params | {'steps': jnp.zeros([], jnp.int32)}
  tx = TRANSFORMS['hq'](
    optax.masked(
      optax.sgd(0.1),
      lambda tree: jax.tree.map(
        lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating), tree
      ),
    )
  )
  grads = grads | {'steps': jnp.zeros([], jnp.int32)}
  got, state = steps.make_step(tx)(mixed, tx.init(mixed), grads)
  assert got['steps'].dtype == jnp.int32
  assert int(state.skipped_count) == 0


def test_a_state_that_changes_its_dtype(params):
  # Moments of bfloat16 parameters become float32 with float32 gradients.
  low = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
  tx = transforms.straight_through(
    optax.trace(0.9), transforms.identity(), select='a/kernel'
  )
  state = tx.init(low)
  grads = jax.tree.map(lambda p: jnp.ones(p.shape, jnp.float32), params)
  _, state = jax.jit(tx.update)(_spoil(grads, np.nan), state, low)
  assert int(state.skipped_count) == 1
  _, state = jax.jit(tx.update)(grads, state, low)
  assert optax.tree.get(state, 'trace')['b']['kernel'].dtype == jnp.float32
