"""From the bytes of an image file to pixels, cropped for a network.

Pure functions, made to be called from threads: Pillow lets go of the
interpreter while it decodes and resizes.
"""

from collections.abc import Iterator
import contextlib
import io
import math
import struct

import numpy as np
from PIL import BmpImagePlugin
from PIL import GifImagePlugin
from PIL import Image
from PIL import ImageFile
from PIL import JpegImagePlugin
from PIL import PngImagePlugin
from PIL import WebPImagePlugin

# Past this many, Pillow warns of a decompression bomb: 4 bytes each in memory.
MAX_PIXELS = 2**30 // 12

_NUM_TRIES = 10
_WORDS_PER_TRY = 4
# Ten tries and a flip, in whole steps of Philox's counter, of four words each.
NUM_WORDS = 44

_LOG_ASPECTS = math.log(3 / 4), math.log(4 / 3)

# EXIF's tag of the orientation, and what undoes each of its values.
_ORIENTATION = 0x0112
_UPRIGHT = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
# Those that mirror the columns, mirror the rows, and then swap the two.
_MIRROR_X = 2, 3, 6, 7
_MIRROR_Y = 3, 4, 7, 8
_SWAP = 5, 6, 7, 8


class UnreadableImage(ValueError):
  """The bytes are no image that can be read; one line says why."""


class _JpegFile(JpegImagePlugin.JpegImageFile):
  """A JPEG file of which no resolution is wanted.

  Pillow looks for it in EXIF, which costs time, and warns where that is broken.
  """

  def _read_dpi_from_exif(self) -> None:
    pass


def decode(data: bytes, channels: int = 3) -> np.ndarray:
  """Decodes a JPEG, PNG, GIF (the first frame), BMP or WebP file.

  The image is turned upright as EXIF says, as cameras and phones leave it to
  the reader. What is transparent is laid over white, the page for which such
  images are drawn: below full transparency the file's colours mean nothing.
  16 bits become the upper 8.

  Args:
    data: the whole file.
    channels: 3 for red, green and blue; 1 for grey, ITU-R 601 luma.

  Returns:
    uint8, `[h, w, channels]`; it may be read-only.

  Raises:
    UnreadableImage: for bytes that are no such file, that end too early, or
      that hold more than `MAX_PIXELS` pixels.
    ValueError: for other `channels`.

  >>> file = io.BytesIO()
  >>> Image.new('RGB', (4, 2), (255, 0, 0)).save(file, 'PNG')
  >>> pixels = decode(file.getvalue())
  >>> pixels.shape, pixels[0, 0].tolist()
  ((2, 4, 3), [255, 0, 0])
  """
  _check_channels(channels)
  file = _open(data)
  return _to_array(_turn_upright(_load(file, channels), file), channels)


