"""Tiny sets to prepare, and what the command says of them."""

import numpy as np
import tensorflow_datasets as tfds

from hq_jax import __main__ as commands
from hq_jax.data.tfds import prepared


class TinySet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Four images of 2x3 whose pixels are their number; no download."""

  VERSION = tfds.core.Version('1.0.0')
  IMAGE = tfds.features.Tensor(shape=(2, 3, 1), dtype=np.uint8)

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {'image': self.IMAGE, 'label': tfds.features.ClassLabel(num_classes=2)}
      ),
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {split: self._generate_examples() for split in ('train', 'test')}

  def _generate_examples(self):
    for number in range(4):
      image = np.full(self.IMAGE.shape, number, np.uint8)
      yield number, {'image': image, 'label': number % 2}


class ByHandSet(TinySet):
  name = 'by_hand_set'
  MANUAL_DOWNLOAD_INSTRUCTIONS = """Put pixels.bin
  into manual_dir."""


class EncodedSet(TinySet):
  """TFDS encodes arrays as PNG by TensorFlow."""

  name = 'encoded_set'
  IMAGE = tfds.features.Image(shape=(2, 3, 1))


def run(capsys, *argv):
  """The exit status and what is on stdout and stderr."""
  capsys.readouterr()
  status = commands.main(['prepare', *argv])
  return status, *capsys.readouterr()


def check_refused(capsys, *argv):
  """The one line that it is refused with."""
  status, out, err = run(capsys, *argv)
  assert (status, out) == (2, '')
  assert err.startswith('hq_jax: ') and err.endswith('\n')
  assert err.count('\n') == 1
  return err


def read(folder):
  """The pixel and the label of the training images, in the order of pixels."""
  source = prepared.open_prepared(folder).train
  return sorted((int(x['image'].max()), x['label']) for x in source)
