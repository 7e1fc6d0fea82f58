"""The content of an `.hq` file, and the rules that reader and writer share."""

from collections.abc import Iterable, Mapping, Sequence
import math
from typing import Any, NamedTuple

import numpy as np

from hq_jax.artifact import layout
from hq_jax.core import qtensors

MAX_DEPTH = 64  # names in a path; nesting of model_args, preprocessing
MAX_PATH = 1024  # characters of a path

Quantized = (
  qtensors.TernaryTensor | qtensors.Int8Tensor | qtensors.CodebookTensor
)
Tensor = Quantized | np.ndarray


class Artifact(NamedTuple):
  """A compressed model.

  Invariants: `validate` states them.

  Attributes:
    model: the name under which the model is built.
    model_args: its arguments: plain JSON values (tuples come back as lists).
    input_shape: of one example, without the batch axis.
    preprocessing: plain JSON values.
    class_names: one per class; may be empty.
    tensors: path, as 'params/stem/conv/kernel', -> a `TernaryTensor`, an
      `Int8Tensor` or a `CodebookTensor` of NumPy arrays, or a NumPy array.
    folded_norms: path of a folded batch norm inside 'params', as
      'stem/norm', -> its epsilon in [0, 1]; its tensors 'scale' and 'bias'
      hold all there is of it.
    activation_ranges: for each output that an engine with int8 activations
      quantizes, in the order of `inference.architectures.find_activations`, a
      float16 number `r > 0`: values are taken to be in `[-r, r]`, or in
      `[0, r]` where they cannot be negative. Empty where none were measured.
    nesting: how the tensors are nested where their paths do not tell: lists,
      tuples, names with '/' in them, and what has no tensors; see
      `artifact.nesting`. None where they do.
  """

  model: str
  model_args: dict[str, Any]
  input_shape: tuple[int, ...]
  preprocessing: dict[str, Any]
  class_names: tuple[str, ...]
  tensors: dict[str, Tensor]
  folded_norms: dict[str, float]
  activation_ranges: tuple[float, ...] = ()
  nesting: Mapping[str, Any] | None = None


def validate(artifact: Artifact) -> None:
  """Checks every field."""
  check_text('model', artifact.model)
  for name in ('model_args', 'preprocessing'):
    if not isinstance(getattr(artifact, name), Mapping):
      raise ValueError(f'{name} is no dict, wanted one')
    check_plain(name, getattr(artifact, name))
  for size in artifact.input_shape:
    if type(size) is not int or not 0 < size <= layout.MAX_ELEMENTS:
      raise ValueError(
        f'input_shape is {artifact.input_shape!r:.80}, wanted sizes'
      )
  for index, name in enumerate(artifact.class_names):
    check_text(f'class_names[{index}]', name)
  for path, tensor in artifact.tensors.items():
    check_path(path)
    if isinstance(tensor, qtensors.TernaryTensor):
      _check_codes(path, tensor, 1)
    elif isinstance(tensor, qtensors.Int8Tensor):
      _check_codes(path, tensor, 127)
    elif isinstance(tensor, qtensors.CodebookTensor):
      _check_codebook(path, tensor)
    elif not isinstance(tensor, np.ndarray):
      raise ValueError(
        f'{path!r} is of type {type(tensor).__name__}, wanted a NumPy array'
      )
    layout.check_spec(layout.spec_of(path, tensor))
  _check_norms(artifact)
  check_ranges(artifact.activation_ranges)


def check_text(field: str, value: Any) -> None:
  """Refuses what is no string, or a string without a UTF-8 form."""
  if not isinstance(value, str):
    raise ValueError(
      f'{field} is of type {type(value).__name__}, wanted a string'
    )
  try:
    value.encode()
  except UnicodeEncodeError:
    raise ValueError(
      f'{field} is {value!r:.80}, wanted what UTF-8 can hold'
    ) from None


def check_path(path: Any) -> None:
  """Refuses a path that is not names joined by '/'."""
  check_text('tensor path', path)
  names = path.split('/')
  if not all(names) or len(names) > MAX_DEPTH or len(path) > MAX_PATH:
    raise ValueError(
      f'tensor path {path!r:.80}: wanted 1 to {MAX_DEPTH} names joined by /, '
      f'at most {MAX_PATH} characters'
    )


def list_paths(
  tensors: Iterable[str], folded_norms: Iterable[str]
) -> list[str]:
  """The paths of the variables: of the tensors, and of folded statistics."""
  statistics = [
    f'batch_stats/{norm}/{name}'
    for norm in folded_norms
    for name in ('mean', 'var')
  ]
  return [*tensors, *statistics]


def insert(tree: dict[str, Any], path: str, leaf: Any) -> None:
  """Puts a leaf into nested dicts, making the dicts on its way."""
  *folders, name = path.split('/')
  node = tree
  for folder in folders:
    node = node.setdefault(folder, {})
    if not isinstance(node, dict):
      raise ValueError(f'tensor path {path!r}: {folder!r} is a tensor')
  if name in node:
    raise ValueError(f'tensor path {path!r}: it is taken')
  node[name] = leaf


