"""Images that cannot be read: counted, named, and at some point too many."""

import threading

from absl import logging


class Unreadable:
  """What could not be read in a run, up to a limit; safe in threads.

  >>> unreadable = Unreadable(1)
  >>> unreadable.add('a.jpg', ValueError('it is empty'))
  >>> unreadable.names
  ('a.jpg',)
  >>> unreadable.add('b.jpg', ValueError('it is cut'))
  Traceback (most recent call last):
  ValueError: 2 image(s) cannot be read, wanted at most 1 \
(config.data.max_unreadable): a.jpg, b.jpg (it is cut)
  """

  def __init__(self, limit: int):
    """Begins with none."""
    self._limit = limit
    self._names: dict[str, None] = {}  # In the order in which they were met.
    self._lock = threading.Lock()

  @property
  def names(self) -> tuple[str, ...]:
    """Those that were met, each once."""
    with self._lock:
      return tuple(self._names)

  def add(self, name: str, error: Exception) -> None:
    """Counts an image, and warns of it when it is met for the first time."""
    with self._lock:
      is_new = name not in self._names
      self._names[name] = None
      names = list(self._names)
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if len(names) > self._limit:
      shown = ', '.join([*names[:2], *names[2:][-1:]])
      raise ValueError(
        f'{len(names)} image(s) cannot be read, wanted at most {self._limit}'
        f' (config.data.max_unreadable): {shown} ({reason})'
      )
    if is_new:
      logging.warning(
        'skipped, %d of at most %d: %s: %s',
        len(names),
        self._limit,
        name,
        reason,
      )
