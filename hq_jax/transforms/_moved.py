"""What `prune` and `reinit` rank: the weights as an update leaves them."""

from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp
import optax

from hq_jax.core import trees


def at_step(
  sparsity: optax.Schedule | Mapping[str, optax.Schedule], count: jax.Array
) -> jax.Array | dict[str, jax.Array]:
  """The sparsity of a step: one for all kernels, or one by path.

  Args:
    sparsity: a schedule, or several by path.
    count: the step.

  Returns:
    What `thresholds.get_thresholds` takes.
  """
  if isinstance(sparsity, Mapping):
    return {path: schedule(count) for path, schedule in sparsity.items()}
  return sparsity(count)


def add(
  updates: chex.ArrayTree, params: chex.ArrayTree, axes: chex.ArrayTree
) -> chex.ArrayTree:
  """The kernels `w + u` in float32.

  Args:
    updates: to be added to the parameters.
    params: the parameters.
    axes: the channel axes, of `trees.find_axes`.

  Returns:
    A masked tree.
  """
  return jax.tree.map(
    lambda u, w: w.astype(jnp.float32) + u,
    trees.mask(updates, axes),
    trees.mask(params, axes),
  )
