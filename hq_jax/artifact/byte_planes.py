"""Ordinary tensors as byte planes: the top one deflated, the others as is.

The top byte of a float holds its sign and exponent, which vary little within
a model; the bytes below are noise that no coder shortens.
"""

import zlib

import numpy as np

# zlib's strategies that are tried; the shortest result is kept.
_STRATEGIES = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_HUFFMAN_ONLY)


def deflate(data: bytes) -> bytes:
  """Compresses to a raw DEFLATE stream (RFC 1951), as short as zlib can."""
  candidates = []
  for strategy in _STRATEGIES:
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
  little = values.astype(values.dtype.newbyteorder('<'))
  planes = little.view(np.uint8).reshape(values.size, values.dtype.itemsize)
  low, top = planes[:, :-1], planes[:, -1]
  return low.T.tobytes() + deflate(top.tobytes())


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
