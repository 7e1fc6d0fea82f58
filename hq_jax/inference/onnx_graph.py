"""Nodes and constants of an ONNX graph, layer by layer of a network."""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any, NamedTuple

import numpy as np

from hq_jax.artifact import encodings
from hq_jax.inference import folded_layers
from hq_jax.inference import layer as layer_lib
from hq_jax.inference import onnx_proto

_RELUS = ('relu', 'relu6')
# Beyond it a bias could make an int32 sum overflow.
_MAX_BIAS = 2.0**30
# Of the output, the first axis: `[out, in, height, width]`, `[out, in]`.
_ONNX_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}


class Rounded(NamedTuple):
  """Values of 8 bits: `step * (codes - zero)`; the names of all three."""

  codes: str
  step: str
  zero: str
  size: float  # of a step


class Graph:
  """Appends layers; `nodes` and `constants` are then those of the model.

  Images are `[n, channels, height, width]` from the first convolution on.
  Tokens are `[n tokens, width]`, those of an image one after the other.
  """

  def __init__(
    self,
    folded: Mapping[str, folded_layers.Folded],
    leaves: Mapping[str, np.ndarray],
    weights: str,
    ranges: Mapping[str, float],
    is_signed: Mapping[str, bool],
    external: str | None = None,
  ):
    self.nodes: list[bytes] = []
    self.constants: list[bytes] = []
    self._folded = folded
    self._leaves = leaves
    self._weights = weights
    self._ranges = ranges
    self._is_signed = is_signed
    self._external = external
    self._external_bytes = 0
    self._folded_norms = {x.norm for x in folded.values()}
    # By the name of the values as floats.
    self._rounded: dict[str, Rounded] = {}

  def node(
    self,
    op: str,
    inputs: Sequence[str],
    output: str,
    **attributes: onnx_proto.Attribute,
  ) -> str:
    """Appends a node and returns the name of what it computes."""
    self.nodes.append(onnx_proto.node(op, inputs, [output], attributes))
    return output

  def constant(self, name: str, values: np.ndarray | np.generic) -> str:
    """Appends a constant and returns its name."""
    data_type = onnx_proto.get_type(values.dtype)
    data = np.ascontiguousarray(values).tobytes()
    self.constants.append(
      onnx_proto.tensor(name, data_type, values.shape, data)
    )
    return name

  def _external_constant(self, name: str, shape: Sequence[int]) -> str:
    """Appends float32 that whoever runs the model lays after those before."""
    assert self._external is not None
    length = 4 * math.prod(shape)
    place = onnx_proto.External(self._external, self._external_bytes, length)
    self._external_bytes += length
    self.constants.append(
      onnx_proto.tensor(name, onnx_proto.FLOAT, shape, place)
    )
    return name

  def append(
    self, layer: layer_lib.Layer, inputs: Sequence[str], name: str
  ) -> str:
    """Appends a layer and returns the name of its output: mostly `name`."""
    is_rounded = layer.name in self._ranges
    # Rounding to [0, range] is a rectifier; nothing else is left of the layer.
    is_done = is_rounded and layer.op in _RELUS
    if is_done or layer.name in self._folded_norms:
      (output,) = inputs
    else:
      output = _OPS[layer.op](self, layer, name, *inputs)
    if not is_rounded:
      return output
    largest = self._ranges[layer.name]
    if layer.op == 'relu6':
      largest = min(largest, 6.0)
    if self._is_signed[layer.name]:
      return self._round(layer.name, output, largest / 127, 128)
    return self._round(layer.name, output, largest / 255, 0)

  def round_input(self, x: str, low: float, high: float) -> str:
    """Rounds normalized images to 8 bits: their pixels have no more."""
    # So that the zeros of a padding are zeros.
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / 255
    return self._round('input', x, step, round(-low / step))

  def move(
    self, op: str, x: str, output: str, **attributes: onnx_proto.Attribute
  ) -> str:
    """Appends a node that only moves or picks values: they stay rounded."""
    rounded = self._rounded.get(x)
    if rounded is None:
      return self.node(op, [x], output, **attributes)
    codes = self.node(op, [rounded.codes], f'{output}/codes', **attributes)
    return self._to_float(rounded._replace(codes=codes), output)

  def reshape(self, x: str, shape: Sequence[int], output: str) -> str:
    """Appends a node that gives values other axes, one of them -1."""
    sizes = self.constant(f'{output}/shape', np.array(shape, np.int64))
    return self.node('Reshape', [x, sizes], output)

  def leaf(self, layer: layer_lib.Layer, leaf: str = '') -> str:
    """Appends a tensor of a layer, other than a kernel and its bias."""
    name = f'{layer.name}{leaf}'
    values = self._leaves[name]
    # A layer's output has the name of the layer.
    name = name if leaf else f'{name}/values'
    if self._external is not None:
      return self._external_constant(name, values.shape)
    return self.constant(name, values)

  def weights(self, layer: layer_lib.Layer, x: str) -> tuple[str, str]:
    """Appends the kernel and the bias of a layer that takes `x`."""
    folded = self._folded[layer.name]
    if self._external is not None:
      kernel_shape = _to_onnx_axes(folded.codes).shape
      return (
        self._external_constant(f'{layer.name}/kernel', kernel_shape),
        self._external_constant(f'{layer.name}/bias', folded.bias.shape),
      )
    if x in self._rounded:
      return self._int8_weights(layer, folded, self._rounded[x].size)
    bias = self.constant(f'{layer.name}/bias', folded.bias.astype(np.float32))
    codes = _to_onnx_axes(folded.codes)
    is_exact = codes.dtype == np.int8 and self._weights != 'float32'
    if not is_exact:
      scale = folded.scale.reshape(-1, *[1] * (codes.ndim - 1))
      values = (codes * scale).astype(np.float32)
      return self.constant(f'{layer.name}/kernel', values), bias
    is_int2 = folded.is_ternary and self._weights == 'int2'
    add_codes = self._int2_constant if is_int2 else self.constant
    inputs = [
      add_codes(f'{layer.name}/codes', codes),
      self.constant(f'{layer.name}/scale', folded.scale.astype(np.float32)),
    ]
    kernel = f'{layer.name}/kernel'
    return self.node('DequantizeLinear', inputs, kernel, axis=0), bias

  def _int8_weights(
    self, layer: layer_lib.Layer, folded: folded_layers.Folded, step: float
  ) -> tuple[str, str]:
    """A kernel of 8 bits and a bias of 32, for sums of integer products.

    CPUs without VNNI add products of uint8 and int8 in pairs, in 16 bits: with
    ternary codes they fit. Else the kernel is uint8, but for depthwise
    convolutions, which add in 32 bits.
    """
    name = layer.name
    codes, scale = _to_integer_products(folded, step)
    codes = _to_onnx_axes(codes)
    zeros = np.zeros(len(scale), np.int8)
    if not folded.is_ternary and layer.groups == 1:
      codes = (codes.astype(np.int16) + 128).astype(np.uint8)
      zeros = np.full(len(scale), np.uint8(128))
    inputs = [
      self.constant(f'{name}/codes', codes),
      self.constant(f'{name}/scale', scale),
      # Without them, onnxruntime would compute a Gemm in floats.
      self.constant(f'{name}/zeros', zeros),
    ]
    kernel = self.node('DequantizeLinear', inputs, f'{name}/kernel', axis=0)
    bias_scale = (scale * np.float32(step)).astype(np.float32)
    sums = np.rint(folded.bias / bias_scale).astype(np.int32)
    inputs = [
      self.constant(f'{name}/bias_codes', sums),
      self.constant(f'{name}/bias_scale', bias_scale),
    ]
    bias = self.node('DequantizeLinear', inputs, f'{name}/bias', axis=0)
    return kernel, bias

  def _int2_constant(self, name: str, codes: np.ndarray) -> str:
    """Codes in two bits each, four in a byte, the first in the lowest bits."""
    bits = np.pad(codes.ravel(), (0, -codes.size % 4)).view(np.uint8) & 3
    packed = (bits.reshape(-1, 4) << np.array([0, 2, 4, 6], np.uint8)).sum(
      axis=1, dtype=np.uint8
    )
    self.constants.append(
      onnx_proto.tensor(name, onnx_proto.INT2, codes.shape, packed.tobytes())
    )
    return name

  def _round(self, name: str, x: str, step: float, zero: int) -> str:
    """Rounds values to uint8, and what is beyond it to its limits."""
    rounded = Rounded(
      f'{name}/uint8',
      self.constant(f'{name}/step', np.float32(step)),
      self.constant(f'{name}/zero', np.uint8(zero)),
      step,
    )
    self.node('QuantizeLinear', [x, *rounded[1:3]], rounded.codes)
    return self._to_float(rounded, f'{name}/rounded')

  def _to_float(self, rounded: Rounded, output: str) -> str:
    self._rounded[output] = rounded
    return self.node('DequantizeLinear', rounded[:3], output)


