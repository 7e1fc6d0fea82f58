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

  Args:
    exif: as it is in the file, which may be in any way.

  Returns:
    1..8, and 1 where there is none that counts.

  >>> start = b'Exif\0\0' + b'MM\0*' + bytes([0, 0, 0, 8])
  >>> read_orientation(start + bytes([0, 1, 1, 0x12, 0, 3, 0, 0, 0, 1, 0, 6]))
  6
  >>> read_orientation(b'')
  1
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
  """Turns an image, or a part of it, upright.

  Args:
    image: as it is stored.
    orientation: 1..8.

  Returns:
    The image as it was seen.

  >>> turn_upright(Image.new('L', (4, 2)), 6).size
  (2, 4)
  """
  turn = _UPRIGHT.get(orientation)
  return image if turn is None else image.transpose(turn)


def turn_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
  """Returns the size of the upright image.

  Args:
    size: width and height as they are stored.
    orientation: 1..8.

  Returns:
    Width and height.

  >>> turn_size((4, 2), 6)
  (2, 4)
  """
  width, height = size
  return (height, width) if orientation in _SWAP else (width, height)


def find_stored_box(
  box: Box, stored_size: tuple[int, int], orientation: int
) -> Box:
  """Finds a part of the upright image in the image as it is stored.

  Args:
    box: left, top, right and bottom, in pixels of the upright image.
    stored_size: width and height as they are stored.
    orientation: 1..8.

  Returns:
    Left, top, right and bottom, in pixels of the stored image.

  >>> find_stored_box((0, 0, 1, 2), (4, 2), 3)
  (3, 0, 4, 2)
  """
  left, top, right, bottom = box
  width, height = turn_size(stored_size, orientation)
  if orientation in _MIRROR_X:
    left, right = width - right, width - left
  if orientation in _MIRROR_Y:
    top, bottom = height - bottom, height - top
  if orientation in _SWAP:
    left, top, right, bottom = top, left, bottom, right
  return left, top, right, bottom
