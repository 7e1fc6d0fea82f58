"""The layout of tensors in sections: derived from the header, not stored."""

from collections.abc import Iterable, Sequence
import math
from typing import Any, NamedTuple

import numpy as np

from hq_jax.core import qtensors

HEADER = 'HEAD'
CODES = 'CODE'
INDICES = 'INDX'
RANGES = 'rngs'  # ancillary: the logits do not need them
NESTING = 'nest'  # ancillary: the tensors do not need it

# Encodings of ordinary tensors: the dtype, and the section that holds it.
DTYPES: dict[str, tuple[str, np.dtype[Any]]] = {
  'f2': ('TF16', np.dtype(np.float16)),
  'f4': ('TF32', np.dtype(np.float32)),
  'f8': ('TF64', np.dtype(np.float64)),
  'i1': ('TI08', np.dtype(np.int8)),
  'i2': ('TI16', np.dtype(np.int16)),
  'i4': ('TI32', np.dtype(np.int32)),
  'i8': ('TI64', np.dtype(np.int64)),
  'u1': ('TU08', np.dtype(np.uint8)),
  'u2': ('TU16', np.dtype(np.uint16)),
  'u4': ('TU32', np.dtype(np.uint32)),
  'u8': ('TU64', np.dtype(np.uint64)),
}
# Encodings of ternary tensors: that of their scale.
TERNARY: dict[str, str | None] = {'t': None, 't2': 'f2', 't4': 'f4'}
# Encodings of int8 tensors: that of their scale. Their codes are `i1`.
INT8: dict[str, str | None] = {'q': None, 'q2': 'f2', 'q4': 'f4'}
# Encodings of codebook tensors: that of their codewords, that of their scale.
CODEBOOK: dict[str, tuple[str, str | None]] = {
  'c2': ('f2', None),
  'c22': ('f2', 'f2'),
  'c24': ('f2', 'f4'),
  'c4': ('f4', None),
  'c42': ('f4', 'f2'),
  'c44': ('f4', 'f4'),
}
# Encodings of all that may have a scale: that of the scale.
SCALES: dict[str, str | None] = (
  TERNARY | INT8 | {name: scale for name, (_, scale) in CODEBOOK.items()}
)

MAX_AXES = 32
MAX_ELEMENTS = 1 << 31  # per tensor, and of all kernels of codes together
MAX_CODEWORDS = 256  # an index is one byte
MAX_RANGES = 1 << 13  # of activations
MAX_SLICES = 1 << 14  # of all ternary tensors together, see `slices`
# Codes of a layer with almost no non-zeros cost next to nothing, so the
# length of the stream does not bound their number: these two do.
FREE_CODES = 1 << 20
MAX_CODES_PER_BYTE = 1 << 14  # of the whole file; a 90% sparse net has 14


class Spec(NamedTuple):
  """What the header says of one tensor."""

  path: str  # names joined by '/', a collection such as 'params' first
  encoding: str  # a key of `DTYPES`, `TERNARY`, `INT8` or `CODEBOOK`
  shape: tuple[int, ...]  # of a codebook tensor, that of its kernel
  codewords: tuple[int, ...] = ()  # of a codebook tensor: their shape, (K, d)
  # Of a ternary tensor: along which axes its scales vary, if not along its last
  # one alone.
  scale_axes: tuple[int, ...] | None = None


# The parts of a tensor that are runs of values.
VALUES = 'values'
SCALE = 'scale'
CODEWORDS = 'codewords'


class Run(NamedTuple):
  """The values of a tensor in the section of one dtype.

  An int8 tensor has two runs: its codes and, unless they were folded, its
  scales; a codebook tensor has its codewords and its scales.
  """

  path: str  # of the tensor
  size: int  # the number of values
  part: str  # of the tensor: `VALUES`, `SCALE` or `CODEWORDS`


