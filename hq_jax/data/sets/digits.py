"""The 8x8 handwritten digits of scikit-learn, as a TFDS builder.

The images lie inside the scikit-learn package, so that preparing them needs
no download. They are written as array_record files, which neither writing
nor reading needs TensorFlow for.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

CLASS_NAMES = tuple('0123456789')
IMAGE_SHAPE = (8, 8, 1)
NUM_TRAIN = 1297
NUM_TEST = 500


def split_indices() -> tuple[np.ndarray, np.ndarray]:
  """Returns which of scikit-learn's 1797 digits train, and which test.

  The split is one fixed permutation, drawn from the legacy stream that NumPy
  has promised never to change.
  """
  order = np.random.RandomState(0).permutation(NUM_TRAIN + NUM_TEST)
  return order[:NUM_TRAIN].astype(np.int64), order[NUM_TRAIN:].astype(np.int64)


class Digits(tfds.core.GeneratorBasedBuilder):
  """8x8 grey images of handwritten digits: 1297 to train on, 500 to test on.

  Images are uint8 `[8, 8, 1]` with values 0..16 (0 is background), labels
  the classes '0' to '9'.
  """

  name = 'digits'
  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First version.'}  # noqa: RUF012

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=(
        'The test set of the UCI ML hand-written digits, 8x8 pixels of 17'
        ' grey levels, as scikit-learn ships it.'
      ),
      homepage='https://archive.ics.uci.edu/dataset/80',
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Tensor(shape=IMAGE_SHAPE, dtype=np.uint8),
          'label': tfds.features.ClassLabel(names=list(CLASS_NAMES)),
        }
      ),
      supervised_keys=('image', 'label'),
      # Files keep the order of `split_indices`, whatever TFDS's hash does.
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    del dl_manager  # Nothing is downloaded.
    train, test = split_indices()
    return {
      'train': self._generate_examples(train),
      'test': self._generate_examples(test),
    }

  def _generate_examples(
    self, indices: np.ndarray
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    # Imported here: reading prepared digits need not wait for scikit-learn.
    from sklearn import datasets

    bunch = datasets.load_digits()
    images = bunch.images[..., None].astype(np.uint8)
    for key, index in enumerate(indices.tolist()):
      yield key, {'image': images[index], 'label': int(bunch.target[index])}
