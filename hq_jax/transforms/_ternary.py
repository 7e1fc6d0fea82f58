"""Ternary weights on the sphere: the quantizer of the method."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from hq_jax.core import branches
from hq_jax.core import recipe_fields
from hq_jax.core import sparsity_distributions
from hq_jax.core import sphere
from hq_jax.core import ternary as ternary_lib
from hq_jax.core import thresholds as thresholds_lib
from hq_jax.core import trees
from hq_jax.transforms import _quantizer
from hq_jax.transforms import _reinit


class TernaryState(NamedTuple):
  """State of the ternary quantizer."""

  ternary_count: jax.Array  # shape=(), dtype=int32: updates so far
  density_scale: jax.Array  # shape=(), dtype=float32: see `ternary`
  is_stale: jax.Array  # shape=(), dtype=int32: 1 with thresholds of others
  thresholds: Any  # a `thresholds.Threshold` with a tree in each field
  scales: chex.ArrayTree  # [1, .., out] float32 for each kernel, as last used


def ternary(
  sparsity: float | optax.Schedule | Mapping[str, float | optax.Schedule],
  *,
  begin_step: int = 0,
  end_step: int | None = None,
  refresh_steps: int = recipe_fields.RecipeFields.refresh_steps,
  refresh_at: Sequence[int] = (),
  reinit_at: Sequence[int] = (),
  reinit_strength: float = 0.0,
  scope: str = 'layer',
  unit_norm: bool = True,
) -> _quantizer.Quantizer:
  """Ternary weights on the sphere, with a dead zone that follows the latents.

  Forward: `t_j = sign(w_j) [a_j > threshold]` and `q_j = ||w_j|| t_j /
  sqrt(k_j)`, from `begin_step` on; `q = w` before. The threshold of a kernel
  is exact for its sparsity when it is refreshed: at `begin_step` and every
  `refresh_steps` from there; between, it is compared with `a = abs(w) / n`, `n`
  the norms at that time, which on the sphere do not change. In an N:M scope
  each update is exact. A channel with a NaN becomes NaN. Backward: see
  `transforms.straight_through`.

  The sparsity is that of `sparsity_distributions.scale_density`, `1 - (1 -
  sparsity) density_scale` down to a third of zeros, with the scale in the
  state: 1, until somebody sets another (not in an N:M scope, which has no room
  for one). So a loop that sees how large its file becomes can let more weights
  live, or fewer, without compiling again; see
  `transforms.with_density_scale`.

  >>> import jax.numpy as jnp
  >>> quantizer = ternary(0.5)
  >>> latents = {'kernel': jnp.array([[0.6], [-0.8], [0.1], [0.2]])}
  >>> axes = {'kernel': trees.Axes((1,))}
  >>> state = quantizer.init(latents, axes)
  >>> quantized, _ = quantizer.update(latents, state, latents, axes)
  >>> (quantized['kernel'] != 0).ravel()
  Array([ True,  True, False, False], dtype=bool)

  Args:
    sparsity: the fraction of zeros in each kernel, in [0, 1), or a schedule
      from the update to it; one for all, or by path (see
      `sparsity_distributions.resolve`).
    begin_step: the first update that ternarizes.
    end_step: one more than the last update, where it is known: what training
      ends with then has exactly this sparsity.
    refresh_steps: updates between two exact thresholds, at least 1.
    refresh_at: other updates with exact ones, such as the last of a ramp.
    reinit_at: updates after which the latents are moved toward the ternary
      weights that they led to, as `reinit` does; at the beginning of the next.
    reinit_strength: how far they are moved, a fraction in [0, 1].
    scope: which weights compete; see `thresholds`.
    unit_norm: whether magnitudes are compared after dividing each channel by
      its norm.

  Returns:
    A `Quantizer`. Its state has a few numbers for each kernel, and two for
    each channel (four with scope `channel`).

  Raises:
    ValueError: where a number is out of range.
  """
  values = sparsity.values() if isinstance(sparsity, Mapping) else [sparsity]
  for value in values:
    if not callable(value) and not 0.0 <= value < 1.0:
      raise ValueError(f'sparsity is {value}, wanted a fraction in [0, 1)')
  if refresh_steps < 1 or begin_step < 0:
    raise ValueError(
      f'refresh_steps is {refresh_steps} and begin_step {begin_step}, wanted'
      ' at least 1 and 0'
    )
  grouped = thresholds_lib.parse_scope(scope) is not None

  def scale_kept(value, factor, count):
    if isinstance(value, Mapping):
      return {
        path: scale_kept(item, factor, count) for path, item in value.items()
      }
    if callable(value):
      value = value(count)
    # Where nobody set a factor, exactly the sparsity: not 1 - (1 - s).
    scaled = sparsity_distributions.scale_density(value, factor, jnp)
    return value if grouped else jnp.where(factor == 1.0, value, scaled)

  def rank(latents, axes, factor, count):
    return thresholds_lib.split(
      thresholds_lib.get_thresholds(
        latents,
        scale_kept(sparsity, factor, count),
        axes=axes,
        scope=scope,
        unit_norm=unit_norm,
      )
    )

  def init_fn(latents, axes):
    counters = jnp.zeros([], jnp.int32), jnp.ones([], jnp.float32)
    is_stale = jnp.zeros([], jnp.int32)
    if trees.is_placeholder(latents):
      return TernaryState(*counters, is_stale, np.int32(0), np.int32(0))
    shapes = jax.eval_shape(lambda w: rank(w, axes, 1.0, 0), latents)
    return TernaryState(
      *counters,
      is_stale,
      jax.tree.map(jnp.zeros_like, shapes),
      jax.tree.map(
        lambda w, a: jnp.zeros_like(sphere.norms(w, a.kept)), latents, axes
      ),
    )

  def get_codes(latents, axes, thresholds):
    return jax.tree.map(
      lambda w, a, threshold: ternary_lib.get_codes_at(
        w, threshold, axes=a, scope=scope
      ),
      latents,
      axes,
      thresholds_lib.join(thresholds),
    )

  # By multiplication: codes hold no NaN, but a scale that is one shows in the
  # whole channel.
  def get_values(begun, latents, codes, scales, params):
    return jax.tree.map(
      lambda w, t, scale, p: branches.choose(begun, t * scale, w).astype(
        p.dtype
      ),
      latents,
      codes,
      scales,
      params,
    )

  def recall_fn(latents, state, params, axes):
    codes = get_codes(latents, axes, state.thresholds)
    begun = state.ternary_count > begin_step
    return get_values(begun, latents, codes, state.scales, params)

  def reinit_fn(latents, params, state, axes):
    if not reinit_at:
      return latents
    last = state.ternary_count - 1
    due = jnp.isin(last, jnp.asarray(reinit_at, jnp.int32)) & (
      last >= begin_step
    )
    get_moves = lambda: jax.tree.map(
      lambda w, p, a: _reinit.get_move(w, p, reinit_strength, a),
      latents,
      params,
      axes,
    )
    stay = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(get_moves)
    )
    moves = branches.run_if(due, get_moves, stay)
    return jax.tree.map(
      lambda w, p, move: branches.choose(
        due, move.direct * w + move.ternary * p.astype(jnp.float32), w
      ),
      latents,
      params,
      moves,
    )

  def update_fn(latents, state, params, axes):
    count = state.ternary_count
    begun = count >= begin_step
    refresh = begun & ((count - begin_step) % refresh_steps == 0)
    refresh |= begun & (state.is_stale > 0)
    if end_step is not None:
      refresh |= count == end_step - 1
    for step in (*refresh_at, *reinit_at):
      refresh |= begun & (count == step)
    thresholds = branches.run_if(
      refresh,
      lambda: rank(latents, axes, state.density_scale, count),
      state.thresholds,
    )
    codes = get_codes(latents, axes, thresholds)
    scales = jax.tree.map(
      lambda w, t, a, p: ternary_lib.get_scale(
        t,
        sphere.norms(w, a.kept),
        num_bits=ternary_lib.get_scale_bits(p.dtype),
        axis=a.kept,
      ),
      latents,
      codes,
      axes,
      params,
    )
    quantized = get_values(begun, latents, codes, scales, params)
    is_stale = jnp.where(refresh, 0, state.is_stale)
    return quantized, TernaryState(
      count + 1, state.density_scale, is_stale, thresholds, scales
    )

  return _quantizer.Quantizer(
    init_fn,
    update_fn,
    recall=recall_fn,
    forget=lambda state, any_new: state._replace(
      is_stale=jnp.maximum(state.is_stale, any_new)
    ),
    reinit=reinit_fn,
  )