def _to_onnx_axes(kernel: np.ndarray) -> np.ndarray:
  return kernel.transpose(_ONNX_AXES[kernel.ndim])


def _to_integer_products(
  folded: folded_layers.Folded, step: float
) -> tuple[np.ndarray, np.ndarray]:
  """Codes and positive scales with which the bias fits into an integer.

  That integer is `bias / (scale step)`, rounded. Where it would be beyond 2^30,
  the scale becomes larger and the codes smaller: mostly 0, beside such a bias.
  A channel of zeros may have any scale, and has the one with which its bias
  becomes 2^30.
  """
  codes, scale, bias = folded.codes, folded.scale, folded.bias
  if codes.dtype != np.int8:
    codes, own = encodings.quantize_int8(codes * scale)
    scale = own.astype(np.float64)
  axes = tuple(range(codes.ndim - 1))
  least = np.abs(bias) / (_MAX_BIAS * step)
  size = np.where(codes.any(axes), np.abs(scale), 0)
  wanted = np.maximum(size, least)
  # No weight and no bias: any scale will do.
  wanted = np.where(wanted > np.finfo(np.float32).tiny, wanted, 1)
  factor = np.sign(scale) * np.where(size == wanted, 1, size / wanted)
  codes = np.rint(codes * factor).astype(np.int8)
  return codes, wanted.astype(np.float32)


