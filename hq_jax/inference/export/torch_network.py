"""Networks in PyTorch, from their lists of layers."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from hq_jax.core import torch_names
from hq_jax.inference import layer as layer_lib

Layer = layer_lib.Layer


class Network(nn.Module):
  """A network for `[n, channels, height, width]`, in evaluation mode.

  The names of its parameters and buffers are those of torchvision and timm.
  """

  def __init__(
    self,
    layers: Sequence[Layer],
    naming: torch_names.Naming,
    state: Mapping[str, np.ndarray],
  ):
    super().__init__()
    self._layers = tuple(layers)
    self._names = {
      layer.name: naming(layer.name)
      for layer in layers
      if layer_lib.list_tensors(layer)
    }
    for layer in layers:
      name = self._names.get(layer.name, '')
      if layer.op in _MODULES:
        shape = state[f'{name}.weight'].shape
        self._put(name, _MODULES[layer.op](layer, shape))
      elif name:
        self._put(name, nn.Parameter(torch.empty(state[name].shape)))
    # Layers of one module, each a part of its outputs.
    names = list(self._names.values())
    self._shared = {name for name in names if names.count(name) > 1}
    tensors = {name: torch.from_numpy(x) for name, x in state.items()}
    self.load_state_dict(tensors)
    self.eval()

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Maps normalized images to logits `[n, classes]`."""
    outputs = {layer_lib.INPUT: images}
    for layer in self._layers:
      inputs = [outputs[name] for name in layer.inputs]
      outputs[layer.name] = self._compute(layer, *inputs)
    return outputs[self._layers[-1].name]

  def _compute(self, layer: Layer, *inputs: torch.Tensor) -> torch.Tensor:
    name = self._names.get(layer.name, '')
    if layer.op in _FUNCTIONS:
      weights = [self.get_parameter(name)] if name else []
      return _FUNCTIONS[layer.op](layer, *inputs, *weights)
    if name in self._shared:
      part = _PARTS.index(layer.name.rpartition('/')[-1])
      weight, bias = (
        self.get_parameter(f'{name}.{kind}').chunk(len(_PARTS))[part]
        for kind in ('weight', 'bias')
      )
      return nn.functional.linear(inputs[0], weight, bias)
    return self.get_submodule(name)(*inputs)

  def _put(self, name: str, value: nn.Module | nn.Parameter) -> None:
    *folders, last = name.split('.')
    parent: nn.Module = self
    for folder in folders:
      if folder not in dict(parent.named_children()):
        parent.add_module(folder, nn.Module())
      parent = parent.get_submodule(folder)
    setattr(parent, last, value)


def _make_conv(layer: Layer, shape) -> nn.Module:
  num_outputs, num_inputs, *_ = shape
  return nn.Conv2d(
    num_inputs * layer.groups,
    num_outputs,
    layer.size,
    layer.stride,
    layer.padding,
    groups=layer.groups,
    bias=bool(layer.bias),
  )


def _make_norm(layer: Layer, shape) -> nn.Module:
  make = nn.BatchNorm2d if len(layer.shape) == 3 else nn.BatchNorm1d
  return make(shape[0], layer_lib.NORM_EPSILON)


def _make_dense(layer: Layer, shape) -> nn.Module:
  num_outputs, num_inputs = shape
  return nn.Linear(num_inputs, num_outputs, bias=bool(layer.bias))


def _make_layer_norm(layer: Layer, shape) -> nn.Module:
  return nn.LayerNorm(shape, layer_lib.LAYER_NORM_EPSILON)


def _attend(layer: Layer, *inputs: torch.Tensor) -> torch.Tensor:
  query, key, value = (
    x.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2) for x in inputs
  )
  mixed = nn.functional.scaled_dot_product_attention(query, key, value)
  return mixed.transpose(1, 2).flatten(2)


def _prepend(layer: Layer, x: torch.Tensor, token: torch.Tensor):
  return torch.cat([token.expand(len(x), -1, -1), x], dim=1)


_PARTS = ('query', 'key', 'value')
_MODULES = {
  'conv': _make_conv,
  'norm': _make_norm,
  'dense': _make_dense,
  'layer_norm': _make_layer_norm,
}
_FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
  'relu': lambda layer, x: torch.relu(x),
  'relu6': lambda layer, x: torch.clamp(x, 0, 6),
  'add': lambda layer, x, y: x + y,
  'max_pool': lambda layer, x: nn.functional.max_pool2d(
    x, layer.size, layer.stride, layer.padding
  ),
  'mean': lambda layer, x: x.mean((2, 3)),
  # Ours has the channels last.
  'flatten': lambda layer, x: x.permute(0, 2, 3, 1).flatten(1),
  'tokens': lambda layer, x: x.flatten(2).transpose(1, 2),
  'class_token': _prepend,
  'position': lambda layer, x, vectors: x + vectors,
  'attention': _attend,
  'gelu': lambda layer, x: nn.functional.gelu(x),
  'layer_scale': lambda layer, x, factors: x * factors,
  'first_token': lambda layer, x: x[:, 0],
  'mean_tokens': lambda layer, x: x.mean(1),
}
