"""Batches to evaluate on: each image of a split exactly once."""

from collections.abc import Iterator, Mapping
import dataclasses
from typing import Any

import numpy as np

from hq_jax.data import normalization
from hq_jax.data import preprocessing as preprocessing_lib
from hq_jax.data import sources
from hq_jax.data.images import threaded_reader
from hq_jax.runtime import distributed

Batch = dict[str, np.ndarray]
# Images, labels, and which of the images could be read.
_Read = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class EvalBatches:
  """The batches of one pass over a split, in the split's order.

  Iterate over it as often as needed. Together the processes see every image
  exactly once, and each of them gets the same number of batches, all of the
  same shape: what is missing in the last one is filled up with images whose
  `valid` is False. `position` is the place of an image in the split.
  """

  source: sources.Source
  _: dataclasses.KW_ONLY
  preprocessing: Mapping[str, Any]
  batch_size: int
  unreadable: threaded_reader.Unreadable | None = None
  num_threads: int | None = None
  process_index: int = 0
  process_count: int = 1

  def __post_init__(self) -> None:
    distributed.get_local_size(
      self.batch_size, self.process_index, self.process_count
    )

  def __len__(self) -> int:
    return -(-len(self.source) // self.batch_size)

  def __iter__(self) -> Iterator[Batch]:
    crop = normalization.get_crop(self.preprocessing)
    read = self._read_arrays() if crop is None else self._read_files(crop[1])
    # The examples of each batch by `read`, and which of them there are.
    for (images, labels, readable), positions in zip(
      read, self._get_positions(), strict=True
    ):
      images = normalization.normalize(images, self.preprocessing)
      valid = readable & (positions < len(self.source))
      yield {
        'image': images,
        'label': labels,
        'valid': valid,
        'position': positions.astype(np.int32),
      }

  def _get_positions(self) -> Iterator[np.ndarray]:
    local_size = self.batch_size // self.process_count
    for batch in range(len(self)):
      first = batch * self.batch_size + self.process_index * local_size
      yield np.arange(first, first + local_size)

  def _read_arrays(self) -> Iterator[_Read]:
    for positions in self._get_positions():
      # Where there is nothing left, the first example fills up the batch.
      indices = np.where(positions < len(self.source), positions, 0)
      images, labels = sources.gather(self.source, indices)
      yield images, labels, np.ones(len(labels), bool)

  def _read_files(self, size: int) -> Iterator[_Read]:
    shape = size, size, 3
    make_image = lambda data, position: preprocessing_lib.to_pixels(
      data, shape, self.preprocessing
    )
    reader = threaded_reader.FileReader(
      self.source,
      make_image,
      self.unreadable or threaded_reader.Unreadable(0),
      self.num_threads,
    )
    nothing = np.zeros(shape, np.uint8), 0
    indices = (
      positions[positions < len(self.source)]
      for positions in self._get_positions()
    )
    local_size = self.batch_size // self.process_count
    for found in reader.read_all(indices):
      found += [None] * (local_size - len(found))
      readable = np.array([example is not None for example in found])
      filled = [nothing if example is None else example for example in found]
      yield (
        np.stack([image for image, _ in filled]),
        np.array([label for _, label in filled], np.int32),
        readable,
      )
