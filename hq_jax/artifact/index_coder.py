"""The entropy coder of codebook indices: one ANS stream over all tensors.

No model is stored. Each tensor starts with even odds; after every block, the
odds are those of the indices before it in the tensor. They are 24-bit integers
found by integer arithmetic, as for ternary codes.
"""

from collections.abc import Iterator, Sequence
import math

import numpy as np

from hq_jax.artifact import ans

FIRST = 32  # indices of the first blocks
SHARE = 8  # of what was coded before: a block is an eighth of it
# Of one index. At most so frequent, none costs less than 1/256 bit.
MAX_FREQUENCY = (1 << ans.PRECISION) - 512 * 89

_NAME = 'indices'


def get_frequencies(counts: np.ndarray) -> np.ndarray:
  """The integer frequencies of the next block's indices.

  `f = 1 + floor((2^24 - K) (2 c + 1) / (2 n + K))`, `n = sum(c)`; the first of
  the largest takes what is left over of 2^24, and gives what it has beyond
  `MAX_FREQUENCY` to the first of the largest others.
  """
  size = len(counts)
  total = 1 << ans.PRECISION
  shares = 2 * counts + 1
  frequencies = 1 + (total - size) * shares // shares.sum()
  largest = int(np.argmax(frequencies))
  frequencies[largest] += total - int(frequencies.sum())
  excess = int(frequencies[largest]) - MAX_FREQUENCY
  if excess > 0:
    others = frequencies.copy()
    others[largest] = 0
    frequencies[largest] -= excess
    frequencies[np.argmax(others)] += excess
  return frequencies


def get_blocks(size: int) -> Iterator[slice]:
  """Cuts a tensor into blocks of `max(FIRST, start // SHARE)` indices."""
  start = 0
  while start < size:
    stop = min(size, start + max(FIRST, start // SHARE))
    yield slice(start, stop)
    start = stop


def encode(tensors: Sequence[np.ndarray], sizes: Sequence[int]) -> bytes:
  """Codes all tensors into one stream."""
  coder = ans.start()
  for tensor, size in reversed(list(zip(tensors, sizes, strict=True))):
    if size == 1:
      continue
    flat = tensor.reshape(-1)
    for block, frequencies in reversed(list(trace(flat, size))):
      ans.push(coder, flat[block], frequencies)
  return ans.to_bytes(coder)


def decode(
  stream: bytes | memoryview,
  sizes: Sequence[int],
  shapes: Sequence[tuple[int, ...]],
) -> list[np.ndarray]:
  """The inverse of `encode`: bit-identical indices, or an error."""
  coded = [
    math.prod(shape)
    for size, shape in zip(sizes, shapes, strict=True)
    if size > 1
  ]
  _check_work(len(stream), coded)
  coder = ans.from_bytes(stream, sum(coded), _NAME)
  found = []
  for size, shape in zip(sizes, shapes, strict=True):
    flat = pop(coder, math.prod(shape), size)
    found.append(flat.reshape(shape))
  ans.check_end(coder, _NAME)
  return found


def pop(
  coder: ans.Coder, number: int, size: int, first: Sequence[int] | None = None
) -> np.ndarray:
  """Takes a tensor off a stream, uint8, flat; counts start at `first` or 0."""
  flat = np.zeros(number, np.uint8)
  if size > 1:
    counts = _start(size, first)
    for block in get_blocks(number):
      flat[block] = ans.pop(
        coder, block.stop - block.start, get_frequencies(counts)
      )
      counts += count(flat[block], size)
  return flat


def count(tensor: np.ndarray, size: int) -> np.ndarray:
  """Counts the indices."""
  counts = np.zeros(size, np.int64)
  flat = tensor.reshape(-1)
  for start in range(0, flat.size, ans.CHUNK):  # NumPy's copies are int64
    counts += np.bincount(flat[start : start + ans.CHUNK], minlength=size)
  return counts


def tensor_bits(tensor: np.ndarray, size: int) -> float:
  """What a tensor's indices cost, `sum(24 - log2 f)`."""
  if size == 1:
    return 0.0
  flat = tensor.reshape(-1)
  return sum(
    float(np.sum(count(flat[block], size) * (ans.PRECISION - np.log2(f))))
    for block, f in trace(flat, size)
  )


def trace(
  flat: np.ndarray, size: int, first: Sequence[int] | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
  """The blocks of a tensor and their frequencies."""
  counts = _start(size, first)
  for block in get_blocks(flat.size):
    yield block, get_frequencies(counts)
    counts += count(flat[block], size)


def _start(size: int, first: Sequence[int] | None) -> np.ndarray:
  return np.zeros(size, np.int64) if first is None else np.array(first)


def _check_work(num_bytes: int, sizes: Sequence[int]) -> None:
  """Refuses what no stream of this length holds.

  An index costs 1/256 bit or more, and a bit or more in a tensor's first block.
  """
  needed = sum(n + 255 * min(n, FIRST) for n in sizes)
  if needed > ans.MAX_CODES_PER_BYTE * (num_bytes + ans.FREE_BYTES):
    raise ValueError(
      f'{_NAME}: {sum(sizes)} of {len(sizes)} tensors in a stream of '
      f'{num_bytes} bytes, wanted fewer'
    )
