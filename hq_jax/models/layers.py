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

  >>> import jax
  >>> import jax.numpy as jnp
  >>> layer = conv(8, 3, 2, jnp.float32, 'conv1')
  >>> jax.eval_shape(layer.init_with_output, jax.random.key(0),
  ...                jnp.zeros((1, 7, 7, 3)))[0].shape
  (1, 4, 4, 8)

  Args:
    width: output channels.
    size: of the kernel, odd, in pixels.
    stride: in pixels.
    dtype: of the computation.
    name: of the module.
    groups: of channels that do not see each other.

  Returns:
    A Flax module.
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
  """A batch norm with torch's epsilon and, as Flax counts it, momentum 0.9.

  >>> import jax.numpy as jnp
  >>> norm(False, jnp.float32, 'norm1').epsilon
  1e-05

  Args:
    train: whether it uses the batch's statistics, and updates its own.
    dtype: of the computation.
    name: of the module.

  Returns:
    A Flax module.
  """
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=0.9,
    epsilon=NORM_EPSILON,
    dtype=dtype,
    name=name,
  )
