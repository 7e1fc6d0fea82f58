"""The bytes of a file by part and by tensor; both add up to it."""

from collections.abc import Sequence
import itertools
import math
from typing import NamedTuple

import numpy as np

from hq_jax.artifact import format as container
from hq_jax.artifact import index_coder
from hq_jax.artifact import layout
from hq_jax.artifact import model as model_lib
from hq_jax.artifact import reader
from hq_jax.artifact import slices
from hq_jax.artifact import ternary_coder
from hq_jax.core import qtensors

# What `sizes` calls the runs that are no values of a dtype.
_KEYS = {layout.SCALE: 'scales', layout.CODEWORDS: 'codewords'}

# What it calls the ancillary sections that this reader knows.
_ANCILLARY = {layout.RANGES: 'activation_ranges', layout.NESTING: 'nesting'}


class Row(NamedTuple):
  """One tensor of a file.

  Attributes:
    path: its path.
    shape: its shape.
    encoding: a key of `layout.TERNARY`, `layout.INT8`, `layout.CODEBOOK` or
      `layout.DTYPES`.
    zeros: the fraction of its entries or codes that are zero; 0 if it has
      none.
    entropy_bits: order-0 entropy per ternary code or index; None where it has
      neither.
    has_contexts: whether its codes are coded with contexts, below that; of a
      stack of layers, those of any.
    num_bytes: its share of the file: codes, model table and scales; or
      indices, codewords and scales.
    bits: `8 num_bytes / size`, bits per weight; 0 if it has no entries.
    scale_axes: along which its scales vary, where it is ternary and that is not
      the last axis alone; else None.
  """

  path: str
  shape: tuple[int, ...]
  encoding: str
  zeros: float
  entropy_bits: float | None
  has_contexts: bool
  num_bytes: int
  bits: float
  scale_axes: tuple[int, ...] | None = None


class Account(NamedTuple):
  """A file's header and sections, its `sizes` and its `layers`."""

  parsed: reader.Parsed
  sizes: dict[str, int]
  layers: list[Row]


def apportion(total: int, shares: Sequence[float]) -> list[int]:
  """Splits `total` bytes in proportion to `shares`, into whole numbers.

  `end_i = round(total * (share_0 + ... + share_i) / sum)`, and each part is
  the difference of its ends: the parts add up to `total` exactly, and none
  is off by more than a byte.
  """
  if not shares:
    return []
  ends = np.cumsum(np.asarray(shares, np.float64))
  fractions = ends / ends[-1] if ends[-1] > 0 else np.zeros(len(ends))
  rounded = [0, *(round(total * float(f)) for f in fractions[:-1]), total]
  return [end - start for start, end in itertools.pairwise(rounded)]


def sizes(data: bytes) -> dict[str, int]:
  """Splits the length of a file by what the bytes are for.

  Args:
    data: the whole file.

  Returns:
    'preamble' (with the section table), 'header', 'ternary_codes' (the
    stream), 'model_tables' (the layers' frequencies), 'scales' (of ternary,
    int8 and codebook tensors), 'indices' and 'codewords' (of codebook tensors,
    if there are any), a dtype's name for each dtype of other values (the
    codes of int8 tensors are 'int8'), 'activation_ranges', 'nesting' (lists,
    tuples and names), and 'ancillary' (sections that this reader skips) if
    there are any. They add up to `len(data)`. Where scales or codewords share a
    section with other values, its bytes are split in proportion to the numbers
    of values.

  Raises:
    ValueError: as `reader.parse`.

  >>> from hq_jax.artifact import model as model_lib, writer
  >>> data = writer.dumps(model_lib.Artifact('', {}, (), {}, (), {}, {}))
  >>> sum(sizes(data).values()) == len(data)
  True
  """
  return _sizes(reader.parse(data), len(data))


def _sizes(parsed: reader.Parsed, file_bytes: int) -> dict[str, int]:
  tables, stream = reader.split_codes(parsed)
  parts = {
    'preamble': container.preamble_bytes(len(parsed.sections)),
    'header': len(parsed.sections[layout.HEADER]),
    'ternary_codes': len(stream),
    'model_tables': ternary_coder.TABLE_BYTES * len(tables),
    'scales': 0,
  }
  if layout.INDICES in parsed.sections:
    parts['indices'] = len(parsed.sections[layout.INDICES])
  for encoding, runs in _split_runs(parsed).items():
    for part, key in _KEYS.items():
      if shares := [n for run, n in runs if run.part == part]:
        parts[key] = parts.get(key, 0) + sum(shares)
    others = [n for run, n in runs if run.part == layout.VALUES]
    if others:
      parts[layout.DTYPES[encoding][1].name] = sum(others)
  for section, key in _ANCILLARY.items():
    if section in parsed.sections:
      parts[key] = len(parsed.sections[section])
  ancillary = file_bytes - sum(parts.values())
  if ancillary:
    parts['ancillary'] = ancillary
  return parts


