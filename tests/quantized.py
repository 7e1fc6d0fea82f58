"""What quantized tensors stand for."""

import numpy as np

from hq_jax.core import qtensors


def get_value(
  tensor: qtensors.TernaryTensor | qtensors.CodebookTensor,
) -> np.ndarray:
  """The kernel, by the equations of `tensors`."""
  scale = 1.0 if tensor.scale is None else np.asarray(tensor.scale)
  if isinstance(tensor, qtensors.TernaryTensor):
    assert tensor.codes.dtype == np.int8
    return np.float32(tensor.codes) * scale
  indices, codewords = np.asarray(tensor.indices), np.asarray(tensor.codewords)
  assert indices.dtype == np.uint8 and codewords.dtype == np.float16
  assert indices.max() < len(codewords)
  *outer, num_groups, num_channels = indices.shape
  size = codewords.shape[1]
  value = np.zeros((*outer, num_groups * size, num_channels), np.float32)
  for g in range(num_groups):
    for i in range(size):
      value[..., size * g + i, :] = codewords[indices[..., g, :], i]
  return value * scale
