"""Orientation of images: cameras leave it to the reader to turn them.

EXIF numbers the orientations 1..8; 1 is upright as it is stored.
"""

from PIL import ExifTags
from PIL import Image

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


def read_orientation(image: Image.Image) -> int:
  """Finds the orientation in EXIF or XMP; 1 where neither says it."""
  try:
    found = image.getexif().get(ExifTags.Base.Orientation)
    if isinstance(found, bytes):
      found = int.from_bytes(found)
    return found if found in _UPRIGHT else 1
  except Exception:  # What is broken makes Pillow raise nearly anything.
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
