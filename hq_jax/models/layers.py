"""The convolution and the batch norm that all models are made of."""

from typing import Any

from flax import linen as nn
import jax

from hq_jax.core import branches
from hq_jax.core import convolutions

NORM_EPSILON = 1e-5


def conv(
  width: int,
  size: int,
  stride: int,
  dtype: Any,
  name: str,
) -> nn.Conv:
  """A convolution without bias, padded as torch does it.

  Both sides are padded alike by `size // 2`, whatever the stride; 'SAME' does
  not do that.
  """
  return nn.Conv(
    width,
    (size, size),
    (stride, stride),
    padding=[(size // 2, size // 2)] * 2,
    use_bias=False,
    dtype=dtype,
    name=name,
    conv_general_dilated=_convolve,
  )


def _convolve(x, kernel, strides, padding, **unused):
  """What Flax calls in place of `jax.lax.conv_general_dilated`."""
  return convolutions.convolve(x, kernel, strides[0], padding[0][0])


class DepthwiseConv(nn.Module):
  """A 3x3 convolution of each channel alone, without bias, padded by one."""

  stride: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[n, h, w, c]` to `[n, h / stride, w / stride, c]`."""
    channels = x.shape[-1]
    kernel = self.param(
      'kernel', nn.initializers.lecun_normal(), (3, 3, 1, channels)
    )
    return convolutions.convolve(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      self.stride,
      padding=1,
      groups=channels,
    )


def norm(x: jax.Array, train: bool, dtype: Any, name: str) -> jax.Array:
  """A batch norm with torch's epsilon and, as Flax counts it, momentum 0.9.

  Its batch is that of all devices among which `x` is split by `shard_map`.
  """
  axes: Any = tuple(sorted(branches.varying(x))) or None
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=0.9,
    epsilon=NORM_EPSILON,
    dtype=dtype,
    axis_name=axes,
    name=name,
  )(x)
