"""The coder: literals worked by hand, invariants, hostile streams."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from hq_jax.artifact import ans
from hq_jax.artifact import ternary_coder
from tests.artifact import layers as layers_lib

HALF = (16384, 8192, 8192)
STATIC = ternary_coder.Table(0, HALF)


def _draw(rng, size, probabilities):
  return rng.choice([0, 1, -1], size, p=probabilities).astype(np.int8)


def _round_trip(layers):
  tables, stream = ternary_coder.encode(layers)
  assert ternary_coder.encode(layers, tables) == (tables, stream)
  stored = ternary_coder.unpack_tables(ternary_coder.pack_tables(tables))
  found = ternary_coder.decode(
    stream, stored, [layer.shape for layer in layers]
  )
  for layer, other in zip(layers, found, strict=True):
    assert other.dtype == np.int8
    np.testing.assert_array_equal(layer, other)
  return stream, tables


@pytest.mark.parametrize(
  ('counts', 'frequencies'),
  [
    ([0, 0, 0], (32768, 0, 0)),
    ([0, 0, 9], (0, 0, 32768)),
    ([2, 1, 1], HALF),
    # 32768 / 3 = 10922.67: rounded up thrice, the first gives one back.
    ([1, 1, 1], (10922, 10923, 10923)),
    # One in a billion has 89 of 2^15, and of two others the larger takes it.
    ([10**9, 1, 0], (32679, 89, 0)),
    ([1, 10**9, 10**8 // 32], (1, 32665, 102)),
    ([5, 10**9, 10], (88, 32679, 1)),
  ],
)
def test_frequencies_by_hand(counts, frequencies):
  assert ternary_coder.find_frequencies(counts) == frequencies


@hypothesis.given(st.lists(st.integers(0, 10**12), min_size=3, max_size=3))
def test_frequencies_are_a_distribution(counts):
  table = ternary_coder.find_frequencies(counts)
  assert sum(table) == ternary_coder.TOTAL
  for n, frequency in zip(counts, table, strict=True):
    assert (frequency > 0) == (n > 0 or (sum(counts) == 0 and frequency > 1))
  assert max(table) <= 32679 or 32768 in table
  found = ternary_coder.scale_frequencies(table)
  assert sum(found) == 1 << 24 and min(found) >= 1


@pytest.mark.parametrize('zeros', [0.0, 0.7, 0.985])
def test_stream_is_as_long_as_the_entropy(zeros):
  rng = np.random.default_rng(2)
  sparse = [zeros, (1 - zeros) * 0.6, (1 - zeros) * 0.4]
  layers = [_draw(rng, 30_000, sparse), _draw(rng, 500, [0.4, 0.3, 0.3])]
  stream, tables = _round_trip(layers)
  counts = [ternary_coder.count(layer) for layer in layers]
  entropy = sum(sum(c) * ternary_coder.entropy_bits(c) for c in counts)
  cost = sum(map(ternary_coder.layer_bits, layers, tables))
  assert not any(table.has_contexts for table in tables)
  assert entropy <= cost <= entropy * 1.0005
  assert 0 <= 8 * len(stream) - cost <= 64  # the first state takes 33


@pytest.mark.parametrize(
  ('stream', 'frequencies', 'size', 'message'),
  [
    (b'\x00\x00\x80\x03\x10', HALF, 1, 'holds more than the codes'),
    (b'\x01', (32768, 0, 0), 9, 'holds more than the codes'),
    (b'\x01\x00', HALF, 4, 'ends in a zero byte'),
    # The state 0xffffff decodes to the third symbol, of frequency 1.
    (b'\xff\xff\xff', (16384, 16384, 0), 1, '-1 is there, its frequency is 0'),
  ],
)
def test_decode_refuses_other_streams(stream, frequencies, size, message):
  table = ternary_coder.Table(False, frequencies)
  with pytest.raises(ValueError, match=message):
    ternary_coder.decode(stream, [table], [(size,)])


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    (b'\x00\x00\x80\x01\x00', r'frequencies \(-1, 32768, 1\)'),
    (b'\x00\xa8\x7f\x00\x00', r'frequencies \(88, 32680, 0\)'),
    (b'\x03\x00\x20\x00\x20', 'mode is 3, wanted 0, 1 or 2'),
    (b'\x01\x00\x80\x00\x00', 'contexts for a layer of a single symbol'),
  ],
)
def test_unpack_tables_refuses(row, message):
  with pytest.raises(ValueError, match=f'model table 1: .*{message}'):
    ternary_coder.unpack_tables(ternary_coder.pack_tables([STATIC]) + row)


@pytest.mark.parametrize(
  ('shape', 'mode', 'message'),
  [
    ((2048 * 164 + 1,), 0, 'codes and 0 tiles in a stream of 100 bytes'),
    ((11, 1, 1, 1), 1, '11 codes and 11 tiles .* wanted at most 335872 and 10'),
    ((11,), 0, 'the stream holds more than the codes'),
    ((32, 1025), 1, '32800 codes and 32 tiles'),
    ((1, 65537), 1, r'table 0: contexts for shape \(1, 65537\)'),
    ((65537, 1), 1, r'table 0: contexts for shape \(65537, 1\)'),
    ((4, 0), 1, r'table 0: contexts for shape \(4, 0\)'),
    ((4, 0), 2, r'table 0: contexts for shape \(4, 0\)'),
    ((1, 65537), 2, r'table 0: contexts for shape \(1, 65537\)'),
    # A band may be 8 rows of 64 codes, or be a plane of its own.
    ((2, 1, 88, 64), 2, '11416 codes and 11 tiles .* wanted at most .* and 10'),
    ((21, 1, 1, 1), 2, '23 codes and 11 tiles'),
  ],
)
def test_decode_refuses_work_that_no_writer_asks_for(shape, mode, message):
  with pytest.raises(ValueError, match=message):
    ternary_coder.decode(
      b'\x01' * 100, [ternary_coder.Table(mode, HALF)], [shape]
    )


@pytest.mark.parametrize(
  'shape', [(3, 3, 24, 32), (2, 2, 3, 9, 31), (5, 40, 36), (256, 128)]
)
def test_contexts_save_bytes_and_cost_what_they_say(shape):
  rng = np.random.default_rng(3)
  layers = [layers_lib.draw(rng, shape), _draw(rng, (70,), [0.5, 0.3, 0.2])]
  stream, tables = _round_trip(layers)
  assert [table.has_contexts for table in tables] == [True, False]
  entropy = layers[0].size * ternary_coder.entropy_bits(
    ternary_coder.count(layers[0])
  )
  bits = [
    ternary_coder.layer_bits(*pair) for pair in zip(layers, tables, strict=True)
  ]
  assert bits[0] < 0.95 * entropy
  assert 0 <= 8 * len(stream) - sum(bits) <= 64


def test_layers_longer_than_a_chunk(monkeypatch, rng):
  layers = [
    layers_lib.draw(rng, (3, 3, 24, 32)),
    _draw(rng, 1000, [0.8, 0.1, 0.1]),
  ]
  whole, tables = _round_trip(layers)
  assert [table.has_contexts for table in tables] == [True, False]
  monkeypatch.setattr(ans, 'CHUNK', 7)
  assert _round_trip(layers)[0] == whole


def test_short_layers_have_no_contexts():
  # 9 tiles of at least 16 bytes each are more than these 288 codes take.
  codes = layers_lib.draw(np.random.default_rng(3), (3, 3, 1, 32))
  assert not _round_trip([codes])[1][0].has_contexts


@hypothesis.given(
  st.binary(max_size=40),
  st.lists(
    st.tuples(st.integers(90, 32679), st.integers(0, 9), st.integers(0, 2)),
    max_size=3,
  ),
)
def test_any_stream_decodes_or_is_refused(stream, layers):
  tables = [
    ternary_coder.Table(mode, (32768 - f, rest := f // 2, f - rest))
    for f, _, mode in layers
  ]
  shapes = [(1, 2, 2, size) for _, size, _ in layers]
  try:
    found = ternary_coder.decode(stream, tables, shapes)
  except ValueError:
    return
  assert [layer.shape for layer in found] == shapes
  # Each stream that is accepted is the one that the encoder writes.
  assert ternary_coder.encode(found, tables)[1] == stream
