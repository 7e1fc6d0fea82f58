"""Codes and scales."""

import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from hq_jax.core import sphere
from hq_jax.core import ternary
from hq_jax.core import thresholds
from hq_jax.core import trees
from tests import compiling

_ternarize = compiling.quick_jit(
  ternary.ternarize, static_argnames=('axes', 'scope', 'num_bits')
)
_angular_optimum = compiling.quick_jit(
  ternary.angular_optimum, static_argnames='axis'
)


def test_round_significand_is_float16s_rounding(rng):
  x = rng.uniform(0.01, 1000, 500).astype(np.float32)
  np.testing.assert_array_equal(
    ternary.round_significand(jnp.asarray(x), 11),
    x.astype(np.float16).astype(np.float32),
  )
  np.testing.assert_array_equal(ternary.round_significand(x, 24), x)


def test_round_significand_halves_to_even():
  ulp = 2.0**-10
  x = jnp.array([1 + ulp / 2, 1 + 3 * ulp / 2, 1 + ulp / 2 + 2**-20, -1 - ulp])
  np.testing.assert_array_equal(
    ternary.round_significand(x, 11), [1, 1 + 2 * ulp, 1 + ulp, -1 - ulp]
  )
  assert ternary.round_significand(jnp.float32(1e-30), 11) > 0


def test_get_scale_literals():
  codes = jnp.array([[1, 0, 1], [-1, 0, 1], [1, 0, -1], [-1, 0, 0]])
  codes = codes.astype(jnp.float32)
  # 4 non-zeros: r / 2. None: 0. 3: 1 / sqrt(3) to 11 bits.
  radius = jnp.array([[3.0, 2.0, 1.0]])
  scale = ternary.get_scale(codes, radius)
  assert scale.tolist() == [[1.5, 0, float(np.float16(3**-0.5))]]
  exact = ternary.get_scale(codes, radius, num_bits=24)
  np.testing.assert_allclose(exact, [[1.5, 0, 3**-0.5]], rtol=2e-7)
  # A NaN is seen even without codes.
  radius = jnp.array([[3.0, jnp.nan, 1.0]])
  assert np.isnan(ternary.get_scale(codes, radius)[0, 1])


def _normal(rng, shape):
  return rng.normal(0, 0.3, shape).astype(np.float32)


@pytest.mark.parametrize(
  ('shape', 'axes', 'unit_norm'),
  [
    ((40, 6), None, False),
    ((1, 1), trees.Axes((1,)), True),
    ((6, 4, 3, 3), trees.Axes((0,)), True),
    ((8, 2, 3), trees.Axes((1, 2)), True),
    ((4, 9, 5), trees.Axes((2,), (0,)), True),
  ],
)
def test_ternarize_matches_the_equations(rng, shape, axes, unit_norm):
  w = _normal(rng, shape)
  kept = axes.kept if axes else (1,)
  others = tuple(i for i in range(len(shape)) if i not in kept)
  wide = np.float64(w)
  radius = np.sqrt((wide**2).sum(others, keepdims=True))
  ranked = np.abs(wide / radius if unit_norm else wide)
  order = np.sort(ranked.ravel())
  delta = order[0] / 2 if order.size == 1 else (order[-3] + order[-2]) / 2
  codes = np.sign(wide) * (ranked > delta)
  k = np.abs(codes).sum(others, keepdims=True)
  scale = np.where(k > 0, radius / np.sqrt(np.maximum(k, 1)), 0)

  threshold = thresholds.Threshold(
    jnp.float32(delta),
    jnp.int32(0),
    (1 / radius).astype(np.float32) if unit_norm else None,
  )
  got = _ternarize(w, threshold, axes=axes)
  assert got.codes.dtype == jnp.int8 and got.scale.dtype == jnp.float32
  assert got.scale.shape == scale.shape
  np.testing.assert_array_equal(got.codes, codes)
  np.testing.assert_allclose(got.scale, scale, rtol=2**-11)
  value = ternary.dequantize(got)
  np.testing.assert_array_equal(
    value, np.float32(got.codes) * np.asarray(got.scale)
  )
  # On the sphere again, wherever there is a code.
  norms = np.sqrt((np.float64(value) ** 2).sum(others, keepdims=True))
  np.testing.assert_allclose(norms[k > 0], radius[k > 0], rtol=2**-11)


