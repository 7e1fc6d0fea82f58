"""The network of a file: its layers, and the tensors that they need."""

from collections.abc import Collection, Sequence
import os

import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax.artifact import header as headers
from hq_jax.artifact import layout
from hq_jax.artifact import reader
from hq_jax.artifact import variables
from hq_jax.core import qtensors
from hq_jax.inference import architectures
from hq_jax.inference import layer as layer_lib


def read(path: str | os.PathLike[str]) -> artifact_lib.Artifact:
  """Reads a file; by its header alone, unless its tensors fit its network."""
  data = reader.read_bytes(path)
  with reader.naming(os.fspath(path)):
    parsed = reader.parse(data)
    find_layers(parsed.header)
    return reader.decode(parsed)


def read_layers(
  artifact: artifact_lib.Artifact,
) -> tuple[layer_lib.Layer, ...]:
  """Lists the layers of a file's network, whose tensors are found to fit."""
  specs = [layout.spec_of(path, x) for path, x in artifact.tensors.items()]
  return find_layers(headers.make(artifact, specs))


def find_layers(header: headers.Header) -> tuple[layer_lib.Layer, ...]:
  """As `read_layers`, from the header alone."""
  found = {spec.path: spec for spec in header.specs}
  head = found.get('params/head/kernel')
  layers = architectures.make_layers(
    header.model,
    header.model_args,
    header.input_shape,
    _count_classes(header.class_names, head and head.shape),
  )
  wanted = _list_shapes(header.folded_norms, layers)
  for path in [*wanted, *found]:
    # A file may call things anything: no control character is printed.
    name = repr(path)[1:-1]
    spec = found.get(path)
    shape = spec and spec.shape
    if spec is None or shape != wanted.get(path):
      raise ValueError(f'{name} has shape {shape}, wanted {wanted.get(path)}')
    if spec.encoding in layout.DTYPES:
      _, dtype = layout.DTYPES[spec.encoding]
      if dtype.kind != 'f':
        raise ValueError(f'{name} is {dtype}, wanted floating point')
  return layers


def count_classes(artifact: artifact_lib.Artifact) -> int:
  """The number of logits, of a file without class names too."""
  head = artifact.tensors.get('params/head/kernel')
  shape = None if head is None else artifact_lib.shape_of(head)
  return _count_classes(artifact.class_names, shape)


def _count_classes(
  class_names: Sequence[str], head: tuple[int, ...] | None
) -> int:
  return len(class_names) if class_names or not head else head[-1]


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
  folded_norms: Collection[str], layers: Sequence[layer_lib.Layer]
) -> dict[str, tuple[int, ...]]:
  shapes: dict[str, tuple[int, ...]] = {}
  for layer in layers:
    for leaf, shape in layer_lib.list_tensors(layer).items():
      # Of a stack, the last layer says how many there are.
      stack = () if layer.place is None else (layer.place + 1,)
      shapes[get_path(layer, leaf)] = (*stack, *shape)
    if layer.op == 'norm' and layer.name not in folded_norms:
      statistics = f'batch_stats/{layer.name}'
      for leaf in ('mean', 'var'):
        shapes[f'{statistics}/{leaf}'] = layer.shape[-1:]
  return shapes
