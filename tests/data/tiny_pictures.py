"""A TFDS set of tiny pictures, with all kinds of splits."""

import io

import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

CLASSES = ('cat', 'dog', 'emu')
_FILE = tfds.features.Image()
_LABEL = tfds.features.ClassLabel(names=list(CLASSES))


def picture(number: int) -> bytes:
  """A file of its own; every third is a JPEG, and sizes differ."""
  file = io.BytesIO()
  pixels = np.full((5 + number % 3, 6, 3), 7 * number, np.uint8)
  Image.fromarray(pixels).save(file, 'PNG' if number % 3 else 'JPEG')
  return file.getvalue()


class TinyPictures(tfds.core.GeneratorBasedBuilder):
  """Ten images to train on; the other splits are those of the config."""

  name = 'tiny_pictures'
  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS = [  # noqa: RUF012
    tfds.core.dataset_builder.BuilderConfig(name=name)
    for name in ('secret', 'both', 'validated', 'blind', 'lone', 'flat')
  ]
  SPLITS = {  # noqa: RUF012
    'secret': ('train', 'validation', 'blind'),
    'both': ('train', 'validation', 'test'),
    'validated': ('train', 'validation'),
    'blind': ('train', 'blind'),
    'lone': ('train',),
    'flat': ('train', 'test'),
  }

  def _info(self):
    flat = tfds.features.Tensor(shape=(4, 6), dtype=np.uint8)
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          'picture': flat if self.builder_config.name == 'flat' else _FILE,
          'mask': tfds.features.Image(shape=(None, None, 1)),
          'kind': _LABEL,
        }
      ),
      supervised_keys=('picture', 'kind'),
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    firsts = {'train': 0, 'validation': 10, 'test': 14, 'blind': 14}
    return {
      'test' if split == 'blind' else split: self._generate_examples(
        firsts[split], 10 if split == 'train' else 4, split == 'blind'
      )
      for split in self.SPLITS[self.builder_config.name]
    }

  def _generate_examples(self, first, num, is_blind):
    for number in range(first, first + num):
      flat = np.full((4, 6), number, np.uint8)
      yield (
        number,
        {
          'picture': flat
          if self.builder_config.name == 'flat'
          else picture(number),
          'mask': b'no image at all',
          'kind': -1 if is_blind else number % 3,
        },
      )


def check(source, numbers):
  """Every picture is there once, byte for byte, with its label and a name."""
  left = {picture(number): number % 3 for number in numbers}
  for i in range(len(source)):
    example = source[i]
    assert set(example) == {'image', 'label', 'name'}
    assert type(example['image']) is bytes and type(example['label']) is int
    assert example['label'] == left.pop(example['image'])
    assert example['name'] == f'{source.split}[{i}]'
  assert not left