def check_plain(field: str, value: Any, depth: int = 0) -> None:
  """Refuses what is not made of plain JSON values, or of tuples of them."""
  if depth > MAX_DEPTH:
    raise ValueError(f'{field}: nested more than {MAX_DEPTH} deep')
  if isinstance(value, str):
    check_text(field, value)
  elif isinstance(value, list | tuple):
    for item in value:
      check_plain(f'{field}[]', item, depth + 1)
  elif isinstance(value, Mapping):
    for key, item in value.items():
      check_text(f'{field}: key', key)
      check_plain(f'{field}[{key!r:.40}]', item, depth + 1)
  elif not _is_scalar(value):
    raise ValueError(
      f'{field} is {value!r:.60} ({type(value).__name__}), wanted plain JSON'
    )


def check_ranges(ranges: Sequence[float]) -> None:
  """Refuses what are not positive, finite float16 numbers, or too many."""
  if len(ranges) > layout.MAX_RANGES:
    raise ValueError(
      f'activation_ranges has {len(ranges)} entries, wanted at most'
      f' {layout.MAX_RANGES}'
    )
  for index, value in enumerate(ranges):
    if not isinstance(value, float) or not _is_range(value):
      raise ValueError(
        f'activation_ranges[{index}] is {value!r:.40}, wanted a positive float'
        ' that float16 holds'
      )


def _is_range(value: float) -> bool:
  with np.errstate(over='ignore'):
    return 0 < value < math.inf and float(np.float16(value)) == value


def _is_scalar(value: Any) -> bool:
  if value is None or isinstance(value, bool):
    return True
  if isinstance(value, int):
    return abs(value) < 1 << 63
  return isinstance(value, float) and math.isfinite(value)


def _check_codes(
  path: str, tensor: qtensors.TernaryTensor | qtensors.Int8Tensor, most: int
) -> None:
  codes = tensor.codes
  if codes.dtype != np.int8 or not codes.ndim:
    raise ValueError(
      f'{path!r}: codes are {codes.dtype} with {codes.ndim} axes, wanted int8 '
      'with one axis or more'
    )
  if codes.size and (codes.min() < -most or codes.max() > most):
    raise ValueError(
      f'{path!r}: codes in [{codes.min()}, {codes.max()}], wanted'
      f' [-{most}, {most}]'
    )
  _check_scale(path, tensor)


def _check_codebook(path: str, tensor: qtensors.CodebookTensor) -> None:
  indices, codewords, _ = tensor
  if indices.dtype != np.uint8 or indices.ndim < 2:
    raise ValueError(
      f'{path!r}: indices are {indices.dtype} with {indices.ndim} axes, wanted '
      'uint8 with two axes or more'
    )
  if codewords.ndim != 2:
    raise ValueError(
      f'{path!r}: codewords have {codewords.ndim} axes, wanted 2'
    )
  _check_float(path, 'codewords', codewords)
  if indices.size and indices.max() >= len(codewords):
    raise ValueError(
      f'{path!r}: index {indices.max()}, there are {len(codewords)} codewords'
    )
  _check_scale(path, tensor)


def _check_scale(path: str, tensor: Quantized) -> None:
  scale = tensor.scale
  if scale is None:
    return
  _check_float(path, 'scale', scale)
  shape = layout.shape_of_scale(layout.spec_of(path, tensor))
  if scale.shape != shape:
    raise ValueError(f'{path!r}: scale has shape {scale.shape}, wanted {shape}')


def _check_float(path: str, name: str, values: np.ndarray) -> None:
  if values.dtype not in (np.float16, np.float32):
    raise ValueError(
      f'{path!r}: {name} is {values.dtype}, wanted float16 or float32'
    )


def _check_norms(artifact: Artifact) -> None:
  for norm, epsilon in artifact.folded_norms.items():
    check_path(norm)
    if not isinstance(epsilon, float) or not 0 <= epsilon <= 1:
      raise ValueError(
        f'folded norm {norm!r}: epsilon is {epsilon!r:.40}, wanted a float in '
        '[0, 1]'
      )
    shapes = []
    for name in ('scale', 'bias'):
      leaf = artifact.tensors.get(f'params/{norm}/{name}')
      if not isinstance(leaf, np.ndarray) or leaf.dtype.kind != 'f':
        raise ValueError(f'folded norm {norm!r}: no floating tensor {name!r}')
      shapes.append(leaf.shape)
    if shapes[0] != shapes[1] or len(shapes[0]) != 1:
      raise ValueError(
        f'folded norm {norm!r}: scale and bias have shapes {shapes[0]} and '
        f'{shapes[1]}, wanted one axis, equal'
      )
