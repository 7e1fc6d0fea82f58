"""Quantizers: from latent weights to the weights that the model sees."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from hq_jax import ternary as ternary_lib


class Quantizer(NamedTuple):
  """A pair of pure functions, in the manner of `optax.GradientTransformation`.

  Attributes:
    init: from the latents (a tree in which what is not selected is an
      `optax.MaskedNode`) to the quantizer's state.
    update: from latents and state to the quantized tree, float32, and the
      next state. Called once a step, after the latents moved.
  """

  init: Callable[[chex.ArrayTree], Any]
  update: Callable[[chex.ArrayTree, Any], tuple[chex.ArrayTree, Any]]


class TernaryState(NamedTuple):
  """State of the ternary quantizer."""

  ternary_count: jax.Array  # shape=(), dtype=int32: updates so far
  thresholds: chex.ArrayTree  # one `ternary.Threshold` for each kernel


def ternary(
  sparsity: float,
  *,
  begin_step: int = 0,
  end_step: int | None = None,
  refresh_steps: int = 50,
  unit_norm: bool = True,
) -> Quantizer:
  """Ternary weights on the sphere, with a dead zone that follows the latents.

  Forward: `t_j = sign(w_j) [abs(u_j) > threshold]` and `q_j = ||w_j|| t_j /
  sqrt(k_j)`, from `begin_step` on; `q = w` before. The threshold of a kernel
  is exact for its sparsity when it is refreshed: at `begin_step` and every
  `refresh_steps` from there. A channel with a NaN becomes NaN. Backward: see
  `transforms.straight_through`.

  >>> import jax.numpy as jnp
  >>> quantizer = ternary(0.5)
  >>> latents = {'kernel': jnp.array([[0.6], [-0.8], [0.1], [0.2]])}
  >>> quantized, _ = quantizer.update(latents, quantizer.init(latents))
  >>> (quantized['kernel'] != 0).ravel()
  Array([ True,  True, False, False], dtype=bool)

  Args:
    sparsity: the fraction of zeros in each kernel, in [0, 1).
    begin_step: the first update that ternarizes.
    end_step: one more than the last update, where it is known: what training
      ends with then has exactly this sparsity.
    refresh_steps: updates between two exact thresholds, at least 1.
    unit_norm: whether magnitudes are compared after dividing each channel by
      its norm.

  Returns:
    A `Quantizer`.

  Raises:
    ValueError: where a number is out of range.
  """
  if not 0.0 <= sparsity < 1.0:
    raise ValueError(f'sparsity is {sparsity}, wanted a fraction in [0, 1)')
  if refresh_steps < 1 or begin_step < 0:
    raise ValueError(
      f'refresh_steps is {refresh_steps} and begin_step {begin_step}, wanted'
      ' at least 1 and 0'
    )

  def quantize(w: jax.Array, threshold: ternary_lib.Threshold) -> jax.Array:
    quantized = ternary_lib.ternarize(w, threshold, unit_norm=unit_norm)
    # Codes hold no NaN: without this a channel that broke would go quiet.
    return jnp.where(
      jnp.isfinite(quantized.scale), ternary_lib.dequantize(quantized), jnp.nan
    )

  def init_fn(latents):
    thresholds = jax.tree.map(
      lambda w: ternary_lib.Threshold(
        jnp.zeros([], jnp.float32), jnp.zeros([], jnp.int32)
      ),
      latents,
    )
    return TernaryState(jnp.zeros([], jnp.int32), thresholds)

  def update_fn(latents, state):
    count = state.ternary_count
    begun = count >= begin_step
    refresh = begun & ((count - begin_step) % refresh_steps == 0)
    if end_step is not None:
      refresh |= count == end_step - 1
    thresholds = jax.lax.cond(
      refresh,
      lambda: ternary_lib.get_thresholds(
        latents, sparsity, unit_norm=unit_norm
      ),
      lambda: state.thresholds,
    )
    quantized = jax.lax.cond(
      begun,
      lambda: jax.tree.map(quantize, latents, thresholds),
      lambda: latents,
    )
    return quantized, TernaryState(count + 1, thresholds)

  return Quantizer(init_fn, update_fn)


def identity() -> Quantizer:
  """The quantizer that changes nothing: `q = w`.

  >>> identity().update({'kernel': 1.0}, ())
  ({'kernel': 1.0}, ())

  Returns:
    A `Quantizer` without state.
  """
  return Quantizer(lambda latents: (), lambda latents, state: (latents, state))