def test_channels_of_zeros_and_channels_without_codes():
  w = jnp.array([[0.0, 3.0, 0.1], [0.0, -3.0, 0.1]])
  threshold = thresholds.Threshold(jnp.float32(1), jnp.int32(0))
  got = _ternarize(w, threshold)
  assert got.codes.tolist() == [[0, 1, 0], [0, -1, 0]]
  assert got.scale.tolist() == [[0, 3, 0]]
  np.testing.assert_array_equal(
    ternary.dequantize(got), [[0, 3, 0], [0, -3, 0]]
  )


def test_a_zero_that_is_kept_has_no_code():
  w = jnp.array([[1.0], [0.0], [0.0]])
  # The first two are kept.
  threshold = thresholds.Threshold(jnp.float32(0), jnp.int32(2))
  got = _ternarize(w, threshold)
  assert got.codes.ravel().tolist() == [1, 0, 0]
  assert got.scale.tolist() == [[1]]


def test_codes_of_groups():
  w = jnp.array([[3.0, 1.0], [-4.0, 0.0], [0.0, 2.0], [-0.5, -2.0]])
  got = _ternarize(w, thresholds.Quota(jnp.int32(1)), scope='1:2')
  assert got.codes.T.tolist() == [[0, -1, 0, -1], [1, 0, 1, 0]]
  np.testing.assert_allclose(
    got.scale, np.sqrt([[25.25 / 2, 9 / 2]]), rtol=2**-11
  )
  first = trees.Axes((0,))
  got = _ternarize(w, thresholds.Quota(jnp.int32(1)), axes=first, scope='1:2')
  assert got.codes.tolist() == [[1, 0], [-1, 0], [0, 1], [0, -1]]
  np.testing.assert_allclose(
    got.scale, np.sqrt([[10], [16], [4], [4.25]]), rtol=2**-11
  )


@pytest.mark.parametrize('scale_dtype', [np.float16, np.float32])
def test_dequantize_numpy_arrays(scale_dtype):
  codes = np.array([[1, -1], [0, 1]], np.int8)
  scale = np.array([[0.5, 3]], scale_dtype)
  value = ternary.dequantize(ternary.TernaryTensor(codes, scale))
  assert value.dtype == jnp.float32
  assert value.tolist() == [[0.5, -3], [0, 3]]
  ones = ternary.dequantize(ternary.TernaryTensor(codes))
  assert ones.dtype == jnp.float32
  assert ones.tolist() == [[1, -1], [0, 1]]


_DTYPES = {
  'bfloat16': (ml_dtypes.bfloat16, 6),
  'float16': (np.float16, 9),
  'float32': (np.float32, 11),
}
_CODES = list(itertools.product((-1, 0, 1), repeat=2))


@pytest.mark.parametrize('name', _DTYPES)
def test_scales_of_a_dtype_have_exact_differences(name):
  dtype, num_bits = _DTYPES[name]
  assert ternary.get_scale_bits(name) == num_bits
  # Every scale of so many bits from 1 to 2, and every one from its half to its
  # double.
  ulp = 2.0 ** (1 - num_bits)
  ones = np.arange(1, 2, ulp)
  others = np.concatenate([ones / 2, ones, 2 * ones])
  p, q = (x.astype(dtype) for x in np.meshgrid(ones, others))
  near = (q >= p / dtype(2)) & (q <= p * dtype(2))
  p, q = p[near], q[near]
  assert len(p) == 2 * len(ones) ** 2 + len(ones)
  for sign_p, sign_q in _CODES:
    before, after = dtype(sign_p) * p, dtype(sign_q) * q
    assert (before + (after - before) == after).all()


@pytest.mark.parametrize('name', _DTYPES)
def test_updates_between_ternary_kernels_are_exact(rng, name):
  num_bits = ternary.get_scale_bits(name)

  @jax.jit
  def get_kernels(codes, radius):
    return [
      (t * ternary.get_scale(t, r, num_bits=num_bits)).astype(name)
      for t, r in zip(codes, radius, strict=True)
    ]

  # Of eight non-zeros before and after: the radii decide the scales.
  codes = rng.permuted([-1.0] * 4 + [1.0] * 4 + [0.0] * 4, axis=0)
  codes = rng.permuted(np.tile(codes[:, None], (2, 1, 500)), axis=1)
  radius = rng.uniform(0.1, 10, 500) * rng.uniform(0.71, 1.4, (2, 500))
  p, q = get_kernels(jnp.float32(codes), jnp.float32(radius))
  # Op by op, in that dtype: a program might keep float32 in between.
  got = p + (q - p)
  assert got.dtype == jnp.dtype(name)
  assert len(np.unique(np.abs(np.float32(q)))) > 50
  assert (np.asarray(got) == np.asarray(q)).all()


