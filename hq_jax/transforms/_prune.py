"""Gradual magnitude pruning with masked updates."""

from collections.abc import Mapping
import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from hq_jax.core import branches
from hq_jax.core import recipe_fields
from hq_jax.core import thresholds
from hq_jax.core import trees
from hq_jax.transforms import _kernels


class PruneState(NamedTuple):
  """State of `prune`."""

  prune_count: jax.Array  # shape=(), dtype=int32: updates so far
  holds_zeros: chex.ArrayTree  # int32, shaped as a threshold: 1 if it does


def prune(
  sparsity: optax.Schedule | Mapping[str, optax.Schedule],
  *,
  begin_step: int = 0,
  end_step: int | None = None,
  refresh_steps: int = recipe_fields.RecipeFields.refresh_steps,
  scope: str = 'layer',
  unit_norm: bool = True,
  select: trees.Selector = trees.kernels,
  channel_axis: trees.ChannelAxis = trees.channel_axis,
  layer_axes: trees.LayerAxes = (),
) -> optax.GradientTransformationExtraArgs:
  """Sets the smallest weights of each kernel to zero and keeps them there.

  At `begin_step`, every `refresh_steps` from there and at `end_step - 1`, the
  `sparsity(step)` smallest of `abs(u)` become zero, exactly that many (ties
  fall by index). In between, the update of a weight that is zero is zero; but
  not where the last ranking found too few weights that are not zero to prune
  any: a kernel that starts at zero is not held there. After `end_step` updates
  pass through, so that the weights may grow again. Place it after the
  optimizer. Updates have the wider type of update and parameter, in which the
  zeros are exact.

  >>> import jax.numpy as jnp
  >>> import optax
  >>> tx = prune(lambda step: 0.5)
  >>> params = {'kernel': jnp.array([[0.9], [0.1], [-0.5], [0.2]])}
  >>> updates, _ = tx.update({'kernel': 0 * params['kernel']},
  ...                        tx.init(params), params)
  >>> optax.apply_updates(params, updates)['kernel'].ravel()
  Array([ 0.9,  0. , -0.5,  0. ], dtype=float32)

  Args:
    sparsity: from the step to the fraction of zeros in each kernel, [0, 1);
      or several such schedules by path (see `sparsity_distributions.resolve`).
    begin_step: the first update that prunes.
    end_step: the first update that no longer does; None for never.
    refresh_steps: updates between two rankings, at least 1.
    scope: which weights compete; see `thresholds`.
    unit_norm: whether `abs(u)` is ranked, each channel divided by its norm, or
      `abs(w)`.
    select: which leaves are kernels; see `trees.select`.
    channel_axis: where their output channels are; see `trees.find_axes`.
    layer_axes: along which axes layers are stacked; see `trees.find_axes`.

  Returns:
    A transformation whose `update` needs `params`. It stores no mask: pruned
    is what is exactly zero, in a kernel of which one bool says that it prunes.

  Raises:
    ValueError: where a number is out of range, `select` matches nothing,
      `params` is missing, or an update has not the shape of its parameter.
  """
  if refresh_steps < 1 or begin_step < 0:
    raise ValueError(
      f'refresh_steps is {refresh_steps} and begin_step {begin_step}, wanted'
      ' at least 1 and 0'
    )
  if end_step is not None and end_step <= begin_step:
    raise ValueError(
      f'end_step is {end_step}, wanted more than begin_step = {begin_step}'
    )
  thresholds.parse_scope(scope)

  def get_thresholds(axes, kernels, count):
    return thresholds.get_thresholds(
      kernels,
      at_step(sparsity, count),
      axes=axes,
      scope=scope,
      unit_norm=unit_norm,
    )

  def init(axes, kernels):
    holds_zeros = jax.eval_shape(
      lambda: _prunes(get_thresholds(axes, kernels, 0), kernels, axes)
    )
    return PruneState(
      jnp.zeros([], jnp.int32),
      jax.tree.map(jnp.zeros_like, holds_zeros),
    )

  def update(axes, updates, state, kernels):
    count = state.prune_count
    active = count >= begin_step
    last = jnp.zeros([], bool)
    if end_step is not None:
      active &= count < end_step
      last = count == end_step - 1
    refresh = active & (((count - begin_step) % refresh_steps == 0) | last)

    updates = jax.tree.map(
      lambda u, w, held: jnp.where(active & (held > 0) & (w == 0), 0, u),
      updates,
      kernels,
      state.holds_zeros,
    )
    moved = jax.tree.map(_kernels.add, kernels, updates)
    rank = lambda: get_thresholds(axes, moved, count)
    found = branches.run_if(
      refresh, rank, thresholds.keep_everything(jax.eval_shape(rank))
    )

    def remove(u, w, w_moved, a, threshold):
      keep = thresholds.get_keep_mask(w_moved, threshold, axes=a, scope=scope)
      return jnp.where(keep, *_kernels.promote(u, -w))

    updates = jax.tree.map(remove, updates, kernels, moved, axes, found)
    holds_zeros = jax.tree.map(
      functools.partial(jnp.where, refresh),
      _prunes(found, moved, axes),
      state.holds_zeros,
    )
    return updates, PruneState(count + 1, holds_zeros)

  return _kernels.transform_kernels(
    'prune', PruneState, init, update, select, channel_axis, layer_axes
  )


def _prunes(
  found: chex.ArrayTree, kernels: chex.ArrayTree, axes: chex.ArrayTree
) -> chex.ArrayTree:
  """Whether zeros are weights that were pruned, for each kernel or layer.

  They are none where so many weights are zero that there was nothing to rank:
  such a kernel was never trained.
  """

  def prunes(w, a, record):
    if isinstance(record, thresholds.Threshold):
      return (record.magnitude > 0).astype(jnp.int32)
    others = tuple(axis for axis in range(w.ndim) if axis not in a.layer)
    is_trained = jnp.any(w != 0, axis=others, keepdims=bool(a.layer))
    return is_trained.astype(jnp.int32)

  return jax.tree.map(prunes, kernels, axes, found)


def at_step(
  sparsity: optax.Schedule | Mapping[str, optax.Schedule], count: jax.Array
) -> jax.Array | dict[str, jax.Array]:
  """The sparsity of a step: one for all kernels, or one by path."""
  if isinstance(sparsity, Mapping):
    return {path: schedule(count) for path, schedule in sparsity.items()}
  return sparsity(count)
