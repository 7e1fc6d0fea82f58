"""Ternary weights with two scales that are learnt: TTQ."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from hq_jax.core import qtensors
from hq_jax.core import ternary
from hq_jax.transforms import _quantizer


class TtqState(NamedTuple):
  """State of `ttq`."""

  level_sizes: chex.ArrayTree  # [2] float32 for each kernel: below, above zero
  level_opt_state: Any  # of the optimizer of the levels


def ttq(
  threshold_factor: float = 0.05,
  optimizer: optax.GradientTransformation | None = None,
) -> _quantizer.Quantizer:
  """Trained Ternary Quantization: a level below zero and one above, learnt.

  Forward: `q = a` where `w > t`, `-b` where `w < -t`, 0 between, with `t = 0.05
  max(abs(w))` and two numbers `a`, `b` for each kernel, at first the means of
  `abs(w)` over the weights that have them. Backward, to the levels: `dL/da` is
  the sum of `dL/dq` over the weights that have it, and `dL/db` minus that. The
  optimizer moves both, and keeps them positive. To the latents: see
  `transforms.straight_through`.

  A kernel that holds a NaN or an infinity becomes NaN.

  >>> import jax.numpy as jnp
  >>> from hq_jax.core import trees
  >>> w = {'kernel': jnp.array([[1.0, -0.5], [-2.0, 0.04], [0.25, 0.25]])}
  >>> quantizer, axes = ttq(), trees.find_axes(w)
  >>> quantized, state = quantizer.update(w, quantizer.init(w, axes), w, axes)
  >>> quantized['kernel'].tolist()  # the threshold is 0.1
  [[0.5, -1.25], [-1.25, 0.0], [0.5, 0.5]]
  >>> quantizer.encode(w, state, axes)['kernel'].codewords.ravel().tolist()
  [-1.25, 0.0, 0.5]

  Args:
    threshold_factor: the threshold over the largest magnitude, 0 to below 1.
    optimizer: of the levels, with a rate like that of the latents, whose size
      they have; by default `optax.adam(1e-3)`.

  Returns:
    A `Quantizer` of kernels whose output channels are on the last axis, which
    encodes to `qtensors.CodebookTensor` of one weight a codeword. Its state is
    a few numbers for each kernel.

  Raises:
    ValueError: where the factor is out of range.

  Note: the reference multiplies the gradient of a latent by its level, which
    an optimizer that divides by the gradient's size takes back.

  Reference: Zhu, Han, Mao and Dally, Trained Ternary Quantization, ICLR 2017
    (arXiv:1612.01064).
  """
  if not 0.0 <= threshold_factor < 1.0:
    raise ValueError(
      f'threshold_factor is {threshold_factor}, wanted a number in [0, 1)'
    )
  level_optimizer = optax.adam(1e-3) if optimizer is None else optimizer

  def get_signs(w):
    threshold = threshold_factor * jnp.max(jnp.abs(w))
    return ternary.get_codes(w, jnp.abs(w) > threshold)

  def get_levels(sizes, dtype=jnp.float32):
    rounded = ternary.round_significand(sizes, ternary.get_scale_bits(dtype))
    # As float16 holds them, so that a file has what was trained.
    below, above = jnp.clip(rounded, 2.0**-14, 2.0**15)
    return jnp.stack([-below, jnp.zeros_like(below), above])

  def init_fn(latents, axes):
    _quantizer.check_last_axes(latents, axes)

    def measure(w):
      signs = get_signs(w)
      mean = lambda chosen: (
        jnp.sum(jnp.abs(w) * chosen) / jnp.maximum(jnp.sum(chosen), 1.0)
      )
      return jnp.stack([mean(signs < 0), mean(signs > 0)])

    sizes = jax.tree.map(measure, latents)
    return TtqState(sizes, level_optimizer.init(sizes))

  def learn_fn(grads, latents, state, axes):
    def get_gradient(g, w):
      signs, g = get_signs(w), g.astype(jnp.float32)
      return jnp.stack([-jnp.sum(g * (signs < 0)), jnp.sum(g * (signs > 0))])

    moves, opt_state = level_optimizer.update(
      jax.tree.map(get_gradient, grads, latents),
      state.level_opt_state,
      state.level_sizes,
    )
    sizes = optax.apply_updates(state.level_sizes, moves)
    sizes = jax.tree.map(lambda x: jnp.maximum(x, 2.0**-14), sizes)
    return TtqState(sizes, opt_state)

  def update_fn(latents, state, params, axes):
    def quantize(w, sizes, p):
      below, _, above = get_levels(sizes, p.dtype)
      signs = get_signs(w)
      q = jnp.where(signs > 0, above, jnp.where(signs < 0, below, 0.0))
      return jnp.where(jnp.isfinite(jnp.max(jnp.abs(w))), q, jnp.nan).astype(
        p.dtype
      )

    quantized = jax.tree.map(quantize, latents, state.level_sizes, params)
    return quantized, state

  def encode_fn(latents, state, axes):
    return jax.tree.map(
      lambda w, sizes: qtensors.CodebookTensor(
        (get_signs(w) + 1).astype(jnp.uint8),
        get_levels(sizes)[:, None].astype(jnp.float16),
      ),
      latents,
      state.level_sizes,
    )

  return _quantizer.Quantizer(init_fn, update_fn, learn_fn, encode_fn)
