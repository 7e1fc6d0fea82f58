"""The adaptive model: exact logarithms, tiles and frequencies.

That a reader agrees that was written from the specification alone is tested in
test_reference.py.
"""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from hq_jax.artifact import ternary_contexts

_shapes = st.lists(st.integers(1, 40), min_size=1, max_size=5).filter(
  lambda shape: np.prod(shape) < 200_000
)


@hypothesis.given(st.integers(1, 2**53))
def test_logarithm_is_exact(n):
  shift = max(0, n.bit_length() - 8)
  expected = 16 * shift + ((n >> shift) ** 16).bit_length() - 1
  assert ternary_contexts.log2_16(np.array([n])).tolist() == [expected]
  assert abs(expected - 16 * np.log2(n)) < 1.2


@hypothesis.settings(max_examples=50)
@hypothesis.given(_shapes)
def test_tiles_hold_every_code_once(shape):
  geometry = ternary_contexts.get_geometry(tuple(shape))
  seen = np.zeros(geometry, int)
  tiles = list(ternary_contexts.get_tiles(geometry))
  for tile in tiles:
    seen[tile.position] += 1
  assert np.all(seen == 1)
  taps = [tile.tap for tile in tiles]
  assert taps == sorted(taps)
  assert len(tiles) <= ternary_contexts.count_tiles(geometry)


def test_tiles_by_hand():
  # 128 * 64 = 8192 codes in 8 parts of 1024: rows by 4, columns by 2. Of the
  # third plane on, an eighth of what is before it is 2048 and more: 4 parts.
  geometry = ternary_contexts.get_geometry((1, 3, 128, 64))
  tiles = list(ternary_contexts.get_tiles(geometry))
  assert [tile.tap[2] for tile in tiles] == [0] * 8 + [1] * 8 + [2] * 4
  corners = [(tile.rows.start, tile.columns.start) for tile in tiles]
  assert corners[:5] == [(0, 0), (32, 0), (64, 0), (96, 0), (0, 32)]
  assert corners[16:] == [(0, 0), (64, 0), (0, 32), (64, 32)]


@pytest.mark.parametrize('nonzero', [0, 1, 500, 1 << 14, 32768])
@pytest.mark.parametrize('count', [0, 1, 2**31])
def test_frequencies_are_distributions(nonzero, count):
  model = ternary_contexts.start(ternary_contexts.get_geometry((2, 2)), nonzero)
  for beside, column in ((0, 0), (1, 1)):
    model.zero_counts[beside, :, column] += 16 * count
    model.sign_counts[beside, column] += 16 * count
  found = ternary_contexts.get_frequencies(model)
  assert found.shape == (240, 3)
  assert np.all(found.sum(1) == 1 << 24)
  assert found.min() >= 1
  # No symbol costs less than 1/256 bit.
  assert np.max(found) <= 2**24 * 2 ** (-1 / 256)
