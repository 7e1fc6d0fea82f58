"""Data sets by name: generated, prepared by TFDS, or files of your own."""

from collections.abc import Mapping, Sequence
import math
import os
import types
from typing import Any, NamedTuple

from hq_jax.data import sources
from hq_jax.data.sets import array_files
from hq_jax.data.sets import folders
from hq_jax.data.sets import generated
from hq_jax.data.tfds import builders
from hq_jax.data.tfds import errors as tfds_errors
from hq_jax.data.tfds import lookup
from hq_jax.data.tfds import prepared

FOLDER = 'folder'
# How files of arrays are opened.
_OPEN_ARRAYS = {'arrays': array_files.open_npz, 'idx': array_files.open_idx}
# Sets that are what `data_dir` names.
OWN_FILES = (FOLDER, *_OPEN_ARRAYS)

_ARRAYS = 'has arrays, which are not resized'
_SIZES = 'has images of any size'

# Means and standard deviations that are in common use, of pixels in 0..1.
# Networks that others have trained expect those of ImageNet.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_STATISTICS = {
  'cifar10': ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
  'cifar100': ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
  'fashion_mnist': ((0.2860,), (0.3530,)),
  'mnist': ((0.1307,), (0.3081,)),
}


class Dataset(NamedTuple):
  """An opened data set.

  Attributes:
    name: the name that `load` knows it by.
    class_names: in the order of the labels.
    image_shape: `(h, w, c)` of what the model sees.
    pixel_range: the lowest and the highest value that a pixel can have.
    pixel_mean: per channel, the mean of the training images' pixels, or what
      is in common use for it.
    pixel_std: per channel, their standard deviation.
    train: the training examples.
    test: the examples that accuracy is measured on, at the end.
    validation: those that it is measured on after each epoch; None to measure
      it on those of `test`.
    is_held_out: whether `test` is a part that was chosen here.
    resize: None where the examples are arrays of `image_shape`; otherwise they
      are image files, and this is the length that their shorter side is resized
      to before the centre crop of evaluation.
    fingerprint: changes with the images' names, or with arrays, for a set that
      anyone may change; None for the others.
    ignored: how many files beside the images of a folder are none that can be
      read, as `image_files.describe_ignored` takes it.
  """

  name: str
  class_names: tuple[str, ...]
  image_shape: tuple[int, int, int]
  pixel_range: tuple[float, float]
  pixel_mean: tuple[float, ...]
  pixel_std: tuple[float, ...]
  train: sources.Source
  test: sources.Source
  validation: sources.Source | None = None
  is_held_out: bool = False
  resize: int | None = None
  fingerprint: str | None = None
  ignored: Mapping[str, int] = types.MappingProxyType({})

  @property
  def watched_split(self) -> str:
    """The name of what accuracy is measured on after each epoch."""
    return 'test' if self.validation is None else 'validation'


def load(
  name: str,
  data_dir: str | os.PathLike[str] | None = None,
  *,
  image_size: int | None = None,
  crop_fraction: float = 0.875,
  train_split: str | None = None,
  test_split: str | None = None,
  class_names: Sequence[str] | None = None,
  evaluated_as: Sequence[str] | None = None,
  memory_limit_bytes: int = 2**30,
) -> Dataset:
  """Opens a data set; nothing is downloaded.

  A folder that is only evaluated, by a network that has the classes
  `evaluated_as`, needs neither all of them nor anything to train on.
  """
  resize = None
  if image_size is not None:
    resize = round(image_size / crop_fraction)
  has_own_splits = name in OWN_FILES or name in generated.SPECS
  is_chosen = name == FOLDER and evaluated_as is not None
  if has_own_splits and (train_split or (test_split and not is_chosen)):
    raise ValueError(
      f'config.data.train_split is {train_split!r} and test_split'
      f' {test_split!r}, but {name} has splits of its own, wanted None'
      f'{" (but for --evaluate)" if name == FOLDER else ""}'
    )
  if class_names is not None and name not in _OPEN_ARRAYS:
    raise ValueError(
      f'config.data.class_names is {tuple(class_names)!r}, but {name} has names'
      ' of its own, wanted None'
    )
  if name in OWN_FILES:
    if data_dir is None:
      what = 'the .npz file' if name == 'arrays' else 'the folder of images'
      raise ValueError(f'config.data.data_dir is None, wanted {what}')
    if name == FOLDER:
      if evaluated_as is None:
        own = folders.open_folder(data_dir)
      else:
        own = folders.open_evaluated(data_dir, evaluated_as, test_split)
      return _load_folder(own, image_size, resize, memory_limit_bytes)
    if image_size is not None:
      raise _wrong_size(image_size, name, _ARRAYS, 'None')
    return _of_own_arrays(name, _OPEN_ARRAYS[name](data_dir, class_names))
  root = lookup.get_root(data_dir)
  if name in generated.SPECS:
    if image_size is not None:
      raise _wrong_size(image_size, name, _ARRAYS, 'None')
    spec = generated.SPECS[name]
    return load_generated(
      name, spec, root, memory_limit_bytes=memory_limit_bytes
    )
  if lookup.parse_name(name)[0] in generated.SPECS:
    # Its statistics are known by its own name alone.
    raise ValueError(
      f'config.data.name is {name!r}, wanted one of:'
      f' {", ".join(generated.SPECS)}'
    )
  folder = lookup.find(name, root)
  if folder is None:
    raise ValueError(
      f'config.data.name is {name!r}, which is not prepared in {str(root)!r}:'
      f' run `{lookup.prepare_command(name, data_dir)}` (or name one of those'
      f' that are made here: {", ".join(sorted(generated.SPECS))},'
      f' {", ".join(OWN_FILES)})'
    )
  found = prepared.open_prepared(
    folder, train_split=train_split, test_split=test_split
  )
  return _load_prepared(name, found, image_size, resize, memory_limit_bytes)


