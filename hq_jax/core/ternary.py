"""Ternary projection: codes, scales, and back.

`t_j = sign(u_j) * [abs(u_j) > threshold]`, in {-1, 0, 1}; with `k_j` non-zeros
in channel `j` the quantized kernel is `r_j t_j / sqrt(k_j)`: again on the
sphere of radius `r_j`.
"""

import jax
import jax.numpy as jnp

from hq_jax.core import qtensors
from hq_jax.core import sphere
from hq_jax.core import thresholds
from hq_jax.core import trees

TernaryTensor = qtensors.TernaryTensor


def get_codes(w: jax.Array, keep: jax.Array) -> jax.Array:
  """Ternary codes: the sign of what is kept.

  `t = sign(w) * keep`

  >>> import jax.numpy as jnp
  >>> get_codes(jnp.array([-2., 1.]), jnp.array([True, False]))
  Array([-1.,  0.], dtype=float32)

  Args:
    w: a kernel, `[..., out]`.
    keep: bool of the same shape, True = kept.

  Returns:
    float32 in {-1, 0, 1}, the shape of `w`.
  """
  return jnp.where(keep, jnp.sign(w.astype(jnp.float32)), 0.0)


def get_codes_at(
  w: jax.Array,
  threshold: thresholds.Threshold | thresholds.Quota,
  *,
  axes: trees.Axes | None = None,
  scope: str = 'layer',
) -> jax.Array:
  """Ternary codes at a threshold: the signs of what is above it.

  `t = sign(w) [a > threshold]`, with `a` the magnitudes that it compares.

  >>> import jax.numpy as jnp
  >>> w = jnp.array([[3., 0.5], [-4., 1.]])
  >>> found = thresholds.get_thresholds({'kernel': w}, 0.5)
  >>> get_codes_at(w, found['kernel']).tolist()
  [[0.0, 0.0], [-1.0, 1.0]]

  Args:
    w: a kernel, `[.., out, ..]`.
    threshold: of this kernel, by `thresholds.get_thresholds`.
    axes: of the kernel; None for output channels on the last one.
    scope: of the threshold.

  Returns:
    float32 in {-1, 0, 1}, the shape of `w`.
  """
  keep = thresholds.get_keep_mask(w, threshold, axes=axes, scope=scope)
  return get_codes(w, keep)


def round_significand(x: jax.Array, num_bits: int) -> jax.Array:
  """Rounds to a significand of so many bits (half to even).

  >>> import jax.numpy as jnp
  >>> round_significand(jnp.array([1.0, 1.26, 9.9]), 3)
  Array([ 1.  ,  1.25, 10.  ], dtype=float32)

  Args:
    x: float32, finite.
    num_bits: how many bits the significand has, 1 to 24.

  Returns:
    float32, the shape of `x`.
  """
  return jax.lax.reduce_precision(
    x, exponent_bits=8, mantissa_bits=num_bits - 1
  )


def get_scale(
  codes: jax.Array,
  radius: jax.Array,
  *,
  num_bits: int = 11,
  axis: sphere.Axis = -1,
) -> jax.Array:
  """The scale that puts ternary codes on the sphere: `r_j / sqrt(k_j)`.

  Note: it is rounded to 11 significant bits, those of float16. Sums and
  differences of such numbers are exact in float32, so an optax update that
  turns one ternary kernel into the next, `p + (q - p)`, gives exactly `q`; and
  what the file stores is what was trained. For parameters of lower precision,
  `get_scale_bits` says how many bits do the same.

  >>> import jax.numpy as jnp
  >>> get_scale(jnp.array([[1., 0.], [-1., 0.]]), jnp.array([[2., 2.]]))
  Array([[1.4140625, 0.       ]], dtype=float32)

  Args:
    codes: float in {-1, 0, 1}, `[.., out, ..]`.
    radius: float32 `[1, .., out]`, not negative.
    num_bits: significant bits of the scale.
    axis: the channel axis, or several.

  Returns:
    float32 `[1, .., out]`; 0 for a channel without non-zeros, NaN where the
    radius is.
  """
  k = sphere.sum_by_channel(jnp.abs(codes), axis)
  scale = radius * (jnp.minimum(k, 1.0) * jax.lax.rsqrt(jnp.maximum(k, 1.0)))
  return round_significand(scale, num_bits)


def get_scale_bits(dtype: jax.typing.DTypeLike) -> int:
  """The significant bits of a scale, for parameters of a dtype.

  `p + (q - p) == q` is exact in that dtype if the scales behind `p` and `q`
  have two bits less than its significand and lie within a factor of two; in
  float32 and wider, 11 bits do, those of float16.

  >>> get_scale_bits('float32'), get_scale_bits('bfloat16')
  (11, 6)

  Args:
    dtype: of the parameters, floating point.

  Returns:
    A number of bits.
  """
  return min(11, jnp.finfo(dtype).nmant - 1)