def test_cosine_distances_of_gaussian_kernels(rng):
  w = jnp.asarray(rng.normal(size=(2000, 50)), jnp.float32)

  @jax.jit
  def get_distances(w):
    found = thresholds.get_thresholds({'w': w}, 0.85)
    keep = thresholds.keep_mask(w, found['w'])
    codes = ternary.get_codes(w, keep)
    return [
      sphere.cosine_distance(x, codes).mean()
      for x in (w, jnp.where(keep, w, 0))
    ]

  # With z = 1.4395, where 85% of |N(0, 1)| lies below: dense 1 - 2 phi(z) /
  # sqrt(0.15); pruned 1 - 2 phi(z) / sqrt(0.15 (2 z phi(z) + 0.15)).
  np.testing.assert_allclose(get_distances(w), [0.269, 0.0209], atol=2e-3)


@pytest.mark.parametrize(
  ('shape', 'axis'),
  [((4, 4, 2), 0), ((2, 4, 3), -1), ((3, 8, 2), (0, 2)), ((8, 2, 3), (-1, 1))],
)
def test_angular_optimum_beats_every_ternary_vector(rng, shape, axis):
  w = rng.standard_normal(shape).astype(np.float32)
  optimum = _angular_optimum(jnp.asarray(w), axis=axis)
  axes = np.atleast_1d(axis)
  columns, codes = (
    np.moveaxis(np.float64(x), axes, range(len(axes))).reshape(-1, 8).T
    for x in (w, optimum.codes)
  )
  every = np.array(list(itertools.product((-1, 0, 1), repeat=8)), np.float64)
  every = every[np.abs(every).sum(axis=1) > 0]
  cosines = every @ columns / np.linalg.norm(every, axis=1)[:, None]
  found = (codes * columns).sum(axis=0) / np.linalg.norm(codes, axis=0)
  np.testing.assert_allclose(found, cosines.max(axis=0), rtol=1e-6)
  value = ternary.dequantize(optimum)
  np.testing.assert_allclose(
    sphere.norms(value, axis), sphere.norms(jnp.asarray(w), axis), rtol=5e-4
  )


def test_angular_optimum_by_hand():
  codes = {
    (3.0, -1.0, 1.0, 0.0, 0.0): [1, 0, 0, 0, 0],  # 3 > 4 / sqrt(2), 5 / sqrt(3)
    (2.0, -2.0, 2.0, 0.0, 0.0): [1, -1, 1, 0, 0],  # ties are kept together
    (2.0, 1.0, 1.0, -1.0, 1.0): [1, 1, 1, -1, 1],  # 6 / sqrt(5) > 2
    (0.0, -1e-3, 0.0, 0.0, 0.0): [0, -1, 0, 0, 0],
    (0.0, 0.0, 0.0, 0.0, 0.0): [0] * 5,
    (1.0, np.nan, 1.0, 1.0, 1.0): [0] * 5,
  }
  w = np.float32(list(codes)).T
  found = _angular_optimum(w)
  assert found.codes.T.tolist() == list(codes.values())
  num = np.abs(list(codes.values())).sum(1)
  wanted = np.linalg.norm(w, axis=0, keepdims=True) / np.sqrt(
    np.maximum(1, num)
  )
  np.testing.assert_allclose(found.scale, wanted, rtol=2**-11)


def test_angular_optimum_of_bfloat16(rng):
  w = jnp.asarray(rng.standard_normal((64, 8)), jnp.bfloat16)
  found, wanted = _angular_optimum(w), _angular_optimum(w.astype(jnp.float32))
  np.testing.assert_array_equal(found.codes, wanted.codes)
  np.testing.assert_array_equal(found.scale, wanted.scale)
  # A Gaussian channel keeps 54%: what is above 0.61 deviations.
  kept = np.mean(np.asarray(found.codes) != 0)
  assert kept == pytest.approx(0.54, abs=0.06)