def _conv(graph: Graph, layer: layer_lib.Layer, name: str, x: str) -> str:
  if layer.inputs == (layer_lib.INPUT,):
    x = graph.move('Transpose', x, f'{name}/input', perm=(0, 3, 1, 2))
  inputs = [x, *graph.weights(layer, x)]
  slide = _get_slide(layer)
  return graph.node('Conv', inputs, name, group=layer.groups, **slide)


def _max_pool(graph: Graph, layer: layer_lib.Layer, name: str, x: str):
  return graph.move('MaxPool', x, name, **_get_slide(layer))


def _get_slide(layer: layer_lib.Layer) -> dict[str, Any]:
  return {
    'kernel_shape': [layer.size] * 2,
    'strides': [layer.stride] * 2,
    'pads': [layer.padding] * 4,
  }


def _dense(graph: Graph, layer: layer_lib.Layer, name: str, x: str) -> str:
  # With the kernel transposed: onnxruntime turns one that is not into a
  # product with rounded inputs (MatMulNBits), 0.4% off.
  inputs = [x, *graph.weights(layer, x)]
  return graph.node('Gemm', inputs, name, transB=1)


def _tokens(graph: Graph, layer: layer_lib.Layer, name: str, x: str) -> str:
  number, width = layer.shape
  x = graph.reshape(x, (-1, width, number), f'{name}/columns')
  return graph.node('Transpose', [x], name, perm=(0, 2, 1))


def _class_token(graph: Graph, layer, name: str, x: str) -> str:
  number = graph.node('Shape', [x], f'{name}/number', start=0, end=1)
  rest = np.array([1, layer.shape[-1]], np.int64)
  sizes = [number, graph.constant(f'{name}/rest', rest)]
  shape = graph.node('Concat', sizes, f'{name}/shape', axis=0)
  tokens = graph.node('Expand', [graph.leaf(layer), shape], f'{name}/tokens')
  return graph.node('Concat', [tokens, x], name, axis=1)


