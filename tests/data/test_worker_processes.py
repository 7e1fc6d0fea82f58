"""Batches that worker processes read: the same, counted, and to their end."""

import contextlib
import gc
import itertools
import json
import multiprocessing
import os
import re
import signal

from jax._src import xla_bridge
import numpy as np
import pytest

from hq_jax.data import train_batches
from hq_jax.data.images import threaded_reader
from tests.data import numbered

_SETTINGS = {'batch_size': 6, 'seed': 3, 'flip': True}


def _make(dataset, num_workers, **kwargs):
  """Batches that are closed at the end of a block."""
  return contextlib.closing(
    train_batches.make_train_iterator(
      dataset, **_SETTINGS | kwargs, num_workers=num_workers
    )
  )


def _take(num_batches, *args, **kwargs):
  with _make(*args, **kwargs) as batches:
    return list(itertools.islice(batches, num_batches))


@pytest.mark.parametrize(
  'num_workers', [1, pytest.param(3, marks=pytest.mark.slow)]
)
def test_batches_are_those_of_one_process(files, num_workers):
  wanted = numbered.take(8, files, **_SETTINGS)
  with _make(files, num_workers) as batches:
    found = list(itertools.islice(batches, 8))
    assert batches.get_state() == {'next_index': 8}
  numbered.assert_equal(found, wanted)
  assert type(found[0]['image']) is np.ndarray
  assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_arrays_on_a_disk_are_read_by_workers_too(digits_on_disk):
  kwargs = {'batch_size': 64, 'max_shift': 1}
  numbered.assert_equal(
    _take(5, digits_on_disk, 2, **kwargs), _take(5, digits_on_disk, 0, **kwargs)
  )


@pytest.mark.slow
def test_shares_of_two_runs_that_have_workers(files):
  wanted = _take(4, files, 0)
  shares = [
    _take(4, files, 1 + i, process_index=i, process_count=2) for i in range(2)
  ]
  numbered.assert_equal(numbered.join(shares), wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('before', 'after'), [(0, 2), (2, 0), (2, 1), (1, 2), (2, 2)]
)
def test_state_fits_another_number_of_workers(files, before, after):
  wanted = numbered.take(10, files, **_SETTINGS)
  with _make(files, before) as batches:
    numbered.assert_equal(list(itertools.islice(batches, 5)), wanted[:5])
    state = json.loads(json.dumps(batches.get_state()))
  with _make(files, after) as batches:
    next(batches)
    batches.set_state(state)
    assert batches.get_state() == state == {'next_index': 5}
    numbered.assert_equal(list(itertools.islice(batches, 5)), wanted[5:])


@pytest.mark.slow
def test_the_run_counts_what_workers_cannot_read(damaged, caplog):
  dataset = numbered.load_files(damaged)
  settings = _SETTINGS | {'unreadable': threaded_reader.Unreadable(3)}
  wanted = numbered.take(10, dataset, **settings)
  caplog.clear()
  unreadable = threaded_reader.Unreadable(3)
  with _make(dataset, 2, unreadable=unreadable) as batches:
    found = list(itertools.islice(batches, 5))
    # New workers know what others have met.
    batches.set_state(batches.get_state())
    found += itertools.islice(batches, 5)
  numbered.assert_equal(found, wanted)
  names = {'train/b/04.jpg', 'train/c/05.jpg', 'train/c/20.jpg'}
  assert set(unreadable.names) == names
  said = [record.getMessage() for record in caplog.records]
  assert len(said) == 3
  for number, name in enumerate(unreadable.names, 1):
    assert said[number - 1].startswith(
      f'skipped, {number} of at most 3: {name}'
    )


@pytest.mark.slow
# Two workers meet three: neither of them more than two, or one all of them.
@pytest.mark.parametrize(('num_workers', 'limit'), [(2, 2), (1, 0)])
def test_too_many_unreadable_ones_end_the_run(damaged, num_workers, limit):
  dataset = numbered.load_files(damaged)
  unreadable = threaded_reader.Unreadable(limit)
  with (
    _make(dataset, num_workers, unreadable=unreadable) as batches,
    pytest.raises(ValueError) as caught,
  ):
    for _ in range(23):
      next(batches)
  assert re.fullmatch(
    rf'{limit + 1} image\(s\) cannot be read, wanted at most {limit}'
    r' \(config\.data\.max_unreadable\): train/.*\.jpg \(image .*\)',
    str(caught.value),
  )
  assert multiprocessing.active_children() == []


class _Witness:
  """Examples that tell of the process that reads them."""

  def __len__(self):
    return 12

  def __getitem__(self, index):
    image = np.full((8, 8, 1), xla_bridge.backends_are_initialized(), np.uint8)
    return {'image': image, 'label': os.getpid()}


@pytest.mark.slow
def test_workers_leave_devices_alone_and_signals_to_the_run(arrays):
  dataset = arrays._replace(
    train=_Witness(), pixel_mean=(0.0,), pixel_std=(1.0,)
  )
  with _make(dataset, 2, flip=False) as batches:
    first = list(itertools.islice(batches, 4))
    processes = [batch['label'][0] for batch in first]
    assert processes[:2] == processes[2:]
    workers = {process.pid for process in multiprocessing.active_children()}
    assert set(processes) == workers
    for worker in workers:
      os.kill(worker, signal.SIGINT)
      os.kill(worker, signal.SIGTERM)
    # More than were read before the signals.
    later = list(itertools.islice(batches, 20))
    assert [batch['label'][0] for batch in later] == 10 * processes[:2]
  for batch in first + later:
    assert len(set(batch['label'])) == 1
    np.testing.assert_array_equal(batch['image'], 0)


@pytest.mark.slow
def test_a_worker_that_was_killed_is_an_error(files):
  with _make(files, 2) as batches:
    next(batches)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(
      ChildProcessError, match=r'num_workers: .* exit code -9'
    ):
      for _ in range(20):
        next(batches)
  assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_workers_end_with_batches_that_nobody_closed(files):
  batches = train_batches.make_train_iterator(files, **_SETTINGS, num_workers=3)
  next(batches)  # Of the first of them.
  assert len(multiprocessing.active_children()) == 3
  del batches
  gc.collect()
  assert multiprocessing.active_children() == []
