"""How long the reader takes at most: small files that are made to take long.

  python -m benchmarks.forged_files

Each does to its limit what docs/format.md allows, and has good checksums: a
header with as many tensors, layers or values as there may be; and streams of
any bytes, of which as many codes are decoded as they may hold, before their
ends show that they hold others.

Prints a Markdown table, seconds of the processor, of one core, the least of so
many rounds, and as its last line a JSON object with the most seconds a kB.
"""

import argparse
from collections.abc import Sequence
import json
import struct
import time
from typing import Any

import numpy as np
import tabulate

from hq_jax import artifact
from hq_jax.artifact import ans
from hq_jax.artifact import byte_planes
from hq_jax.artifact import format as container
from hq_jax.artifact import header as headers
from hq_jax.artifact import layout
from hq_jax.artifact import ternary_coder

_STREAM_BYTES = 4000


def pack(
  tree: dict[str, Any],
  sections: list[tuple[str, bytes]],
  arguments: dict[str, Any] | None = None,
) -> bytes:
  """A file with these tensors; `sections` are those behind its header."""
  fields = {
    'args': arguments or {},
    'classes': [],
    'input': [],
    'model': '',
    'preprocessing': {},
    'tree': {'params': tree},
  }
  text = json.dumps(fields, separators=(',', ':')).encode()
  body = struct.pack('<I', len(text)) + byte_planes.deflate(text)
  return container.pack([(layout.HEADER, body), *sections])


def count_codes(num_bytes: int) -> int:
  """As many as may be decoded from a stream."""
  return ans.MAX_CODES_PER_BYTE * (num_bytes + ans.FREE_BYTES)


def make_codes(mode: int, side: int, num_bytes: int) -> bytes:
  """A stream of ternary codes, of filters with such sides."""
  columns = 2048
  rows = count_codes(num_bytes) // (side**2 * columns) - 1
  table = ternary_coder.Table(mode, (ternary_coder.TOTAL - 178, 89, 89))
  tables = ternary_coder.pack_tables([table])
  tree = {'k': ['t', side, side, rows, columns]}
  return pack(tree, [(layout.CODES, tables + _draw(num_bytes))])


def make_indices(size: int, num_bytes: int) -> bytes:
  """A stream of indices of codewords, in one tensor."""
  number = count_codes(num_bytes) - 255 * 32
  codewords = byte_planes.encode(np.zeros(size, np.float16))
  tree = {'k': ['c2', size, 1, number // 64, 64]}
  return pack(tree, [(layout.INDICES, _draw(num_bytes)), ('TF16', codewords)])


def make_zeros(num_bytes: int) -> bytes:
  """Codes of one symbol, for which there is no stream, only a long file."""
  size = layout.FREE_CODES + layout.MAX_CODES_PER_BYTE * num_bytes
  table = ternary_coder.Table(0, (ternary_coder.TOTAL, 0, 0))
  tables = ternary_coder.pack_tables([table])
  tree = {'k': ['t', size // 1024, 1024]}
  return pack(tree, [(layout.CODES, tables), ('rest', _draw(num_bytes))])


def make_values(num_bytes: int) -> bytes:
  """Bytes that DEFLATE makes of the fewest."""
  body = byte_planes.encode(np.zeros(1030 * num_bytes, np.int8))
  return pack({'k': ['q', 1030, num_bytes]}, [('TI08', body)])


def make_tensors() -> bytes:
  """As many tensors as there may be, each with codes and scales."""
  names = [f'{i:x}' for i in range(headers.MAX_PATHS)]
  table = ternary_coder.Table(0, (ternary_coder.TOTAL, 0, 0))
  scales = byte_planes.encode(np.ones(len(names), np.float32))
  return pack(
    {name: ['t4', 1, 1] for name in names},
    [
      (layout.CODES, ternary_coder.pack_tables([table] * len(names))),
      ('TF32', scales),
    ],
  )


def make_layers() -> bytes:
  """As many layers as there may be, in one stack."""
  number = layout.MAX_SLICES
  table = ternary_coder.Table(0, (ternary_coder.TOTAL, 0, 0))
  return pack(
    {'k': ['t4', [0, 2], number, 1, 2]},
    [
      (layout.CODES, ternary_coder.pack_tables([table] * number)),
      ('TF32', byte_planes.encode(np.ones(2 * number, np.float32))),
    ],
  )


def make_text() -> bytes:
  """As much text in a header, and as many values in it, as there may be."""
  values = [[] for _ in range(headers.MAX_MARKS // 2 - 10)]
  spaces = ' ' * (headers.MAX_BYTES - 3 * len(values) - 200)
  return pack({}, [], {'x': values, 'y': spaces})


def _draw(num_bytes: int) -> bytes:
  """Any bytes, but a stream does not end in zero."""
  return np.random.default_rng(0).bytes(num_bytes - 1) + b'\1'


def make_files(num_bytes: int) -> dict[str, bytes]:
  """The files by what takes long, those of streams with so many bytes."""
  return {
    'a header of tensors': make_tensors(),
    'a header of layers': make_layers(),
    'a header of text': make_text(),
    'codes by frequencies': make_codes(ternary_coder.STATIC, 1, num_bytes),
    'codes by contexts': make_codes(ternary_coder.CONTEXTS, 1, num_bytes),
    'codes by classes': make_codes(ternary_coder.CLASSES, 3, num_bytes),
    'indices of 2 codewords': make_indices(2, num_bytes),
    'indices of 256 codewords': make_indices(256, num_bytes),
    'codes of one symbol': make_zeros(num_bytes),
    'values that are zero': make_values(num_bytes),
  }


def read(data: bytes) -> str:
  """What the reader says of a file; '' if it is good."""
  try:
    artifact.loads(data)
  except ValueError as error:
    return str(error)
  return ''


def measure(data: bytes, rounds: int) -> float:
  """The seconds of the processor that reading takes."""
  found = []
  for _ in range(rounds):
    start = time.process_time()
    read(data)
    found.append(time.process_time() - start)
  return min(found)


def main(argv: Sequence[str] | None = None) -> None:
  """Measures all files and prints what they took."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--stream_bytes', type=int, default=_STREAM_BYTES)
  args = parser.parse_args(argv)
  rows = []
  for name, data in make_files(args.stream_bytes).items():
    seconds = measure(data, args.rounds)
    rows.append((name, len(data) / 1000, seconds, 1000 * seconds / len(data)))
  heads = 'file', 'kB', 'seconds', 'seconds a kB'
  print(tabulate.tabulate(rows, heads, 'github', ('', '.1f', '.3f', '.4f')))
  print(json.dumps({'seconds_a_kb': round(max(row[-1] for row in rows), 4)}))


if __name__ == '__main__':
  main()
