"""Random shifts and flips, pure functions of the seed and the position."""

import numpy as np


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
