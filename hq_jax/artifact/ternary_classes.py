"""Contexts from stored classes of density: the model that is quick to read.

Before a layer's codes stand the classes of its rows and columns, each of half a
factor of two. Rows and columns are arranged by them. So the contexts of
`ternary_contexts` are known for a whole band of rows, whose codes come context
by context: first whether each is zero, then the signs of the others. A run of
codes with one context needs one call of the coder, and in a plane without taps
beside it such a run is a rectangle.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from hq_jax.artifact import ans
from hq_jax.artifact import index_coder
from hq_jax.artifact import ternary_contexts

NUM_CLASSES = ternary_contexts.NUM_BINS  # the layer's own density at 8
# As if so many rows and columns of each class had been seen.
CLASS_COUNTS = (0, 0, 0, 0, 0, 2, 4, 8, 12, 8, 4, 2, 0, 0, 0, 0)

_MIN_BAND = 1 << 9  # codes
_MAX_BAND = 1 << 16
_GROWTH = 8  # a band beside others may be 1 / 8 of what was coded before it
_ZERO_CONTEXTS = ternary_contexts.NUM_BESIDE * NUM_CLASSES
_CONTEXTS = np.arange(_ZERO_CONTEXTS + 1, dtype=np.uint8)


class Arrangement(NamedTuple):
  """A layer's rows and columns in the order of their classes."""

  geometry: ternary_contexts.Geometry
  rows: np.ndarray  # where the arranged ones are in the layer
  columns: np.ndarray
  row_classes: np.ndarray  # uint8, ascending
  bins: np.ndarray  # uint8, [NUM_CLASSES, columns]: of a row of each class


class Runs(NamedTuple):
  """Symbols in the order of their contexts, as they are coded."""

  sizes: np.ndarray  # int64, of each context
  frequencies: np.ndarray  # int64, [contexts, 2]
  symbols: np.ndarray  # uint8, [sum(sizes)]: 0 or 1
  counts: np.ndarray  # int64, [contexts, 2], of the symbols


