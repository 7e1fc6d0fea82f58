"""Images of more than 8 bits for each pixel, as 8."""

import struct
from typing import Any

import numpy as np
from PIL import Image
from PIL import ImageFile
from PIL import TiffImagePlugin

from hq_jax.data.images import formats
from hq_jax.data.images import memory

# Depths of sensors, in bits; 16 is also that of what files hold them in.
_DEPTHS = 8, 10, 12, 14, 16
_MAX_SAMPLE_VALUE = 281  # A tag of TIFF.


def read_declared(file: ImageFile.ImageFile, data: bytes) -> int | None:
  """Reads how many bits of a grey image's pixels are used; None if unsaid."""
  if not file.mode.startswith('I'):
    return None
  match file.format:
    case 'PPM' | 'JPEG2000':  # Pillow has spread them over 16.
      return 16
    case 'PNG':
      return _find_significant_bits(data)
    case 'TIFF':
      assert isinstance(file, TiffImagePlugin.TiffImageFile)
      if largest := file.tag_v2.get(_MAX_SAMPLE_VALUE):
        return int(max(np.atleast_1d(largest))).bit_length()
      bits = max(file.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
      return bits if bits < 16 else None
  return None


def _find_significant_bits(data: bytes) -> int | None:
  """What the chunk sBIT of a PNG says."""
  place = 8
  while place + 9 <= len(data):
    size, kind = struct.unpack_from('>I4s', data, place)
    if kind == b'sBIT':
      return data[place + 8]
    if kind == b'IDAT':
      break
    place += 12 + size
  return None


def to_8_bits(image: Image.Image, declared: int | None) -> Image.Image:
  """Takes the upper 8 bits of the depth of a grey image; transparent is white.

  That is the depth that is declared, if the pixels fit. Otherwise it is the
  least of 8, 10, 12, 14 and 16 bits (or more) that holds them all.
  """
  if image.mode not in ('I', 'I;16'):
    image = image.convert('I')
  extrema: Any = image.getextrema()
  low, high = extrema
  if low < 0:
    raise formats.UnreadableImage(
      f'image has a pixel of {low}, wanted none below 0'
    )
  bits = high.bit_length()
  if declared is not None and bits <= declared:
    depth = max(declared, 8)
  else:
    depth = next((x for x in _DEPTHS if bits <= x), bits)
  tags = getattr(image, 'tag_v2', {})
  # Pillow inverts such images of 8 bits by itself.
  is_inverted = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
  transparent = image.info.get('transparency')

  def convert(strip: Image.Image) -> Image.Image:
    pixels = np.asarray(strip)
    levels = (pixels >> (depth - 8)).astype(np.uint8)
    if is_inverted:
      levels = 255 - levels
    if transparent is not None:
      levels[pixels == transparent] = 255
    return Image.fromarray(levels)

  return memory.convert_in_strips(image, 'L', convert)
