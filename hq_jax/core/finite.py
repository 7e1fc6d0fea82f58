"""Tests for finite numbers."""

import jax
from jax import lax
import jax.numpy as jnp


def is_finite(leaf: jax.Array) -> jax.Array:
  """Whether all of an array is finite, inside `jit`."""
  return lax.is_finite(get_largest(leaf))


def get_largest(leaf: jax.Array) -> jax.Array:
  """The largest magnitude: a NaN where any is, and read faster than bools."""
  leaf = jnp.asarray(leaf)
  if not leaf.size:
    return jnp.zeros([], jnp.finfo(leaf.dtype).dtype)
  return lax.reduce_max(lax.abs(leaf), range(leaf.ndim))
