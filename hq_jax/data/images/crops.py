"""Crops of images: at random for training, the middle for evaluation.

Pure functions of a file's bytes, made to be called from threads.
"""

import math

import numpy as np
from PIL import Image

from hq_jax.data.images import decode

_NUM_TRIES = 10
_WORDS_PER_TRY = 4
# Ten tries and a flip, in whole steps of Philox's counter, of four words each.
NUM_WORDS = 44

_LOG_ASPECTS = math.log(3 / 4), math.log(4 / 3)


def random_words(seed: int, position: int) -> np.ndarray:
  """Returns the random words of one example, for `random_resized_crop`.

  They depend on `seed` and `position` alone, and are Philox's counter based
  ones, whose stream NumPy has promised to keep. `augment.random_offsets` uses
  another key, and so shares no words.
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
  """
  if not 0 < min_area <= 1:
    raise ValueError(f'min_area is {min_area}, wanted a fraction in (0, 1]')
  for i in range(0, _NUM_TRIES * _WORDS_PER_TRY, _WORDS_PER_TRY):
    # Each try has words of its own, of which most leave two unused.
    # The upper 53 bits as a number in [0, 1).
    draws = (words[i : i + _WORDS_PER_TRY] >> np.uint64(11)).tolist()
    draws = [draw * 2.0**-53 for draw in draws]
    area = height * width * (min_area + (1 - min_area) * draws[0])
    low, high = _LOG_ASPECTS
    aspect = math.exp(low + (high - low) * draws[1])
    box_width = round(math.sqrt(area * aspect))
    box_height = round(math.sqrt(area / aspect))
    if 0 < box_width <= width and 0 < box_height <= height:
      left = int(draws[2] * (width - box_width + 1))
      top = int(draws[3] * (height - box_height + 1))
      return left, top, box_width, box_height
  box_width = min(width, round(height * 4 / 3))
  box_height = min(height, round(width * 4 / 3))
  return (
    (width - box_width) // 2,
    (height - box_height) // 2,
    box_width,
    box_height,
  )


def random_resized_crop(
  data: bytes,
  words: np.ndarray,
  *,
  size: int,
  min_area: float = 0.08,
  flip: bool = True,
) -> np.ndarray:
  """Decodes a file, and resizes a random part of it to a square.

  The part is that of `draw_box`, resized with the antialiased bilinear filter.
  Where a JPEG's part is at least twice as large as wanted along both axes, it
  is halved, or more, while it is decoded, which is faster.
  """
  _check_size('size', size, 1)
  file = decode.read_header(data)
  width, height = decode.get_upright_size(file)
  left, top, box_width, box_height = draw_box(
    words, height, width, min_area=min_area
  )
  box = left, top, left + box_width, top + box_height
  image = decode.resize_box(file, box, (size, size), can_shrink=True)
  # The word behind those of the tries; its top bit is a fair coin.
  if flip and int(words[_NUM_TRIES * _WORDS_PER_TRY]) >> 63:
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
  return decode.to_array(image)


def center_crop(
  data: bytes | Image.Image, *, size: int, resize: int, channels: int = 3
) -> np.ndarray:
  """Decodes a file, resizes its shorter side, and cuts out the middle.

  What torchvision's `Resize(resize)` and `CenterCrop(size)` do to a Pillow
  image, with the same antialiased bilinear filter and the same rounding, in one
  step: only the middle is computed.
  """
  _check_size('size', size, 1)
  _check_size('resize', resize, size)
  file = decode.open_image(data)
  lengths = decode.get_upright_size(file)
  (left, right), (top, bottom) = [
    _central_span(length, resize * length // min(lengths), size)
    for length in lengths
  ]
  box = left, top, right, bottom
  image = decode.resize_box(file, box, (size, size), channels=channels)
  return decode.to_array(image, channels)


def fit(
  data: bytes | Image.Image, *, height: int, width: int, channels: int = 3
) -> np.ndarray:
  """Decodes a file, and resizes to a size what it has of that shape.

  That is the middle, as large as it can be; with the same filter.
  """
  file = decode.open_image(data)
  full_width, full_height = decode.get_upright_size(file)
  box_width = min(full_width, full_height * width / height)
  box_height = min(full_height, full_width * height / width)
  left, top = (full_width - box_width) / 2, (full_height - box_height) / 2
  box = left, top, left + box_width, top + box_height
  image = decode.resize_box(file, box, (width, height), channels=channels)
  return decode.to_array(image, channels)


def _check_size(name: str, value: int, low: int) -> None:
  if not isinstance(value, int | np.integer) or value < low:
    raise ValueError(f'{name} is {value!r}, wanted an integer, >= {low}')


def _central_span(length: int, resized: int, size: int) -> tuple[float, float]:
  """Where the middle `size` of `resized` pixels lie among `length`."""
  start = round((resized - size) / 2)
  return start * length / resized, (start + size) * length / resized
