"""A branch that is skipped under `vmap`, too."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp


def run_if(
  due: jax.Array, compute: Callable[[], chex.ArrayTree], otherwise: Any
) -> chex.ArrayTree:
  """What `compute` gives where it is due, and something else elsewhere.

  A loop of one round or none. `jax.lax.cond` becomes a choice under `vmap`: it
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
  _, result = jax.lax.while_loop(
    lambda carry: carry[0],
    lambda carry: (vary_like(jnp.zeros([], bool), due), compute()),
    (due, jax.tree.map(vary_like, otherwise, like)),
  )
  return result


def vary_like(x: jax.Array, like: Any) -> jax.Array:
  """Lets a value vary over the axes over which another does, in `shard_map`."""
  axes = lambda value: getattr(jax.typeof(value), 'vma', frozenset())
  missing = tuple(axes(like) - axes(x))
  return jax.lax.pcast(x, missing, to='varying') if missing else x
