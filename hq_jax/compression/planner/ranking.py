"""The ranks of a kernel's magnitudes, found by counting.

As in `core.thresholds`, floats are compared by their bits. A histogram of the
first of them says in which bin each wanted rank lies, and only the weights in
those bins are sorted: nothing here is as large as the kernel.
"""

from collections.abc import Callable, Iterator
import functools
from typing import NamedTuple

import numpy as np

# Weights, and channels, that are looked at together.
_MAX_WEIGHTS = 1 << 18
_MAX_CHANNELS = 1 << 10
# Bins are 2^-12 wide, relative to the power of two below; all that is less than
# 2^-20 is in the first.
_SHIFT = 23 - 12
_FIRST = (127 - 20) << 23
_NUM_BINS = (((127 + 1) << 23) - _FIRST) >> _SHIFT


class Block(NamedTuple):
  """Some channels of a kernel, each divided by its norm."""

  channels: slice
  magnitudes: np.ndarray  # float32, [inputs, channels], at most 1


class Kernel(NamedTuple):
  """Weights to be ranked by what they are when channels have norm 1."""

  weights: np.ndarray  # float32, [inputs, channels]
  norms: np.ndarray  # float64, [channels]

  def get_blocks(self) -> Iterator[Block]:
    """Cuts it into a few channels at a time."""
    num_inputs, num_channels = self.weights.shape
    inverse = 1 / np.where(self.norms > 0, self.norms, 1)
    step = max(1, min(_MAX_CHANNELS, _MAX_WEIGHTS // num_inputs))
    for start in range(0, num_channels, step):
      part = slice(start, start + step)
      unit = self.weights[:, part] * inverse[part]
      yield Block(part, np.abs(unit, out=unit).astype(np.float32))


def make_kernel(weights: np.ndarray) -> Kernel:
  """Finds the norms of `[inputs, channels]`."""
  squares = np.einsum('ij,ij->j', weights, weights, dtype=np.float64)
  return Kernel(weights, np.sqrt(squares))


def make_classifier(
  kernel: Kernel, kept: np.ndarray
) -> Callable[[Block], np.ndarray]:
  """Makes a function from a block to the class of each of its weights.

  The class of the weight of rank `r` is the number of `kept` that are `r` or
  less. The largest weight of the kernel has rank 0, and equal ones are ranked
  in the order of their flat index.

  Args:
    kernel: of at most 2^32 weights.
    kept: integers, ascending, from 1 to the size of the kernel.

  Returns:
    The function; its values are int64, flat.
  """
  get_keys = functools.partial(_get_keys, kernel.weights.shape[1])
  counts = np.zeros(_NUM_BINS, np.int64)
  for block in kernel.get_blocks():
    counts += np.bincount(_get_bins(block), minlength=_NUM_BINS)
  first = _count_above(counts)  # the least rank of each bin
  # Each class ends with a weight, whose bin this is.
  last_bins = np.searchsorted(-first, 1 - kept)
  is_mixed = np.zeros(_NUM_BINS, bool)
  is_mixed[last_bins] = True
  found = [
    get_keys(block, np.flatnonzero(is_mixed.take(_get_bins(block))))
    for block in kernel.get_blocks()
  ]
  keys = np.sort(np.concatenate(found))
  place = _count_above(np.where(is_mixed, counts, 0)) - first
  ends = keys[place[last_bins] + kept - 1]
  of_bins = np.searchsorted(kept, first, 'right').astype(np.int16)
  of_bins[is_mixed] = -1

  def classify(block: Block) -> np.ndarray:
    classes = of_bins.take(_get_bins(block)).astype(np.int64)
    mixed = np.flatnonzero(classes < 0)
    classes[mixed] = np.searchsorted(ends, get_keys(block, mixed))
    return classes

  return classify


def _count_above(counts: np.ndarray) -> np.ndarray:
  """How many there are in all higher bins."""
  return counts[::-1].cumsum()[::-1] - counts


def _get_bins(block: Block) -> np.ndarray:
  bits = block.magnitudes.ravel().view(np.int32) - _FIRST
  np.clip(bits, 0, (_NUM_BINS << _SHIFT) - 1, out=bits)
  return np.right_shift(bits, _SHIFT, out=bits)


def _get_keys(
  num_channels: int, block: Block, places: np.ndarray
) -> np.ndarray:
  """Integers in the order of the ranks, of the weights at flat places."""
  rows, columns = np.divmod(places, block.magnitudes.shape[1])
  index = rows * num_channels + (columns + block.channels.start)
  # The larger the float, the less its inverted bits; the index is behind them.
  keys = (~block.magnitudes.ravel()[places].view(np.uint32)).astype(np.uint64)
  return keys << np.uint64(32) | index.astype(np.uint64)
