"""PARQ: the proximal map, from the identity to ternary weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax import baselines
from hq_jax.core import trees

AXES = {'a': trees.Axes((1,))}


def _update_often(w, num_steps, times):
  """What each update gives of the same weights, and the last state."""
  latents, quantizer = {'a': jnp.asarray(w)}, baselines.parq(num_steps)
  update = jax.jit(lambda w, state: quantizer.update(w, state, w, AXES))
  state, found = quantizer.init(latents, AXES), []
  for _ in range(times):
    quantized, state = update(latents, state)
    found.append(np.asarray(quantized['a']))
  return found, state


def test_weights_come_nearer_to_ternary_ones(rng):
  w = rng.normal(size=(40, 3)).astype(np.float32)
  found, state = _update_often(w, num_steps=8, times=10)
  np.testing.assert_array_equal(found[0], w)
  scales = np.asarray(state.parq_scales['a'])
  nearest = np.where(np.abs(w) > scales / 2, np.sign(w) * scales, 0)
  far = [np.abs(values - nearest).sum() for values in found]
  assert (np.diff(far[:9]) < 0).all()
  for values in found[8:]:
    np.testing.assert_array_equal(values, nearest)


def test_the_map_rises_with_the_weight():
  # Half way, the map is flat at each level, twice as steep between two.
  w = np.linspace(-3, 3, 601, dtype=np.float32)[:, None]
  (_, half), state = _update_often(w, num_steps=2, times=2)
  scale = float(state.parq_scales['a'][0, 0])
  slopes = np.diff(half[:, 0]) / np.diff(w[:, 0])
  at = np.abs(w[:-1, 0] + 0.005) / scale
  np.testing.assert_allclose(slopes[at < 0.24], 0, atol=1e-3)
  np.testing.assert_allclose(slopes[(at > 0.26) & (at < 0.74)], 2, atol=2e-2)
  np.testing.assert_allclose(slopes[(at > 0.76) & (at < 0.99)], 0, atol=1e-3)
  np.testing.assert_allclose(slopes[at > 1.01], 0.5, atol=1e-2)


def test_what_was_given_is_recalled(rng):
  latents = {'a': jnp.asarray(rng.normal(size=(20, 3)), jnp.float32)}
  quantizer = baselines.parq(4)
  state = quantizer.init(latents, AXES)
  for _ in range(3):
    quantized, state = quantizer.update(latents, state, latents, AXES)
    recalled = quantizer.recall(latents, state, latents, AXES)
    np.testing.assert_array_equal(recalled['a'], quantized['a'])


def test_no_steps_are_refused():
  with pytest.raises(ValueError, match='num_steps is 0, wanted at least 1'):
    baselines.parq(0)
