"""Image classification sets that TFDS has prepared, read without TensorFlow."""

from collections.abc import Sequence
import dataclasses
import os
import pathlib
import re
import shlex
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from hq_jax.data import sources

_NAME = re.compile(r'([a-z0-9_]+)(?:/(\w[\w.-]*))?(?::([0-9.]+))?')
_FORMAT = tfds.core.FileFormat.ARRAY_RECORD


class Prepared(NamedTuple):
  """An opened data set.

  Attributes:
    class_names: in the order of the labels.
    image_shape: `(h, w, c)`; None where images differ.
    train: the training examples.
    test: the examples that accuracy is measured on.
    splits: the TFDS names of the two.
  """

  class_names: tuple[str, ...]
  image_shape: tuple[Any, ...]  # Of int or None.
  train: sources.Source
  test: sources.Source
  splits: tuple[str, str]


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
    """Returns example `index`.

    Raises:
      IndexError: there is no such example.
      ValueError: its file is damaged, or it has no label.
    """
    example = self._read(index)
    num_classes = self.features[self.label_key].num_classes
    if not 0 <= example['label'] < num_classes:
      raise ValueError(
        f'{example["name"]} in {self.folder!r}: label {example["label"]},'
        f' wanted 0..{num_classes - 1}'
      )
    return example

  def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
    """Returns the examples at `indices`, in that order."""
    return [self[index] for index in indices]

  def has_labels(self) -> bool:
    """Returns whether the first example has one: TFDS writes -1 for none."""
    return self._read(0)['label'] >= 0

  def _read(self, index: int) -> dict[str, Any]:
    name = f'{self.split}[{index}]'
    if not 0 <= index < len(self):
      raise IndexError(f'{name}: wanted an index in 0..{len(self) - 1}')
    is_file = isinstance(self.features[self.image_key], tfds.features.Image)
    decoders = {self.image_key: tfds.decode.SkipDecoding()} if is_file else None
    try:
      example = self.features.deserialize_example_np(
        self.records[index], decoders=decoders
      )
      image, label = example[self.image_key], int(example[self.label_key])
    except Exception as error:  # TFDS and array_record raise most kinds of it.
      raise _damaged(self.folder, f'{name}: {first_line(error)}') from error
    if not is_file and image.ndim == 2:
      image = image[..., None]
    return {'image': image, 'label': label, 'name': name}


def parse_name(name: str) -> tuple[str, str | None, str | None]:
  """Takes the name of a data set apart.

  Args:
    name: 'name' or 'name/config', either of them with ':version'.

  Returns:
    The three of them.

  Raises:
    ValueError: it is not of that form.

  >>> parse_name('imagenet_resized/16x16:0.1.0')
  ('imagenet_resized', '16x16', '0.1.0')
  """
  match = _NAME.fullmatch(name)
  version = match[3] if match else None
  if not match or (version and not tfds.core.Version.is_valid(version)):
    raise ValueError(
      f'name: got {name!r}, wanted a TFDS name such as cifar10,'
      ' imagenet_resized/16x16 or cifar10:3.0.2'
    )
  return match[1], match[2], version


def prepare_command(
  name: str, data_dir: str | os.PathLike[str] | None = None
) -> str:
  """Returns what to type to have a data set prepared.

  Args:
    name: of the data set.
    data_dir: the folder that holds the data sets; None leaves it out.

  Returns:
    A command for a shell.

  >>> prepare_command('cifar10', '/my data')
  "python -m hq_jax.prepare cifar10 --data_dir='/my data'"
  """
  command = f'python -m hq_jax.prepare {shlex.quote(name)}'
  if data_dir is None:
    return command
  return f'{command} --data_dir={shlex.quote(os.fspath(data_dir))}'


