"""State dictionaries of PyTorch, in torchvision's names."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax.artifact import variables as variables_lib
from hq_jax.core import torch_names
from hq_jax.inference import architectures
from hq_jax.inference import network


def make_state(artifact: artifact_lib.Artifact) -> dict[str, np.ndarray]:
  """All weights in float32, kernels `[out, in, h, w]` and `[out, in]`.

  A folded norm has the mean 0 and the variance `1 - epsilon`.
  """
  naming = torch_names.get_naming(artifact.model)
  variables = artifact_lib.to_variables(artifact)
  state: dict[str, np.ndarray] = {}
  for layer in network.read_layers(artifact):
    leaves = {
      f'{collection}/{layer.name}/{leaf}': values
      for collection in variables
      for leaf, values in _find(variables[collection], layer.name).items()
    }
    for path, name in torch_names.name_leaves(leaves, naming).items():
      state[name] = _to_torch_layout(leaves[path])
    if layer.op == 'norm':
      name = naming(layer.name)
      if layer.name in artifact.folded_norms:
        variance = variables_lib.unit_variance(architectures.NORM_EPSILON)
        state[f'{name}.running_var'][:] = variance
      state[f'{name}.num_batches_tracked'] = np.zeros((), np.int64)
  return state


def _find(tree: Mapping[str, Any], module: str) -> Mapping[str, np.ndarray]:
  """The arrays of a layer; a layer without weights has none."""
  for name in module.split('/'):
    tree = tree.get(name, {})
  return tree


def _to_torch_layout(values: np.ndarray) -> np.ndarray:
  axes = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[values.ndim]
  return np.ascontiguousarray(values.transpose(axes))
