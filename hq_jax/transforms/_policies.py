"""What happens to numbers that are not finite, and to replaced parameters."""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import chex
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from hq_jax.core import branches
from hq_jax.core import finite as finite_lib
from hq_jax.core import trees

NON_FINITE = ('skip', 'raise')
REPLACED = ('follow', 'raise', 'ignore')


def check(field: str, policy: str, policies: Sequence[str]) -> None:
  """Refuses a policy that does not exist."""
  if policy not in policies:
    raise ValueError(
      f'{field} is {policy!r}, wanted one of: {", ".join(policies)}'
    )


def check_finite(
  tree: chex.ArrayTree, policy: str, others: jax.Array
) -> jax.Array:
  """Whether a tree is finite; with 'raise', the host names what is not.

  Leaves that are not floating point count as finite. `others` holds, too.
  """
  largest = {
    path: finite_lib.get_largest(leaf)
    for path, leaf in trees.flatten(tree).items()
    if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
  }
  if not largest:
    return others
  if policy == 'raise':
    _report_if(
      {path: ~lax.is_finite(x) for path, x in largest.items()}, _raise_finite
    )
  wide = functools.reduce(
    jnp.promote_types, (x.dtype for x in largest.values())
  )
  most = functools.reduce(lax.max, (x.astype(wide) for x in largest.values()))
  return _settle(lax.is_finite(most) & others)


def report_replaced(are_new: chex.ArrayTree, policy: str) -> jax.Array:
  """Whether any leaf was replaced; with 'raise', the host names those."""
  flags = trees.flatten(are_new)
  if policy == 'raise':
    _report_if(flags, _raise_replaced)
  return _settle(jnp.any(jnp.stack(list(flags.values()))))


def _settle(flag: jax.Array) -> jax.Array:
  """The same; XLA would compute it anew in each of all that depends on it.

  With hundreds of leaves that takes a minute to compile.
  """
  yes = branches.place_like(jnp.ones([], bool), flag)
  # Not from `flag` to `flag`: a loop that changes nothing is taken out.
  return branches.run_if(flag, lambda: yes, ~yes)


def _report_if(
  flags: dict[str, jax.Array], report: Callable[[Sequence[str], int], Any]
) -> None:
  """Calls the host with the paths of those that are set, if there are any."""
  paths = tuple(flags)

  def look(values: np.ndarray) -> None:
    found = [path for path, is_set in zip(paths, values, strict=True) if is_set]
    # Looked at here too: the condition around the call is none under `vmap`.
    if found:
      report(found, len(paths))

  all_flags = jnp.stack(list(flags.values()))
  lax.cond(
    jnp.any(all_flags),
    lambda flags: jax.debug.callback(look, flags),
    lambda flags: None,
    all_flags,
  )


def _raise_finite(paths: Sequence[str], num_leaves: int) -> None:
  raise FloatingPointError(
    f'the gradient of {", ".join(paths[:4])} is not finite ({len(paths)} of'
    f' {num_leaves} leaves), wanted finite ones'
  )


def _raise_replaced(paths: Sequence[str], num_leaves: int) -> None:
  raise ValueError(
    f'params: {", ".join(paths[:4])} ({len(paths)} of {num_leaves} kernels) are'
    " not what the last update led to, wanted those, or replaced='follow'"
  )
