"""The entropy coder of ternary codes: one ANS stream over all layers.

A layer is coded in one of two ways, whichever takes fewer bytes: with a static
model, three integer frequencies that sum to 2^15, or with the adaptive
contexts of `contexts`.
"""

from collections.abc import Iterable, Iterator, Sequence
import math
import struct
from typing import NamedTuple

import constriction
import numpy as np

from hq_jax.artifact import ans
from hq_jax.artifact import ternary_contexts

FREQUENCY_BITS = ternary_contexts.FREQUENCY_BITS
TOTAL = 1 << FREQUENCY_BITS  # the three frequencies of a layer sum to this
PRECISION = ternary_contexts.PRECISION  # bits of constriction's probabilities
MOST = (
  TOTAL - ternary_contexts.LEAST
)  # of one symbol, where there are two or more
TABLE_BYTES = 5  # per layer: how it is coded, two unsigned 16-bit integers
CHUNK = 1 << 20  # codes per call of the coder: bounds its int32 copies
CONTEXT_CHUNK = 1 << 16  # of these, whose probabilities take 24 bytes a code

Frequencies = tuple[int, int, int]  # of the codes 0, +1, -1, in this order

# int8, [3]: the code of each symbol.
_CODES = np.array([0, 1, -1], np.int8)
_NAME = 'ternary codes'


class Table(NamedTuple):
  """How a layer is coded.

  Attributes:
    has_contexts: whether by adaptive contexts; by the frequencies otherwise.
    frequencies: of the codes in the whole layer.
  """

  has_contexts: bool
  frequencies: Frequencies


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


