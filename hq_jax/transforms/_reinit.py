"""Reinitialization: weights are moved toward their ternary point."""

from collections.abc import Mapping, Sequence
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hq_jax.core import sphere
from hq_jax.core import ternary
from hq_jax.core import thresholds
from hq_jax.core import trees
from hq_jax.transforms import _prune
from hq_jax.transforms import _updates


class ReinitState(NamedTuple):
  """State of `reinit`."""

  reinit_count: jax.Array  # shape=(), dtype=int32: updates so far


def reinit(
  steps: Sequence[int],
  strength: float,
  sparsity: optax.Schedule | Mapping[str, optax.Schedule],
  *,
  scope: str = 'layer',
  unit_norm: bool = True,
  select: trees.Selector = trees.kernels,
  channel_axis: trees.ChannelAxis = trees.channel_axis,
) -> optax.GradientTransformationExtraArgs:
  """Moves each kernel toward its ternary point, at the given steps.

  `u_j <- normalize((1 - strength) u_j + strength t_j / sqrt(k_j))`, with `t`
  the codes at the sparsity of that step, and the norm of the channel kept.
  With strength 1 every survivor sits at `+-r_j / sqrt(k_j)` and the cosine
  distance is 0. Place it after the optimizer and after `prune`.

  >>> import jax.numpy as jnp
  >>> import optax
  >>> tx = reinit([0], 1.0, lambda step: 0.5)
  >>> params = {'kernel': jnp.array([[1.0, 7, 5, 5, 0, 0, 0, 0]]).T}
  >>> updates, _ = tx.update({'kernel': 0 * params['kernel']},
  ...                        tx.init(params), params)
  >>> optax.apply_updates(params, updates)['kernel'].ravel()
  Array([5., 5., 5., 5., 0., 0., 0., 0.], dtype=float32)

  Args:
    steps: the updates after which weights are reinitialized.
    strength: how far they are moved, a fraction in [0, 1].
    sparsity: from the step to the fraction of zeros in each kernel, [0, 1);
      or several such schedules by path (see `sparsity_distributions.resolve`).
    scope: which weights compete; see `thresholds`.
    unit_norm: whether `abs(u)` is ranked, or `abs(w)`.
    select: which leaves are kernels; see `trees.select`.
    channel_axis: where their output channels are; see `trees.find_axes`.

  Returns:
    A transformation whose `update` needs `params`.

  Raises:
    ValueError: where the strength is out of range, `select` matches nothing,
      `params` is missing, or an update has not the shape of its parameter.
  """
  if not 0.0 <= strength <= 1.0:
    raise ValueError(f'strength is {strength}, wanted a fraction in [0, 1]')
  steps = tuple(steps)
  thresholds.parse_scope(scope)

  def init_fn(params):
    trees.find_axes(params, select, channel_axis)
    return ReinitState(jnp.zeros([], jnp.int32))

  def update_fn(updates, state, params=None, **extra_args):
    if params is None:
      raise ValueError('params is None, wanted the parameters, in reinit')
    axes = trees.find_axes(params, select, channel_axis)
    _updates.check_shapes(updates, params, axes)
    count = state.reinit_count

    due = jnp.isin(count, jnp.asarray(steps, jnp.int32))

    # Traced once: for the shapes, and in the branch.
    @functools.partial(jax.jit, inline=True)
    def find_move():
      moved = _prune.add_updates(updates, params, axes)
      found = thresholds.get_thresholds(
        moved,
        _prune.at_step(sparsity, count),
        axes=axes,
        scope=scope,
        unit_norm=unit_norm,
      )
      return found, jax.tree.map(coefficients, moved, axes, found)

    def get_codes(w, axis, threshold):
      return ternary.get_codes_at(w, threshold, axis=axis, scope=scope)

    def coefficients(w, axis, threshold):
      return _coefficients(w, get_codes(w, axis, threshold), strength, axis)

    def stay():
      found, moves = jax.eval_shape(find_move)
      zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), moves)
      return thresholds.keep_everything(found), zeros

    # A branch for the numbers of a channel, and a choice for those of a
    # kernel: a branch that gave updates would copy them at every step.
    found, moves = jax.lax.cond(due, find_move, stay)

    def move(axis, u, w, w_moved, threshold, parts):
      codes = get_codes(w_moved, axis, threshold)
      target = parts.direct * w_moved + parts.ternary * codes
      lead = _updates.lead_to(target, w, u)
      return jnp.where(due, *_updates.promote(lead, u))

    moved = _prune.add_updates(updates, params, axes)
    updates = trees.map_selected(
      move, axes, updates, params, moved, found, moves
    )
    return updates, ReinitState(count + 1)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class _Move(NamedTuple):
  """How much of a channel and of its codes a reinitialized channel is."""

  direct: jax.Array  # [out, 1, ..] float32
  ternary: jax.Array  # [out, 1, ..] float32


def _coefficients(
  w: jax.Array, codes: jax.Array, strength: float, axis: int
) -> _Move:
  """`r normalize((1 - a) u + a t / sqrt(k)) = direct w + ternary t`."""
  radius, root = sphere.norms(w, axis), sphere.norms(codes, axis)
  unit = sphere.normalize(w, axis)
  point = codes * sphere.divide(1.0, root)
  mixed = sphere.norms((1.0 - strength) * unit + strength * point, axis)
  return _Move(
    sphere.divide(1.0 - strength, mixed),
    sphere.divide(strength * radius, mixed * root),
  )
