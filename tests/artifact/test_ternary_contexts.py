"""The adaptive model: geometry, counts and prices, by hand and by invariants.

That a reader agrees that was written from the specification alone is tested in
test_reference.py.
"""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from hq_jax.artifact import ternary_contexts

HALF = 1 << 14

_shapes = st.lists(st.integers(1, 40), min_size=1, max_size=5).filter(
  lambda shape: np.prod(shape) < 200_000
)


@hypothesis.given(st.integers(1, 2**53))
def test_logarithm_is_exact(n):
  shift = max(0, n.bit_length() - 8)
  expected = 16 * shift + ((n >> shift) ** 16).bit_length() - 1
  assert ternary_contexts.log2_16(np.array([n])).tolist() == [expected]
  assert abs(expected - 16 * np.log2(n)) < 1.2


def test_geometry_of_every_number_of_axes():
  find = ternary_contexts.get_geometry
  assert find((7,)) == (1, 1, 1, 1, 7)
  assert find((5, 7)) == (1, 1, 1, 5, 7)
  assert find((3, 5, 7)) == (1, 1, 3, 5, 7)
  assert find((2, 3, 5, 7)) == (1, 2, 3, 5, 7)
  assert find((4, 6, 2, 3, 5, 7)) == (24, 2, 3, 5, 7)


@hypothesis.settings(max_examples=50)
@hypothesis.given(_shapes)
def test_tiles_hold_every_code_once(shape):
  geometry = ternary_contexts.get_geometry(tuple(shape))
  seen = np.zeros(geometry, int)
  order, previous = -1, None
  for number, tile in enumerate(ternary_contexts.get_tiles(geometry)):
    seen[(*tile.tap, tile.rows, tile.columns)] += 1
    plane = np.ravel_multi_index(tile.tap, geometry[:3])
    assert plane >= order
    order, previous = plane, number
  assert np.all(seen == 1)
  assert previous < ternary_contexts.count_tiles(geometry)


def test_tiles_by_hand():
  # 128 * 64 = 8192 codes in 8 parts of 1024: rows by 4, columns by 2. Of the
  # third plane on, an eighth of what came before is 2048 and more: 4 parts.
  tiles = list(
    ternary_contexts.get_tiles(ternary_contexts.get_geometry((1, 3, 128, 64)))
  )
  assert [tile.tap[2] for tile in tiles] == [0] * 8 + [1] * 8 + [2] * 4
  corners = [(tile.rows.start, tile.columns.start) for tile in tiles]
  assert corners[:5] == [(0, 0), (32, 0), (64, 0), (96, 0), (0, 32)]
  assert corners[16:] == [(0, 0), (64, 0), (0, 32), (64, 32)]


def test_prior_by_hand():
  # Half of the codes are not zero: odds 1; in class 12 they are 4 to 1, in
  # class 4 they are 1 to 4. 128 * 4 / 5 = 102.4, 128 / 5 = 25.6.
  model = ternary_contexts.start(ternary_contexts.get_geometry((2, 2)), HALF)
  assert model.zero_counts.shape == (3, 16, 2)
  for beside in range(3):
    assert model.zero_counts[beside, 12].tolist() == [27, 103]
    assert model.zero_counts[beside, 4].tolist() == [104, 26]
  assert model.sign_counts.tolist() == [[8, 8]] * 5


