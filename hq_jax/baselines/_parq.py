"""Weights that are drawn to ternary levels ever more firmly: PARQ."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from hq_jax.baselines import _twn
from hq_jax.core import qtensors
from hq_jax.core import ternary
from hq_jax.transforms import _quantizer

_STEEPNESS = 10.0  # of the sigmoid by which the slope falls


class ParqState(NamedTuple):
  """State of `parq`."""

  parq_count: jax.Array  # shape=(), dtype=int32: updates so far
  parq_scales: chex.ArrayTree  # [1, .., out] float32 for each kernel


def parq(num_steps: int) -> _quantizer.Quantizer:
  """PARQ: the proximal map of a piecewise-affine regularizer, ever steeper.

  Forward, with the scale `s_j` of `twn` and `m = abs(w_ij)`:

  `q_ij = sign(w_ij) (clip((m - s / 2) / r + s / 2, 0, s) + r max(m - s, 0))`.

  With `r = 1` that is the weight itself, with `r = 0` the nearest of `-s`, 0
  and `s`. With `x` the updates so far over `num_steps`, at most 1,

  `r = (f(10 (0.5 - x)) - f(-5)) / (f(5) - f(-5))`, `f` the logistic function.

  Backward: see `transforms.straight_through`; the gradient at `q` moves the
  latents, whose sum of steps it is that the map is applied to.

  A kernel that holds a NaN or an infinity becomes NaN.

  >>> import jax.numpy as jnp
  >>> from hq_jax.core import trees
  >>> w = {'kernel': jnp.array([[1.0], [-2.0], [0.25]])}  # s is 1.5
  >>> quantizer, axes = parq(num_steps=2), trees.find_axes(w)
  >>> state, found = quantizer.init(w, axes), []
  >>> for _ in range(3):
  ...   quantized, state = quantizer.update(w, state, w, axes)
  ...   found.append(quantized['kernel'].ravel().tolist())
  >>> found
  [[1.0, -2.0, 0.25], [1.25, -1.75, 0.0], [1.5, -1.5, 0.0]]

  Args:
    num_steps: updates until all weights are ternary, at least 1.

  Returns:
    A `Quantizer` of kernels whose output channels are on the last axis, which
    encodes to `qtensors.TernaryTensor`: what the network computes with once all
    weights are ternary, and before that what is nearest. Its state is a number
    for each channel.

  Raises:
    ValueError: where the number of steps is out of range.

  Note: levels are those of TWN, with a scale for each channel; the part beyond
    the outermost level, where the reference has a choice, is the identity at
    first.

  Reference: Jin, Ma, Liu, Gromov, Defazio and Xiao, PARQ: Piecewise-Affine
    Regularized Quantization, ICML 2025 (arXiv:2503.15748).
  """
  if num_steps < 1:
    raise ValueError(f'num_steps is {num_steps}, wanted at least 1')

  def get_softness(count):
    x = jnp.minimum(count / num_steps, 1.0)
    f = lambda x: jax.nn.sigmoid(_STEEPNESS * x)
    r = (f(0.5 - x) - f(-0.5)) / (f(0.5) - f(-0.5))
    # Few bits: the same in every program.
    r = ternary.round_significand(jnp.where(count > 0, r, 1.0), 8)
    return jnp.where(count < num_steps, r, 0.0)

  def init_fn(latents, axes):
    _quantizer.check_last_axes(latents, axes)
    params = latents  # Of float32.
    return ParqState(
      jnp.zeros([], jnp.int32), jax.tree.map(_twn.fit_scale, latents, params)
    )

  def get_values(latents, count, scales, params):
    r = get_softness(count)

    def project(w, scale, p):
      size = jnp.abs(w)
      steep = (size - 0.5 * scale) / jnp.maximum(r, 1e-6) + 0.5 * scale
      soft = jnp.clip(steep, 0.0, scale) + r * jnp.maximum(size - scale, 0.0)
      hard = _get_codes(w, scale) * scale
      found = jnp.where(r > 0.0, jnp.sign(w) * soft, hard)
      found = jnp.where(r < 1.0, found, w)
      # By multiplication: codes hold no NaN, but a scale that is one shows.
      return (found + 0.0 * scale).astype(p.dtype)

    return jax.tree.map(project, latents, scales, params)

  def update_fn(latents, state, params, axes):
    scales = jax.tree.map(_twn.fit_scale, latents, params)
    quantized = get_values(latents, state.parq_count, scales, params)
    return quantized, ParqState(state.parq_count + 1, scales)

  def recall_fn(latents, state, params, axes):
    count = jnp.maximum(state.parq_count - 1, 0)
    return get_values(latents, count, state.parq_scales, params)

  def encode_fn(latents, state, axes):
    return jax.tree.map(
      lambda w, scale: qtensors.TernaryTensor(
        _get_codes(w, scale).astype(jnp.int8), scale
      ),
      latents,
      state.parq_scales,
    )

  return _quantizer.Quantizer(
    init_fn, update_fn, encode=encode_fn, recall=recall_fn
  )


def _get_codes(w: jax.Array, scale: jax.Array) -> jax.Array:
  return jnp.sign(w) * (jnp.abs(w) > 0.5 * scale)
