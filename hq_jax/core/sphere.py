"""The hypersphere: norms, unit-norm kernels, tangent gradients, distances.

`w_j` is what belongs to output channel `j` of a kernel, all other axes
flattened; the channel axis is the last one unless `axis` says otherwise: an
axis, or several, such as those of heads and features, or of stacked layers and
channels. What is computed by channel has as many axes as the kernel, with a one
for each that was summed over (`[1, out]` of `[in, out]`), so that it broadcasts
against it. Every function works on one array; lift it with `jax.tree.map`.
Inputs of lower precision are computed in float32.
"""

import functools
import math

import jax
import jax.numpy as jnp

Axis = int | tuple[int, ...]

_EXPONENT_BITS = 0x7F800000
_MAX_LIMB_BITS = 15


def sum_by_channel(x: jax.Array, axis: Axis = -1, **kwargs) -> jax.Array:
  """Sums over all axes but the channel axis.

  `s_j = sum_i x_ij`

  >>> import jax.numpy as jnp
  >>> sum_by_channel(jnp.ones((3, 2)))
  Array([[3., 3.]], dtype=float32)
  >>> sum_by_channel(jnp.ones((2, 3, 4)), axis=(0, 2)).shape
  (2, 1, 4)

  Args:
    x: `[.., out, ..]`.
    axis: the channel axis, or several.
    **kwargs: of `jnp.sum`.

  Returns:
    The sums, `[1, .., out]`.
  """
  return _by_channel(jnp.sum, x, axis, **kwargs)


def _by_channel(reduce, x: jax.Array, axis: Axis, **kwargs) -> jax.Array:
  kept = {a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,))}
  others = tuple(i for i in range(x.ndim) if i not in kept)
  return reduce(x, axis=others, keepdims=True, **kwargs)


# Compiled always: op by op, products are rounded before they are added, and
# the same kernel would have another norm in the last bit.
@functools.partial(jax.jit, static_argnames='axis')
def _dot(a: jax.Array, b: jax.Array, axis: Axis) -> jax.Array:
  """The inner product of each channel, in float32."""
  return sum_by_channel(a.astype(jnp.float32) * b.astype(jnp.float32), axis)


def divide(a: jax.Array | float, b: jax.Array) -> jax.Array:
  """The quotient, and zero where the divisor is.

  Backward: zero for both where `b` is zero.

  >>> import jax.numpy as jnp
  >>> divide(jnp.array([6., 1.]), jnp.array([2., 0.]))
  Array([3., 0.], dtype=float32)

  Args:
    a: float.
    b: float; a NaN in it is seen in the result.

  Returns:
    Their quotient.
  """
  zero = b == 0
  return jnp.where(zero, 0.0, a / jnp.where(zero, 1.0, b))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def norms(w: jax.Array, axis: Axis = -1) -> jax.Array:
  """The norm of each output channel, `r_j = ||w_j||`.

  Backward: `dr_j/dw_j = w_j / r_j`, and zero where `r_j = 0`.

  >>> import jax.numpy as jnp
  >>> norms(jnp.array([[3., 0.], [4., 0.]]))
  Array([[5., 0.]], dtype=float32)

  Args:
    w: a kernel, `[.., out, ..]`, with entries between 1e-18 and 1e18 in size
      where they count (squares are summed in float32).
    axis: the channel axis, or several.

  Returns:
    float32 `[1, .., out]`.
  """
  return jnp.sqrt(_dot(w, w, axis))


@norms.defjvp
def _norms_jvp(axis: Axis, primals, tangents):
  (w,), (dw,) = primals, tangents
  radius = norms(w, axis)
  return radius, divide(_dot(w, dw, axis), radius)


