"""Gradients along the sphere."""

import jax.numpy as jnp
import numpy as np

from hq_jax import transforms
from tests.transforms import steps


def _update(grads, params):
  tx = transforms.tangent()
  return tx.update(grads, tx.init(params), params)[0]


def test_matches_the_equation(rng):
  w, g = steps.normal(rng, (3, 3, 2, 4)), steps.normal(rng, (3, 3, 2, 4))
  got = _update({'kernel': g}, {'kernel': w})['kernel']
  g, w = np.asarray(g, np.float64), np.asarray(w, np.float64)
  u = w / np.sqrt((w**2).sum((0, 1, 2)))
  np.testing.assert_allclose(got, g - (g * u).sum((0, 1, 2)) * u, atol=1e-6)


def test_the_radius_grows_in_second_order_only(rng):
  # At right angles: ||w - g_t||^2 = ||w||^2 + ||g_t||^2.
  params = {
    'kernel': steps.normal(rng, (8, 3)),
    'bias': steps.normal(rng, (3,)),
  }
  grads = {'kernel': steps.normal(rng, (8, 3)), 'bias': steps.normal(rng, (3,))}
  updates = _update(grads, params)
  square = lambda x: np.sum(np.asarray(x, np.float64) ** 2, 0)
  np.testing.assert_allclose(
    square(params['kernel'] - updates['kernel']),
    square(params['kernel']) + square(updates['kernel']),
    rtol=1e-6,
  )
  np.testing.assert_array_equal(updates['bias'], grads['bias'])


def test_a_channel_of_zeros_gets_its_whole_gradient():
  params = {'kernel': jnp.array([[0.0, 1.0], [0.0, 0.0]])}
  grads = {'kernel': jnp.array([[1.0, 2.0], [3.0, 4.0]])}
  got = _update(grads, params)['kernel']
  assert got.tolist() == [[1, 0], [3, 4]]


def test_one_weight_has_no_direction_to_move_in():
  params = {'kernel': jnp.array([[2.0]])}
  assert _update({'kernel': jnp.array([[5.0]])}, params)['kernel'] == 0


def test_gradients_keep_their_dtype(rng):
  params = {'kernel': steps.normal(rng, (8, 3)).astype(jnp.bfloat16)}
  assert _update(params, params)['kernel'].dtype == jnp.bfloat16
  params = {'kernel': steps.normal(rng, (8, 3))}
  grads = {'kernel': params['kernel'].astype(jnp.bfloat16)}
  assert _update(grads, params)['kernel'].dtype == jnp.bfloat16
