"""Projection onto the sphere on which each channel started."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import transforms
from tests.transforms import steps


def _norms(w):
  w = np.asarray(w, np.float64)
  return np.sqrt((w.reshape(-1, w.shape[-1]) ** 2).sum(0))


def _step(tx, state, params, step):
  updates, state = tx.update(step, state, params)
  return optax.apply_updates(params, updates), state


def test_matches_the_equation(rng):
  w, u = steps.normal(rng, (3, 3, 2, 4)), steps.normal(rng, (3, 3, 2, 4))
  tx = transforms.project_to_sphere()
  params = {'kernel': w}
  got, _ = _step(tx, tx.init(params), params, {'kernel': u})
  moved = np.float64(w) + np.float64(u)
  np.testing.assert_allclose(
    got['kernel'], _norms(w) * moved / _norms(moved), rtol=1e-5, atol=1e-6
  )


def test_radii_come_from_init_and_do_not_drift(rng):
  params = {'kernel': steps.normal(rng, (10, 4))}
  tx = transforms.project_to_sphere()
  state = tx.init(params)
  np.testing.assert_allclose(
    state.radii['kernel'], _norms(params['kernel'])[None], rtol=1e-6
  )
  # So little is rounding, and no other parameters; see `test_replaced.py`.
  larger = jax.tree.map(lambda w: 1.0001 * w, params)
  zero = jax.tree.map(jnp.zeros_like, params)
  got, after = _step(tx, state, larger, zero)
  np.testing.assert_allclose(got['kernel'], params['kernel'], rtol=1e-6)
  np.testing.assert_array_equal(after.radii['kernel'], state.radii['kernel'])


def test_a_pruned_channel_stays_zero_and_finite_and_may_come_back():
  params = {'kernel': jnp.array([[3.0, 1.0], [4.0, 0.0]])}
  tx = transforms.project_to_sphere()
  state = tx.init(params)
  removed = {'kernel': jnp.array([[-3.0, 0.0], [-4.0, 0.0]])}
  params, state = _step(tx, state, params, removed)
  assert params['kernel'].tolist() == [[0, 1], [0, 0]]
  zero = jax.tree.map(jnp.zeros_like, params)
  params, state = _step(tx, state, params, zero)
  assert params['kernel'].tolist() == [[0, 1], [0, 0]]
  back = {'kernel': jnp.array([[0.0, 0.0], [0.1, 0.0]])}
  params, state = _step(tx, state, params, back)
  np.testing.assert_allclose(params['kernel'], [[0, 1], [5, 0]], rtol=1e-6)


def test_a_channel_that_began_at_zero_goes_where_it_will():
  params = {'kernel': jnp.zeros((2, 2))}
  tx = transforms.project_to_sphere()
  state = tx.init(params)
  for wanted in (1, 2):
    params, state = _step(tx, state, params, {'kernel': jnp.ones((2, 2))})
    np.testing.assert_array_equal(params['kernel'], wanted)


def test_gradients_through_the_projection_are_finite_at_zero():
  params = {'kernel': jnp.array([[3.0, 0.0], [4.0, 0.0]])}
  tx = transforms.project_to_sphere()
  state = tx.init(params)
  total = lambda u: tx.update({'kernel': u}, state, params)[0]['kernel'].sum()
  gradient = jax.grad(total)(jnp.zeros((2, 2)))
  # r / r (I - u u^T) 1 with u = (0.6, 0.8): 1 - 1.4 u. The other has no sphere.
  np.testing.assert_allclose(gradient, [[0.16, 1], [-0.12, 1]], atol=1e-6)


def test_a_nan_is_not_hidden():
  params = {'kernel': jnp.ones((2, 2))}
  tx = transforms.project_to_sphere()
  step = {'kernel': jnp.zeros((2, 2)).at[0, 0].set(jnp.nan)}
  got, _ = _step(tx, tx.init(params), params, step)
  assert np.isnan(got['kernel'][:, 0]).all()
  np.testing.assert_allclose(got['kernel'][:, 1], 1, rtol=1e-6)


@pytest.mark.parametrize('decay', [1.0, 10.0])
def test_weight_decay_is_a_higher_learning_rate(rng, decay):
  params = {'kernel': steps.normal(rng, (16, 4)), 'bias': jnp.ones(4)}
  grads = [{'kernel': steps.normal(rng, (16, 4)), 'bias': jnp.zeros(4)}] * 5

  def run(rate, decay, **fields):
    recipe = transforms.Recipe(sparsity=0.5, begin_step=9, **fields)
    inner = optax.adamw(rate, weight_decay=decay)
    return steps.run(transforms.hq(inner, recipe), params, grads)[-1][0]

  decayed, faster = run(0.02, decay), run(0.02 / (1 - 0.02 * decay), 0.0)
  np.testing.assert_allclose(decayed['kernel'], faster['kernel'], atol=1e-5)
  # What is on no sphere is shortened.
  shorter = (1 - 0.02 * decay) ** 5
  np.testing.assert_allclose(decayed['bias'], shorter, rtol=1e-5)
  free, kept = run(0.02, decay, project=False), run(0.02, 0.0, project=False)
  assert (_norms(free['kernel']) < 0.95 * _norms(kept['kernel'])).all()


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_updates_keep_their_dtype(dtype):
  params = {'kernel': jnp.ones((2, 2), dtype)}
  tx = transforms.project_to_sphere()
  updates, _ = tx.update(params, tx.init(params), params)
  assert updates['kernel'].dtype == dtype
