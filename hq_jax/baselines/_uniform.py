"""Uniform levels with a step that is learnt: LSQ."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from hq_jax.core import qtensors
from hq_jax.core import ternary
from hq_jax.transforms import _quantizer

# A step is a multiple of this, so that all levels are exact in float16.
_SMALLEST_STEP = 2.0**-24


class UniformState(NamedTuple):
  """State of `uniform`."""

  exact_steps: chex.ArrayTree  # shape=(), float32 for each kernel: as learnt
  steps: chex.ArrayTree  # shape=(), float32 for each kernel, as last used
  step_opt_state: Any  # of the optimizer of the steps


def uniform(
  bits: int = 2,
  optimizer: optax.GradientTransformation | None = None,
) -> _quantizer.Quantizer:
  """LSQ: uniform levels, whose step is learnt by gradient descent.

  Forward: `q = s k` with `k = clip(round(w / s), -n, p)`, `n = 2^(bits - 1)`,
  `p = n - 1`, halves rounded up, and one step `s` for each kernel, at first `2
  mean(abs(w)) / sqrt(p)`. Backward, to the step: with `v = w / s`, of `N`
  weights

  `dL/ds = 1 / sqrt(N p) sum(dL/dq d)`, `d = round(v) - v` where `-n < v < p`,
  `-n` below and `p` above.

  The optimizer moves `s`, by half of it at most towards zero; the step that is
  used has few bits, so that float16 holds each level. To the latents: see
  `transforms.straight_through`.

  A weight that is NaN stays NaN.

  >>> import jax.numpy as jnp
  >>> from hq_jax.core import trees
  >>> w = {'kernel': jnp.array([[0.9, 0.2], [-0.6, 0.3]])}
  >>> quantizer, axes = uniform(bits=2), trees.find_axes(w)
  >>> quantized, state = quantizer.update(w, quantizer.init(w, axes), w, axes)
  >>> quantized['kernel'].tolist()
  [[1.0, 0.0], [-1.0, 0.0]]
  >>> quantizer.encode(w, state, axes)['kernel'].codewords.ravel().tolist()
  [-2.0, -1.0, 0.0, 1.0]

  Args:
    bits: of a weight, 2 to 8.
    optimizer: of the steps, with a rate like that of the latents, whose size
      they have; by default `optax.adam(1e-3)`.

  Returns:
    A `Quantizer` of kernels whose output channels are on the last axis, which
    encodes to `qtensors.CodebookTensor` of one weight a codeword. Its state is
    a few numbers for each kernel.

  Raises:
    ValueError: where the number of bits is out of range.

  Note: LSQ gives a latent that is clipped no gradient. Here it goes on moving,
    as every latent does, and may come back. An optimizer that divides by
    the gradient's size takes the factor `1 / sqrt(N p)` back, and does of
    itself what that is for: a step changes by as large a part as the weights.

  Reference: Esser, McKinstry, Bablani, Appuswamy and Modha, Learned Step Size
    Quantization, ICLR 2020 (arXiv:1902.08153).
  """
  if not 2 <= bits <= 8:
    raise ValueError(f'bits is {bits}, wanted 2 to 8')
  step_optimizer = optax.adam(1e-3) if optimizer is None else optimizer
  lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

  def get_codes(w, step):
    near = jnp.clip(jnp.round(w / step), lowest, highest)
    # A quotient may be off by its last bit, otherwise in each program. What is
    # halfway between two levels is exact, and says which of them it is.
    up, down = w >= step * (near + 0.5), w < step * (near - 0.5)
    codes = jnp.where(up, near + 1.0, jnp.where(down, near - 1.0, near))
    return jnp.clip(codes, lowest, highest)

  def get_step(exact, dtype):
    # A level has `bits - 1` bits more than the step, and the difference of two
    # levels one more than that; see `ternary.get_scale_bits`.
    num_bits = min(12, ternary.get_scale_bits(dtype) + 2) - bits
    step = ternary.round_significand(exact, max(num_bits, 1))
    step = jnp.round(step / _SMALLEST_STEP) * _SMALLEST_STEP
    # Rounding has not made it zero, and its largest level is no infinity.
    return jnp.clip(step, _SMALLEST_STEP, 2.0 ** (16 - bits))

  def init_fn(latents, axes):
    _quantizer.check_last_axes(latents, axes)
    exact = jax.tree.map(
      lambda w: jnp.maximum(
        2.0 * jnp.mean(jnp.abs(w)) / highest**0.5, _SMALLEST_STEP
      ),
      latents,
    )
    steps = jax.tree.map(lambda s: get_step(s, jnp.float32), exact)
    return UniformState(exact, steps, step_optimizer.init(exact))

  def learn_fn(grads, latents, state, axes):
    def get_gradient(g, w, step):
      v = w / step
      inside = (v > lowest) & (v < highest)
      codes = get_codes(w, step)
      slope = jnp.where(inside, codes - v, codes)
      total = jnp.sum(g.astype(jnp.float32) * slope)
      return total / (w.size * highest) ** 0.5

    moves, opt_state = step_optimizer.update(
      jax.tree.map(get_gradient, grads, latents, state.steps),
      state.step_opt_state,
      state.exact_steps,
    )
    exact = jax.tree.map(
      lambda s, move: jnp.maximum(s + move, 0.5 * s), state.exact_steps, moves
    )
    return UniformState(exact, state.steps, opt_state)

  def update_fn(latents, state, params, axes):
    steps = jax.tree.map(
      lambda exact, p: get_step(exact, p.dtype), state.exact_steps, params
    )
    quantized = jax.tree.map(
      lambda w, step, p: (get_codes(w, step) * step).astype(p.dtype),
      latents,
      steps,
      params,
    )
    return quantized, state._replace(steps=steps)

  def encode_fn(latents, state, axes):
    levels = jnp.arange(lowest, highest + 1, dtype=jnp.float32)[:, None]
    return jax.tree.map(
      lambda w, step: qtensors.CodebookTensor(
        (get_codes(w, step) - lowest).astype(jnp.uint8),
        (levels * step).astype(jnp.float16),
      ),
      latents,
      state.steps,
    )

  return _quantizer.Quantizer(init_fn, update_fn, learn_fn, encode_fn)
