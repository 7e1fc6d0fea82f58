"""The networks as lists of layers, for engines other than Flax.

Plain data, without JAX. `docs/format.md` has the same lists in words; the Flax
modules of `hq_jax.models` compute the same functions.
"""

from collections.abc import Mapping, Sequence
import math
from typing import Any, NamedTuple

# The name of the images that go in: `[n, height, width, channels]`, normalized.
INPUT = 'input'
# Of every batch norm whose file has its mean and its variance.
NORM_EPSILON = 1e-5

# In all stages together: a file may ask for anything.
_MOST = {'widths': 100_000, 'num_blocks': 1_000}

_POINTWISE = ('norm', 'relu', 'relu6', 'add')
_RELUS = ('relu', 'relu6')


class Layer(NamedTuple):
  """One layer: what it computes from the outputs of layers before it.

  Attributes:
    name: of a layer with weights, the path of its module, as
      'stage1_block1/conv1': its tensors are `params/<name>/kernel` and so on.
    op: 'conv' (no bias; kernel `[size, size, channels in / groups, out]`),
      'dense' (kernel `[in, out]`), 'norm' (a scale and a bias per channel),
      'relu', 'relu6' (`min(max(x, 0), 6)`), 'add', 'max_pool', 'mean' (over
      height and width), 'flatten' (height, width, channels, the last fastest).
    inputs: the names of the layers it takes, or `INPUT`.
    shape: of its output, of one example: (height, width, channels) or (width,).
    size: of a convolution or pooling, along both axes.
    stride: the same.
    padding: at each of the four sides; zeros, and for a maximum -infinity.
    groups: of a convolution: 1, or the number of its channels.
    has_bias: of a dense layer.
  """

  name: str
  op: str
  inputs: tuple[str, ...]
  shape: tuple[int, ...]
  size: int = 1
  stride: int = 1
  padding: int = 0
  groups: int = 1
  has_bias: bool = False


def make_layers(
  model: str,
  arguments: Mapping[str, Any],
  input_shape: Sequence[int],
  num_classes: int,
) -> tuple[Layer, ...]:
  """Lists the layers of a network; each comes after those that it takes.

  >>> layers = make_layers('mlp', {'widths': [8]}, (4, 4, 1), 3)
  >>> [layer.op for layer in layers]
  ['flatten', 'dense', 'norm', 'relu', 'dense']
  >>> layers[1].name, layers[-1].shape
  ('dense1', (3,))

  Args:
    model: as `Artifact.model`.
    arguments: as `Artifact.model_args`; what is None takes its default, and
      `dtype` changes nothing here.
    input_shape: (height, width, channels).
    num_classes: the number of logits.

  Returns:
    The layers; the output of the last are the logits.

  Raises:
    ValueError: an unknown model, or arguments that are not its own.
  """
  if model not in _NETWORKS:
    raise ValueError(
      f'model is {model!r}, wanted one of: {", ".join(_NETWORKS)}'
    )
  build, fixed, defaults = _NETWORKS[model]
  given = {
    key: value
    for key, value in arguments.items()
    if value is not None and key != 'dtype'
  }
  for key, value in given.items():
    if key not in defaults:
      raise ValueError(
        f'{key} is {value!r:.80}, but {model} takes no such argument'
      )
    is_list = isinstance(value, list | tuple) and len(value) > 0
    if not is_list or not all(type(x) is int and x > 0 for x in value):
      raise ValueError(f'{key} is {value!r:.80}, wanted ints of at least 1')
    if sum(value) > _MOST[key]:
      raise ValueError(
        f'{key} is {value!r:.80}, wanted at most {_MOST[key]} in all'
      )
  if len(input_shape) != 3:
    raise ValueError(
      f'input_shape is {tuple(input_shape)}, wanted (height, width, channels)'
    )
  builder = _Builder(tuple(input_shape))
  build(builder, **fixed, **(defaults | given))
  builder.dense('head', num_classes, has_bias=True)
  return tuple(builder.layers)


