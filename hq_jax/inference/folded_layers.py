"""Weights of layers as engines take them: the norm after each folded in."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax.artifact import variables
from hq_jax.core import qtensors
from hq_jax.inference import layer as layer_lib
from hq_jax.inference import network

_KERNELS = ('conv', 'dense')


class Folded(NamedTuple):
  """A convolution or dense layer: `y = conv(x, codes) * scale + bias`.

  Attributes:
    codes: the kernel, `[size, size, in, out]` or `[in, out]`; int8 where the
      file has codes, else float32.
    scale: per output channel, float64; the norm's is in it. It may be negative.
    bias: the same.
    norm: the name of the norm that is folded in, if one is.
    is_ternary: all codes are -1, 0 or 1.
  """

  codes: np.ndarray
  scale: np.ndarray
  bias: np.ndarray
  norm: str | None
  is_ternary: bool


def fold_layers(
  artifact: artifact_lib.Artifact, layers: Sequence[layer_lib.Layer]
) -> dict[str, Folded]:
  """Folds each norm of a network, by the name of the layer that it follows."""
  # What a norm of our networks takes, nothing else takes.
  norms = {x.inputs[0]: x for x in layers if x.op == 'norm'}

  def read(layer: layer_lib.Layer, leaf: str) -> np.ndarray:
    return _read(artifact, layer, leaf).astype(np.float64)

  found = {}
  for layer in layers:
    if layer.op not in _KERNELS:
      continue
    kernel = network.read_tensor(artifact, layer, '/kernel')
    codes, scale = _split(kernel, layer.shape[-1])
    if layer.op == 'dense':
      codes = codes.reshape(-1, layer.shape[-1])
    bias = read(layer, '/bias').ravel() if layer.bias else np.zeros(1)
    norm = norms.get(layer.name)
    if norm is not None:
      a, b = read(norm, '/scale'), read(norm, '/bias')
      scale, bias = a * scale, a * bias + b
    has_codes = codes.dtype == np.int8
    is_ternary = has_codes and isinstance(kernel, qtensors.TernaryTensor)
    name = norm.name if norm else None
    found[layer.name] = Folded(codes, scale, bias, name, is_ternary)
  return found


def read_leaves(
  artifact: artifact_lib.Artifact, layers: Sequence[layer_lib.Layer]
) -> dict[str, np.ndarray]:
  """All that nothing is folded into, in float32, by the name of the layer.

  Embeddings, layer norms and layer scales, as 'norm/bias' and 'class_token'.
  """
  return {
    f'{layer.name}{leaf}': _read(artifact, layer, leaf)
    for layer in layers
    if layer.op not in (*_KERNELS, 'norm')
    for leaf in layer_lib.list_tensors(layer)
  }


def _read(
  artifact: artifact_lib.Artifact, layer: layer_lib.Layer, leaf: str
) -> np.ndarray:
  return variables.to_array(network.read_tensor(artifact, layer, leaf))


def _split(
  kernel: artifact_lib.Tensor, width: int
) -> tuple[np.ndarray, np.ndarray]:
  """The codes of a kernel and its scale for each of its outputs."""
  if isinstance(kernel, qtensors.TernaryTensor | qtensors.Int8Tensor):
    if kernel.scale is None:
      return kernel.codes, np.ones(width)
    scale = np.broadcast_to(kernel.scale, kernel.codes.shape)
    scale = scale.reshape(-1, width)
    # A file may have others, which are no scales of outputs.
    if (scale == scale[:1]).all():
      return kernel.codes, scale[0].astype(np.float64)
  return variables.to_array(kernel), np.ones(width)
