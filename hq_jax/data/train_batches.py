"""Training batches: endless, shuffled, divided among processes."""

import functools

import grain
import numpy as np

from hq_jax.data import normalization
from hq_jax.data import sources
from hq_jax.data import worker_processes
from hq_jax.data.images import augment
from hq_jax.data.images import crops
from hq_jax.data.images import threaded_reader
from hq_jax.data.sets import datasets
from hq_jax.runtime import cores
from hq_jax.runtime import distributed

Batch = worker_processes.Batch

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
  max_erased: float = 0.0,
  min_area: float = 0.08,
  unreadable: threaded_reader.Unreadable | None = None,
  num_threads: int | None = None,
  num_workers: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> grain.DatasetIterator[Batch]:
  """Returns an endless iterator over the shuffled training images.

  Every epoch has its own order. Batches run on over the end of an epoch, so
  that no image is dropped. The iterator's `get_state()` is one number, the
  index of the next global batch: `set_state()` continues bit-identically, also
  with another `process_count` or `num_workers`, but not with another
  `batch_size` or `seed`.

  With `num_workers`, so many processes read the same batches, and share the
  `num_threads`. `close()` ends them.
  """
  local_size = distributed.get_local_size(
    batch_size, process_index, process_count
  )
  distributed.check_range('seed', seed, 0, 2**64 - 1)
  distributed.check_range(
    'max_shift', max_shift, 0, min(dataset.image_shape[:2]) - 1
  )
  distributed.check_range('num_workers', num_workers, 0, None)
  unreadable = unreadable or threaded_reader.Unreadable(0)
  options: grain.ReadOptions
  if dataset.resize is not None:
    options = _FILE_READ
    # Not the whole set, which would be copied into each worker.
    size = dataset.image_shape[0]
    make_image = lambda data, position: crops.random_resized_crop(
      data,
      crops.random_words(seed, position),
      size=size,
      min_area=min_area,
      flip=flip,
    )
    if num_workers:
      num_threads = -(-(num_threads or cores.count_cores()) // num_workers)
    reader = threaded_reader.FileReader(
      dataset.train, make_image, unreadable, num_threads
    )
    read = reader.read
  else:
    in_memory = isinstance(dataset.train, sources.MemorySource)
    options = _MEMORY_READ if in_memory else _DISK_READ
    read = functools.partial(
      _read_arrays, dataset.train, seed=seed, max_shift=max_shift, flip=flip
    )
  preprocessing = normalization.preprocessing(dataset)
  local_first = process_index * local_size

  def make_batch(batch: int, indices: np.ndarray) -> Batch:
    first = batch * batch_size + local_first
    images, labels = read(indices, first)
    if max_erased:
      size = dataset.image_shape[0], dataset.image_shape[1]
      boxes = augment.random_boxes(seed, first, len(images), size, max_erased)
      images = augment.erase(images, boxes, dataset.pixel_mean)
    images = normalization.normalize(images, preprocessing)
    return {'image': images, 'label': labels}

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
  if not num_workers:
    return iter(batches.to_iter_dataset(options))
  # Each worker has its own copy of what counts.
  reported = batches.map(lambda batch: (batch, unreadable))
  return worker_processes.WorkerIterator(
    reported, options, num_workers, unreadable
  )


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
