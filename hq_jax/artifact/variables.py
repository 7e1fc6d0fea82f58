"""The variables of a Flax model, from the tensors of a file."""

from typing import Any

import numpy as np

from hq_jax.artifact import header as headers
from hq_jax.artifact import layout
from hq_jax.artifact import model as model_lib
from hq_jax.artifact import nesting
from hq_jax.core import qtensors


def unit_variance(epsilon: float) -> np.float32:
  """The variance with which a batch norm divides by exactly one.

  `float32(var + float32(epsilon)) == 1`, so `1 / sqrt(var + epsilon) == 1`.
  """
  if not 0 <= epsilon <= 1:
    raise ValueError(f'epsilon is {epsilon}, wanted one in [0, 1]')
  # Both are rounded, but their sum is a multiple of the smaller one's last
  # place and no further below 1 than 2^-25: a tie, which goes to even, to 1.
  return np.float32(1 - epsilon)


def to_variables(artifact: model_lib.Artifact) -> dict[str, Any]:
  """Rebuilds the variables of the model, in float32.

  A ternary or int8 tensor becomes `codes * scale`, its scale one where it has
  none; a codebook tensor its codewords times its scale.
  A folded batch norm keeps its 'scale' and 'bias' and gets the statistics
  that make it `x * scale + bias`: `mean = 0` and `var = 1 - epsilon`.

  Args:
    artifact: a validated artifact, such as one that was read.

  Returns:
    Nested dicts, `{'params': {...}, 'batch_stats': {...}}` and whatever
    other collections the paths start with; 'batch_stats' is absent where
    there is none. Where the artifact has a `nesting`, its lists, tuples and
    names. Floating, 8-bit and 16-bit leaves become float32; wider
    integers stay as they are, because float32 does not hold them all.

  Raises:
    ValueError: as `model_lib.validate`.

  >>> codes = np.array([[1, 0], [0, -1]], np.int8)
  >>> kernel = qtensors.TernaryTensor(codes, np.array([[2, 3]], np.float16))
  >>> tensors = {'params/k': kernel}
  >>> artifact = model_lib.Artifact('', {}, (), {}, (), tensors, {})
  >>> to_variables(artifact)['params']['k'].tolist()
  [[2.0, 0.0], [0.0, -3.0]]
  """
  model_lib.validate(artifact)
  leaves = [(path, to_array(x)) for path, x in artifact.tensors.items()]
  for norm, epsilon in artifact.folded_norms.items():
    shape = np.shape(artifact.tensors[f'params/{norm}/scale'])
    variance = np.full(shape, unit_variance(epsilon), np.float32)
    mean = np.zeros(shape, np.float32)
    paths = model_lib.list_paths((), [norm])
    leaves += zip(paths, (mean, variance), strict=True)
  variables: dict[str, Any] = {'params': {}}
  for path, leaf in leaves:
    model_lib.insert(variables, path, leaf)
  if artifact.nesting is not None:
    return {'params': {}, **nesting.build(artifact.nesting, dict(leaves))}
  return variables


def list_shapes(header: headers.Header) -> dict[str, tuple[int, ...]]:
  """The shapes of what `to_variables` gives for a file, by paths."""
  shapes = {spec.path: spec.shape for spec in header.specs}
  for norm in header.folded_norms:
    shape = shapes.get(f'params/{norm}/scale', ())
    shapes |= dict.fromkeys(model_lib.list_paths((), [norm]), shape)
  return shapes


def to_array(tensor: model_lib.Tensor) -> np.ndarray:
  """The values of a tensor: float32, but for integers of 32 and 64 bits."""
  if not isinstance(tensor, model_lib.Quantized):
    is_short = tensor.dtype.kind == 'f' or tensor.dtype.itemsize <= 2
    return tensor.astype(np.float32) if is_short else tensor
  if isinstance(tensor, qtensors.CodebookTensor):
    values = _expand(tensor)
  else:
    values = tensor.codes.astype(np.float32)
  if tensor.scale is not None:
    values *= tensor.scale.astype(np.float32)
  return values


def _expand(tensor: qtensors.CodebookTensor) -> np.ndarray:
  values = tensor.codewords.astype(np.float32)[tensor.indices]
  return np.moveaxis(values, -1, -2).reshape(layout.shape_of(tensor))
