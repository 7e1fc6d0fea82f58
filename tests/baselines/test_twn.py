"""Ternary Weight Networks: the threshold, and the scale of least squares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hq_jax import baselines
from hq_jax.core import ternary
from hq_jax.core import trees


def _quantize(w, quantizer=None, dtype=jnp.float32):
  latents, axes = (
    {'a': jnp.asarray(w, jnp.float32)},
    {'a': trees.Axes((np.ndim(w) - 1,))},
  )
  params = {'a': latents['a'].astype(dtype)}
  quantizer = quantizer or baselines.twn()
  state = quantizer.init(latents, axes)
  update = jax.jit(lambda *args: quantizer.update(*args, axes))
  quantized, state = update(latents, state, params)
  return quantized['a'], state


def test_by_hand():
  # The mean magnitude is 20 / 8, the threshold 1.75; 1.75 itself is a zero.
  w = [[4.0, 1.75], [-6.0, 1.0], [-0.25, -2.0], [2.0, -3.0]]
  quantized, state = _quantize(w)
  assert quantized.tolist() == [[4, 0], [-4, 0], [0, -2.5], [4, -2.5]]
  assert state.twn_thresholds['a'] == 1.75
  assert state.twn_scales['a'].tolist() == [[4.0, 2.5]]


def test_the_scale_is_the_best_one_for_the_codes(rng):
  w = rng.normal(size=(3, 3, 4, 6)) * [1, 2, 3, 0.5, 0.1, 1]
  quantized, _ = _quantize(w)
  codes = np.sign(quantized)
  np.testing.assert_array_equal(
    codes, np.sign(w) * (np.abs(w) > 0.7 * np.abs(w).mean())
  )
  rows, targets = codes.reshape(-1, 6), w.reshape(-1, 6)
  wanted = [
    np.linalg.lstsq(rows[:, [j]], targets[:, j], rcond=None)[0][0]
    if rows[:, j].any()
    else 0.0
    for j in range(6)
  ]
  # The fifth channel keeps nothing.
  assert wanted[4] == 0.0
  scales = np.abs(quantized).reshape(-1, 6).max(0)
  np.testing.assert_allclose(scales, wanted, rtol=2**-11)


def test_another_factor(rng):
  w = rng.normal(size=(30, 4))
  quantized, _ = _quantize(w, baselines.twn(1.5))
  np.testing.assert_array_equal(
    quantized != 0, np.abs(w) > 1.5 * np.abs(w).mean()
  )
  assert (_quantize(w, baselines.twn(0.0))[0] != 0).all()


def test_the_scale_fits_the_dtype(rng):
  quantized, state = _quantize(rng.normal(size=(30, 4)), dtype=jnp.bfloat16)
  scale = state.twn_scales['a']
  np.testing.assert_array_equal(scale, ternary.round_significand(scale, 6))
  np.testing.assert_array_equal(jnp.abs(quantized).max(0), scale[0])


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_what_is_no_number_is_seen(rng, bad):
  w = rng.normal(size=(6, 3))
  w[2, 1] = bad
  assert np.isnan(_quantize(w)[0]).all()


def test_zeros_stay_zero():
  assert not _quantize(np.zeros((3, 2)))[0].any()


@pytest.mark.parametrize('factor', [-0.1, np.inf, np.nan])
def test_a_factor_out_of_range_is_refused(factor):
  with pytest.raises(ValueError, match=f'threshold_factor is {factor}'):
    baselines.twn(factor)
