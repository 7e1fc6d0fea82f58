"""How an image was held: cameras and phones leave it to the reader to turn it.

EXIF numbers the orientations 1..8; 1 is upright as it is stored.
"""

import struct

from PIL import Image

_TAG = 0x0112
# What turns an image of each upright.
_UPRIGHT = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
# From upright to stored, those mirror the columns, mirror the rows, and then
# swap the two.
_MIRROR_X = 2, 3, 6, 7
_MIRROR_Y = 3, 4, 7, 8
_SWAP = 5, 6, 7, 8

Box = tuple[float, float, float, float]


def read_orientation(exif: bytes) -> int:
  r"""Finds the orientation in EXIF.

  Pillow's own reader warns of EXIF that is broken in any other entry.
  """
  exif = exif.removeprefix(b'Exif\0\0')
  order = {b'II*\0': '<', b'MM\0*': '>'}.get(exif[:4])
  if order is None:
    return 1
  try:
    (offset,) = struct.unpack_from(f'{order}I', exif, 4)
    (count,) = struct.unpack_from(f'{order}H', exif, offset)
    for i in range(count):
      # A tag, a type (3: 16 bits), how many, and the value itself.
      entry = struct.unpack_from(f'{order}HHIH', exif, offset + 2 + 12 * i)
      if entry[:2] == (_TAG, 3):
        return entry[3] if entry[3] in _UPRIGHT else 1
  except struct.error:
    pass  # It ends too early.
  return 1


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
  """Turns an image, or a part of it, upright."""
  turn = _UPRIGHT.get(orientation)
  return image if turn is None else image.transpose(turn)


def turn_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
  """Returns the size of the upright image."""
  width, height = size
  return (height, width) if orientation in _SWAP else (width, height)


def find_stored_box(
  box: Box, stored_size: tuple[int, int], orientation: int
) -> Box:
  """Finds a part of the upright image in the image as it is stored."""
  left, top, right, bottom = box
  width, height = turn_size(stored_size, orientation)
  if orientation in _MIRROR_X:
    left, right = width - right, width - left
  if orientation in _MIRROR_Y:
    top, bottom = height - bottom, height - top
  if orientation in _SWAP:
    left, top, right, bottom = top, left, bottom, right
  return left, top, right, bottom
