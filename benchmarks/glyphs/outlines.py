"""Letters as bitmaps, filled from the outlines in matplotlib's font files.

FreeType renders a little differently from release to release. Here outlines
are read in the integer units of the font file and filled in exact arithmetic,
so that the bitmaps are the same to the bit wherever the font files are.
"""

from collections.abc import Iterator, Sequence
import contextlib
import functools
import logging
import pathlib
from typing import Any
import zlib

from fontTools import ttLib
from fontTools.pens import basePen
import numpy as np

# The text fonts that every matplotlib since 3.6 has exported, with the same
# bytes. Left out: fonts of symbols (cmex10, cmsy10, DejaVu*Display, STIXNonUni,
# STIXSiz, LastResort), cmmi10, whose digits are old style (0 looks like o), and
# cmti10, which only the newest releases have.
FONTS = (
  'DejaVuSans',
  'DejaVuSans-Bold',
  'DejaVuSans-Oblique',
  'DejaVuSans-BoldOblique',
  'DejaVuSansMono',
  'DejaVuSansMono-Bold',
  'DejaVuSansMono-Oblique',
  'DejaVuSansMono-BoldOblique',
  'DejaVuSerif',
  'DejaVuSerif-Bold',
  'DejaVuSerif-Italic',
  'DejaVuSerif-BoldItalic',
  'STIXGeneral',
  'STIXGeneralBol',
  'STIXGeneralItalic',
  'STIXGeneralBolIta',
  'cmb10',
  'cmr10',
  'cmss10',
  'cmtt10',
)
# Pixels of a bitmap's side, and of the height of a capital H within it: the
# widest letter of the fonts, 1.59 times as wide as an H is high, fits in.
SIDE = 128
CAP_HEIGHT = 72
# Straight pieces that a Bezier curve becomes. A power of two: the ends of the
# pieces are then exact in float64.
_NUM_PIECES = 8
# Vertices lie on a grid of this many steps per pixel.
_GRID = 256

Contour = list[tuple[float, float]]


@functools.cache
def load_bitmaps(characters: str) -> np.ndarray:
  """Draws characters in every one of `FONTS`.

  Each is centred by its bounding box; a font is scaled so that its capital H
  is `CAP_HEIGHT` pixels high. Read once in a process.

  Args:
    characters: those wanted, ASCII letters and digits.

  Returns:
    uint8, `[num_fonts, num_characters, SIDE, SIDE]`, read-only: 1 inside, 0
    outside, and the outermost pixels 0.

  Raises:
    ValueError: where a font lacks a character.
    OSError: where a font file cannot be read.

  >>> bitmaps = load_bitmaps('HI')
  >>> bitmaps.shape
  (20, 2, 128, 128)
  >>> int(bitmaps[0, 0].any(axis=1).sum())
  72
  """
  bitmaps = np.stack([_draw_font(name, characters) for name in FONTS])
  bitmaps.flags.writeable = False
  return bitmaps


def checksum(bitmaps: np.ndarray) -> int:
  """Returns the CRC-32 of the bytes of `bitmaps`.

  >>> checksum(np.zeros([1, 1], np.uint8)) == zlib.crc32(b'\\0')
  True
  """
  return zlib.crc32(np.ascontiguousarray(bitmaps).data)


