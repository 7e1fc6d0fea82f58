"""Gradual magnitude pruning with masked updates."""

from collections.abc import Mapping
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from hq_jax.core import recipe_fields
from hq_jax.core import thresholds
from hq_jax.core import trees
from hq_jax.transforms import _updates


class PruneState(NamedTuple):
  """State of `prune`."""

  prune_count: jax.Array  # shape=(), dtype=int32: updates so far


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
) -> optax.GradientTransformationExtraArgs:
  """Sets the smallest weights of each kernel to zero and keeps them there.

  At `begin_step`, every `refresh_steps` from there and at `end_step - 1`, the
  `sparsity(step)` smallest of `abs(u)` become zero, exactly that many (ties
  fall by index). In between, the update of a weight that is zero is zero. After
  `end_step` updates pass through, so that the weights may grow again. Place
  it after the optimizer. Updates have the wider type of update and parameter,
  in which the zeros are exact.

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

  Returns:
    A transformation whose `update` needs `params`. It stores no mask: pruned
    is what is exactly zero.

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

  def init_fn(params):
    trees.find_axes(params, select, channel_axis)
    return PruneState(jnp.zeros([], jnp.int32))

  def update_fn(updates, state, params=None, **extra_args):
    if params is None:
      raise ValueError('params is None, wanted the parameters, in prune')
    axes = trees.find_axes(params, select, channel_axis)
    _updates.check_shapes(updates, params, axes)
    count = state.prune_count
    active = count >= begin_step
    last = jnp.zeros([], bool)
    if end_step is not None:
      active &= count < end_step
      last = count == end_step - 1
    refresh = active & (((count - begin_step) % refresh_steps == 0) | last)

    # At begin_step itself nothing is pruned yet: a zero there is a weight.
    held = active & (count > begin_step)
    updates = trees.map_selected(
      lambda axis, u, w: jnp.where(held & (w == 0), 0, u), axes, updates, params
    )
    # Traced once: for the shapes, and in the branch.
    rank = jax.jit(
      lambda: thresholds.get_thresholds(
        add_updates(updates, params, axes),
        at_step(sparsity, count),
        axes=axes,
        scope=scope,
        unit_norm=unit_norm,
      ),
      inline=True,
    )
    # A branch for the few numbers, and a choice for the many: a branch that
    # gave updates would copy them at every step.
    found = jax.lax.cond(
      refresh, rank, lambda: thresholds.keep_everything(jax.eval_shape(rank))
    )

    def remove(axis, u, w, moved, threshold):
      keep = thresholds.get_keep_mask(moved, threshold, axis=axis, scope=scope)
      return jnp.where(keep, *_updates.promote(u, -w))

    updates = trees.map_selected(
      remove, axes, updates, params, add_updates(updates, params, axes), found
    )
    return updates, PruneState(count + 1)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def at_step(
  sparsity: optax.Schedule | Mapping[str, optax.Schedule], count: jax.Array
) -> jax.Array | dict[str, jax.Array]:
  """The sparsity of a step: one for all kernels, or one by path."""
  if isinstance(sparsity, Mapping):
    return {path: schedule(count) for path, schedule in sparsity.items()}
  return sparsity(count)


def add_updates(
  updates: chex.ArrayTree, params: chex.ArrayTree, axes: chex.ArrayTree
) -> chex.ArrayTree:
  """The selected kernels `w + u`, as a masked tree."""
  return jax.tree.map(
    _updates.add, trees.mask(params, axes), trees.mask(updates, axes)
  )
