"""Gradients along the sphere."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from hq_jax.core import sphere
from hq_jax.core import trees
from hq_jax.transforms import _kernels


class TangentState(NamedTuple):
  """State of `tangent`."""

  on_sphere: chex.ArrayTree  # [1, .., out] float32: 0 where a channel was zero


def tangent(
  *,
  select: trees.Selector = trees.kernels,
  channel_axis: trees.ChannelAxis = trees.channel_axis,
  layer_axes: trees.LayerAxes = (),
) -> optax.GradientTransformationExtraArgs:
  """Removes the radial part of each channel's gradient.

  `g_t = g - <g, u> u`, with `u = w / ||w||` of the parameters. Place it before
  the optimizer, `optax.chain(tangent(), optax.sgd(0.1))`: the step then moves
  along the sphere, and the radius keeps out of momentum and second moments. A
  channel whose weights were all zero at `init` is on no sphere: its gradient
  stays whole, so that it can grow.

  >>> import jax.numpy as jnp
  >>> tx = tangent()
  >>> params = {'kernel': jnp.array([[1.0], [0.0]])}
  >>> grads = {'kernel': jnp.array([[5.0], [3.0]])}
  >>> tx.update(grads, tx.init(params), params)[0]['kernel'].ravel()
  Array([0., 3.], dtype=float32)

  Args:
    select: which leaves are kernels; see `trees.select`.
    channel_axis: where their output channels are; see `trees.find_axes`.
    layer_axes: along which axes layers are stacked; see `trees.find_axes`.

  Returns:
    A transformation whose `update` needs `params`; its state is one float32
    per output channel.

  Raises:
    ValueError: where `select` matches nothing, `params` is missing, or a
      gradient has not the shape of its parameter.
  """

  def init(axes, kernels):
    return TangentState(
      jax.tree.map(
        lambda w, a: (sphere.norms(w, a.kept) != 0).astype(jnp.float32),
        kernels,
        axes,
      )
    )

  def update(axes, updates, state, kernels):
    updates = jax.tree.map(
      lambda g, w, a, on_sphere: sphere.tangent(
        g, w, a.kept, strength=on_sphere
      ).astype(g.dtype),
      updates,
      kernels,
      axes,
      state.on_sphere,
    )
    return updates, state

  return _kernels.transform_kernels(
    'tangent', TangentState, init, update, select, channel_axis, layer_axes
  )
