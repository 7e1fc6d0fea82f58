"""Gradients that are not finite: found, reported, and kept out."""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from hq_jax.core import finite as finite_lib
from hq_jax.core import trees

POLICIES = ('skip', 'raise')


def check_policy(non_finite: str) -> None:
  """Refuses a policy that does not exist."""
  if non_finite not in POLICIES:
    raise ValueError(
      f'non_finite is {non_finite!r}, wanted one of: {", ".join(POLICIES)}'
    )


def check(updates: chex.ArrayTree, non_finite: str) -> jax.Array:
  """Whether all of a tree is finite; with 'raise', the host names what is not.

  Leaves that are not floating point count as finite.
  """
  finite = {
    path: finite_lib.is_finite(leaf)
    for path, leaf in trees.flatten(updates).items()
    if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
  }
  if not finite:
    return jnp.ones([], bool)
  flags = jnp.stack(list(finite.values()))
  all_finite = jnp.all(flags)
  if non_finite == 'raise':
    report = functools.partial(_report, tuple(finite))
    jax.lax.cond(
      all_finite,
      lambda flags: None,
      lambda flags: jax.debug.callback(report, flags),
      flags,
    )
  return all_finite


def _report(paths: Sequence[str], flags: np.ndarray) -> None:
  # Looked at here too: the condition around the call is none under `vmap`.
  broken = [path for path, flag in zip(paths, flags, strict=True) if not flag]
  if broken:
    raise FloatingPointError(
      f'the gradient of {", ".join(broken[:4])} is not finite ({len(broken)} of'
      f' {len(paths)} leaves), wanted finite ones'
    )


def apply_if(
  finite: jax.Array, update: Callable[[], tuple[Any, Any]], skipped: Any
) -> tuple[chex.ArrayTree, Any]:
  """Updates and state where all was finite; elsewhere zeros and `skipped`."""
  # Traced once: for the shapes, and in the branch.
  update = jax.jit(update, inline=True)
  updates, state = jax.eval_shape(update)

  def skip():
    return (
      jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), updates),
      # A state may change its dtypes in the first update; keys have no other.
      jax.tree.map(
        lambda old, new: (
          old if old.dtype == new.dtype else old.astype(new.dtype)
        ),
        skipped,
        state,
      ),
    )

  return jax.lax.cond(finite, update, skip)
