"""The adaptive model of a layer's codes, by context.

A layer is coded tile by tile. Before each tile, every code in it gets a
context from what was coded before:

- how dense its input and its output channel have been so far, as one of
  `NUM_BINS` classes of odds relative to the whole layer's;
- for kernels with taps: how many of the taps beside and above it in the same
  filter are not zero, and how strongly these and the diagonal ones agree in
  sign.

The counts of the codes in each context give their probabilities, and are
updated after the tile. Counts, logarithms and probabilities are integers: the
model is the same on every machine. `docs/format.md` specifies it.
"""

from collections.abc import Iterator, Sequence
import itertools
import math
from typing import NamedTuple

import numpy as np

from hq_jax.artifact import ans

FREQUENCY_BITS = 15
TOTAL = 1 << FREQUENCY_BITS
PRECISION = ans.PRECISION
MIN_FREQUENCY = 89  # of 2^15: no code is beyond 1 - 89 / 2^15, 1/256 bit

NUM_BINS = 16  # of density, half a factor of two wide, the layer's own at 8
NUM_BESIDE = 3  # of the two taps beside and above, how many are not zero
NUM_AGREEMENTS = 5  # of the weighted sum of signs, 4 and more are one
NUM_CONTEXTS = NUM_BINS * NUM_BESIDE * NUM_AGREEMENTS

SIGN_BITS = PRECISION - FREQUENCY_BITS
UNIT = 16  # of the counts in `Model`: one code counts 16

MAX_CHANNELS = 1 << 16  # rows or columns of a layer with contexts
MIN_TILE_BYTES = 16  # of the stream: bounds what a short file can ask for

_MIN_TILE = 1 << 10  # codes
_MAX_TILE = 1 << 16
_GRID = 64  # the first plane of taps has at most so many tiles
_GROWTH = 8  # a tile may be 1 / 8 of what was coded before it
_SHRINKAGE = 16  # pseudo-counts that pull a channel's density to the layer's
_PRIOR = 8 * UNIT  # weight of a density class's expected odds
_SIGN_PRIOR = 8  # half a code for either sign
_BIN_SHIFT = 3  # from 1/16 to 1/2 of a factor of two

# int64, [9]: 256 * 2^(j / 2), rounded.
_ODDS = np.array([256, 362, 512, 724, 1024, 1448, 2048, 2896, 4096])
# int64, [256]: floor(16 log2 m) = bits(m^16) - 1, in exact integers.
_LOGARITHMS = np.array([max(0, (m**16).bit_length() - 1) for m in range(256)])


class Geometry(NamedTuple):
  """A layer's axes: taps of filters, then input and output channels."""

  depth: int  # the product of all axes before the last four
  height: int  # taps of a filter, from top to bottom
  width: int  # from left to right
  rows: int  # the axis before the last, the input channels
  columns: int  # the last axis, the output channels


class Tile(NamedTuple):
  """A part of one tap's plane of input by output channels."""

  tap: tuple[int, int, int]  # depth, y, x
  rows: slice
  columns: slice

  @property
  def position(self) -> tuple[int | slice, ...]:
    """Of its codes, in those of the layer."""
    return (*self.tap, self.rows, self.columns)


class Model(NamedTuple):
  """The counts so far; `update` changes the arrays, all int64, in place.

  Of the channels and the layer they are those of the codes that are not zero,
  and of all codes; of the contexts, in units of 1/16.
  """

  geometry: Geometry
  row_counts: np.ndarray  # [2, rows]
  column_counts: np.ndarray  # [2, columns]
  total: np.ndarray  # [2], one and two ahead
  zero_counts: np.ndarray  # [NUM_BESIDE, NUM_BINS, 2]: zero, not zero
  sign_counts: np.ndarray  # [NUM_AGREEMENTS, 2]: as expected, the other


def get_geometry(shape: tuple[int, ...]) -> Geometry:
  """Reads a kernel's shape."""
  *lead, height, width, rows, columns = (1,) * (4 - len(shape)) + shape
  return Geometry(math.prod(lead), height, width, rows, columns)


def get_taps(geometry: Geometry) -> Iterator[tuple[int, int, int]]:
  """The planes in the order in which they are coded."""
  depth, height, width = geometry[:3]
  return itertools.product(range(depth), range(height), range(width))


