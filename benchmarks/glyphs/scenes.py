"""Random draws for images of letters, by a table of ranges.

What is drawn for image i of a split is a pure function of the seed, the split
and i, so that a larger set extends a smaller one. Every random word comes from
Philox's counters, whose stream NumPy has promised to keep.
"""

from typing import NamedTuple

import numpy as np

from benchmarks.glyphs import letters


class Draw(NamedTuple):
  """What is drawn, uniformly and independently, for every image.

  Attributes:
    low: the lowest value.
    high: no value is above it.
    shape: how many values.
  """

  low: float
  high: float
  shape: tuple[int, ...] = ()


# Lengths are fractions of the image's side, levels those of grey, 0..255;
# `x` comes before `y`. The order and the shapes say which random words are used
# for what: a change makes another data set, and needs a new version.
DRAWS = {
  'font': Draw(0, len(letters.FONTS)),  # Rounded down.
  'cap_height': Draw(0.45, 0.75),
  'half_angle': Draw(-0.18, 0.18),  # The tangent of half of it: 20.4 degrees.
  'shear': Draw(-0.3, 0.3),
  'stretch': Draw(0.8, 1.25),  # Of the width; the height stays.
  'shift': Draw(-0.12, 0.12, (2,)),
  'contrast': Draw(40, 160),  # Levels between the letter and what is behind.
  'polarity': Draw(0, 1),  # From 0.5 on, the letter is the brighter one.
  'brightness': Draw(0, 1),  # Where in 0..255 the two levels lie.
  'gradient': Draw(-40, 40, (2,)),  # Levels from side to side.
  'texture': Draw(0, 0.3),  # Of what is behind, per contrast.
  'texture_nodes': Draw(-1, 1, (5, 5)),
  'noise': Draw(0.02, 0.15),  # Its standard deviation, per contrast.
  'bar_presence': Draw(0, 1, (2,)),  # See PRESENCE.
  'bar_half_angle': Draw(-1, 1, (2,)),
  'bar_offset': Draw(-0.4, 0.4, (2,)),
  'bar_half_width': Draw(0.01, 0.04, (2,)),
  'bar_level': Draw(0, 255, (2,)),
  'patch_presence': Draw(0, 1, (2,)),
  'patch_centre': Draw(-0.5, 0.5, (2, 2)),
  'patch_half_side': Draw(0.04, 0.125, (2, 2)),
  'patch_level': Draw(0, 255, (2,)),
}
# A bar or patch is there if the number drawn for its presence is below that.
PRESENCE = 0.3
# Far beyond what can be stored.
MAX_NUM = 2**48

_SPLITS = ('train', 'test')
_STREAMS = ('labels', 'scenes', 'noise')


