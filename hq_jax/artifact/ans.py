"""The ANS coder under all codes: its words as bytes, its exact integers.

constriction is given floats from which it rebuilds integer frequencies without
rounding, so that a stream means the same on every machine.
"""

from typing import Any, TypeAlias

import constriction
import numpy as np

PRECISION = 24  # bits of constriction's probabilities
# What a stream may be asked for, which bounds the time it takes to read one:
# no code may cost less than 1/256 bit.
MAX_CODES_PER_BYTE = 1 << 11
FREE_BYTES = 64
CHUNK = 1 << 16  # symbols per call of the coder: bounds its copies

Coder: TypeAlias = constriction.stream.stack.AnsCoder
Categorical: TypeAlias = constriction.stream.model.Categorical

# A call of the coder takes as long as a hundred symbols of one context.
_SHORT = 128
_BY_CONTEXT = Categorical(perfect=False)  # the parameters come with the symbols
_MAX_BYTES_PER_CODE = 3  # no probability is below 2^-24
# The words of the state that the encoder starts from, 2^32. A smaller one would
# not grow with the likeliest symbols: as many as one likes would cost nothing.
_START = (0, 1)


def start() -> Coder:
  """An encoder that holds nothing."""
  return Coder(np.array(_START, np.uint32))


def to_bytes(coder: Coder) -> bytes:
  """What an encoder has written."""
  words = coder.get_compressed()
  if _is_at_start(words):
    return b''
  return words.astype('<u4').tobytes().rstrip(b'\0')


def from_bytes(stream: bytes | memoryview, num_codes: int, name: str) -> Coder:
  """The inverse of `to_bytes`: a decoder."""
  if stream[-1:] == b'\0':
    raise ValueError(f'{name}: the stream ends in a zero byte')
  if len(stream) > _MAX_BYTES_PER_CODE * num_codes + FREE_BYTES:
    # Before it is copied; its end would show that it holds more.
    raise ValueError(f'{name}: the stream holds more than the codes')
  words = np.zeros(-(-len(stream) // 4), '<u4')
  words.view(np.uint8)[: len(stream)] = np.frombuffer(stream, np.uint8)
  if _is_at_start(words):
    raise ValueError(f'{name}: a stream that holds none')
  if not len(words):
    words = np.array(_START, '<u4')
  return Coder(words.astype('=u4', copy=False))


def check_end(coder: Coder, name: str) -> None:
  """Refuses a stream that is not used up by exactly what was decoded."""
  if not _is_at_start(coder.get_compressed()):
    raise ValueError(f'{name}: the stream holds more than the codes')


def push(
  coder: Coder,
  symbols: np.ndarray,
  frequencies: np.ndarray,
  contexts: np.ndarray | None = None,
) -> None:
  """Encodes symbols by the same frequencies, or by those of each context."""
  floats = _to_floats(frequencies)
  model = _BY_CONTEXT if contexts is not None else _make_static(floats)
  for start in reversed(range(0, symbols.size, CHUNK)):
    chunk = slice(start, start + CHUNK)
    part = symbols[chunk].astype(np.int32)
    if contexts is None:
      coder.encode_reverse(part, model)
    else:
      coder.encode_reverse(part, model, floats.take(contexts[chunk], axis=0))


def pop(
  coder: Coder,
  size: int,
  frequencies: np.ndarray,
  contexts: np.ndarray | None = None,
) -> np.ndarray:
  """The inverse of `push`."""
  symbols = np.empty(size, np.uint8)
  _fill(coder, symbols, _to_floats(frequencies), contexts)
  return symbols


def push_runs(
  coder: Coder,
  symbols: np.ndarray,
  frequencies: np.ndarray,
  sizes: np.ndarray,
) -> None:
  """Encodes runs of symbols, one for each row of frequencies."""
  contexts = np.repeat(np.arange(len(sizes), dtype=np.uint8), sizes)
  push(coder, symbols, frequencies, contexts)


def pop_runs(
  coder: Coder, sizes: np.ndarray, frequencies: np.ndarray
) -> np.ndarray:
  """The inverse of `push_runs`."""
  symbols = np.empty(sizes.sum(), np.uint8)
  floats = _to_floats(frequencies)
  short: list[int] = []  # contexts of the runs before `start`
  start = 0

  def fill_short() -> None:
    contexts = np.repeat(short, sizes[short])
    _fill(coder, symbols[start - len(contexts) : start], floats, contexts)
    short.clear()

  for context, size in enumerate(sizes.tolist()):
    if size >= _SHORT:
      if short:
        fill_short()
      _fill(coder, symbols[start : start + size], floats[context])
    elif size:
      short.append(context)
    start += size
  if short:
    fill_short()
  return symbols


def _fill(
  coder: Coder,
  symbols: np.ndarray,
  floats: np.ndarray,
  contexts: np.ndarray | None = None,
) -> None:
  if contexts is None:
    model = _make_static(floats)
    for start in range(0, len(symbols), CHUNK):
      part = symbols[start : start + CHUNK]
      part[:] = coder.decode(model, len(part))
  else:
    for start in range(0, len(symbols), CHUNK):
      part = symbols[start : start + CHUNK]
      parameters = floats.take(contexts[start : start + CHUNK], axis=0)
      part[:] = coder.decode(_BY_CONTEXT, parameters)


def _to_floats(frequencies: np.ndarray) -> np.ndarray:
  """What constriction rebuilds the exact integers from."""
  # It gives each of n symbols frequency 1 and shares the other 2^24 - n in
  # proportion to the floats. These sum to exactly 2^24 - n, so that its factor
  # is one and every product and sum is an exact integer.
  return (frequencies - 1).astype(np.float64)


def _make_static(floats: np.ndarray) -> Any:
  return Categorical(floats, lazy=False, perfect=False)


def _is_at_start(words: np.ndarray) -> bool:
  return words.size == len(_START) and tuple(words.tolist()) == _START
