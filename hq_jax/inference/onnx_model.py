"""The ONNX model of a file, for onnxruntime and for whatever reads ONNX."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax.data import normalization
from hq_jax.inference import architectures
from hq_jax.inference import folded_layers
from hq_jax.inference import layer as layer_lib
from hq_jax.inference import network
from hq_jax.inference import onnx_graph
from hq_jax.inference import onnx_proto

INPUT, OUTPUT = 'images', 'logits'
WEIGHTS = ('float32', 'int8', 'int2')
ACTIVATIONS = ('float32', 'int8')
# Versions of the operators and of the format: the oldest that have them all.
_OPSET, _IR_VERSION = 13, 7
_GELU_OPSET, _GELU_IR_VERSION = 20, 9
_INT2_OPSET, _INT2_IR_VERSION = 25, 13


def make_onnx(
  artifact: artifact_lib.Artifact,
  *,
  weights: str = 'int8',
  activations: str = 'float32',
  ranges: Mapping[str, float] | None = None,
  raw_input: bool = False,
  more_outputs: Sequence[str] = (),
  external: str | None = None,
) -> bytes:
  """Makes an ONNX model of any network; batch norms are folded away.

  It maps `images`, `[n, height, width, channels]`, to `logits`, `[n, classes]`,
  for any `n`.

  Args:
    artifact: a validated artifact, such as one that was read.
    weights: 'int8' (the codes, and a scale for each output channel: exact),
      'int2' (the same, packed four in a byte; needs opset 25) or 'float32'.
      A kernel without codes is float32 in any case, and one of int8 codes is
      int8 in 'int2'.
    activations: 'float32', or 'int8': what is passed between layers is rounded
      to 8 bits, and kernels without codes are, too; not with 'int2'. The first
      layers of MobileNetV2 stay float32, where rounding costs most.
    ranges: for 'int8': the largest absolute value of each output in
      `architectures.find_activations`; None stands for those of the file.
    raw_input: whether `images` are uint8, as in image files, and the model
      normalizes them; else float32, normalized.
    more_outputs: layers whose outputs follow the logits, in this order.
    external: leaves the weights out: the name of the file, beside the model,
      in which the kernels and biases lie as float32, those of a layer after
      those of the layer before it. The other arguments are then as by default.

  Returns:
    The bytes of an ONNX file.

  Raises:
    ValueError: an unknown network, tensors that are not the network's, no
      ranges, or preprocessing without mean and std.
  """
  for field, value, wanted in (
    ('weights', weights, WEIGHTS),
    ('activations', activations, ACTIVATIONS),
  ):
    if value not in wanted:
      raise ValueError(
        f'{field} is {value!r:.80}, wanted one of: {", ".join(wanted)}'
      )
  if weights == 'int2' and activations == 'int8':
    raise ValueError(
      "activations is 'int8', wanted 'float32' where weights is 'int2': no"
      ' engine multiplies the two'
    )
  layers = network.read_layers(artifact)
  is_signed = architectures.find_activations(layers)
  if activations == 'float32':
    ranges = {}
  else:
    ranges = _check_ranges(ranges or find_ranges(artifact), is_signed)
    ranges = _leave_first(layers, ranges, artifact.input_shape[0])
  graph = onnx_graph.Graph(
    folded_layers.fold_layers(artifact, layers),
    folded_layers.read_leaves(artifact, layers),
    weights,
    ranges,
    is_signed,
    external,
  )
  x = _normalize(graph, artifact) if raw_input else INPUT
  has_tokens = any(map(layer_lib.is_tokens, layers))
  # What makes tokens of an image stays float32.
  if not has_tokens and next(iter(is_signed)) in ranges:
    x = graph.round_input(x, *_find_limits(artifact))
  outputs = {layer_lib.INPUT: x}
  for layer in layers:
    name = OUTPUT if layer is layers[-1] else layer.name
    inputs = [outputs[source] for source in layer.inputs]
    outputs[layer.name] = graph.append(layer, inputs, name)
  input_type = onnx_proto.UINT8 if raw_input else onnx_proto.FLOAT
  images = onnx_proto.value(INPUT, input_type, ('n', *artifact.input_shape))
  logits = onnx_proto.value(OUTPUT, onnx_proto.FLOAT, ('n', *layers[-1].shape))
  found = [logits]
  by_name = {layer.name: layer for layer in layers}
  for source in more_outputs:
    name = graph.node('Identity', [outputs[source]], f'{source}/output')
    *sides, width = by_name[source].shape
    shape: tuple[int | str, ...] = ('n', width, *sides)
    if layer_lib.is_tokens(by_name[source]):
      shape = ('n_tokens', width)
    found.append(onnx_proto.value(name, onnx_proto.FLOAT, shape))
  opset, ir_version = _OPSET, _IR_VERSION
  if has_tokens:
    opset, ir_version = _GELU_OPSET, _GELU_IR_VERSION
  if weights == 'int2':
    opset, ir_version = _INT2_OPSET, _INT2_IR_VERSION
  return onnx_proto.model(
    graph.nodes,
    graph.constants,
    [images],
    found,
    name=artifact.model,
    opset=opset,
    ir_version=ir_version,
  )


def find_ranges(artifact: artifact_lib.Artifact) -> dict[str, float]:
  """The ranges of activations that a file has, by layer; empty without any."""
  names = architectures.find_activations(network.read_layers(artifact))
  ranges = artifact.activation_ranges
  if ranges and len(ranges) != len(names):
    raise ValueError(
      f'activation_ranges has {len(ranges)} entries, wanted {len(names)}'
    )
  return dict(zip(names, ranges, strict=False))


def _check_ranges(
  ranges: Mapping[str, float], names: Iterable[str]
) -> dict[str, float]:
  if not ranges:
    raise ValueError(
      "activations is 'int8', but the file has no ranges and none are given"
    )
  for name in names:
    if not 0 < ranges.get(name, 0) < np.inf:
      raise ValueError(
        f'ranges[{name!r}] is {ranges.get(name)}, wanted a number above 0'
      )
  return {name: float(ranges[name]) for name in names}


def _leave_first(
  layers: Sequence[layer_lib.Layer],
  ranges: Mapping[str, float],
  height: int,
) -> dict[str, float]:
  """The ranges without those of layers that are better computed in float32.

  In a network with depthwise convolutions these are the first ones, whose
  images are a quarter as tall as what goes in or taller: rounding them would
  cause half of the error in the logits and save a third of the time.
  """
  if all(layer.groups == 1 for layer in layers):
    return dict(ranges)
  return {
    layer.name: ranges[layer.name]
    for layer in layers
    if layer.name in ranges and 4 * layer.shape[0] < height
  }


def _find_limits(artifact: artifact_lib.Artifact) -> tuple[float, float]:
  """The least and the largest value of a normalized image."""
  pixels = normalization.get_pixel_range(artifact.preprocessing)
  mean, std = _get_statistics(artifact)
  limits = [(pixel - mean) / std for pixel in pixels]
  return float(np.min(limits)), float(np.max(limits))


def _get_statistics(artifact):
  channels = artifact.input_shape[-1]
  return normalization.get_statistics(artifact.preprocessing, channels)


def _normalize(graph: onnx_graph.Graph, artifact: artifact_lib.Artifact) -> str:
  """The same operations as `normalization.normalize`, so the same bits."""
  mean, std = _get_statistics(artifact)
  x = graph.node('Cast', [INPUT], 'pixels', to=onnx_proto.FLOAT)
  mean_name = graph.constant('pixels/mean', mean)
  x = graph.node('Sub', [x, mean_name], 'pixels/centered')
  std_name = graph.constant('pixels/std', std)
  return graph.node('Div', [x, std_name], 'pixels/normalized')
