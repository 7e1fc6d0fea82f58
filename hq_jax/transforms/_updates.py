"""Updates of kernels: their shapes, and types in which zeros are exact."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from hq_jax.core import trees


def check_shapes(
  updates: chex.ArrayTree, params: chex.ArrayTree, axes: chex.ArrayTree
) -> None:
  """Refuses updates of kernels that have not the shape of their parameter."""
  wanted = trees.flatten(trees.mask(params, axes))
  for path, update in trees.flatten(trees.mask(updates, axes)).items():
    if np.shape(update) != np.shape(wanted[path]):
      raise ValueError(
        f'updates: {path} has shape {np.shape(update)}, wanted'
        f' {np.shape(wanted[path])}, that of the parameter: gradients of single'
        ' examples are added up before'
      )


def promote(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Both in the wider of their types.

  An update that leads to zero is none any more where it was rounded to the type
  of a gradient.
  """
  wide = jnp.promote_types(a.dtype, b.dtype)
  return a.astype(wide), b.astype(wide)


def add(w: jax.Array, u: jax.Array) -> jax.Array:
  """`w + u`, in float32 or the wider of their types."""
  wide = jnp.promote_types(jnp.promote_types(w.dtype, u.dtype), jnp.float32)
  return w.astype(wide) + u.astype(wide)


def lead_to(target: jax.Array, w: jax.Array, u: jax.Array) -> jax.Array:
  """The update from `w` to a target, in place of `u`."""
  difference = target - w.astype(target.dtype)
  return difference.astype(jnp.promote_types(w.dtype, u.dtype))
