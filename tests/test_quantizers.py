"""The ternary quantizer: when it begins, refreshes, and what it gives."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import quantizers
from hq_jax import ternary


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


def _run(quantizer, latents, num_updates):
  """Quantized trees of so many updates, the latents moved by `latents(t)`."""
  state = quantizer.init(latents(0))
  update = jax.jit(quantizer.update)
  found = []
  for t in range(num_updates):
    quantized, state = update(latents(t), state)
    found.append(quantized)
  return found, state


@pytest.mark.parametrize('shape', [(12, 5), (3, 3, 2, 4), (2, 1)])
@pytest.mark.parametrize('sparsity', [0.0, 0.5, 0.85])
def test_ternary_matches_the_equations(rng, shape, sparsity):
  latents = {'a': _kernel(rng, shape)}
  quantizer = quantizers.ternary(sparsity)
  quantized, state = jax.jit(quantizer.update)(latents, quantizer.init(latents))
  wanted = _reference(latents['a'], sparsity)
  np.testing.assert_allclose(quantized['a'], wanted, rtol=2**-11)
  np.testing.assert_array_equal(quantized['a'] == 0, wanted == 0)
  assert state.ternary_count == 1


def test_each_kernel_has_its_own_threshold(rng):
  latents = {'a': _kernel(rng), 'b': 100 * _kernel(rng, (20, 5)) ** 3}
  quantizer = quantizers.ternary(0.75, unit_norm=False)
  quantized, _ = jax.jit(quantizer.update)(latents, quantizer.init(latents))
  assert int((quantized['a'] != 0).sum()) == 15
  assert int((quantized['b'] != 0).sum()) == 25


def test_unit_norm_or_not():
  latents = {'a': jnp.array([[3.0, 0.03], [1.0, 0.01]])}
  zeros = {}
  for unit_norm in (True, False):
    quantizer = quantizers.ternary(0.5, unit_norm=unit_norm)
    quantized, _ = jax.jit(quantizer.update)(latents, quantizer.init(latents))
    zeros[unit_norm] = (quantized['a'] == 0).tolist()
  assert zeros[True] == [[False, False], [True, True]]
  assert zeros[False] == [[False, True], [False, True]]


def test_before_begin_step_nothing_changes(rng):
  w = _kernel(rng)
  found, state = _run(
    quantizers.ternary(0.5, begin_step=2), lambda t: {'a': w + t}, 4
  )
  for t in (0, 1):
    np.testing.assert_array_equal(found[t]['a'], w + t)
  for t in (2, 3):
    assert len(np.unique(np.abs(found[t]['a'][:, 0]))) == 2
  assert state.ternary_count == 4


def test_thresholds_are_refreshed_when_they_should(rng):
  # The latents grow by a half each update: a stale threshold keeps more.
  base = _kernel(rng, (10, 10))
  quantizer = quantizers.ternary(
    0.8, begin_step=2, refresh_steps=3, unit_norm=False
  )
  found, _ = _run(quantizer, lambda t: {'a': base * 1.5**t}, 9)
  zeros = [int((q['a'] == 0).sum()) for q in found]
  assert zeros[:2] == [0, 0]
  assert [t for t in range(2, 9) if zeros[t] == 80] == [2, 5, 8]
  assert all(zeros[t] < 80 for t in (3, 4, 6, 7))


def test_the_last_update_is_refreshed_too(rng):
  base = _kernel(rng, (10, 10))
  quantizer = quantizers.ternary(
    0.8, end_step=6, refresh_steps=4, unit_norm=False
  )
  found, _ = _run(quantizer, lambda t: {'a': base * 1.5**t}, 7)
  zeros = [int((q['a'] == 0).sum()) for q in found]
  assert [t for t in range(7) if zeros[t] == 80] == [0, 4, 5]


def test_the_dead_zone_follows_the_latents_between_refreshes():
  # From + to - a weight passes through zero, under the first threshold.
  base = jnp.array([[1.0], [0.5], [0.1], [0.0]])
  path = [1.0, 0.55, 0.2, 0.0, -0.2, -0.55]
  found, _ = _run(
    quantizers.ternary(0.5, refresh_steps=100, unit_norm=False),
    lambda t: {'a': base.at[0, 0].set(path[t])},
    6,
  )
  codes = [float(jnp.sign(q['a'][0, 0])) for q in found]
  assert codes == [1, 1, 0, 0, 0, -1]


def test_a_channel_with_a_nan_is_seen(rng):
  latents = {'a': _kernel(rng, (6, 3)).at[2, 1].set(jnp.nan)}
  quantizer = quantizers.ternary(0.5)
  quantized, _ = quantizer.update(latents, quantizer.init(latents))
  assert np.isnan(quantized['a'][:, 1]).all()
  assert np.isfinite(quantized['a'][:, (0, 2)]).all()


def test_channels_of_zeros_stay_zero(rng):
  latents = {
    'a': _kernel(rng, (6, 3)).at[:, 1].set(0.0),
    'b': jnp.zeros((2, 2)),
  }
  quantizer = quantizers.ternary(0.0)
  quantized, _ = quantizer.update(latents, quantizer.init(latents))
  np.testing.assert_array_equal(quantized['a'][:, 1], 0)
  np.testing.assert_array_equal(quantized['b'], 0)
  assert (np.asarray(quantized['a'][:, (0, 2)]) != 0).all()


def test_masked_nodes_pass(rng):
  latents = {'a': optax.MaskedNode(), 'b': _kernel(rng)}
  quantizer = quantizers.ternary(0.5)
  state = quantizer.init(latents)
  quantized, after = quantizer.update(latents, state)
  assert isinstance(quantized['a'], optax.MaskedNode)
  assert isinstance(after.thresholds['b'], ternary.Threshold)
  assert jax.tree.structure(after) == jax.tree.structure(state)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'sparsity': 1.0}, 'sparsity is 1.0'),
    ({'sparsity': -0.5}, 'sparsity is -0.5'),
    ({'sparsity': 0.5, 'refresh_steps': 0}, 'refresh_steps is 0'),
    ({'sparsity': 0.5, 'begin_step': -1}, 'begin_step -1'),
  ],
)
def test_ternary_refuses(arguments, message):
  with pytest.raises(ValueError, match=message):
    quantizers.ternary(**arguments)


def test_identity(rng):
  latents = {'a': _kernel(rng)}
  quantizer = quantizers.identity()
  quantized, state = quantizer.update(latents, quantizer.init(latents))
  assert quantized['a'] is latents['a']
  assert jax.tree.leaves(state) == []