def _position(graph: Graph, layer, name: str, x: str) -> str:
  x = graph.node('Add', [x, graph.leaf(layer)], f'{name}/sum')
  return graph.reshape(x, (-1, layer.shape[-1]), name)


def _layer_norm(graph: Graph, layer, name: str, x: str) -> str:
  inputs = [x, graph.leaf(layer, '/scale'), graph.leaf(layer, '/bias')]
  epsilon = layer_lib.LAYER_NORM_EPSILON
  return graph.node(
    'LayerNormalization', inputs, name, axis=-1, epsilon=epsilon
  )


def _attention(graph: Graph, layer, name: str, *inputs: str) -> str:
  number, width = layer.shape
  size = width // layer.num_heads
  split = -1, number, layer.num_heads, size
  # Query and value become [n, heads, tokens, size], the key its transpose.
  query, key, value = (
    graph.node(
      'Transpose',
      [graph.reshape(x, split, f'{name}/{part}/heads')],
      f'{name}/{part}/moved',
      perm=perm,
    )
    for part, x, perm in zip(
      ('query', 'key', 'value'),
      inputs,
      ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)),
      strict=True,
    )
  )
  factor = graph.constant(f'{name}/factor', np.float32(size**-0.5))
  query = graph.node('Mul', [query, factor], f'{name}/query/scaled')
  logits = graph.node('MatMul', [query, key], f'{name}/logits')
  shares = graph.node('Softmax', [logits], f'{name}/shares', axis=-1)
  x = graph.node('MatMul', [shares, value], f'{name}/mixed')
  x = graph.node('Transpose', [x], f'{name}/moved', perm=(0, 2, 1, 3))
  return graph.reshape(x, (-1, width), name)


def _layer_scale(graph: Graph, layer, name: str, x: str) -> str:
  return graph.node('Mul', [x, graph.leaf(layer)], name)


def _pool_tokens(graph: Graph, layer, name: str, x: str) -> str:
  width = layer.shape[-1]
  x = graph.reshape(x, (-1, layer.size, width), f'{name}/tokens')
  if layer.op == 'first_token':
    first = graph.constant(f'{name}/first', np.int64(0))
    return graph.node('Gather', [x, first], name, axis=1)
  axes = graph.constant(f'{name}/axes', np.array([1], np.int64))
  return graph.node('ReduceMean', [x, axes], name, keepdims=0)


def _norm(graph: Graph, layer: layer_lib.Layer, name: str, x: str) -> str:
  raise ValueError(f'{layer.name} follows no layer with weights')


def _relu6(graph: Graph, layer: layer_lib.Layer, name: str, x: str) -> str:
  least = graph.constant(f'{layer.name}/min', np.float32(0))
  most = graph.constant(f'{layer.name}/max', np.float32(6))
  return graph.node('Clip', [x, least, most], name)


def _mean(graph: Graph, layer: layer_lib.Layer, name: str, x: str) -> str:
  x = graph.node('GlobalAveragePool', [x], f'{name}/pool')
  return graph.node('Flatten', [x], name, axis=1)


_OPS: dict[str, Callable[..., str]] = {
  'conv': _conv,
  'dense': _dense,
  'norm': _norm,
  'relu': lambda graph, layer, name, x: graph.node('Relu', [x], name),
  'relu6': _relu6,
  'add': lambda graph, layer, name, *inputs: graph.node('Add', inputs, name),
  'max_pool': _max_pool,
  'mean': _mean,
  'tokens': _tokens,
  'class_token': _class_token,
  'position': _position,
  'layer_norm': _layer_norm,
  'attention': _attention,
  'gelu': lambda graph, layer, name, x: graph.node('Gelu', [x], name),
  'layer_scale': _layer_scale,
  'first_token': _pool_tokens,
  'mean_tokens': _pool_tokens,
  'flatten': lambda graph, layer, name, x: graph.move('Flatten', x, name),
}
