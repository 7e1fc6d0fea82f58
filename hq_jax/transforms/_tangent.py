"""Gradients along the sphere."""

import optax

from hq_jax.core import sphere
from hq_jax.core import trees
from hq_jax.transforms import _updates


def tangent(
  *,
  select: trees.Selector = trees.kernels,
  channel_axis: trees.ChannelAxis = trees.channel_axis,
) -> optax.GradientTransformationExtraArgs:
  """Removes the radial part of each channel's gradient.

  `g_t = g - <g, u> u`, with `u = w / ||w||` of the parameters. Place it before
  the optimizer, `optax.chain(tangent(), optax.sgd(0.1))`: the step then moves
  along the sphere, and the radius keeps out of momentum and second moments.

  >>> import jax.numpy as jnp
  >>> tx = tangent()
  >>> params = {'kernel': jnp.array([[1.0], [0.0]])}
  >>> grads = {'kernel': jnp.array([[5.0], [3.0]])}
  >>> tx.update(grads, tx.init(params), params)[0]['kernel'].ravel()
  Array([0., 3.], dtype=float32)

  Args:
    select: which leaves are kernels; see `trees.select`.
    channel_axis: where their output channels are; see `trees.find_axes`.

  Returns:
    A stateless transformation whose `update` needs `params`.

  Raises:
    ValueError: where `select` matches nothing, `params` is missing, or a
      gradient has not the shape of its parameter.
  """

  def init_fn(params):
    trees.find_axes(params, select, channel_axis)
    return optax.EmptyState()

  def update_fn(updates, state, params=None, **extra_args):
    if params is None:
      raise ValueError('params is None, wanted the parameters, in tangent')
    axes = trees.find_axes(params, select, channel_axis)
    _updates.check_shapes(updates, params, axes)
    updates = trees.map_selected(
      lambda axis, g, w: sphere.tangent(g, w, axis).astype(g.dtype),
      axes,
      updates,
      params,
    )
    return updates, state

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