def get_tiles(geometry: Geometry) -> Iterator[Tile]:
  """Cuts a layer into tiles, in the order in which they are coded.

  The planes of the taps come in order; a plane with `n` codes, after `d`
  codes of earlier planes, is cut into `2^l` parts, `l = floor(log2(n /
  max(1024, n / 64, min(65536, d / 8))))`, the rows into `2^ceil(l / 2)` and
  the columns into `2^floor(l / 2)`. The parts of the first columns come first.
  """
  rows, columns = geometry[3:]
  size = rows * columns
  for index, tap in enumerate(get_taps(geometry)):
    wanted = max(
      _MIN_TILE, size // _GRID, min(_MAX_TILE, index * size // _GROWTH)
    )
    level = max(0, (size // wanted).bit_length() - 1)
    tall = -(-rows // (1 << (level + 1) // 2))
    wide = -(-columns // (1 << level // 2))
    for left in range(0, columns, wide):
      for top in range(0, rows, tall):
        yield Tile(
          tap,
          slice(top, min(rows, top + tall)),
          slice(left, min(columns, left + wide)),
        )


def count_tiles(geometry: Geometry) -> int:
  """How many tiles `get_tiles` cuts, at most; without cutting them."""
  taps = geometry.depth * geometry.height * geometry.width
  size = geometry.rows * geometry.columns
  return taps * max(1, min(_GRID, size // _MIN_TILE))


def is_allowed(geometry: Geometry) -> bool:
  """Whether a layer of this shape may be coded with contexts."""
  channels = max(geometry.rows, geometry.columns)
  return min(geometry) > 0 and channels <= MAX_CHANNELS


def start(geometry: Geometry, num_nonzero: int) -> Model:
  """The model before the first code.

  The odds of a code that is not zero start, in density class `b`, at those of
  the layer times `2^((b - 8) / 2)`, as if 8 codes had been counted.
  """
  nonzero = min(max(num_nonzero, MIN_FREQUENCY), TOTAL - MIN_FREQUENCY)
  zero = TOTAL - nonzero
  bins = np.arange(NUM_BINS) - NUM_BINS // 2
  for_nonzero = nonzero * np.where(bins >= 0, _ODDS[abs(bins)], _ODDS[0])
  for_zero = zero * np.where(bins >= 0, _ODDS[0], _ODDS[abs(bins)])
  ones = 1 + _PRIOR * for_nonzero // (for_nonzero + for_zero)
  prior = np.stack([_PRIOR + 2 - ones, ones], axis=-1)
  return Model(
    geometry=geometry,
    row_counts=np.zeros((2, geometry.rows), np.int64),
    column_counts=np.zeros((2, geometry.columns), np.int64),
    total=np.array([1, 2], np.int64),
    zero_counts=np.tile(prior, (NUM_BESIDE, 1, 1)),
    sign_counts=np.full((NUM_AGREEMENTS, 2), _SIGN_PRIOR, np.int64),
  )


def log2_16(n: np.ndarray) -> np.ndarray:
  """Binary logarithms in units of 1/16, by integer arithmetic.

  `16 e + floor(16 log2(n >> e))`, `e = max(0, bits(n) - 8)`.
  """
  # The exponent of a float64 is exact for these integers.
  exponents = np.maximum(np.frexp(n.astype(np.float64))[1] - 8, 0)
  return 16 * exponents + _LOGARITHMS[n >> exponents]


def get_contexts(
  model: Model, codes: np.ndarray, tile: Tile
) -> tuple[np.ndarray, np.ndarray | None]:
  """The context of every code of a tile, and its expected sign."""
  by_row, by_column = _get_offsets(model, tile)
  # The middle of class 0 is 8 classes below the layer's own odds.
  by_row += (NUM_BINS << _BIN_SHIFT - 1) + (1 << _BIN_SHIFT - 1)
  bins = by_row[:, None] + by_column
  bins >>= _BIN_SHIFT
  np.maximum(bins, 0, out=bins)
  np.minimum(bins, NUM_BINS - 1, out=bins)
  contexts = bins.astype(np.uint8)
  around = look_around(model.geometry, codes, tile)
  if around is None:
    contexts *= NUM_AGREEMENTS
    return contexts, None
  beside, signs = around
  contexts += np.uint8(NUM_BINS) * beside
  contexts *= NUM_AGREEMENTS
  contexts += get_agreements(signs)
  return contexts, signs


def look_around(
  geometry: Geometry, codes: np.ndarray, tile: Tile
) -> tuple[np.ndarray, np.ndarray] | None:
  """What stands beside and above a tile in the same filters.

  Returns:
    How many of the two taps are not zero, uint8, and the weighted sum of signs,
    int8; None for a filter's first tap.
  """
  depth, y, x = tile.tap

  def get(up: int, left: int) -> list[np.ndarray]:
    if y < up or not 0 <= x - left < geometry.width:
      return []
    return [codes[depth, y - up, x - left, tile.rows, tile.columns]]

  near = [*get(0, 1), *get(1, 0)]
  if not near:
    return None
  beside, signs = np.abs(near[0]), near[0] + near[0]
  for other in near[1:]:
    beside += np.abs(other)
    signs += other
    signs += other
  for other in (*get(1, 1), *get(1, -1)):
    signs += other
  return beside.view(np.uint8), signs


def get_agreements(signs: np.ndarray) -> np.ndarray:
  """How strongly the signs around agree, uint8."""
  return np.minimum(np.abs(signs), NUM_AGREEMENTS - 1).view(np.uint8)


def _get_offsets(model: Model, tile: Tile) -> tuple[np.ndarray, np.ndarray]:
  rows = model.row_counts[:, tile.rows]
  columns = model.column_counts[:, tile.columns]
  counts = np.concatenate([rows, columns], axis=1)
  offsets = get_offsets(counts, model.total.tolist())
  num_rows = rows.shape[1]
  return offsets[:num_rows], offsets[num_rows:]


def get_offsets(counts: np.ndarray, total: Sequence[int]) -> np.ndarray:
  """Log-odds of channels' densities over the layer's: int16, in 1/16.

  Of the channels, `[2, n]`, and of the layer, `total`, they are given the codes
  that are not zero, and all codes.
  """
  nonzero, every = total
  shift = max(0, every.bit_length() - 20)
  nonzero, every = max(1, nonzero >> shift), every >> shift
  every = max(every, nonzero + 1)
  # A channel without counts, the last one here, has the layer's own density.
  ones, both = np.concatenate([counts, np.zeros((2, 1), int)], axis=1)
  found = np.stack([ones, both - ones])
  found *= every
  found += _SHRINKAGE * np.array([[nonzero], [every - nonzero]])
  logarithms = log2_16(found)
  odds = logarithms[0] - logarithms[1]
  return (odds - odds[-1]).astype(np.int16)[:-1]


def get_frequencies(model: Model) -> np.ndarray:
  """The coder's frequencies of the three symbols in every context.

  `p` of 2^15 is the part of the codes in a context that are not zero, `q` of
  2^9 that of the expected sign among these: `2^24 - 2^9 p`, `p q`, and
  `p (2^9 - q)`.
  """
  ones, zeros = model.zero_counts[..., 1], model.zero_counts[..., 0]
  p = find_part(ones, zeros, FREQUENCY_BITS, MIN_FREQUENCY).reshape(-1, 1)
  expected, other = model.sign_counts.T
  q = find_part(expected, other, SIGN_BITS, 1)
  frequencies = np.empty((len(p), NUM_AGREEMENTS, 3), np.int64)
  frequencies[..., 0] = (1 << PRECISION) - (p << SIGN_BITS)
  frequencies[..., 1] = p * q
  frequencies[..., 2] = p * ((1 << SIGN_BITS) - q)
  return frequencies.reshape(NUM_CONTEXTS, 3)


def find_part(
  counts: np.ndarray, others: np.ndarray, bits: int, least: int
) -> np.ndarray:
  """`counts / (counts + others)` of `2^bits`, and `least` or more of each."""
  part = (counts << bits) // (counts + others)
  return np.maximum(np.minimum(part, (1 << bits) - least), least)


def update(
  model: Model, tile: Tile, contexts: np.ndarray, symbols: np.ndarray
) -> np.ndarray:
  """Counts a tile."""
  joint = contexts.astype(np.int16)
  joint *= 3
  joint += symbols.astype(np.int16, copy=False)
  flat = np.bincount(joint.ravel(), minlength=3 * NUM_CONTEXTS)
  counts = flat.reshape(NUM_BESIDE, NUM_BINS, NUM_AGREEMENTS, 3)
  by_zero = UNIT * counts.sum(2)
  model.zero_counts[..., 0] += by_zero[..., 0]
  model.zero_counts[..., 1] += by_zero[..., 1] + by_zero[..., 2]
  model.sign_counts[:] += UNIT * counts.sum((0, 1))[:, 1:]
  nonzero = symbols != 0
  by_row = nonzero.sum(axis=1)
  model.row_counts[0, tile.rows] += by_row
  model.row_counts[1, tile.rows] += nonzero.shape[1]
  model.column_counts[0, tile.columns] += nonzero.sum(axis=0)
  model.column_counts[1, tile.columns] += nonzero.shape[0]
  model.total[:] += int(by_row.sum()), nonzero.size
  return counts.reshape(NUM_CONTEXTS, 3)
