"""Random changes of images, pure functions of the seed and the position."""

from collections.abc import Sequence

import numpy as np

_LEAST_ERASED = 0.02
_LEAST_ASPECT = 0.3


def shift(images: np.ndarray, offsets: np.ndarray) -> np.ndarray:
  """Moves every image by whole pixels; zeros come in from outside.

  `out[i, y, x] = images[i, y - dy, x - dx]` with `(dy, dx) = offsets[i]`, and
  0 where that lies outside the image.
  """
  num, height, width, _ = images.shape
  margin = int(np.abs(offsets).max(initial=0))
  padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
  rows = np.arange(height) + margin - offsets[:, :1]
  columns = np.arange(width) + margin - offsets[:, 1:]
  examples = np.arange(num)[:, None, None]
  return padded[examples, rows[:, :, None], columns[:, None, :]]


def random_offsets(
  seed: int, first: int, num: int, max_shift: int
) -> np.ndarray:
  """Draws the shifts of the examples at positions first..first + num - 1.

  The shift at a position depends on `seed` and the position alone, not on how
  positions are cut into batches or shared among processes. The random words
  are Philox's counter based ones, whose stream NumPy has promised to keep.
  """
  words = _random_words(seed, first, num)[:, :2]
  return (words % np.uint64(2 * max_shift + 1)).astype(np.int64) - max_shift


def random_flips(seed: int, first: int, num: int) -> np.ndarray:
  """Draws which examples are mirrored, half of them on average."""
  return _random_words(seed, first, num)[:, 2] >> np.uint64(63) == 1


def _random_words(seed: int, first: int, num: int) -> np.ndarray:
  # Each step of Philox's counter gives four words: one step per position.
  stream = np.random.Philox(key=seed).advance(first)
  return stream.random_raw(4 * num).reshape(num, 4)


def flip(images: np.ndarray, flipped: np.ndarray) -> np.ndarray:
  """Mirrors some images, left to right."""
  return np.where(flipped[:, None, None, None], images[:, :, ::-1], images)


def erase(
  images: np.ndarray, boxes: np.ndarray, fill: Sequence[float]
) -> np.ndarray:
  """Puts one value per channel, rounded, into a rectangle of every image.

  `out[i, top:top + height, left:left + width] = fill` with `(top, left, height,
  width) = boxes[i]`.
  """
  top, left, height, width = (boxes[:, i, None] for i in range(4))
  rows, columns = np.arange(images.shape[1]), np.arange(images.shape[2])
  in_rows = (top <= rows) & (rows < top + height)
  in_columns = (left <= columns) & (columns < left + width)
  inside = in_rows[:, :, None] & in_columns[:, None, :]
  values = np.rint(np.asarray(fill)).astype(images.dtype)
  return np.where(inside[..., None], values, images)


def random_boxes(
  seed: int, first: int, num: int, size: tuple[int, int], max_area: float
) -> np.ndarray:
  """Draws rectangles for half of the examples, empty ones for the others.

  Its area is a part of the image's, uniform from 0.02 (or half of what it may
  be, if that is less) to `max_area`, its height over its width log-uniform from
  0.3 to 1 / 0.3, its place uniform; what is longer than the image is cut off.
  After Zhong et al., "Random Erasing Data Augmentation", AAAI 2020.
  """
  # Other words than those of shifts and flips: another key.
  stream = np.random.Philox(key=[seed, 1]).advance(2 * first)
  words = stream.random_raw(8 * num).reshape(num, 8)[:, :5]
  erased, area, aspect, *place = (words >> np.uint64(11)).T * 2.0**-53
  least = min(_LEAST_ERASED, max_area / 2)
  area = (least + (max_area - least) * area) * size[0] * size[1]
  aspect = _LEAST_ASPECT ** (2 * aspect - 1)
  lengths = np.sqrt(area * aspect), np.sqrt(area / aspect)
  height, width = (
    np.clip(np.rint(length), 1, most)
    for length, most in zip(lengths, size, strict=True)
  )
  top, left = (
    np.floor(share * (most - length + 1))
    for share, most, length in zip(place, size, (height, width), strict=True)
  )
  boxes = np.stack([top, left, height, width], axis=1).astype(np.int64)
  return boxes * (erased < 0.5)[:, None]