def frequencies(counts: Sequence[int]) -> Frequencies:
  """Rounds counts to frequencies that sum to `TOTAL`.

  `f = max(1, round(counts / sum(counts) * TOTAL))` for a symbol that
  occurs, 0 for one that does not; the largest takes what is left over. Where
  two or more occur, what the largest has beyond `MOST` goes to the largest of
  the others: no code costs less than 1/256 bit.
  """
  n = sum(counts)
  if not n:
    return TOTAL, 0, 0
  rounded = [max(1, (2 * c * TOTAL + n) // (2 * n)) if c else 0 for c in counts]
  largest = rounded.index(max(rounded))
  rounded[largest] += TOTAL - sum(rounded)
  others = [i for i in range(3) if i != largest and rounded[i]]
  if others:
    excess = max(0, rounded[largest] - MOST)
    rounded[largest] -= excess
    rounded[max(others, key=lambda i: rounded[i])] += excess
  return rounded[0], rounded[1], rounded[2]


def weights(table: Frequencies) -> tuple[int, int, int]:
  """The coder's integer weights: they are positive and sum to 2^24.

  `w = 2^9 f`; a symbol with `f = 0` gets weight 1 (the coder has no smaller
  one), which is taken from the first of the largest weights.
  """
  scaled = [f << PRECISION - FREQUENCY_BITS for f in table]
  largest = scaled.index(max(scaled))
  scaled[largest] -= scaled.count(0)
  return max(scaled[0], 1), max(scaled[1], 1), max(scaled[2], 1)


def cost_bits(table: Frequencies, counts: Sequence[int]) -> float:
  """What `counts` codes cost under `table`: `sum(c (24 - log2 w))`."""
  if TOTAL in table:
    return 0.0
  costs = [PRECISION - math.log2(w) for w in weights(table)]
  return sum(c * bits for c, bits in zip(counts, costs, strict=True))


def pack_tables(tables: Sequence[Table]) -> bytes:
  """Five bytes per layer."""
  return b''.join(
    struct.pack('<BHH', has_contexts, plus, minus)
    for has_contexts, (_, plus, minus) in tables
  )


def unpack_tables(data: bytes) -> list[Table]:
  """The inverse of `pack_tables`."""
  tables: list[Table] = []
  for way, plus, minus in struct.iter_unpack('<BHH', data):
    name = f'model table {len(tables)}'
    found = TOTAL - plus - minus, plus, minus
    if way > 1:
      raise ValueError(f'{name}: a layer is coded in way {way}, wanted 0 or 1')
    if min(found) < 0 or MOST < max(found) < TOTAL:
      raise ValueError(
        f'{name}: frequencies {found}, wanted 0 to {MOST} each, or all {TOTAL}'
      )
    if way and TOTAL in found:
      raise ValueError(f'{name}: contexts for a layer of a single symbol')
    tables.append(Table(bool(way), found))
  return tables


def encode(
  layers: Sequence[np.ndarray], tables: Sequence[Table] | None = None
) -> tuple[list[Table], bytes]:
  """Codes all layers into one stream."""
  if tables is None:
    chosen = [_choose(layer) for layer in layers]
  else:
    chosen = [
      (
        table,
        list(_trace(layer, table.frequencies)) if table.has_contexts else [],
      )
      for layer, table in zip(layers, tables, strict=True)
    ]
  coder = ans.start()
  for layer, (table, parts) in reversed(list(zip(layers, chosen, strict=True))):
    if table.has_contexts:
      _push_parts(coder, parts)
    elif TOTAL not in table.frequencies:
      _push(coder, layer.reshape(-1), table.frequencies)
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
    _pop_parts(coder, table, shape)
    if table.has_contexts
    else _pop(coder, table.frequencies, math.prod(shape)).reshape(shape)
    for table, shape in zip(tables, shapes, strict=True)
  ]
  ans.check_end(coder, _NAME)
  return layers


def layer_bits(codes: np.ndarray, table: Table) -> float:
  """What a layer's codes cost, without the table."""
  if not table.has_contexts:
    return cost_bits(table.frequencies, count(codes))
  return sum(part.bits for part in _trace(codes, table.frequencies))


class _Part(NamedTuple):
  """A tile as it is coded: what came where, and at which prices.

  Attributes:
    symbols: int8, [n], 0 to 2.
    contexts: uint8, [n].
    weights: int32, [contexts, 3].
    bits: what it costs.
  """

  symbols: np.ndarray
  contexts: np.ndarray
  weights: np.ndarray
  bits: float


def _choose(codes: np.ndarray) -> tuple[Table, list[_Part]]:
  """The shorter way to code a layer; with contexts, its tiles too."""
  counts = count(codes)
  found = frequencies(counts)
  static: tuple[Table, list[_Part]] = Table(False, found), []
  static_bits = cost_bits(found, counts)
  geometry = ternary_contexts.get_geometry(codes.shape)
  tile_bits = (
    8 * ternary_contexts.MIN_TILE_BYTES * ternary_contexts.count_tiles(geometry)
  )
  if not ternary_contexts.is_allowed(geometry) or tile_bits > static_bits:
    return static
  parts = list(_trace(codes, found))
  bits = sum(part.bits for part in parts)
  if tile_bits <= bits < static_bits:
    return Table(True, found), parts
  return static


def _trace(codes: np.ndarray, found: Frequencies) -> Iterator[_Part]:
  geometry = ternary_contexts.get_geometry(codes.shape)
  shaped = codes.reshape(geometry)
  model = ternary_contexts.start(geometry, found[1] + found[2])
  for tile in ternary_contexts.get_tiles(geometry):
    where, signs = ternary_contexts.get_contexts(model, shaped, tile)
    symbols = _flip(shaped[(*tile.tap, tile.rows, tile.columns)], signs)
    symbols = np.where(symbols < 0, np.int8(2), symbols)
    weights = ternary_contexts.get_weights(model)
    came = ternary_contexts.update(model, tile, where, symbols)
    bits = float(np.sum(came * (PRECISION - np.log2(weights))))
    yield _Part(symbols.ravel(), where.ravel(), weights.astype(np.int32), bits)


def _check_work(
  num_bytes: int, tables: Iterable[Table], shapes: Iterable[tuple[int, ...]]
) -> int:
  """Refuses what no writer would ask of a stream; returns how many codes.

  A code costs at least 1/256 bit, a tile with contexts at least 16 bytes.
  """
  codes = tiles = 0
  for index, (table, shape) in enumerate(zip(tables, shapes, strict=True)):
    if TOTAL not in table.frequencies:
      codes += math.prod(shape)
    if table.has_contexts:
      geometry = ternary_contexts.get_geometry(shape)
      if not ternary_contexts.is_allowed(geometry):
        raise ValueError(f'model table {index}: contexts for shape {shape}')
      tiles += ternary_contexts.count_tiles(geometry)
  most_codes = ans.MAX_CODES_PER_BYTE * (num_bytes + ans.FREE_BYTES)
  most_tiles = (num_bytes + ans.FREE_BYTES) // ternary_contexts.MIN_TILE_BYTES
  if codes > most_codes or tiles > most_tiles:
    raise ValueError(
      f'{_NAME}: {codes} codes and {tiles} tiles in a stream of '
      f'{num_bytes} bytes, wanted at most {most_codes} and {most_tiles}'
    )
  return codes


def _push(
  coder: constriction.stream.stack.AnsCoder,
  codes: np.ndarray,
  found: Frequencies,
) -> None:
  model = ans.categorical(np.array(weights(found)))
  for start in reversed(range(0, codes.size, CHUNK)):
    chunk = codes[start : start + CHUNK].astype(np.int32)
    coder.encode_reverse(np.where(chunk < 0, np.int32(2), chunk), model)


def _pop(
  coder: constriction.stream.stack.AnsCoder, found: Frequencies, size: int
) -> np.ndarray:
  if TOTAL in found:
    return np.full(size, _CODES[found.index(TOTAL)], np.int8)
  model = ans.categorical(np.array(weights(found)))
  codes = np.empty(size, np.int8)
  for start in range(0, size, CHUNK):
    chunk = codes[start : start + CHUNK]
    chunk[:] = _CODES[coder.decode(model, chunk.size)]
  for code, frequency in zip(_CODES, found, strict=True):
    if frequency == 0 and np.any(codes == code):
      raise ValueError(f'{_NAME}: {code} came, its frequency is zero')
  return codes


def _push_parts(
  coder: constriction.stream.stack.AnsCoder, parts: Sequence[_Part]
) -> None:
  family = constriction.stream.model.Categorical(perfect=False)
  for part in reversed(parts):
    floats = ans.to_floats(part.weights)
    for start in reversed(range(0, part.symbols.size, CONTEXT_CHUNK)):
      chunk = slice(start, start + CONTEXT_CHUNK)
      coder.encode_reverse(
        part.symbols[chunk].astype(np.int32),
        family,
        floats.take(part.contexts[chunk], axis=0),
      )


def _pop_parts(
  coder: constriction.stream.stack.AnsCoder,
  table: Table,
  shape: tuple[int, ...],
) -> np.ndarray:
  family = constriction.stream.model.Categorical(perfect=False)
  geometry = ternary_contexts.get_geometry(shape)
  codes = np.empty(geometry, np.int8)
  model = ternary_contexts.start(geometry, sum(table.frequencies[1:]))
  for tile in ternary_contexts.get_tiles(geometry):
    where, signs = ternary_contexts.get_contexts(model, codes, tile)
    floats = ans.to_floats(ternary_contexts.get_weights(model))
    came = np.empty(where.size, np.int8)
    flat = where.ravel()
    for start in range(0, where.size, CONTEXT_CHUNK):
      chunk = slice(start, start + CONTEXT_CHUNK)
      came[chunk] = coder.decode(family, floats.take(flat[chunk], axis=0))
    symbols = came.reshape(where.shape)
    ternary_contexts.update(model, tile, where, symbols)
    values = symbols - np.int8(3) * (symbols >> 1)  # 0, 1, 2 to 0, 1, -1
    codes[(*tile.tap, tile.rows, tile.columns)] = _flip(values, signs)
  return codes.reshape(shape)


def _flip(codes: np.ndarray, signs: np.ndarray | None) -> np.ndarray:
  """Negates the codes where the expected sign is negative; its own inverse."""
  if signs is None:
    return codes
  negative = signs >> 7  # all bits of an int8, or none
  return (codes ^ negative) - negative
