"""A small residual network for images of a few pixels."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from hq_jax.models import layers


class Block(nn.Module):
  """A residual block of two 3x3 convolutions."""

  width: int  # output channels
  stride: int = 1  # of the first convolution
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps `[n, h, w, c]` to `[n, h / stride, w / stride, width]`."""
    residual = x
    y = layers.conv(self.width, 3, self.stride, self.dtype, 'conv1')(x)
    y = nn.relu(layers.norm(y, train, self.dtype, 'norm1'))
    y = layers.conv(self.width, 3, 1, self.dtype, 'conv2')(y)
    y = layers.norm(y, train, self.dtype, 'norm2')
    if residual.shape != y.shape:
      residual = layers.conv(
        self.width, 1, self.stride, self.dtype, 'conv_proj'
      )(residual)
      residual = layers.norm(residual, train, self.dtype, 'norm_proj')
    return nn.relu(residual + y)


class SmallResNet(nn.Module):
  """A residual network: a 3x3 stem, stages of blocks, mean pooling, a head.

  The first block of every stage but the first halves the resolution.
  """

  num_classes: int
  widths: tuple[int, ...] = (32, 64, 128)  # the channels of each stage
  num_blocks: tuple[int, ...] = (1, 1, 1)  # of each stage; 0 for stem alone
  dtype: Any = jnp.float32  # of the computation; all else is float32

  @property
  def least_side(self) -> int:
    """The pixels along a side of what becomes one feature."""
    return 2 ** (len(self.widths) - 1)

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps images `[n, h, w, c]` to float32 logits `[n, num_classes]`."""
    x = layers.conv(self.widths[0], 3, 1, self.dtype, 'conv_stem')(x)
    x = layers.norm(x, train, self.dtype, 'norm_stem')
    x = nn.relu(x)
    for stage, (width, num_blocks) in enumerate(
      zip(self.widths, self.num_blocks, strict=True)
    ):
      for block in range(num_blocks):
        stride = 2 if stage > 0 and block == 0 else 1
        name = f'stage{stage + 1}_block{block + 1}'
        x = Block(width, stride, self.dtype, name=name)(x, train)
    x = jnp.mean(x, axis=(1, 2))
    x = nn.Dense(self.num_classes, dtype=self.dtype, name='head')(x)
    return x.astype(jnp.float32)
