"""Bound on the memory that an image file takes while it is read."""

from collections.abc import Callable, Iterator
import os

from PIL import Image
from PIL import ImageFile
from PIL import TiffImagePlugin

from hq_jax.core import files
from hq_jax.data.images import exif
from hq_jax.data.images import formats

# The file, what decodes it, and its pixels before they are cropped. What is
# counted has been measured, but for some ten MB: 1 GiB is kept to.
MAX_BYTES = 10**9

# Bytes of a pixel in memory by Pillow's mode, where they are not 4.
_BYTES = {'1': 1, 'L': 1, 'P': 1, 'I;16': 2, 'I;16L': 2, 'I;16B': 2, 'I;16N': 2}
_SHRINKS = 1, 2, 4, 8
_STRIP_PIXELS = 2**20

_Box = tuple[int, int, int, int]


def read_file(path: str | os.PathLike[str]) -> bytes:
  """Reads the bytes of an image file, unless it has more than `MAX_BYTES`."""
  with files.open_regular(path, MAX_BYTES) as file:
    return file.read()


def find_shrink(
  file: ImageFile.ImageFile, num_bytes: int, *, is_cropped: bool = True
) -> int:
  """By what the sides of an image are divided while it is decoded: mostly 1.

  A JPEG that would take more than `MAX_BYTES` in full is halved, or more; any
  other image is refused.

  Args:
    file: an image that was opened, and not decoded.
    num_bytes: of the file.
    is_cropped: whether a small part of it is needed, not all pixels upright.
  """
  is_jpeg = file.format in ('JPEG', 'MPO') and is_cropped
  for shrink in _SHRINKS if is_jpeg else (1,):
    needed = _count_bytes(file, num_bytes, shrink, is_cropped)
    if needed <= MAX_BYTES:
      return shrink
  width, height = file.size
  raise formats.UnreadableImage(
    f'image is {width} x {height} pixels ({file.format}, {file.mode}) that take'
    f' {needed:,} bytes of memory to read, wanted at most {MAX_BYTES:,}'
  )


def split(image: Image.Image) -> Iterator[tuple[_Box, Image.Image]]:
  """Cuts an image into strips of a few rows, each with its place."""
  width, height = image.size
  rows = max(1, _STRIP_PIXELS // width)
  if rows >= height:
    yield (0, 0, width, height), image
    return
  for top in range(0, height, rows):
    box = 0, top, width, min(top + rows, height)
    yield box, image.crop(box)


def convert_in_strips(
  image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]
) -> Image.Image:
  """Converts an image pixel by pixel, a few rows at a time."""
  result = Image.new(mode, image.size)
  for box, strip in split(image):
    result.paste(convert(strip), box)
  return result


def _count_bytes(
  file: ImageFile.ImageFile, num_bytes: int, shrink: int, is_cropped: bool
) -> int:
  num_pixels = file.width * file.height // shrink**2
  stored = _BYTES.get(file.mode, 4) * num_pixels
  is_plain = file.mode in ('L', 'RGB') and not file.has_transparency_data
  copied = 0 if is_plain else 4 * num_pixels
  pixels = stored + max(_count_decoder_bytes(file, num_bytes, stored), copied)
  if not is_cropped:  # All of them, plain, and once more, turned.
    pixels = max(pixels, 8 * num_pixels)
  return num_bytes + pixels


def _count_decoder_bytes(
  file: ImageFile.ImageFile, num_bytes: int, stored: int
) -> int:
  """What decoding takes besides the file and the image."""
  num_pixels = file.width * file.height
  match file.format:
    case 'JPEG' | 'MPO':
      # All coefficients, if it is progressive: they are not shrunk.
      blocks = [(h, v) for _, h, v, *_ in file.layer]  # type: ignore[attr-defined]
      largest = max(h for h, _ in blocks) * max(v for _, v in blocks)
      return 2 * num_pixels * sum(h * v for h, v in blocks) // largest
    case 'WEBP':  # Two canvases, and the bytes of one.
      return 12 * num_pixels + num_bytes
    case 'AVIF' | 'HEIF':  # Planes, then pixels, of 8 or 16 bits.
      is_deep = file.info.get('bit_depth', 16) > 8
      return (17 if is_deep else 6) * num_pixels + num_bytes
    case 'JPEG2000':  # Planes of 32 bits, then pixels of up to 16.
      return 6 * len(file.getbands()) * num_pixels
    case 'TIFF':
      return _count_tiff_bytes(file, num_bytes, stored)
    case 'SGI':
      return 2 * stored
  # Decoders that are written in Python gather all pixels twice.
  return 2 * stored * any(tile[0] in Image.DECODERS for tile in file.tile)


def _count_tiff_bytes(
  file: ImageFile.ImageFile, num_bytes: int, stored: int
) -> int:
  """A strip or tile of it, compressed and not, and a copy that is turned."""
  assert isinstance(file, TiffImagePlugin.TiffImageFile)
  turned = 0 if exif.read_orientation(file) == 1 else stored
  if all(tile[0] != 'libtiff' for tile in file.tile):  # It has no strips.
    return turned
  tags = file.tag_v2
  rows = min(tags.get(TiffImagePlugin.ROWSPERSTRIP, file.height), file.height)
  width = tags.get(TiffImagePlugin.TILEWIDTH, file.width)
  height = tags.get(TiffImagePlugin.TILELENGTH, rows)
  bits = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
  samples = tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
  # A JPEG in it is decoded to 4 bytes a pixel.
  piece = width * height * max(4, samples * bits // 8)
  counts = [
    *tags.get(TiffImagePlugin.STRIPBYTECOUNTS, ()),
    *tags.get(TiffImagePlugin.TILEBYTECOUNTS, ()),
  ]
  return piece + min(max(counts, default=0), num_bytes) + turned