def random_words(seed: int, position: int) -> np.ndarray:
  """Returns the random words of one example, for `random_resized_crop`.

  They depend on `seed` and `position` alone, and are Philox's counter based
  ones, whose stream NumPy has promised to keep. `augment.random_offsets` uses
  another key, and so shares no words.

  Args:
    seed: 0 <= seed < 2**64.
    position: in examples since the start of training, >= 0.

  Returns:
    uint64, `[NUM_WORDS]`.

  >>> words = random_words(seed=0, position=7)
  >>> words.shape, bool((words == random_words(0, 7)).all())
  ((44,), True)
  """
  stream = np.random.Philox(key=np.array([seed, 1], np.uint64))
  # Each step of the counter gives four words.
  return stream.advance(position * NUM_WORDS // 4).random_raw(NUM_WORDS)


def draw_box(
  words: np.ndarray, height: int, width: int, *, min_area: float
) -> tuple[int, int, int, int]:
  """Draws the part of an image that training sees.

  The rule of torchvision's `RandomResizedCrop`: an area uniform over
  `min_area..1` of the image's and an aspect ratio whose logarithm is uniform
  over `log(3/4)..log(4/3)`, drawn up to ten times until the box fits; then a
  place uniform over all. If none fits, the central box, as large as it can be
  with its ratio held within those limits.

  Args:
    words: uint64, `[NUM_WORDS]`, of `random_words`.
    height: of the image, in pixels.
    width: of the image, in pixels.
    min_area: the smallest area, a fraction in (0, 1].

  Returns:
    `(left, top, box_width, box_height)`, in whole pixels, inside the image.

  Raises:
    ValueError: for a `min_area` outside its range.

  >>> draw_box(random_words(0, 0), 100, 100, min_area=1.0)
  (0, 0, 100, 100)
  """
  if not 0 < min_area <= 1:
    raise ValueError(f'min_area: got {min_area}, wanted a fraction in (0, 1]')
  for i in range(0, _NUM_TRIES * _WORDS_PER_TRY, _WORDS_PER_TRY):
    # Each try has words of its own, of which most leave two unused.
    draws = [_uniform(word) for word in words[i : i + _WORDS_PER_TRY].tolist()]
    area = height * width * (min_area + (1 - min_area) * draws[0])
    low, high = _LOG_ASPECTS
    aspect = math.exp(low + (high - low) * draws[1])
    box_width = round(math.sqrt(area * aspect))
    box_height = round(math.sqrt(area / aspect))
    if 0 < box_width <= width and 0 < box_height <= height:
      left = int(draws[2] * (width - box_width + 1))
      top = int(draws[3] * (height - box_height + 1))
      return left, top, box_width, box_height
  return _central_box(height, width)


def random_resized_crop(
  data: bytes,
  words: np.ndarray,
  *,
  size: int,
  min_area: float = 0.08,
  flip: bool = True,
  channels: int = 3,
) -> np.ndarray:
  """Decodes a file, and resizes a random part of it to a square.

  The part is that of `draw_box`, resized with the antialiased bilinear filter.
  Where a JPEG's part is at least twice as large as wanted along both axes, it
  is halved, or more, while it is decoded, which is faster.

  Args:
    data: the whole file.
    words: uint64, `[NUM_WORDS]`, of `random_words`.
    size: of the result, in pixels, at least 1.
    min_area: the smallest part, a fraction of the image's area in (0, 1].
    flip: whether left and right change places in half of all draws.
    channels: 3 or 1, as for `decode`.

  Returns:
    uint8, `[size, size, channels]`; it may be read-only.

  Raises:
    UnreadableImage: as for `decode`.
    ValueError: for an argument outside its range.

  >>> file = io.BytesIO()
  >>> Image.new('L', (40, 30), 200).save(file, 'JPEG')
  >>> crop = random_resized_crop(file.getvalue(), random_words(0, 0), size=8)
  >>> crop.shape, int(crop.min()), int(crop.max())
  ((8, 8, 3), 200, 200)
  """
  _check_channels(channels)
  _check_size('size', size, 1)
  file = _open(data)
  width, height = _upright_size(file)
  left, top, box_width, box_height = draw_box(
    words, height, width, min_area=min_area
  )
  shrink = _fit_shrink(file, min(box_width, box_height) // size)
  box = left, top, left + box_width, top + box_height
  image = _resize_box(file, channels, box, size, shrink)
  # The word behind those of the tries; its top bit is a fair coin.
  if flip and int(words[_NUM_TRIES * _WORDS_PER_TRY]) >> 63:
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
  return _to_array(image, channels)


def center_crop(
  data: bytes, *, size: int, resize: int, channels: int = 3
) -> np.ndarray:
  """Decodes a file, resizes its shorter side, and cuts out the middle.

  What torchvision's `Resize(resize)` and `CenterCrop(size)` do to a Pillow
  image, with the same antialiased bilinear filter and the same rounding, in one
  step: only the middle is computed.

  Args:
    data: the whole file.
    size: of the result, in pixels, 1 <= size <= resize.
    resize: pixels of the shorter side before the middle is cut out.
    channels: 3 or 1, as for `decode`.

  Returns:
    uint8, `[size, size, channels]`; it may be read-only.

  Raises:
    UnreadableImage: as for `decode`.
    ValueError: for an argument outside its range.

  >>> file = io.BytesIO()
  >>> Image.new('RGB', (40, 30), (9, 9, 9)).save(file, 'BMP')
  >>> center_crop(file.getvalue(), size=6, resize=8).shape
  (6, 6, 3)
  """
  _check_channels(channels)
  _check_size('size', size, 1)
  _check_size('resize', resize, size)
  file = _open(data)
  (left, right), (top, bottom) = [
    _central_span(length, resize * length // min(file.size), size)
    for length in _upright_size(file)
  ]
  box = left, top, right, bottom
  return _to_array(_resize_box(file, channels, box, size), channels)


def _check_channels(channels: int) -> None:
  if channels not in (1, 3):
    raise ValueError(f'channels: got {channels!r}, wanted 1 or 3')


def _check_size(name: str, value: int, low: int) -> None:
  if not isinstance(value, int | np.integer) or value < low:
    raise ValueError(f'{name}: got {value!r}, wanted an integer, >= {low}')


def _uniform(word: int) -> float:
  """The upper 53 bits as a number in [0, 1)."""
  return (word >> 11) * 2.0**-53


def _central_box(height: int, width: int) -> tuple[int, int, int, int]:
  box_width = min(width, round(height * 4 / 3))
  box_height = min(height, round(width * 4 / 3))
  left, top = (width - box_width) // 2, (height - box_height) // 2
  return left, top, box_width, box_height


def _central_span(length: int, resized: int, size: int) -> tuple[float, float]:
  """Where the middle `size` of `resized` pixels lie among `length`."""
  start = round((resized - size) / 2)
  return start * length / resized, (start + size) * length / resized


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
      f'image: got broken data ({reason}), wanted a whole file'
    ) from error


def _open(data: bytes) -> ImageFile.ImageFile:
  """Reads the header of a file.

  `Image.open` would warn of large images, and of JPEGs with broken additions;
  which warnings are shown, and which raised, is one setting for all threads.
  """
  start = bytes(data[:16])
  make: type[ImageFile.ImageFile]
  if start.startswith(b'\xff\xd8\xff'):
    make = _JpegFile
  elif start.startswith(b'\x89PNG\r\n\x1a\n'):
    make = PngImagePlugin.PngImageFile
  elif start.startswith((b'GIF87a', b'GIF89a')):
    make = GifImagePlugin.GifImageFile
  elif start.startswith(b'BM'):
    make = BmpImagePlugin.BmpImageFile
  elif start.startswith(b'RIFF') and start[8:12] == b'WEBP':
    make = WebPImagePlugin.WebPImageFile
  else:
    raise UnreadableImage(
      f'image: got {len(data)} bytes that begin with {start!r}, wanted a JPEG,'
      ' PNG, GIF, BMP or WebP file'
    )
  with _reading():
    file = make(io.BytesIO(data))
  width, height = file.size
  if width * height > MAX_PIXELS:
    raise UnreadableImage(
      f'image: got {width} x {height} pixels, wanted at most {MAX_PIXELS}'
    )
  return file


def _get_orientation(file: ImageFile.ImageFile) -> int:
  """Reads EXIF's orientation: 1..8, and 1 where there is none that counts.

  Pillow's own reader warns of EXIF that is broken in any other entry.
  """
  exif = file.info.get('exif', b'').removeprefix(b'Exif\0\0')
  order = {b'II*\0': '<', b'MM\0*': '>'}.get(exif[:4])
  if order is None:
    return 1
  try:
    (offset,) = struct.unpack_from(f'{order}I', exif, 4)
    (count,) = struct.unpack_from(f'{order}H', exif, offset)
    for i in range(count):
      # A tag, a type (3: 16 bits), how many, and the value itself.
      entry = struct.unpack_from(f'{order}HHIH', exif, offset + 2 + 12 * i)
      if entry[:2] == (_ORIENTATION, 3):
        return entry[3] if entry[3] in _UPRIGHT else 1
  except struct.error:
    pass  # It ends too early.
  return 1


def _upright_size(file: ImageFile.ImageFile) -> tuple[int, int]:
  """Width and height of an image once it is turned upright."""
  width, height = file.size
  if _get_orientation(file) in _SWAP:
    return height, width
  return width, height


def _fit_shrink(file: ImageFile.ImageFile, most: int) -> int:
  """The largest of 1, 2, 4, 8 up to `most` by which a decoder can divide."""
  if not isinstance(file, _JpegFile):
    return 1
  return max([shrink for shrink in (2, 4, 8) if shrink <= most], default=1)


def _load(
  file: ImageFile.ImageFile, channels: int, shrink: int = 1
) -> Image.Image:
  """Decodes the pixels.

  Args:
    file: a file whose header was read.
    channels: 3 or 1.
    shrink: of `_fit_shrink`: the sides are divided by it and rounded up.

  Returns:
    An image, not yet upright, of mode L, or RGB, for three channels only.
  """
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


def _resize_box(
  file: ImageFile.ImageFile,
  channels: int,
  box: tuple[float, float, float, float],
  size: int,
  shrink: int = 1,
) -> Image.Image:
  """Decodes the pixels and resizes a part of them to a square.

  Args:
    file: a file whose header was read.
    channels: 3 or 1.
    box: left, top, right and bottom, in pixels of the whole upright image.
    size: of the square, in pixels.
    shrink: by how much the sides are divided while they are decoded.

  Returns:
    An upright image, as of `_load`.
  """
  orientation = _get_orientation(file)
  width, height = _upright_size(file)
  left, top, right, bottom = box
  # It is cheaper to find the part in the image as it is stored, and to turn
  # the result, than to turn the image.
  if orientation in _MIRROR_X:
    left, right = width - right, width - left
  if orientation in _MIRROR_Y:
    top, bottom = height - bottom, height - top
  if orientation in _SWAP:
    left, top, right, bottom = top, left, bottom, right
  box = left / shrink, top / shrink, right / shrink, bottom / shrink
  image = _load(file, channels, shrink)
  image = image.resize((size, size), Image.Resampling.BILINEAR, box)
  return _turn_upright(image, file)


def _turn_upright(image: Image.Image, file: ImageFile.ImageFile) -> Image.Image:
  turn = _UPRIGHT.get(_get_orientation(file))
  return image if turn is None else image.transpose(turn)


def _flatten(image: Image.Image) -> Image.Image:
  """Takes what an image has beyond 8 opaque bits."""
  if image.mode.startswith('I'):
    # Pillow's own conversion would cut 16 bits off at 255.
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
  if image.has_transparency_data:
    white = Image.new('RGBA', image.size, 'white')
    return Image.alpha_composite(white, image.convert('RGBA')).convert('RGB')
  return image


def _to_array(image: Image.Image, channels: int) -> np.ndarray:
  if channels == 3 and image.mode != 'RGB':
    image = image.convert('RGB')
  pixels = np.asarray(image)
  return pixels if channels == 3 else pixels[:, :, None]