@functools.partial(jax.jit, static_argnums=1, static_argnames='axis')
def exact_norms(w: jax.Array, axis: Axis = -1) -> jax.Array:
  """The norm of each channel, the same bits however the kernel is sharded.

  `r_j = p sqrt(sum_i floor(2^b (w_ij / p)^2) / 2^b)`, with `p` a power of two
  above the largest of `abs(w_j)`, and `b = 30` for up to 2^16 weights in a
  channel. The squares are added as integers, whose sum does not depend on
  their order. It is slower than `norms`, and meant for where a threshold is
  found.

  >>> import jax.numpy as jnp
  >>> exact_norms(jnp.array([[3., 0.], [4., 0.]]))
  Array([[5., 0.]], dtype=float32)

  Args:
    w: a kernel, `[.., out, ..]`; a channel whose largest weight is subnormal
      counts as one of zeros.
    axis: the channel axis, or several.

  Returns:
    float32 `[1, .., out]`; each square is short of its own by up to `2^-b
    p^2`. NaN where the channel holds a NaN or an infinity.
  """
  w = w.astype(jnp.float32)
  largest = _by_channel(jnp.max, jnp.abs(w), axis, initial=0.0)
  power = jax.lax.bitcast_convert_type(
    jax.lax.bitcast_convert_type(largest, jnp.int32) & _EXPONENT_BITS,
    jnp.float32,
  )
  finite = jnp.isfinite(largest)
  usable = finite & (power > 0)
  # Both steps are exact: a reciprocal might be subnormal.
  unit = w / jnp.where(usable, power, 1.0) * 0.5
  num_weights = w.size // max(largest.size, 1)
  limb_bits = min(
    _MAX_LIMB_BITS, 31 - math.ceil(math.log2(max(num_weights, 2)))
  )
  fixed = (unit * unit * 4.0**limb_bits).astype(jnp.int32)
  high = sum_by_channel(fixed >> limb_bits, axis, dtype=jnp.int32)
  low = sum_by_channel(fixed & (2**limb_bits - 1), axis, dtype=jnp.int32)
  total = high.astype(jnp.float32) + low.astype(jnp.float32) * 0.5**limb_bits
  exact = jnp.sqrt(total * 0.5**limb_bits) * 2.0 * power
  return jnp.where(finite, jnp.where(usable, exact, 0.0), jnp.nan)


def normalize(w: jax.Array, axis: Axis = -1) -> jax.Array:
  """Divides each output channel by its norm: `u_j = w_j / ||w_j||`.

  Backward: `g -> (g - <g, u> u) / r`. A channel of zeros stays zero and gets
  a zero gradient; one that holds a NaN becomes NaN.

  >>> import jax.numpy as jnp
  >>> normalize(jnp.array([[3., 0.], [4., 0.]]))
  Array([[0.6, 0. ],
         [0.8, 0. ]], dtype=float32)

  Args:
    w: a kernel, `[.., out, ..]`.
    axis: the channel axis, or several.

  Returns:
    float32, the shape of `w`, with unit-norm channels.
  """
  return w.astype(jnp.float32) * divide(1.0, norms(w, axis))


def tangent(
  g: jax.Array,
  w: jax.Array,
  axis: Axis = -1,
  *,
  strength: jax.Array | float = 1.0,
) -> jax.Array:
  """The part of a gradient that moves along the sphere.

  `g_t = g - s <g, u> u` with `u = w / ||w||`, per output channel.

  >>> import jax.numpy as jnp
  >>> tangent(jnp.array([[1.], [1.]]), jnp.array([[2.], [0.]]))
  Array([[0.],
         [1.]], dtype=float32)

  Args:
    g: the gradient, `[.., out, ..]`.
    w: the kernel, the same shape; it need not be of unit norm.
    axis: the channel axis, or several.
    strength: `s`, how much of the radial part is removed.

  Returns:
    float32, the shape of `g`, orthogonal to `w` in every channel; `g` itself
    in a channel of zeros.
  """
  # As a multiple of `w`: both inner products then read the arrays as they are.
  radial = strength * divide(_dot(g, w, axis), _dot(w, w, axis))
  return g.astype(jnp.float32) - radial * w.astype(jnp.float32)


def cosine_distance(a: jax.Array, b: jax.Array, axis: Axis = -1) -> jax.Array:
  """The cosine distance of each output channel.

  `D_j = 1 - <a_j, b_j> / (||a_j|| ||b_j||)`, between 0 and 2; a channel of
  zeros in either is at distance 1.

  >>> import jax.numpy as jnp
  >>> cosine_distance(jnp.array([[1.], [1.]]), jnp.array([[1.], [0.]])).round(4)
  Array([[0.2929]], dtype=float32)

  Args:
    a: a kernel, `[.., out, ..]`.
    b: another of the same shape.
    axis: the channel axis, or several.

  Returns:
    float32 `[1, .., out]`.
  """
  cosine = divide(_dot(a, b, axis), norms(a, axis) * norms(b, axis))
  # Of parallel channels, the rounded quotient may be a little above 1.
  return jnp.clip(1.0 - cosine, 0.0, 2.0)