def spec_of(path: str, tensor: Any) -> Spec:
  """Describes a tensor."""
  codewords: tuple[int, ...] = ()
  if isinstance(tensor, qtensors.TernaryTensor):
    encoding = 't'
  elif isinstance(tensor, qtensors.Int8Tensor):
    encoding = 'q'
  elif isinstance(tensor, qtensors.CodebookTensor):
    encoding = f'c{tensor.codewords.dtype.itemsize}'
    codewords = tensor.codewords.shape
  else:
    encoding = f'{tensor.dtype.kind}{tensor.dtype.itemsize}'
    if encoding not in DTYPES:
      wanted = ', '.join(dtype.name for _, dtype in DTYPES.values())
      raise ValueError(
        f'{path!r}: dtype is {tensor.dtype}, wanted one of {wanted}'
      )
  if encoding not in DTYPES and tensor.scale is not None:
    encoding += str(tensor.scale.dtype.itemsize)
  return Spec(
    path, encoding, shape_of(tensor), codewords, _find_scale_axes(tensor)
  )


def _find_scale_axes(tensor: Any) -> tuple[int, ...] | None:
  if not isinstance(tensor, qtensors.TernaryTensor) or tensor.scale is None:
    return None
  sizes, scales = np.shape(tensor.codes), np.shape(tensor.scale)
  if len(scales) != len(sizes) or scales == _usual_scale(sizes):
    return None
  return tuple(axis for axis, size in enumerate(scales) if size != 1)


def _usual_scale(shape: tuple[int, ...]) -> tuple[int, ...]:
  """The shape of a scale for each entry of the last axis."""
  return (*[1] * (len(shape) - 1), *shape[-1:])


def shape_of(tensor: Any) -> tuple[int, ...]:
  """The shape of what a tensor stands for.

  Args:
    tensor: as of `spec_of`, of any arrays that NumPy can view.

  Returns:
    Its shape; of a codebook tensor, that of its kernel.

  >>> indices = np.zeros((3, 3, 2, 5), np.uint8)
  >>> shape_of(qtensors.CodebookTensor(indices, np.zeros((16, 4), np.float16)))
  (3, 3, 8, 5)
  """
  if isinstance(tensor, qtensors.CodebookTensor):
    *lead, groups, out = np.shape(tensor.indices)
    return (*lead, groups * np.shape(tensor.codewords)[1], out)
  return np.shape(getattr(tensor, 'codes', tensor))


def check_spec(spec: Spec) -> None:
  """Refuses what must not be allocated."""
  path, encoding, shape, codewords, scale_axes = spec
  if encoding in DTYPES:
    fewest = 0
  elif encoding in CODEBOOK:
    fewest = 2
  elif encoding in TERNARY or encoding in INT8:
    # A single axis has one scale, which belongs to no channel of a norm.
    fewest = 2 if encoding == 'q' else 1
  else:
    raise ValueError(f'{path!r}: unknown encoding {encoding!r:.20}')
  if not fewest <= len(shape) <= MAX_AXES:
    raise ValueError(f'{path!r}: {len(shape)} axes')
  if any(type(n) is not int or not 0 <= n <= MAX_ELEMENTS for n in shape):
    raise ValueError(f'{path!r}: shape, wanted sizes in [0, {MAX_ELEMENTS}]')
  # NumPy has no array whose axes, those of size 0 aside, are beyond this.
  if math.prod(n for n in shape if n) > MAX_ELEMENTS:
    raise ValueError(f'{path!r}: more than {MAX_ELEMENTS} elements')
  if encoding in CODEBOOK:
    _check_codewords(path, shape, codewords)
  if scale_axes is not None:
    _check_scale_axes(spec, scale_axes)


