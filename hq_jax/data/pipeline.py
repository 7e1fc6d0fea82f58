"""Batches: endless and shuffled to train on, each image once to evaluate."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
from typing import Any

import grain
import numpy as np

from hq_jax.data import augment
from hq_jax.data import crops
from hq_jax.data import datasets
from hq_jax.data import normalization
from hq_jax.data import readers
from hq_jax.data import sources
from hq_jax.data import unreadable as unreadable_lib

Batch = dict[str, np.ndarray]
# Images, labels, and which of the images could be read.
_Read = tuple[np.ndarray, np.ndarray, np.ndarray]

# Reading ahead pays where examples come from a disk; where they come from
# memory, threads only fight for the interpreter.
_MEMORY_READ = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
_DISK_READ = grain.ReadOptions(num_threads=8, prefetch_buffer_size=16)
# Image files are decoded by the threads of a `FileReader`, which two batches at
# a time keep busy; a batch of them may fill hundreds of megabytes.
_FILE_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)


def make_train_iterator(
  dataset: datasets.Dataset,
  *,
  batch_size: int,
  seed: int,
  max_shift: int = 0,
  flip: bool = False,
  min_area: float = 0.08,
  unreadable: unreadable_lib.Unreadable | None = None,
  num_threads: int | None = None,
  process_index: int = 0,
  process_count: int = 1,
) -> grain.DatasetIterator[Batch]:
  """Returns an endless iterator over the shuffled training images.

  Every epoch has its own order. Batches run on over the end of an epoch, so
  that no image is dropped. The iterator's `get_state()` is one number, the
  index of the next global batch: `set_state()` continues bit-identically, also
  with another `process_count`, but not with another `batch_size` or `seed`.

  Args:
    dataset: a data set.
    batch_size: images in a global batch, a multiple of `process_count`.
    seed: of the order, the shifts, the flips and the crops,
      0 <= seed < 2**64.
    max_shift: arrays are moved by up to this many pixels along each axis, at
      random; 0 leaves them as they are.
    flip: half of the images are mirrored, at random.
    min_area: the least area of a random crop of an image file, over the area of
      the image.
    unreadable: what cannot be read is counted there, and another image stands
      in for it; None for an error at the first.
    num_threads: that decode image files; None for one per core.
    process_index: which share of every global batch to return:
      0 <= process_index < process_count. Shares are contiguous, and put
      together they are the batch that a single process gets.
    process_count: how many processes share a global batch, >= 1.

  Returns:
    A Grain iterator of dicts: `image`, float32 `[local_batch, h, w, c]`,
    normalized, and `label`, int32 `[local_batch]`, with
    `local_batch = batch_size // process_count`.

  Raises:
    ValueError: for a size, a seed or an index outside its range.

  >>> import tempfile
  >>> with tempfile.TemporaryDirectory() as data_dir:
  ...   digits = datasets.load('digits', data_dir)
  >>> batches = make_train_iterator(digits, batch_size=50, seed=0, max_shift=1)
  >>> next(batches)['image'].shape, batches.get_state()
  ((50, 8, 8, 1), {'next_index': 1})
  """
  local_size = _local_size(batch_size, process_index, process_count)
  _check_range('seed', seed, 0, 2**64 - 1)
  _check_range('max_shift', max_shift, 0, min(dataset.image_shape[:2]) - 1)
  options: grain.ReadOptions
  if dataset.resize is not None:
    options = _FILE_READ
    make_image = functools.partial(
      _crop_at_random,
      seed=seed,
      size=dataset.image_shape[0],
      min_area=min_area,
      flip=flip,
    )
    reader = readers.FileReader(
      dataset.train,
      make_image,
      unreadable or unreadable_lib.Unreadable(0),
      num_threads,
    )
    read = reader.read
  else:
    in_memory = isinstance(dataset.train, sources.MemorySource)
    options = _MEMORY_READ if in_memory else _DISK_READ
    read = functools.partial(
      _read_arrays, dataset.train, seed=seed, max_shift=max_shift, flip=flip
    )
  make_batch = functools.partial(
    _make_train_batch,
    read=read,
    preprocessing=normalization.preprocessing(dataset),
    batch_size=batch_size,
    local_first=process_index * local_size,
  )
  # Grain shuffles epoch e with seed + e: neighbouring seeds would meet each
  # other's orders one epoch later. Hashed seeds do not.
  shuffle_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
  batches = (
    grain.MapDataset.range(len(dataset.train))
    .shuffle(seed=shuffle_seed)
    .repeat()
    # Nothing is dropped: the epochs have no end.
    .batch(local_size, drop_remainder=True, batch_fn=np.array)
    .slice(slice(process_index, None, process_count))
    .map_with_index(make_batch)
  )
  return iter(batches.to_iter_dataset(options))


@dataclasses.dataclass(frozen=True)
class EvalBatches:
  """The batches of one pass over a split; iterate over it as often as needed.

  Made by `make_eval_batches`, which describes what it yields.
  """

  source: sources.Source
  preprocessing: Mapping[str, Any]
  batch_size: int
  unreadable: unreadable_lib.Unreadable
  num_threads: int | None
  process_index: int
  process_count: int

  def __len__(self) -> int:
    return -(-len(self.source) // self.batch_size)

  def __iter__(self) -> Iterator[Batch]:
    crop = normalization.get_crop(self.preprocessing)
    read = self._read_arrays() if crop is None else self._read_files(*crop)
    # The examples of each batch by `read`, and which of them there are.
    for (images, labels, readable), positions in zip(
      read, self._get_positions(), strict=True
    ):
      images = normalization.normalize(images, self.preprocessing)
      valid = readable & (positions < len(self.source))
      yield {'image': images, 'label': labels, 'valid': valid}

  def _get_positions(self) -> Iterator[np.ndarray]:
    local_size = self.batch_size // self.process_count
    for batch in range(len(self)):
      first = batch * self.batch_size + self.process_index * local_size
      yield np.arange(first, first + local_size)

  def _get_indices(self) -> Iterator[np.ndarray]:
    # Where there is nothing left, the first example fills up the batch.
    for positions in self._get_positions():
      yield np.where(positions < len(self.source), positions, 0)

  def _read_arrays(self) -> Iterator[_Read]:
    for indices in self._get_indices():
      images, labels = sources.gather(self.source, indices)
      yield images, labels, np.ones(len(labels), bool)

  def _read_files(self, resize: int, size: int) -> Iterator[_Read]:
    make_image = lambda data, position: crops.center_crop(
      data, size=size, resize=resize
    )
    reader = readers.FileReader(
      self.source, make_image, self.unreadable, self.num_threads
    )
    nothing = np.zeros((size, size, 3), np.uint8), 0
    for found in reader.read_all(self._get_indices()):
      readable = np.array([example is not None for example in found])
      filled = [nothing if example is None else example for example in found]
      yield (
        np.stack([image for image, _ in filled]),
        np.array([label for _, label in filled], np.int32),
        readable,
      )


def make_eval_batches(
  source: sources.Source,
  *,
  preprocessing: Mapping[str, Any],
  batch_size: int,
  unreadable: unreadable_lib.Unreadable | None = None,
  num_threads: int | None = None,
  process_index: int = 0,
  process_count: int = 1,
) -> EvalBatches:
  """Returns the batches of one pass over a split, in the split's order.

  Together the processes see every image exactly once, and each of them gets
  the same number of batches, all of the same shape: what is missing in the
  last one is filled up with images whose `valid` is False.

  Args:
    source: a split, such as `dataset.test`.
    preprocessing: how to normalize: what `normalization.preprocessing(dataset)`
      returned, or what a compressed model's file says.
    batch_size: images in a global batch, a multiple of `process_count`.
    unreadable: what cannot be read is counted there and is not `valid`; None
      for an error at the first.
    num_threads: that decode image files; None for one per core.
    process_index: which share of every global batch to return.
    process_count: how many processes share a global batch.

  Returns:
    An iterable, with a length, of dicts: `image`, float32
    `[local_batch, h, w, c]`, normalized; `label`, int32 `[local_batch]`;
    `valid`, bool `[local_batch]`.

  Raises:
    ValueError: for a size or an index outside its range.

  >>> import tempfile
  >>> with tempfile.TemporaryDirectory() as data_dir:
  ...   digits = datasets.load('digits', data_dir)
  >>> batches = make_eval_batches(
  ...   digits.test,
  ...   preprocessing=normalization.preprocessing(digits),
  ...   batch_size=128)
  >>> [int(batch['valid'].sum()) for batch in batches]
  [128, 128, 128, 116]
  """
  _local_size(batch_size, process_index, process_count)
  return EvalBatches(
    source,
    preprocessing,
    batch_size,
    unreadable or unreadable_lib.Unreadable(0),
    num_threads,
    process_index,
    process_count,
  )


def _crop_at_random(
  data: bytes, position: int, *, seed: int, **arguments: Any
) -> np.ndarray:
  words = crops.random_words(seed, position)
  return crops.random_resized_crop(data, words, **arguments)


def _read_arrays(
  source: sources.Source,
  indices: np.ndarray,
  first_position: int,
  *,
  seed: int,
  max_shift: int,
  flip: bool,
) -> tuple[np.ndarray, np.ndarray]:
  """Reads arrays, and shifts and flips them."""
  images, labels = sources.gather(source, indices)
  where = seed, first_position, len(indices)
  if max_shift:
    images = augment.shift(images, augment.random_offsets(*where, max_shift))
  if flip:
    images = augment.flip(images, augment.random_flips(*where))
  return images, labels


def _make_train_batch(
  batch: int,
  indices: np.ndarray,
  *,
  read: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]],
  preprocessing: Mapping[str, Any],
  batch_size: int,
  local_first: int,
) -> Batch:
  """Reads and normalizes a share of global batch number `batch`."""
  images, labels = read(indices, batch * batch_size + local_first)
  images = normalization.normalize(images, preprocessing)
  return {'image': images, 'label': labels}


def _local_size(batch_size: int, process_index: int, process_count: int) -> int:
  """Returns one process's share of a global batch, in images."""
  _check_range('process_count', process_count, 1, None)
  _check_range('process_index', process_index, 0, process_count - 1)
  _check_range('batch_size', batch_size, 1, None)
  if batch_size % process_count:
    raise ValueError(
      f'batch_size: got {batch_size}, wanted a multiple of process_count'
      f' {process_count}'
    )
  return batch_size // process_count


def _check_range(name: str, value: int, low: int, high: int | None) -> None:
  if not isinstance(value, int | np.integer):
    raise ValueError(f'{name}: got {value!r}, wanted an integer')
  if value < low or (high is not None and value > high):
    wanted = f'{low}..{high}' if high is not None else f'at least {low}'
    raise ValueError(f'{name}: got {value}, wanted {wanted}')
