"""Vision transformers as timm has them (ViT and DeiT), a stack of blocks."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

POOLS = ('token', 'mean')
NORM_EPSILON = 1e-6

_EXPANSION = 4
_LAYER_SCALE = 1e-4  # at the beginning, as DeiT III has it

# As large as what patches of normalized images give: with 0.02, which is usual
# for long trainings, a short one hardly learns where a patch is.
_EMBEDDING_INIT = nn.initializers.normal(1.0)
_HEAD_INIT = nn.initializers.normal(0.02)
# Like those of a matrix, however many axes the outputs have.
_KERNEL_INIT = nn.initializers.xavier_uniform()


class Attention(nn.Module):
  """Attention of all tokens to all: `softmax(q k^T / sqrt(D)) v` of each head.

  The kernels of query, key and value are `[d, H, D]`, with H heads of
  `D = d / H` channels; that of the output is `[H, D, d]`.
  """

  num_heads: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps tokens `[n, tokens, d]` to `[n, tokens, d]`."""
    width = x.shape[-1]
    heads = (self.num_heads, width // self.num_heads)
    query, key, value = (
      nn.DenseGeneral(
        heads, kernel_init=_KERNEL_INIT, dtype=self.dtype, name=name
      )(x)
      for name in ('query', 'key', 'value')
    )
    return nn.DenseGeneral(
      width,
      axis=(-2, -1),
      kernel_init=_KERNEL_INIT,
      dtype=self.dtype,
      name='out',
    )(jax.nn.dot_product_attention(query, key, value))


class MLP(nn.Module):
  """Two dense layers, the first to four times as many channels, and a GELU."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps tokens `[n, tokens, d]` to `[n, tokens, d]`."""
    width = x.shape[-1]
    for name, features in (('up', _EXPANSION * width), ('down', width)):
      if name == 'down':
        x = nn.gelu(x, approximate=False)
      x = nn.Dense(
        features, kernel_init=_KERNEL_INIT, dtype=self.dtype, name=name
      )(x)
    return x


class Block(nn.Module):
  """A pre-norm block: `x += attention(norm(x))`, then `x += mlp(norm(x))`.

  With `layer_scale`, what is added is multiplied by a vector that is learned.
  """

  num_heads: int
  layer_scale: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps tokens `[n, tokens, d]` to `[n, tokens, d]`."""
    branches = (
      Attention(self.num_heads, self.dtype, name='attention'),
      MLP(self.dtype, name='mlp'),
    )
    for number, branch in enumerate(branches, start=1):
      y = branch(_norm(self.dtype, f'norm{number}')(x))
      if self.layer_scale:
        scale = self.param(
          f'layer_scale{number}',
          nn.initializers.constant(_LAYER_SCALE),
          x.shape[-1:],
        )
        y = y * scale.astype(self.dtype)
      x = x + y
    return x


class ViT(nn.Module):
  """A vision transformer: a token for each patch, blocks, a norm, a head.

  The blocks are one `nn.scan`: their parameters are stacked along the first
  axis, one layer each. The head sees the class token, or with `pool='mean'`,
  where there is none, the mean of the patches' tokens after the norm.
  """

  num_classes: int
  patch_size: int = 4  # in pixels; the sides of images are multiples of it
  width: int = 192  # channels of a token
  depth: int = 6  # blocks
  num_heads: int = 3  # a divisor of the width
  pool: str = 'token'
  layer_scale: bool = False
  dtype: Any = jnp.float32  # of the computation; all else is float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps images `[n, h, w, c]` to float32 logits `[n, num_classes]`."""
    del train  # Layer norms have no statistics, and nothing is dropped.
    self._check(x.shape)
    x = nn.Conv(
      self.width,
      (self.patch_size, self.patch_size),
      (self.patch_size, self.patch_size),
      padding='VALID',
      dtype=self.dtype,
      name='patch_embed',
    )(x)
    x = x.reshape(x.shape[0], -1, self.width)
    if self.pool == 'token':
      token = self.param('class_token', _EMBEDDING_INIT, (1, 1, self.width))
      tokens = jnp.broadcast_to(token, (x.shape[0], 1, self.width))
      x = jnp.concatenate([tokens.astype(self.dtype), x], axis=1)
    position = self.param(
      'position_embedding', _EMBEDDING_INIT, (1, *x.shape[1:])
    )
    x = x + position.astype(self.dtype)
    block = Block(self.num_heads, self.layer_scale, self.dtype, name='blocks')
    x, _ = nn.scan(
      lambda block, x, _: (block(x), None),
      variable_axes={'params': 0},
      split_rngs={'params': True},
      length=self.depth,
    )(block, x, None)
    x = _norm(self.dtype, 'norm')(x)
    x = x[:, 0] if self.pool == 'token' else jnp.mean(x, axis=1)
    x = nn.Dense(
      self.num_classes,
      kernel_init=_HEAD_INIT,
      dtype=self.dtype,
      name='head',
    )(x)
    return x.astype(jnp.float32)

  def _check(self, shape: tuple[int, ...]) -> None:
    """Refuses arguments that do not fit each other, or the images."""
    if self.pool not in POOLS:
      raise ValueError(
        f'model.pool is {self.pool!r}, wanted one of: {", ".join(POOLS)}'
      )
    if self.width % self.num_heads:
      raise ValueError(
        f'model.num_heads is {self.num_heads}, wanted a divisor of'
        f' model.width, {self.width}'
      )
    height, width = shape[1:3]
    if height % self.patch_size or width % self.patch_size:
      raise ValueError(
        f'model.patch_size is {self.patch_size}, wanted a divisor of both'
        f' sides of the images, {height} and {width}'
      )


def _norm(dtype: Any, name: str) -> nn.LayerNorm:
  return nn.LayerNorm(epsilon=NORM_EPSILON, dtype=dtype, name=name)
