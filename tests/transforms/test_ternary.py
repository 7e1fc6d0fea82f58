"""The ternary quantizer: when it begins, refreshes, and what it gives."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import transforms
from hq_jax.core import ternary
from hq_jax.core import thresholds
from hq_jax.core import trees


def _kernel(rng, shape=(12, 5)):
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def _reference(w, sparsity):
  """r t / sqrt(k) in float64, the threshold by a stable sort."""
  columns = np.asarray(w, np.float64).reshape(-1, w.shape[-1])
  radius = np.sqrt((columns**2).sum(0))
  u = np.abs(columns / radius)
  kept = max(1, round((1 - sparsity) * u.size))
  keep = np.zeros(u.size, bool)
  keep[np.argsort(-u.ravel(), kind='stable')[:kept]] = True
  codes = np.sign(columns) * keep.reshape(u.shape)
  k = np.abs(codes).sum(0)
  return (codes * radius / np.sqrt(np.maximum(k, 1))).reshape(w.shape)


def _axes(latents):
  return jax.tree.map(lambda w: trees.Axes((w.ndim - 1,)), latents)


def _update(quantizer, latents, axes=None, params=None):
  """The quantized tree and the state of the first update."""
  axes = axes or _axes(latents)
  update = jax.jit(lambda *args: quantizer.update(*args, axes))
  return update(latents, quantizer.init(latents, axes), params or latents)


def _run(quantizer, latents, num_updates):
  """Quantized trees of so many updates, the latents moved by `latents(t)`."""
  axes = _axes(latents(0))
  state = quantizer.init(latents(0), axes)
  update = jax.jit(lambda w, state: quantizer.update(w, state, w, axes))
  found = []
  for t in range(num_updates):
    quantized, state = update(latents(t), state)
    found.append(quantized)
  return found, state


def _num_zeros(quantized):
  return {
    path: int((q == 0).sum()) for path, q in trees.flatten(quantized).items()
  }


@pytest.mark.parametrize('sparsity', [0.0, 0.5, 0.85])
def test_ternary_matches_the_equations(rng, sparsity):
  shapes = {'a': (12, 5), 'b': (3, 3, 2, 4), 'c': (2, 1)}
  latents = {name: _kernel(rng, shape) for name, shape in shapes.items()}
  quantized, state = _update(transforms.ternary(sparsity), latents)
  for name, w in latents.items():
    wanted = _reference(w, sparsity)
    np.testing.assert_allclose(quantized[name], wanted, rtol=2**-11)
    np.testing.assert_array_equal(quantized[name] == 0, wanted == 0)
  assert state.ternary_count == 1


def test_output_channels_on_the_first_axis(rng):
  w = _kernel(rng, (5, 4, 3))
  axes = {'a': trees.Axes((0,))}
  quantized, state = _update(transforms.ternary(0.5), {'a': w}, axes)
  last = jnp.moveaxis(w, 0, -1)
  wanted = np.moveaxis(_reference(last, 0.5), -1, 0)
  np.testing.assert_allclose(quantized['a'], wanted, rtol=2**-11)
  assert state.scales['a'].shape == (5, 1, 1)
  assert state.thresholds.inverse_norms['a'].shape == (5, 1, 1)


def test_groups_are_exact_after_each_update(rng):
  moves = [_kernel(rng, (8, 3)) for _ in range(4)]
  found, _ = _run(
    transforms.ternary(0.5, scope='2:4', refresh_steps=100),
    lambda t: {'a': moves[t]},
    4,
  )
  for w, quantized in zip(moves, found, strict=True):
    groups = np.abs(w).reshape(2, 4, 3)
    kept = groups >= np.sort(groups, axis=1)[:, 2:3]
    np.testing.assert_array_equal(quantized['a'] != 0, kept.reshape(8, 3))


def test_before_begin_step_nothing_changes(rng):
  w = _kernel(rng)
  found, state = _run(
    transforms.ternary(0.5, begin_step=2), lambda t: {'a': w + t}, 4
  )
  for t in (0, 1):
    np.testing.assert_array_equal(found[t]['a'], w + t)
  for t in (2, 3):
    assert len(np.unique(np.abs(found[t]['a'][:, 0]))) == 2
  assert state.ternary_count == 4


@pytest.mark.parametrize('sparsity', [0.8, {'a': 0.8}, {'.*': 0.8}])
def test_density_scale_scales_what_is_kept(rng, sparsity):
  latents = {'a': _kernel(rng, (10, 10))}
  axes = _axes(latents)
  quantizer = transforms.ternary(sparsity, refresh_steps=2)
  update = jax.jit(
    lambda state: quantizer.update(latents, state, latents, axes)
  )
  state = quantizer.init(latents, axes)
  assert state.density_scale == 1
  for factor, zeros in ((1.0, 80), (1.5, 80), (1.5, 70), (9.0, 70), (9.0, 33)):
    # Counted from the first: the second of each pair is no refresh.
    quantized, state = update(state._replace(density_scale=jnp.float32(factor)))
    assert _num_zeros(quantized) == {'a': zeros}
    assert state.density_scale == factor
  assert update._cache_size() == 1


@pytest.mark.parametrize(
  'by_path', [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_the_sparsity_may_follow_a_schedule(rng, by_path):
  latents = {'a': _kernel(rng, (10, 10)), 'b': _kernel(rng, (5, 4))}
  ramp = lambda count: 0.1 * count
  sparsity = {'a': ramp, 'b': 0.25} if by_path else ramp
  quantizer = transforms.ternary(
    sparsity, begin_step=1, refresh_steps=2, end_step=7
  )
  found, _ = _run(quantizer, lambda t: latents, 7)
  zeros = [_num_zeros(quantized) for quantized in found]
  # Counted from the first update; refreshed at 1, 3 and 5, and at the last.
  assert [x['a'] for x in zeros] == [0, 10, 10, 30, 30, 50, 60]
  assert [x['b'] for x in zeros] == (
    [0, 5, 5, 5, 5, 5, 5] if by_path else [0, 2, 2, 6, 6, 10, 12]
  )


def test_density_scale_leaves_quotas_alone(rng):
  latents = {'a': _kernel(rng, (8, 2))}
  axes = _axes(latents)
  quantizer = transforms.ternary(0.5, scope='2:4')
  state = quantizer.init(latents, axes)._replace(density_scale=jnp.float32(2))
  quantized, _ = quantizer.update(latents, state, latents, axes)
  assert _num_zeros(quantized) == {'a': 8}


@pytest.mark.parametrize(
  ('steps', 'dense', 'exact'),
  [
    ({'begin_step': 2, 'refresh_steps': 3}, [0, 1], [2, 5, 8]),
    ({'end_step': 6, 'refresh_steps': 4}, [], [0, 4, 5]),
  ],
  ids=['begin_step', 'end_step'],
)
def test_thresholds_are_refreshed_when_they_should(rng, steps, dense, exact):
  # The latents grow by a half each update: a stale threshold keeps more.
  base = _kernel(rng, (10, 10))
  quantizer = transforms.ternary(0.8, unit_norm=False, **steps)
  found, _ = _run(quantizer, lambda t: {'a': base * 1.5**t}, exact[-1] + 2)
  zeros = [_num_zeros(q)['a'] for q in found]
  assert [zeros[t] for t in dense] == [0] * len(dense)
  assert [t for t, count in enumerate(zeros) if count == 80] == exact
  assert max(zeros) == 80


def test_the_dead_zone_follows_the_latents_between_refreshes():
  # From + to - a weight passes through zero, under the first threshold.
  base = jnp.array([[1.0], [0.5], [0.1], [0.0]])
  path = [1.0, 0.55, 0.2, 0.0, -0.2, -0.55]
  found, _ = _run(
    transforms.ternary(0.5, refresh_steps=100, unit_norm=False),
    lambda t: {'a': base.at[0, 0].set(path[t])},
    6,
  )
  codes = [float(jnp.sign(q['a'][0, 0])) for q in found]
  assert codes == [1, 1, 0, 0, 0, -1]


def test_between_refreshes_the_norms_are_those_of_the_last_one():
  w = jnp.array([[3.0, 3.0], [4.0, -4.0], [1.0, 1.0], [0.0, 0.5]])
  grown = w.at[:, 0].multiply(4)
  found, state = _run(
    transforms.ternary(0.5, refresh_steps=2),
    lambda t: {'a': w if t == 0 else grown},
    3,
  )
  codes = [jnp.sign(quantized['a']).T.tolist() for quantized in found]
  assert codes[0] == [[1, 1, 0, 0], [1, -1, 0, 0]]
  # 4 / sqrt(26) is above 3 / sqrt(26.25); by its own norm it would be a fourth.
  assert codes[1] == [[1, 1, 1, 0], [1, -1, 0, 0]]
  assert codes[2] == codes[0]
  # The scale goes with the norm that the channel has now.
  np.testing.assert_allclose(
    found[1]['a'][0], [4 * (26 / 3) ** 0.5, (26.25 / 2) ** 0.5], rtol=2**-11
  )
  np.testing.assert_allclose(
    state.thresholds.inverse_norms['a'],
    [[1 / (4 * 26**0.5), 26.25**-0.5]],
    rtol=1e-6,
  )


def test_the_state_holds_what_makes_the_parameters(rng):
  base = _kernel(rng, (10, 4))
  quantizer = transforms.ternary(0.6, begin_step=1, refresh_steps=5)
  moved = lambda t: {'a': base + 0.02 * t * base[::-1]}
  found, state = _run(quantizer, moved, 4)
  keep = thresholds.keep_mask(
    moved(3)['a'], thresholds.join(state.thresholds)['a']
  )
  codes = np.sign(moved(3)['a']) * keep
  np.testing.assert_array_equal(found[3]['a'], codes * state.scales['a'])
  assert isinstance(state.thresholds, thresholds.Threshold)
  assert state.thresholds.magnitude['a'].shape == ()
  # Before it begins, there is nothing in it.
  _, state = _run(quantizer, moved, 1)
  empty = jax.tree.leaves((state.thresholds, state.scales))
  assert not any(leaf.any() for leaf in empty)
  assert state.ternary_count == 1


@pytest.mark.parametrize('scope', ['layer', 'tree', 'channel', '2:4'])
def test_the_state_keeps_its_structure(scope):
  latents = {'a': jnp.ones((8, 3)), 'b': {'c': jnp.ones((4, 2, 4, 2))}}
  axes = _axes(latents)
  if scope != '2:4':
    axes['b']['c'] = trees.Axes((0,))
  quantizer = transforms.ternary(0.5, scope=scope)
  state = jax.eval_shape(lambda: quantizer.init(latents, axes))
  _, after = jax.eval_shape(
    lambda state: quantizer.update(latents, state, latents, axes), state
  )
  assert after == state
  assert isinstance(
    state.thresholds,
    thresholds.Quota if scope == '2:4' else thresholds.Threshold,
  )


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_the_result_has_the_dtype_of_the_parameters(rng, dtype):
  latents = {'a': _kernel(rng), 'b': _kernel(rng)}
  params = latents | {'a': latents['a'].astype(dtype)}
  quantized, state = _update(transforms.ternary(0.5), latents, params=params)
  assert quantized['a'].dtype == jnp.dtype(dtype)
  assert quantized['b'].dtype == jnp.float32
  # Its scale is one that the dtype can hold, with bits to spare; the others
  # keep all of theirs.
  scale = np.asarray(state.scales['a'])
  assert scale.dtype == np.float32
  num_bits = ternary.get_scale_bits(dtype)
  np.testing.assert_array_equal(
    scale, ternary.round_significand(jnp.asarray(scale), num_bits)
  )
  largest = np.abs(np.float32(quantized['a'])).max(0, keepdims=True)
  np.testing.assert_array_equal(largest, scale)
  wanted = _reference(latents['a'], 0.5)
  np.testing.assert_allclose(
    np.float32(quantized['a']), wanted, rtol=2.0**-num_bits
  )
  np.testing.assert_allclose(
    quantized['b'], _reference(latents['b'], 0.5), rtol=2**-11
  )


def test_before_begin_step_the_dtype_is_that_of_the_parameters_too(rng):
  latents = {'a': _kernel(rng)}
  params = {'a': latents['a'].astype(jnp.bfloat16)}
  quantizer = transforms.ternary(0.5, begin_step=1)
  quantized, _ = _update(quantizer, latents, params=params)
  assert quantized['a'].dtype == jnp.bfloat16
  np.testing.assert_array_equal(quantized['a'], params['a'])


def test_channels_of_zeros_stay_zero(rng):
  latents = {
    'a': _kernel(rng, (6, 3)).at[:, 1].set(0.0),
    'b': jnp.zeros((2, 2)),
  }
  quantized, _ = _update(transforms.ternary(0.0), latents)
  np.testing.assert_array_equal(quantized['a'][:, 1], 0)
  np.testing.assert_array_equal(quantized['b'], 0)
  assert (np.asarray(quantized['a'][:, (0, 2)]) != 0).all()


def test_a_nan_is_not_hidden_by_the_codes(rng):
  latents = {'a': _kernel(rng).at[3, 2].set(jnp.nan)}
  quantized, _ = _update(transforms.ternary(0.5), latents)
  assert np.isnan(quantized['a'][:, 2]).all()
  assert np.isfinite(np.delete(quantized['a'], 2, 1)).all()


def test_masked_nodes_pass(rng):
  latents = {'a': optax.MaskedNode(), 'b': _kernel(rng)}
  quantizer = transforms.ternary(0.5)
  quantized, state = _update(quantizer, latents)
  assert isinstance(quantized['a'], optax.MaskedNode)
  assert isinstance(state.thresholds.magnitude['a'], optax.MaskedNode)
  before = quantizer.init(latents, _axes(latents))
  assert jax.tree.structure(state) == jax.tree.structure(before)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'sparsity': 1.0}, 'sparsity is 1.0'),
    ({'sparsity': -0.5}, 'sparsity is -0.5'),
    ({'sparsity': {'a': 0.5, '.*': 1.0}}, 'sparsity is 1.0'),
    ({'sparsity': 0.5, 'refresh_steps': 0}, 'refresh_steps is 0'),
    ({'sparsity': 0.5, 'begin_step': -1}, 'begin_step -1'),
    ({'sparsity': 0.5, 'scope': 'row'}, "scope is 'row'"),
  ],
)
def test_ternary_refuses(arguments, message):
  with pytest.raises(ValueError, match=message):
    transforms.ternary(**arguments)


def test_identity(rng):
  latents = {'a': _kernel(rng), 'b': _kernel(rng)}
  params = latents | {'a': latents['a'].astype(jnp.bfloat16)}
  quantizer = transforms.identity()
  quantized, state = _update(quantizer, latents, params=params)
  assert quantized['a'].dtype == jnp.bfloat16
  np.testing.assert_array_equal(quantized['a'], params['a'])
  np.testing.assert_array_equal(quantized['b'], latents['b'])
  assert jax.tree.leaves(state) == []
