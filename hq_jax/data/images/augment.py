"""Random shifts and flips, pure functions of the seed and the position."""

import numpy as np


def shift(images: np.ndarray, offsets: np.ndarray) -> np.ndarray:
  """Moves every image by whole pixels; zeros come in from outside.

  `out[i, y, x] = images[i, y - dy, x - dx]` with `(dy, dx) = offsets[i]`, and
  0 where that lies outside the image.

  Args:
    images: `[n, h, w, c]`.
    offsets: integers, `[n, 2]`: pixels down and pixels to the right.

  Returns:
    The shifted images, with the shape and the dtype of `images`.

  >>> image = np.array([[1, 2], [3, 4]]).reshape(1, 2, 2, 1)
  >>> shift(image, np.array([[0, 1]])).squeeze().tolist()
  [[0, 1], [0, 3]]
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

  Args:
    seed: 0 <= seed < 2**64.
    first: the first position, in examples since the start of training, >= 0.
    num: how many positions, >= 0.
    max_shift: the largest shift along either axis, in pixels, >= 0.

  Returns:
    int64, `[num, 2]`, uniform over -max_shift..max_shift.

  >>> late = random_offsets(0, first=90, num=10, max_shift=2)
  >>> every = random_offsets(0, first=0, num=100, max_shift=2)
  >>> bool((late == every[90:]).all()), every.min(), every.max()
  (True, np.int64(-2), np.int64(2))
  """
  words = _random_words(seed, first, num)[:, :2]
  return (words % np.uint64(2 * max_shift + 1)).astype(np.int64) - max_shift


def random_flips(seed: int, first: int, num: int) -> np.ndarray:
  """Draws which examples are mirrored, half of them on average.

  Args:
    seed: as of `random_offsets`, of which these draws are independent.
    first: the first position, in examples since the start of training, >= 0.
    num: how many positions, >= 0.

  Returns:
    bool, `[num]`.

  >>> late = random_flips(0, first=90, num=10)
  >>> bool((late == random_flips(0, first=0, num=100)[90:]).all())
  True
  """
  return _random_words(seed, first, num)[:, 2] >> np.uint64(63) == 1


def _random_words(seed: int, first: int, num: int) -> np.ndarray:
  # Each step of Philox's counter gives four words: one step per position.
  stream = np.random.Philox(key=seed).advance(first)
  return stream.random_raw(4 * num).reshape(num, 4)


def flip(images: np.ndarray, flipped: np.ndarray) -> np.ndarray:
  """Mirrors some images, left to right.

  Args:
    images: `[n, h, w, c]`.
    flipped: bool, `[n]`: which of them.

  Returns:
    The images, with the shape and the dtype of `images`.

  >>> flip(np.array([[[[1], [2]]]]), np.array([True])).squeeze().tolist()
  [2, 1]
  """
  return np.where(flipped[:, None, None, None], images[:, :, ::-1], images)
