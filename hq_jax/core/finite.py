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
  def like(a, b):
    a, b = jnp.asarray(a), jnp.asarray(b)
    return b if a.dtype == b.dtype else b.astype(a.dtype)

  old = jax.tree.map(like, new, old)
  # A branch: a choice would be one more program for each leaf.
  return jax.lax.cond(is_new, lambda: new, lambda: old)
