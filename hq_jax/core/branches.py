"""A choice of two trees, and a branch that is skipped under `vmap`, too."""

from collections.abc import Callable
from typing import Any

import chex
import jax
from jax import lax
import jax.numpy as jnp


def choose(
  is_new: jax.Array, new: chex.ArrayTree, old: chex.ArrayTree
) -> chex.ArrayTree:
  """One of two trees, by a scalar, inside `jit`; both are computed."""

  # A state may change its dtypes in the first update; keys have no other.
  def pick(a, b):
    if a is b:
      return a
    a, b = jnp.asarray(a), jnp.asarray(b)
    b = b if a.dtype == b.dtype else b.astype(a.dtype)
    return lax.select_n(is_new, b, a)

  return jax.tree.map(pick, new, old)


def run_if(
  due: jax.Array, compute: Callable[[], chex.ArrayTree], otherwise: Any
) -> chex.ArrayTree:
  """What `compute` gives where it is due, and something else elsewhere.

  A loop of one round or none. `lax.cond` becomes a choice under `vmap`: it
  would compute at every step what is due every twentieth.

  >>> run_if(jnp.bool_(False), lambda: jnp.ones(2), jnp.zeros(2))
  Array([0., 0.], dtype=float32)

  Args:
    due: bool, a scalar; under `vmap`, all compute where any is due.
    compute: a function of no arguments. No gradient flows through it.
    otherwise: a tree like its result.

  Returns:
    One of the two.
  """
  like = jax.eval_shape(compute)
  _, result = lax.while_loop(
    lambda carry: carry[0],
    lambda carry: (place_like(jnp.zeros([], bool), due), compute()),
    (due, jax.tree.map(place_like, otherwise, like)),
  )
  return result


def place_like(x: jax.Array, like: Any) -> jax.Array:
  """A value that is sharded as another is, and varies as it in `shard_map`."""
  x = vary(x, varying(like))
  sharding = getattr(jax.typeof(like), 'sharding', None)
  # On other axes the compiler places it; types only name the mesh there, or
  # not, as those of `jax.eval_shape`.
  explicit = jax.sharding.AxisType.Explicit
  if (
    sharding is not None
    and explicit in (sharding.mesh.axis_types or ())
    and sharding != getattr(jax.typeof(x), 'sharding', None)
  ):
    x = jax.sharding.reshard(x, sharding)
  return x


def vary(x: jax.Array, axes: frozenset[str]) -> jax.Array:
  """A value that varies over axes of a mesh, within `jax.shard_map`."""
  missing = tuple(axes - varying(x))
  return lax.pcast(x, missing, to='varying') if missing else x


def varying(x: Any) -> frozenset[str]:
  """The axes of a mesh over which a value varies within `jax.shard_map`."""
  # Releases differ in where they say it.
  kind: Any = jax.typeof(x)
  kind = getattr(kind, 'manual_axis_type', kind)
  return frozenset(getattr(kind, 'varying', getattr(kind, 'vma', ())))


def vary_as_any(tree: chex.ArrayTree, like: chex.ArrayTree) -> chex.ArrayTree:
  """Lets all leaves vary over each axis over which any of others does."""
  axes = frozenset().union(*map(varying, jax.tree.leaves(like)))
  return jax.tree.map(lambda x: vary(x, axes), tree)
