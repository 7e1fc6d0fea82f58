"""Exact thresholds, codes and scales."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import sphere
from hq_jax import ternary

P = jax.sharding.PartitionSpec


def _stable_keep(magnitudes, kept):
  """The reference: a stable sort, largest first, ties by flat index."""
  flat = np.asarray(magnitudes, np.float64).ravel()
  keep = np.zeros(flat.size, bool)
  keep[np.argsort(-flat, kind='stable')[:kept]] = True
  return keep.reshape(np.shape(magnitudes))


@jax.jit
def _keep(magnitudes, kept):
  return ternary.keep_mask(magnitudes, ternary.find_threshold(magnitudes, kept))


_ternarize = jax.jit(ternary.ternarize, static_argnames='unit_norm')
_GENERATOR = np.random.default_rng(1)
MAGNITUDES = {
  'continuous': np.abs(_GENERATOR.normal(size=(5, 7))),
  'ties': _GENERATOR.integers(0, 4, (3, 2, 6)),
  'mostly_zeros': _GENERATOR.choice(2, (6, 5), p=[0.8, 0.2]),
  'all_equal': np.full((4, 5), 0.25),
  'all_zero': np.zeros((4, 3)),
  'huge_range': np.ldexp(1.0, _GENERATOR.integers(-126, 127, (30,))),
  'neighbours': np.float32(1) + np.arange(12) % 5 * np.float32(2**-23),
  'infinite': np.array([[1.0, np.inf], [0.0, np.inf]]),
  'one_element': np.array([[3.0]]),
  'one_zero': np.array([0.0]),
}


@pytest.mark.parametrize('name', MAGNITUDES)
def test_exactly_the_wanted_number_is_kept_for_every_number(name):
  magnitudes = jnp.asarray(MAGNITUDES[name], jnp.float32)
  for kept in range(magnitudes.size + 1):
    keep = _keep(magnitudes, kept)
    assert int(keep.sum()) == kept
    np.testing.assert_array_equal(keep, _stable_keep(magnitudes, kept))


def test_bfloat16_magnitudes_have_ties_of_their_own(rng):
  magnitudes = jnp.asarray(np.abs(rng.normal(size=(20, 30))), jnp.bfloat16)
  assert len(np.unique(np.asarray(magnitudes, np.float32))) < 500
  for kept in (1, 37, 300, 599):
    keep = _keep(magnitudes, kept)
    np.testing.assert_array_equal(
      keep, _stable_keep(magnitudes.astype(jnp.float32), kept)
    )


def test_subnormal_magnitudes_count_as_zero():
  # Whether a processor sees them at all is no concern of the threshold's.
  magnitudes = jnp.array([0.0, 1e-40, 2e-40, 1.0, 1.2e-38])
  wanted = {1: [3], 2: [3, 4], 3: [0, 3, 4], 4: [0, 1, 3, 4]}
  for kept, index in wanted.items():
    assert np.flatnonzero(_keep(magnitudes, kept)).tolist() == index
    eager = ternary.keep_mask(
      magnitudes, ternary.find_threshold(magnitudes, kept)
    )
    assert np.flatnonzero(eager).tolist() == index


def test_negative_zero_is_zero():
  magnitudes = jnp.array([-0.0, 0.0, 1.0, -0.0])
  assert np.flatnonzero(_keep(magnitudes, 2)).tolist() == [0, 2]
  assert np.flatnonzero(_keep(magnitudes, 3)).tolist() == [0, 1, 2]


@pytest.mark.parametrize('sign', [1.0, -1.0])
def test_nan_counts_as_the_largest(sign):
  # Either has a sign bit; 0 / 0 sets it on some processors.
  magnitudes = jnp.asarray(
    np.array([3.0, np.copysign(np.nan, sign), np.inf, 1.0], np.float32)
  )
  assert np.flatnonzero(_keep(magnitudes, 1)).tolist() == [1]
  assert np.flatnonzero(_keep(magnitudes, 3)).tolist() == [0, 1, 2]


def test_threshold_literals():
  threshold = ternary.find_threshold(jnp.array([3.0, 1.0, 2.0, 2.0]), 2)
  assert threshold.magnitude == 2
  # Of the tie at 2 and 3, the first is kept.
  assert 2 < threshold.tie_index <= 3
  assert ternary.find_threshold(jnp.ones(3), 0).magnitude == jnp.inf
  assert ternary.find_threshold(jnp.arange(4.0), 4).magnitude == 0
  assert threshold.magnitude.dtype == jnp.float32
  assert threshold.tie_index.dtype == jnp.int32


def test_the_dead_zone_is_closed():
  threshold = ternary.Threshold(jnp.float32(2), jnp.int32(0))
  keep = ternary.keep_mask(jnp.array([1.0, 2.0, 2.0000002]), threshold)
  assert keep.tolist() == [False, False, True]


def test_axes_of_size_zero():
  magnitudes = jnp.zeros((0, 3))
  kept = ternary.num_kept(magnitudes.size, 0.5)
  assert kept == 0
  assert ternary.find_threshold(magnitudes, kept).magnitude == jnp.inf
  assert _keep(magnitudes, kept).shape == (0, 3)


def test_thresholds_under_vmap(rng):
  magnitudes = jnp.asarray(rng.integers(0, 3, (4, 10)), jnp.float32)
  keep = jax.vmap(lambda a: _keep(a, 4))(magnitudes)
  for got, row in zip(keep, magnitudes, strict=True):
    np.testing.assert_array_equal(got, _stable_keep(row, 4))


def test_too_many_elements_are_refused():
  huge = jax.ShapeDtypeStruct((2**16, 2**15), jnp.float32)
  with pytest.raises(ValueError, match='2147483648 elements'):
    jax.eval_shape(lambda a: ternary.find_threshold(a, 1), huge)


@pytest.mark.parametrize('sharded_axes', [('d0', None), (None, 'd0')])
def test_thresholds_of_sharded_kernels_are_the_same_bits(
  rng, make_mesh, sharded_axes
):
  sharding = jax.sharding.NamedSharding(make_mesh(8), P(*sharded_axes))
  find = jax.jit(ternary.find_threshold)
  for levels in (5, 1000):
    whole = jnp.asarray(rng.integers(0, levels, (64, 32)), jnp.float32) / 7
    sharded = jax.device_put(whole, sharding)
    for kept in (0, 1, 307, 2047, 2048):
      wanted, got = find(whole, kept), find(sharded, kept)
      assert got.magnitude == wanted.magnitude
      assert got.tie_index == wanted.tie_index
      keep = jax.jit(ternary.keep_mask)(sharded, got)
      assert keep.sharding.is_equivalent_to(sharding, 2)
      np.testing.assert_array_equal(keep, _stable_keep(whole, kept))


def test_thresholds_of_sharded_kernels_need_no_gather(make_mesh):
  sharding = jax.sharding.NamedSharding(make_mesh(4, 2), P('d0', 'd1'))
  kernel = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=sharding)
  program = _keep.lower(kernel, 100).compile().as_text()
  assert 'all-reduce' in program
  assert 'all-gather' not in program


def test_num_kept_literals():
  assert ternary.num_kept(200, 0.85) == 30
  assert ternary.num_kept(10, 0.0) == 10
  assert ternary.num_kept(10, 0.99) == 1  # At least one.
  assert ternary.num_kept(1, 0.5) == 1
  assert ternary.num_kept(10, jnp.float32(0.75)).dtype == jnp.int32
  assert jax.jit(ternary.num_kept, static_argnums=0)(1000, 0.9) == 100


def test_num_kept_is_right_within_one(rng):
  for size in (7, 100, 4608, 2_359_296):
    for sparsity in rng.uniform(0, 0.999, 5):
      got = int(ternary.num_kept(size, float(sparsity)))
      assert abs(got - max(1, (1 - sparsity) * size)) < 0.5 + 1e-6 * size


def test_get_codes_literals():
  w = jnp.array([-2.0, 1.0, 0.0, -0.5], jnp.bfloat16)
  keep = jnp.array([True, False, True, True])
  codes = ternary.get_codes(w, keep)
  assert codes.dtype == jnp.float32
  assert codes.tolist() == [-1, 0, 0, -1]


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
  scale = ternary.get_scale(codes, jnp.array([3.0, 2.0, 1.0]))
  assert scale.tolist() == [1.5, 0, float(np.float16(3**-0.5))]
  exact = ternary.get_scale(codes, jnp.array([3.0, 2.0, 1.0]), num_bits=24)
  np.testing.assert_allclose(exact, [1.5, 0, 3**-0.5], rtol=2e-7)


def test_get_scale_shows_a_nan_even_without_codes():
  scale = ternary.get_scale(jnp.zeros((2, 2)), jnp.array([jnp.nan, 1.0]))
  np.testing.assert_array_equal(scale, [np.nan, 0])


def _normal(rng, shape):
  return rng.normal(0, 0.3, shape).astype(np.float32)


@pytest.mark.parametrize('shape', [(40, 6), (3, 3, 4, 8), (1, 1)])
@pytest.mark.parametrize('unit_norm', [True, False])
def test_ternarize_matches_the_equations(rng, shape, unit_norm):
  w = _normal(rng, shape)
  columns = w.astype(np.float64).reshape(-1, shape[-1])
  radius = np.sqrt((columns**2).sum(0))
  ranked = np.abs(columns / radius if unit_norm else columns)
  order = np.sort(ranked.ravel())
  delta = order[0] / 2 if order.size == 1 else (order[-3] + order[-2]) / 2
  codes = np.sign(columns) * (ranked > delta)
  k = np.abs(codes).sum(0)
  scale = np.where(k > 0, radius / np.sqrt(np.maximum(k, 1)), 0)

  threshold = ternary.Threshold(jnp.float32(delta), jnp.int32(0))
  got = _ternarize(w, threshold, unit_norm=unit_norm)
  assert got.codes.dtype == jnp.int8 and got.scale.dtype == jnp.float32
  np.testing.assert_array_equal(got.codes, codes.reshape(shape))
  np.testing.assert_allclose(got.scale, scale, rtol=2**-11)
  value = jax.jit(ternary.dequantize)(got)
  np.testing.assert_array_equal(
    value, np.float32(got.codes) * np.asarray(got.scale)
  )
  # On the sphere again, wherever there is a code.
  norms = np.sqrt((np.float64(value).reshape(-1, shape[-1]) ** 2).sum(0))
  np.testing.assert_allclose(norms[k > 0], radius[k > 0], rtol=2**-11)


def test_unit_norm_ranks_channels_alike():
  # A strong and a weak channel of the same direction.
  w = jnp.array([[3.0, 0.03], [1.0, 0.01]])
  keep = lambda unit_norm: _keep(
    ternary.rank_magnitudes(w, unit_norm=unit_norm), 2
  )
  assert keep(True).tolist() == [[True, True], [False, False]]
  assert keep(False).tolist() == [[True, False], [True, False]]


def test_channels_of_zeros_and_channels_without_codes():
  w = jnp.array([[0.0, 3.0, 0.1], [0.0, -3.0, 0.1]])
  threshold = ternary.Threshold(jnp.float32(1), jnp.int32(0))
  got = ternary.ternarize(w, threshold, unit_norm=False)
  assert got.codes.tolist() == [[0, 1, 0], [0, -1, 0]]
  assert got.scale.tolist() == [0, 3, 0]
  np.testing.assert_array_equal(
    ternary.dequantize(got), [[0, 3, 0], [0, -3, 0]]
  )


def test_a_zero_that_is_kept_has_no_code():
  w = jnp.array([[1.0], [0.0], [0.0]])
  threshold = ternary.find_threshold(jnp.abs(w), 2)
  got = ternary.ternarize(w, threshold)
  assert got.codes.ravel().tolist() == [1, 0, 0]
  assert got.scale.tolist() == [1]


@pytest.mark.parametrize('scale_dtype', [np.float16, np.float32])
def test_dequantize_numpy_arrays(scale_dtype):
  codes = np.array([[1, -1], [0, 1]], np.int8)
  scale = np.array([0.5, 3], scale_dtype)
  value = ternary.dequantize(ternary.TernaryTensor(codes, scale))
  assert value.dtype == jnp.float32
  assert value.tolist() == [[0.5, -3], [0, 3]]
  ones = ternary.dequantize(ternary.TernaryTensor(codes))
  assert ones.dtype == jnp.float32
  assert ones.tolist() == [[1, -1], [0, 1]]


def test_differences_of_scales_are_exact(rng):
  codes = jnp.asarray(rng.integers(-1, 2, (9, 200)), jnp.float32)
  radius = jnp.asarray(rng.uniform(0.1, 10, (2, 200)), jnp.float32)
  p = codes * ternary.get_scale(codes, radius[0])
  q = jnp.roll(codes, 1, 0) * ternary.get_scale(codes, radius[1])
  np.testing.assert_array_equal(p + (q - p), q)


def test_cosine_distances_of_gaussian_kernels(rng):
  w = jnp.asarray(rng.normal(size=(2000, 50)), jnp.float32)
  keep = _keep(ternary.rank_magnitudes(w), int(0.15 * w.size))
  codes = ternary.get_codes(w, keep)
  dense = sphere.cosine_distance(w, codes).mean()
  pruned = sphere.cosine_distance(jnp.where(keep, w, 0), codes).mean()
  # With z = 1.4395, where 85% of |N(0, 1)| lies below: dense 1 - 2 phi(z) /
  # sqrt(0.15); pruned 1 - 2 phi(z) / sqrt(0.15 (2 z phi(z) + 0.15)).
  np.testing.assert_allclose([dense, pruned], [0.269, 0.0209], atol=2e-3)


def test_many_kernels_in_one_search(rng):
  arrays = [
    jnp.asarray(rng.integers(0, 4, (5, 3)), jnp.float32),
    jnp.asarray(np.abs(rng.normal(size=(2, 2, 4))), jnp.float32),
    jnp.zeros((3,)),
  ]
  # Ties to split in the first and the last only.
  kept = [7, 5, 2]
  found = jax.jit(ternary.find_thresholds)(arrays, kept)
  for array, k, threshold in zip(arrays, kept, found, strict=True):
    keep = ternary.keep_mask(array, threshold)
    np.testing.assert_array_equal(keep, _stable_keep(array, k))


def test_get_thresholds_of_a_tree(rng):
  latents = {
    'b': jnp.asarray(rng.normal(size=(6, 4)), jnp.float32),
    'a': {'kernel': jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)},
    'none': optax.MaskedNode(),
  }
  for unit_norm in (True, False):
    found = jax.jit(
      lambda tree, s, unit_norm=unit_norm: ternary.get_thresholds(
        tree, s, unit_norm=unit_norm
      )
    )(latents, 0.5)
    assert isinstance(found['none'], optax.MaskedNode)
    for w, threshold, kept in (
      (latents['b'], found['b'], 12),
      (latents['a']['kernel'], found['a']['kernel'], 3),
    ):
      magnitudes = ternary.rank_magnitudes(w, unit_norm=unit_norm)
      assert int(ternary.keep_mask(magnitudes, threshold).sum()) == kept


def test_what_is_ranked_compiled_is_kept_uncompiled(rng):
  # The norms must be the same to the last bit, or the weight that made the
  # threshold falls on its other side.
  rank = jax.jit(lambda w: ternary.get_thresholds({'w': w}, 0.75)['w'])
  for _ in range(20):
    w = jnp.asarray(rng.normal(size=(17, 5)), jnp.float32)
    codes = ternary.ternarize(w, rank(w)).codes
    assert int((codes != 0).sum()) == 21
