"""Networks in JAX, from their lists of layers: for GPUs, TPUs and exports."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax.artifact import variables
from hq_jax.core import convolutions
from hq_jax.inference import layer as layer_lib
from hq_jax.inference import network
from hq_jax.runtime import backend

# Name of a layer and its tensor, as 'stem/kernel': its values.
Weights = Mapping[str, jax.Array | np.ndarray]
_HALF = np.float32(0.5)


class JaxEngine:
  """Logits by JAX, on the device that it finds."""

  def __init__(self, artifact: artifact_lib.Artifact):
    layers = network.read_layers(artifact)
    backend.start()
    self._weights = jax.device_put(make_weights(layers, read_leaves(artifact)))
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


def read_leaves(artifact: artifact_lib.Artifact) -> dict[str, np.ndarray]:
  """The values of a file's tensors, as `make_weights` takes them."""
  return {path: variables.to_array(x) for path, x in artifact.tensors.items()}


def make_weights(
  layers: Sequence[layer_lib.Layer], leaves: Mapping[str, Any]
) -> dict[str, Any]:
  """The weights of each layer; a norm's become those of `x a + b`.

  `a = scale / sqrt(var + epsilon)` and `b = bias - a mean`; a norm without
  statistics is folded already.

  Args:
    layers: of the network.
    leaves: the arrays of its variables or of its file, by their whole paths.
  """
  weights = {}
  for layer in layers:
    for leaf in layer_lib.list_tensors(layer):
      values = leaves[network.get_path(layer, leaf)]
      own = values if layer.place is None else values[layer.place]
      weights[f'{layer.name}{leaf}'] = own
    variance = leaves.get(f'batch_stats/{layer.name}/var')
    if layer.op == 'norm' and variance is not None:
      mean = leaves[f'batch_stats/{layer.name}/mean']
      deviation = (variance + np.float32(layer_lib.NORM_EPSILON)) ** _HALF
      a = weights[f'{layer.name}/scale'] / deviation
      weights[f'{layer.name}/scale'] = a
      weights[f'{layer.name}/bias'] = weights[f'{layer.name}/bias'] - a * mean
  return weights


def apply(
  layers: Sequence[layer_lib.Layer], weights: Weights, images: jax.Array
) -> jax.Array:
  """Maps images `[n, height, width, channels]` to logits `[n, classes]`."""
  return compute_outputs(layers, weights, images)[layers[-1].name]


def compute_outputs(
  layers: Sequence[layer_lib.Layer], weights: Weights, images: jax.Array
) -> dict[str, jax.Array]:
  """The output of every layer, by its name.

  Under `jit`, XLA leaves out what the caller does not use.
  """
  outputs = {layer_lib.INPUT: images}
  for layer in layers:
    inputs = [outputs[name] for name in layer.inputs]
    outputs[layer.name] = _OPS[layer.op](layer, weights, *inputs)
  return outputs


def _conv(layer, weights, x):
  kernel = weights[f'{layer.name}/kernel']
  y = convolutions.convolve(
    x, kernel, layer.stride, layer.padding, layer.groups
  )
  return _add_bias(layer, weights, y)


def _dense(layer, weights, x):
  kernel = weights[f'{layer.name}/kernel'].reshape(x.shape[-1], -1)
  return _add_bias(layer, weights, jnp.matmul(x, kernel))


def _add_bias(layer, weights, y):
  return y + weights[f'{layer.name}/bias'].ravel() if layer.bias else y


def _norm(layer, weights, x):
  return x * weights[f'{layer.name}/scale'] + weights[f'{layer.name}/bias']


def _max_pool(layer, weights, x):
  del weights
  return convolutions.max_pool(x, layer.size, layer.stride, layer.padding)


def _class_token(layer, weights, x):
  token = jnp.broadcast_to(weights[layer.name], (x.shape[0], 1, x.shape[-1]))
  return jnp.concatenate([token, x], axis=1)


def _layer_norm(layer, weights, x):
  x = x - x.mean(axis=-1, keepdims=True)
  variance = jnp.square(x).mean(axis=-1, keepdims=True)
  x = x * lax.rsqrt(variance + layer_lib.LAYER_NORM_EPSILON)
  return _norm(layer, weights, x)


def _attention(layer, weights, *inputs):
  del weights
  query, key, value = (
    x.reshape(*x.shape[:2], layer.num_heads, -1) for x in inputs
  )
  mixed = jax.nn.dot_product_attention(query, key, value)
  return mixed.reshape(inputs[0].shape)


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
  'tokens': lambda layer, weights, x: x.reshape(x.shape[0], *layer.shape),
  'class_token': _class_token,
  'position': lambda layer, weights, x: x + weights[layer.name],
  'layer_norm': _layer_norm,
  'attention': _attention,
  'gelu': lambda layer, weights, x: jax.nn.gelu(x, approximate=False),
  'layer_scale': lambda layer, weights, x: x * weights[layer.name],
  'first_token': lambda layer, weights, x: x[:, 0],
  'mean_tokens': lambda layer, weights, x: jnp.mean(x, axis=1),
}
