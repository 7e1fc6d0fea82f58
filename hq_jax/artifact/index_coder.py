"""The entropy coder of codebook indices: one ANS stream over all tensors.

No model is stored. Each tensor starts with even odds; after every block, the
odds are those of the indices that came before in the tensor. They are 24-bit
integers found by integer arithmetic, as for ternary codes.
"""

from collections.abc import Iterator, Sequence
import math

import numpy as np

from hq_jax.artifact import ans

FIRST = 32  # indices of the first blocks
SHARE = 8  # of what came before: a block is an eighth of it
# Of one index. At most so likely, none costs less than 1/256 bit.
MOST = (1 << ans.PRECISION) - 512 * 89

_NAME = 'indices'
_CHUNK = 1 << 16  # indices per call of the coder: bounds its int32 copies


def get_weights(counts: np.ndarray) -> np.ndarray:
  """The integer weights of the next block's indices.

  `w = 1 + floor((2^24 - K) (2 c + 1) / (2 n + K))`, `n = sum(c)`; the first of
  the largest takes what is left over of 2^24, and gives what it has beyond
  `MOST` to the first of the largest others.
  """
  size = len(counts)
  total = 1 << ans.PRECISION
  shares = 2 * counts + 1
  weights = 1 + (total - size) * shares // shares.sum()
  largest = int(np.argmax(weights))
  weights[largest] += total - int(weights.sum())
  excess = int(weights[largest]) - MOST
  if excess > 0:
    others = weights.copy()
    others[largest] = 0
    weights[largest] -= excess
    weights[np.argmax(others)] += excess
  return weights


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
    for block, weights in reversed(list(_trace(flat, size))):
      model = ans.categorical(weights)
      for chunk in reversed(list(_cut(flat[block]))):
        coder.encode_reverse(chunk.astype(np.int32), model)
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
    flat = np.zeros(math.prod(shape), np.uint8)
    if size > 1:
      counts = np.zeros(size, np.int64)
      for block in get_blocks(flat.size):
        model = ans.categorical(get_weights(counts))
        for chunk in _cut(flat[block]):
          chunk[:] = coder.decode(model, chunk.size)
        counts += count(flat[block], size)
    found.append(flat.reshape(shape))
  ans.check_end(coder, _NAME)
  return found


def count(tensor: np.ndarray, size: int) -> np.ndarray:
  """Counts the indices."""
  counts = np.zeros(size, np.int64)
  for chunk in _cut(tensor.reshape(-1)):  # NumPy counts in eight bytes each
    counts += np.bincount(chunk, minlength=size)
  return counts


def tensor_bits(tensor: np.ndarray, size: int) -> float:
  """What a tensor's indices cost, `sum(24 - log2 w)`."""
  if size == 1:
    return 0.0
  flat = tensor.reshape(-1)
  return sum(
    float(np.sum(count(flat[block], size) * (ans.PRECISION - np.log2(weights))))
    for block, weights in _trace(flat, size)
  )


def _trace(flat: np.ndarray, size: int) -> Iterator[tuple[slice, np.ndarray]]:
  """The blocks of a tensor and their weights."""
  counts = np.zeros(size, np.int64)
  for block in get_blocks(flat.size):
    yield block, get_weights(counts)
    counts += count(flat[block], size)


def _cut(flat: np.ndarray) -> Iterator[np.ndarray]:
  return (flat[i : i + _CHUNK] for i in range(0, flat.size, _CHUNK))


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
