"""What the devices say to one another in a compiled function.

Read from the text of its optimized HLO, where each device's program is written
once: an operation that stands in a loop or in a branch counts once, however
often it runs.

A TPU's compiler writes a reduce-scatter as a computation of that name, with an
all-reduce in it of which each device takes its slice; and a collective that
others run beside in pieces, which have one channel.
"""

from collections.abc import Iterator
import math
import re

KINDS = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'collective-permute',
  'all-to-all',
)

# The name, a shape or a tuple of shapes, the operation. No shape has a `%` or a
# quotation mark, so that what stands in operands and metadata is not found.
_OPERATION = re.compile(
  r'^\s*(?:ROOT )?%?[\w.-]+ = (\([^%"]*?\)|[^\s%"]+)'
  rf' ({"|".join(KINDS)})(-start|-done)?\('
)
_SCATTER = re.compile(r'^%all-reduce-scatter[\w.-]* \(.*\) -> (.*) \{$')
_PIECE = re.compile(r' channel_id=(\d+),.*\bchain_id="(\d+)"')
_ARRAY = re.compile(r'\b([a-z]+)(\d*)\w*\[([\d,<=]*)\]')


def count_shape_bytes(shape: str) -> int:
  """The bytes of an array, or of all arrays of a tuple.

  >>> count_shape_bytes('(f32[2,3]{1,0}, bf16[4]{0}, pred[])')
  33
  """
  return sum(
    math.ceil(num * num_bits / 8) for num, num_bits in _read_arrays(shape)
  )


def _read_arrays(shape: str) -> Iterator[tuple[int, int]]:
  """Elements, and bits of each, of every array."""
  for kind, digits, sizes in _ARRAY.findall(shape):
    num_bits = 8 if kind == 'pred' else int(digits or 0)
    # `<=8` is an axis of at most 8.
    axes = sizes.replace('<=', '').split(',') if sizes else []
    yield math.prod(map(int, axes)), num_bits


def count(hlo: str) -> dict[str, dict[str, int]]:
  """Counts the collectives of a compiled function.

  A pair of `-start` and `-done` counts once, with the result of its end: the
  beginning of some has the operands in its shape too.

  >>> line = '%a = f32[8,4]{1,0} all-gather(%b), dimensions={0}'
  >>> count(line)['all-gather']
  {'count': 1, 'bytes': 128, 'largest_bytes': 128}
  """
  found = {kind: {'count': 0, 'bytes': 0, 'largest_bytes': 0} for kind in KINDS}
  pieces, scattered = set(), None
  for line in hlo.splitlines():
    if line.endswith('{') or line.startswith('}'):
      match = _SCATTER.match(line)
      scattered = match and match[1]
      continue
    match = _OPERATION.match(line)
    if match is None or match[3] == '-start':
      continue
    shape, name, _ = match.groups()
    if scattered and name == 'all-reduce':
      shape, name = scattered, 'reduce-scatter'
    arrays = [
      math.ceil(num * num_bits / 8) for num, num_bits in _read_arrays(shape)
    ]
    channel = _PIECE.search(line)
    if channel:
      piece = name, channel.groups(), tuple(arrays)
      if piece in pieces:
        continue
      pieces.add(piece)
    kind = found[name]
    kind['count'] += 1
    kind['bytes'] += sum(arrays)
    kind['largest_bytes'] = max(kind['largest_bytes'], *arrays)
  return found