def find_classes(codes: np.ndarray) -> np.ndarray:
  """The classes of a layer's rows, then of its columns: uint8."""
  geometry = ternary_contexts.get_geometry(codes.shape)
  planes = codes.reshape(-1, geometry.rows, geometry.columns)
  by_row = np.zeros(geometry.rows, np.int64)
  by_column = np.zeros(geometry.columns, np.int64)
  for plane in planes:
    by_row += np.count_nonzero(plane, axis=1)
    by_column += np.count_nonzero(plane, axis=0)
  total = int(by_row.sum()), codes.size
  classes = []
  for ones in (by_row, by_column):
    counts = np.stack([ones, np.full_like(ones, codes.size // ones.size)])
    offsets = ternary_contexts.get_offsets(counts, total)
    classes.append(((offsets + 4) >> 3) + NUM_CLASSES // 2)
  both = np.concatenate(classes)
  return np.clip(both, 0, NUM_CLASSES - 1).astype(np.uint8)


def arrange(
  geometry: ternary_contexts.Geometry, classes: np.ndarray
) -> Arrangement:
  """Sorts rows and columns by class, those of one class as they are."""
  by_row, by_column = np.split(classes, [geometry.rows])
  rows, columns = (
    by_row.argsort(kind='stable'),
    by_column.argsort(kind='stable'),
  )
  offsets = np.arange(NUM_CLASSES, dtype=np.int8) - np.int8(NUM_CLASSES // 2)
  bins = np.add.outer(offsets, by_column[columns].view(np.int8))
  bins = np.clip(bins, 0, NUM_CLASSES - 1).view(np.uint8)
  return Arrangement(geometry, rows, columns, by_row[rows], bins)


def get_bands(arrangement: Arrangement) -> Iterator[ternary_contexts.Tile]:
  """Cuts a layer into bands of arranged rows, in the order of coding.

  A band has 2^9 to 2^16 codes, but for the end of a plane. In the first plane
  of a filter it ends with a class of rows. In others it has an eighth of the
  codes of the planes before.
  """
  geometry = arrangement.geometry
  least, most = _get_heights(geometry)
  columns = slice(0, geometry.columns)
  steps = np.flatnonzero(np.diff(arrangement.row_classes)) + 1
  ends = [*steps.tolist(), geometry.rows]
  for index, tap in enumerate(ternary_contexts.get_taps(geometry)):
    tall = -(-geometry.rows * min(index, _GROWTH) // _GROWTH)
    tall = max(least, min(most, tall))
    top = 0
    while top < geometry.rows:
      bottom = top + tall
      if tap[1:] == (0, 0):
        bottom = next((end for end in ends if end >= top + least), bottom)
        bottom = min(bottom, top + most)
      bottom = min(bottom, geometry.rows)
      yield ternary_contexts.Tile(tap, slice(top, bottom), columns)
      top = bottom


def count_bands(geometry: ternary_contexts.Geometry) -> int:
  """How many bands `get_bands` cuts, at most; whatever the classes are."""
  least, most = _get_heights(geometry)
  rows = geometry.rows
  planes = geometry.depth * geometry.height * geometry.width
  return planes * min(-(-rows // least), NUM_CLASSES + rows // most)


def trace(
  codes: np.ndarray, arrangement: Arrangement, nonzero: int
) -> Iterator[Runs]:
  """The runs of a layer, in the order in which they are decoded."""
  geometry = arrangement.geometry
  zeros, agreed = _start(geometry, nonzero)
  shaped = codes.reshape(geometry)[..., arrangement.rows, :]
  shaped = shaped[..., arrangement.columns]
  for band in get_bands(arrangement):
    values = shaped[band.position]
    contexts, signs = _get_contexts(arrangement, shaped, band)
    contexts = np.broadcast_to(contexts, values.shape)
    order, sizes = _sort(contexts.ravel(), _ZERO_CONTEXTS)
    flags = (values != 0).view(np.uint8).ravel()
    yield _make_runs(zeros, sizes, flags[order])
    found = np.flatnonzero(flags)
    minus = (values < 0).ravel()[found]
    sizes = np.array([len(found)])
    if signs is not None:
      signs = signs.ravel()[found]
      minus ^= signs < 0
      order, sizes = _sort_signs(signs)
      minus = minus[order]
    yield _make_runs(agreed, sizes, minus.view(np.uint8))


def decode(
  coder: ans.Coder, geometry: ternary_contexts.Geometry, nonzero: int
) -> np.ndarray:
  """Takes a layer off a stream: int8, in the shape of its geometry."""
  num_classes = geometry.rows + geometry.columns
  classes = index_coder.pop(coder, num_classes, NUM_CLASSES, CLASS_COUNTS)
  arrangement = arrange(geometry, classes)
  zeros, agreed = _start(geometry, nonzero)
  codes = np.empty(geometry, np.int8)
  for band in get_bands(arrangement):
    values = codes[band.position]
    contexts, signs = _get_contexts(arrangement, codes, band)
    _pop_flags(coder, zeros, contexts, values)
    found = values.view(bool).ravel().nonzero()[0]
    if signs is None:
      minus = _pop(coder, agreed, np.array([len(found)]))
    else:
      signs = signs.ravel().take(found)
      order, sizes = _sort_signs(signs)
      minus = np.empty(len(found), np.int8)
      minus[order] = _pop(coder, agreed, sizes)
      minus ^= (signs < 0).view(np.int8)
    values.ravel()[found] = 1 - 2 * minus
  rows, columns = arrangement.rows.argsort(), arrangement.columns.argsort()
  for tap in ternary_contexts.get_taps(geometry):
    codes[tap] = codes[tap].take(rows, axis=0).take(columns, axis=1)
  return codes


def _start(
  geometry: ternary_contexts.Geometry, nonzero: int
) -> tuple[np.ndarray, np.ndarray]:
  """The counts of zeros and others, and of signs as expected and others."""
  model = ternary_contexts.start(geometry, nonzero)
  return model.zero_counts.reshape(-1, 2), model.sign_counts


def _get_heights(geometry: ternary_contexts.Geometry) -> tuple[int, int]:
  """The least and the most rows of a band."""
  least = -(-_MIN_BAND // geometry.columns)
  return least, max(least, _MAX_BAND // geometry.columns)


def _get_contexts(
  arrangement: Arrangement, codes: np.ndarray, band: ternary_contexts.Tile
) -> tuple[np.ndarray, np.ndarray | None]:
  """Contexts of zeros, and signs around; one row where all are alike."""
  classes = arrangement.row_classes[band.rows]
  around = ternary_contexts.look_around(arrangement.geometry, codes, band)
  if around is None and classes[0] == classes[-1]:
    classes = classes[:1]
  contexts = arrangement.bins.take(classes, axis=0)
  if around is None:
    return contexts, None
  beside, signs = around
  contexts += np.uint8(NUM_CLASSES) * beside
  return contexts, signs


def _pop_flags(
  coder: ans.Coder,
  zeros: np.ndarray,
  contexts: np.ndarray,
  values: np.ndarray,
) -> None:
  """Sets the codes of a band to 0 or 1: whether they are not zero."""
  tall = len(values)
  if contexts.shape == values.shape:
    order, sizes = _sort(contexts.ravel(), _ZERO_CONTEXTS)
    values.ravel()[order] = _pop(coder, zeros, sizes)
    return
  # The columns of a context stand side by side.
  widths = _count_sorted(contexts[0], NUM_CLASSES)
  symbols = _pop(coder, zeros, tall * widths)
  left = 0
  for wide in widths.tolist():
    part = symbols[tall * left : tall * (left + wide)]
    values[:, left : left + wide] = part.reshape(tall, wide)
    left += wide


def _sort(contexts: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
  """Where the contexts are in ascending order, and how many of each."""
  order = contexts.argsort(kind='stable')
  return order, _count_sorted(contexts.take(order), number)


def _sort_signs(signs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  agreements = ternary_contexts.get_agreements(signs)
  return _sort(agreements, ternary_contexts.NUM_AGREEMENTS)


def _count_sorted(contexts: np.ndarray, number: int) -> np.ndarray:
  starts = contexts.searchsorted(_CONTEXTS[: number + 1])
  return starts[1:] - starts[:-1]


def _pop(coder: ans.Coder, counts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
  symbols = ans.pop_runs(coder, sizes, _get_frequencies(counts, sizes))
  _update(counts, sizes, symbols)
  return symbols.view(np.int8)


def _make_runs(
  counts: np.ndarray, sizes: np.ndarray, symbols: np.ndarray
) -> Runs:
  frequencies = _get_frequencies(counts, sizes)
  ones = _update(counts, sizes, symbols)
  found = np.stack([sizes - ones, ones], axis=-1)
  return Runs(sizes, frequencies, symbols, found)


def _get_frequencies(counts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
  """Of the first and the second symbol in each context: int64."""
  first, second = counts[: len(sizes)].T
  part = ternary_contexts.find_part(
    second,
    first,
    ternary_contexts.FREQUENCY_BITS,
    ternary_contexts.MIN_FREQUENCY,
  )
  frequencies = np.empty((len(sizes), 2), np.int64)
  frequencies[:, 1] = part << ternary_contexts.SIGN_BITS
  frequencies[:, 0] = (1 << ans.PRECISION) - frequencies[:, 1]
  return frequencies


def _update(
  counts: np.ndarray, sizes: np.ndarray, symbols: np.ndarray
) -> np.ndarray:
  """Counts the symbols of runs; returns how many of each run are 1."""
  used = sizes.nonzero()[0]
  starts = sizes.cumsum() - sizes
  ones = np.zeros_like(sizes)
  ones[used] = np.add.reduceat(symbols, starts[used], dtype=np.uint32)
  learnt = counts[: len(sizes)]
  learnt[:, 0] += ternary_contexts.UNIT * (sizes - ones)
  learnt[:, 1] += ternary_contexts.UNIT * ones
  return ones
