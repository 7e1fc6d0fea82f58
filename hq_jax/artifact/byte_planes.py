"""Ordinary tensors as byte planes: the top one deflated, the others as is.

The top byte of a float holds its sign and exponent, which vary little within
a model; the bytes below are noise that no coder shortens.
"""

from collections.abc import Sequence
import zlib

import numpy as np

# zlib's strategies that are tried; the shortest result is kept.
_STRATEGIES = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_HUFFMAN_ONLY)
# zlib's symbols in a block, which has Huffman codes of its own.
_BLOCK = (1 << 15) - 1
# Beyond so many values, only Huffman codes are tried to predict a length.
_MAX_SEARCHED = 1 << 20


def deflate(data: bytes, strategies: Sequence[int] = _STRATEGIES) -> bytes:
  """Compresses to a raw DEFLATE stream (RFC 1951), as short as zlib can."""
  candidates = []
  for strategy in strategies:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy)
    candidates.append(compressor.compress(data) + compressor.flush())
  return min(candidates, key=len)


def inflate(data: bytes | memoryview, size: int) -> bytes:
  """Decompresses exactly `size` bytes; never allocates much more than that."""
  decompressor = zlib.decompressobj(-15)
  try:
    # One byte more than wanted lets zlib see the end of the stream, and
    # never means zero, its word for "no limit".
    plain = decompressor.decompress(data, size + 1)
  except zlib.error as error:
    raise ValueError(f'damaged DEFLATE stream ({error})') from error
  if len(plain) != size or not decompressor.eof:
    raise ValueError(f'the DEFLATE stream does not hold {size} bytes')
  if decompressor.unused_data:
    raise ValueError('bytes follow the end of the DEFLATE stream')
  return plain


def encode(values: np.ndarray) -> bytes:
  """Splits into byte planes, lowest first, and deflates the top one."""
  low, top = _split(values)
  return low.T.tobytes() + deflate(top.tobytes())


def _split(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  little = values.astype(values.dtype.newbyteorder('<'))
  planes = little.view(np.uint8).reshape(values.size, values.dtype.itemsize)
  return planes[:, :-1], planes[:, -1]


def predict_length(runs: Sequence[tuple[int, np.ndarray]]) -> int:
  """The bytes of `encode` for runs of so many values like these.

  Of a long run, whole blocks are left out and counted by themselves: what runs
  cost that share a block stays as it is. Exact where none is left out and all
  values are given.
  """
  tops, left_out, num_low = [], [], 0
  for size, values in runs:
    num_values = _BLOCK * max(0, size // _BLOCK - 2)
    top = _split(np.resize(values, size - num_values))[1].tobytes()
    tops.append(top)
    left_out.append(num_values / max(1, len(top)))
    num_low += size * (values.dtype.itemsize - 1)
  joined = b''.join(tops)
  is_short = len(joined) <= _MAX_SEARCHED
  strategies = _STRATEGIES if is_short else (zlib.Z_HUFFMAN_ONLY,)
  num_top = len(deflate(joined, strategies))
  for top, factor in zip(tops, left_out, strict=True):
    if factor:
      num_top += round(factor * len(deflate(top, strategies)))
  return num_low + num_top


def decode(data: bytes | memoryview, dtype: np.dtype, size: int) -> np.ndarray:
  """The inverse of `encode`."""
  num_low = dtype.itemsize - 1
  if len(data) < num_low * size:
    raise ValueError(f'{len(data)} bytes cannot hold {size} {dtype} values')
  # Views: the bytes of `data` may be most of what fits in memory.
  low = np.frombuffer(data, np.uint8, num_low * size)
  top = inflate(memoryview(data)[num_low * size :], size)
  little = np.empty(size, dtype.newbyteorder('<'))
  planes = little.view(np.uint8).reshape(size, dtype.itemsize)
  planes[:, :-1] = low.reshape(num_low, size).T
  planes[:, -1] = np.frombuffer(top, np.uint8)
  return little.astype(dtype, copy=False)
