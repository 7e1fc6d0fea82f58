"""Classes of density: which they are, and bands that hold every code once.

That a reader agrees that was written from the specification alone is tested in
test_reference.py.
"""

import hypothesis
from hypothesis import strategies as st
import numpy as np

from hq_jax.artifact import ternary_classes
from hq_jax.artifact import ternary_contexts


def test_classes_by_hand():
  # 5,184 of 40,960 codes: odds of 1 : 6.9. Rows with 64 or 256 of 1,024 have
  # odds of 1 : 15 and 1 : 3, which is 2.2 halves of a factor of two less, and
  # 2.4 more; columns are alike.
  codes = np.zeros((40, 1024), np.int8)
  for row in range(40):
    number = {0: 64, 1: 256}.get(row, 128)
    codes[row, (np.arange(number) * (1024 // number) + 5 * row) % 1024] = 1
  classes = ternary_classes.find_classes(codes)
  assert classes[:4].tolist() == [6, 10, 8, 8]
  assert classes.shape == (40 + 1024,)


@hypothesis.settings(max_examples=50)
@hypothesis.given(
  st.lists(st.integers(1, 60), min_size=1, max_size=5).filter(
    lambda shape: np.prod(shape) < 200_000
  ),
  st.integers(1, 16),
)
def test_bands_hold_every_code_once(shape, number):
  geometry = ternary_contexts.get_geometry(tuple(shape))
  rng = np.random.default_rng(number)
  num_classes = geometry.rows + geometry.columns
  classes = rng.integers(0, number, num_classes).astype(np.uint8)
  arrangement = ternary_classes.arrange(geometry, classes)
  assert np.all(np.diff(arrangement.row_classes.astype(int)) >= 0)
  seen = np.zeros(geometry, int)
  bands = list(ternary_classes.get_bands(arrangement))
  for band in bands:
    seen[band.position] += 1
  assert np.all(seen == 1)
  taps = [band.tap for band in bands]
  assert taps == sorted(taps)
  assert len(bands) <= ternary_classes.count_bands(geometry)


def test_bands_by_hand():
  # 512 codes are 8 rows of 64. In the first plane a band ends with a class;
  # the second has eighths of the 32 rows, which are too few; so have others.
  classes = np.array([7] * 3 + [8] * 20 + [9] * 9 + [8] * 64, np.uint8)
  geometry = ternary_contexts.get_geometry((1, 4, 32, 64))
  arrangement = ternary_classes.arrange(geometry, classes)
  bands = list(ternary_classes.get_bands(arrangement))
  tops = [(band.tap[2], band.rows.start) for band in bands]
  assert tops[:2] == [(0, 0), (0, 23)]
  assert tops[2:6] == [(1, 0), (1, 8), (1, 16), (1, 24)]
  assert tops[6:10] == [(2, 0), (2, 8), (2, 16), (2, 24)]
  assert tops[10:] == [(3, 0), (3, 12), (3, 24)]
