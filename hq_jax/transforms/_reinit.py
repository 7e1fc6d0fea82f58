"""Reinitialization: weights are moved toward their ternary point."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hq_jax.core import branches
from hq_jax.core import sphere
from hq_jax.core import ternary
from hq_jax.core import thresholds
from hq_jax.core import trees
from hq_jax.transforms import _kernels
from hq_jax.transforms import _prune


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
  layer_axes: trees.LayerAxes = (),
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
    layer_axes: along which axes layers are stacked; see `trees.find_axes`.

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

  def init(axes, kernels):
    del axes, kernels
    return ReinitState(jnp.zeros([], jnp.int32))

  def update(axes, updates, state, kernels):
    count = state.reinit_count
    due = jnp.isin(count, jnp.asarray(steps, jnp.int32))
    moved = jax.tree.map(_kernels.add, kernels, updates)

    def find_move():
      found = thresholds.get_thresholds(
        moved,
        _prune.at_step(sparsity, count),
        axes=axes,
        scope=scope,
        unit_norm=unit_norm,
      )
      return found, jax.tree.map(coefficients, moved, axes, found)

    def get_codes(w, a, threshold):
      return ternary.get_codes_at(w, threshold, axes=a, scope=scope)

    def coefficients(w, a, threshold):
      return get_move(w, get_codes(w, a, threshold), strength, a)

    # Only the numbers of a channel: kernels would be copied at every step.
    found, moves = jax.eval_shape(find_move)
    stay = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), moves)
    found, moves = branches.run_if(
      due, find_move, (thresholds.keep_everything(found), stay)
    )

    def move(u, w, w_moved, a, threshold, parts):
      codes = get_codes(w_moved, a, threshold)
      target = parts.direct * w_moved + parts.ternary * codes
      difference = _kernels.lead_to(target, w, u)
      return branches.choose(due, *_kernels.promote(difference, u))

    updates = jax.tree.map(move, updates, kernels, moved, axes, found, moves)
    return updates, ReinitState(count + 1)

  return _kernels.transform_kernels(
    'reinit', ReinitState, init, update, select, channel_axis, layer_axes
  )


class Move(NamedTuple):
  """How much of a channel and of its codes a reinitialized channel is."""

  direct: jax.Array  # [1, .., out] float32
  ternary: jax.Array  # [1, .., out] float32


def get_move(
  w: jax.Array, point: jax.Array, strength: float, axes: trees.Axes
) -> Move:
  """`r normalize((1 - a) u + a t) = direct w + ternary point`.

  `u` and `t` are `w` and `point`, codes or ternary weights, divided by their
  norms.
  """
  radius, root = sphere.norms(w, axes.kept), sphere.norms(point, axes.kept)
  unit = sphere.normalize(w, axes.kept)
  target = point * sphere.divide(1.0, root)
  mixed = (1.0 - strength) * unit + strength * target
  norm = sphere.norms(mixed, axes.kept)
  return Move(
    sphere.divide(1.0 - strength, norm),
    sphere.divide(strength * radius, norm * root),
  )
