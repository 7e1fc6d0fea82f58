"""Convolutions of images, in the form that each platform runs fast."""

import jax
from jax import lax
import jax.numpy as jnp

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


def convolve(
  x: jax.Array,
  kernel: jax.Array,
  stride: int = 1,
  padding: int = 0,
  groups: int = 1,
) -> jax.Array:
  """A convolution of `[n, h, w, c]` by `[size, size, c / groups, out]`.

  On a CPU one for each channel alone is a sum of shifted products, and one of a
  single pixel a product of matrices: XLA's own are several times slower there.
  """
  plain = lambda x, kernel: lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    [(padding, padding)] * 2,
    dimension_numbers=_DIMENSIONS,
    feature_group_count=groups,
  )
  if groups == x.shape[-1] == kernel.shape[-1] > 1:
    cpu = lambda x, kernel: _shift_and_add(x, kernel, stride, padding)
  elif kernel.shape[:2] == (1, 1) and padding == 0 and groups == 1:
    cpu = lambda x, kernel: jnp.matmul(x[:, ::stride, ::stride], kernel[0, 0])
  else:
    return plain(x, kernel)
  choose = lambda *args: lax.platform_dependent(*args, cpu=cpu, default=plain)
  # Without it a GPU would keep for the gradient what only the CPU's form needs.
  return jax.checkpoint(choose, prevent_cse=False)(x, kernel)


def _shift_and_add(
  x: jax.Array, kernel: jax.Array, stride: int, padding: int
) -> jax.Array:
  """The sum over the places of a kernel, each times the images moved there."""
  size = kernel.shape[0]
  sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
  x = jnp.pad(x, sides)
  rows, columns = (
    stride * ((side - size) // stride) + 1 for side in x.shape[1:3]
  )
  products = [
    x[:, i : i + rows : stride, j : j + columns : stride] * kernel[i, j, 0]
    for i in range(size)
    for j in range(size)
  ]
  return sum(products[1:], products[0])
