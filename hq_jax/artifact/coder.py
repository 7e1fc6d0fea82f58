"""The entropy coder of ternary codes: one ANS stream over all layers.

Each layer has a static model: three integer frequencies that sum to 2^15.
They become 24-bit weights by integer arithmetic alone, and constriction is
given floats from which it rebuilds exactly these weights, so that a stream
means the same on every machine.
"""

from collections.abc import Sequence
import math
import struct

import constriction
import numpy as np

FREQUENCY_BITS = 15
TOTAL = 1 << FREQUENCY_BITS  # the three frequencies of a layer sum to this
PRECISION = 24  # bits of constriction's fixed-point probabilities
TABLE_BYTES = 4  # per layer: two unsigned 16-bit integers
CHUNK = 1 << 22  # codes per call of the coder: bounds its int32 copies

Frequencies = tuple[int, int, int]  # of the codes 0, +1, -1, in this order

# int8, [3]: the code of each symbol. Zero comes first because the coder's
# empty state decodes to the first symbol: the zeros coded first are free.
_CODES = np.array([0, 1, -1], np.int8)


def count(codes: np.ndarray) -> tuple[int, int, int]:
  """Counts the codes 0, +1 and -1, in this order.

  Args:
    codes: int8, any shape, entries in {-1, 0, 1}.

  Returns:
    Three counts that sum to `codes.size`.

  >>> count(np.array([0, 1, 0, -1, 0], np.int8))
  (3, 1, 1)
  """
  plus = int(np.count_nonzero(codes == 1))
  minus = int(np.count_nonzero(codes == -1))
  return codes.size - plus - minus, plus, minus


def entropy_bits(counts: Sequence[int]) -> float:
  """The order-0 entropy per symbol, `-sum(p log2 p)`, `p = counts / sum`.

  Args:
    counts: occurrences of each symbol, >= 0.

  Returns:
    Bits per symbol, 0 where there are no symbols.

  >>> entropy_bits([2, 1, 1])
  1.5
  """
  total = sum(counts)
  used = [c / total for c in counts if c]
  return abs(sum(p * math.log2(p) for p in used))


