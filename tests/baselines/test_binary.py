"""Binary weights: signs, and the scale of least squares."""

import jax
import jax.numpy as jnp
import numpy as np

from hq_jax import baselines
from hq_jax.core import trees


def _quantize(w, dtype=jnp.float32):
  latents, axes = (
    {'a': jnp.asarray(w, jnp.float32)},
    {'a': trees.Axes((np.ndim(w) - 1,))},
  )
  params = {'a': latents['a'].astype(dtype)}
  quantizer = baselines.binary()

  @jax.jit
  def update(latents, params):
    state = quantizer.init(latents, axes)
    quantized, state = quantizer.update(latents, state, params, axes)
    return quantized, quantizer.encode(latents, state, axes)

  quantized, tensors = update(latents, params)
  return np.asarray(quantized['a']), tensors['a']


def test_by_hand():
  quantized, tensor = _quantize([[4.0, 0.0], [-1.0, -0.0], [1.0, -1.5]])
  assert quantized.tolist() == [[2, 0.5], [-2, 0.5], [2, -0.5]]
  assert tensor.codes.tolist() == [[1, 1], [-1, 1], [1, -1]]
  assert tensor.scale.tolist() == [[2.0, 0.5]]


def test_no_other_signs_and_scale_are_nearer(rng):
  w = rng.normal(size=(2, 2, 2, 3))
  quantized, _ = _quantize(w)
  columns = w.reshape(8, 3)
  # Every vector of eight signs, each with its own best scale.
  signs = np.array(np.meshgrid(*[[-1, 1]] * 8)).reshape(8, -1)
  scales = signs.T @ columns / 8
  errors = ((columns[:, None] - signs[:, :, None] * scales) ** 2).sum(0).min(0)
  found = ((columns - np.reshape(quantized, (8, 3))) ** 2).sum(0)
  np.testing.assert_allclose(found, errors, rtol=1e-5)


def test_the_result_is_one_that_bfloat16_holds(rng):
  quantized, tensor = _quantize(rng.normal(size=(30, 4)), jnp.bfloat16)
  np.testing.assert_array_equal(
    np.abs(np.float32(quantized)), np.tile(tensor.scale, (30, 1))
  )


def test_a_channel_with_a_nan_is_seen(rng):
  w = rng.normal(size=(6, 3))
  w[2, 1] = np.nan
  quantized, _ = _quantize(w)
  assert np.isnan(quantized[:, 1]).all()
  assert np.isfinite(quantized[:, (0, 2)]).all()
