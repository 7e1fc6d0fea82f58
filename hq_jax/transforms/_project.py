"""Projection onto the sphere after each step."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from hq_jax.core import sphere
from hq_jax.core import trees


class ProjectState(NamedTuple):
  """State of `project_to_sphere`."""

  radii: chex.ArrayTree  # [out, 1, ..] float32 for each kernel


def project_to_sphere(
  *,
  select: trees.Selector = trees.kernels,
  channel_axis: trees.ChannelAxis = trees.channel_axis,
) -> optax.GradientTransformationExtraArgs:
  """Keeps each channel on the sphere on which it started.

  With the radius `r_j = ||w_j||` of the parameters at `init`, the update `u`
  becomes `r_j normalize(w_j + u_j) - w_j`. Place it after the optimizer. A
  network that was imported keeps its function, because its radii are kept; a
  channel whose weights are all pruned stays zero, and finite.

  >>> import jax.numpy as jnp
  >>> import optax
  >>> tx = project_to_sphere()
  >>> params = {'kernel': jnp.array([[2.0], [0.0]])}
  >>> step = {'kernel': jnp.array([[-2.0], [1.0]])}
  >>> updates, _ = tx.update(step, tx.init(params), params)
  >>> optax.apply_updates(params, updates)['kernel'].ravel()
  Array([0., 2.], dtype=float32)

  Args:
    select: which leaves are kernels; see `trees.select`.
    channel_axis: where their output channels are; see `trees.find_axes`.

  Returns:
    A transformation whose `update` needs `params`; its state is one float32
    per output channel.

  Raises:
    ValueError: where `select` matches nothing, or `params` is missing.
  """

  def init_fn(params):
    axes = trees.find_axes(params, select, channel_axis)
    return ProjectState(
      jax.tree.map(sphere.norms, trees.mask(params, axes), axes)
    )

  def update_fn(updates, state, params=None, **extra_args):
    if params is None:
      raise ValueError(
        'params is None, wanted the parameters, in project_to_sphere'
      )

    def project(axis, u, w, radius):
      w32 = w.astype(jnp.float32)
      moved = w32 + u
      return (
        moved * sphere.divide(radius, sphere.norms(moved, axis)) - w32
      ).astype(u.dtype)

    updates = trees.map_selected(
      project,
      trees.find_axes(params, select, channel_axis),
      updates,
      params,
      state.radii,
    )
    return updates, state

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
