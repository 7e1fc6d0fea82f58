"""Updates of a transform, and the parameters that they lead to."""

import jax
import jax.numpy as jnp
import optax


def normal(rng, shape, dtype=jnp.float32):
  """An array of a normal distribution."""
  return jnp.asarray(rng.normal(size=shape), dtype)


def make_step(tx, jit=jax.jit, donate=()):
  """The compiled `step(params, state, updates) -> (params, state)`."""

  def step(params, state, updates):
    updates, state = tx.update(updates, state, params)
    return optax.apply_updates(params, updates), state

  return jit(step, donate_argnums=donate)


def run(tx, params, updates, jit=jax.jit):
  """Parameters and states after each of these updates."""
  step, state, found = make_step(tx, jit), tx.init(params), []
  for update in updates:
    params, state = step(params, state, update)
    found.append((params, state))
  return found


def train(rng, tx, params, num_steps, jit=jax.jit):
  """The same under gradients that point anywhere."""
  draw = lambda _: jax.tree.map(lambda p: normal(rng, p.shape), params)
  return run(tx, params, map(draw, range(num_steps)), jit)
