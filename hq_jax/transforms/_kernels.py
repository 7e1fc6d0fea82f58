"""The common ground of transformations that change kernels."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from hq_jax.core import trees


def transform_kernels(
  name: str,
  state_type: Any,
  init: Callable[[chex.ArrayTree, chex.ArrayTree], Any],
  update: Callable[..., tuple[chex.ArrayTree, Any]],
  select: trees.Selector,
  channel_axis: trees.ChannelAxis,
  layer_axes: trees.LayerAxes,
) -> optax.GradientTransformationExtraArgs:
  """A transformation from what it does to the kernels.

  Args:
    name: for errors.
    state_type: the type of its state, which holds no copy of the parameters.
    init: from axes and kernels to the state.
    update: from axes, updates, state and kernels to updates and state; the
      trees are masked.
    select: which leaves are kernels; see `trees.select`.
    channel_axis: see `trees.find_axes`.
    layer_axes: see `trees.find_axes`.

  Returns:
    It is compiled for each structure of trees, once, also where `update` is
    called outside `jit`.
  """
  init = trees.jit_with_axes(init)
  update = trees.jit_with_axes(update)

  def init_fn(params):
    axes = trees.find_axes(params, select, channel_axis, layer_axes)
    if trees.is_placeholder(params):
      return state_type(*[np.int32(0) for _ in state_type._fields])
    return init(axes, trees.mask(params, axes))

  def update_fn(updates, state, params=None, **extra_args):
    if params is None:
      raise ValueError(f'params is None, wanted the parameters, in {name}')
    axes = trees.find_axes(params, select, channel_axis, layer_axes)
    kernels = trees.mask(params, axes)
    masked = trees.mask(updates, axes)
    check_shapes(masked, kernels, name)
    moved, state = update(axes, masked, state, kernels)
    return trees.merge(moved, updates), state

  return optax.GradientTransformationExtraArgs(init_from(init_fn), update_fn)


def init_from(init_fn: Callable[[chex.ArrayTree], Any]) -> Callable[..., Any]:
  """Lets an `init` take shapes and types, and give those of its state."""

  def init(params):
    is_shape = lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)
    if any(is_shape(leaf) for leaf in jax.tree.leaves(params)):
      return jax.eval_shape(init_fn, params)
    return init_fn(params)

  return init


def check_shapes(
  updates: chex.ArrayTree, params: chex.ArrayTree, name: str
) -> None:
  """Refuses updates that have not the shape of their parameter."""
  shapes = {p: np.shape(leaf) for p, leaf in trees.flatten(params).items()}
  for path, update in trees.flatten(updates).items():
    if np.shape(update) != shapes[path]:
      raise ValueError(
        f'updates: {path} has shape {np.shape(update)} in {name}, wanted'
        f' {shapes[path]}, that of the parameter; gradients of single examples'
        ' are to be added up before'
      )


def promote(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Both in the wider of their types.

  An update that leads to zero is none any more where it was rounded to the type
  of a gradient.
  """
  wide = jnp.promote_types(a.dtype, b.dtype)
  return a.astype(wide), b.astype(wide)


def add(w: jax.Array, u: jax.Array) -> jax.Array:
  """`w + u`, in float32 or the wider of their types."""
  wide = jnp.promote_types(jnp.promote_types(w.dtype, u.dtype), jnp.float32)
  return w.astype(wide) + u.astype(wide)


def lead_to(target: jax.Array, w: jax.Array, u: jax.Array) -> jax.Array:
  """The update from `w` to a target, in place of `u`."""
  difference = target - w.astype(target.dtype)
  return difference.astype(jnp.promote_types(w.dtype, u.dtype))
