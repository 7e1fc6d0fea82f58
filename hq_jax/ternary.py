"""Ternary projection: exact thresholds, codes, scales.

`t_j = sign(u_j) * [abs(u_j) > threshold]`, in {-1, 0, 1}; with `k_j` non-zeros
in channel `j` the quantized kernel is `r_j t_j / sqrt(k_j)`: again on the
sphere of radius `r_j`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from hq_jax import sphere
from hq_jax import tensors

TernaryTensor = tensors.TernaryTensor

_MAX_INT = 2**31 - 1
_SMALLEST_NORMAL_BITS = 0x00800000


class Threshold(NamedTuple):
  """Where the dead zone of one kernel ends.

  A weight of magnitude `a` at flat index `i` is kept where `a > magnitude`, or
  `a == magnitude` and `i < tie_index`: the second rule splits ties, so that
  exactly the wanted number of weights is kept.
  """

  magnitude: jax.Array  # shape=(), dtype=float32
  tie_index: jax.Array  # shape=(), dtype=int32


def num_kept(size: int, sparsity: jax.Array | float) -> jax.Array:
  """The number of weights that a sparsity leaves, at least one.

  `k = max(1, round((1 - sparsity) * size))`

  >>> int(num_kept(200, 0.85))
  30

  Args:
    size: the number of weights.
    sparsity: a fraction in [0, 1); may be traced.

  Returns:
    int32, between 1 and `size`.

  Note: it is computed in float32, exact to its rounding: above 10^7 weights
    it may be off by a few.
  """
  kept = jnp.round((1.0 - jnp.asarray(sparsity, jnp.float32)) * size)
  return jnp.clip(kept.astype(jnp.int32), 1, size)


def _flat_index(shape: tuple[int, ...]) -> jax.Array:
  """The flat index of each element, built without a reshape.

  A reshape of a sharded kernel would gather it; this does not.
  """
  index = jnp.zeros(shape, jnp.int32)
  stride = 1
  for axis in reversed(range(len(shape))):
    index += stride * jax.lax.broadcasted_iota(jnp.int32, shape, axis)
    stride *= shape[axis]
  return index


def _bisect(accepts, num: int) -> jax.Array:
  """The largest ints in [0, 2^31) that decreasing predicates accept, [num]."""

  def step(i, values):
    candidates = values | (jnp.int32(1) << (30 - i))
    return jnp.where(accepts(candidates), candidates, values)

  return jax.lax.fori_loop(0, 31, step, jnp.zeros([num], jnp.int32))


def _ordered_bits(magnitudes: jax.Array) -> jax.Array:
  """Integers in the order of the magnitudes; subnormal ones count as zero.

  Whether `a > b` is true of subnormal floats depends on the processor; integers
  are compared alike everywhere. A NaN comes out above infinity.
  """
  bits = jax.lax.bitcast_convert_type(
    jnp.abs(magnitudes).astype(jnp.float32), jnp.int32
  )
  return jnp.where(bits < _SMALLEST_NORMAL_BITS, 0, bits)


def find_threshold(magnitudes: jax.Array, kept: jax.Array | int) -> Threshold:
  """The threshold that keeps exactly the `kept` largest magnitudes.

  Ties are kept in the order of their flat index. The magnitude is found by
  bisection on the bits of the float, exact in 31 counts, and so is the tie
  index where there is one to split: no sort and no gather, so it works on
  sharded kernels and gives the same answer on any number of devices.

  >>> import jax.numpy as jnp
  >>> x = jnp.array([[3., 1.], [2., 2.]])
  >>> keep_mask(x, find_threshold(x, 2))
  Array([[ True, False],
         [ True, False]], dtype=bool)

  Args:
    magnitudes: non-negative, any shape with fewer than 2^31 elements;
      subnormal ones count as zero, NaN as the largest.
    kept: how many to keep, in [0, size]; may be traced.

  Returns:
    A `Threshold`; its magnitude is infinite where `kept` is 0.
  """
  return find_thresholds([magnitudes], [kept])[0]


def find_thresholds(
  magnitudes: Sequence[jax.Array], kept: Sequence[jax.Array | int]
) -> list[Threshold]:
  """As `find_threshold`, for many kernels in one loop: it compiles faster.

  >>> import jax.numpy as jnp
  >>> found = find_thresholds([jnp.array([1., 2.]), jnp.array([3.])], [1, 1])
  >>> [float(threshold.magnitude) for threshold in found]
  [2.0, 3.0]

  Args:
    magnitudes: one array for each kernel.
    kept: one number for each kernel.

  Returns:
    A `Threshold` for each kernel.

  Raises:
    ValueError: where a kernel has 2^31 - 1 elements or more.
  """
  for array in magnitudes:
    if array.size >= _MAX_INT:
      raise ValueError(
        f'magnitudes has {array.size} elements, wanted below 2**31 - 1'
      )
  num = len(magnitudes)
  wanted = jnp.stack([jnp.asarray(k, jnp.int32) for k in kept])
  bits = [_ordered_bits(array) for array in magnitudes]

  def count(conditions):
    return jnp.stack([jnp.sum(c, dtype=jnp.int32) for c in conditions])

  kth = _bisect(
    lambda b: count(bits[i] >= b[i] for i in range(num)) >= wanted, num
  )
  tied = [bits[i] == kth[i] for i in range(num)]
  num_wanted = wanted - count(bits[i] > kth[i] for i in range(num))

  def split_ties():
    index = [_flat_index(array.shape) for array in magnitudes]
    return _bisect(
      lambda m: (
        count(tied[i] & (index[i] < m[i]) for i in range(num)) <= num_wanted
      ),
      num,
    )

  tie_index = jax.lax.cond(
    jnp.any(count(tied) > num_wanted),
    split_ties,
    lambda: jnp.full([num], _MAX_INT, jnp.int32),
  )
  magnitude = jnp.where(
    wanted > 0, jax.lax.bitcast_convert_type(kth, jnp.float32), jnp.inf
  )
  tie_index = jnp.where(wanted > 0, tie_index, 0)
  return [Threshold(magnitude[i], tie_index[i]) for i in range(num)]


def get_thresholds(
  latents: chex.ArrayTree,
  sparsity: jax.Array | float,
  *,
  unit_norm: bool = True,
) -> chex.ArrayTree:
  """The thresholds of all kernels of a tree at one sparsity.

  >>> import jax.numpy as jnp
  >>> found = get_thresholds({'kernel': jnp.array([[3.0], [4.0]])}, 0.5)
  >>> round(float(found['kernel'].magnitude), 6)
  0.8

  Args:
    latents: kernels, `[..., out]` each.
    sparsity: the fraction of zeros in each kernel, in [0, 1); may be traced.
    unit_norm: whether `abs(u)` is ranked, or `abs(w)`.

  Returns:
    The tree with a `Threshold` for each kernel.
  """
  leaves, treedef = jax.tree.flatten(latents)
  found = find_thresholds(
    [rank_magnitudes(w, unit_norm=unit_norm) for w in leaves],
    [num_kept(w.size, sparsity) for w in leaves],
  )
  return jax.tree.unflatten(treedef, found)


def keep_mask(magnitudes: jax.Array, threshold: Threshold) -> jax.Array:
  """Which weights a threshold keeps.

  `keep = (a > magnitude) | (a == magnitude & index < tie_index)`

  >>> import jax.numpy as jnp
  >>> threshold = Threshold(jnp.float32(2), jnp.int32(2))
  >>> keep_mask(jnp.array([1., 2., 2.]), threshold)
  Array([False,  True, False], dtype=bool)

  Args:
    magnitudes: non-negative, any shape.
    threshold: of the same kernel.

  Returns:
    bool, the shape of `magnitudes`, True = kept.
  """
  bits = _ordered_bits(magnitudes)
  threshold_bits = _ordered_bits(threshold.magnitude)
  index = _flat_index(magnitudes.shape)
  return (bits > threshold_bits) | (
    (bits == threshold_bits) & (index < threshold.tie_index)
  )


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
  codes: jax.Array, radius: jax.Array, num_bits: int = 11
) -> jax.Array:
  """The scale that puts ternary codes on the sphere: `r_j / sqrt(k_j)`.

  Note: it is rounded to 11 significant bits, those of float16. Sums and
  differences of such numbers are exact in float32, so an optax update that
  turns one ternary kernel into the next, `p + (q - p)`, gives exactly `q`; and
  what the file stores is what was trained.

  >>> import jax.numpy as jnp
  >>> get_scale(jnp.array([[1., 0.], [-1., 0.]]), jnp.array([2., 2.]))
  Array([1.4140625, 0.       ], dtype=float32)

  Args:
    codes: float in {-1, 0, 1}, `[..., out]`.
    radius: float32 `[out]`, not negative.
    num_bits: significant bits of the scale.

  Returns:
    float32 `[out]`; 0 for a channel without non-zeros, NaN where the radius
    is.
  """
  k = jnp.sum(jnp.abs(codes), axis=tuple(range(codes.ndim - 1)))
  scale = radius * jnp.where(k > 0, jax.lax.rsqrt(jnp.maximum(k, 1.0)), 0.0)
  return round_significand(scale, num_bits)


def ternarize(
  w: jax.Array, threshold: Threshold, *, unit_norm: bool = True
) -> TernaryTensor:
  """Projects a kernel onto the ternary points of its sphere.

  Forward: `t_j = sign(w_j) [abs(u_j) > threshold]`, scale `||w_j|| /
  sqrt(k_j)`. Backward: none here; `transforms.straight_through` applies the
  gradient at the ternary weights to the latent ones.

  >>> import jax.numpy as jnp
  >>> w = jnp.array([[3., 0.5], [-4., 1.]])
  >>> ternarize(w, Threshold(jnp.float32(0.7), jnp.int32(0))).codes
  Array([[ 0,  0],
         [-1,  1]], dtype=int8)

  Args:
    w: the latent kernel, `[..., out]`.
    threshold: of this kernel, in the units of the ranked magnitudes.
    unit_norm: whether `abs(u)` is compared with the threshold, or `abs(w)`.

  Returns:
    int8 codes and float32 scales.
  """
  keep = keep_mask(rank_magnitudes(w, unit_norm=unit_norm), threshold)
  codes = get_codes(w, keep)
  return TernaryTensor(
    codes.astype(jnp.int8), get_scale(codes, sphere.norms(w))
  )


def rank_magnitudes(w: jax.Array, *, unit_norm: bool = True) -> jax.Array:
  """The magnitudes that pruning ranks: `abs(u)`, or `abs(w)`.

  >>> import jax.numpy as jnp
  >>> rank_magnitudes(jnp.array([[-3.], [4.]]))
  Array([[0.6],
         [0.8]], dtype=float32)

  Args:
    w: a kernel, `[..., out]`.
    unit_norm: whether each channel is divided by its norm first.

  Returns:
    float32, the shape of `w`.
  """
  return jnp.abs(sphere.normalize(w) if unit_norm else w.astype(jnp.float32))


def dequantize(quantized: TernaryTensor) -> jax.Array:
  """The float32 value of a ternary kernel: `codes * scale`.

  >>> import jax.numpy as jnp
  >>> codes = jnp.array([[1], [-1]], jnp.int8)
  >>> dequantize(TernaryTensor(codes, jnp.array([0.5])))
  Array([[ 0.5],
         [-0.5]], dtype=float32)

  Args:
    quantized: codes `[..., out]` and scale `[out]`, or None for ones.

  Returns:
    float32, the shape of the codes.
  """
  # By comparison and selection: 8-bit integer arithmetic that feeds a
  # convolution is miscompiled by some releases of XLA on CPU.
  codes = quantized.codes
  scale = 1.0 if quantized.scale is None else quantized.scale
  scale = jnp.asarray(scale, jnp.float32)
  return jnp.where(codes > 0, scale, jnp.where(codes < 0, -scale, 0.0))
