"""The entropy coder of ternary codes: one ANS stream over all layers.

A layer is coded in one of three modes: with a static model, three integer
frequencies that sum to 2^15; with the adaptive contexts of `ternary_contexts`,
which save the most in some small layers; or with those of `ternary_classes`,
which are quick to read. The shortest is taken.
"""

from collections.abc import Iterable, Iterator, Sequence
import math
import struct
from typing import NamedTuple

import numpy as np

from hq_jax.artifact import ans
from hq_jax.artifact import index_coder
from hq_jax.artifact import ternary_classes
from hq_jax.artifact import ternary_contexts

FREQUENCY_BITS = ternary_contexts.FREQUENCY_BITS
TOTAL = ternary_contexts.TOTAL  # the three frequencies of a layer sum to this
PRECISION = ans.PRECISION  # bits of the coder's own frequencies
# Of one symbol, where there are two or more.
MAX_FREQUENCY = TOTAL - ternary_contexts.MIN_FREQUENCY
STATIC, CONTEXTS, CLASSES = range(3)  # the modes
TABLE_BYTES = 5  # per layer: its mode, two unsigned 16-bit integers

Frequencies = tuple[int, int, int]  # of the codes 0, +1, -1, in this order

# Contexts are slow to read: they are taken only in layers of so few codes, and
# only where they save so much.
_SMALL = 1 << 16
_GAIN = 1 / 256

_CODES = np.array([0, 1, -1], np.int8)  # by symbol
_NAME = 'ternary codes'


class Table(NamedTuple):
  """How a layer is coded."""

  mode: int
  frequencies: Frequencies  # of the codes in the whole layer

  @property
  def has_contexts(self) -> bool:
    """Whether it is coded below its entropy, not by frequencies alone."""
    return self.mode != STATIC


def count(codes: np.ndarray) -> tuple[int, int, int]:
  """Counts the codes 0, +1 and -1, in this order."""
  plus = int(np.count_nonzero(codes == 1))
  minus = int(np.count_nonzero(codes == -1))
  return codes.size - plus - minus, plus, minus


def entropy_bits(counts: Sequence[int]) -> float:
  """The order-0 entropy per symbol, `-sum(p log2 p)`, `p = counts / sum`."""
  total = sum(counts)
  used = [c / total for c in counts if c]
  return abs(sum(p * math.log2(p) for p in used))


