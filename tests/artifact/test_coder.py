"""The coder: literals worked by hand, invariants, hostile streams."""

import math

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from hq_jax.artifact import coder

HALF = (16384, 8192, 8192)


def _draw(rng, size, probabilities):
  return rng.choice([0, 1, -1], size, p=probabilities).astype(np.int8)


def _round_trip(layers):
  tables = [coder.frequencies(coder.count(layer)) for layer in layers]
  stream = coder.encode(layers, tables)
  sizes = [layer.size for layer in layers]
  stored = coder.unpack_tables(coder.pack_tables(tables))
  found = coder.decode(stream, stored, sizes)
  for layer, other in zip(layers, found, strict=True):
    assert other.dtype == np.int8
    np.testing.assert_array_equal(layer.reshape(-1), other)
  return stream, tables


def test_stream_by_hand():
  # Weights 2^23, 2^22, 2^22; they start at 0, 2^23, 2^23 + 2^22. From the
  # state 0, -1 gives the state 0xc00000; then +1 gives
  # ((0xc00000 // 2^22) << 24) + 2^23 + 0 = 0x3800000.
  codes = np.array([1, -1], np.int8)
  assert coder.encode([codes[:1]], [HALF]) == b'\x00\x00\x80'
  assert coder.encode([codes], [HALF]) == b'\x00\x00\x80\x03'
  decoded = coder.decode(b'\x00\x00\x80\x03', [HALF], [2])
  np.testing.assert_array_equal(decoded[0], codes)


def test_frequencies_by_hand():
  assert coder.frequencies([0, 0, 0]) == (32768, 0, 0)
  assert coder.frequencies([0, 0, 9]) == (0, 0, 32768)
  assert coder.frequencies([2, 1, 1]) == HALF
  # 32768 / 3 = 10922.67: rounded up thrice, the first gives one back.
  assert coder.frequencies([1, 1, 1]) == (10922, 10923, 10923)
  # One in a billion still has a code.
  assert coder.frequencies([10**9, 1, 0]) == (32767, 1, 0)


def test_weights_by_hand():
  assert coder.weights(HALF) == (1 << 23, 1 << 22, 1 << 22)
  assert coder.weights((32768, 0, 0)) == ((1 << 24) - 2, 1, 1)
  assert coder.weights((0, 1, 32767)) == (1, 512, 32767 * 512 - 1)


@hypothesis.given(st.lists(st.integers(0, 10**12), min_size=3, max_size=3))
def test_weights_are_a_distribution(counts):
  table = coder.frequencies(counts)
  assert sum(table) == coder.TOTAL
  for n, frequency in zip(counts, table, strict=True):
    assert (frequency > 0) == (n > 0 or (sum(counts) == 0 and frequency > 1))
  found = coder.weights(table)
  assert sum(found) == 1 << 24 and min(found) >= 1


@hypothesis.given(
  st.lists(st.lists(st.sampled_from([0, 0, 0, 1, -1]), max_size=70), max_size=5)
)
def test_round_trip(layers):
  _round_trip([np.array(layer, np.int8) for layer in layers])


@pytest.mark.parametrize('size', [0, 1, 2, 1000])
@pytest.mark.parametrize('code', [0, 1, -1])
def test_one_symbol_costs_nothing(size, code):
  stream, tables = _round_trip([np.full(size, code, np.int8)])
  assert stream == b''
  assert coder.cost_bits(tables[0], [size, 0, 0]) == 0


@pytest.mark.parametrize('code', [1, -1])
def test_one_sign_only(code):
  rng = np.random.default_rng(0)
  layer = _draw(rng, 1000, [0.7, 0.3, 0]) * np.int8(code)
  stream, tables = _round_trip([layer])
  assert 0 in tables[0]
  entropy = 1000 * coder.entropy_bits(coder.count(layer))
  assert 8 * len(stream) < entropy + 40


def test_layers_longer_than_a_chunk(monkeypatch):
  rng = np.random.default_rng(1)
  layer = _draw(rng, 1000, [0.8, 0.1, 0.1])
  whole, _ = _round_trip([layer, layer[:10]])
  monkeypatch.setattr(coder, 'CHUNK', 7)
  chunked, _ = _round_trip([layer, layer[:10]])
  assert chunked == whole


@pytest.mark.parametrize('zeros', [0.0, 0.5, 0.7, 0.85, 0.95, 0.999])
def test_stream_is_as_long_as_the_entropy(zeros):
  rng = np.random.default_rng(2)
  sparse = [zeros, (1 - zeros) * 0.6, (1 - zeros) * 0.4]
  layers = [_draw(rng, 30_000, sparse), _draw(rng, 500, [0.4, 0.3, 0.3])]
  stream, tables = _round_trip(layers)
  counts = [coder.count(layer) for layer in layers]
  entropy = sum(sum(c) * coder.entropy_bits(c) for c in counts)
  cost = sum(map(coder.cost_bits, tables, counts))
  assert entropy <= cost <= entropy * 1.0005
  assert abs(8 * len(stream) - cost) <= 32


def test_entropy_by_hand():
  # The design's table of entropies of ternary codes, at 0.85 zeros.
  s = 0.85
  expected = -s * math.log2(s) - (1 - s) * math.log2(1 - s) + (1 - s)
  found = coder.entropy_bits([8500, 750, 750])
  assert found == pytest.approx(expected, abs=1e-12)
  assert round(found, 2) == 0.76
  assert coder.entropy_bits([0, 0, 0]) == 0


def test_decode_refuses_what_is_left_over():
  codes = np.array([1, -1, 0, 1], np.int8)
  stream = coder.encode([codes], [HALF])
  with pytest.raises(ValueError, match='holds more than the codes'):
    coder.decode(stream, [HALF], [2])
  with pytest.raises(ValueError, match='holds more than the codes'):
    coder.decode(b'\x01', [], [])
  with pytest.raises(ValueError, match='ends in a zero byte'):
    coder.decode(b'\x01\x00', [HALF], [4])


def test_decode_refuses_a_code_of_frequency_zero():
  # The state 0xffffff decodes to the third symbol, of weight 1.
  with pytest.raises(ValueError, match='-1 came, its frequency is zero'):
    coder.decode(b'\xff\xff\xff', [(16384, 16384, 0)], [1])


def test_unpack_tables_refuses_a_sum_above_the_total():
  with pytest.raises(ValueError, match='table 1: frequencies 32768 and 1'):
    coder.unpack_tables(coder.pack_tables([HALF, (-1, 32768, 1)]))


@hypothesis.given(
  st.binary(max_size=40),
  st.lists(st.tuples(st.integers(0, 32768), st.integers(0, 200)), max_size=3),
)
def test_any_stream_decodes_or_is_refused(stream, layers):
  tables = [(f, rest := (32768 - f) // 2, 32768 - f - rest) for f, _ in layers]
  sizes = [size for _, size in layers]
  try:
    found = coder.decode(stream, tables, sizes)
  except ValueError:
    return
  assert [layer.size for layer in found] == sizes
  # Each stream that is accepted is the one that the encoder writes.
  assert coder.encode(found, tables) == stream
