"""Decoding of image files to pixels, upright and opaque.

Pure functions, made to be called from threads: Pillow lets go of the
interpreter while it decodes and resizes.
"""

from collections.abc import Iterator
import contextlib
import io

import numpy as np
from PIL import Image
from PIL import ImageFile
from PIL import UnidentifiedImageError

from hq_jax.data.images import exif

_FORMATS = ('JPEG', 'PNG', 'GIF', 'BMP', 'WEBP')


class UnreadableImage(ValueError):
  """The bytes are no image that can be read; one line says why."""


def decode(data: bytes | Image.Image, channels: int = 3) -> np.ndarray:
  """Decodes a JPEG, PNG, GIF (the first frame), BMP or WebP file.

  Or takes an image that Pillow has opened.

  The image is turned upright as EXIF says, as cameras and phones leave it to
  the reader. What is transparent is laid over white, the page for which such
  images are drawn: below full transparency the file's colours mean nothing.
  16 bits become the upper 8.
  """
  file = open_image(data)
  image = _load(file, channels)
  image = exif.turn_upright(image, exif.read_orientation(file))
  return to_array(image, channels)


def read_header(data: bytes) -> ImageFile.ImageFile:
  """Opens a file; of the pixels it reads only those of a PNG.

  Pillow refuses images of more than 178 million pixels, and warns of half as
  many.
  """
  with _reading():
    try:
      file = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
      raise UnreadableImage(
        f'image is {len(data)} bytes that begin with {bytes(data[:16])!r},'
        ' wanted a whole JPEG, PNG, GIF, BMP or WebP file'
      ) from None
    if file.format == 'PNG':
      file.load()  # What EXIF there is may lie behind the pixels.
  return file


def open_image(data: bytes | Image.Image) -> Image.Image:
  """Opens a file as `read_header` does, or takes an image that is open."""
  if not isinstance(data, Image.Image):
    return read_header(data)
  if data.mode == 'F':
    raise UnreadableImage(
      'image has pixels of floats (mode F), wanted 8 bits for each channel'
    )
  with _reading():
    data.load()  # Before `draft` could change it.
  return data


def get_upright_size(file: Image.Image) -> tuple[int, int]:
  """Returns the size of an image once it is turned upright."""
  return exif.turn_size(file.size, exif.read_orientation(file))


def resize_box(
  file: Image.Image,
  box: tuple[float, float, float, float],
  size: tuple[int, int],
  *,
  channels: int = 3,
  can_shrink: bool = False,
) -> Image.Image:
  """Decodes the pixels and resizes a part of them to (width, height).

  With the antialiased bilinear filter.
  """
  shrink = 1
  if can_shrink:
    most = min((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1])
    shrink = _fit_shrink(file, int(most))
  # It is cheaper to find the part in the image as it is stored, and to turn
  # the result, than to turn the image.
  orientation = exif.read_orientation(file)
  box = exif.find_stored_box(box, file.size, orientation)
  left, top, right, bottom = (side / shrink for side in box)
  image = _load(file, channels, shrink)
  image = image.resize(
    exif.turn_size(size, orientation),
    Image.Resampling.BILINEAR,
    (left, top, right, bottom),
  )
  return exif.turn_upright(image, orientation)


def to_array(image: Image.Image, channels: int = 3) -> np.ndarray:
  """Returns the pixels of an image."""
  if channels == 3 and image.mode != 'RGB':
    image = image.convert('RGB')
  pixels = np.asarray(image)
  return pixels if channels == 3 else pixels[:, :, None]


@contextlib.contextmanager
def _reading() -> Iterator[None]:
  """Turns whatever Pillow raises into an `UnreadableImage`."""
  try:
    yield
  except (UnreadableImage, MemoryError):
    raise
  # Broken files make Pillow raise nearly anything: OSError, SyntaxError,
  # IndexError, struct.error, zlib.error, EOFError, ...
  except Exception as error:
    reason = ' '.join(str(error).split()) or type(error).__name__
    raise UnreadableImage(
      f'image is broken ({reason}), wanted a whole file'
    ) from error


def _fit_shrink(file: Image.Image, most: int) -> int:
  """The largest of 1, 2, 4, 8 up to `most` by which a decoder can divide."""
  if file.format not in ('JPEG', 'MPO'):
    return 1
  return max([shrink for shrink in (2, 4, 8) if shrink <= most], default=1)


def _load(file: Image.Image, channels: int, shrink: int = 1) -> Image.Image:
  """Decodes the pixels."""
  if channels not in (1, 3):
    raise ValueError(f'channels is {channels!r}, wanted 1 or 3')
  mode = 'L' if channels == 1 else 'RGB'
  with _reading():
    # A JPEG decodes to grey by itself, and to this part of its size: half of
    # its pixels, where twice as many are there.
    width, height = file.size
    file.draft(mode, (width // shrink, height // shrink))
    file.load()
    plain = _flatten(file)
    # Grey images get their three channels last, when they are small.
    if plain.mode not in ('L', mode):
      plain = plain.convert(mode)
  return plain


def _flatten(image: Image.Image) -> Image.Image:
  """Takes what an image has beyond 8 opaque bits."""
  if image.mode.startswith('I'):
    # Pillow's own conversion would cut 16 bits off at 255.
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
  if image.has_transparency_data:
    white = Image.new('RGBA', image.size, 'white')
    return Image.alpha_composite(white, image.convert('RGBA')).convert('RGB')
  return image
