"""Letters and digits under random maps, light and dirt, as a TFDS builder.

A benchmark of any size that needs no download. Train and test differ in what
is drawn at random and in nothing else: both show every font. The same
configuration gives the same images and labels, in the same order, everywhere;
the files need not be the same bytes, for the parts of a record have no order.
"""

from collections.abc import Iterator
import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from benchmarks.glyphs import rendering
from benchmarks.glyphs import scenes

CLASS_NAMES = scenes.CLASS_NAMES
PIXEL_RANGE = (0.0, 255.0)

# Images drawn at once: more are slower, for they leave the cache.
_NUM_AT_ONCE = 64


@dataclasses.dataclass(eq=False, kw_only=True)
class GlyphsConfig(tfds.core.BuilderConfig):
  """Which images a set holds, and what is known of them.

  Attributes:
    size_px: height and width of every image, in pixels, 8..64.
    num_train: images in the split `train`.
    num_test: images in the split `test`.
    seed: of everything random, 0 <= seed < 2**64.
    pixel_mean: the mean of the training images' pixels, one number.
    pixel_std: their standard deviation, one number.
  """

  size_px: int
  num_train: int
  num_test: int
  seed: int
  pixel_mean: tuple[float, ...]
  pixel_std: tuple[float, ...]

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """`(h, w, c)` of every image."""
    return (self.size_px, self.size_px, 1)


# The means and standard deviations are what `pixel_statistics` returns.
CONFIGS = (
  GlyphsConfig(
    name='16',
    size_px=16,
    num_train=20_000,
    num_test=5_000,
    seed=0,
    pixel_mean=(127.563558203125,),
    pixel_std=(68.14337677746873,),
  ),
  GlyphsConfig(
    name='16_small',
    size_px=16,
    num_train=2_000,
    num_test=500,
    seed=0,
    pixel_mean=(126.7531328125,),
    pixel_std=(68.09839183603557,),
  ),
  GlyphsConfig(
    name='32',
    size_px=32,
    num_train=50_000,
    num_test=10_000,
    seed=0,
    pixel_mean=(127.40958453125,),
    pixel_std=(69.48999265746974,),
  ),
  GlyphsConfig(
    name='32_large',
    size_px=32,
    num_train=200_000,
    num_test=10_000,
    seed=0,
    pixel_mean=(127.41491208496093,),
    pixel_std=(69.35626405086701,),
  ),
)


def make_config(
  name: str, *, size_px: int, num_train: int, num_test: int, seed: int
) -> GlyphsConfig:
  """Makes a configuration of any size, for `Glyphs(config=...)`.

  It draws all training images, to measure their pixels.

  Args:
    name: of the folder that will hold it; not one of `get_config`'s.
    size_px: height and width of every image, in pixels, 8..64.
    num_train: images in the split `train`, >= 1.
    num_test: images in the split `test`, >= 1.
    seed: of everything random, 0 <= seed < 2**64.

  Returns:
    The configuration.

  Raises:
    ValueError: for an argument outside its range, or fonts that are not those
      of this data set.

  >>> config = make_config(
  ...   'tiny', size_px=16, num_train=68, num_test=34, seed=1)
  >>> config.image_shape
  (16, 16, 1)
  """
  scenes.check_integer('num_train', num_train, 1, scenes.MAX_NUM)
  scenes.check_integer('num_test', num_test, 1, scenes.MAX_NUM)
  mean, std = pixel_statistics(size_px=size_px, num_train=num_train, seed=seed)
  return GlyphsConfig(
    name=name,
    size_px=size_px,
    num_train=num_train,
    num_test=num_test,
    seed=seed,
    pixel_mean=(mean,),
    pixel_std=(std,),
  )


def pixel_statistics(
  *, size_px: int, num_train: int, seed: int
) -> tuple[float, float]:
  """Measures the pixels of training images.

  Args:
    size_px: height and width of an image, in pixels, 8..64.
    num_train: how many images, >= 1.
    seed: of everything random, 0 <= seed < 2**64.

  Returns:
    The mean and the standard deviation of all pixels, rounded but once.

  Raises:
    ValueError: for an argument outside its range, or fonts that are not those
      of this data set.

  >>> mean, std = pixel_statistics(size_px=16, num_train=100, seed=0)
  >>> 100 < mean < 150, 50 < std < 80
  (True, True)
  """
  counts = np.zeros(256, np.int64)
  for images, _ in _batches(seed, 'train', num_train, size_px):
    counts += np.bincount(images.ravel(), minlength=256)
  levels = np.arange(256)
  # Sums of integers are exact.
  count, total = int(counts.sum()), int(counts @ levels)
  squares = int(counts @ levels**2)
  return total / count, math.sqrt(squares * count - total**2) / count


def get_config(name: str) -> GlyphsConfig:
  """Looks up a configuration by the data set's name.

  Args:
    name: such as 'glyphs/16'.

  Returns:
    The configuration; its own name is what follows the slash.

  Raises:
    ValueError: for an unknown name.

  >>> get_config('glyphs/32').num_train
  50000
  """
  configs = {f'glyphs/{config.name}': config for config in CONFIGS}
  if name not in configs:
    known = ', '.join(configs)
    raise ValueError(f'name: no data set {name!r}, the known ones are {known}')
  return configs[name]


def _batches(
  seed: int, split: str, num: int, size_px: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields the images and the labels of a split, some at a time."""
  for first in range(0, num, _NUM_AT_ONCE):
    yield rendering.render(
      seed, split, first, min(_NUM_AT_ONCE, num - first), size_px
    )


class Glyphs(tfds.core.GeneratorBasedBuilder):
  """Grey images of letters and digits, drawn from fonts, hard to read.

  Images are uint8 `[size_px, size_px, 1]`, labels the 34 `CLASS_NAMES`, each
  of them as frequent as any other, up to one image, in every prefix of a split.
  """

  name = 'glyphs'
  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First version.'}  # noqa: RUF012
  BUILDER_CONFIGS = list(CONFIGS)  # noqa: RUF012

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=(
        'Digits and capital letters of 20 fonts, rotated, sheared and'
        ' stretched, on textured ground, partly covered and noisy; drawn by'
        ' a seeded program.'
      ),
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Tensor(
            shape=self.builder_config.image_shape,
            dtype=np.uint8,
            # As they are: twice as small, and faster than lists of integers.
            encoding=tfds.features.Encoding.BYTES,
          ),
          'label': tfds.features.ClassLabel(names=list(CLASS_NAMES)),
        }
      ),
      supervised_keys=('image', 'label'),
      # Files keep the order in which images are drawn: classes are mixed.
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    del dl_manager  # Nothing is downloaded.
    config = self.builder_config
    return {
      'train': self._generate_examples('train', config.num_train),
      'test': self._generate_examples('test', config.num_test),
    }

  def _generate_examples(
    self, split: str, num: int
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    config = self.builder_config
    key = 0
    for images, labels in _batches(config.seed, split, num, config.size_px):
      for image, label in zip(images, labels.tolist(), strict=True):
        yield key, {'image': image, 'label': label}
        key += 1
