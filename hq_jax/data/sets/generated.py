"""Sets that are generated here: prepared when they are first opened."""

import contextlib
import io
import pathlib
from typing import NamedTuple

import tensorflow_datasets as tfds

from hq_jax.data.sets import digits
from hq_jax.data.tfds import builders


class Spec(NamedTuple):
  """What the code knows of a data set before anything is read.

  Attributes:
    builder: its TFDS builder.
    pixel_range: the lowest and the highest value that a pixel can have.
    pixel_mean: per channel, the mean of the training images' pixels.
    pixel_std: per channel, their standard deviation.
    num_train: images in the split `train`.
    num_test: images in the split `test`.
    config: the builder's configuration, where it has several.
  """

  builder: type[tfds.core.DatasetBuilder]
  pixel_range: tuple[float, float]
  pixel_mean: tuple[float, ...]
  pixel_std: tuple[float, ...]
  num_train: int
  num_test: int
  config: str | None = None


SPECS = {
  'digits': Spec(
    builder=digits.Digits,
    pixel_range=(0.0, 16.0),
    pixel_mean=(4.888974556669237,),
    pixel_std=(6.012276206082599,),
    num_train=digits.NUM_TRAIN,
    num_test=digits.NUM_TEST,
  ),
}


def prepare(name: str, spec: Spec, root: pathlib.Path) -> pathlib.Path:
  """Prepares a set, unless it is there already; returns its folder."""
  folder = root / name / str(spec.builder.VERSION)
  if not folder.exists():
    # TFDS prints that it downloads, which it does not, and progress bars.
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
      builders.write(
        spec.builder(
          data_dir=root, config=spec.config, file_format='array_record'
        )
      )
  return folder
