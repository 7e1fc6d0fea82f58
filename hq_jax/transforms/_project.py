"""Projection onto the sphere after each step."""

from typing import NamedTuple

import chex
import jax
import optax

from hq_jax.core import sphere
from hq_jax.core import trees
from hq_jax.transforms import _updates


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
    ValueError: where `select` matches nothing, `params` is missing, or an
      update has not the shape of its parameter.
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

    axes = trees.find_axes(params, select, channel_axis)
    _updates.check_shapes(updates, params, axes)

    def project(axis, u, w, radius):
      moved = _updates.add(w, u)
      target = moved * sphere.divide(radius, sphere.norms(moved, axis))
      return _updates.lead_to(target, w, u)

    updates = trees.map_selected(
      project,
      axes,
      updates,
      params,
      state.radii,
    )
    return updates, state

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
