"""MobileNetV2 as torchvision has it, at width 1."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from hq_jax.models import layers

# Of each stage: expansion, channels, blocks, stride of the first block.
_STAGES = (
  (1, 16, 1, 1),
  (6, 24, 2, 2),
  (6, 32, 3, 2),
  (6, 64, 4, 2),
  (6, 96, 3, 1),
  (6, 160, 3, 2),
  (6, 320, 1, 1),
)


class Block(nn.Module):
  """An inverted residual: 1x1 to more channels, 3x3 on each alone, 1x1 back."""

  width: int  # output channels
  expansion: int = 6  # hidden over input channels; at 1 without the first 1x1
  stride: int = 1  # of the 3x3 convolution
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps `[n, h, w, c]` to `[n, h / stride, w / stride, width]`."""
    hidden = x.shape[-1] * self.expansion
    y = x
    if self.expansion > 1:
      y = layers.conv(hidden, 1, 1, self.dtype, 'conv_expand')(y)
      y = nn.relu6(layers.norm(y, train, self.dtype, 'norm_expand'))
    y = layers.DepthwiseConv(self.stride, self.dtype, name='conv_depthwise')(y)
    y = nn.relu6(layers.norm(y, train, self.dtype, 'norm_depthwise'))
    y = layers.conv(self.width, 1, 1, self.dtype, 'conv_project')(y)
    y = layers.norm(y, train, self.dtype, 'norm_project')
    has_shortcut = self.stride == 1 and x.shape[-1] == self.width
    return x + y if has_shortcut else y


class MobileNetV2(nn.Module):
  """MobileNetV2 for images of 32 pixels or more.

  Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
  CVPR 2018.

  Note:
    In training torchvision drops 20% of what enters the head. This does not: a
    network that is to be pruned has too few parameters, not too many.
  """

  num_classes: int
  dtype: Any = jnp.float32  # of the computation; all else is float32

  least_side = 32  # of images: the pixels of what becomes one feature

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps images `[n, h, w, 3]` to float32 logits `[n, num_classes]`."""
    x = layers.conv(32, 3, 2, self.dtype, 'conv_stem')(x)
    x = nn.relu6(layers.norm(x, train, self.dtype, 'norm_stem'))
    number = 0
    for expansion, width, num_blocks, stride in _STAGES:
      for block in range(num_blocks):
        number += 1
        x = Block(
          width=width,
          expansion=expansion,
          stride=stride if block == 0 else 1,
          dtype=self.dtype,
          name=f'block{number}',
        )(x, train)
    x = layers.conv(1280, 1, 1, self.dtype, 'conv_last')(x)
    x = nn.relu6(layers.norm(x, train, self.dtype, 'norm_last'))
    x = jnp.mean(x, axis=(1, 2))
    x = nn.Dense(self.num_classes, dtype=self.dtype, name='head')(x)
    return x.astype(jnp.float32)
