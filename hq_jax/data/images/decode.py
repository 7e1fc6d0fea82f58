"""Decoding of image files to pixels, upright and opaque.

Pure functions, made to be called from threads: Pillow lets go of the
interpreter while it decodes and resizes.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import math
import warnings

import numpy as np
from PIL import Image

from hq_jax.data.images import depth
from hq_jax.data.images import exif
from hq_jax.data.images import formats
from hq_jax.data.images import memory

UnreadableImage = formats.UnreadableImage


@dataclasses.dataclass(frozen=True)
class Opened:
  """An image that was opened; of a JPEG, the pixels are still to be decoded.

  Attributes:
    image: as Pillow has it, as it is stored.
    orientation: what EXIF or XMP says of it.
    depth: the bits of its pixels that are used, where they are more than 8 and
      the file says it.
    shrink: by what its sides are divided when it is decoded, at least.
  """

  image: Image.Image
  orientation: int
  depth: int | None = None
  shrink: int = 1


def decode(data: bytes | Image.Image, channels: int = 3) -> np.ndarray:
  """Decodes a file of any format of `formats`, the first frame of it.

  Or takes an image that Pillow has opened.

  The image is turned upright as EXIF says, as cameras and phones leave it to
  the reader. What is transparent is laid over white, the page for which such
  images are drawn: below full transparency the file's colours mean nothing.
  More than 8 bits become the upper 8 of those that are used.
  """
  opened = open_image(data, is_cropped=False)
  image, orientation = _load(opened, channels), opened.orientation
  del opened  # What was converted or turned need not stay.
  image = exif.turn_upright(image, orientation)
  return to_array(image, channels)


def read_header(data: bytes, *, is_cropped: bool = True) -> Opened:
  """Opens a file; all but the pixels of a JPEG are decoded.

  One that would take more than `memory.MAX_BYTES` is refused.
  """
  with _reading():
    file = formats.open_file(data)
    shrink = memory.find_shrink(file, len(data), is_cropped=is_cropped)
    declared = depth.read_declared(file, data)
    if file.format not in ('JPEG', 'MPO'):
      # EXIF may lie behind the pixels, and a TIFF is turned by Pillow.
      with _silencing_size(file):
        file.load()
  return Opened(file, exif.read_orientation(file), declared, shrink)


def open_image(data: bytes | Image.Image, *, is_cropped: bool = True) -> Opened:
  """Opens a file as `read_header` does, or takes an image that is open."""
  if not isinstance(data, Image.Image):
    return read_header(data, is_cropped=is_cropped)
  with _reading():
    data.load()  # Before `draft` could change it.
  return Opened(data, exif.read_orientation(data))


def get_upright_size(opened: Opened) -> tuple[int, int]:
  """Returns the size of an image once it is turned upright."""
  return exif.turn_size(opened.image.size, opened.orientation)


def is_grey(opened: Opened) -> bool:
  """Whether an image has one channel, transparency aside."""
  return opened.image.mode.startswith(('1', 'L', 'I'))


def resize_box(
  opened: Opened,
  box: tuple[float, float, float, float],
  size: tuple[int, int],
  *,
  channels: int = 3,
  can_shrink: bool = False,
) -> Image.Image:
  """Decodes the pixels and resizes a part of them to (width, height).

  With the antialiased bilinear filter.
  """
  shrink = opened.shrink
  if can_shrink:
    most = min((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1])
    shrink = max(shrink, _fit_shrink(opened.image, int(most)))
  # It is cheaper to find the part in the image as it is stored, and to turn
  # the result, than to turn the image.
  box = exif.find_stored_box(box, opened.image.size, opened.orientation)
  left, top, right, bottom = (side / shrink for side in box)
  image = _load(opened, channels, shrink)
  image = image.resize(
    exif.turn_size(size, opened.orientation),
    Image.Resampling.BILINEAR,
    (left, top, right, bottom),
  )
  return exif.turn_upright(image, opened.orientation)


def to_array(image: Image.Image, channels: int = 3) -> np.ndarray:
  """Returns the pixels of an image of RGB or grey ones."""
  mode = 'RGB' if channels == 3 else 'L'
  pixels = np.empty((image.height, image.width, channels), np.uint8)
  for (_, top, _, bottom), strip in memory.split(image):
    plain = strip if strip.mode == mode else strip.convert(mode)
    pixels[top:bottom] = np.asarray(plain).reshape(-1, image.width, channels)
  return pixels


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


@contextlib.contextmanager
def _silencing_size(file: Image.Image) -> Iterator[None]:
  """Keeps Pillow from warning of a large TIFF: its bytes have been counted."""
  if file.width * file.height <= (Image.MAX_IMAGE_PIXELS or math.inf):
    yield  # The filters of warnings are those of all threads.
    return
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', Image.DecompressionBombWarning)
    yield


def _fit_shrink(file: Image.Image, most: int) -> int:
  """The largest of 1, 2, 4, 8 up to `most` by which a decoder can divide."""
  if file.format not in ('JPEG', 'MPO'):
    return 1
  return max([shrink for shrink in (2, 4, 8) if shrink <= most], default=1)


def _load(opened: Opened, channels: int, shrink: int = 1) -> Image.Image:
  """Decodes the pixels."""
  if channels not in (1, 3):
    raise ValueError(f'channels is {channels!r}, wanted 1 or 3')
  mode = 'L' if channels == 1 else 'RGB'
  file = opened.image
  with _reading():
    # A JPEG decodes to grey by itself, and to this part of its size: half of
    # its pixels, where twice as many are there.
    width, height = file.size
    file.draft(mode, (width // shrink, height // shrink))
    file.load()
    plain = _flatten(file, opened.depth)
    # Grey images get their three channels last, when they are small.
    if plain.mode not in ('L', mode):
      plain = plain.convert(mode)
  return plain


def _flatten(image: Image.Image, declared: int | None) -> Image.Image:
  """Takes what an image has beyond 8 opaque bits."""
  if image.mode == 'F':
    raise UnreadableImage(
      'image has pixels of floats (mode F), wanted 8 bits for each channel'
    )
  if image.mode.startswith('I'):
    # Pillow's own conversion would cut 16 bits off at 255.
    return depth.to_8_bits(image, declared)
  if image.has_transparency_data:
    return memory.convert_in_strips(image, 'RGB', _lay_over_white)
  return image


def _lay_over_white(image: Image.Image) -> Image.Image:
  white = Image.new('RGBA', image.size, 'white')
  return Image.alpha_composite(white, image.convert('RGBA')).convert('RGB')
