"""Projection onto the sphere after each step."""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from hq_jax.core import sphere
from hq_jax.core import trees
from hq_jax.transforms import _kernels


class ProjectState(NamedTuple):
  """State of `project_to_sphere`."""

  radii: chex.ArrayTree  # [1, .., out] float32 for each kernel


def project_to_sphere(
  *,
  select: trees.Selector = trees.kernels,
  channel_axis: trees.ChannelAxis = trees.channel_axis,
  layer_axes: trees.LayerAxes = (),
) -> optax.GradientTransformationExtraArgs:
  """Keeps each channel on the sphere on which it started.

  With the radius `r_j = ||w_j||` of the parameters at `init`, the update `u`
  becomes `r_j normalize(w_j + u_j) - w_j`. Place it after the optimizer. A
  network that was imported keeps its function, because its radii are kept; a
  channel whose weights are all pruned stays zero, and finite. One that was zero
  at `init` has no sphere: its updates stay as they are.

  Weight decay before it does not regularize kernels: it shortens what is put
  back to its radius. That of `adamw` is exactly a higher learning rate, `rate /
  (1 - rate * decay)`; mask it to the other leaves. What regularizes is the
  learning rate (a step of SGD turns a channel by about `rate ||g_t|| / r_j`),
  sparsity, the loss and the data.

  Where the parameters were replaced meanwhile (their norm differs from the
  radius by more than the square root of their type's precision, 0.03% in
  float32), the radius is that of the new ones.

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
    layer_axes: along which axes layers are stacked; see `trees.find_axes`.

  Returns:
    A transformation whose `update` needs `params`; its state is one float32
    per output channel.

  Raises:
    ValueError: where `select` matches nothing, `params` is missing, or an
      update has not the shape of its parameter.
  """

  def init(axes, kernels):
    return ProjectState(
      jax.tree.map(lambda w, a: sphere.norms(w, a.kept), kernels, axes)
    )

  def update(axes, updates, state, kernels):
    radii = jax.tree.map(_follow, state.radii, kernels, axes)

    def project(u, w, a, radius):
      moved = _kernels.add(w, u)
      factor = sphere.divide(radius, sphere.norms(moved, a.kept))
      # A channel without a sphere goes where it will.
      factor = jnp.where(radius == 0, 1.0, factor)
      return _kernels.lead_to(moved * factor, w, u)

    return jax.tree.map(project, updates, kernels, axes, radii), ProjectState(
      radii
    )

  return _kernels.transform_kernels(
    'project_to_sphere',
    ProjectState,
    init,
    update,
    select,
    channel_axis,
    layer_axes,
  )


def _follow(radius: jax.Array, w: jax.Array, axes: trees.Axes) -> jax.Array:
  """The radii, and where the parameters were replaced, those of the new ones.

  A channel of zeros was pruned, and one without a radius has no sphere.
  """
  norms = sphere.norms(w, axes.kept)
  most = math.sqrt(max(jnp.finfo(w.dtype).eps, jnp.finfo(jnp.float32).eps))
  is_new = jnp.abs(norms - radius) > most * radius
  return jnp.where(is_new & (radius * norms > 0), norms, radius)
