"""The writer of `.hq` files: the same artifact gives the same bytes."""

import os
from typing import Any

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
from hq_jax.runtime import atomic_write


def dumps(artifact: model_lib.Artifact) -> bytes:
  """Encodes an artifact.

  Args:
    artifact: its tensors may be any arrays that NumPy can view.

  Returns:
    The bytes of the file. They hold no time and no order of insertion, and
    depend on nothing but the artifact and the release of zlib.

  Raises:
    ValueError: the artifact holds what a file cannot; the message names the
      field.

  >>> from hq_jax.core import qtensors
  >>> codes = np.array([[1, 0], [0, -1]], np.int8)
  >>> kernel = qtensors.TernaryTensor(codes, np.ones((1, 2), np.float16))
  >>> data = dumps(
  ...   model_lib.Artifact('', {}, (2,), {}, (), {'params/kernel': kernel}, {})
  ... )
  >>> data[:4]
  b'\\x89HQF'
  """
  found = {path: _to_numpy(path, t) for path, t in artifact.tensors.items()}
  artifact = artifact._replace(
    tensors=found,
    input_shape=tuple(artifact.input_shape),
    class_names=tuple(artifact.class_names),
    activation_ranges=tuple(artifact.activation_ranges),
  )
  model_lib.validate(artifact)
  header = headers.make(
    artifact, [layout.spec_of(p, t) for p, t in found.items()]
  )
  specs = header.specs
  sections = [(layout.HEADER, headers.encode(header))]
  ternary = layout.ternary(specs)
  if ternary:
    slices.check(ternary)
    tables, stream = ternary_coder.encode(
      [x for spec in ternary for x in slices.cut(found[spec.path].codes, spec)]
    )
    sections.append((layout.CODES, ternary_coder.pack_tables(tables) + stream))
  codebook = layout.codebook(specs)
  if codebook:
    stream = index_coder.encode(
      [found[spec.path].indices for spec in codebook],
      [spec.codewords[0] for spec in codebook],
    )
    sections.append((layout.INDICES, stream))
  for encoding, runs in layout.runs_by_encoding(specs).items():
    values = [layout.get_values(found[run.path], run.part) for run in runs]
    body = byte_planes.encode(np.concatenate(values))
    sections.append((layout.DTYPES[encoding][0], body))
  if artifact.activation_ranges:
    body = np.array(artifact.activation_ranges, '<f2').tobytes()
    sections.append((layout.RANGES, body))
  if artifact.nesting is not None:
    nesting.check(
      artifact.nesting, model_lib.list_paths(found, artifact.folded_norms)
    )
    sections.append((layout.NESTING, nesting.encode(artifact.nesting)))
  data = container.pack(sections)
  layout.check_total(specs, len(data))
  return data


def write(path: str | os.PathLike[str], artifact: model_lib.Artifact) -> int:
  """Writes a file whole or not at all, as `atomic_write.write_bytes` does.

  Args:
    path: of the file; its folder exists.
    artifact: what to write.

  Returns:
    The number of bytes written.

  Raises:
    ValueError: as `dumps`; nothing is written.
    FileNotFoundError: the folder does not exist.
    OSError: the disk refuses.

  >>> write('/nowhere/a.hq', model_lib.Artifact('', {}, (), {}, (), {}, {}))
  Traceback (most recent call last):
  FileNotFoundError: /nowhere/a.hq: its folder does not exist
  """
  data = dumps(artifact)
  atomic_write.write_bytes(path, data)
  return len(data)


def _to_numpy(path: str, tensor: Any) -> Any:
  if isinstance(tensor, model_lib.Quantized):
    parts = [None if part is None else _native(part) for part in tensor]
    return type(tensor)(*parts)
  if not hasattr(tensor, 'dtype'):
    raise ValueError(
      f'{path!r} is of type {type(tensor).__name__}, wanted an array'
    )
  return _native(tensor)


def _native(values: Any) -> np.ndarray:
  array = np.asarray(values)
  return array.astype(array.dtype.newbyteorder('='), copy=False)
