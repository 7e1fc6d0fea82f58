"""The convolution and the batch norm that all models are made of."""

from typing import Any

from flax import linen as nn

NORM_EPSILON = 1e-5


def conv(
  width: int,
  size: int,
  stride: int,
  dtype: Any,
  name: str,
  groups: int = 1,
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
    feature_group_count=groups,
    use_bias=False,
    dtype=dtype,
    name=name,
  )


def norm(train: bool, dtype: Any, name: str) -> nn.BatchNorm:
  """A batch norm with torch's epsilon and, as Flax counts it, momentum 0.9."""
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=0.9,
    epsilon=NORM_EPSILON,
    dtype=dtype,
    name=name,
  )
