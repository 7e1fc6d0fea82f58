"""The letters of all fonts as bitmaps, read from `letters.xz`.

That file is 61 kB: the bits of `load_bitmaps`, packed, in LZMA. Its source are
fonts that matplotlib ships, all of them free to use: DejaVu (Bitstream Vera's
licence), STIX (SIL Open Font License) and Computer Modern (from BaKoMa). It is
made anew by `python -m benchmarks.glyphs.draw_letters`.
"""

import functools
import lzma
import pathlib
import zlib

import numpy as np

PATH = pathlib.Path(__file__).with_name('letters.xz')

# Left out of the 62 letters and digits: capital I and O, which in many a font
# are the digits 1 and 0 once stretched, and the small letters. Some of those
# are capitals at another scale (c, k, o, p, s, u, v, w, x, z), some another
# class once sheared or turned (b and 6, g and 9, l and 1, q and 9, h and n).
CLASS_NAMES = tuple('0123456789ABCDEFGHJKLMNPQRSTUVWXYZ')
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
CHECKSUM = 1948118108


@functools.cache
def load_bitmaps() -> np.ndarray:
  """Reads all letters, uint8 `[font, class, SIDE, SIDE]`: 1 inside, 0 outside.

  Each is centred by its bounding box; the outermost pixels are 0.
  """
  shape = len(FONTS), len(CLASS_NAMES), SIDE, SIDE
  packed = np.frombuffer(lzma.decompress(PATH.read_bytes()), np.uint8)
  bitmaps = np.unpackbits(packed).reshape(shape)
  found = zlib.crc32(bitmaps.data)
  if found != CHECKSUM:
    raise ValueError(
      f'{PATH} has the CRC-32 {found}, wanted {CHECKSUM}: the images would be'
      ' different ones'
    )
  bitmaps.flags.writeable = False
  return bitmaps
