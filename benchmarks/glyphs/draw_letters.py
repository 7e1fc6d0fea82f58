"""The program that draws `letters.xz` from the fonts of matplotlib.

  python -m benchmarks.glyphs.draw_letters

Only this needs fonttools, with which matplotlib comes. FreeType renders a
little differently from release to release. Here outlines are read in the
integer units of the font file and filled in exact arithmetic, so that the
bitmaps are the same to the bit wherever the font files are.
"""

from collections.abc import Sequence
import logging
import lzma
import pathlib
from typing import Any

from fontTools import ttLib
from fontTools.pens import basePen
import matplotlib
import numpy as np

from benchmarks.glyphs import letters

# Straight pieces that a Bezier curve becomes. A power of two: the ends of the
# pieces are then exact in float64.
_NUM_PIECES = 8
# Vertices lie on a grid of this many steps per pixel.
_GRID = 256


def draw_font(name: str) -> np.ndarray:
  """Draws the letters of a font, whose capital H is `CAP_HEIGHT` pixels high.

  Args:
    name: one of `letters.FONTS`.

  Returns:
    uint8, `[num_classes, SIDE, SIDE]`.
  """
  path = pathlib.Path(matplotlib.get_data_path(), 'fonts', 'ttf', f'{name}.ttf')
  with ttLib.TTFont(path, lazy=True) as font:
    find, glyphs = font.getBestCmap().__getitem__, font['glyf']
    scale = letters.CAP_HEIGHT * _GRID / glyphs[find(ord('H'))].yMax
    return np.stack(
      [_draw(glyphs, find(ord(x)), scale) for x in letters.CLASS_NAMES]
    )


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
    self.contours: list[list[tuple[float, float]]] = []

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


def _draw(glyphs: Any, glyph: str, scale: float) -> np.ndarray:
  """Returns the bitmap of one glyph, centred, uint8 `[SIDE, SIDE]`."""
  pen = _Flattener()
  glyphs[glyph].draw(pen, glyphs)
  contours = [np.array(contour, np.float64) for contour in pen.contours]
  points = np.concatenate(contours)
  centre = (points.min(axis=0) + points.max(axis=0)) / 2
  # Font files have y upwards, bitmaps downwards.
  scales, middle = np.array([scale, -scale]), letters.SIDE * _GRID // 2
  return fill(
    [
      np.rint((contour - centre) * scales).astype(np.int64) + middle
      for contour in contours
    ],
    letters.SIDE,
  )


def main() -> None:
  """Writes the file."""
  # The dates in some of the files are odd.
  logging.getLogger('fontTools').setLevel(logging.ERROR)
  packed = np.packbits(np.stack([draw_font(name) for name in letters.FONTS]))
  preset = 9 | lzma.PRESET_EXTREME
  letters.PATH.write_bytes(lzma.compress(packed.tobytes(), preset=preset))


if __name__ == '__main__':
  main()
