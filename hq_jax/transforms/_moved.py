"""What `prune` and `reinit` rank: the weights as an update leaves them."""

import chex
import jax
import jax.numpy as jnp

from hq_jax import ternary
from hq_jax import trees


def rank_moved(
  updates: chex.ArrayTree,
  params: chex.ArrayTree,
  selected: chex.ArrayTree,
  sparsity: jax.Array | float,
  *,
  unit_norm: bool,
) -> tuple[chex.ArrayTree, chex.ArrayTree]:
  """The kernels `w + u` in float32, and their thresholds.

  Args:
    updates: to be added to the parameters.
    params: the parameters.
    selected: which leaves are kernels.
    sparsity: the fraction of zeros in each kernel.
    unit_norm: whether `abs(u)` is ranked, or `abs(w)`.

  Returns:
    Two masked trees: kernels, and a `ternary.Threshold` for each.
  """
  moved = jax.tree.map(
    lambda u, w: w.astype(jnp.float32) + u,
    trees.mask(updates, selected),
    trees.mask(params, selected),
  )
  return moved, ternary.get_thresholds(moved, sparsity, unit_norm=unit_norm)
