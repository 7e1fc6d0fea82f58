"""Trained Ternary Quantization: its threshold, and what its levels learn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import baselines
from hq_jax.core import trees

AXES = {'a': trees.Axes((1,))}


def _tree(array):
  return {'a': jnp.asarray(array, jnp.float32)}


def test_by_hand():
  # The threshold is 0.4: of 4, 2 above it; -1 and -3 below minus that.
  latents = _tree([[8.0, -1.0], [0.4, -3.0], [4.0, -0.25]])
  quantizer = baselines.ttq()
  state = quantizer.init(latents, AXES)
  quantized, state = quantizer.update(latents, state, latents, AXES)
  assert quantized['a'].tolist() == [[6, -2], [0, -2], [6, 0]]
  tensor = quantizer.encode(latents, state, AXES)['a']
  assert tensor.codewords.ravel().tolist() == [-2, 0, 6]
  assert tensor.indices.tolist() == [[2, 0], [1, 0], [2, 1]]


def test_each_level_learns_from_its_own_weights(rng):
  w, g = rng.normal(size=(2, 30, 4))
  quantizer = baselines.ttq(0.25, optax.sgd(1e-3))
  state = quantizer.init(_tree(w), AXES)
  learnt = quantizer.learn(_tree(g), _tree(w), state, AXES)
  threshold = 0.25 * np.abs(w).max()
  # dq / da is 1 above the threshold; -b below it.
  slopes = [-g[w < -threshold].sum(), g[w > threshold].sum()]
  np.testing.assert_allclose(
    learnt.level_sizes['a'] - state.level_sizes['a'],
    -1e-3 * np.array(slopes),
    rtol=1e-3,
  )


def test_levels_stay_positive(rng):
  latents = _tree(rng.normal(size=(8, 4)))
  quantizer = baselines.ttq(optimizer=optax.sgd(1.0))
  state = quantizer.init(latents, AXES)
  grads = _tree(1e4 * jnp.sign(latents['a']))
  state = quantizer.learn(grads, latents, state, AXES)
  quantized, _ = quantizer.update(latents, state, latents, AXES)
  is_kept = quantized['a'] != 0
  np.testing.assert_array_equal(
    jnp.sign(quantized['a']), jnp.sign(latents['a']) * is_kept
  )
  assert is_kept.sum() > 16


def test_a_nan_shows():
  latents = _tree([[np.nan, 1.0], [0.5, -1.0]])
  quantizer = baselines.ttq()
  quantized, _ = jax.jit(
    lambda w: quantizer.update(w, quantizer.init(w, AXES), w, AXES)
  )(latents)
  assert np.isnan(quantized['a']).all()


@pytest.mark.parametrize('factor', [-0.1, 1.0])
def test_a_factor_out_of_range_is_refused(factor):
  with pytest.raises(ValueError, match=f'threshold_factor is {factor}, wanted'):
    baselines.ttq(factor)
