"""Reinitialization: weights are moved toward their ternary point."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hq_jax import sphere
from hq_jax import ternary
from hq_jax import trees
from hq_jax.transforms import _moved


class ReinitState(NamedTuple):
  """State of `reinit`."""

  reinit_count: jax.Array  # shape=(), dtype=int32: updates so far


def reinit(
  steps: Sequence[int],
  strength: float,
  sparsity: optax.Schedule,
  *,
  unit_norm: bool = True,
  select: trees.Selector = trees.kernels,
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
    sparsity: from the step to the fraction of zeros in each kernel, [0, 1).
    unit_norm: whether `abs(u)` is ranked, or `abs(w)`.
    select: which leaves are kernels; see `trees.select`.

  Returns:
    A transformation whose `update` needs `params`.

  Raises:
    ValueError: where the strength is out of range, `select` matches nothing,
      or `params` is missing.
  """
  if not 0.0 <= strength <= 1.0:
    raise ValueError(f'strength is {strength}, wanted a fraction in [0, 1]')
  steps = tuple(steps)

  def init_fn(params):
    trees.select(params, select)
    return ReinitState(jnp.zeros([], jnp.int32))

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    if params is None:
      raise ValueError('params is None, wanted the parameters, in reinit')
    selected = trees.select(params, select)
    count = state.reinit_count

    def rank_and_move(updates):
      moved, thresholds = _moved.rank_moved(
        updates, params, selected, sparsity(count), unit_norm=unit_norm
      )

      def move(u, w, w_moved, threshold):
        magnitudes = ternary.rank_magnitudes(w_moved, unit_norm=unit_norm)
        keep = ternary.keep_mask(magnitudes, threshold)
        point = sphere.normalize(ternary.get_codes(w_moved, keep))
        direction = sphere.normalize(
          (1.0 - strength) * sphere.normalize(w_moved) + strength * point
        )
        return (sphere.norms(w_moved) * direction - w).astype(u.dtype)

      return trees.map_selected(
        move, selected, updates, params, moved, thresholds
      )

    updates = jax.lax.cond(
      jnp.isin(count, jnp.asarray(steps, jnp.int32)),
      rank_and_move,
      lambda updates: updates,
      updates,
    )
    return updates, ReinitState(count + 1)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
