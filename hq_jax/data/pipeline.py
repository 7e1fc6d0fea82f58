"""Batches: endless and shuffled to train on, each image once to evaluate."""

from collections.abc import Iterator, Mapping
import dataclasses
import functools
from typing import Any

import grain
import numpy as np

from hq_jax.data import augment
from hq_jax.data import datasets
from hq_jax.data import normalization
from hq_jax.data import sources

Batch = dict[str, np.ndarray]

# Reading ahead pays where examples come from a disk; where they come from
# memory, threads only fight for the interpreter.
_MEMORY_READ = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
_DISK_READ = grain.ReadOptions(num_threads=8, prefetch_buffer_size=16)


def make_train_iterator(
  dataset: datasets.Dataset,
  *,
  batch_size: int,
  seed: int,
  max_shift: int = 0,
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
    seed: of the order and the shifts, 0 <= seed < 2**64.
    max_shift: images are moved by up to this many pixels along each axis, at
      random; 0 leaves them as they are.
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
  make_batch = functools.partial(
    _make_train_batch,
    source=dataset.train,
    preprocessing=normalization.preprocessing(dataset),
    batch_size=batch_size,
    local_first=process_index * local_size,
    seed=seed,
    max_shift=max_shift,
  )
  # Grain shuffles epoch e with seed + e: neighbouring seeds would meet each
  # other's orders one epoch later. Hashed seeds do not.
  shuffle_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
  batches = (
    grain.MapDataset.range(len(dataset.train))
    .shuffle(seed=shuffle_seed)
    .repeat()
    .batch(local_size, batch_fn=np.array)
    .slice(slice(process_index, None, process_count))
    .map_with_index(make_batch)
  )
  in_memory = isinstance(dataset.train, sources.MemorySource)
  return iter(
    batches.to_iter_dataset(_MEMORY_READ if in_memory else _DISK_READ)
  )


@dataclasses.dataclass(frozen=True)
class EvalBatches:
  """The batches of one pass over a split; iterate over it as often as needed.

  Made by `make_eval_batches`, which describes what it yields.
  """

  source: sources.Source
  preprocessing: Mapping[str, Any]
  batch_size: int
  process_index: int
  process_count: int

  def __len__(self) -> int:
    return -(-len(self.source) // self.batch_size)

  def __iter__(self) -> Iterator[Batch]:
    local_size = self.batch_size // self.process_count
    for batch in range(len(self)):
      first = batch * self.batch_size + self.process_index * local_size
      positions = np.arange(first, first + local_size)
      valid = positions < len(self.source)
      # Where there is nothing left, the first example fills up the batch.
      indices = np.where(valid, positions, 0)
      images, labels = sources.gather(self.source, indices)
      images = normalization.normalize(images, self.preprocessing)
      yield {'image': images, 'label': labels, 'valid': valid}


def make_eval_batches(
  source: sources.Source,
  *,
  preprocessing: Mapping[str, Any],
  batch_size: int,
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
    source, preprocessing, batch_size, process_index, process_count
  )


def _make_train_batch(
  batch: int,
  indices: np.ndarray,
  *,
  source: sources.Source,
  preprocessing: Mapping[str, Any],
  batch_size: int,
  local_first: int,
  seed: int,
  max_shift: int,
) -> Batch:
  """Reads, shifts and normalizes a share of global batch number `batch`."""
  images, labels = sources.gather(source, indices)
  if max_shift:
    first = batch * batch_size + local_first
    offsets = augment.random_offsets(seed, first, len(indices), max_shift)
    images = augment.shift(images, offsets)
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
