"""The reader of `.hq` files: bytes that are not exactly one are refused."""

from collections.abc import Iterator
import contextlib
import os
from typing import Any, NamedTuple

import numpy as np

from hq_jax.artifact import byte_planes
from hq_jax.artifact import format as container
from hq_jax.artifact import header as headers
from hq_jax.artifact import index_coder
from hq_jax.artifact import layout
from hq_jax.artifact import model as model_lib
from hq_jax.artifact import nesting
from hq_jax.artifact import slices
from hq_jax.artifact import ternary_coder
from hq_jax.core import files
from hq_jax.core import qtensors

MAX_FILE_BYTES = 1 << 32


class Parsed(NamedTuple):
  """A file whose checksums and header were found good."""

  header: headers.Header
  sections: dict[str, memoryview]  # by name, in the order of the file


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
  """Puts a name before the message of a `ValueError`."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f'{what}: {error}') from error


def loads(data: bytes, name: str = '') -> model_lib.Artifact:
  """Decodes the bytes of a file.

  Args:
    data: the whole file.
    name: what to call it in messages, such as its path.

  Returns:
    The artifact, its tensors sorted by path; codes are bit-identical to
    those written.

  Raises:
    ValueError: empty, foreign, damaged, cut, followed by other bytes, of
      another version, or not within the bounds of the format; one line that
      names the file and its section.

  >>> loads(b'', name='a.hq')
  Traceback (most recent call last):
  ValueError: a.hq: preamble: the file is empty
  """
  with naming(name or 'artifact'):
    return decode(parse(bytes(data)))


def read(path: str | os.PathLike[str]) -> model_lib.Artifact:
  """Reads a file.

  Args:
    path: of a regular file.

  Returns:
    The artifact.

  Raises:
    FileNotFoundError: there is none; the message is one line.
    ValueError: not readable, not a regular file, too large, or as `loads`.

  >>> read('/nowhere/a.hq')
  Traceback (most recent call last):
  FileNotFoundError: /nowhere/a.hq: no such file
  """
  return loads(read_bytes(path), os.fspath(path))


def read_bytes(path: str | os.PathLike[str]) -> bytes:
  """Reads a file's bytes, unless it says itself that it has others."""

  def check(first: bytes, num_bytes: int) -> None:
    with naming(os.fspath(path)):
      container.check_length(first, num_bytes)

  return files.read(path, MAX_FILE_BYTES, check)


def parse(data: bytes) -> Parsed:
  """Verifies the container and decodes the header, but no tensor."""
  sections = container.unpack(data)
  if layout.HEADER not in sections:
    raise ValueError(f'section {layout.HEADER}: missing')
  with naming(f'section {layout.HEADER}'):
    header = headers.decode(sections[layout.HEADER])
    model_lib.validate(model_lib.Artifact(*header[:5], {}, {}))
  expected = layout.expected_sections(header.specs)
  for name in expected:
    if name not in sections:
      raise ValueError(f'section {name}: missing')
  for name in sections:
    if name not in expected and container.is_critical(name):
      raise ValueError(f'section {name}: unknown, or without tensors')
  with naming(f'section {layout.HEADER}'):
    layout.check_total(header.specs, len(data))
    slices.check(header.specs)
  return Parsed(header, sections)


def split_codes(parsed: Parsed) -> tuple[list[ternary_coder.Table], memoryview]:
  """Splits CODE into the slices' model tables and the stream."""
  body = parsed.sections.get(layout.CODES, memoryview(b''))
  num_tables = slices.count(layout.ternary(parsed.header.specs))
  num_bytes = ternary_coder.TABLE_BYTES * num_tables
  if len(body) < num_bytes:
    raise ValueError(f'{len(body)} bytes, wanted {num_bytes} of model tables')
  tables = ternary_coder.unpack_tables(bytes(body[:num_bytes]))
  return tables, body[num_bytes:]