def find(name: str, data_dir: pathlib.Path) -> pathlib.Path | None:
  """Finds a prepared data set.

  Args:
    name: 'name' or 'name/config', either of them with ':version'. A name
      without a config means the default one, for a set that has configs.
    data_dir: the folder that holds the data sets.

  Returns:
    The folder of the version that was asked for, or of the newest. None where
    there is none that is complete: TFDS writes to a folder `incomplete.*`,
    which it renames at the end.

  Raises:
    ValueError: for a name that is none.

  >>> import tempfile
  >>> from hq_jax.data import datasets
  >>> with tempfile.TemporaryDirectory() as data_dir:
  ...   _ = datasets.load('digits', data_dir)
  ...   find('digits', pathlib.Path(data_dir)).relative_to(data_dir).as_posix()
  'digits/1.0.0'
  """
  dataset, config, version = parse_name(name)
  folder = data_dir / dataset
  config = config or tfds.core.dataset_builder.load_default_config_name(folder)
  folders = (folder / (config or '')).glob('*')
  versions = [
    path
    for path in folders
    if tfds.core.Version.is_valid(path.name) and is_complete(path)
    if version in (None, path.name)
  ]
  key = lambda path: tfds.core.Version(path.name)
  return max(versions, key=key, default=None)


def is_complete(folder: pathlib.Path) -> bool:
  """Returns whether a folder holds what describes a prepared data set.

  Args:
    folder: of a version of a data set.

  Returns:
    Whether it has TFDS's two files about the set.

  >>> is_complete(pathlib.Path('/nowhere'))
  False
  """
  names = ('dataset_info.json', 'features.json')
  return all((folder / name).is_file() for name in names)


def find_keys(info: tfds.core.DatasetInfo) -> tuple[str, str]:
  """Finds the image and the label of a classification set.

  Args:
    info: of a data set.

  Returns:
    The names of two features: the image, an `Image` or a `Tensor` of two or
    three dimensions, either of uint8, and the label, a `ClassLabel`. They are
    those that TFDS calls supervised, if it does so, or else the only ones.

  Raises:
    ValueError: there is no such pair, or more than one.

  >>> from hq_jax.data import digits
  >>> find_keys(digits.Digits(data_dir='/nowhere').info)
  ('image', 'label')
  """
  features = dict(info.features)
  # Supervised keys may be trees of names, which are no keys of `features`.
  chosen = [k for k in info.supervised_keys or features if isinstance(k, str)]
  images = [k for k in chosen if _is_image(features.get(k))]
  labels = [k for k in chosen if _is_label(features.get(k))]
  if len(images) != 1 or len(labels) != 1:
    types = {k: type(feature).__name__ for k, feature in features.items()}
    listed = ', '.join(f'{k} ({name})' for k, name in types.items())
    keys = info.supervised_keys
    supervised = f', of which supervised {keys}' if keys else ''
    raise ValueError(
      f'{info.name}: got the features {listed}{supervised}, wanted one image'
      ' (an Image or a Tensor of uint8) and one label (a ClassLabel)'
    )
  return images[0], labels[0]


def open_builder(folder: pathlib.Path) -> tfds.core.DatasetBuilder:
  """Opens a prepared set and checks that it can be used here.

  Args:
    folder: of a version of a data set.

  Returns:
    Its builder, which can only read.

  Raises:
    ValueError: it is damaged, in another file format than array_record, or no
      image classification set.

  >>> import tempfile
  >>> from hq_jax.data import datasets
  >>> with tempfile.TemporaryDirectory() as data_dir:
  ...   _ = datasets.load('digits', data_dir)
  ...   list(open_builder(find('digits', pathlib.Path(data_dir))).info.splits)
  ['train', 'test']
  """
  try:
    builder = tfds.builder_from_directory(folder)
    formats = builder.info.available_file_formats()
  except Exception as error:  # TFDS raises most kinds of it.
    raise _damaged(folder, first_line(error)) from error
  if _FORMAT not in formats:
    found = ', '.join(sorted(file_format.value for file_format in formats))
    config = builder.builder_config
    name = f'{builder.name}/{config.name}' if config else builder.name
    root = folder.parents[2 if config else 1]
    raise ValueError(
      f'data_dir: {str(folder)!r} has the file format {found}, wanted'
      ' array_record: choose another data_dir, or delete that folder and run'
      f' `{prepare_command(name, root)}`'
    )
  find_keys(builder.info)
  builder.info.set_file_format(
    _FORMAT, override=True, override_if_initialized=True
  )
  return builder


