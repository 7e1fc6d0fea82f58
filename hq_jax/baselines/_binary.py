"""Binary weights: signs, with a scale for each channel."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from hq_jax.core import qtensors
from hq_jax.core import ternary
from hq_jax.transforms import _quantizer


class BinaryState(NamedTuple):
  """State of `binary`."""

  binary_scales: chex.ArrayTree  # [1, .., out] float32 for each kernel


def binary() -> _quantizer.Quantizer:
  """Binary-Weight-Networks, of XNOR-Net: signs and the mean magnitude.

  Forward: `q_ij = s_j sign(w_ij)`, with `sign(0) = 1` and `s_j` the mean of
  `abs(w_ij)` over channel `j`: the least `||w_j - s_j b_j||` of all signs `b`
  and scales. The scale is rounded as `ternary.get_scale` does. Backward: see
  `transforms.straight_through`.

  A channel that holds a NaN becomes NaN.

  >>> import jax.numpy as jnp
  >>> from hq_jax.core import trees
  >>> w = {'kernel': jnp.array([[1.0, -0.5], [-2.0, 0.0]])}
  >>> quantizer, axes = binary(), trees.find_axes(w)
  >>> quantized, _ = quantizer.update(w, quantizer.init(w, axes), w, axes)
  >>> quantized['kernel'].tolist()
  [[1.5, -0.25], [-1.5, 0.25]]

  Returns:
    A `Quantizer` of kernels whose output channels are on the last axis, which
    encodes to `qtensors.TernaryTensor` without zeros. Its state is a number
    for each channel.

  Note: the paper multiplies the gradient by `1 / n + s_j [abs(w) <= 1]`; here
    it is applied as it is, as for every quantizer.

  Reference: Rastegari, Ordonez, Redmon and Farhadi, XNOR-Net: ImageNet
    Classification Using Binary Convolutional Neural Networks, 2016
    (arXiv:1603.05279).
  """

  def init_fn(latents, axes):
    _quantizer.check_last_axes(latents, axes)
    return BinaryState(
      jax.tree.map(lambda w: jnp.zeros_like(_get_means(w)), latents)
    )

  def update_fn(latents, state, params, axes):
    scales = jax.tree.map(
      lambda w, p: ternary.round_significand(
        _get_means(w), ternary.get_scale_bits(p.dtype)
      ),
      latents,
      params,
    )
    quantized = jax.tree.map(
      lambda w, scale, p: (_get_signs(w) * scale).astype(p.dtype),
      latents,
      scales,
      params,
    )
    return quantized, BinaryState(scales)

  def encode_fn(latents, state, axes):
    return jax.tree.map(
      lambda w, scale: qtensors.TernaryTensor(
        _get_signs(w).astype(jnp.int8), scale
      ),
      latents,
      state.binary_scales,
    )

  return _quantizer.Quantizer(init_fn, update_fn, encode=encode_fn)


def _get_means(w: jax.Array) -> jax.Array:
  axes = tuple(range(w.ndim - 1))
  return jnp.mean(jnp.abs(w), axis=axes, keepdims=True)


def _get_signs(w: jax.Array) -> jax.Array:
  return jnp.where(w >= 0, 1.0, -1.0)
