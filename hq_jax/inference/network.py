"""The network of a file: its layers, and the tensors that they need."""

from collections.abc import Sequence

import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax.artifact import variables
from hq_jax.core import qtensors
from hq_jax.inference import architectures
from hq_jax.inference import layer as layer_lib


def read_layers(
  artifact: artifact_lib.Artifact,
) -> tuple[layer_lib.Layer, ...]:
  """Lists the layers of a file's network, whose tensors are found to fit."""
  layers = architectures.make_layers(
    artifact.model,
    artifact.model_args,
    artifact.input_shape,
    count_classes(artifact),
  )
  wanted = _list_shapes(artifact, layers)
  found = {
    path: artifact_lib.shape_of(tensor)
    for path, tensor in artifact.tensors.items()
  }
  for path in [*wanted, *found]:
    # A file may call things anything: no control character is printed.
    name = repr(path)[1:-1]
    if found.get(path) != wanted.get(path):
      raise ValueError(
        f'{name} has shape {found.get(path)}, wanted {wanted.get(path)}'
      )
    tensor = artifact.tensors[path]
    if isinstance(tensor, np.ndarray) and tensor.dtype.kind != 'f':
      raise ValueError(f'{name} is {tensor.dtype}, wanted floating point')
  return layers


def count_classes(artifact: artifact_lib.Artifact) -> int:
  """The number of logits, of a file without class names too."""
  head = artifact.tensors.get('params/head/kernel')
  if artifact.class_names or head is None:
    return len(artifact.class_names)
  return artifact_lib.shape_of(head)[-1]


def get_path(layer: layer_lib.Layer, leaf: str) -> str:
  """The path of a tensor of a layer, as `layer_lib.list_tensors` has them."""
  return f'params/{layer.module or layer.name}{leaf}'


def read_tensor(
  artifact: artifact_lib.Artifact, layer: layer_lib.Layer, leaf: str
) -> artifact_lib.Tensor:
  """A tensor of a layer, of a stack only that of its own."""
  tensor = artifact.tensors[get_path(layer, leaf)]
  if layer.place is None:
    return tensor
  if not isinstance(tensor, qtensors.TernaryTensor | qtensors.Int8Tensor):
    return variables.to_array(tensor)[layer.place]
  codes, scale = tensor
  if scale is not None and scale.ndim == codes.ndim:
    scale = np.broadcast_to(scale, (len(codes), *scale.shape[1:]))[layer.place]
  return tensor._replace(codes=codes[layer.place], scale=scale)


def _list_shapes(
  artifact: artifact_lib.Artifact, layers: Sequence[layer_lib.Layer]
) -> dict[str, tuple[int, ...]]:
  shapes: dict[str, tuple[int, ...]] = {}
  for layer in layers:
    for leaf, shape in layer_lib.list_tensors(layer).items():
      # Of a stack, the last layer says how many there are.
      stack = () if layer.place is None else (layer.place + 1,)
      shapes[get_path(layer, leaf)] = (*stack, *shape)
    if layer.op == 'norm' and layer.name not in artifact.folded_norms:
      statistics = f'batch_stats/{layer.name}'
      for leaf in ('mean', 'var'):
        shapes[f'{statistics}/{leaf}'] = layer.shape[-1:]
  return shapes
