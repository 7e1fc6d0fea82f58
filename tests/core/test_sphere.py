"""The sphere against its equations in float64, and where they break down."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax.core import sphere
from tests import compiling

# Compiled: op by op, every shape costs a second.
_exact_norms = compiling.quick_jit(sphere.exact_norms, static_argnames='axis')
P = jax.sharding.PartitionSpec


def _columns(w):
  return np.asarray(w, np.float64).reshape(-1, np.shape(w)[-1])


def _norms(w):
  return np.sqrt((_columns(w) ** 2).sum(0, keepdims=True))


def _normal(rng, shape):
  return rng.normal(0, 2, shape).astype(np.float32)


def test_no_distance_is_below_zero_or_above_two(rng):
  # A rounded cosine is beyond 1 in many of these channels.
  w = _normal(rng, (9, 200))
  near, far = sphere.cosine_distance(w, w), sphere.cosine_distance(w, -w)
  assert near.min() == 0 and near.max() < 1e-6
  assert far.max() == 2 and far.min() > 2 - 1e-6


def test_gradients_at_zero_are_zero():
  w = jnp.array([[3.0, 0.0], [4.0, 0.0]])
  distance = lambda w: sphere.cosine_distance(w, jnp.ones_like(w)).sum()

  @compiling.quick_jit
  def differentiate(w):
    jacobians = jax.jacobian(lambda w: (sphere.normalize(w), sphere.norms(w)))
    return *jacobians(w), jax.grad(distance)(w)

  unit, norms, distances = differentiate(w)
  # du/dw = (I - u u^T) / r with u = (0.6, 0.8), r = 5: by the chain rule, the
  # gradient of a loss is the tangent of its gradient at u, over r.
  wanted = np.array([[0.128, -0.096], [-0.096, 0.072]])
  np.testing.assert_allclose(unit[:, 0, :, 0], wanted, atol=1e-7)
  np.testing.assert_array_equal(unit[:, 1], 0)
  np.testing.assert_array_equal(unit[:, 0, :, 1], 0)
  wanted = [[[[0.6, 0], [0.8, 0]], np.zeros((2, 2))]]
  np.testing.assert_allclose(norms, wanted)
  assert np.isfinite(distances).all()


def test_a_nan_is_seen_in_its_channel_only():
  w = jnp.array([[jnp.nan, 3.0], [1.0, 4.0]])
  np.testing.assert_array_equal(sphere.norms(w), [[np.nan, 5]])
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
  np.testing.assert_allclose(sphere.norms(w), [[5 * size]], rtol=1e-5)
  np.testing.assert_allclose(sphere.normalize(w), [[0.6], [-0.8]], rtol=1e-5)


@pytest.mark.parametrize('shape', [(0, 3), (3, 0), (0, 0)])
def test_axes_of_size_zero(shape):
  w = jnp.zeros(shape)
  zeros = np.zeros((1, shape[-1]))
  np.testing.assert_array_equal(sphere.norms(w), zeros)
  np.testing.assert_array_equal(_exact_norms(w), zeros)
  assert sphere.normalize(w).shape == shape
  assert sphere.cosine_distance(w, w).shape == zeros.shape


def test_sum_by_channel_literals():
  x = jnp.arange(12).reshape(2, 3, 2)
  assert sphere.sum_by_channel(x).tolist() == [[[30, 36]]]
  assert sphere.sum_by_channel(x, 0).tolist() == [[[15]], [[51]]]
  assert sphere.sum_by_channel(x, -2).tolist() == [[[14], [22], [30]]]
  assert sphere.sum_by_channel(x, (-1, 0)).tolist() == [[[6, 9]], [[24, 27]]]
  counts = sphere.sum_by_channel(jnp.ones((300, 2), bool), dtype=jnp.int32)
  assert counts.dtype == jnp.int32 and counts.tolist() == [[300, 300]]


@pytest.mark.parametrize('axis', [0, -2, -1, (1, 2), (-1, 0)])
def test_all_match_their_equations_on_any_axes(rng, axis):
  a, b = _normal(rng, (4, 3, 5)), _normal(rng, (4, 3, 5))
  axes = np.atleast_1d(axis) % 3
  np.moveaxis(a, axes, range(len(axes)))[(1,) * len(axes)] = 0  # a channel
  others = tuple(i for i in range(3) if i not in axes)
  wide = np.float64(a)
  dot = lambda x, y: (np.float64(x) * y).sum(others, keepdims=True)
  norm = np.sqrt(dot(a, a))
  unit = wide / np.where(norm == 0, 1, norm)
  cosine = dot(unit, b) / np.sqrt(dot(b, b))

  @compiling.quick_jit
  def compute(a, b):
    return (
      sphere.norms(a, axis),
      sphere.exact_norms(a, axis),
      sphere.cosine_distance(a, b, axis),
      sphere.normalize(a, axis),
      sphere.tangent(b, a, axis),
    )

  wanted = norm, norm, 1 - cosine, unit, b - dot(unit, b) * unit
  for got, value in zip(compute(a, b), wanted, strict=True):
    assert got.shape == value.shape
    np.testing.assert_allclose(got, value, rtol=1e-5, atol=2e-6)


def test_divide_literals():
  a, b = jnp.array([6.0, 1.0, 0.0, 1.0]), jnp.array([2.0, 0.0, 0.0, jnp.nan])
  np.testing.assert_array_equal(sphere.divide(a, b), [3, 0, 0, np.nan])
  grads = jax.grad(lambda a, b: sphere.divide(a, b).sum(), (0, 1))(a, b)
  # 1 / b and -a / b^2, and zero where the divisor is.
  np.testing.assert_array_equal(grads[0], [0.5, 0, 0, np.nan])
  np.testing.assert_array_equal(grads[1], [-1.5, 0, 0, np.nan])
  assert sphere.divide(1.0, jnp.array([4.0, -0.0])).tolist() == [0.25, 0]


EXACT = {
  'conv': ((3, 3, 40, 8), -1),
  'channel_first': ((8, 40, 3, 3), 0),
  'layers_and_channels': ((3, 40, 8), (0, 2)),
  'one_weight_a_channel': ((1, 9), -1),
  'one_channel': ((50, 1), -1),
  # Two limbs of 14 bits: more than 2^16 weights.
  'many_weights': ((70_000, 2), -1),
}


@pytest.mark.parametrize('name', EXACT)
def test_exact_norms_match_the_equation(rng, name):
  shape, axis = EXACT[name]
  w = _normal(rng, shape)
  axes = np.atleast_1d(axis) % w.ndim
  others = tuple(i for i in range(w.ndim) if i not in axes)
  wanted = np.sqrt((np.float64(w) ** 2).sum(others, keepdims=True))
  got = _exact_norms(w, axis)
  assert got.dtype == jnp.float32 and got.shape == wanted.shape
  np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_exact_norms_of_equal_weights_are_full_sums():
  # The largest sums of integers that there are: every weight just below a
  # power of two, as many as limbs of 15 bits can hold, and more than that.
  largest = np.float32(2 - 2**-23)
  for num in (2**16, 70_000):
    got = _exact_norms(jnp.full((num, 1), largest))
    np.testing.assert_allclose(got, [[np.sqrt(num) * largest]], rtol=1e-6)


def test_exact_norms_of_channels_of_any_size(rng):
  # Squares of these are no float32.
  sizes = np.float64([1e-36, 1e-30, 1e-10, 1e10, 1e30, 1e35])
  w = (_normal(rng, (30, 6)) * sizes).astype(np.float32)
  np.testing.assert_allclose(_exact_norms(w), _norms(w), rtol=1e-6)
  w = np.float32([[1.2e-38, 2.3e-38, 9e37, 3e38, 0.0]])  # the ends of the range
  np.testing.assert_allclose(_exact_norms(w), w, rtol=1e-6)
  w = jnp.asarray(_normal(rng, (30, 6)), jnp.bfloat16)
  wanted = _norms(w.astype(jnp.float32))
  np.testing.assert_allclose(_exact_norms(w), wanted, rtol=1e-6)


def test_exact_norms_show_what_is_not_finite():
  w = np.ones((4, 6), np.float32)
  w[:, 0] = 0
  w[1, 1], w[2, 2], w[0, 3] = np.nan, np.inf, -np.inf
  w[0, 4], w[1, 4] = np.inf, np.nan
  wanted = [[0, np.nan, np.nan, np.nan, np.nan, 2]]
  np.testing.assert_array_equal(_exact_norms(w), wanted)


@pytest.mark.parametrize(
  ('sizes', 'spec', 'axis'),
  [
    ((8,), P('d0', None), -1),
    ((8,), P(None, 'd0'), -1),
    ((4, 2), P('d0', 'd1'), -1),
    ((4, 2), P(None, 'd1'), 0),
  ],
)
def test_exact_norms_are_the_same_bits_however_sharded(
  rng, make_mesh, sizes, spec, axis
):
  # Of sizes that differ, so that sums of floats would depend on their order.
  w = (_normal(rng, (504, 16)) ** 3).astype(np.float32)
  wanted = np.asarray(_exact_norms(w, axis))
  sharding = jax.sharding.NamedSharding(make_mesh(*sizes), spec)
  got = np.asarray(_exact_norms(jax.device_put(w, sharding), axis))
  assert (got == wanted).all()


@pytest.mark.parametrize('axis', [-1, 0])
def test_exact_norms_compiled_and_op_by_op_are_the_same_bits(rng, axis):
  w = (_normal(rng, (504, 16)) ** 3).astype(np.float32)
  got = np.asarray(sphere.exact_norms(w, axis))
  assert (got == np.asarray(_exact_norms(w, axis))).all()


def test_exact_norms_do_not_depend_on_the_order_of_the_weights(rng):
  w = (_normal(rng, (5000, 4)) ** 3).astype(np.float32)
  wanted = np.asarray(_exact_norms(w))
  for _ in range(3):
    rng.shuffle(w)
    assert (np.asarray(_exact_norms(w)) == wanted).all()
  # And that of a channel not on what else is computed.
  alone = np.asarray(_exact_norms(w[:, 1:2].reshape(50, 100, 1)))
  assert (alone == wanted[0, 1]).all()