def load_shapes(
  name: str,
  data_dir: str | os.PathLike[str] | None = None,
  *,
  image_size: int | None = None,
  **options: Any,
) -> Dataset:
  """Opens a data set; without images where TFDS knows it, and has no files."""
  if (
    name in OWN_FILES
    or lookup.parse_name(name)[0] in generated.SPECS
    or lookup.find(name, lookup.get_root(data_dir))
  ):
    return load(name, data_dir, image_size=image_size, **options)
  root = lookup.get_root(data_dir)
  class_names, shape = builders.describe(builders.make_builder(name, root).info)
  resize = None
  if image_size is not None:
    shape = image_size, image_size, 3
    resize = round(image_size / options['crop_fraction'])
  elif None in shape:
    raise _wrong_size(None, name, _SIZES, 'a number of pixels')
  return Dataset(
    name=name,
    class_names=class_names,
    image_shape=shape,
    train=(),
    test=(),
    resize=resize,
    **_statistics(name, shape[-1]),
  )


def load_generated(
  name: str,
  spec: generated.Spec,
  data_dir: str | os.PathLike[str] | None = None,
  *,
  memory_limit_bytes: int = 2**30,
) -> Dataset:
  """Opens a set that is generated here, which is prepared the first time."""
  folder = generated.prepare(name, spec, lookup.get_root(data_dir))
  found = prepared.open_prepared(folder)
  wanted = {'train': spec.num_train, 'test': spec.num_test}
  for source in (found.train, found.test):
    if len(source) != wanted.get(source.split):
      raise tfds_errors.damaged(
        folder,
        f'{source.split}: {len(source)} examples, wanted'
        f' {wanted.get(source.split)}',
      )
  statistics = {
    'pixel_range': spec.pixel_range,
    'pixel_mean': spec.pixel_mean,
    'pixel_std': spec.pixel_std,
  }
  return _of_prepared_arrays(name, found, memory_limit_bytes, statistics)


def from_arrays(
  train: tuple[Any, Any],
  test: tuple[Any, Any],
  class_names: Sequence[str] | None = None,
) -> Dataset:
  """A data set of arrays in memory.

  >>> import numpy as np
  >>> x, y = np.zeros((3, 28, 28), np.uint8), np.array([0, 1, 1])
  >>> from_arrays((x, y), (x[:2], y[:2]), ['cat', 'dog']).image_shape
  (28, 28, 1)

  Args:
    train: images, uint8 `[n, h, w]` or `[n, h, w, c]` with one or three
      channels, and labels, integers `[n]` from 0 on.
    test: those that accuracy is measured on.
    class_names: in the order of the labels; None for their numbers.

  Returns:
    The data set; pixels are normalized by what the training images measure.

  Raises:
    ValueError: where an array is none of these, or they do not fit each other.
  """
  names = 'train[0]', 'train[1]', 'test[0]', 'test[1]'
  found = array_files.make(train, test, class_names, names)
  return _of_own_arrays('arrays', found)


