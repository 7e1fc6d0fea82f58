"""The count of images that cannot be read."""

import pickle
import threading

import pytest

from hq_jax.data.images import threaded_reader


def test_each_is_counted_once_and_warned_of_once(caplog):
  found = threaded_reader.Unreadable(2)
  for name in ('b.jpg', 'a.jpg', 'b.jpg', 'a.jpg', 'a.jpg'):
    found.add(name, ValueError(f'{name} is cut\nand more'))
  assert found.names == ('b.jpg', 'a.jpg')
  messages = [record.getMessage() for record in caplog.records]
  assert messages == [
    'skipped, 1 of at most 2: b.jpg: b.jpg is cut',
    'skipped, 2 of at most 2: a.jpg: a.jpg is cut',
  ]


def test_one_above_the_limit_is_an_error_that_names_some():
  found = threaded_reader.Unreadable(3)
  for i in range(3):
    found.add(f'{i}.jpg', OSError('gone'))
  with pytest.raises(ValueError) as caught:
    found.add('new.jpg', OSError())
  assert str(caught.value) == (
    '4 image(s) cannot be read, wanted at most 3 (config.data.max_unreadable):'
    ' 0.jpg, 1.jpg, new.jpg (OSError)'
  )


def test_threads_lose_none():
  found = threaded_reader.Unreadable(10**6)
  barrier = threading.Barrier(8)

  def add(thread):
    barrier.wait()
    for i in range(200):
      found.add(f'{thread % 4}/{i}', ValueError())

  threads = [threading.Thread(target=add, args=(i,)) for i in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(found.names) == len(set(found.names)) == 4 * 200


def test_what_copies_in_other_processes_meet_is_counted_here(caplog):
  found = threaded_reader.Unreadable(3)
  found.add('a.jpg', ValueError('it is empty'))
  caplog.clear()
  copies = [pickle.loads(pickle.dumps(found)) for _ in range(2)]
  for copy, name in zip(copies, ('b.jpg', 'c.jpg'), strict=True):
    copy.add(name, ValueError('it is cut'))
    assert copy.names == ('a.jpg', name)
  assert caplog.records == []  # They leave that to the run.
  found.update(pickle.loads(pickle.dumps(copies[1])))
  found.update(copies[0])
  found.update(copies[1])
  assert found.names == ('a.jpg', 'c.jpg', 'b.jpg')
  assert [record.getMessage() for record in caplog.records] == [
    'skipped, 2 of at most 3: c.jpg: it is cut',
    'skipped, 3 of at most 3: b.jpg: it is cut',
  ]
  # Two copies within the limit, which are above it together.
  copies[0].add('d.jpg', ValueError('it is gone'))
  with pytest.raises(ValueError) as caught:
    found.update(copies[0])
  assert str(caught.value) == (
    '4 image(s) cannot be read, wanted at most 3 (config.data.max_unreadable):'
    ' a.jpg, c.jpg, d.jpg (it is gone)'
  )
