"""Sets that are generated here: prepared when they are first opened."""

import contextlib
import io
import math
import os
import pathlib
import tempfile
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from hq_jax.data import sources
from hq_jax.data.sets import digits
from hq_jax.data.tfds import errors as tfds_errors


class Spec(NamedTuple):
  """What the code knows of a data set before anything is read.

  Attributes:
    builder: its TFDS builder.
    class_names: in the order of the labels.
    image_shape: `(h, w, c)` of every image.
    pixel_range: the lowest and the highest value that a pixel can have.
    pixel_mean: per channel, the mean of the training images' pixels.
    pixel_std: per channel, their standard deviation.
    num_train: images in the split `train`.
    num_test: images in the split `test`.
    config: the builder's configuration, where it has several.
  """

  builder: type[tfds.core.DatasetBuilder]
  class_names: tuple[str, ...]
  image_shape: tuple[int, int, int]
  pixel_range: tuple[float, float]
  pixel_mean: tuple[float, ...]
  pixel_std: tuple[float, ...]
  num_train: int
  num_test: int
  config: str | None = None


SPECS = {
  'digits': Spec(
    builder=digits.Digits,
    class_names=digits.CLASS_NAMES,
    image_shape=digits.IMAGE_SHAPE,
    pixel_range=(0.0, 16.0),
    pixel_mean=(4.888974556669237,),
    pixel_std=(6.012276206082599,),
    num_train=digits.NUM_TRAIN,
    num_test=digits.NUM_TEST,
  ),
}


def open_splits(
  name: str, spec: Spec, root: pathlib.Path, *, memory_limit_bytes: int
) -> tuple[sources.Source, sources.Source]:
  """Opens both splits of a set, and prepares it first if it is not there.

  Preparing is safe against other processes that do the same at the same time
  and against being killed: the files are written to a temporary folder, named
  `incomplete.*`, which is renamed when it is complete. A killed process
  leaves its `incomplete.*` folder behind, which may be deleted.
  """
  folder = root / name / str(spec.builder.VERSION)
  if not (folder / 'dataset_info.json').exists():
    _prepare(spec, root, folder)
  in_memory = _num_bytes(spec) <= memory_limit_bytes
  try:
    if not (folder / 'dataset_info.json').exists():
      raise ValueError('dataset_info.json is missing')
    builder = _make_builder(spec, root)
    train = _open(builder, spec, 'train', in_memory)
    test = _open(builder, spec, 'test', in_memory)
  except Exception as error:  # TFDS and array_record raise most kinds of it.
    raise ValueError(
      f'data_dir: {str(folder)!r} is damaged or incomplete'
      f' ({tfds_errors.first_line(error)}): delete that folder to have it'
      ' prepared again'
    ) from error
  return train, test


def _num_bytes(spec: Spec) -> int:
  return (spec.num_train + spec.num_test) * math.prod(spec.image_shape)


def _make_builder(
  spec: Spec, root: str | os.PathLike[str], **arguments: Any
) -> tfds.core.DatasetBuilder:
  if spec.config is not None:
    arguments['config'] = spec.config
  return spec.builder(data_dir=root, **arguments)


def _prepare(spec: Spec, root: pathlib.Path, folder: pathlib.Path) -> None:
  """Writes the data set to `folder`, in one atomic step."""
  folder.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix='incomplete.', dir=root) as scratch:
    builder = _make_builder(spec, scratch, file_format='array_record')
    # TFDS prints that it downloads, which it does not, and progress bars.
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
      builder.download_and_prepare()
    try:
      os.rename(builder.data_dir, folder)
    except OSError:
      # Another process has put its folder there meanwhile (ours is dropped,
      # theirs is as good), or a damaged one lies there (opening it says so).
      if not folder.exists():
        raise


def _open(
  builder: tfds.core.DatasetBuilder, spec: Spec, split: str, in_memory: bool
) -> sources.Source:
  """Opens one split and checks it against what the code expects."""
  source = builder.as_data_source(split=split)
  num_examples = spec.num_train if split == 'train' else spec.num_test
  if len(source) != num_examples:
    raise ValueError(
      f'{split}: {len(source)} examples, expected {num_examples}'
    )
  images, labels = sources.gather(
    source, range(num_examples if in_memory else 1)
  )
  if images.dtype != np.uint8 or images.shape[1:] != spec.image_shape:
    raise ValueError(
      f'{split}: images are {images.dtype} {images.shape[1:]}, expected uint8'
      f' {spec.image_shape}'
    )
  if labels.min() < 0 or labels.max() >= len(spec.class_names):
    raise ValueError(
      f'{split}: labels {labels.min()}..{labels.max()}, expected'
      f' 0..{len(spec.class_names) - 1}'
    )
  return sources.MemorySource(images, labels) if in_memory else source
