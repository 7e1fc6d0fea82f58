import logging

import matplotlib
import numpy as np
import pytest

from benchmarks.glyphs import outlines


def _square(x, y, side):
  """A square's corners, in pixels, clockwise on the screen."""
  corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
  return (np.array([x, y]) + side * corners) * 256


def test_fills_pixels_whose_centres_are_inside():
  # From (1, 1) to (3, 3), then moved by 0.4 of a pixel, then by 0.6.
  square = _square(1, 1, 2)
  expected = np.zeros([5, 5], np.uint8)
  expected[1:3, 1:3] = 1
  np.testing.assert_array_equal(outlines.fill([square], 5), expected)
  np.testing.assert_array_equal(outlines.fill([square + 102], 5), expected)
  moved = outlines.fill([square + 154], 5)
  np.testing.assert_array_equal(moved, np.roll(expected, (1, 1), (0, 1)))


def test_a_centre_on_an_edge_belongs_to_one_of_two_neighbours():
  left = outlines.fill([np.array([[0, 0], [640, 0], [640, 512], [0, 512]])], 4)
  right = outlines.fill(
    [np.array([[640, 0], [1024, 0], [1024, 512], [640, 512]])], 4
  )
  assert left[0].tolist() == [1, 1, 0, 0]
  assert right[0].tolist() == [0, 0, 1, 1]
  # The same with a slanted edge that runs through centres.
  triangles = [[[0, 0], [1024, 0], [0, 1024]], [[1024, 0], [1024, 1024]]]
  lower = outlines.fill([np.array([*triangles[1], [0, 1024]])], 4)
  upper = outlines.fill([np.array(triangles[0])], 4)
  assert (upper + lower == 1).all()


@pytest.mark.parametrize(
  ('inner', 'is_filled'),
  [
    (_square(2, 2, 2)[::-1], False),  # Against the outer one: a hole.
    (_square(2, 2, 2), True),  # Along with it: the windings add up.
  ],
)
def test_the_winding_number_decides(inner, is_filled):
  bitmap = outlines.fill([_square(0, 0, 6), inner], 6)
  assert bitmap[2:4, 2:4].tolist() == [[is_filled] * 2] * 2
  assert bitmap.sum() == (36 if is_filled else 32)


def test_where_contours_overlap_is_inside():
  bitmap = outlines.fill([_square(0, 0, 4), _square(2, 2, 4)], 6)
  assert bitmap.sum() == 16 + 16 - 4


def _windings(points, centre):
  """How often a polygon winds around a point, or nan if that is on an edge."""
  ray = (points - centre) @ [1, 1j]
  turns = np.roll(ray, -1) * ray.conj()
  lengths = np.abs(np.roll(ray, -1) - ray)
  if (np.abs(turns.imag) <= 2 * lengths).any():  # On an edge, or its line.
    return np.nan
  return np.rint(np.angle(turns).sum() / (2 * np.pi))


def test_agrees_with_the_sum_of_angles():
  rng = np.random.default_rng(0)
  side = 24
  windings = []
  for num_points in (3, 5, 9, 17):
    points = rng.integers(0, 256 * side + 1, (num_points, 2))
    bitmap = outlines.fill([points], side)
    for row, column in np.ndindex(side, side):
      centre = np.array([column, row]) * 256 + 128
      windings.append(_windings(points, centre))
      if not np.isnan(windings[-1]):
        assert bitmap[row, column] == (windings[-1] != 0)
  # The polygons have holes, and parts that are gone round more than once.
  assert {-1, 0, 1, 2} <= set(windings)
  assert np.isnan(windings).mean() < 0.1


@pytest.fixture(scope='module')
def bitmaps():
  return outlines.load_bitmaps('0HOW8')


def test_letters_are_centred_and_of_the_right_height(bitmaps):
  assert bitmaps.shape == (len(outlines.FONTS), 5, 128, 128)
  assert set(np.unique(bitmaps)) == {0, 1}
  for font in bitmaps:
    rows = np.flatnonzero(font[1].any(axis=1))
    assert rows[-1] - rows[0] + 1 in range(outlines.CAP_HEIGHT, 74)
    for bitmap in font:
      for axis in (0, 1):
        extent = np.flatnonzero(bitmap.any(axis=axis))
        assert abs(extent[0] + extent[-1] - 127) <= 1
        assert extent[0] > 0 and extent[-1] < 127


def _num_strokes(row):
  return np.count_nonzero(np.diff(row.astype(int)) == 1)


def test_letters_have_their_shapes(bitmaps):
  for font in bitmaps:
    # Two strokes wherever an O is cut through its middle, and of an H but at
    # the height of its bar.
    assert _num_strokes(font[2, 64]) == _num_strokes(font[2, :, 64]) == 2
    assert _num_strokes(font[1, 44]) == _num_strokes(font[1, 84]) == 2
    assert 1 in [_num_strokes(row) for row in font[1, 56:72]]
    # A W is wide, and it is not upside down: it is wider above.
    rows = np.flatnonzero(font[3].any(axis=1))
    widths = [np.ptp(np.flatnonzero(font[3, row])) for row in rows[[10, -10]]]
    assert widths[0] > widths[1]


def test_fonts_differ(bitmaps):
  assert len({font.tobytes() for font in bitmaps}) == len(outlines.FONTS)
  thin = outlines.FONTS.index('DejaVuSans')
  bold = outlines.FONTS.index('DejaVuSans-Bold')
  assert bitmaps[bold, 1].sum() > 1.4 * bitmaps[thin, 1].sum()


def test_bitmaps_are_those_of_the_first_release(bitmaps):
  assert outlines.checksum(bitmaps) == 2355107627
  assert outlines.checksum(bitmaps[::-1]) != outlines.checksum(bitmaps)


def test_bitmaps_are_read_once_and_cannot_be_changed(bitmaps):
  assert outlines.load_bitmaps('0HOW8') is bitmaps
  with pytest.raises(ValueError, match='read-only'):
    bitmaps[0] = 0


def test_says_which_character_a_font_lacks():
  with pytest.raises(
    ValueError, match="characters: got '一', which DejaVuSans "
  ):
    outlines.load_bitmaps('A一')


def test_says_which_font_file_is_missing(monkeypatch, tmp_path):
  monkeypatch.setattr(matplotlib, 'get_data_path', lambda: str(tmp_path))
  with pytest.raises(OSError, match=r'DejaVuSans\.ttf'):
    outlines.load_bitmaps('B')


def test_odd_dates_in_font_files_are_no_matter(caplog):
  with caplog.at_level(logging.WARNING):
    outlines.load_bitmaps('C')
  assert caplog.messages == []
  log = logging.getLogger('fontTools.ttLib.tables._h_e_a_d')
  assert log.filters == []