def decode(parsed: Parsed) -> model_lib.Artifact:
  """Decodes the tensors of a parsed file."""
  header = parsed.header
  codes = _decode_codes(parsed) | _decode_indices(parsed)
  values = _decode_values(parsed)
  found: dict[str, model_lib.Tensor] = {}
  for spec in header.specs:
    path, encoding, shape, codewords, _ = spec
    scale = values.get((path, layout.SCALE))
    if scale is not None:
      scale = scale.reshape(layout.shape_of_scale(spec))
    if encoding in layout.TERNARY:
      found[path] = qtensors.TernaryTensor(codes[path], scale)
    elif encoding in layout.CODEBOOK:
      book = values[path, layout.CODEWORDS].reshape(codewords)
      found[path] = qtensors.CodebookTensor(codes[path], book, scale)
    else:
      array = values[path, layout.VALUES].reshape(shape)
      is_int8 = encoding in layout.INT8
      found[path] = _make_int8(path, array, scale) if is_int8 else array
  artifact = model_lib.Artifact(
    *header[:5], found, header.folded_norms, decode_ranges(parsed)
  )
  with naming(f'section {layout.HEADER}'):
    model_lib.validate(artifact)
  return artifact._replace(nesting=_decode_nesting(parsed))


def decode_ranges(parsed: Parsed) -> tuple[float, ...]:
  """Decodes the ranges of activations; () where there are none."""
  body = parsed.sections.get(layout.RANGES)
  if body is None:
    return ()
  with naming(f'section {layout.RANGES}'):
    if len(body) % 2 or not 0 < len(body) <= 2 * layout.MAX_RANGES:
      raise ValueError(
        f'{len(body)} bytes, wanted 2 for each of 1 to {layout.MAX_RANGES}'
      )
    ranges = tuple(np.frombuffer(body, '<f2').astype(float).tolist())
    model_lib.check_ranges(ranges)
  return ranges


def _decode_nesting(parsed: Parsed) -> Any:
  body = parsed.sections.get(layout.NESTING)
  if body is None:
    return None
  paths = [spec.path for spec in parsed.header.specs]
  with naming(f'section {layout.NESTING}'):
    found = nesting.decode(body)
    nesting.check(
      found, model_lib.list_paths(paths, parsed.header.folded_norms)
    )
  return found


def _decode_codes(parsed: Parsed) -> dict[str, np.ndarray]:
  specs = layout.ternary(parsed.header.specs)
  with naming(f'section {layout.CODES}'):
    tables, stream = split_codes(parsed)
    found = ternary_coder.decode(stream, tables, slices.get_shapes(specs))
  return dict(slices.join_all(found, specs))


def _decode_indices(parsed: Parsed) -> dict[str, np.ndarray]:
  specs = layout.codebook(parsed.header.specs)
  if not specs:
    return {}
  with naming(f'section {layout.INDICES}'):
    found = index_coder.decode(
      parsed.sections[layout.INDICES],
      [spec.codewords[0] for spec in specs],
      [layout.shape_of_indices(spec) for spec in specs],
    )
  return {spec.path: found for spec, found in zip(specs, found, strict=True)}


def _decode_values(parsed: Parsed) -> dict[tuple[str, str], np.ndarray]:
  found = {}
  for encoding, runs in layout.runs_by_encoding(parsed.header.specs).items():
    name, dtype = layout.DTYPES[encoding]
    total = sum(run.size for run in runs)
    with naming(f'section {name}'):
      values = byte_planes.decode(parsed.sections[name], dtype, total)
    start = 0
    for path, size, part in runs:
      found[path, part] = values[start : start + size].copy()
      start += size
  return found


def _make_int8(
  path: str, codes: np.ndarray, scale: np.ndarray | None
) -> qtensors.Int8Tensor:
  if np.any(codes == -128):
    raise ValueError(
      f'section {layout.DTYPES["i1"][0]}: {path!r}: code -128, wanted codes in '
      '[-127, 127]'
    )
  return qtensors.Int8Tensor(codes, scale)
