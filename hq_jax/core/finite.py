"""Tests for finite numbers, and the choice of one of two trees."""

import chex
import jax
import jax.numpy as jnp


def is_finite(leaf: jax.Array) -> jax.Array:
  """Whether all of an array is finite, inside `jit`."""
  # The largest magnitude is a NaN where any is, and read faster than bools.
  return jnp.isfinite(jnp.max(jnp.abs(leaf), initial=0.0))


def choose(
  is_new: jax.Array, new: chex.ArrayTree, old: chex.ArrayTree
) -> chex.ArrayTree:
  """One of two trees, inside `jit`."""

  # A state may change its dtypes in the first update; keys have no other.
  def pick(a, b):
    a, b = jnp.asarray(a), jnp.asarray(b)
    return jnp.where(is_new, a, b if a.dtype == b.dtype else b.astype(a.dtype))

  return jax.tree.map(pick, new, old)