def find_activations(layers: Sequence[Layer]) -> dict[str, bool]:
  """The outputs that int8 engines quantize, in order, and which are signed.

  They are those of all norms, sums, and their rectifiers, but for what only a
  rectifier takes: `[0, r]` after a rectifier, `[-r, r]` else.

  >>> find_activations(make_layers('mlp', {'widths': [8]}, (4, 4, 1), 3))
  {'norm1/relu': False}
  """
  takers: dict[str, list[str]] = {layer.name: [] for layer in layers}
  for layer in layers:
    for name in layer.inputs:
      takers.setdefault(name, []).append(layer.op)
  return {
    layer.name: layer.op not in _RELUS
    for layer in layers
    if layer.op in _POINTWISE
    and not (takers[layer.name] and set(takers[layer.name]) <= set(_RELUS))
  }


class _Builder:
  """Appends layers; each takes the one before it, unless told otherwise."""

  def __init__(self, input_shape: tuple[int, ...]):
    self.layers: list[Layer] = []
    self._shapes = {INPUT: input_shape}
    self.last = INPUT

  def shape(self, name: str) -> tuple[int, ...]:
    return self._shapes[name]

  def append(self, name: str, op: str, shape, inputs=None, **fields) -> str:
    inputs = inputs or (self.last,)
    self.layers.append(Layer(name, op, inputs, tuple(shape), **fields))
    self._shapes[name] = tuple(shape)
    self.last = name
    return name

  def conv(self, name, width, size, stride, source=None, groups=1) -> str:
    source = source or self.last
    sides = self._slide(source, size, stride)
    return self.append(
      name,
      'conv',
      (*sides, width),
      (source,),
      size=size,
      stride=stride,
      padding=size // 2,
      groups=groups,
    )

  def max_pool(self, name, size, stride) -> str:
    sides = self._slide(self.last, size, stride)
    channels = self.shape(self.last)[-1]
    return self.append(
      name,
      'max_pool',
      (*sides, channels),
      size=size,
      stride=stride,
      padding=size // 2,
    )

  def same(self, name, op, *others: str) -> str:
    inputs = (self.last, *others)
    return self.append(name, op, self.shape(self.last), inputs)

  def dense(self, name, width, has_bias=False) -> str:
    return self.append(name, 'dense', (width,), has_bias=has_bias)

  def conv_norm(
    self, prefix, suffix, width, size, stride, relu=None, source=None, groups=1
  ) -> str:
    """A convolution, its norm, and a rectifier where one is named."""
    self.conv(f'{prefix}conv{suffix}', width, size, stride, source, groups)
    self.same(f'{prefix}norm{suffix}', 'norm')
    if relu:
      self.same(f'{prefix}norm{suffix}/relu', relu)
    return self.last

  def _slide(self, source: str, size: int, stride: int) -> tuple[int, int]:
    height, width, _ = self.shape(source)
    slide = lambda n: (n + 2 * (size // 2) - size) // stride + 1
    return slide(height), slide(width)


def _mlp(net: _Builder, widths) -> None:
  net.append('flatten', 'flatten', (math.prod(net.shape(INPUT)),))
  for number, width in enumerate(widths, 1):
    net.dense(f'dense{number}', width)
    net.same(f'norm{number}', 'norm')
    net.same(f'norm{number}/relu', 'relu')


def _residual_block(net: _Builder, block: str, convs, stride: int) -> None:
  """Convolutions (width, size, stride) beside what goes in, then the sum."""
  source = net.last
  for number, (width, size, step) in enumerate(convs, 1):
    is_last = number == len(convs)
    relu = None if is_last else 'relu'
    net.conv_norm(f'{block}/', number, width, size, step, relu)
  shortcut, branch = source, net.last
  if net.shape(source) != net.shape(branch):
    width = net.shape(branch)[-1]
    shortcut = net.conv_norm(
      f'{block}/', '_proj', width, 1, stride, source=source
    )
  net.append(f'{block}/add', 'add', net.shape(branch), (shortcut, branch))
  net.same(f'{block}/relu', 'relu')


def _small_resnet(net: _Builder, widths, num_blocks) -> None:
  if len(widths) != len(num_blocks):
    raise ValueError(
      f'widths is {widths} and num_blocks {num_blocks}, wanted the same length'
    )
  net.conv_norm('', '_stem', widths[0], 3, 1, 'relu')
  for stage, (width, blocks) in enumerate(
    zip(widths, num_blocks, strict=True), 1
  ):
    for block in range(1, blocks + 1):
      stride = 2 if stage > 1 and block == 1 else 1
      convs = (width, 3, stride), (width, 3, 1)
      _residual_block(net, f'stage{stage}_block{block}', convs, stride)
  net.append('mean', 'mean', net.shape(net.last)[-1:])


def _resnet(net: _Builder, num_blocks, bottleneck: bool) -> None:
  net.conv_norm('', '_stem', 64, 7, 2, 'relu')
  net.max_pool('max_pool', 3, 2)
  for stage, blocks in enumerate(num_blocks, 1):
    width = 32 * 2**stage
    for block in range(1, blocks + 1):
      stride = 2 if stage > 1 and block == 1 else 1
      convs: Any = ((width, 3, stride), (width, 3, 1))
      if bottleneck:
        convs = ((width, 1, 1), (width, 3, stride), (4 * width, 1, 1))
      _residual_block(net, f'stage{stage}_block{block}', convs, stride)
  net.append('mean', 'mean', net.shape(net.last)[-1:])


# Of each stage: expansion, channels, blocks, stride of the first block.
_MOBILENET_STAGES = (
  (1, 16, 1, 1),
  (6, 24, 2, 2),
  (6, 32, 3, 2),
  (6, 64, 4, 2),
  (6, 96, 3, 1),
  (6, 160, 3, 2),
  (6, 320, 1, 1),
)


def _mobilenet_v2(net: _Builder) -> None:
  net.conv_norm('', '_stem', 32, 3, 2, 'relu6')
  number = 0
  for expansion, width, num_blocks, stride in _MOBILENET_STAGES:
    for index in range(num_blocks):
      number += 1
      step = stride if index == 0 else 1
      _inverted_residual(net, f'block{number}/', expansion, width, step)
  net.conv_norm('', '_last', 1280, 1, 1, 'relu6')
  net.append('mean', 'mean', net.shape(net.last)[-1:])


def _inverted_residual(net, block: str, expansion, width, stride) -> None:
  source = net.last
  channels = net.shape(source)[-1]
  hidden = channels * expansion
  if expansion > 1:
    net.conv_norm(block, '_expand', hidden, 1, 1, 'relu6')
  net.conv_norm(block, '_depthwise', hidden, 3, stride, 'relu6', groups=hidden)
  net.conv_norm(block, '_project', width, 1, 1)
  if stride == 1 and channels == width:
    net.append(f'{block}add', 'add', net.shape(source), (source, net.last))


_CIFAR = {'widths': (16, 32, 64)}
# What appends a network's layers but the head, with which arguments, and the
# defaults of those that a file may give.
_NETWORKS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
  'mlp': (_mlp, {}, {'widths': (256, 256, 256)}),
  'small_resnet': (
    _small_resnet,
    {},
    {'widths': (32, 64, 128), 'num_blocks': (1, 1, 1)},
  ),
  'resnet20': (_small_resnet, _CIFAR | {'num_blocks': (3, 3, 3)}, {}),
  'resnet56': (_small_resnet, _CIFAR | {'num_blocks': (9, 9, 9)}, {}),
  'resnet18': (_resnet, {'num_blocks': (2, 2, 2, 2), 'bottleneck': False}, {}),
  'resnet34': (_resnet, {'num_blocks': (3, 4, 6, 3), 'bottleneck': False}, {}),
  'resnet50': (_resnet, {'num_blocks': (3, 4, 6, 3), 'bottleneck': True}, {}),
  'resnet101': (_resnet, {'num_blocks': (3, 4, 23, 3), 'bottleneck': True}, {}),
  'mobilenet_v2': (_mobilenet_v2, {}, {}),
}
