"""The networks as lists of layers, for engines other than Flax.

Plain data, without JAX. `docs/format.md` has the same lists in words; the Flax
modules of `hq_jax.models` compute the same functions.
"""

from collections.abc import Mapping, Sequence
import math
from typing import Any

from hq_jax.inference import layer as layer_lib
from hq_jax.inference import vision_transformers

# In all stages together: a file may ask for anything.
_MOST = {
  'widths': 100_000,
  'num_blocks': 1_000,
  'patch_size': 1_000,
  'width': 100_000,
  'depth': 1_000,
  'num_heads': 1_000,
}
_POOLS = ('token', 'mean')

_POINTWISE = ('norm', 'relu', 'relu6', 'add')
_RELUS = ('relu', 'relu6')


def make_layers(
  model: str,
  arguments: Mapping[str, Any],
  input_shape: Sequence[int],
  num_classes: int,
) -> tuple[layer_lib.Layer, ...]:
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
    hint = '' if model else ': these are weights alone, see hq_jax.compress'
    raise ValueError(
      f'model is {model!r}, wanted one of: {", ".join(_NETWORKS)}{hint}'
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
    _check_argument(key, value, defaults[key])
  if len(input_shape) != 3:
    raise ValueError(
      f'input_shape is {tuple(input_shape)}, wanted (height, width, channels)'
    )
  builder = layer_lib.Builder(tuple(input_shape))
  build(builder, **fixed, **(defaults | given))
  builder.dense('head', num_classes, has_bias=True)
  return tuple(builder.layers)


def _check_argument(key: str, value: Any, default: Any) -> None:
  """Refuses what is not of the kind of the default, or beyond all bounds."""
  wanted = ''
  if isinstance(default, bool):
    wanted = '' if isinstance(value, bool) else 'true or false'
  elif isinstance(default, str):
    wanted = '' if value in _POOLS else f'one of: {", ".join(_POOLS)}'
  elif isinstance(default, int):
    is_good = type(value) is int and 0 < value <= _MOST[key]
    wanted = '' if is_good else f'an int from 1 to {_MOST[key]}'
  else:
    is_list = isinstance(value, list | tuple) and len(value) > 0
    least = 0 if key == 'num_blocks' else 1
    if not is_list or not all(type(x) is int and x >= least for x in value):
      wanted = f'ints of at least {least}'
    elif sum(value) > _MOST[key]:
      wanted = f'at most {_MOST[key]} in all'
  if wanted:
    raise ValueError(f'{key} is {value!r:.80}, wanted {wanted}')


def find_activations(layers: Sequence[layer_lib.Layer]) -> dict[str, bool]:
  """The outputs that int8 engines quantize, in order, and which are signed.

  Of images they are those of all norms, sums, and their rectifiers, but for
  what only a rectifier takes; of tokens, what dense layers take. They are in
  `[0, r]` after a rectifier, in `[-r, r]` else.

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
    if _is_quantized(layer, set(takers[layer.name]))
  }


def _is_quantized(layer: layer_lib.Layer, takers: set[str]) -> bool:
  if layer_lib.is_tokens(layer):
    return 'dense' in takers
  return layer.op in _POINTWISE and not (takers and takers <= set(_RELUS))


def _mlp(net: layer_lib.Builder, widths) -> None:
  net.append('flatten', 'flatten', (math.prod(net.shape(layer_lib.INPUT)),))
  for number, width in enumerate(widths, 1):
    net.dense(f'dense{number}', width)
    net.same(f'norm{number}', 'norm')
    net.same(f'norm{number}/relu', 'relu')


def _residual_block(
  net: layer_lib.Builder, block: str, convs, stride: int
) -> None:
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


def _small_resnet(net: layer_lib.Builder, widths, num_blocks) -> None:
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


def _resnet(net: layer_lib.Builder, num_blocks, bottleneck: bool) -> None:
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


def _mobilenet_v2(net: layer_lib.Builder) -> None:
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
_VIT = {'patch_size': 4, 'width': 192, 'depth': 6, 'num_heads': 3}
_VIT_OPTIONS = {'pool': 'token', 'layer_scale': False}
_VIT_16 = {'patch_size': 16, 'depth': 12}
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
  'vit': (vision_transformers.append_vit, {}, _VIT | _VIT_OPTIONS),
  'vit_ti16': (
    vision_transformers.append_vit,
    _VIT_16 | {'width': 192, 'num_heads': 3},
    _VIT_OPTIONS,
  ),
  'vit_s16': (
    vision_transformers.append_vit,
    _VIT_16 | {'width': 384, 'num_heads': 6},
    _VIT_OPTIONS,
  ),
  'vit_b16': (
    vision_transformers.append_vit,
    _VIT_16 | {'width': 768, 'num_heads': 12},
    _VIT_OPTIONS,
  ),
}
