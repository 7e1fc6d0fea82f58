"""Types and shapes of updates: exact zeros, stable states, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hq_jax import transforms

_PARTS = {
  'tangent': transforms.tangent,
  'project_to_sphere': transforms.project_to_sphere,
  'prune': functools.partial(transforms.prune, lambda step: 0.5),
  'reinit': functools.partial(transforms.reinit, [0], 1.0, lambda step: 0.5),
  'straight_through': functools.partial(
    transforms.straight_through, optax.identity(), transforms.ternary(0.5)
  ),
}


def _draw(shape, dtype=jnp.float32, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


@pytest.mark.parametrize('param_type', ['float32', 'bfloat16'])
def test_pruned_weights_are_zeros_with_gradients_of_low_precision(param_type):
  tx = optax.chain(
    optax.sgd(0.01),
    transforms.prune(lambda step: 0.75),
    transforms.project_to_sphere(),
  )
  params = {'kernel': _draw((16, 8), param_type)}
  grads = {'kernel': _draw((16, 8), jnp.bfloat16, seed=1)}
  updates, _ = tx.update(grads, tx.init(params), params)
  assert (optax.apply_updates(params, updates)['kernel'] == 0).sum() == 96


def test_latents_are_pruned_exactly_with_parameters_of_low_precision():
  recipe = transforms.Recipe(
    sparsity=0.75,
    prune_steps=8,
    num_stages=2,
    refresh_steps=2,
    prune_gradients='masked',
  )
  tx = transforms.hq(optax.sgd(0.01), recipe)
  params = {'kernel': _draw((16, 8), jnp.bfloat16)}
  state = tx.init(params)
  step = jax.jit(tx.update)
  # All but the last, which makes the parameters ternary.
  for seed in range(7):
    grads = {'kernel': _draw((16, 8), jnp.bfloat16, seed)}
    updates, state = step(grads, state, params)
    params = optax.apply_updates(params, updates)
  assert (optax.tree.get(state, 'latents')['kernel'] == 0).sum() == 96
  assert (params['kernel'] == 0).sum() == 96


def test_a_scan_takes_parameters_in_float64():
  with jax.enable_x64(True):
    params = {'kernel': _draw((8, 4), jnp.float64)}
    tx = transforms.hq(optax.sgd(0.1, momentum=0.9), transforms.Recipe())

    def step(carry, _):
      params, state = carry
      updates, state = tx.update(params, state, params)
      return (optax.apply_updates(params, updates), state), None

    carry = params, tx.init(params)
    (params, _), _ = jax.lax.scan(step, carry, length=2)
    assert params['kernel'].dtype == jnp.float64


@pytest.mark.parametrize('name', _PARTS)
def test_gradients_of_single_examples_are_refused(name):
  tx = _PARTS[name]()
  params = {'a': {'kernel': jnp.ones((3, 3))}}
  grads = {'a': {'kernel': jnp.ones((5, 3, 3))}}
  with pytest.raises(ValueError, match=r'a/kernel has shape \(5, 3, 3\)'):
    tx.update(grads, tx.init(params), params)


def test_raising_for_what_is_not_finite_holds_under_vmap():
  tx = transforms.hq(
    optax.sgd(0.1), transforms.Recipe(sparsity=0.5), non_finite='raise'
  )
  many = {'kernel': jnp.stack([jnp.ones((4, 2)), 2 * jnp.ones((4, 2))])}
  step = jax.jit(jax.vmap(tx.update))
  state = jax.vmap(tx.init)(many)
  updates, _ = step(many, state, many)
  jax.effects_barrier()
  assert jnp.isfinite(updates['kernel']).all()
  broken = {'kernel': many['kernel'].at[1, 0, 0].set(jnp.nan)}
  with pytest.raises(Exception, match='the gradient of kernel is not finite'):
    jax.block_until_ready(step(broken, state, many))
    jax.effects_barrier()


def test_an_inner_state_may_hold_keys():
  tx = transforms.hq(
    optax.chain(
      optax.add_noise(0.1, 0.5, key=jax.random.key(0)), optax.sgd(0.1)
    ),
    transforms.Recipe(sparsity=0.5),
  )
  params = {'kernel': _draw((8, 4))}
  _, state = jax.jit(tx.update)(params, tx.init(params), params)
  assert int(optax.tree.get(state, 'ternary_count')) == 1
