"""The straight-through estimator: latents, updates and their exactness."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import baselines
from hq_jax import transforms
from hq_jax.core import ternary
from hq_jax.core import thresholds
from tests import compiling
from tests.transforms import steps


def _params(rng, dtype=jnp.float32):
  return {
    'conv': {'kernel': steps.normal(rng, (3, 3, 4, 6)).astype(dtype)},
    'head': {
      'kernel': steps.normal(rng, (20, 8)).astype(dtype),
      'bias': steps.normal(rng, (8,)).astype(dtype),
    },
  }


def _quantized(state, path):
  """Codes times scales of the latents, in NumPy: what parameters must be."""
  latents = state.latents[path]['kernel']
  found = thresholds.join(state.quantizer_state.thresholds)[path]['kernel']
  codes, _ = ternary.ternarize(latents, found)
  scale = state.quantizer_state.scales[path]['kernel']
  return np.asarray(codes, np.float32) * np.asarray(scale)


def _train(rng, tx, params, num_steps):
  return steps.train(rng, tx, params, num_steps, compiling.full_jit)


def _magnitudes(kernel):
  """The distinct non-zero magnitudes of each channel."""
  columns = np.abs(np.asarray(kernel)).reshape(-1, kernel.shape[-1]).T
  return [set(column[column > 0].tolist()) for column in columns]


def test_parameters_are_exactly_ternary_in_a_training_run(rng):
  tx = transforms.straight_through(
    optax.chain(optax.add_decayed_weights(0.5), optax.sgd(1.0)),
    transforms.ternary(0.3, refresh_steps=5),
  )
  # The first step comes from dense parameters: see the next test.
  found = _train(rng, tx, _params(rng), 30)[5:]
  flips, scales = 0, []
  for path in ('conv', 'head'):
    before = 0
    for params, state in found:
      kernel = np.asarray(params[path]['kernel'])
      np.testing.assert_array_equal(kernel, _quantized(state, path))
      assert all(len(m) <= 1 for m in _magnitudes(kernel))
      scales.append(np.abs(kernel).max())
      flips += (kernel * before < 0).sum()
      before = kernel
  # It was no easy run: signs flipped, and scales changed at every step.
  assert flips > 50
  assert len(set(scales)) > 40


def test_the_step_from_dense_to_ternary(rng):
  # From any float32 to 11 bits: one rounding, if the sign changes; no more
  # than that, and nothing from the next step on.
  tx = transforms.straight_through(
    optax.sgd(1.0), transforms.ternary(0.6, begin_step=3)
  )
  found = _train(rng, tx, _params(rng), 6)
  for path in ('conv', 'head'):
    for t in (0, 1, 2):
      params, state = found[t]
      np.testing.assert_allclose(
        params[path]['kernel'], state.latents[path]['kernel'], rtol=1e-5
      )
      assert len(_magnitudes(params[path]['kernel'])[0]) > 1
    for t, ulps in ((3, 1), (4, 0), (5, 0)):
      params, state = found[t]
      wanted = _quantized(state, path)
      np.testing.assert_allclose(
        params[path]['kernel'], wanted, rtol=ulps * 2**-23, atol=0
      )


def test_the_latents_take_the_gradient_as_it_is(rng):
  params = _params(rng)
  tx = transforms.straight_through(optax.sgd(0.5), transforms.ternary(0.8))
  grads = jax.tree.map(lambda p: steps.normal(rng, p.shape), params)
  updates, state = jax.jit(tx.update)(grads, tx.init(params), params)
  for path in ('conv', 'head'):
    np.testing.assert_allclose(
      state.latents[path]['kernel'],
      params[path]['kernel'] - 0.5 * grads[path]['kernel'],
      rtol=1e-6,
      atol=1e-7,
    )
  # What is not selected has no latents, and the optimizer's own update.
  assert isinstance(state.latents['head']['bias'], optax.MaskedNode)
  np.testing.assert_array_equal(
    updates['head']['bias'], -0.5 * grads['head']['bias']
  )


def test_weight_decay_acts_on_the_latents(rng):
  params = _params(rng)
  tx = transforms.straight_through(
    optax.chain(optax.add_decayed_weights(0.5), optax.sgd(1.0)),
    transforms.ternary(0.8),
  )
  state = tx.init(params)
  zero = jax.tree.map(jnp.zeros_like, params)
  initial, step = params, steps.make_step(tx)
  for _ in range(2):
    params, state = step(params, state, zero)
  # Halved twice, the small ones too, which the parameters show as zeros.
  np.testing.assert_array_equal(
    state.latents['head']['kernel'], initial['head']['kernel'] / 4
  )
  np.testing.assert_array_equal(
    params['head']['bias'], initial['head']['bias'] / 4
  )


def test_the_optimizer_sees_float32_latents_in_place_of_parameters(rng):
  # An optimizer whose state is what it was given.
  inner = optax.GradientTransformation(
    lambda params: params, lambda updates, state, params: (updates, params)
  )
  params = _params(rng, jnp.bfloat16)['head']
  tx = transforms.straight_through(inner, transforms.identity())
  state = tx.init(params)
  seen = [state.latent_opt_state]
  ones = jax.tree.map(jnp.ones_like, params)
  for _ in range(2):
    updates, state = tx.update(ones, state, params)
    params = optax.apply_updates(params, updates)
    seen.append(state.latent_opt_state)
  first, same, moved = seen
  assert moved['kernel'].dtype == jnp.float32
  assert moved['bias'].dtype == jnp.bfloat16
  np.testing.assert_array_equal(first['kernel'], same['kernel'])
  np.testing.assert_array_equal(moved['kernel'], first['kernel'] + 1)


def test_bfloat16_parameters_are_ternary_too(rng):
  tx = transforms.straight_through(optax.sgd(0.3), transforms.ternary(0.6))
  for params, state in _train(rng, tx, _params(rng, jnp.bfloat16), 4):
    kernel = params['head']['kernel']
    assert kernel.dtype == jnp.bfloat16
    assert all(len(m) <= 1 for m in _magnitudes(kernel))
    np.testing.assert_array_equal(
      kernel, jnp.asarray(_quantized(state, 'head'), jnp.bfloat16)
    )


@pytest.mark.parametrize(
  'quantizer', [transforms.ternary(0.5, begin_step=1), transforms.identity()]
)
def test_parameters_and_state_may_be_donated(rng, quantizer):
  tx = transforms.straight_through(optax.adamw(0.1), quantizer)
  params = _params(rng)
  grads = jax.tree.map(jnp.ones_like, params)
  plain, donating = steps.make_step(tx), steps.make_step(tx, donate=(0, 1))
  wanted, wanted_state = params, tx.init(params)
  for _ in range(3):
    wanted, wanted_state = plain(wanted, wanted_state, grads)
  # A warning, which is an error here, would tell of unusable buffers; two
  # leaves that share one buffer cannot be donated at all.
  state = tx.init(params)
  given = params['head']['kernel']
  for _ in range(3):
    params, state = donating(params, state, grads)
  assert given.is_deleted()
  jax.tree.map(np.testing.assert_array_equal, params, wanted)


def test_parameters_that_were_changed_end_at_the_quantized_latents(rng):
  params = _params(rng)
  grads = jax.tree.map(jnp.ones_like, params)
  changed = jax.tree.map(lambda p: 1.5 * p, params)
  for replaced, latents in (('follow', changed), ('ignore', params)):
    tx = transforms.straight_through(
      optax.sgd(0.0), transforms.ternary(0.5), replaced=replaced
    )
    got, state = steps.make_step(tx)(changed, tx.init(params), grads)
    np.testing.assert_allclose(
      got['head']['kernel'], _quantized(state, 'head'), rtol=2**-23
    )
    np.testing.assert_array_equal(
      state.latents['head']['kernel'], latents['head']['kernel']
    )


def test_with_the_identity_it_is_the_optimizer(rng):
  params = _params(rng)
  draw = lambda _: jax.tree.map(lambda p: steps.normal(rng, p.shape), params)
  gradients = list(map(draw, range(3)))
  found = []
  for tx in (
    optax.adamw(0.1),
    transforms.straight_through(optax.adamw(0.1), transforms.identity()),
  ):
    step, state, moved = steps.make_step(tx), tx.init(params), params
    for grads in gradients:
      moved, state = step(moved, state, grads)
    found.append(moved)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *found
  )


def test_the_quantizer_learns_from_the_gradient_as_it_comes(rng):
  # A quantizer whose state is what it was given to learn from.
  recorder = transforms.identity()._replace(
    init=lambda latents, axes: (latents, latents),
    learn=lambda grads, latents, state, axes: (grads, latents),
  )
  params = _params(rng)['head']
  tx = transforms.straight_through(optax.sgd(0.5), recorder)
  grads = jax.tree.map(lambda p: steps.normal(rng, p.shape), params)
  _, state = jax.jit(tx.update)(grads, tx.init(params), params)
  given, latents = state.quantizer_state
  # Not halved, and with the latents before they moved; kernels alone.
  np.testing.assert_array_equal(given['kernel'], grads['kernel'])
  np.testing.assert_array_equal(latents['kernel'], params['kernel'])
  assert isinstance(given['bias'], optax.MaskedNode)
  assert (state.latents['kernel'] != params['kernel']).all()


def test_nothing_is_learnt_from_what_is_not_finite(rng):
  params = _params(rng)['head']
  tx = transforms.straight_through(optax.sgd(0.5), baselines.uniform(2))
  state = tx.init(params)
  grads = jax.tree.map(jnp.ones_like, params)
  spoilt = grads | {'bias': grads['bias'].at[0].set(jnp.nan)}
  for given, moves in ((spoilt, False), (grads, True)):
    _, after = jax.jit(tx.update)(given, state, params)
    before = state.quantizer_state.exact_steps['kernel']
    assert bool(after.quantizer_state.exact_steps['kernel'] != before) == moves
