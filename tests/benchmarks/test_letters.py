"""The bitmaps of letters, and the program that draws them from fonts."""

import lzma
import zlib

import numpy as np
import pytest

from benchmarks.glyphs import letters


def test_letters_are_centred_and_of_the_right_height():
  bitmaps = letters.load_bitmaps()
  assert bitmaps.shape == (len(letters.FONTS), 34, 128, 128)
  assert set(np.unique(bitmaps)) == {0, 1}
  for bitmap in bitmaps.reshape(-1, 128, 128):
    for axis in (0, 1):
      extent = np.flatnonzero(bitmap.any(axis=axis))
      assert abs(extent[0] + extent[-1] - 127) <= 1
      assert extent[0] > 0 and extent[-1] < 127
  rows = bitmaps[:, letters.CLASS_NAMES.index('H')].any(axis=2).sum(axis=1)
  assert set(rows) <= {letters.CAP_HEIGHT, letters.CAP_HEIGHT + 1}


def _num_strokes(row):
  return np.count_nonzero(np.diff(row.astype(int)) == 1)


def test_letters_have_their_shapes():
  bitmaps = letters.load_bitmaps()
  of = lambda letter: bitmaps[:, letters.CLASS_NAMES.index(letter)]
  for h, q, w in zip(of('H'), of('Q'), of('W'), strict=True):
    # Two strokes of a Q that is cut through its middle, and of an H but at the
    # height of its bar.
    assert _num_strokes(q[60]) == 2
    assert _num_strokes(h[44]) == _num_strokes(h[84]) == 2
    assert 1 in [_num_strokes(row) for row in h[56:72]]
    # A W is wide, and it is not upside down: it is wider above.
    rows = np.flatnonzero(w.any(axis=1))
    widths = [np.ptp(np.flatnonzero(w[row])) for row in rows[[10, -10]]]
    assert widths[0] > widths[1]
  assert len({font.tobytes() for font in bitmaps}) == len(letters.FONTS)
  weights = of('H').sum(axis=(1, 2))
  assert weights[letters.FONTS.index('DejaVuSans-Bold')] > 1.4 * weights[0]


def test_bitmaps_are_those_of_the_first_release_and_cannot_be_changed():
  bitmaps = letters.load_bitmaps()
  assert zlib.crc32(bitmaps.data) == 1948118108
  with pytest.raises(ValueError, match='read-only'):
    bitmaps[0] = 0


def test_another_file_is_refused(monkeypatch, tmp_path):
  path = tmp_path / 'letters.xz'
  other = bytearray(lzma.decompress(letters.PATH.read_bytes()))
  other[5] ^= 1
  path.write_bytes(lzma.compress(other))
  monkeypatch.setattr(letters, 'PATH', path)
  with pytest.raises(ValueError, match=r'letters\.xz has .* wanted 1948118108'):
    letters.load_bitmaps.__wrapped__()


@pytest.mark.parametrize('index', [2, 13])
def test_they_are_drawn_from_the_fonts(index):
  pytest.importorskip('fontTools')
  from benchmarks.glyphs import draw_letters

  drawn = draw_letters.draw_font(letters.FONTS[index])
  np.testing.assert_array_equal(drawn, letters.load_bitmaps()[index])
