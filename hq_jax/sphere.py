"""The hypersphere: norms, unit-norm kernels, tangent gradients, distances.

A kernel has its output channel last; `w_j` is the column of channel `j`, all
other axes flattened. Every function works on one array; lift it with
`jax.tree.map`. Inputs of lower precision are computed in float32.
"""

import jax
import jax.numpy as jnp


# Compiled always: op by op, products are rounded before they are added, and a
# norm in the last bit decides what a threshold of the same kernel keeps.
@jax.jit
def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
  """The inner product of each channel, shape [out], in float32."""
  axes = tuple(range(a.ndim - 1))
  return jnp.sum(a.astype(jnp.float32) * b.astype(jnp.float32), axis=axes)


def norms(w: jax.Array) -> jax.Array:
  """The norm of each output channel, `r_j = ||w_j||`.

  Backward: `dr_j/dw_j = w_j / r_j`, and zero where `r_j = 0`.

  >>> import jax.numpy as jnp
  >>> norms(jnp.array([[3., 0.], [4., 0.]]))
  Array([5., 0.], dtype=float32)

  Args:
    w: a kernel, `[..., out]`, with entries between 1e-18 and 1e18 in size
      where they count (squares are summed in float32).

  Returns:
    float32 `[out]`.
  """
  squares = _dot(w, w)
  # By `== 0`, so that a NaN is not taken for a channel of zeros.
  zero = squares == 0
  return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squares)))


def normalize(w: jax.Array) -> jax.Array:
  """Divides each output channel by its norm: `u_j = w_j / ||w_j||`.

  Backward: `g -> (g - <g, u> u) / r`. A channel of zeros stays zero and gets
  a zero gradient; one that holds a NaN becomes NaN.

  >>> import jax.numpy as jnp
  >>> normalize(jnp.array([[3., 0.], [4., 0.]]))
  Array([[0.6, 0. ],
         [0.8, 0. ]], dtype=float32)

  Args:
    w: a kernel, `[..., out]`.

  Returns:
    float32, the shape of `w`, with unit-norm channels.
  """
  squares = _dot(w, w)
  zero = squares == 0
  inverse = jnp.where(zero, 0.0, jax.lax.rsqrt(jnp.where(zero, 1.0, squares)))
  return w.astype(jnp.float32) * inverse


def tangent(g: jax.Array, w: jax.Array) -> jax.Array:
  """The part of a gradient that moves along the sphere.

  `g_t = g - <g, u> u` with `u = w / ||w||`, per output channel.

  >>> import jax.numpy as jnp
  >>> tangent(jnp.array([[1.], [1.]]), jnp.array([[2.], [0.]]))
  Array([[0.],
         [1.]], dtype=float32)

  Args:
    g: the gradient, `[..., out]`.
    w: the kernel, the same shape; it need not be of unit norm.

  Returns:
    float32, the shape of `g`, orthogonal to `w` in every channel; `g` itself
    in a channel of zeros.
  """
  u = normalize(w)
  return g.astype(jnp.float32) - _dot(g, u) * u


def cosine_distance(a: jax.Array, b: jax.Array) -> jax.Array:
  """The cosine distance of each output channel.

  `D_j = 1 - <a_j, b_j> / (||a_j|| ||b_j||)`, between 0 and 2; a channel of
  zeros in either is at distance 1.

  >>> import jax.numpy as jnp
  >>> cosine_distance(jnp.array([[1.], [1.]]), jnp.array([[1.], [0.]])).round(4)
  Array([0.2929], dtype=float32)

  Args:
    a: a kernel, `[..., out]`.
    b: another of the same shape.

  Returns:
    float32 `[out]`.
  """
  return 1.0 - _dot(normalize(a), normalize(b))
