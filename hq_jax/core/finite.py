"""Finite numbers, and one of two trees."""

import chex
import jax
import jax.numpy as jnp


def is_finite(leaf: jax.Array) -> jax.Array:
  """Whether all of an array is finite, inside `jit`.

  >>> import jax.numpy as jnp
  >>> bool(is_finite(jnp.array([1.0, jnp.nan])))
  False

  Args:
    leaf: floating point, of any shape.

  Returns:
    bool, shape ().
  """
  # The largest magnitude is a NaN where any is, and read faster than bools.
  return jnp.isfinite(jnp.max(jnp.abs(leaf), initial=0.0))


def choose(
  is_new: jax.Array, new: chex.ArrayTree, old: chex.ArrayTree
) -> chex.ArrayTree:
  """One of two trees, inside `jit`.

  >>> import jax.numpy as jnp
  >>> choose(jnp.array(False), {'a': jnp.nan}, {'a': jnp.ones(2)})
  {'a': Array([1., 1.], dtype=float32)}

  Args:
    is_new: bool, shape ().
    new: taken where it is True.
    old: of the same structure, taken where it is False.

  Returns:
    A tree with the types of `new`.
  """
  # A state may change its dtypes in the first update.
  like = lambda a, b: jnp.asarray(b).astype(jnp.result_type(a))
  pick = lambda a, b: jnp.where(is_new, a, like(a, b))
  return jax.tree.map(pick, new, old)