def layers(data: bytes) -> list[Row]:
  """Says of every tensor what it costs.

  The ternary layers share one entropy-coded stream, and so do the codebook
  layers: its bytes are attributed in proportion to what each layer's codes cost
  under its model, `sum(-log2 p)`; a section of values is attributed in
  proportion to the numbers of values. Shares are rounded so that
  `sum(row.num_bytes) + preamble + header (+ activation_ranges) (+ nesting)
  (+ ancillary) == len(data)`.

  Args:
    data: the whole file.

  Returns:
    A row per tensor, in the order of the file.

  Raises:
    ValueError: as `reader.loads`.

  >>> from hq_jax.artifact import model as model_lib, writer
  >>> bias = {'params/bias': np.zeros(4, np.float16)}
  >>> data = writer.dumps(model_lib.Artifact('', {}, (), {}, (), bias, {}))
  >>> layers(data)[0].zeros
  1.0
  """
  return account(data).layers


def account(data: bytes) -> Account:
  """Does what `sizes` and `layers` do, and reads the file once."""
  parsed = reader.parse(data)
  found = reader.decode(parsed).tensors
  return Account(parsed, _sizes(parsed, len(data)), _layers(parsed, found))


def _layers(
  parsed: reader.Parsed, found: dict[str, model_lib.Tensor]
) -> list[Row]:
  specs = parsed.header.specs
  tables, stream = reader.split_codes(parsed)
  by_path = dict(slices.group(tables, layout.ternary(specs)))
  shares = {
    spec.path: ternary_coder.TABLE_BYTES * len(by_path.get(spec.path, ()))
    for spec in specs
  }
  codes, indices = {}, {}  # what they cost, in bits
  for spec in specs:
    path, tensor = spec.path, found[spec.path]
    if isinstance(tensor, qtensors.TernaryTensor):
      parts = zip(slices.cut(tensor.codes, spec), by_path[path], strict=True)
      codes[path] = sum(ternary_coder.layer_bits(*part) for part in parts)
    elif isinstance(tensor, qtensors.CodebookTensor):
      size = len(tensor.codewords)
      indices[path] = index_coder.tensor_bits(tensor.indices, size)
  index_bytes = len(parsed.sections.get(layout.INDICES, b''))
  for costs, total in ((codes, len(stream)), (indices, index_bytes)):
    split = apportion(total, list(costs.values()))
    for path, num_bytes in zip(costs, split, strict=True):
      shares[path] += num_bytes
  for runs in _split_runs(parsed).values():
    for run, num_bytes in runs:
      shares[run.path] += num_bytes
  return [
    _row(
      spec,
      found[spec.path],
      shares[spec.path],
      any(table.has_contexts for table in by_path.get(spec.path, ())),
    )
    for spec in specs
  ]


def _row(
  spec: layout.Spec, tensor: model_lib.Tensor, share: int, has_contexts: bool
) -> Row:
  size = math.prod(spec.shape)
  entropy = None
  if isinstance(tensor, qtensors.CodebookTensor):
    counts = index_coder.count(tensor.indices, len(tensor.codewords))
    entropy = ternary_coder.entropy_bits(counts.tolist())
    zeros = int(counts @ np.sum(tensor.codewords == 0, axis=1))
  elif isinstance(tensor, qtensors.TernaryTensor):
    found = ternary_coder.count(tensor.codes)
    entropy = ternary_coder.entropy_bits(found)
    zeros = found[0]
  else:
    values = tensor.codes if isinstance(tensor, qtensors.Int8Tensor) else tensor
    zeros = size - int(np.count_nonzero(values))
  return Row(
    path=spec.path,
    shape=spec.shape,
    encoding=spec.encoding,
    zeros=zeros / size if size else 0.0,
    entropy_bits=entropy,
    has_contexts=has_contexts,
    num_bytes=share,
    bits=8 * share / size if size else 0.0,
    scale_axes=spec.scale_axes,
  )


def _split_runs(
  parsed: reader.Parsed,
) -> dict[str, list[tuple[layout.Run, int]]]:
  split = {}
  for encoding, runs in layout.runs_by_encoding(parsed.header.specs).items():
    body = parsed.sections[layout.DTYPES[encoding][0]]
    shares = apportion(len(body), [run.size for run in runs])
    split[encoding] = list(zip(runs, shares, strict=True))
  return split