def _of_own_arrays(name: str, found: array_files.Arrays) -> Dataset:
  mean, std = sources.measure(found.train, found.image_shape[-1])
  return Dataset(
    name=name,
    class_names=found.class_names,
    image_shape=found.image_shape,
    pixel_range=(0.0, 255.0),
    pixel_mean=mean,
    pixel_std=std,
    train=found.train,
    test=found.test,
    fingerprint=found.fingerprint(),
  )


def _load_folder(
  found: folders.Folder,
  image_size: int | None,
  resize: int | None,
  memory_limit_bytes: int,
) -> Dataset:
  splits = [found.train, found.test]
  splits += [] if found.validation is None else [found.validation]
  if image_size is None:
    dataset = _of_own_size(found, splits, memory_limit_bytes)
  else:
    dataset = _of_files(FOLDER, found, image_size, resize)
  return dataset._replace(
    fingerprint=' '.join(split.fingerprint() for split in splits),
    is_held_out=found.is_held_out,
    ignored=found.ignored,
  )


def _load_prepared(
  name: str,
  found: prepared.Prepared,
  image_size: int | None,
  resize: int | None,
  memory_limit_bytes: int,
) -> Dataset:
  if image_size is not None:
    if not found.train.is_encoded:
      raise _wrong_size(image_size, name, _ARRAYS, 'None')
    return _of_files(name, found, image_size, resize)
  if None in found.image_shape:
    raise _wrong_size(None, name, _SIZES, 'a number of pixels')
  statistics = _statistics(name, found.image_shape[-1])
  return _of_prepared_arrays(name, found, memory_limit_bytes, statistics)


def _of_prepared_arrays(
  name: str,
  found: prepared.Prepared,
  memory_limit_bytes: int,
  statistics: Mapping[str, Any],
) -> Dataset:
  splits: list[sources.Source] = [found.train, found.test]
  if found.train.is_encoded:
    splits = [sources.DecodedSource(x, found.image_shape) for x in splits]
  train, test = _read_small(splits, found.image_shape, memory_limit_bytes)
  return Dataset(
    name=name,
    class_names=found.class_names,
    image_shape=found.image_shape,
    train=train,
    test=test,
    **statistics,
  )


def _of_own_size(
  found: folders.Folder,
  files: Sequence[folders.FolderSource],
  memory_limit_bytes: int,
) -> Dataset:
  """A folder of images of one size; of one channel where all are grey."""
  shape = sources.find_shape(files)
  decoded = [sources.DecodedSource(x, shape) for x in files]
  train, test, *others = _read_small(decoded, shape, memory_limit_bytes)
  mean, std = sources.measure(train, shape[-1])
  return Dataset(
    name=FOLDER,
    class_names=found.class_names,
    image_shape=shape,
    pixel_range=(0.0, 255.0),
    pixel_mean=mean,
    pixel_std=std,
    train=train,
    test=test,
    validation=others[0] if others else None,
  )


def _read_small(
  splits: Sequence[sources.Source],
  image_shape: Sequence[int],
  memory_limit_bytes: int,
) -> list[sources.Source]:
  """Reads images of one size into memory, if they fit."""
  num_images = sum(map(len, splits))
  if num_images * math.prod(image_shape) > memory_limit_bytes:
    return list(splits)
  return [
    sources.MemorySource(*sources.gather(x, range(len(x)))) for x in splits
  ]


def _of_files(
  name: str,
  found: folders.Folder | prepared.Prepared,
  image_size: int | None,
  resize: int | None,
) -> Dataset:
  """A set of image files, decoded to three channels when they are read."""
  assert image_size is not None
  return Dataset(
    name=name,
    class_names=found.class_names,
    image_shape=(image_size, image_size, 3),
    train=found.train,
    test=found.test,
    validation=getattr(found, 'validation', None),
    resize=resize,
    **_statistics(name, 3),
  )


def _statistics(name: str, num_channels: int) -> dict[str, Any]:
  mean, std = _STATISTICS.get(name.partition(':')[0], _IMAGENET)
  if len(mean) != num_channels:  # Grey, or a set that was made grey or RGB.
    mean, std = (
      num_channels * (round(sum(numbers) / len(numbers), 4),)
      for numbers in (mean, std)
    )
  return {
    'pixel_range': (0.0, 255.0),
    'pixel_mean': tuple(255 * x for x in mean),
    'pixel_std': tuple(255 * x for x in std),
  }


def _wrong_size(
  image_size: int | None, name: str, why: str, wanted: str
) -> ValueError:
  return ValueError(
    f'config.data.image_size is {image_size}, but {name} {why}, wanted {wanted}'
  )