def find_frequencies(counts: Sequence[int]) -> Frequencies:
  """Rounds counts to frequencies that sum to `TOTAL`.

  `f = max(1, round(counts / sum(counts) * TOTAL))` for a symbol that
  occurs, 0 for one that does not; the largest takes what is left over. Where
  two or more occur, what the largest has beyond `MAX_FREQUENCY` goes to the
  largest of the others: no code costs less than 1/256 bit.
  """
  n = sum(counts)
  if not n:
    return TOTAL, 0, 0
  rounded = [max(1, (2 * c * TOTAL + n) // (2 * n)) if c else 0 for c in counts]
  largest = rounded.index(max(rounded))
  rounded[largest] += TOTAL - sum(rounded)
  others = [i for i in range(3) if i != largest and rounded[i]]
  if others:
    excess = max(0, rounded[largest] - MAX_FREQUENCY)
    rounded[largest] -= excess
    rounded[max(others, key=lambda i: rounded[i])] += excess
  return rounded[0], rounded[1], rounded[2]


def scale_frequencies(frequencies: Frequencies) -> np.ndarray:
  """The coder's integer frequencies: they are positive and sum to 2^24.

  `2^9 f`; a symbol with `f = 0` gets 1 (the coder has no smaller one), which is
  taken from the first of the largest.
  """
  scaled = np.array(frequencies) << PRECISION - FREQUENCY_BITS
  scaled[np.argmax(scaled)] -= np.count_nonzero(scaled == 0)
  return np.maximum(scaled, 1)


def cost_bits(frequencies: Frequencies, counts: Sequence[int]) -> float:
  """What `counts` codes cost: `sum(c (24 - log2 f))`."""
  if TOTAL in frequencies:
    return 0.0
  costs = [PRECISION - math.log2(f) for f in scale_frequencies(frequencies)]
  return sum(c * bits for c, bits in zip(counts, costs, strict=True))


def pack_tables(tables: Sequence[Table]) -> bytes:
  """Five bytes per layer."""
  return b''.join(
    struct.pack('<BHH', mode, plus, minus) for mode, (_, plus, minus) in tables
  )


def unpack_tables(data: bytes) -> list[Table]:
  """The inverse of `pack_tables`."""
  tables: list[Table] = []
  for mode, plus, minus in struct.iter_unpack('<BHH', data):
    name = f'model table {len(tables)}'
    frequencies = TOTAL - plus - minus, plus, minus
    if mode > CLASSES:
      raise ValueError(f'{name}: the mode is {mode}, wanted 0, 1 or 2')
    if min(frequencies) < 0 or MAX_FREQUENCY < max(frequencies) < TOTAL:
      raise ValueError(
        f'{name}: frequencies {frequencies}, wanted 0 to {MAX_FREQUENCY} each,'
        f' or all {TOTAL}'
      )
    if mode and TOTAL in frequencies:
      raise ValueError(f'{name}: contexts for a layer of a single symbol')
    tables.append(Table(mode, frequencies))
  return tables


class _Part(NamedTuple):
  """Symbols as they are coded: of a tile, or of a layer with a static model."""

  symbols: np.ndarray  # [n], small integers
  frequencies: np.ndarray  # of each symbol, or one row for each context
  contexts: np.ndarray | None  # uint8, [n]
  runs: np.ndarray | None  # how many symbols of each context, in order
  bits: float  # what it costs


def encode(
  layers: Sequence[np.ndarray], tables: Sequence[Table] | None = None
) -> tuple[list[Table], bytes]:
  """Codes all layers into one stream."""
  if tables is None:
    chosen = [_choose(layer) for layer in layers]
  else:
    chosen = [
      (table, list(_trace(layer, table)))
      for layer, table in zip(layers, tables, strict=True)
    ]
  coder = ans.start()
  for _, parts in reversed(chosen):
    for part in reversed(parts):
      if part.runs is None:
        ans.push(coder, part.symbols, part.frequencies, part.contexts)
      else:
        ans.push_runs(coder, part.symbols, part.frequencies, part.runs)
  return [table for table, _ in chosen], ans.to_bytes(coder)


def decode(
  stream: bytes | memoryview,
  tables: Sequence[Table],
  shapes: Sequence[tuple[int, ...]],
) -> list[np.ndarray]:
  """The inverse of `encode`: bit-identical codes, or an error."""
  num_codes = _check_work(len(stream), tables, shapes)
  coder = ans.from_bytes(stream, num_codes, _NAME)
  layers = [
    _DECODERS[table.mode](coder, table.frequencies, shape)
    for table, shape in zip(tables, shapes, strict=True)
  ]
  ans.check_end(coder, _NAME)
  return layers


def layer_bits(codes: np.ndarray, table: Table) -> float:
  """What a layer's codes cost, without the table."""
  if not table.has_contexts:
    return cost_bits(table.frequencies, count(codes))
  return sum(part.bits for part in _trace(codes, table))


def _choose(codes: np.ndarray) -> tuple[Table, list[_Part]]:
  """The mode for a layer, and the layer in that mode."""
  counts = count(codes)
  static = Table(STATIC, find_frequencies(counts))
  best, parts = static, None
  least = cost_bits(static.frequencies, counts)
  geometry = ternary_contexts.get_geometry(codes.shape)
  modes = [CLASSES, CONTEXTS] if codes.size <= _SMALL else [CLASSES]
  for mode in modes if ternary_contexts.is_allowed(geometry) else []:
    tiles = _count_tiles(mode, geometry)
    tile_bits = 8 * ternary_contexts.MIN_TILE_BYTES * tiles
    if tile_bits > least:
      continue
    table = static._replace(mode=mode)
    found = list(_trace(codes, table))
    bits = sum(part.bits for part in found)
    limit = least - least * _GAIN * (mode == CONTEXTS)
    if tile_bits <= bits < limit:
      best, parts, least = table, found, bits
  return best, parts or list(_trace(codes, best))


def _count_tiles(mode: int, geometry: ternary_contexts.Geometry) -> int:
  """How many tiles a layer has, at most; two bands count as one."""
  if mode == CLASSES:
    return -(-ternary_classes.count_bands(geometry) // 2)
  return ternary_contexts.count_tiles(geometry)


def _trace(codes: np.ndarray, table: Table) -> Iterator[_Part]:
  """The parts of a layer, in the order in which they are decoded."""
  frequencies = table.frequencies
  if table.mode == CLASSES:
    yield from _trace_classes(codes, frequencies)
  elif table.mode == CONTEXTS:
    yield from _trace_contexts(codes, frequencies)
  elif TOTAL not in frequencies:
    bits = cost_bits(frequencies, count(codes))
    scaled = scale_frequencies(frequencies)
    yield _Part(_to_symbols(codes).ravel(), scaled, None, None, bits)


def _trace_contexts(
  codes: np.ndarray, frequencies: Frequencies
) -> Iterator[_Part]:
  geometry = ternary_contexts.get_geometry(codes.shape)
  shaped = codes.reshape(geometry)
  model = ternary_contexts.start(geometry, sum(frequencies[1:]))
  for tile in ternary_contexts.get_tiles(geometry):
    contexts, signs = ternary_contexts.get_contexts(model, shaped, tile)
    symbols = _to_symbols(_flip(shaped[tile.position], signs))
    scaled = ternary_contexts.get_frequencies(model)
    counts = ternary_contexts.update(model, tile, contexts, symbols)
    bits = _find_bits(counts, scaled)
    scaled = scaled.astype(np.int32)
    yield _Part(symbols.ravel(), scaled, contexts.ravel(), None, bits)


def _trace_classes(
  codes: np.ndarray, frequencies: Frequencies
) -> Iterator[_Part]:
  classes = ternary_classes.find_classes(codes)
  number = ternary_classes.NUM_CLASSES
  first = ternary_classes.CLASS_COUNTS
  for block, found in index_coder.trace(classes, number, first):
    counts = np.bincount(classes[block], minlength=number)
    yield _Part(classes[block], found, None, None, _find_bits(counts, found))
  geometry = ternary_contexts.get_geometry(codes.shape)
  arrangement = ternary_classes.arrange(geometry, classes)
  nonzero = sum(frequencies[1:])
  for runs in ternary_classes.trace(codes, arrangement, nonzero):
    sizes, found, symbols, counts = runs
    yield _Part(symbols, found, None, sizes, _find_bits(counts, found))


def _find_bits(counts: np.ndarray, frequencies: np.ndarray) -> float:
  return float(np.sum(counts * (PRECISION - np.log2(frequencies))))


def _check_work(
  num_bytes: int, tables: Iterable[Table], shapes: Iterable[tuple[int, ...]]
) -> int:
  """Refuses what no writer would ask of a stream; returns how many codes.

  A code and a class cost at least 1/256 bit, a tile at least 16 bytes.
  """
  codes = tiles = 0
  for index, (table, shape) in enumerate(zip(tables, shapes, strict=True)):
    if TOTAL not in table.frequencies:
      codes += math.prod(shape)
    if table.has_contexts:
      geometry = ternary_contexts.get_geometry(shape)
      if not ternary_contexts.is_allowed(geometry):
        raise ValueError(f'model table {index}: contexts for shape {shape}')
      tiles += _count_tiles(table.mode, geometry)
      if table.mode == CLASSES:
        codes += geometry.rows + geometry.columns
  max_codes = ans.MAX_CODES_PER_BYTE * (num_bytes + ans.FREE_BYTES)
  max_tiles = (num_bytes + ans.FREE_BYTES) // ternary_contexts.MIN_TILE_BYTES
  if codes > max_codes or tiles > max_tiles:
    raise ValueError(
      f'{_NAME}: {codes} codes and {tiles} tiles in a stream of '
      f'{num_bytes} bytes, wanted at most {max_codes} and {max_tiles}'
    )
  return codes


def _decode_static(
  coder: ans.Coder, frequencies: Frequencies, shape: tuple[int, ...]
) -> np.ndarray:
  if TOTAL in frequencies:
    return np.full(shape, _CODES[frequencies.index(TOTAL)], np.int8)
  size = math.prod(shape)
  codes = ans.pop(coder, size, scale_frequencies(frequencies)).view(np.int8)
  codes[codes == 2] = -1
  for code, frequency in zip(_CODES, frequencies, strict=True):
    if frequency == 0 and np.any(codes == code):
      raise ValueError(f'{_NAME}: {code} is there, its frequency is 0')
  return codes.reshape(shape)


def _decode_contexts(
  coder: ans.Coder, frequencies: Frequencies, shape: tuple[int, ...]
) -> np.ndarray:
  geometry = ternary_contexts.get_geometry(shape)
  codes = np.empty(geometry, np.int8)
  model = ternary_contexts.start(geometry, sum(frequencies[1:]))
  for tile in ternary_contexts.get_tiles(geometry):
    contexts, signs = ternary_contexts.get_contexts(model, codes, tile)
    scaled = ternary_contexts.get_frequencies(model)
    found = ans.pop(coder, contexts.size, scaled, contexts.ravel())
    symbols = found.view(np.int8).reshape(contexts.shape)
    ternary_contexts.update(model, tile, contexts, symbols)
    values = symbols - np.int8(3) * (symbols >> 1)  # 0, 1, 2 to 0, 1, -1
    codes[tile.position] = _flip(values, signs)
  return codes.reshape(shape)


def _decode_classes(
  coder: ans.Coder, frequencies: Frequencies, shape: tuple[int, ...]
) -> np.ndarray:
  geometry = ternary_contexts.get_geometry(shape)
  nonzero = sum(frequencies[1:])
  return ternary_classes.decode(coder, geometry, nonzero).reshape(shape)


_DECODERS = {
  STATIC: _decode_static,
  CONTEXTS: _decode_contexts,
  CLASSES: _decode_classes,
}


def _to_symbols(codes: np.ndarray) -> np.ndarray:
  return np.where(codes < 0, np.int8(2), codes)


def _flip(codes: np.ndarray, signs: np.ndarray | None) -> np.ndarray:
  """Negates the codes where the expected sign is negative; its own inverse."""
  if signs is None:
    return codes
  negative = signs >> 7  # all bits of an int8, or none
  return (codes ^ negative) - negative
