"""Uniform levels: the step, its gradient, and what it learns."""

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


def _make_state(quantizer, latents, step):
  """A state with a step of this size, a power of two."""
  state = quantizer.init(latents, AXES)
  exact_steps = {'a': jnp.float32(step)}
  _, state = quantizer.update(
    latents, state._replace(exact_steps=exact_steps), latents, AXES
  )
  assert state.steps['a'] == step
  return state


def test_by_hand():
  # 2 mean(abs(w)) / sqrt(1) = 4.
  latents = _tree([[0.75, 3.0], [-2.5, -5.0], [-0.75, -0.0]])
  quantizer = baselines.uniform(2)
  state = quantizer.init(latents, AXES)
  assert state.steps['a'] == 4.0
  quantized, state = quantizer.update(latents, state, latents, AXES)
  assert quantized['a'].tolist() == [[0, 4], [-4, -4], [0, 0]]
  tensor = quantizer.encode(latents, state, AXES)['a']
  assert tensor.codewords.tolist() == [[-8], [-4], [0], [4]]
  assert tensor.indices.tolist() == [[2, 3], [1, 1], [2, 2]]
  assert tensor.scale is None


def test_what_is_outside_is_clipped():
  quantizer, latents = baselines.uniform(3), _tree([[-9.0, 9.0], [1.5, -1.5]])
  state = _make_state(quantizer, latents, 1.0)
  quantized, _ = quantizer.update(latents, state, latents, AXES)
  assert quantized['a'].tolist() == [[-4, 3], [2, -1]]


def test_rounding_is_exact():
  # The step has no exact inverse: a quotient alone may round the wrong way.
  step, codes = 13 * 2.0**-10, np.arange(-128, 127)
  halves = np.float32(step * (codes + 0.5))
  latents = _tree([halves, np.nextafter(halves, np.float32(-np.inf))])
  quantizer = baselines.uniform(8)
  state = _make_state(quantizer, latents, step)
  tensors = jax.jit(lambda w, s: quantizer.encode(w, s, AXES))(latents, state)
  np.testing.assert_array_equal(
    np.int32(tensors['a'].indices) - 128, [codes + 1, codes]
  )
  np.testing.assert_array_equal(
    quantizer.encode(latents, state, AXES)['a'].indices, tensors['a'].indices
  )


@pytest.mark.parametrize('bits', [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_gradient_of_the_step_by_differences(rng, bits):
  # With the rounding error held, s clip(w / s + error) is smooth in s.
  w, g = rng.normal(size=(2, 40, 5))
  step, low, high = 0.25, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
  error = np.round(w / step) - w / step

  def loss(s):
    v = w / s
    inside = (w / step > low) & (w / step < high)
    return (g * s * np.where(inside, v + error, np.clip(v, low, high))).sum()

  slope = (loss(step + 1e-6) - loss(step - 1e-6)) / 2e-6
  quantizer = baselines.uniform(bits, optax.sgd(1e-3))
  state = _make_state(quantizer, _tree(w), step)
  learnt = quantizer.learn(_tree(g), _tree(w), state, AXES)
  np.testing.assert_allclose(
    learnt.exact_steps['a'] - state.exact_steps['a'],
    -1e-3 * slope / np.sqrt(w.size * high),
    rtol=1e-4,
  )


def _get_error(w, step):
  return ((np.clip(np.round(w / step), -2, 1) * step - w) ** 2).sum()


def test_the_step_learns_to_be_the_best_one(rng):
  w = rng.normal(size=(40, 8))
  latents = _tree(w)
  quantizer = baselines.uniform(2, optax.adam(0.02))

  @jax.jit
  def advance(state):
    quantized, state = quantizer.update(latents, state, latents, AXES)
    grads = jax.tree.map(jnp.subtract, quantized, latents)
    return quantizer.learn(grads, latents, state, AXES)

  state = quantizer.init(latents, AXES)
  first = state.steps['a']
  for _ in range(100):
    state = advance(state)
  best = min(_get_error(w, step) for step in np.linspace(0.3, 3.0, 300))
  assert _get_error(w, first) > 1.2 * best
  assert _get_error(w, state.steps['a']) < 1.02 * best


@pytest.mark.slow
def test_a_step_stays_positive(rng):
  latents = _tree(rng.normal(size=(8, 4)))
  quantizer = baselines.uniform(2, optax.sgd(1.0))
  for size in (-1e4, 1e4):
    state = _make_state(quantizer, latents, 0.5)
    grads = _tree(size * jnp.sign(latents['a']))
    state = quantizer.learn(grads, latents, state, AXES)
    quantized, state = quantizer.update(latents, state, latents, AXES)
    assert 2**-24 <= state.steps['a'] <= 2**14
    assert np.isfinite(quantized['a']).all()


@pytest.mark.parametrize(
  'bits', [*(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3)), 8]
)
def test_float16_holds_every_level(rng, bits):
  quantizer = baselines.uniform(bits)
  for size in (1e-9, 1e-7, 1e-6, 1e-4, 1e-2, 1.0, 1e3, 1e6):
    latents = _tree(size * rng.normal(size=(20, 5)))
    state = quantizer.init(latents, AXES)
    quantized, state = quantizer.update(latents, state, latents, AXES)
    codes, codewords, _ = quantizer.encode(latents, state, AXES)['a']
    levels = np.float32(codewords[:, 0])
    assert np.isfinite(levels).all()
    assert len(np.unique(levels)) == 2**bits
    np.testing.assert_array_equal(levels[codes], quantized['a'])


@pytest.mark.slow
@pytest.mark.parametrize(
  ('bits', 'dtype'), [(2, 'bfloat16'), (4, 'bfloat16'), (4, 'float16')]
)
def test_differences_of_levels_are_exact(rng, bits, dtype):
  # From one step to the next: p + (q - p) is q, in the parameters' dtype.
  quantizer, dtype = baselines.uniform(bits), jnp.dtype(dtype)
  found = []
  for size in (0.9, 1.0):
    latents = _tree(size * rng.normal(size=(50, 8)))
    params = {'a': latents['a'].astype(dtype)}
    state = quantizer.init(latents, AXES)
    quantized, _ = quantizer.update(latents, state, params, AXES)
    found.append(quantized['a'])
  p, q = found
  np.testing.assert_array_equal(p + (q - p), q)


def test_zeros_and_nans():
  quantizer = baselines.uniform(2)
  latents = _tree(np.zeros((2, 2)))
  state = quantizer.init(latents, AXES)
  assert np.isfinite(state.exact_steps['a'])
  spoilt = _tree([[np.nan, 0.0], [0.0, 0.0]])
  for w, wanted in ((latents, 0), (spoilt, [[np.nan, 0], [0, 0]])):
    quantized, _ = quantizer.update(w, state, w, AXES)
    np.testing.assert_array_equal(
      quantized['a'], np.broadcast_to(wanted, (2, 2))
    )


@pytest.mark.parametrize('bits', [1, 9])
def test_a_number_of_bits_out_of_range_is_refused(bits):
  with pytest.raises(ValueError, match=f'bits is {bits}, wanted 2 to 8'):
    baselines.uniform(bits)
