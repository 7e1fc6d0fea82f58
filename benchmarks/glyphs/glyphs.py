"""Letters and digits under random maps, light and dirt, as a TFDS builder.

A benchmark of any size that needs no download; `load` opens it. Train and test
differ in what is drawn at random and in nothing else: both show every font. The
same configuration gives the same images and labels, in the same order,
everywhere; the files need not be the same bytes, for the parts of a record have
no order.
"""

from collections.abc import Iterator
import dataclasses
import math
import os
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from benchmarks.glyphs import letters
from benchmarks.glyphs import rendering
from hq_jax.data.sets import datasets
from hq_jax.data.sets import generated

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
    pixel_mean: the mean of the training images' pixels.
    pixel_std: their standard deviation.
  """

  size_px: int
  num_train: int
  num_test: int
  seed: int = 0
  pixel_mean: float
  pixel_std: float


# The means and standard deviations are what `pixel_statistics` returns.
CONFIGS = (
  GlyphsConfig(
    name='16',
    size_px=16,
    num_train=20_000,
    num_test=5_000,
    pixel_mean=127.563558203125,
    pixel_std=68.14337677746873,
  ),
  GlyphsConfig(
    name='16_small',
    size_px=16,
    num_train=2_000,
    num_test=500,
    pixel_mean=126.7531328125,
    pixel_std=68.09839183603557,
  ),
  GlyphsConfig(
    name='32',
    size_px=32,
    num_train=50_000,
    num_test=10_000,
    pixel_mean=127.40958453125,
    pixel_std=69.48999265746974,
  ),
  GlyphsConfig(
    name='32_large',
    size_px=32,
    num_train=200_000,
    num_test=10_000,
    pixel_mean=127.41491208496093,
    pixel_std=69.35626405086701,
  ),
)


def load(
  name: str, data_dir: str | os.PathLike[str] | None = None
) -> datasets.Dataset:
  """Opens a set of glyphs, for `setup.prepare`; the first time, prepares it.

  Args:
    name: one of `SPECS`, such as 'glyphs/16'.
    data_dir: where TFDS keeps its sets; None for its default.

  Returns:
    The data set.
  """
  return datasets.load_generated(name, SPECS[name], data_dir)


def pixel_statistics(
  *, size_px: int, num_train: int, seed: int
) -> tuple[float, float]:
  """Measures the mean and the standard deviation of the training images."""
  counts = np.zeros(256, np.int64)
  for images, _ in _batches(seed, 'train', num_train, size_px):
    counts += np.bincount(images.ravel(), minlength=256)
  levels = np.arange(256)
  # Sums of integers are exact.
  count, total = int(counts.sum()), int(counts @ levels)
  squares = int(counts @ levels**2)
  return total / count, math.sqrt(squares * count - total**2) / count


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

  Images are uint8 `[size_px, size_px, 1]`, labels the 34
  `letters.CLASS_NAMES`, each of them as frequent as any other, up to one image,
  in every prefix of a split.
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
            shape=(self.builder_config.size_px, self.builder_config.size_px, 1),
            dtype=np.uint8,
            # As they are: twice as small, and faster than lists of integers.
            encoding=tfds.features.Encoding.BYTES,
          ),
          'label': tfds.features.ClassLabel(names=list(letters.CLASS_NAMES)),
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


SPECS = {
  f'glyphs/{config.name}': generated.Spec(
    builder=Glyphs,
    pixel_range=(0.0, 255.0),
    pixel_mean=(config.pixel_mean,),
    pixel_std=(config.pixel_std,),
    num_train=config.num_train,
    num_test=config.num_test,
    config=config.name,
  )
  for config in CONFIGS
}
