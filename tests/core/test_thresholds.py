"""Exact thresholds in every scope, and the same bits on any devices."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax.core import sphere
from hq_jax.core import thresholds
from hq_jax.core import trees
from tests import compiling

P = jax.sharding.PartitionSpec
SCOPES = ('layer', 'tree', 'channel', '2:4')


def _stable_keep(magnitudes, kept):
  """The reference: a stable sort, largest first, ties by flat index."""
  flat = np.asarray(magnitudes, np.float64).ravel()
  keep = np.zeros(flat.size, bool)
  keep[np.argsort(-flat, kind='stable')[:kept]] = True
  return keep.reshape(np.shape(magnitudes))


def _shared_keep(arrays, kept):
  """The first largest of every array, then the largest of all others."""
  keep = [_stable_keep(array, 1).ravel() for array in arrays]
  owner = np.repeat(np.arange(len(arrays)), [np.size(a) for a in arrays])
  rest = np.concatenate([np.float64(np.ravel(array)) for array in arrays])
  keep = np.concatenate(keep)
  rest[keep] = -1
  order = np.argsort(-rest, kind='stable')
  keep[order[: max(0, kept - len(arrays))]] = True
  return [
    keep[owner == i].reshape(np.shape(array)) for i, array in enumerate(arrays)
  ]


def _keep_by_slice(w, kept, axis, size=None):
  """Each row along an axis, or each `size` of it, by a stable sort."""
  rows = np.moveaxis(np.abs(np.asarray(w, np.float64)), axis, -1)
  groups = rows.reshape(-1, size or rows.shape[-1])
  keep = [_stable_keep(group, kept) for group in groups]
  return np.moveaxis(np.reshape(keep, rows.shape), -1, axis)


def _unit(w, axes):
  others = tuple(i for i in range(w.ndim) if i not in axes.kept)
  w = np.asarray(w, np.float64)
  return np.abs(w) / np.sqrt((w**2).sum(others, keepdims=True))


def _normal(rng, shape):
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def _few(rng, shape):
  return jnp.asarray(rng.integers(-2, 3, shape), jnp.float32)


def _find(magnitudes, kept):
  return thresholds.find_thresholds([magnitudes], [kept])[0]


# Compiled: op by op, every call costs a second.
_find_threshold = compiling.quick_jit(_find)
_keep = compiling.quick_jit(
  lambda magnitudes, kept: thresholds.keep_mask(
    magnitudes, _find(magnitudes, kept)
  )
)


@functools.partial(
  compiling.quick_jit,
  static_argnames=('scope', 'unit_norm', 'channel_axis', 'layer_axes'),
)
def _rank(
  latents,
  sparsity,
  *,
  scope,
  unit_norm=True,
  channel_axis=trees.channel_axis,
  layer_axes=(),
):
  """Thresholds and masks of a tree, as every caller finds them."""
  axes = trees.find_axes(
    latents, channel_axis=channel_axis, layer_axes=layer_axes
  )
  latents = trees.mask(latents, axes)
  found = thresholds.get_thresholds(
    latents, sparsity, axes=axes, scope=scope, unit_norm=unit_norm
  )
  keep = jax.tree.map(
    lambda w, axes, threshold: thresholds.get_keep_mask(
      w, threshold, axes=axes, scope=scope
    ),
    latents,
    axes,
    found,
  )
  return found, keep


_GENERATOR = np.random.default_rng(1)
MAGNITUDES = {
  'continuous': np.abs(_GENERATOR.normal(size=30)),
  'ties': _GENERATOR.integers(0, 4, 30),
  'mostly_zeros': _GENERATOR.choice(2, 30, p=[0.8, 0.2]),
  'all_equal': np.full(30, 0.25),
  'all_zero': np.zeros(30),
  'huge_range': np.ldexp(1.0, _GENERATOR.integers(-126, 127, 30)),
  'neighbours': np.float32(1) + np.arange(30) % 5 * np.float32(2**-23),
  'infinite': np.resize([1.0, np.inf, 0.0, np.inf], 30),
}


@pytest.mark.parametrize('name', MAGNITUDES)
def test_exactly_the_wanted_number_is_kept_for_every_number(name):
  magnitudes = jnp.asarray(MAGNITUDES[name], jnp.float32).reshape(3, 2, 5)
  for kept in range(31):
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
  # So does a zero with a sign.
  magnitudes = jnp.array([-0.0, 0.0, 1.0, -0.0, 0.0])
  assert np.flatnonzero(_keep(magnitudes, 3)).tolist() == [0, 1, 2]


@pytest.mark.parametrize('sign', [1.0, -1.0])
def test_nan_counts_as_the_largest(sign):
  # Either has a sign bit; 0 / 0 sets it on some processors.
  nan = np.copysign(np.nan, sign)
  magnitudes = jnp.asarray(np.array([3, nan, np.inf, 1, 0], np.float32))
  assert np.flatnonzero(_keep(magnitudes, 1)).tolist() == [1]
  assert np.flatnonzero(_keep(magnitudes, 3)).tolist() == [0, 1, 2]


def test_threshold_literals():
  threshold = _find_threshold(jnp.array([3.0, 1.0, 2.0, 2.0]), 2)
  assert threshold.magnitude == 2
  # Of the tie at 2 and 3, the first is kept.
  assert 2 < threshold.tie_index <= 3
  assert _find_threshold(jnp.ones(4), 0).magnitude == jnp.inf
  assert _find_threshold(jnp.arange(4.0), 4).magnitude == 0
  assert threshold.magnitude.dtype == jnp.float32
  assert threshold.tie_index.dtype == jnp.int32
  assert threshold.inverse_norms is None


def test_the_dead_zone_is_closed():
  threshold = thresholds.Threshold(jnp.float32(2), jnp.int32(0))
  w = jnp.array([1.0, 2.0, 2.0000002, -2.0, -3.0])
  keep = thresholds.keep_mask(w, threshold)
  assert keep.tolist() == [False, False, True, False, True]


def test_what_is_compared_is_divided_by_the_norms_of_the_threshold():
  threshold = thresholds.Threshold(
    jnp.float32(1), jnp.int32(3), jnp.array([[1.0, 0.5]])
  )
  w = jnp.array([[1.0, -2.0], [1.0, 2.0], [2.0, -1.9]])
  keep = thresholds.keep_mask(w, threshold)
  # Ties at 1 in the first three places, and then only what is larger.
  assert keep.tolist() == [[True, True], [True, False], [True, False]]


def test_too_many_elements_are_refused():
  huge = jax.ShapeDtypeStruct((2**16, 2**15), jnp.float32)
  half = jax.ShapeDtypeStruct((2**15, 2**15), jnp.float32)
  find = lambda *a: thresholds.find_thresholds(a, [1] * len(a))
  with pytest.raises(ValueError, match='2147483648 elements'):
    jax.eval_shape(find, huge)
  # A threshold of all of them counts all of them.
  jax.eval_shape(find, half, half)
  with pytest.raises(ValueError, match='2147483648 elements'):
    jax.eval_shape(
      lambda *a: thresholds.find_shared_threshold(a, 1), half, half
    )


def test_thresholds_of_sharded_ties_are_the_same_bits(rng, make_mesh):
  sharding = jax.sharding.NamedSharding(make_mesh(8), P(None, 'd0'))
  whole = jnp.asarray(rng.integers(0, 5, (64, 32)), jnp.float32) / 7
  sharded = jax.device_put(whole, sharding)
  for kept in (0, 1, 307, 2047, 2048):
    wanted = _find_threshold(whole, kept)
    got = _find_threshold(sharded, kept)
    assert got.magnitude == wanted.magnitude
    assert got.tie_index == wanted.tie_index


# Kernels of four kinds and how they are spread over 4 times 2 devices; for
# 2:4, each device has whole groups of them.
KERNELS = {
  'conv': ((3, 3, 16, 32), P(None, None, 'd0', 'd1')),
  'dense': ((64, 32), P('d0', 'd1')),
  'equinox': ((32, 16), P('d1', 'd0')),
  'stack': ((2, 16, 32), P(None, 'd0', 'd1')),
}
AXES = (
  trees.Axes((3,)),
  trees.Axes((1,)),
  trees.Axes((0,)),
  trees.Axes((2,), (0,)),
)
_NUM_CHANNELS = 32  # on a device, those of both layers of the stack


def _layer_axes(path, leaf):
  del leaf
  return 0 if path == 'stack/kernel' else ()


_rank_all = functools.partial(_rank, layer_axes=_layer_axes)


def _latents(rng):
  """Kernels whose channels and layers are of different sizes."""
  conv, dense, equinox, stack = (
    _normal(rng, shape) for shape, _ in KERNELS.values()
  )
  return {
    'conv': {'kernel': conv * jnp.geomspace(0.1, 10, 32)},
    'dense': {'kernel': dense**3},
    'equinox': {'weight': equinox * jnp.geomspace(1e-3, 1, 32)[:, None]},
    'stack': {'kernel': stack ** jnp.array([1, 3])[:, None, None]},
  }


@pytest.fixture(scope='module')
def spread(make_mesh):
  """The latents over the devices."""
  mesh = make_mesh(4, 2)
  return {
    name: jax.tree.map(
      lambda w, spec=KERNELS[name][1]: jax.device_put(
        w, jax.sharding.NamedSharding(mesh, spec)
      ),
      kernel,
    )
    for name, kernel in _latents(np.random.default_rng(0)).items()
  }


@pytest.fixture(scope='module', params=SCOPES)
def program(request, spread):
  """The scope, and the compiled program that finds the masks in it."""
  lowered = _rank.lower(
    spread, jnp.float32(0.7), scope=request.param, layer_axes=_layer_axes
  )
  return request.param, lowered.compile()


def test_sharded_kernels_have_the_same_thresholds(rng, program, spread):
  scope, compiled = program
  found, keep = compiled(spread, jnp.float32(0.7))
  wanted = _rank_all(_latents(rng), jnp.float32(0.7), scope=scope)
  assert jax.tree.structure((found, keep)) == jax.tree.structure(wanted)
  # A count and a threshold for each kernel, and where it has them, two numbers
  # for each channel.
  assert len(jax.tree.leaves(found)) == (4 if scope == '2:4' else 12)
  for got, leaf in zip(
    jax.tree.leaves((found, keep)), jax.tree.leaves(wanted), strict=True
  ):
    assert got.dtype == leaf.dtype and got.shape == leaf.shape
    assert (np.asarray(got) == np.asarray(leaf)).all()


def test_masks_stay_where_their_kernels_are(program, spread):
  _, keep = program[1](spread, jnp.float32(0.7))
  for mask, w in zip(
    jax.tree.leaves(keep), jax.tree.leaves(spread), strict=True
  ):
    assert mask.sharding.is_equivalent_to(w.sharding, w.ndim)
    assert not mask.sharding.is_fully_replicated


def _all_reduced(text):
  """The number of elements of every array that devices add up."""
  results = re.findall(r'= (.*) all-reduce(?:-start)?\(', text)
  for shape in re.findall(r'\w+\[([\d,]*)\]', ' '.join(results)):
    yield math.prod(int(size) for size in shape.split(',') if size)


def test_devices_exchange_a_number_a_channel_and_no_weights(program):
  scope, compiled = program
  text = compiled.as_text()
  for other in ('all-gather', 'all-to-all', 'collective-permute'):
    assert other not in text
  sizes = list(_all_reduced(text))
  if scope == '2:4':
    assert sizes == []
  else:
    assert sizes and max(sizes) <= _NUM_CHANNELS


def test_a_program_that_gathers_is_seen(spread):
  kernel = spread['dense']['kernel']
  flat = jax.jit(lambda w: jnp.sort(w.ravel()) + w.sum()).lower(kernel)
  text = flat.compile().as_text()
  assert 'all-gather' in text


def test_num_kept_literals():
  assert thresholds.num_kept(200, 0.85) == 30
  assert thresholds.num_kept(10, 0.0) == 10
  assert thresholds.num_kept(10, 0.99) == 1  # At least one.
  assert thresholds.num_kept(1, 0.5) == 1
  assert thresholds.num_kept(10, jnp.float32(0.75)).dtype == jnp.int32
  assert thresholds.num_kept(1000, 0.9) == 100


def test_channels_that_keep_the_same_number_each(rng):
  # Of the last, all or none: with ties to split in some kernels only.
  arrays = [rng.integers(0, 4, (6, 5)), rng.integers(0, 3, (4, 2, 3))]
  arrays = [jnp.asarray(array, jnp.float32) for array in arrays]

  @compiling.quick_jit
  def keep(kept):
    found = thresholds.find_thresholds(arrays, kept, axes=[(1,), (0,)])
    shapes = [threshold.magnitude.shape for threshold in found]
    assert shapes == [(1, 5), (4, 1, 1)]
    return list(map(thresholds.keep_mask, arrays, found))

  for k in range(7):
    first, second = keep([k, 6 - k])
    np.testing.assert_array_equal(first, _keep_by_slice(arrays[0], k, 0))
    rows = _keep_by_slice(arrays[1].reshape(4, 6), 6 - k, 1)
    np.testing.assert_array_equal(second, rows.reshape(4, 2, 3))


# Of six, two times two and three weights.
SHARED = {
  'ties': ([3, 1, 2, 2, 0, 3], [2, 2, 3, 1], [2, 2, 2]),
  'one_kernel_is_small': ([9, 8, 7, 6, 5, 4], [0.1, 0.3, 0.3, 0.2], [7, 1, 9]),
  'all_equal': ([1] * 6, [1] * 4, [1] * 3),
  'zeros': ([0] * 6, [0, 0, 5, 0], [0, 0, 0]),
  'infinite': ([1, 2, np.inf, np.inf, 0, 0], [np.inf, 0, 1, 1], [0.5, 2, 0]),
}


@compiling.quick_jit
def _keep_shared(arrays, kept):
  found = thresholds.find_shared_threshold(arrays, kept)
  return list(map(thresholds.keep_mask, arrays, found))


@pytest.mark.parametrize('name', SHARED)
def test_a_shared_threshold_for_every_number(name):
  arrays = [
    jnp.asarray(array, jnp.float32).reshape(shape)
    for array, shape in zip(SHARED[name], (6, (2, 2), 3), strict=True)
  ]
  for kept in range(14):
    got = _keep_shared(arrays, kept)
    assert sum(int(keep.sum()) for keep in got) == max(kept, 3)
    for found, wanted in zip(got, _shared_keep(arrays, kept), strict=True):
      np.testing.assert_array_equal(found, wanted)


def test_scope_layer(rng):
  latents = _latents(rng)
  found, keep = _rank_all(latents, jnp.float32(0.7), scope='layer')
  for (name, mask), w, axes in zip(
    trees.flatten(keep).items(), jax.tree.leaves(latents), AXES, strict=True
  ):
    ranked = _unit(w, axes) if axes.layer else _unit(w, axes)[None]
    wanted = [_stable_keep(x, round(0.3 * x.size)) for x in ranked]
    np.testing.assert_array_equal(mask, np.reshape(wanted, w.shape), name)
  norms = found['equinox']['weight'].inverse_norms
  w = np.float64(latents['equinox']['weight'])
  wanted = 1 / np.sqrt((w**2).sum(1, keepdims=True))
  np.testing.assert_allclose(norms, wanted, rtol=1e-6)


@pytest.mark.parametrize('sparsity', [0.0, 0.7, 0.9999])
def test_scope_tree(rng, sparsity):
  latents = _latents(rng)
  total = sum(w.size for w in jax.tree.leaves(latents))
  # The layers of the stack count as kernels, each of which keeps a weight.
  kept = max(5, round((1 - sparsity) * total))
  _, keep = _rank_all(latents, jnp.float32(sparsity), scope='tree')
  *alone, stack = map(_unit, jax.tree.leaves(latents), AXES)
  wanted = _shared_keep([*alone, *stack], kept)
  assert sum(int(mask.sum()) for mask in wanted) == kept
  *alone, stack = jax.tree.leaves(keep)
  for mask, one in zip([*alone, *stack], wanted, strict=True):
    np.testing.assert_array_equal(mask, one)


def test_scope_channel(rng):
  latents = _latents(rng)
  found, keep = _rank_all(latents, jnp.float32(0.7), scope='channel')
  conv, dense, equinox, stack = jax.tree.leaves(keep)
  wanted = _keep_by_slice(latents['dense']['kernel'], 19, 0)
  np.testing.assert_array_equal(dense, wanted)
  wanted = _keep_by_slice(latents['equinox']['weight'], 5, 1)
  np.testing.assert_array_equal(equinox, wanted)
  columns = latents['conv']['kernel'].reshape(144, 32)
  wanted = _keep_by_slice(columns, 43, 0)
  np.testing.assert_array_equal(conv.reshape(144, 32), wanted)
  wanted = _keep_by_slice(latents['stack']['kernel'], 5, 1)
  np.testing.assert_array_equal(stack, wanted)
  assert found['conv']['kernel'].magnitude.shape == (1, 1, 1, 32)
  assert found['equinox']['weight'].tie_index.shape == (32, 1)
  assert found['stack']['kernel'].magnitude.shape == (2, 1, 32)


def test_scope_n_of_m(rng):
  latents = _latents(rng)
  found, keep = _rank_all(latents, jnp.float32(0.7), scope='2:4')
  for record in (found['conv']['kernel'], found['equinox']['weight']):
    assert isinstance(record, thresholds.Quota)
    assert record.num_kept == 2 and record.num_kept.dtype == jnp.int32
  for name, axis in (('conv', 2), ('dense', 0), ('equinox', 1), ('stack', 1)):
    (w,), (mask,) = jax.tree.leaves(latents[name]), jax.tree.leaves(keep[name])
    np.testing.assert_array_equal(mask, _keep_by_slice(w, 2, axis, 4))


@pytest.mark.parametrize('scope', ['layer', 'channel'])
@pytest.mark.parametrize('layer_axes', [(0,), (1,), (3,), (0, 2)])
def test_layers_have_the_thresholds_that_each_has_alone(rng, layer_axes, scope):
  # Few values, so that every layer, and most channels, have ties to split.
  shape = (3, 4) if len(layer_axes) == 1 else (4,)
  places = list(np.ndindex(*[2] * len(layer_axes)))
  layers = [_few(rng, (6, *shape)) * (1 + sum(place)) for place in places]
  stacked = jnp.stack(layers).reshape(*[2] * len(layer_axes), 6, *shape)
  front = tuple(range(len(layer_axes)))
  stacked = jnp.moveaxis(stacked, front, layer_axes)
  found, keep = _rank(
    {'kernel': stacked}, 0.7, scope=scope, layer_axes=layer_axes
  )
  take = lambda x, place: np.moveaxis(x, layer_axes, front)[place]
  for place, w in zip(places, layers, strict=True):
    alone, mask = _rank({'kernel': w}, 0.7, scope=scope)
    np.testing.assert_array_equal(take(keep['kernel'], place), mask['kernel'])
    for got, one in zip(found['kernel'], alone['kernel'], strict=True):
      got = take(got, place)
      np.testing.assert_array_equal(got.reshape(one.shape), one)


def test_scope_tree_ranks_layers_as_it_ranks_kernels(rng):
  layers = [_few(rng, (6, 4)), 9 * _few(rng, (6, 4))]
  _, together = _rank(
    {'kernel': jnp.stack(layers)}, 0.7, scope='tree', layer_axes=0
  )
  _, alone = _rank([{'kernel': layer} for layer in layers], 0.7, scope='tree')
  for mask, one in zip(together['kernel'], alone, strict=True):
    np.testing.assert_array_equal(mask, one['kernel'])


def test_kernels_of_one_shape_have_thresholds_of_their_own(rng):
  latents = {
    'a': {'kernel': _few(rng, (6, 4))},
    'b': {'kernel': 9 * _few(rng, (6, 4))},
    'c': {'weight': _few(rng, (6, 4))},
    'd': {'kernel': _few(rng, (6, 4)).astype(jnp.bfloat16)},
  }
  sparsity = {'a/kernel': 0.25, 'b/kernel': 0.5, '.*': 0.75}
  found, keep = _rank(latents, sparsity, scope='layer')
  assert [int(m.sum()) for m in jax.tree.leaves(keep)] == [18, 12, 6, 6]
  for name, one in (('a', 0.25), ('b', 0.5), ('c', 0.75), ('d', 0.75)):
    wanted = _rank(latents[name], one, scope='layer')
    for got, leaf in zip(
      jax.tree.leaves((found[name], keep[name])),
      jax.tree.leaves(wanted),
      strict=True,
    ):
      np.testing.assert_array_equal(got, leaf)


@pytest.mark.parametrize('scope', SCOPES)
@pytest.mark.parametrize(
  ('shape', 'axes', 'flat', 'axis'),
  [((8, 2, 3), (1, 2), (8, 6), 1), ((2, 3, 8), (1, 0), (6, 8), 0)],
)
def test_channels_on_several_axes_are_ranked_as_those_on_one(
  rng, scope, shape, axes, flat, axis
):
  w = _few(rng, shape)
  found, keep = _rank({'w': w}, 0.4, scope=scope, channel_axis=axes)
  wanted, mask = _rank(
    {'w': w.reshape(flat)}, 0.4, scope=scope, channel_axis=axis
  )
  np.testing.assert_array_equal(keep['w'].reshape(flat), mask['w'])
  for got, one in zip(found['w'], wanted['w'], strict=True):
    assert got.ndim in (0, 3)
    np.testing.assert_array_equal(got.reshape(one.shape), one)


def test_quotas_follow_a_ramp_to_n(rng):
  latents = {'kernel': _normal(rng, (8, 3))}
  for sparsity, kept in ((0.0, 4), (0.2, 3), (0.3, 3), (0.5, 2), (0.9, 2)):
    found, keep = _rank(latents, jnp.float32(sparsity), scope='2:4')
    assert found['kernel'].num_kept == kept
    assert (keep['kernel'].reshape(2, 4, 3).sum(1) == kept).all()


_keep_n_of_m = compiling.quick_jit(
  thresholds.keep_n_of_m, static_argnames=('size', 'axis')
)


@pytest.mark.parametrize(
  ('shape', 'size', 'axis'),
  [((6, 4), 3, 0), ((2, 8, 3), 4, -2)],
)
def test_n_of_m_for_every_number_with_ties(rng, shape, size, axis):
  w = jnp.asarray(rng.integers(-2, 3, shape), jnp.float32)
  for num in range(size + 1):
    np.testing.assert_array_equal(
      _keep_n_of_m(w, num, size=size, axis=axis),
      _keep_by_slice(w, num, axis, size),
    )


def test_n_of_m_is_exact_where_there_are_nans():
  w = jnp.array([[jnp.nan, 1.0, -jnp.inf, 2.0], [0.0, -0.0, 1e-40, 0.0]])
  keep = _keep_n_of_m(w, 2, size=4, axis=1)
  assert keep.tolist() == [
    [True, False, True, False],
    [True, True, False, False],
  ]


@pytest.mark.parametrize(
  ('shape', 'axes', 'input_axis'),
  [
    ((4, 4, 6, 4), trees.Axes((3,)), 2),
    ((4, 3, 4, 4), trees.Axes((0,)), 1),
    ((6, 4), trees.Axes((1,)), 0),
    ((6, 4, 4), trees.Axes((1, 2)), 0),
    ((4, 4, 6, 4), trees.Axes((3,), (0,)), 2),
    ((4, 4, 6), trees.Axes((1,), (0,)), 2),
  ],
)
def test_a_length_that_is_no_multiple_is_refused(shape, axes, input_axis):
  w, length = jnp.ones(shape), shape[input_axis]
  with pytest.raises(
    ValueError,
    match=f'{length} weights along axis {input_axis}, wanted a multiple of 4',
  ):
    thresholds.get_keep_mask(
      w, thresholds.Quota(jnp.int32(2)), axes=axes, scope='2:4'
    )
  # Before that, by name.
  with pytest.raises(
    ValueError, match=rf"'2:4', but a/b of shape \(.*\) has {length} weights"
  ):
    thresholds.get_thresholds(
      {'a': {'b': w}},
      0.5,
      axes={'a': {'b': axes}},
      scope='2:4',
    )


def test_a_sparsity_by_path(rng):
  latents = {
    'a': {'kernel': _normal(rng, (8, 5)), 'bias': jnp.ones(5)},
    'b': {'kernel': _normal(rng, (4, 10))},
  }
  by_path = {'a/kernel': jnp.float32(0.75), '.*': jnp.float32(0.5)}
  _, keep = _rank(latents, by_path, scope='channel')
  assert isinstance(keep['a']['bias'], optax.MaskedNode)
  assert keep['a']['kernel'].sum(0).tolist() == [2] * 5
  assert keep['b']['kernel'].sum(0).tolist() == [2] * 10
  found, _ = _rank(latents, by_path, scope='1:4')
  assert found['a']['kernel'].num_kept == 1
  assert found['b']['kernel'].num_kept == 2


@pytest.mark.parametrize(
  ('sparsity', 'scope', 'message'),
  [
    ({'kernel': 0.5}, 'tree', r"sparsity is \{'kernel': 0.5\}, wanted one"),
    ({'weight': 0.5}, 'layer', 'sparsity has no value for kernel'),
    ({'kernel': 0.5, 'x': 0.1}, '2:4', "sparsity: 'x' matches no kernel"),
    (0.5, 'row', "scope is 'row', wanted layer"),
  ],
)
def test_a_sparsity_or_a_scope_that_does_not_fit(sparsity, scope, message):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
      lambda w: thresholds.get_thresholds(w, sparsity, scope=scope),
      {'kernel': jnp.ones((4, 2))},
    )


def test_the_channel_axis_is_the_last_unless_it_is_given():
  w = {'weight': jnp.array([[3.0, 1.0], [0.3, 0.01]])}

  def keep(axes):
    found = thresholds.get_thresholds(w, 0.5, axes=axes)
    return thresholds.keep_mask(w['weight'], found['weight'])

  last, first = jax.jit(
    lambda: (keep(None), keep({'weight': trees.Axes((0,))}))
  )()
  assert last.tolist() == [[True, True], [False, False]]
  assert first.tolist() == [[True, False], [True, False]]


def test_unit_norm_ranks_channels_alike():
  # A strong and a weak channel of the same direction.
  w = {'kernel': jnp.array([[3.0, 0.03], [1.0, 0.01]])}
  keep = lambda unit_norm: _rank(w, 0.5, scope='layer', unit_norm=unit_norm)[1]
  assert keep(True)['kernel'].tolist() == [[True, True], [False, False]]
  assert keep(False)['kernel'].tolist() == [[True, False], [True, False]]


def test_channels_of_zeros_and_channels_with_a_nan():
  w = jnp.array([[0.0, 3.0, jnp.nan], [0.0, 4.0, 1.0], [0.0, 1.0, 1.0]])
  found, keep = _rank({'kernel': w}, 0.4, scope='layer')
  # A channel with a NaN is NaN as a whole, and ranked above all others.
  assert keep['kernel'].tolist() == [
    [False, True, True],
    [False, True, True],
    [False, False, True],
  ]
  np.testing.assert_array_equal(
    found['kernel'].inverse_norms,
    sphere.divide(1.0, jnp.array([[0.0, np.float32(26**0.5), jnp.nan]])),
  )


def test_what_is_ranked_compiled_is_kept_uncompiled(rng):
  # The norms must be the same to the last bit, or the weight that made the
  # threshold falls on its other side.
  for _ in range(10):
    w = _normal(rng, (17, 5))
    found, _ = _rank({'kernel': w}, 0.75, scope='layer')
    assert int(thresholds.keep_mask(w, found['kernel']).sum()) == 21


@pytest.mark.parametrize(
  ('scope', 'unit_norm'),
  [('layer', False), ('channel', True), ('2:4', True)],
)
def test_keep_everything(scope, unit_norm):
  latents = {
    'a': {'kernel': jnp.array([[0.0], [-0.0], [jnp.inf], [1e-40]])},
    'b': {'kernel': jnp.array([[jnp.nan], [3.0], [-4.0], [0.0]])},
  }
  find = lambda tree: thresholds.get_thresholds(
    tree, 0.5, scope=scope, unit_norm=unit_norm
  )
  shapes = jax.eval_shape(find, latents)
  found = thresholds.keep_everything(shapes)
  # Either may come out of a branch.
  assert jax.tree.structure(found) == jax.tree.structure(shapes)
  for leaf, shape in zip(
    jax.tree.leaves(found), jax.tree.leaves(shapes), strict=True
  ):
    assert leaf.dtype == shape.dtype and leaf.shape == shape.shape
  for name in 'ab':
    keep = thresholds.get_keep_mask(
      latents[name]['kernel'], found[name]['kernel'], scope=scope
    )
    assert keep.all()


@pytest.mark.parametrize(
  'record',
  [
    thresholds.Threshold(1.0, 2, 3.0),
    thresholds.Threshold(1.0, 2),
    thresholds.Quota(2),
  ],
)
def test_split_and_join(record):
  other = type(record)(*[x if x is None else 10 + x for x in record])
  found = {'a': {'kernel': record, 'bias': optax.MaskedNode()}, 'b': other}
  fields = thresholds.split(found)
  assert type(fields) is type(record)
  for name, value in record._asdict().items():
    tree = getattr(fields, name)
    if value is None:
      assert tree is None
    else:
      masked = {'kernel': value, 'bias': optax.MaskedNode()}
      assert tree == {'a': masked, 'b': 10 + value}
  assert thresholds.join(fields) == found


def test_parse_scope():
  for scope in ('layer', 'tree', 'channel'):
    assert thresholds.parse_scope(scope) is None
  assert thresholds.parse_scope('1:1') == (1, 1)
  assert thresholds.parse_scope('8:64') == (8, 64)
  assert thresholds.parse_scope('64:64') == (64, 64)


@pytest.mark.parametrize(
  'scope',
  [
    *('', 'Layer', 'layers', '0:4', '5:4', '2:65', '100:4', '2:', ':4'),
    *('2:4:8', '-2:4', '2.0:4', ' 2:4', '2:4\n', '2/4', None, 24, (2, 4)),
  ],
)
def test_parse_scope_refuses(scope):
  with pytest.raises(ValueError, match=r'scope is .*, wanted layer, tree'):
    thresholds.parse_scope(scope)
