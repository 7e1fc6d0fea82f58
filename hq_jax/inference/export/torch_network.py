"""Networks in PyTorch, from their lists of layers."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from hq_jax.core import torch_names
from hq_jax.inference import architectures

Layer = architectures.Layer


class Network(nn.Module):
  """A network for `[n, channels, height, width]`, in evaluation mode.

  The names of its parameters and buffers are torchvision's.
  """

  def __init__(
    self,
    layers: Sequence[Layer],
    naming: torch_names.Naming,
    state: Mapping[str, np.ndarray],
  ):
    super().__init__()
    self._layers = tuple(layers)
    self._names = {}
    for layer in layers:
      if layer.op in _MODULES:
        name = naming(layer.name)
        self._names[layer.name] = name
        weight = state[f'{name}.weight']
        self._put(name, _MODULES[layer.op](layer, weight.shape))
    tensors = {name: torch.from_numpy(x) for name, x in state.items()}
    self.load_state_dict(tensors)
    self.eval()

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Maps normalized images to logits `[n, classes]`."""
    outputs = {architectures.INPUT: images}
    for layer in self._layers:
      inputs = [outputs[name] for name in layer.inputs]
      if layer.name in self._names:
        module = self.get_submodule(self._names[layer.name])
        outputs[layer.name] = module(*inputs)
      else:
        outputs[layer.name] = _FUNCTIONS[layer.op](layer, *inputs)
    return outputs[self._layers[-1].name]

  def _put(self, name: str, module: nn.Module) -> None:
    *folders, last = name.split('.')
    parent: nn.Module = self
    for folder in folders:
      if folder not in dict(parent.named_children()):
        parent.add_module(folder, nn.Module())
      parent = parent.get_submodule(folder)
    parent.add_module(last, module)


def _make_conv(layer: Layer, shape) -> nn.Module:
  num_outputs, num_inputs, *_ = shape
  return nn.Conv2d(
    num_inputs * layer.groups,
    num_outputs,
    layer.size,
    layer.stride,
    layer.padding,
    groups=layer.groups,
    bias=False,
  )


def _make_norm(layer: Layer, shape) -> nn.Module:
  make = nn.BatchNorm2d if len(layer.shape) == 3 else nn.BatchNorm1d
  return make(shape[0], architectures.NORM_EPSILON)


def _make_dense(layer: Layer, shape) -> nn.Module:
  num_outputs, num_inputs = shape
  return nn.Linear(num_inputs, num_outputs, bias=layer.has_bias)


_MODULES = {'conv': _make_conv, 'norm': _make_norm, 'dense': _make_dense}
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
}
