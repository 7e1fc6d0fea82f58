"""The sphere against its equations in float64, and where they break down."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax import sphere

SHAPES = [(7, 5), (3, 3, 4, 6), (1, 1), (1, 4), (9,)]


def _columns(w):
  return np.asarray(w, np.float64).reshape(-1, np.shape(w)[-1])


def _norms(w):
  return np.sqrt((_columns(w) ** 2).sum(0))


def _normal(rng, shape):
  return rng.normal(0, 2, shape).astype(np.float32)


@pytest.mark.parametrize('shape', SHAPES)
def test_norms_and_normalize_match_the_equation(rng, shape):
  w = _normal(rng, shape)
  if len(shape) == 1:  # Every element is a channel of its own.
    np.testing.assert_allclose(sphere.norms(w), np.abs(w), rtol=1e-6)
    np.testing.assert_allclose(sphere.normalize(w), np.sign(w), rtol=1e-6)
    return
  np.testing.assert_allclose(sphere.norms(w), _norms(w), rtol=1e-6)
  np.testing.assert_allclose(
    sphere.normalize(w), w.astype(np.float64) / _norms(w), rtol=2e-6
  )


@pytest.mark.parametrize('shape', SHAPES[:-1])
def test_tangent_matches_the_equation(rng, shape):
  g, w = _normal(rng, shape), _normal(rng, shape)
  u = w.astype(np.float64) / _norms(w)
  radial = (_columns(g) * _columns(u)).sum(0)
  got = sphere.tangent(g, w)
  np.testing.assert_allclose(got, g - radial * u, rtol=1e-5, atol=3e-6)
  np.testing.assert_allclose((_columns(got) * _columns(u)).sum(0), 0, atol=5e-6)


def test_tangent_does_not_depend_on_the_radius(rng):
  g, w = _normal(rng, (6, 3)), _normal(rng, (6, 3))
  np.testing.assert_allclose(
    sphere.tangent(g, w), sphere.tangent(g, 64 * w), atol=1e-6
  )


def test_cosine_distance_literals():
  a = jnp.array([[1.0, 1.0, 1.0, 0.0], [0.0, 1.0, 2.0, 0.0]])
  b = jnp.array([[0.0, 2.0, -1.0, 5.0], [3.0, 2.0, -2.0, 1.0]])
  # At right angles, parallel, opposite, and a channel of zeros.
  np.testing.assert_allclose(
    sphere.cosine_distance(a, b), [1, 0, 2, 1], atol=1e-6
  )


def test_cosine_distance_matches_the_equation(rng):
  a, b = _normal(rng, (3, 2, 5)), _normal(rng, (3, 2, 5))
  dot = (_columns(a) * _columns(b)).sum(0)
  np.testing.assert_allclose(
    sphere.cosine_distance(a, b),
    1 - dot / (_norms(a) * _norms(b)),
    atol=1e-6,
  )
  np.testing.assert_array_equal(
    sphere.cosine_distance(a, b), sphere.cosine_distance(b, a)
  )


def test_a_channel_of_zeros_stays_zero():
  w = jnp.array([[3.0, 0.0], [4.0, -0.0]])
  g = jnp.array([[1.0, 2.0], [3.0, 4.0]])
  np.testing.assert_array_equal(sphere.norms(w), [5, 0])
  np.testing.assert_array_equal(sphere.normalize(w)[:, 1], [0, 0])
  np.testing.assert_array_equal(sphere.tangent(g, w)[:, 1], [2, 4])


def test_gradients_at_zero_are_zero():
  w = jnp.array([[3.0, 0.0], [4.0, 0.0]])
  jacobian = jax.jacobian(sphere.normalize)(w)
  # dg/dw = (I - u u^T) / r with u = (0.6, 0.8), r = 5.
  wanted = np.array([[0.128, -0.096], [-0.096, 0.072]])
  np.testing.assert_allclose(jacobian[:, 0, :, 0], wanted, atol=1e-7)
  np.testing.assert_array_equal(jacobian[:, 1], 0)
  np.testing.assert_array_equal(jacobian[:, 0, :, 1], 0)
  np.testing.assert_allclose(
    jax.jacobian(sphere.norms)(w), [[[0.6, 0], [0.8, 0]], np.zeros((2, 2))]
  )
  g = jax.grad(lambda w: sphere.cosine_distance(w, jnp.ones_like(w)).sum())(w)
  assert np.isfinite(g).all()


def test_gradient_of_the_loss_through_normalize_is_the_tangent(rng):
  w, v = _normal(rng, (5, 3)), _normal(rng, (5, 3))
  got = jax.grad(lambda w: jnp.sum(sphere.normalize(w) * v))(w)
  np.testing.assert_allclose(
    got, sphere.tangent(v, w) / _norms(w), rtol=1e-4, atol=1e-6
  )


def test_a_nan_is_seen_in_its_channel_only():
  w = jnp.array([[jnp.nan, 3.0], [1.0, 4.0]])
  np.testing.assert_array_equal(sphere.norms(w), [np.nan, 5])
  u = sphere.normalize(w)
  assert np.isnan(u[:, 0]).all()
  np.testing.assert_allclose(u[:, 1], [0.6, 0.8], rtol=1e-6)
  assert np.isnan(sphere.normalize(jnp.array([[jnp.inf], [1.0]]))).any()


def test_bfloat16_is_summed_in_float32():
  # 300 ones: a bfloat16 sum would stop at 256.
  w = jnp.ones((300, 1), jnp.bfloat16)
  assert sphere.norms(w).dtype == jnp.float32
  np.testing.assert_allclose(sphere.norms(w), np.sqrt(300), rtol=1e-6)
  assert sphere.normalize(w).dtype == jnp.float32
  assert sphere.tangent(w, w).dtype == jnp.float32
  assert sphere.cosine_distance(w, w).dtype == jnp.float32


@pytest.mark.parametrize('size', [1e-17, 1e17])
def test_small_and_large_weights(size):
  w = jnp.array([[3.0], [-4.0]]) * size
  np.testing.assert_allclose(sphere.norms(w), [5 * size], rtol=1e-5)
  np.testing.assert_allclose(sphere.normalize(w), [[0.6], [-0.8]], rtol=1e-5)


@pytest.mark.parametrize('shape', [(0, 3), (3, 0), (0, 0)])
def test_axes_of_size_zero(shape):
  w = jnp.zeros(shape)
  np.testing.assert_array_equal(sphere.norms(w), np.zeros(shape[-1]))
  assert sphere.normalize(w).shape == shape
  assert sphere.cosine_distance(w, w).shape == shape[-1:]