def test_density_classes_by_hand():
  geometry = ternary_contexts.get_geometry((2, 3))
  model = ternary_contexts.start(geometry, HALF)
  # The layer: 9 of 18 not zero, odds 1. Row 0: (8 * 18 + 16 * 9) to (0 + 16 *
  # 9), odds 2, 16 sixteenths. Row 1: (0 + 144) to (144 + 144), -16. Columns:
  # none has more than the layer.
  model.total[:] = 9, 18
  model.row_counts[:] = [[8, 0], [8, 8]]
  tile = next(ternary_contexts.get_tiles(geometry))
  found, signs = ternary_contexts.get_contexts(
    model, np.zeros(geometry, np.int8), tile
  )
  assert signs is None
  assert (found // 5).tolist() == [[10] * 3, [6] * 3]


def test_neighbours_by_hand():
  geometry = ternary_contexts.get_geometry((2, 2, 1, 3))
  codes = np.zeros(geometry, np.int8)
  codes[0, 0, 0, 0] = [1, 1, -1]  # aboveleft of the last tap
  codes[0, 0, 1, 0] = [1, 0, -1]  # above it
  codes[0, 1, 0, 0] = [1, 0, -1]  # left of it
  model = ternary_contexts.start(geometry, HALF)
  tiles = list(ternary_contexts.get_tiles(geometry))
  assert [tile.tap for tile in tiles] == [
    (0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)
  ]  # fmt: skip
  found, signs = ternary_contexts.get_contexts(model, codes, tiles[3])
  assert signs.tolist() == [[5, 1, -5]]
  # 2, 0 and 2 beside; class 8; agreements of 4, 1 and 4.
  assert found.tolist() == [[(32 + 8) * 5 + 4, 8 * 5 + 1, (32 + 8) * 5 + 4]]
  # The tap at (1, 0): above is (0, 0), aboveright is (0, 1).
  found, signs = ternary_contexts.get_contexts(model, codes, tiles[2])
  assert signs.tolist() == [[3, 2, -3]]
  assert (found // 80).tolist() == [[1, 1, 1]]
  # The first has none, and its signs are all +.
  found, signs = ternary_contexts.get_contexts(model, codes, tiles[0])
  assert found.tolist() == [[40] * 3] and signs.tolist() == [[0] * 3]


def test_update_by_hand():
  geometry = ternary_contexts.get_geometry((2, 2))
  model = ternary_contexts.start(geometry, HALF)
  tile = next(ternary_contexts.get_tiles(geometry))
  where = np.array([[40, 40], [83 * 2 + 0, 42]], np.uint8)
  before = model.zero_counts.copy(), model.sign_counts.copy()
  counts = ternary_contexts.update(
    model, tile, where, np.array([[0, 1], [2, 1]])
  )
  assert counts.sum() == 4 and counts[40].tolist() == [1, 1, 0]
  assert model.total.tolist() == [4, 6]
  assert model.row_counts.tolist() == [[1, 2], [2, 2]]
  assert model.column_counts.tolist() == [[1, 2], [2, 2]]
  added = model.zero_counts - before[0]
  # 166 = (2 * 16 + 1) * 5 + 1: two beside, class 1, agreement 1.
  assert added[0, 8].tolist() == [16, 32] and added[2, 1].tolist() == [0, 16]
  assert added.sum() == 4 * 16
  assert (model.sign_counts - before[1]).tolist() == [
    [16, 0], [0, 16], [16, 0], [0, 0], [0, 0]
  ]  # fmt: skip


@pytest.mark.parametrize('nonzero', [0, 1, 500, HALF, 32768])
@pytest.mark.parametrize('count', [0, 1, 2**31])
def test_weights_are_distributions(nonzero, count):
  model = ternary_contexts.start(ternary_contexts.get_geometry((2, 2)), nonzero)
  for beside, column in ((0, 0), (1, 1)):
    model.zero_counts[beside, :, column] += 16 * count
    model.sign_counts[beside, column] += 16 * count
  weights = ternary_contexts.get_weights(model)
  assert weights.shape == (240, 3)
  assert np.all(weights.sum(1) == 1 << 24)
  assert weights.min() >= 1
  # No symbol costs less than 1/256 bit.
  assert np.max(weights) <= 2**24 * 2 ** (-1 / 256)


def test_weights_by_hand():
  model = ternary_contexts.start(ternary_contexts.get_geometry((2, 2)), HALF)
  model.zero_counts[1, 3] = 30, 10
  model.sign_counts[2] = 3, 1
  # p = 2^15 / 4, q = 2^9 * 3 / 4.
  found = ternary_contexts.get_weights(model)[(16 + 3) * 5 + 2].tolist()
  assert found == [3 * 2**22, 3 * 2**20, 2**20]