def fill(contours: Sequence[np.ndarray], side: int) -> np.ndarray:
  """Fills closed polygons by the nonzero winding rule.

  A pixel is inside if its centre is: if the contours wind around the centre a
  number of times, counted with sign, that is not zero. A centre that lies on
  an edge belongs to the pixel's right, and likewise to what is below it.

  Args:
    contours: integers, `[n, 2]` each: the x and y of the vertices, in 1/256 of
      a pixel, from the left upper corner, with 0 <= x, y <= 256 * side.
    side: height and width of the bitmap, in pixels.

  Returns:
    uint8, `[side, side]`: 1 inside, 0 outside.

  >>> fill([np.array([[0, 0], [512, 0], [512, 256], [0, 256]])], 3).tolist()
  [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
  """
  start = np.concatenate(contours).astype(np.int64)
  end = np.concatenate([np.roll(points, -1, axis=0) for points in contours])
  centres = np.arange(side) * _GRID + _GRID // 2
  y, y_end = start[:, 1, None], end[:, 1, None].astype(np.int64)
  edges, rows = np.nonzero((y <= centres) != (y_end <= centres))
  (x, y), (x_end, y_end) = start[edges].T, end[edges].T.astype(np.int64)
  crossings = x + (centres[rows] - y) * (x_end - x) // (y_end - y)
  # The first pixel whose centre is not to the left of the crossing.
  columns = -((_GRID // 2 - crossings) // _GRID)
  turns = np.zeros((side, side + 1), np.int64)
  np.add.at(turns, (rows, columns), np.sign(y_end - y))
  return (np.cumsum(turns, axis=1)[:, :side] != 0).astype(np.uint8)


class _Flattener(basePen.BasePen):
  """A pen that collects contours, with short lines in place of curves."""

  def __init__(self) -> None:
    super().__init__()
    self.contours: list[Contour] = []

  def _moveTo(self, pt: tuple[float, float]) -> None:
    self.contours.append([pt])

  def _lineTo(self, pt: tuple[float, float]) -> None:
    self.contours[-1].append(pt)

  def _qCurveToOne(
    self, pt1: tuple[float, float], pt2: tuple[float, float]
  ) -> None:
    x, y = self.contours[-1][-1]
    for i in range(1, _NUM_PIECES + 1):
      t = i / _NUM_PIECES
      a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t**2
      self.contours[-1].append(
        (a * x + b * pt1[0] + c * pt2[0], a * y + b * pt1[1] + c * pt2[1])
      )


def _draw_font(name: str, characters: str) -> np.ndarray:
  """Returns the bitmaps of one font, uint8 `[num_characters, SIDE, SIDE]`."""
  # Imported here: reading prepared sets need not wait for matplotlib.
  import matplotlib

  folder = pathlib.Path(matplotlib.get_data_path(), 'fonts', 'ttf')
  with (
    _without_warnings(),
    ttLib.TTFont(folder / f'{name}.ttf', lazy=True) as font,
  ):
    cap_height = font['glyf'][_find(font, name, 'H')].yMax
    return np.stack(
      [
        _draw(font['glyf'], _find(font, name, character), cap_height)
        for character in characters
      ]
    )


def _find(font: Any, name: str, character: str) -> str:
  glyph = font.getBestCmap().get(ord(character))
  if glyph is None:
    raise ValueError(f'characters: got {character!r}, which {name} lacks')
  return glyph


def _draw(glyphs: Any, glyph: str, cap_height: int) -> np.ndarray:
  """Returns the bitmap of one glyph, centred, uint8 `[SIDE, SIDE]`."""
  pen = _Flattener()
  glyphs[glyph].draw(pen, glyphs)
  contours = [np.array(contour, np.float64) for contour in pen.contours]
  points = np.concatenate(contours)
  centre = (points.min(axis=0) + points.max(axis=0)) / 2
  # Font files have y upwards, bitmaps downwards.
  scale = np.array([1, -1]) * (CAP_HEIGHT * _GRID / cap_height)
  middle = SIDE * _GRID // 2
  return fill(
    [
      np.rint((contour - centre) * scale).astype(np.int64) + middle
      for contour in contours
    ],
    SIDE,
  )


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
  """Keeps fontTools from warning of the odd dates in some font files."""
  log = logging.getLogger('fontTools.ttLib.tables._h_e_a_d')

  def refuse(record: logging.LogRecord) -> bool:
    return record.levelno > logging.WARNING

  log.addFilter(refuse)
  try:
    yield
  finally:
    log.removeFilter(refuse)
