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
  single pixel, or of images of two by two, a product of matrices: XLA's own are
  several times slower there.
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
  elif groups == 1 and max(x.shape[1:3]) <= 2:
    cpu = lambda x, kernel: _multiply_patches(x, kernel, stride, padding)
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
  products = [
    image * weights
    for image, weights in zip(
      _move(x, size, stride, padding),
      kernel.reshape(size * size, -1),
      strict=True,
    )
  ]
  return sum(products[1:], products[0])


def _multiply_patches(
  x: jax.Array, kernel: jax.Array, stride: int, padding: int
) -> jax.Array:
  """All that a kernel sees at once in a row, times the kernel as a matrix."""
  moved = _move(x, kernel.shape[0], stride, padding)
  patches = jnp.concatenate(moved, axis=-1)
  return jnp.matmul(patches, kernel.reshape(-1, kernel.shape[-1]))


def _move(
  x: jax.Array, size: int, stride: int, padding: int
) -> list[jax.Array]:
  """Images as each place of a kernel sees them, row by row."""
  sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
  x = jnp.pad(x, sides)
  rows, columns = (
    stride * ((side - size) // stride) + 1 for side in x.shape[1:3]
  )
  return [
    x[:, i : i + rows : stride, j : j + columns : stride]
    for i in range(size)
    for j in range(size)
  ]
