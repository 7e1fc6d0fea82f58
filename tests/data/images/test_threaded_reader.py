"""The count of images that cannot be read."""

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
