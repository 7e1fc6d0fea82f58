"""Layers with weights as engines take them: the norm after each folded in."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hq_jax import artifact as artifact_lib
from hq_jax.artifact import variables
from hq_jax.core import qtensors
from hq_jax.inference import architectures


class Folded(NamedTuple):
  """A convolution or dense layer: `y = conv(x, codes) * scale + bias`.

  Attributes:
    codes: the kernel in the file's axes; int8 where the file has codes, else
      float32.
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
  artifact: artifact_lib.Artifact, layers: Sequence[architectures.Layer]
) -> dict[str, Folded]:
  """Folds each norm of a network, by the name of the layer that it follows."""
  # What a norm of our networks takes, nothing else takes.
  norms = {x.inputs[0]: x.name for x in layers if x.op == 'norm'}

  def read(path: str) -> np.ndarray:
    tensor = artifact.tensors[f'params/{path}']
    return variables.to_array(tensor).astype(np.float64)

  found = {}
  for layer in layers:
    if layer.op not in ('conv', 'dense'):
      continue
    kernel = artifact.tensors[f'params/{layer.name}/kernel']
    codes, scale = _split(kernel)
    bias = read(f'{layer.name}/bias') if layer.has_bias else np.zeros(1)
    norm = norms.get(layer.name)
    if norm is not None:
      a, b = read(f'{norm}/scale'), read(f'{norm}/bias')
      scale, bias = a * scale, a * bias + b
    is_codes = codes.dtype == np.int8
    is_ternary = is_codes and isinstance(kernel, qtensors.TernaryTensor)
    found[layer.name] = Folded(codes, scale, bias, norm, is_ternary)
  return found


def _split(kernel: artifact_lib.Tensor) -> tuple[np.ndarray, np.ndarray]:
  """The codes of a kernel and its scale for each output channel."""
  if isinstance(kernel, qtensors.TernaryTensor | qtensors.Int8Tensor):
    scale = np.ones(1) if kernel.scale is None else kernel.scale
    if scale.size == scale.shape[-1]:  # Not along other axes, as it may be.
      scale = scale.astype(np.float64).ravel()
      return kernel.codes, np.broadcast_to(scale, kernel.codes.shape[-1])
  values = variables.to_array(kernel)
  return values, np.ones(values.shape[-1])
