"""Ternary Weight Networks, with a scale for each channel."""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from hq_jax.core import qtensors
from hq_jax.core import sphere
from hq_jax.core import ternary
from hq_jax.transforms import _quantizer


class TwnState(NamedTuple):
  """State of `twn`."""

  twn_thresholds: chex.ArrayTree  # shape=(), float32 for each kernel
  twn_scales: chex.ArrayTree  # [1, .., out] float32 for each kernel


def twn(threshold_factor: float = 0.7) -> _quantizer.Quantizer:
  """Ternary Weight Networks: a threshold by the mean, a scale by least squares.

  Forward: `q_ij = s_j t_ij` with `t_ij = sign(w_ij) [abs(w_ij) > threshold]`,
  `threshold = 0.7 mean(abs(w))` over the kernel, and `s_j` the mean of
  `abs(w_ij)` over what channel `j` keeps, which of all scales has the least
  `||w_j - s_j t_j||`; 0 where it keeps nothing. The scale is rounded as
  `ternary.get_scale` does. Backward: see `transforms.straight_through`.

  A kernel that holds a NaN or an infinity becomes NaN.

  >>> import jax.numpy as jnp
  >>> from hq_jax.core import trees
  >>> w = {'kernel': jnp.array([[1.0, -0.5], [-2.0, 0.1], [0.2, 0.3]])}
  >>> quantizer, axes = twn(), trees.find_axes(w)
  >>> quantized, state = quantizer.update(w, quantizer.init(w, axes), w, axes)
  >>> quantized['kernel'].tolist()  # the threshold is 0.4783
  [[1.5, -0.5], [-1.5, 0.0], [0.0, 0.0]]
  >>> quantizer.encode(w, state, axes)['kernel'].codes.tolist()
  [[1, -1], [-1, 0], [0, 0]]

  Args:
    threshold_factor: the threshold over the mean magnitude, at least 0.

  Returns:
    A `Quantizer` of kernels whose output channels are on the last axis, which
    encodes to `qtensors.TernaryTensor`. Its state is a number for each kernel
    and for each channel.

  Raises:
    ValueError: where the factor is out of range.

  Note: the paper has one scale for the kernel; one for each channel folds into
    the normalization that follows, and costs nothing.

  Reference: Li, Zhang and Liu, Ternary Weight Networks, 2016
    (arXiv:1605.04711).
  """
  if not 0.0 <= threshold_factor < math.inf:
    raise ValueError(
      f'threshold_factor is {threshold_factor}, wanted a number from 0 on'
    )

  def init_fn(latents, axes):
    _quantizer.check_last_axes(latents, axes)
    return TwnState(
      jax.tree.map(lambda w: jnp.zeros([], jnp.float32), latents),
      jax.tree.map(lambda w: jnp.zeros_like(sphere.norms(w)), latents),
    )

  def update_fn(latents, state, params, axes):
    thresholds = jax.tree.map(
      lambda w: threshold_factor * jnp.mean(jnp.abs(w)), latents
    )
    scales = jax.tree.map(_get_scale, latents, thresholds, params)
    # By multiplication: codes hold no NaN, but a scale that is one shows.
    quantized = jax.tree.map(
      lambda w, threshold, scale, p: (_get_codes(w, threshold) * scale).astype(
        p.dtype
      ),
      latents,
      thresholds,
      scales,
      params,
    )
    return quantized, TwnState(thresholds, scales)

  def encode_fn(latents, state, axes):
    return jax.tree.map(
      lambda w, threshold, scale: qtensors.TernaryTensor(
        _get_codes(w, threshold).astype(jnp.int8), scale
      ),
      latents,
      state.twn_thresholds,
      state.twn_scales,
    )

  return _quantizer.Quantizer(init_fn, update_fn, encode=encode_fn)


def fit_scale(
  w: jax.Array, p: jax.Array, threshold_factor: float = 0.7
) -> jax.Array:
  """The scale of each channel of a kernel, for parameters of a dtype."""
  return _get_scale(w, threshold_factor * jnp.mean(jnp.abs(w)), p)


def _get_codes(w: jax.Array, threshold: jax.Array) -> jax.Array:
  return ternary.get_codes(w, jnp.abs(w) > threshold)


def _get_scale(w: jax.Array, threshold: jax.Array, p: jax.Array) -> jax.Array:
  codes = jnp.abs(_get_codes(w, threshold))
  kept = sphere.sum_by_channel(codes)
  total = sphere.sum_by_channel(jnp.where(codes > 0, jnp.abs(w), 0.0))
  scale = ternary.round_significand(
    sphere.divide(total, kept), ternary.get_scale_bits(p.dtype)
  )
  # Nothing is above a threshold that is no number: not silently zero.
  return jnp.where(jnp.isfinite(threshold), scale, jnp.nan)