def frequencies(counts: Sequence[int]) -> Frequencies:
  """Rounds counts to frequencies that sum to `TOTAL`.

  `f = max(1, round(counts / sum(counts) * TOTAL))` for a symbol that
  occurs, 0 for one that does not; the largest takes what is left over.

  Args:
    counts: of the codes 0, +1, -1, each >= 0.

  Returns:
    Three integers in [0, TOTAL]; all of it goes to code 0 without any codes.

  >>> frequencies([3, 1, 0])
  (24576, 8192, 0)
  """
  n = sum(counts)
  if not n:
    return TOTAL, 0, 0
  rounded = [max(1, (2 * c * TOTAL + n) // (2 * n)) if c else 0 for c in counts]
  rounded[rounded.index(max(rounded))] += TOTAL - sum(rounded)
  return rounded[0], rounded[1], rounded[2]


def weights(table: Frequencies) -> tuple[int, int, int]:
  """The coder's integer weights: they are positive and sum to 2^24.

  `w = 2^9 f`; a symbol with `f = 0` gets weight 1 (the coder has no smaller
  one), which is taken from the first of the largest weights.

  Args:
    table: three frequencies that sum to `TOTAL`.

  Returns:
    Three integers in [1, 2^24).

  >>> weights((24576, 8192, 0))
  (12582911, 4194304, 1)
  """
  scaled = [f << PRECISION - FREQUENCY_BITS for f in table]
  largest = scaled.index(max(scaled))
  scaled[largest] -= scaled.count(0)
  return max(scaled[0], 1), max(scaled[1], 1), max(scaled[2], 1)


def cost_bits(table: Frequencies, counts: Sequence[int]) -> float:
  """What `counts` codes cost under `table`: `sum(c (24 - log2 w))`.

  Args:
    table: three frequencies that sum to `TOTAL`.
    counts: of the codes 0, +1, -1.

  Returns:
    Bits; 0 for a layer of a single symbol, which is not coded at all.

  >>> cost_bits((16384, 8192, 8192), [2, 1, 1])
  6.0
  """
  if TOTAL in table:
    return 0.0
  costs = [PRECISION - math.log2(w) for w in weights(table)]
  return sum(c * bits for c, bits in zip(counts, costs, strict=True))


def pack_tables(tables: Sequence[Frequencies]) -> bytes:
  """Two unsigned 16-bit integers per layer: the frequencies of +1 and -1.

  Args:
    tables: frequencies per layer; that of code 0 is implied by the sum.

  Returns:
    `TABLE_BYTES` bytes per layer, little-endian.

  >>> pack_tables([(32765, 1, 2)])
  b'\\x01\\x00\\x02\\x00'
  """
  return b''.join(struct.pack('<HH', plus, minus) for _, plus, minus in tables)


def unpack_tables(data: bytes) -> list[Frequencies]:
  """The inverse of `pack_tables`.

  Args:
    data: `TABLE_BYTES` bytes per layer.

  Returns:
    Frequencies per layer.

  Raises:
    ValueError: the two stored frequencies sum to more than `TOTAL`.

  >>> unpack_tables(b'\\x01\\x00\\x02\\x00')
  [(32765, 1, 2)]
  """
  tables: list[Frequencies] = []
  for plus, minus in struct.iter_unpack('<HH', data):
    if plus + minus > TOTAL:
      raise ValueError(
        f'model table {len(tables)}: frequencies {plus} and {minus} sum to '
        f'more than {TOTAL}'
      )
    tables.append((TOTAL - plus - minus, plus, minus))
  return tables


def encode(
  layers: Sequence[np.ndarray], tables: Sequence[Frequencies]
) -> bytes:
  """Codes all layers into one stream.

  Args:
    layers: int8 arrays with entries in {-1, 0, 1}, in row-major order.
    tables: frequencies per layer; a code with frequency 0 must not occur.

  Returns:
    The 32-bit words of the stream, little-endian, in the order in which the
    encoder wrote them, less the zero bytes at the end.

  Example: four zeros, which leave the coder in its empty state.
    >>> encode([np.zeros(4, np.int8)], [(32766, 1, 1)])
    b''
  """
  coder = constriction.stream.stack.AnsCoder()
  pairs = list(zip(layers, tables, strict=True))
  for layer, table in reversed(pairs):
    if TOTAL in table:
      continue
    model = _model(table)
    codes = layer.reshape(-1)
    for start in reversed(range(0, codes.size, CHUNK)):
      chunk = codes[start : start + CHUNK].astype(np.int32)
      coder.encode_reverse(np.where(chunk < 0, np.int32(2), chunk), model)
  return coder.get_compressed().astype('<u4').tobytes().rstrip(b'\0')


def decode(
  stream: bytes, tables: Sequence[Frequencies], num_codes: Sequence[int]
) -> list[np.ndarray]:
  """The inverse of `encode`: bit-identical codes, or an error.

  Args:
    stream: what `encode` returned.
    tables: frequencies per layer.
    num_codes: codes per layer, >= 0; the caller bounds their sum.

  Returns:
    int8 arrays `[num_codes[i]]`.

  Raises:
    ValueError: the stream ends in a zero byte, is not used up by exactly
      these codes, or holds a code of frequency zero.

  >>> table = frequencies([2, 1, 1])
  >>> stream = encode([np.array([0, 1, -1, 0], np.int8)], [table])
  >>> decode(stream, [table], [4])
  [array([ 0,  1, -1,  0], dtype=int8)]
  """
  if stream.endswith(b'\0'):
    raise ValueError('ternary codes: the stream ends in a zero byte')
  padded = stream + b'\0' * (-len(stream) % 4)
  words = np.frombuffer(padded, '<u4').astype(np.uint32)
  coder = constriction.stream.stack.AnsCoder(words)
  pairs = zip(tables, num_codes, strict=True)
  layers = [_decode_layer(coder, table, size) for table, size in pairs]
  if not coder.is_empty():
    raise ValueError('ternary codes: the stream holds more than the codes')
  return layers


def _decode_layer(
  coder: constriction.stream.stack.AnsCoder, table: Frequencies, size: int
) -> np.ndarray:
  if TOTAL in table:
    return np.full(size, _CODES[table.index(TOTAL)], np.int8)
  model = _model(table)
  codes = np.empty(size, np.int8)
  for start in range(0, size, CHUNK):
    chunk = codes[start : start + CHUNK]
    chunk[:] = _CODES[coder.decode(model, chunk.size)]
  for code, frequency in zip(_CODES, table, strict=True):
    if frequency == 0 and np.any(codes == code):
      raise ValueError(f'ternary codes: {code} came, its frequency is zero')
  return codes


def _model(table: Frequencies) -> constriction.stream.model.Categorical:
  # constriction gives each of n symbols weight 1 and shares the other
  # 2^24 - n in proportion to the floats. These sum to exactly 2^24 - n, so
  # that its factor is one and every product and sum is an exact integer.
  floats = np.array([w - 1 for w in weights(table)], np.float64)
  return constriction.stream.model.Categorical(
    floats, lazy=False, perfect=False
  )