def open_prepared(
  folder: pathlib.Path,
  *,
  train_split: str | None = None,
  test_split: str | None = None,
) -> Prepared:
  """Opens a prepared set, with neither TensorFlow nor a network.

  Args:
    folder: of a version of a data set, of `find`.
    train_split: a TFDS split or a part of one, such as 'train[:90%]'; None
      means 'train'.
    test_split: likewise; None means 'test' if its first example has a label,
      and else 'validation': the test labels of `imagenet2012` are secret.

  Returns:
    The data set. Every file is there, and the first and the last example of
    both splits can be read.

  Raises:
    ValueError: as `open_builder`, or for a split that does not exist, is empty
      or has no labels.

  >>> import tempfile
  >>> from hq_jax.data import datasets
  >>> with tempfile.TemporaryDirectory() as data_dir:
  ...   _ = datasets.load('digits', data_dir)
  ...   folder = find('digits', pathlib.Path(data_dir))
  ...   found = open_prepared(folder, test_split='test[:20%]')
  ...   found.image_shape, len(found.train), found.test[0]['name']
  ((8, 8, 1), 1297, 'test[:20%][0]')
  """
  builder = open_builder(folder)
  image_key, label_key = find_keys(builder.info)
  train = _open_split(builder, 'train_split', train_split or 'train')
  test = _open_test(builder, test_split)
  for field, source in (('train_split', train), ('test_split', test)):
    if not source.has_labels():
      raise ValueError(
        f'{field}: the examples of {source.split!r} in {str(folder)!r} have'
        f' no labels, wanted another of {", ".join(builder.info.splits)}'
      )
  shape = builder.info.features[image_key].shape
  return Prepared(
    class_names=tuple(builder.info.features[label_key].names),
    image_shape=shape if len(shape) == 3 else (*shape, 1),
    train=train,
    test=test,
    splits=(train.split, test.split),
  )


def first_line(error: BaseException) -> str:
  """Says in one line what went wrong in TFDS.

  Args:
    error: of any kind.

  Returns:
    Its kind and the first line of its message that is not empty.

  >>> first_line(KeyError())
  'KeyError: '
  >>> first_line(OSError('a\\nb'))
  'OSError: a'
  """
  lines = str(error).strip().splitlines() or ['']
  return f'{type(error).__name__}: {lines[0]}'


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
      f'{field}: got {split!r}, wanted one of {", ".join(builder.info.splits)}'
      f' or a part such as train[:90%] ({"".join(why)})'
    ) from error
  if not files:
    raise ValueError(f'{field}: {split!r} of {builder.data_dir!r} is empty')
  missing = sorted(file for file in files if not os.path.isfile(file))
  if missing:
    raise _damaged(
      builder.data_dir, f'{os.path.basename(missing[0])} is missing'
    )
  keys = find_keys(builder.info)
  source = PreparedSource(
    folder=builder.data_dir,
    split=split,
    records=builder.as_data_source(
      split,
      deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
      file_format=_FORMAT,
    ),
    features=tfds.features.FeaturesDict(
      {key: builder.info.features[key] for key in keys}
    ),
    image_key=keys[0],
    label_key=keys[1],
  )
  source._read(len(source) - 1)  # A file that was cut shows now.
  return source


def _is_image(feature: Any) -> bool:
  # The shape of other kinds of features may be a dict or what not.
  if not isinstance(feature, tfds.features.Image | tfds.features.Tensor):
    return False
  ranks = (3,) if isinstance(feature, tfds.features.Image) else (2, 3)
  return feature.np_dtype == np.uint8 and len(feature.shape) in ranks


def _is_label(feature: Any) -> bool:
  is_label = isinstance(feature, tfds.features.ClassLabel)
  return is_label and feature.num_classes is not None


def _damaged(folder: str | os.PathLike[str], why: str) -> ValueError:
  return ValueError(
    f'data_dir: {os.fspath(folder)!r} is damaged or incomplete ({why}): delete'
    ' that folder to have it prepared again'
  )
