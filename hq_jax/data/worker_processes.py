"""Worker processes that read batches, in the order of a single process."""

import multiprocessing
import os
import signal
import threading
from typing import Any

from absl import flags
import grain
import jax
import numpy as np

from hq_jax.data.images import threaded_reader

Batch = dict[str, np.ndarray]
# A batch, and what its worker could not read so far.
Reported = tuple[Batch, threaded_reader.Unreadable]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class WorkerIterator(grain.DatasetIterator[Batch]):
  """Batches that processes read by turns; the order is that of one process.

  The state is that without workers, the index of the next batch: Grain's own
  has an entry for each worker. The workers start with the first batch; without
  `close` they end with the iterator, or with the process.
  """

  def __init__(
    self,
    batches: grain.MapDataset[Reported],
    options: grain.ReadOptions,
    num_workers: int,
    unreadable: threaded_reader.Unreadable,
  ):
    super().__init__()
    self._batches = batches
    self._options = options
    self._num_workers = num_workers
    self._unreadable = unreadable
    self._next_index = 0
    self._started: grain.DatasetIterator[Reported] | None = None

  def __next__(self) -> Batch:
    if self._started is None:
      self._started = self._start()
    try:
      batch, found = next(self._started)
    except RuntimeError as error:  # Grain's, where a worker was killed.
      raise ChildProcessError(f'config.data.num_workers: {error}') from error
    self._unreadable.update(found)
    self._next_index += 1
    # Out of the memory that is shared, which would be taken for leaked where
    # the process ends with it.
    return {name: np.array(values) for name, values in batch.items()}

  def get_state(self) -> dict[str, Any]:
    """Returns the index of the next batch."""
    return {'next_index': self._next_index}

  def set_state(self, state: dict[str, Any]) -> None:
    """Ends the workers; new ones go on from there."""
    self.close()
    self._started = None
    self._next_index = state['next_index']

  def close(self) -> None:
    """Ends the workers and waits for them."""
    if self._started is not None:
      self._started.close()

  def _start(self) -> grain.DatasetIterator[Reported]:
    # Worker w of n reads the batches w, w + n, ..., which come by turns.
    dataset = (
      self._batches.slice(slice(self._next_index, None))
      .to_iter_dataset(self._options)
      .mp_prefetch(
        grain.MultiprocessingOptions(self._num_workers),
        worker_init_fn=_begin_worker,
      )
    )
    if not flags.FLAGS.is_parsed():  # As in a notebook: Grain reads its own.
      flags.FLAGS.mark_as_parsed()
    iterator = iter(dataset)
    # Makes the iterators of all workers, which `start_prefetch` starts then; it
    # would leave to threads of their own those that are not made yet.
    iterator.get_state()
    # What a thread blocks is blocked in the processes that it starts, from the
    # first moment on. The run hears these signals, and still needs its workers.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
      iterator.start_prefetch()
    finally:
      signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return iterator


def _begin_worker(index: int, count: int) -> None:
  """Keeps a process off the accelerator, and ends it with the run."""
  del index, count
  jax.config.update('jax_platforms', 'cpu')
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  """Waits until the run is gone, however it ended, and ends this process."""
  parent = multiprocessing.parent_process()
  assert parent is not None
  parent.join()
  os._exit(1)
