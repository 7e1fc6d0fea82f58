"""A perceptron of fully connected layers."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from hq_jax.models import layers


class MLP(nn.Module):
  """A multilayer perceptron: dense layers with batch norms, and a head.

  Every hidden layer is `relu(norm(x W))`, without a bias of its own.
  """

  num_classes: int
  widths: tuple[int, ...] = (256, 256, 256)  # of each hidden layer
  dtype: Any = jnp.float32  # of the computation; all else is float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps images `[n, h, w, c]` to float32 logits `[n, num_classes]`."""
    x = x.reshape(x.shape[0], -1)
    for number, width in enumerate(self.widths, 1):
      x = nn.Dense(
        width, use_bias=False, dtype=self.dtype, name=f'dense{number}'
      )(x)
      x = nn.relu(layers.norm(x, train, self.dtype, f'norm{number}'))
    x = nn.Dense(self.num_classes, dtype=self.dtype, name='head')(x)
    return x.astype(jnp.float32)