def ternarize(
  w: jax.Array,
  threshold: thresholds.Threshold | thresholds.Quota,
  *,
  axes: trees.Axes | None = None,
  scope: str = 'layer',
  num_bits: int = 11,
) -> TernaryTensor:
  """Projects a kernel onto the ternary points of its sphere.

  Forward: `t_j = sign(w_j) [a_j > threshold]`, with `a` the magnitudes that the
  threshold compares, scale `||w_j|| / sqrt(k_j)`. Backward: none here;
  `transforms.straight_through` applies the gradient at the ternary weights to
  the latent ones.

  >>> import jax.numpy as jnp
  >>> w = jnp.array([[3., 0.5], [-4., 1.]])
  >>> found = thresholds.get_thresholds({'kernel': w}, 0.5)
  >>> ternarize(w, found['kernel']).codes
  Array([[ 0,  0],
         [-1,  1]], dtype=int8)

  Args:
    w: the latent kernel, `[.., out, ..]`.
    threshold: of this kernel, by `thresholds.get_thresholds`.
    axes: of the kernel; None for output channels on the last one.
    scope: of the threshold.
    num_bits: significant bits of the scales.

  Returns:
    int8 codes and float32 scales.
  """
  axes = axes or trees.Axes((w.ndim - 1,))
  codes = get_codes_at(w, threshold, axes=axes, scope=scope)
  radius = sphere.norms(w, axes.kept)
  scale = get_scale(codes, radius, num_bits=num_bits, axis=axes.kept)
  return TernaryTensor(codes.astype(jnp.int8), scale)


def angular_optimum(
  w: jax.Array, *, axis: sphere.Axis = -1, num_bits: int = 11
) -> TernaryTensor:
  """The ternary points of least angle to a kernel, channel by channel.

  Of all ternary vectors with `k` non-zeros, the signs of the `k` largest
  `abs(w_j)` have the largest cosine, `(their sum) / (||w_j|| sqrt(k))`; so

  `k_j = argmax_k (sum of the k largest abs(w_ij)) / sqrt(k)`

  by sorting, summing and comparing. Equal magnitudes are kept together: over a
  run of them the quotient may fall and then rises, so that it is largest at an
  end of the run. The scale is `||w_j|| / sqrt(k_j)`, which keeps the norm.

  >>> import jax.numpy as jnp
  >>> found = angular_optimum(jnp.array([[4., 1.], [3., 1.], [-1., -1.]]))
  >>> found.codes.tolist()  # 7 / sqrt(2) > 8 / sqrt(3); 3 / sqrt(3) > 1
  [[1, 1], [1, 1], [0, -1]]

  Args:
    w: a kernel, `[.., out, ..]`.
    axis: the channel axis, or several.
    num_bits: significant bits of the scales.

  Returns:
    int8 codes and float32 scales, `[1, .., out]`. A channel of zeros has codes
    and scale 0; one that holds a NaN has codes 0 and a scale that is NaN.
  """
  w = w.astype(jnp.float32)
  kept = sorted(
    {a % w.ndim for a in (axis if isinstance(axis, tuple) else (axis,))}
  )
  by_channel = jnp.moveaxis(jnp.abs(w), kept, range(-len(kept), 0))
  shape = by_channel.shape[w.ndim - len(kept) :]
  by_channel = by_channel.reshape(-1, *shape)
  ranked = -jnp.sort(-by_channel, axis=0)
  counts = jnp.arange(1, len(ranked) + 1, dtype=jnp.float32)
  counts = counts.reshape(-1, *[1] * len(kept))
  cosines = jnp.cumsum(ranked, axis=0) / jnp.sqrt(counts)
  best = jnp.argmax(cosines, axis=0, keepdims=True)
  least = jnp.take_along_axis(ranked, best, axis=0)
  least = least.reshape([n if i in kept else 1 for i, n in enumerate(w.shape)])
  codes = get_codes(w, jnp.abs(w) >= least)
  scale = get_scale(codes, sphere.norms(w, axis), num_bits=num_bits, axis=axis)
  return TernaryTensor(codes.astype(jnp.int8), scale)


def dequantize(quantized: TernaryTensor) -> jax.Array:
  """The float32 value of a ternary kernel: `codes * scale`.

  >>> import jax.numpy as jnp
  >>> codes = jnp.array([[1], [-1]], jnp.int8)
  >>> dequantize(TernaryTensor(codes, jnp.array([0.5])))
  Array([[ 0.5],
         [-0.5]], dtype=float32)

  Args:
    quantized: codes and a scale that broadcasts against them, or None for
      ones.

  Returns:
    float32, the shape of the codes.
  """
  # By comparison and selection: 8-bit integer arithmetic that feeds a
  # convolution is miscompiled by some releases of XLA on CPU.
  codes = quantized.codes
  scale = 1.0 if quantized.scale is None else quantized.scale
  scale = jnp.asarray(scale, jnp.float32)
  return jnp.where(codes > 0, scale, jnp.where(codes < 0, -scale, 0.0))
