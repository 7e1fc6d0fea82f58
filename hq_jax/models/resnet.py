"""Residual networks as torchvision has them (the v1.5 variant)."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from hq_jax.core import convolutions
from hq_jax.models import layers

# Blocks of each stage, and whether they are bottlenecks, by depth.
_DEPTHS = {
  18: ((2, 2, 2, 2), False),
  34: ((3, 4, 6, 3), False),
  50: ((3, 4, 6, 3), True),
  101: ((3, 4, 23, 3), True),
}
_EXPANSION = 4


class Block(nn.Module):
  """A residual block: two 3x3 convolutions, or a 1x1-3x3-1x1 bottleneck."""

  width: int  # channels of its 3x3 convolutions
  stride: int = 1  # of the first 3x3 convolution
  bottleneck: bool = False  # ends with a 1x1 convolution to 4 * width channels
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps `[n, h, w, c]` to `[n, h / stride, w / stride, channels]`."""
    if self.bottleneck:
      shapes = [
        (self.width, 1, 1),
        (self.width, 3, self.stride),
        (self.width * _EXPANSION, 1, 1),
      ]
    else:
      shapes = [(self.width, 3, self.stride), (self.width, 3, 1)]
    y = x
    for i, (width, size, stride) in enumerate(shapes, start=1):
      if i > 1:
        y = nn.relu(y)
      y = layers.conv(width, size, stride, self.dtype, f'conv{i}')(y)
      y = layers.norm(y, train, self.dtype, f'norm{i}')
    if x.shape != y.shape:
      x = layers.conv(y.shape[-1], 1, self.stride, self.dtype, 'conv_proj')(x)
      x = layers.norm(x, train, self.dtype, 'norm_proj')
    return nn.relu(x + y)


class ResNet(nn.Module):
  """ResNet-18, -34, -50 or -101 for images of 32 pixels or more."""

  num_classes: int
  depth: int = 50
  dtype: Any = jnp.float32  # of the computation; all else is float32

  least_side = 32  # of images: the pixels of what becomes one feature

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps images `[n, h, w, 3]` to float32 logits `[n, num_classes]`."""
    if self.depth not in _DEPTHS:
      raise ValueError(
        f'model.depth is {self.depth}, wanted one of:'
        f' {", ".join(map(str, _DEPTHS))}'
      )
    num_blocks, bottleneck = _DEPTHS[self.depth]
    x = layers.conv(64, 7, 2, self.dtype, 'conv_stem')(x)
    x = nn.relu(layers.norm(x, train, self.dtype, 'norm_stem'))
    x = convolutions.max_pool(x, 3, 2, 1)
    for stage, num in enumerate(num_blocks, start=1):
      for block in range(1, num + 1):
        x = Block(
          width=32 * 2**stage,
          stride=2 if stage > 1 and block == 1 else 1,
          bottleneck=bottleneck,
          dtype=self.dtype,
          name=f'stage{stage}_block{block}',
        )(x, train)
    x = jnp.mean(x, axis=(1, 2))
    x = nn.Dense(self.num_classes, dtype=self.dtype, name='head')(x)
    return x.astype(jnp.float32)