def shape_of_indices(spec: Spec) -> tuple[int, ...]:
  """The shape of a codebook tensor's indices, `[.., groups, out]`."""
  *lead, rows, out = spec.shape
  return (*lead, rows // spec.codewords[1], out)


def codebook(specs: Sequence[Spec]) -> list[Spec]:
  """The codebook tensors, in the order of their indices in the stream."""
  return [spec for spec in specs if spec.encoding in CODEBOOK]


def ternary(specs: Sequence[Spec]) -> list[Spec]:
  """The ternary tensors, in the order of their codes in the stream."""
  return [spec for spec in specs if spec.encoding in TERNARY]


def shape_of_scale(spec: Spec) -> tuple[int, ...]:
  """The shape of the scale of a tensor of codes or indices, if it has one."""
  if spec.scale_axes is not None:
    sizes = enumerate(spec.shape)
    return tuple(n if axis in spec.scale_axes else 1 for axis, n in sizes)
  if spec.encoding in TERNARY:
    return _usual_scale(spec.shape)
  *lead, out = spec.shape
  return (out,) if lead or spec.encoding not in INT8 else (1,)


def runs_by_encoding(specs: Sequence[Spec]) -> dict[str, list[Run]]:
  """The runs of values in every section of values."""
  found: dict[str, list[Run]] = {encoding: [] for encoding in DTYPES}
  for spec in specs:
    path, encoding, shape = spec.path, spec.encoding, spec.shape
    if encoding in CODEBOOK:
      num_values = math.prod(spec.codewords)
      found[CODEBOOK[encoding][0]].append(Run(path, num_values, CODEWORDS))
    scale = SCALES.get(encoding)
    if scale is not None:
      num_scales = math.prod(shape_of_scale(spec))
      found[scale].append(Run(path, num_scales, SCALE))
    if encoding in DTYPES or encoding in INT8:
      values = 'i1' if encoding in INT8 else encoding
      found[values].append(Run(path, math.prod(shape), VALUES))
  return {encoding: runs for encoding, runs in found.items() if runs}


def get_values(tensor: Any, part: str) -> np.ndarray:
  """A part of a tensor, in the order of the file."""
  if part == SCALE:
    values = tensor.scale
  elif part == CODEWORDS:
    values = tensor.codewords
  else:
    is_int8 = isinstance(tensor, qtensors.Int8Tensor)
    values = tensor.codes if is_int8 else tensor
  return np.asarray(values).ravel()


def expected_sections(specs: Sequence[Spec]) -> list[str]:
  """The names of all sections of a file with these tensors, in order."""
  names = [HEADER] + ([CODES] if ternary(specs) else [])
  names += [INDICES] if codebook(specs) else []
  return names + [DTYPES[encoding][0] for encoding in runs_by_encoding(specs)]


def check_total(specs: Iterable[Spec], file_bytes: int) -> None:
  """Refuses more coded weights than a file of this length may declare.

  Those of ternary and codebook tensors:

  `weights <= min(MAX_ELEMENTS, FREE_CODES + MAX_CODES_PER_BYTE * file_bytes)`.
  """
  coded = TERNARY | CODEBOOK
  total = sum(math.prod(s.shape) for s in specs if s.encoding in coded)
  limit = min(MAX_ELEMENTS, FREE_CODES + MAX_CODES_PER_BYTE * file_bytes)
  if total > limit:
    raise ValueError(
      f'{total} coded weights in a file of {file_bytes} bytes, wanted at '
      f'most {limit}'
    )


def _check_scale_axes(spec: Spec, axes: tuple[int, ...]) -> None:
  path, shape = spec.path, spec.shape
  if TERNARY.get(spec.encoding) is None:
    raise ValueError(f'{path!r}: axes of scales, {spec.encoding!r} has none')
  if (
    any(type(axis) is not int for axis in axes)
    or list(axes) != [i for i, n in enumerate(shape) if i in axes and n != 1]
    or shape_of_scale(spec) == _usual_scale(shape)
  ):
    raise ValueError(
      f'{path!r}: axes of scales {list(axes)!r:.40} for shape {shape!r:.80},'
      ' wanted ascending axes of sizes other than 1, not the last alone'
    )


def _check_codewords(
  path: str, shape: tuple[int, ...], codewords: tuple[int, ...]
) -> None:
  if len(codewords) != 2 or any(type(n) is not int for n in codewords):
    raise ValueError(f'{path!r}: codewords, wanted their number and their size')
  number, size = codewords
  if not 1 <= number <= MAX_CODEWORDS or not 1 <= size <= MAX_ELEMENTS:
    raise ValueError(
      f'{path!r}: {number} codewords of size {size}, wanted 1 to '
      f'{MAX_CODEWORDS} of size 1 to {MAX_ELEMENTS}'
    )
  if shape[-2] % size:
    raise ValueError(
      f'{path!r}: codewords of size {size} in {shape[-2]} input channels'
    )
