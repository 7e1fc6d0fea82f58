"""Convolutions and pooling of images, in the form that each platform runs fast.

On a CPU the form is chosen by the shapes: XLA's own convolutions are many times
slower than products there where the images are small or each channel is alone.
`python -m benchmarks.layers` measures all forms, and where each is the fastest.
"""

from collections.abc import Callable
import functools
import operator

import jax
from jax import lax
import jax.numpy as jnp

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')

# A function of images, kernel, stride and padding.
Form = Callable[[jax.Array, jax.Array, int, int], jax.Array]

# Up to how many pixels of the output a sum of products is faster, by the number
# of weights of each place of the kernel, `c * out`: at least so many.
_MOST_PIXELS = ((2**18, 49), (2**14, 16), (0, 9))


def convolve(
  x: jax.Array,
  kernel: jax.Array,
  stride: int = 1,
  padding: int = 0,
  groups: int = 1,
) -> jax.Array:
  """A convolution of `[n, h, w, c]` by `[size, size, c / groups, out]`.

  One group, or as many as channels.
  """
  plain = functools.partial(
    convolve_plainly, stride=stride, padding=padding, groups=groups
  )
  form = choose_form(x.shape, kernel.shape, stride, padding, groups)
  if form is None:
    return plain(x, kernel)

  def cpu(x, kernel):
    # Sums of rounded products would be less exact than XLA's convolution.
    wide = jnp.promote_types(x.dtype, jnp.float32)
    y = form(x.astype(wide), kernel.astype(wide), stride, padding)
    return y.astype(x.dtype)

  return by_platform(cpu, plain, x, kernel)


def convolve_plainly(
  x: jax.Array, kernel: jax.Array, stride: int, padding: int, groups: int = 1
) -> jax.Array:
  """The same as XLA has it."""
  return lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    [(padding, padding)] * 2,
    dimension_numbers=_DIMENSIONS,
    feature_group_count=groups,
  )


def choose_form(
  shape: tuple[int, ...],
  kernel: tuple[int, ...],
  stride: int,
  padding: int,
  groups: int,
) -> Form | None:
  """The form that is fast on CPUs, by the shapes; None for XLA's own."""
  height, width, channels, out = kernel
  if groups > 1:
    return shift_and_add if channels == 1 and groups == out else None
  pixels = 1
  for side, size in zip(shape[1:3], (height, width), strict=True):
    pixels *= _count_outputs(side, size, stride, padding)
  if height * width == 1:
    return sum_products
  most = next(most for least, most in _MOST_PIXELS if channels * out >= least)
  return sum_products if pixels <= most else None


def sum_products(
  x: jax.Array, kernel: jax.Array, stride: int, padding: int
) -> jax.Array:
  """The sum over the places of a kernel of its matrix times what it sees.

  Padding is not multiplied: of images of one pixel only the middle of a kernel
  sees any.
  """
  n, height, width, channels = x.shape
  size = kernel.shape[0]
  rows = [_find_seen(height, size, i, stride, padding) for i in range(size)]
  columns = [_find_seen(width, size, j, stride, padding) for j in range(size)]
  terms = []
  for i, (top, ins_y, num_y, after_y) in enumerate(rows):
    for j, (left, ins_x, num_x, after_x) in enumerate(columns):
      if num_y <= 0 or num_x <= 0:
        continue
      seen = x[
        :,
        ins_y : ins_y + stride * (num_y - 1) + 1 : stride,
        ins_x : ins_x + stride * (num_x - 1) + 1 : stride,
      ]
      # XLA finds the gradient of a product of two matrices by its fastest code,
      # that of one with more axes by other code.
      product = seen.reshape(-1, channels) @ kernel[i, j]
      product = product.reshape(n, num_y, num_x, -1)
      sides = ((0, 0), (top, after_y), (left, after_x), (0, 0))
      terms.append(jnp.pad(product, sides))
  return functools.reduce(operator.add, terms)


def _find_seen(side, size, place, stride, padding):
  """Of one axis and one place of the kernel, which outputs see pixels.

  How many see padding before, the first pixel, how many see pixels, how many
  see padding after.
  """
  outputs = _count_outputs(side, size, stride, padding)
  before = max(0, -((place - padding) // stride))
  last = min(outputs - 1, (side - 1 - place + padding) // stride)
  return (
    before,
    stride * before + place - padding,
    last - before + 1,
    outputs - 1 - last,
  )


def _count_outputs(side: int, size: int, stride: int, padding: int) -> int:
  return (side + 2 * padding - size) // stride + 1


def shift_and_add(
  x: jax.Array, kernel: jax.Array, stride: int, padding: int
) -> jax.Array:
  """The sum over the places of a kernel, each times the images moved there."""
  size = kernel.shape[0]
  products = [
    image * weights
    for image, weights in zip(
      _move(x, size, stride, padding, 0),
      kernel.reshape(size * size, -1),
      strict=True,
    )
  ]
  return functools.reduce(operator.add, products)


def max_pool(x: jax.Array, size: int, stride: int, padding: int) -> jax.Array:
  """The largest value of each window of `[n, h, w, c]`.

  The gradient goes to the first one of them.
  """
  return by_platform(
    lambda x: _pool_slices(x, size, stride, padding),
    lambda x: _pool_plainly(x, size, stride, padding),
    x,
  )


def _pool_plainly(x, size, stride, padding):
  window = (1, size, size, 1)
  strides = (1, stride, stride, 1)
  sides = ((0, 0), *[(padding, padding)] * 2, (0, 0))
  return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, sides)


def _pool_slices(x, size, stride, padding):
  images = _move(x, size, stride, padding, -jnp.inf)
  # `jnp.maximum` would share the gradient among equal ones.
  larger = lambda y, image: jnp.where((y >= image) | (y != y), y, image)
  return functools.reduce(larger, images)


def _move(
  x: jax.Array, size: int, stride: int, padding: int, value: float
) -> list[jax.Array]:
  """Images as each place of a kernel sees them, row by row."""
  sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
  rows, columns = (
    stride * (_count_outputs(side, size, stride, padding) - 1) + 1
    for side in x.shape[1:3]
  )
  x = jnp.pad(x, sides, constant_values=value)
  return [
    x[:, i : i + rows : stride, j : j + columns : stride]
    for i in range(size)
    for j in range(size)
  ]


def by_platform(cpu, plain, *args):
  """One function where a program is compiled for a CPU, elsewhere another."""
  choose = lambda *args: lax.platform_dependent(*args, cpu=cpu, default=plain)
  # Without it a GPU would keep for the gradient what only the CPU's form needs.
  return jax.checkpoint(choose, prevent_cse=False)(*args)
