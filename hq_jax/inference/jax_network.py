"""Networks in JAX, from their lists of layers: for GPUs, TPUs and exports."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax.core import convolutions
from hq_jax.core import trees
from hq_jax.inference import architectures
from hq_jax.inference import network

# Path of a tensor without 'params/', as 'stem/kernel': its values.
Weights = Mapping[str, jax.Array | np.ndarray]


class JaxEngine:
  """Logits by JAX, on the device that it finds."""

  def __init__(self, artifact: artifact_lib.Artifact):
    layers = network.read_layers(artifact)
    self._weights = jax.device_put(make_weights(artifact))
    self._apply = jax.jit(lambda weights, x: apply(layers, weights, x))
    # Shifted products are fast on a CPU as long as they stay in its caches.
    has_depthwise = any(layer.groups > 1 for layer in layers)
    is_small = has_depthwise and jax.default_backend() == 'cpu'
    self._most_images = 2 if is_small else None

  def logits(self, images: np.ndarray) -> np.ndarray:
    """Maps float32 `[n, height, width, channels]` to `[n, classes]`."""
    step = self._most_images or max(len(images), 1)
    found = [
      self._apply(self._weights, images[start : start + step])
      for start in range(0, len(images), step)
    ]
    return np.concatenate(found)


def make_weights(artifact: artifact_lib.Artifact) -> Weights:
  """The weights of a file, in float32."""
  variables = artifact_lib.to_variables(artifact)
  # Without the statistics that only Flax needs, of norms that are folded.
  return fold_norms(
    {
      path: values
      for path, values in trees.flatten(variables).items()
      if path in artifact.tensors
    }
  )


def fold_norms(variables: chex.ArrayTree) -> dict[str, Any]:
  """The weights of a Flax network, whose norms become `x a + b`.

  `a = scale / sqrt(var + epsilon)` and `b = bias - a mean`; a norm without
  statistics is folded already.
  """
  leaves = trees.flatten(variables)
  weights = {
    path.removeprefix('params/'): values
    for path, values in leaves.items()
    if path.startswith('params/')
  }
  epsilon = np.float32(architectures.NORM_EPSILON)
  for path, mean in leaves.items():
    if path.startswith('batch_stats/') and path.endswith('/mean'):
      norm = path.removeprefix('batch_stats/').removesuffix('/mean')
      variance = leaves[f'batch_stats/{norm}/var']
      a = weights[f'{norm}/scale'] / (variance + epsilon) ** np.float32(0.5)
      weights[f'{norm}/scale'] = a
      weights[f'{norm}/bias'] = weights[f'{norm}/bias'] - a * mean
  return weights


def apply(
  layers: Sequence[architectures.Layer], weights: Weights, images: jax.Array
) -> jax.Array:
  """Maps images `[n, height, width, channels]` to logits `[n, classes]`."""
  return compute_outputs(layers, weights, images)[layers[-1].name]


def compute_outputs(
  layers: Sequence[architectures.Layer], weights: Weights, images: jax.Array
) -> dict[str, jax.Array]:
  """The output of every layer, by its name.

  Under `jit`, XLA leaves out what the caller does not use.
  """
  outputs = {architectures.INPUT: images}
  for layer in layers:
    inputs = [outputs[name] for name in layer.inputs]
    outputs[layer.name] = _OPS[layer.op](layer, weights, *inputs)
  return outputs


def _conv(layer, weights, x):
  kernel = weights[f'{layer.name}/kernel']
  return convolutions.convolve(
    x, kernel, layer.stride, layer.padding, layer.groups
  )


def _dense(layer, weights, x):
  y = jnp.matmul(x, weights[f'{layer.name}/kernel'])
  return y + weights[f'{layer.name}/bias'] if layer.has_bias else y


def _norm(layer, weights, x):
  return x * weights[f'{layer.name}/scale'] + weights[f'{layer.name}/bias']


def _max_pool(layer, weights, x):
  del weights
  window = (1, layer.size, layer.size, 1)
  strides = (1, layer.stride, layer.stride, 1)
  sides = ((0, 0), *[(layer.padding, layer.padding)] * 2, (0, 0))
  return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, sides)


_OPS: dict[str, Callable[..., jax.Array]] = {
  'conv': _conv,
  'dense': _dense,
  'norm': _norm,
  'relu': lambda layer, weights, x: jax.nn.relu(x),
  'relu6': lambda layer, weights, x: jax.nn.relu6(x),
  'add': lambda layer, weights, x, y: x + y,
  'max_pool': _max_pool,
  'mean': lambda layer, weights, x: jnp.mean(x, axis=(1, 2)),
  'flatten': lambda layer, weights, x: x.reshape(x.shape[0], -1),
}
