"""Image classification sets that TFDS has prepared, read without TensorFlow."""

from collections.abc import Sequence
import dataclasses
import os
import pathlib
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from hq_jax.data.tfds import builders
from hq_jax.data.tfds import errors as tfds_errors


@dataclasses.dataclass(frozen=True)
class PreparedSource:
  """A split on disk; `source[i]` is example i. It can be pickled.

  An example is a dict of `image`, `label` (an int) and `name`, such as
  'train[7]'. The image is the bytes of a PNG or JPEG file where the set has an
  `Image` feature, else a uint8 array `[h, w, c]`.

  Attributes:
    folder: of the set, for messages.
    split: its TFDS name.
    records: the serialized examples.
    features: of an example: its image and its label, and nothing else, so that
      nothing else is decoded.
    image_key: the name of the image among `features`.
    label_key: the name of the label.
  """

  folder: str
  split: str
  records: Sequence[bytes]
  features: tfds.features.FeaturesDict
  image_key: str
  label_key: str

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Returns example `index`."""
    example = self._read(index)
    num_classes = self.features[self.label_key].num_classes
    if not 0 <= example['label'] < num_classes:
      raise ValueError(
        f'{example["name"]} in {self.folder!r}: label {example["label"]},'
        f' wanted 0..{num_classes - 1}'
      )
    return example

  @property
  def is_encoded(self) -> bool:
    """Whether images are files, and not arrays."""
    return isinstance(self.features[self.image_key], tfds.features.Image)

  def has_labels(self) -> bool:
    """Returns whether the first example has one: TFDS writes -1 for none."""
    return self._read(0)['label'] >= 0

  def _read(self, index: int) -> dict[str, Any]:
    name = f'{self.split}[{index}]'
    if not 0 <= index < len(self):
      raise IndexError(f'{name}: wanted an index in 0..{len(self) - 1}')
    skip = {self.image_key: tfds.decode.SkipDecoding()}
    decoders = skip if self.is_encoded else None
    try:
      example = self.features.deserialize_example_np(
        self.records[index], decoders=decoders
      )
      image, label = example[self.image_key], int(example[self.label_key])
    except Exception as error:  # TFDS and array_record raise most kinds of it.
      raise tfds_errors.damaged(
        self.folder, f'{name}: {tfds_errors.first_line(error)}'
      ) from error
    if not self.is_encoded and image.ndim == 2:
      image = image[..., None]
    return {'image': image, 'label': label, 'name': name}


class Prepared(NamedTuple):
  """An opened data set.

  Attributes:
    class_names: in the order of the labels.
    image_shape: `(h, w, c)`; None where images differ.
    train: the training examples.
    test: the examples that accuracy is measured on.
  """

  class_names: tuple[str, ...]
  image_shape: tuple[Any, ...]  # Of int or None.
  train: PreparedSource
  test: PreparedSource


def open_prepared(
  folder: pathlib.Path,
  *,
  train_split: str | None = None,
  test_split: str | None = None,
) -> Prepared:
  """Opens a prepared set, with neither TensorFlow nor a network."""
  builder = builders.open_builder(folder)
  class_names, image_shape = builders.describe(builder.info)
  train = _open_split(builder, 'train_split', train_split or 'train')
  test = _open_test(builder, test_split)
  for field, source in (('train_split', train), ('test_split', test)):
    if not source.has_labels():
      raise ValueError(
        f'{field}: the examples of {source.split!r} in {str(folder)!r} have'
        f' no labels, wanted another of {", ".join(builder.info.splits)}'
      )
  return Prepared(class_names, image_shape, train, test)


def _open_test(
  builder: tfds.core.DatasetBuilder, test_split: str | None
) -> PreparedSource:
  """Opens the split to measure accuracy on, the default one for None."""
  if test_split is not None:
    return _open_split(builder, 'test_split', test_split)
  splits = list(builder.info.splits)
  candidates = [split for split in ('test', 'validation') if split in splits]
  if not candidates:
    raise ValueError(
      f'test_split: {builder.data_dir!r} has neither test nor validation, only'
      f" {', '.join(splits)}: give config.data.train_split='train[:90%]' and"
      " config.data.test_split='train[90%:]' or the like"
    )
  first = _open_split(builder, 'test_split', candidates[0])
  if len(candidates) == 1 or first.has_labels():
    return first
  return _open_split(builder, 'test_split', candidates[1])


def _open_split(
  builder: tfds.core.DatasetBuilder, field: str, split: str
) -> PreparedSource:
  """Opens one split and checks that its files can be read."""
  try:
    files = {
      part.filename for part in builder.info.splits[split].file_instructions
    }
  except Exception as error:  # TFDS raises most kinds of it.
    why = str(error).strip().splitlines()[-1:]
    raise ValueError(
      f'{field} is {split!r}, wanted one of {", ".join(builder.info.splits)}'
      f' or a part such as train[:90%] ({"".join(why)})'
    ) from error
  if not files:
    raise ValueError(f'{field}: {split!r} of {builder.data_dir!r} is empty')
  missing = sorted(file for file in files if not os.path.isfile(file))
  if missing:
    raise tfds_errors.damaged(
      builder.data_dir, f'{os.path.basename(missing[0])} is missing'
    )
  keys = builders.find_keys(builder.info)
  source = PreparedSource(
    folder=builder.data_dir,
    split=split,
    records=builder.as_data_source(
      split,
      deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
      file_format=builders.FORMAT,
    ),
    features=tfds.features.FeaturesDict(
      {key: builder.info.features[key] for key in keys}
    ),
    image_key=keys[0],
    label_key=keys[1],
  )
  source._read(len(source) - 1)  # A file that was cut shows now.
  return source
