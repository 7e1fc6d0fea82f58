"""The network of a file: its layers, and the tensors that they need."""

from collections.abc import Sequence

from hq_jax import artifact as artifact_lib
from hq_jax.inference import architectures

_WEIGHTED = ('conv', 'dense', 'norm')


def read_layers(
  artifact: artifact_lib.Artifact,
) -> tuple[architectures.Layer, ...]:
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
    if found.get(path) != wanted.get(path):
      raise ValueError(
        f'{path} has shape {found.get(path)}, wanted {wanted.get(path)}'
      )
  return layers


def count_classes(artifact: artifact_lib.Artifact) -> int:
  """The number of logits, of a file without class names too."""
  head = artifact.tensors.get('params/head/kernel')
  if artifact.class_names or head is None:
    return len(artifact.class_names)
  return artifact_lib.shape_of(head)[-1]


def _list_shapes(
  artifact: artifact_lib.Artifact, layers: Sequence[architectures.Layer]
) -> dict[str, tuple[int, ...]]:
  outputs = {architectures.INPUT: tuple(artifact.input_shape)}
  outputs |= {layer.name: layer.shape for layer in layers}
  shapes: dict[str, tuple[int, ...]] = {}
  for layer in layers:
    if layer.op not in _WEIGHTED:
      continue
    path, width = f'params/{layer.name}', layer.shape[-1]
    if layer.op == 'norm':
      shapes[f'{path}/scale'] = shapes[f'{path}/bias'] = (width,)
      if layer.name not in artifact.folded_norms:
        statistics = f'batch_stats/{layer.name}'
        shapes[f'{statistics}/mean'] = shapes[f'{statistics}/var'] = (width,)
      continue
    num_inputs = outputs[layer.inputs[0]][-1] // layer.groups
    sides = (layer.size, layer.size) if layer.op == 'conv' else ()
    shapes[f'{path}/kernel'] = (*sides, num_inputs, width)
    if layer.has_bias:
      shapes[f'{path}/bias'] = (width,)
  return shapes
