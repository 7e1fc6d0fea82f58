"""State dictionaries of PyTorch, in the names of torchvision and timm."""

import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax.artifact import variables
from hq_jax.core import torch_names
from hq_jax.inference import layer as layer_lib
from hq_jax.inference import network

_LEAVES = {'/kernel': '.weight', '/scale': '.weight', '/bias': '.bias', '': ''}


def make_state(artifact: artifact_lib.Artifact) -> dict[str, np.ndarray]:
  """All weights in float32, kernels `[out, in, h, w]` and `[out, in]`.

  A folded norm has the mean 0 and the variance `1 - epsilon`. Layers that share
  a name are one, their outputs one after the other.
  """
  naming = torch_names.get_naming(artifact.model)
  found: dict[str, list[np.ndarray]] = {}
  counts: dict[str, np.ndarray] = {}
  for layer in network.read_layers(artifact):
    for leaf in layer_lib.list_tensors(layer):
      tensor = network.read_tensor(artifact, layer, leaf)
      values = _to_torch_layout(layer, leaf, variables.to_array(tensor))
      name = f'{naming(layer.name)}{_LEAVES[leaf]}'
      found.setdefault(name, []).append(values)
    if layer.op == 'norm':
      name = naming(layer.name)
      mean, variance = _get_statistics(artifact, layer)
      found[f'{name}.running_mean'] = [mean]
      found[f'{name}.running_var'] = [variance]
      counts[f'{name}.num_batches_tracked'] = np.zeros((), np.int64)
  # Row-major: files are written as arrays lie in memory.
  state = {
    name: np.ascontiguousarray(np.concatenate(parts))
    for name, parts in found.items()
  }
  return state | counts


def _get_statistics(
  artifact: artifact_lib.Artifact, layer: layer_lib.Layer
) -> list[np.ndarray]:
  """The mean and the variance of a batch norm."""
  if layer.name not in artifact.folded_norms:
    path = f'batch_stats/{layer.name}'
    return [
      variables.to_array(artifact.tensors[f'{path}/{leaf}'])
      for leaf in ('mean', 'var')
    ]
  variance = variables.unit_variance(layer_lib.NORM_EPSILON)
  return [np.full(layer.shape[-1:], x, np.float32) for x in (0, variance)]


def _to_torch_layout(
  layer: layer_lib.Layer, leaf: str, values: np.ndarray
) -> np.ndarray:
  if leaf == '/kernel' and layer.op == 'conv':
    return values.transpose(3, 2, 0, 1)
  if leaf == '/kernel':
    return values.reshape(-1, layer.shape[-1]).T
  return values.ravel() if leaf else values
