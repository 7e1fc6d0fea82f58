"""What may come of any bytes at all: one clear error, or a good artifact."""

import gc
import json
import math
import re
import time
import tracemalloc

import numpy as np

from hq_jax import artifact
from hq_jax.artifact import byte_planes
from hq_jax.artifact import format as container
from hq_jax.artifact import header as headers
from hq_jax.artifact import inspect
from hq_jax.artifact import layout
from hq_jax.artifact import reader
from hq_jax.artifact import slices
from hq_jax.artifact import ternary_contexts

SECONDS = 1  # of the processor, for one file of some kB
_SLACK_BYTES = 1 << 20

_PART = r'preamble|section table|section [A-Za-z][A-Za-z0-9]{3}'
_MESSAGE = re.compile(rf'artifact: ({_PART}): [^\n]+')
# A file may hold bytes to spare, and so declare more than one without them.
_SHORTER = re.compile(r'\d+ coded weights in a file of \d+ bytes[^\n]+')


def check(data):
  """Holds both readers to the rule; returns the artifact or the message."""
  found = _run(artifact.loads, data)
  described = _run(inspect.describe, data)
  if isinstance(found, str):
    assert _MESSAGE.fullmatch(found), found
    assert described == found
    return found
  assert _layers(described) == [
    (path, *_form(tensor)) for path, tensor in found.tensors.items()
  ]
  json.dumps(described)
  try:
    again = artifact.dumps(found)
  except ValueError as error:
    assert _SHORTER.fullmatch(str(error)), error
  else:
    assert is_equal(artifact.loads(again), found)
  return found


def is_equal(one, other):
  """Whether two artifacts are the same to the bit, the order included."""
  return (
    repr(one._replace(tensors={})) == repr(other._replace(tensors={}))
    and list(one.tensors) == list(other.tensors)
    and all(
      type(a) is type(b) and _bits(a) == _bits(b)
      for a, b in zip(one.tensors.values(), other.tensors.values(), strict=True)
    )
  )


def measure_peak(read, data):
  """Bytes that reading takes at most, `data` included, if they are traced.

  NumPy's are; those of constriction are not: its copy of the stream, and four
  bytes for each code of a chunk.
  """
  tracemalloc.start()
  try:
    read(data)
  except ValueError:
    pass
  finally:
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
  return len(data) + peak


def allow_peak(data):
  """Twice what the file holds and declares, and what bookkeeping comes to.

  `2 (file + tensors + 2^20) + texts + channels`, in bytes. The header's text
  and that of the nesting take at most 9 for each byte (Python gives four to
  each character where one needs them, in the text and in the longest string cut
  from it), 256 for each mark in it, which stands for an object, and the header
  8 for each character of the paths: 30 MB at the limits of the format. Contexts
  take 128 for each row and each column of the largest slice: 17 MB at the
  limits. A slice is a list and an array of its own, 512: 8 MB at the limits.
  """
  limit = 2 * (len(data) + _SLACK_BYTES)
  try:
    sections = container.unpack(data)
    for name in (layout.HEADER, layout.NESTING):
      limit += _allow_text(sections.get(name, b''))
    parsed = reader.parse(data)
  except ValueError:
    return limit
  specs = parsed.header.specs
  limit += 8 * sum(len(spec.path) for spec in specs)
  limit += 2 * sum(map(_count_bytes, specs))
  limit += 512 * slices.count(layout.ternary(specs))
  return limit + 128 * _count_channels(parsed)


def _allow_text(body):
  size = int.from_bytes(body[:4], 'little')
  limit = 9 * size if size <= headers.MAX_BYTES else 0
  try:
    text = byte_planes.inflate(body[4:], size)
  except ValueError:
    return limit
  num_marks = sum(map(text.count, (b',', b'[', b'{')))
  return limit + (256 * num_marks if num_marks <= headers.MAX_MARKS else 0)


def _run(read, data):
  gc.disable()  # it would go through what all tests before have left
  start = time.thread_time()  # other threads may be those of other tests
  try:
    return read(data)
  except ValueError as error:
    return str(error)
  finally:
    seconds = time.thread_time() - start
    gc.enable()
    assert seconds < SECONDS, f'{read.__name__}: {seconds} s'


def _layers(described):
  keys = 'path', 'shape', 'encoding'
  return [tuple(row[key] for key in keys) for row in described['layers']]


def _form(tensor):
  spec = layout.spec_of('', tensor)
  return list(spec.shape), spec.encoding


def _bits(tensor):
  parts = (tensor,) if isinstance(tensor, np.ndarray) else tensor
  return [
    None if part is None else (part.dtype, part.shape, part.tobytes())
    for part in parts
  ]


def _count_channels(parsed):
  """Of the largest slice with contexts, if any is allowed to have them."""
  try:
    tables, _ = reader.split_codes(parsed)
  except ValueError:
    return 0
  specs = layout.ternary(parsed.header.specs)
  found = [
    ternary_contexts.get_geometry(shape)
    for table, shape in zip(tables, slices.get_shapes(specs), strict=True)
    if table.has_contexts
  ]
  return max(
    (g.rows + g.columns for g in found if ternary_contexts.is_allowed(g)),
    default=0,
  )


def _count_bytes(spec):
  size = math.prod(spec.shape)
  if spec.encoding in layout.DTYPES:
    return size * layout.DTYPES[spec.encoding][1].itemsize
  if spec.encoding in layout.CODEBOOK:
    dtype = layout.DTYPES[layout.CODEBOOK[spec.encoding][0]][1]
    size = size // spec.codewords[1] + dtype.itemsize * math.prod(
      spec.codewords
    )
  scale = layout.SCALES[spec.encoding]
  if scale is None:
    return size
  num_scales = math.prod(layout.shape_of_scale(spec))
  return size + num_scales * layout.DTYPES[scale][1].itemsize