def draw_labels(seed: int, split: str, first: int, num: int) -> np.ndarray:
  """Draws the classes of images first..first + num - 1.

  Each class comes once in every 34 images, in a random order: however many
  images a split has, no class has two more of them than another.

  Args:
    seed: 0 <= seed < 2**64.
    split: 'train' or 'test'.
    first: the first image, >= 0.
    num: how many, >= 1.

  Returns:
    int64, `[num]`, in 0..33: indices into `letters.CLASS_NAMES`.

  Raises:
    ValueError: for an argument outside its range.

  >>> labels = draw_labels(0, 'train', 0, 34)
  >>> sorted(labels.tolist()) == list(range(34))
  True
  """
  _check(seed, split, first, num)
  num_classes = len(letters.CLASS_NAMES)
  block, skipped = divmod(first, num_classes)
  num_blocks = -(-(skipped + num) // num_classes)
  words = _words(seed, split, 'labels', block, num_blocks, num_classes)
  labels = np.argsort(words, axis=1, kind='stable').ravel()
  return labels[skipped : skipped + num]


def draw_scenes(
  seed: int, split: str, first: int, num: int
) -> dict[str, np.ndarray]:
  """Draws everything of images but their classes and the noise.

  Args:
    seed: 0 <= seed < 2**64.
    split: 'train' or 'test'.
    first: the first image, >= 0.
    num: how many, >= 1.

  Returns:
    For every name in `DRAWS`, float64 `[num, *shape]`, from low to high.

  Raises:
    ValueError: for an argument outside its range.

  >>> draw_scenes(0, 'train', 5, 1)['shift'].shape
  (1, 2)
  """
  _check(seed, split, first, num)
  sizes = [int(np.prod(draw.shape)) for draw in DRAWS.values()]
  words = _words(seed, split, 'scenes', first, num, sum(sizes))
  # The upper 53 bits as float64, without rounding, in [0, 1).
  units = (words >> np.uint64(11)) * 2.0**-53
  parts = np.split(units, np.cumsum(sizes)[:-1], axis=1)
  return {
    name: draw.low + (draw.high - draw.low) * part.reshape(num, *draw.shape)
    for (name, draw), part in zip(DRAWS.items(), parts, strict=True)
  }


def draw_noise(
  seed: int, split: str, first: int, num: int, size_px: int
) -> np.ndarray:
  """Draws noise for every pixel: nearly normal, mean 0, variance 1.

  It is the sum of four random bytes, shifted and scaled.

  Args:
    seed: 0 <= seed < 2**64.
    split: 'train' or 'test'.
    first: the first image, >= 0.
    num: how many, >= 1.
    size_px: height and width, in pixels.

  Returns:
    float64, `[num, size_px, size_px]`, from -3.46 to 3.46.

  Raises:
    ValueError: for an argument outside its range.

  >>> noise = draw_noise(0, 'train', 0, 100, 16)
  >>> bool(abs(noise.mean()) < 0.02), bool(abs(noise.std() - 1) < 0.02)
  (True, True)
  """
  _check(seed, split, first, num)
  # Eight bytes, those of two pixels, in a word.
  words = _words(seed, split, 'noise', first, num, -(-(size_px**2) // 2))
  four = words.astype('<u8').view(np.uint8).reshape(num, -1, 4)
  total = four.sum(axis=-1, dtype=np.int64)[:, : size_px**2]
  # The sum's mean is 4 * 255 / 2, its variance 4 * (256**2 - 1) / 12.
  return (total.reshape(num, size_px, size_px) - 510) / np.sqrt(21845.0)


def check_integer(name: str, value: int, low: int, high: int) -> None:
  """Refuses what is not an integer in a range.

  Args:
    name: what the value is called in the error.
    value: the value.
    low: the lowest that is allowed.
    high: the highest that is allowed.

  Raises:
    ValueError: for any other value.

  >>> check_integer('size_px', 4, 8, 64)
  Traceback (most recent call last):
  ...
  ValueError: size_px is 4, wanted an integer 8..64
  """
  if not isinstance(value, int | np.integer) or not low <= value <= high:
    raise ValueError(f'{name} is {value!r}, wanted an integer {low}..{high}')


def _check(seed: int, split: str, first: int, num: int) -> None:
  check_integer('seed', seed, 0, 2**64 - 1)
  check_integer('first', first, 0, MAX_NUM)
  check_integer('num', num, 1, MAX_NUM)
  if split not in _SPLITS:
    raise ValueError(f'split is {split!r}, wanted one of {_SPLITS}')


def _words(
  seed: int, split: str, stream: str, first: int, num: int, num_words: int
) -> np.ndarray:
  """Returns the random words of each item, uint64 `[num, num_words]`."""
  number = len(_STREAMS) * _SPLITS.index(split) + _STREAMS.index(stream)
  # Each step of Philox's counter gives four words.
  steps = -(-num_words // 4)
  philox = np.random.Philox(key=int(seed) + (number << 64))
  philox.advance(int(first) * steps)
  return philox.random_raw(4 * steps * num).reshape(num, -1)[:, :num_words]
